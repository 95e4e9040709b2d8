"""Write the commands of a sweep of `expt_dln.py`: λ̂ against λ on random deep linear networks.

    python gen_commands_expt_dln.py outputs/dln_100k.txt --size-class 100k

Depth and widths are uniform in their ranges. Without PATH the commands run here, MAX_WORKERS at a
time. The constants below are those of the paper's largest sweep, the size classes those of its
smaller ones; the same constants give the same file, byte for byte.
"""

import sys
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from llc.commands.generating import arguments, deliver, observer
from llc.commands.lines import command, draws
from llc.commands.running import run_all

EXPT_NAME = "dln"
MONGO_SERVER = "localhost:27017"
NUM_SEEDS = 100  # commands; the k-th has seed k − 1
DRAW_SEED = 0  # of the depths and widths
MAX_WORKERS = 6

SGLD_EPSILON = 5e-9
SGLD_NUMSTEPS = 200_000
SGLD_BATCH_SIZE = 500
SGLD_GAMMA = 1.0
SGLD_NUM_CHAINS = 1
PROP_RANK_REDUCE = 0.5
NUMTRAININGDATA = 1_000_000
TRUE_PARAM_METHOD = "rand_rank"
DO_TRAINING = True
TRAINING_OPTIM = "sgd"
TRAINING_LEARNING_RATE = 0.01
TRAINING_BATCH_SIZE = 500
TRAINING_NUMSTEPS = 50_000
DO_FUNCTIONAL_RANK = False
DO_HESSIAN_TRACE = False
WIDTHMIN, WIDTHMAX = 1000, 2000
NLAYERMIN, NLAYERMAX = 25, 50


class Size(NamedTuple):
    """What differs between sweeps of networks of different size."""

    layers: tuple[int, int] = (NLAYERMIN, NLAYERMAX)
    widths: tuple[int, int] = (WIDTHMIN, WIDTHMAX)
    epsilon: float = SGLD_EPSILON
    num_steps: int = SGLD_NUMSTEPS
    num_data: int = NUMTRAININGDATA


SIZE_CLASSES = {
    "1k": Size((2, 5), (5, 50), 5e-7, 10_000, 100_000),
    "10k": Size((2, 10), (5, 100), 5e-7, 10_000, 100_000),
    "100k": Size((2, 10), (50, 500), 1e-7, 50_000, 1_000_000),
    "1M": Size((2, 20), (100, 1000), 2e-8, 50_000, 1_000_000),
    "10M": Size((2, 20), (500, 2000), 2e-8, 50_000, 1_000_000),
    "100M": Size((2, 40), (500, 3000), 2e-8, 50_000, 1_000_000),
}


def commands(
    size_class: str | None = None, kind: str = "files", seed: int = DRAW_SEED
) -> list[str]:
    """NUM_SEEDS commands, of the constants above or of a size class, each with its own seed."""
    name = f"{EXPT_NAME}_{size_class}" if size_class else EXPT_NAME
    size = SIZE_CLASSES[size_class] if size_class else Size()
    options = observer(kind, name, MONGO_SERVER)
    return [
        command("expt_dln.py", options, {"expt_name": name, **config, "seed": k})
        for k, config in enumerate(draws(lambda random: draw(random, size), NUM_SEEDS, seed))
    ]


def draw(random: Random, size: Size) -> dict:
    """The configuration of one random network."""
    depth = random.randint(*size.layers)
    input_dim, *layer_widths = (random.randint(*size.widths) for _ in range(depth + 1))
    return {
        "num_training_data": size.num_data,
        "layer_widths": layer_widths,
        "input_dim": input_dim,
        "true_param_config.method": TRUE_PARAM_METHOD,
        "true_param_config.prop_rank_reduce": PROP_RANK_REDUCE,
        "sgld_config.epsilon": size.epsilon,
        "sgld_config.num_steps": size.num_steps,
        "sgld_config.gamma": SGLD_GAMMA,
        "sgld_config.num_chains": SGLD_NUM_CHAINS,
        "sgld_config.batch_size": SGLD_BATCH_SIZE,
        "do_training": DO_TRAINING,
        "training_config.optim": TRAINING_OPTIM,
        "training_config.learning_rate": TRAINING_LEARNING_RATE,
        "training_config.batch_size": TRAINING_BATCH_SIZE,
        "training_config.num_steps": TRAINING_NUMSTEPS,
        "do_functional_rank": DO_FUNCTIONAL_RANK,
        "do_hessian_trace": DO_HESSIAN_TRACE,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the commands, or run them here."""
    parser = arguments(__doc__, nargs="?")
    parser.add_argument(
        "--size-class", choices=SIZE_CLASSES, help="by number of parameters, as in the paper"
    )
    chosen = parser.parse_args(argv)
    lines = commands(chosen.size_class, chosen.observer)
    if chosen.path is None:
        return run_all(lines, MAX_WORKERS)
    return deliver(lines, chosen.path, bool(chosen.overwrite))


if __name__ == "__main__":
    sys.exit(main())
