"""The problems of the exact samplers' benchmark, and what ours and the peer's programs share.

Only `problem_of` needs llc: the peer reads a problem from the file that `write` leaves.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np

GAMMA = 10.0
WARM_UP = {"hmc": 200, "nuts": 200, "mclmc": 3000}
MAX_DEPTH = 8  # doublings of NUTS
SAMPLERS = tuple(WARM_UP)
PROBLEMS = {
    "relu_mlp": {"target_params": 1000, "num_training_data": 1000},
    "tanh_mlp": {"target_params": 1000, "num_training_data": 1000},
    "dln": {"target_params": 1000, "num_training_data": 1000},
    "reduced_rank": {"target_params": 1000, "num_training_data": 1000},
    "quadratic": {"target_params": 100, "num_training_data": 1000},
}
LINEAR = ("dln", "reduced_rank")


def temperature(problem) -> float:
    """Returns nβ = n/log n."""
    return problem.num_training_data / math.log(problem.num_training_data)


def problem_of(name: str):
    """Returns the problem in float64."""
    from llc import problems

    return problems.make(name, **PROBLEMS[name])


def write(name: str, path: Path) -> str:
    """Leaves a problem's data, w* and nβ in a file; returns its description."""
    problem = problem_of(name)
    loss, arrays = problem.loss, {"nbeta": np.array(temperature(problem))}
    if name == "quadratic":
        low, high = math.log10(0.01), 0.0
        arrays["curvatures"] = np.logspace(low, high, problem.num_params)
    elif name in LINEAR:
        arrays["inputs"] = loss.inputs.numpy()
        arrays["targets"] = (loss.inputs @ loss.teacher[0].mT).numpy()
    else:
        arrays["inputs"], arrays["targets"] = loss.inputs.numpy(), loss.targets[0].numpy()
    leaves = {f"w*{leaf}": value.numpy() for leaf, value in problem.centre.items()}
    np.savez(path, **arrays, **leaves)
    return problem.description


def arguments(doc: str) -> argparse.Namespace:
    """Returns the options of a program that measures one sampler on one problem."""
    p = argparse.ArgumentParser(description=doc.splitlines()[0])
    p.add_argument("--problem", choices=PROBLEMS, required=True)
    p.add_argument("--file", type=Path, help="the problem, as `write` left it (peer)")
    p.add_argument("--sampler", choices=SAMPLERS, required=True)
    p.add_argument("--chains", type=int, default=4)
    p.add_argument("--seconds", type=float, default=5.0, help="of draws after the warm-up")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--draws-to", type=Path, required=True, help="where to leave nβ(L − L*)")
    return p.parse_args()


def report(args: argparse.Namespace, values: np.ndarray, **measured: object) -> None:
    """Leaves the energies (chains, draws) in a file and prints the line of JSON."""
    np.save(args.draws_to, values)
    print(json.dumps({"draws": values.shape[1], **measured}))
