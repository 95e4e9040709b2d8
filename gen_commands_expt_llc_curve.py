"""Write the commands of a sweep of `expt_llc_curve.py`: every combination of the lists in `config`.

    python gen_commands_expt_llc_curve.py outputs/momentum.txt --sweep momentum

`--sweep` puts one of the paper's sweeps in place of what `config` says about those keys. The same
lists give the same file, byte for byte.
"""

import sys
from collections.abc import Sequence

from llc.commands.generating import arguments, deliver, observer
from llc.commands.lines import command, grid

EXPT_NAME = "llc_curve"
MONGO_SERVER = "localhost:27017"

config = {
    "sgld_config.epsilon": [2e-7],
    "sgld_config.gamma": [1.0],
    "sgld_config.num_steps": [5000],
    "sgld_config.num_chains": [1],
    "sgld_config.batch_size": [2048],
    "loss_trace_minibatch": [True],
    "model_data_config.model_name": ["resnet18"],
    "model_data_config.data_name": ["cifar10"],
    "model_data_config.label_noise_level": [None],
    "model_data_config.layer_width_factor": [64],
    "training_config.optim": ["sgd"],
    "training_config.learning_rate": [0.005],
    "training_config.momentum": [None],
    "training_config.batch_size": [512],
    "training_config.num_steps": [30_001],
    "training_config.l2_regularization": [None],
    "force_realisable": [False],
    "logging_period": [1000],
    "seed": [0, 1, 2, 3, 4],
}

SWEEPS = {
    "learning_rate": {"training_config.learning_rate": [0.005, 0.01, 0.05, 0.1, 0.2]},
    "batch_size": {
        "training_config.learning_rate": [0.01],
        "training_config.batch_size": [16, 32, 64, 128, 256, 512, 1024],
    },
    "momentum": {
        "training_config.momentum": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
    },
    "l2": {
        "sgld_config.epsilon": [5e-8],
        "training_config.l2_regularization": [0.0, 0.01, 0.025, 0.05, 0.075, 0.1],
    },
}


def commands(sweep: str | None = None, kind: str = "files") -> list[str]:
    """A command per combination; Adam has no momentum, and such combinations are left out."""
    name = f"{EXPT_NAME}_{sweep}" if sweep else EXPT_NAME
    options = observer(kind, name, MONGO_SERVER)
    return [
        command("expt_llc_curve.py", options, {"expt_name": name, **chosen})
        for chosen in grid({**config, **SWEEPS.get(sweep, {})})
        if not (chosen["training_config.optim"] == "adam" and chosen["training_config.momentum"])
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the commands."""
    parser = arguments(__doc__)
    parser.add_argument("--sweep", choices=SWEEPS, help="one of the paper's sweeps, by its key")
    chosen = parser.parse_args(argv)
    return deliver(commands(chosen.sweep, chosen.observer), chosen.path, bool(chosen.overwrite))


if __name__ == "__main__":
    sys.exit(main())
