"""The full-size command files, into `outputs/paper/`, and the time they take.

    python -m studies.paper

The hours are steps times the cost of a step as it was measured on two cores, and no more than that:

- linear networks: 0.11 ms a chain-step with 1,000 parameters, 1 ms with 20,000 (docs/exact.md),
  4.3 ms with 756,000 (W2 in benchmarks/results.md); in between by powers, beyond in proportion;
- ResNet18: 18.4 ms at width 16 and batches of 128 (benchmarks/resnet.md), in proportion to
  width² and batch;
- perceptrons: 1 ns a weight and example (docs/rescaling.md), at least 0.1 ms a step.

Where companion chains check an estimate they cost 1.4 chains more. A GPU is faster. Queues,
slower nodes and restarts are not in it.
"""

import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import expt_dln
import expt_dln_saddle_dynamics
import expt_llc_curve
import expt_rescaling_invariance
import expt_sampler_benchmark
import gen_commands_expt_dln as dln
import gen_commands_expt_dln_saddle_dynamics as saddle
import gen_commands_expt_llc_curve as curve
import gen_commands_expt_rescaling_invariance as rescaling
import gen_commands_expt_sampler_benchmark as benchmark
from llc.commands import files
from llc.companions import COMPANIONS, COOLING
from llc.config.shared import count_checkpoints
from llc.tracking import planned

ROOT = Path(__file__).parents[1]
TARGET = Path("outputs") / "paper"
BESIDE = COMPANIONS * sum(share for _, share in COOLING)  # companion chains of full length
LEAST = 1e-4  # seconds of the smallest step
LINEAR = {1e3: 1.1e-4, 2e4: 1e-3, 7.56e5: 4.3e-3}  # parameters: seconds
RESNET = 18.4e-3 / 16**2 / 128
PERCEPTRON = 1e-9

Config = Mapping[str, Any]


def linear_step(widths: list[int]) -> float:
    """Seconds of a chain-step of a linear network."""
    size, largest = _weights(widths), max(LINEAR)
    if size > largest:
        return LINEAR[largest] * size / largest
    return float(np.exp(np.interp(np.log(size), np.log([*LINEAR]), np.log([*LINEAR.values()]))))


def network_seconds(config: Config) -> float:
    """Of a run of `expt_dln.py`: two estimates with companions, and a training."""
    step = linear_step([config["input_dim"], *config["layer_widths"]])
    sampled = config["sgld_config"]["num_steps"] * _chains(config)
    trained = config["training_config"]["num_steps"] if config["do_training"] else 0
    return step * (sampled * (2 if config["do_training"] else 1) + trained)


def saddle_seconds(config: Config) -> float:
    """Of a training, and a short chain at every checkpoint."""
    hidden, end = [config["width"]] * config["num_hidden_layers"], config["in_out_dim"]
    step = linear_step([end, *hidden, end])
    return step * (config["training_config"]["num_steps"] + _checkpoint_steps(config))


def curve_seconds(config: Config) -> float:
    """Of a classifier's training, and chains at every checkpoint."""
    example = RESNET * config["model_data_config"]["layer_width_factor"] ** 2
    training, sampling = config["training_config"], config["sgld_config"]
    trained = training["num_steps"] * training["batch_size"]
    return example * (trained + _checkpoint_steps(config) * sampling["batch_size"])


def rescaling_seconds(config: Config) -> float:
    """Of every copy and mode, without companions."""
    sampling, copies = config["sgld_config"], config["num_scales"] * len(config["modes"])
    step = PERCEPTRON * _weights(config["widths"]) * sampling["batch_size"]
    return step * sampling["num_steps"] * sampling["num_chains"] * copies


def benchmark_seconds(config: Config) -> float:
    """Of one sampler on one perceptron, with companions."""
    problem, sampling = config["problem_config"], config["sgld_config"]
    whole = config["sampler_config"]["name"] != "sgld"
    batch = problem["num_training_data"] if whole else sampling["batch_size"]
    step = max(LEAST, PERCEPTRON * problem["target_params"] * batch)
    return step * sampling["num_steps"] * _chains(config)


def _weights(widths: list[int]) -> int:
    return sum(a * b for a, b in pairwise(widths))


def _chains(config: Config) -> float:
    return config["sgld_config"]["num_chains"] + BESIDE


def _checkpoint_steps(config: Config) -> float:
    """Chain-steps at all checkpoints; both scripts sample them without companions."""
    steps, every = config["training_config"]["num_steps"], config["logging_period"]
    chains = config["sgld_config"]["num_steps"] * config["sgld_config"]["num_chains"]
    return count_checkpoints(steps, every) * chains


EXPERIMENTS: dict[str, tuple[Any, Callable[[Config], float]]] = {
    "expt_dln.py": (expt_dln.ex, network_seconds),
    "expt_dln_saddle_dynamics.py": (expt_dln_saddle_dynamics.ex, saddle_seconds),
    "expt_llc_curve.py": (expt_llc_curve.ex, curve_seconds),
    "expt_rescaling_invariance.py": (expt_rescaling_invariance.ex, rescaling_seconds),
    "expt_sampler_benchmark.py": (expt_sampler_benchmark.ex, benchmark_seconds),
}


def command_files() -> dict[str, list[str]]:
    """The lines of every file, by its name."""
    study = ROOT / "studies" / "mala_vs_sgld_full.yaml"
    return {
        **{f"dln_{size}": dln.commands(size) for size in dln.SIZE_CLASSES},
        "dln_saddle_dynamics": saddle.commands(),
        **{f"llc_curve_{sweep}": curve.commands(sweep) for sweep in curve.SWEEPS},
        "rescaling_invariance": rescaling.commands(),
        study.stem: benchmark.commands(study),
    }


def hours(line: str) -> float:
    """What a line takes, by the rules above."""
    _, script, *arguments = files.words(line, 1)
    ex, seconds = EXPERIMENTS[script]
    config, _ = planned(ex, [script, *arguments])
    return seconds(config) / 3600


def main() -> int:
    """Write the files and the table."""
    table = [("file", "lines", "longest line, h", "all lines, h")]
    for name, lines in command_files().items():
        path = TARGET / f"{name}.txt"
        files.write(lines, path, overwrite=True)
        costs = [hours(line) for line in lines]
        table.append((str(path), str(len(lines)), f"{max(costs):.2g}", f"{sum(costs):,.3g}"))
    for row in table:
        print(f"{row[0]:<44}{row[1]:>6}{row[2]:>18}{row[3]:>16}")
    print("on two cores, from steps and measured step costs; a file as a SLURM array:")
    print(f"  {files.submission(TARGET / 'dln_1k.txt', dln.NUM_SEEDS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
