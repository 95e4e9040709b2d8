"""What every timed script shares: its arguments, its repeats and its one line of JSON.

A script times at least five repeats after compilation and prints

    {"peer", "workload", "chains", "chain_steps_per_second" (median), "spread" ([min, max]),
     "repeats" (all rates), "compile_seconds", "lambdahat", "peak_memory_mb", "versions",
     "threads"}

`lambdahat` is n*beta times the mean minibatch loss of the last repeat (L_n(w*) = 0 here): the
implementations sample the same posterior, so these have to agree.
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import statistics
from collections.abc import Callable
from importlib import metadata

from benchmarks.workloads import WORKLOADS, Workload

REPEATS = 5


def parser(description: str) -> argparse.ArgumentParser:
    """Returns a parser with the options of all timed scripts."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--workload", choices=sorted(WORKLOADS), default="W1")
    p.add_argument("--chains", type=int, default=8)
    p.add_argument(
        "--seconds", type=float, default=10.0, help="timed seconds, all repeats together"
    )
    p.add_argument("--num-data", type=int, help="another n than the workload's own")
    return p


def workload_of(args: argparse.Namespace) -> Workload:
    """Returns the workload asked for, with the n asked for (and ε·nβ as it was)."""
    workload = WORKLOADS[args.workload]
    if args.num_data is not None:
        other = dataclasses.replace(workload, num_data=args.num_data)
        epsilon = workload.epsilon * workload.nbeta / other.nbeta
        workload = dataclasses.replace(other, epsilon=epsilon)
    return workload


def available_threads() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def rates(seconds_of: Callable[[], float], chain_steps: int, repeats: int = REPEATS) -> list[float]:
    """Returns chain-steps per second of each repeat.

    Args:
        seconds_of: runs one repeat and returns the seconds it took.
        chain_steps: chain-steps in a repeat.
        repeats: how many.
    """
    return [chain_steps / seconds_of() for _ in range(repeats)]


def print_result(
    peer: str,
    workload: Workload,
    chains: int,
    measured: list[float],
    compile_seconds: float,
    lambdahat: float,
    packages: tuple[str, ...],
    **more: object,
) -> None:
    """Prints the line of JSON; `more` adds fields of a script's own."""
    versions = {name: metadata.version(name) for name in packages}
    result = {
        "peer": peer,
        "workload": workload.name,
        "chains": chains,
        "chain_steps_per_second": statistics.median(measured),
        "spread": [min(measured), max(measured)],
        "repeats": measured,
        "compile_seconds": compile_seconds,
        "lambdahat": lambdahat,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "versions": {"python": platform.python_version(), **versions},
        "threads": available_threads(),
    }
    print(json.dumps(result | more), flush=True)
