"""Runs one of our exact samplers on a benchmark problem and prints one line of JSON.

python -m benchmarks.exact_ours --problem dln --sampler nuts --seconds 20 --draws-to FILE
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import exact_problems
from llc.params import stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Sampler
from llc.samplers.hmc import hmc, quarter_period
from llc.samplers.mclmc import mclmc
from llc.samplers.nuts import nuts
from llc.sampling import Schedule, sample
from llc.streams import Stream

PILOT = {
    "hmc": 20,
    "nuts": 20,
    "mclmc": 640,
}  # draws of the run that tells how many fit in the time


def own_leaves(state) -> float | None:
    """Returns the gradients that the chains of NUTS asked for themselves, without their waits."""
    return float(state.leaves.sum()) if hasattr(state, "leaves") else None


class Clock:
    """When the draws after the warm-up began, and the gradients of each block since."""

    def __init__(self, build: Callable[[LocalPosterior], Sampler]) -> None:
        self.build, self.done, self.began, self.gradients = build, 0, 0.0, 0.0

    def __call__(self, posterior: LocalPosterior) -> Sampler:
        sampler = self.build(posterior)

        def advance(state, block):
            before = own_leaves(state)
            state, info = sampler.advance(state, block)
            self.done += len(block.positions)
            if self.done <= sampler.warm_up:
                self.began = time.perf_counter()
            elif before is None:
                self.gradients += info.gradients
            else:
                self.gradients += own_leaves(state) - before
            return state, info

        return sampler._replace(advance=advance)


def build_of(name: str, gamma: float) -> Callable[[LocalPosterior], Sampler]:
    warm_up = exact_problems.WARM_UP[name]
    return {
        "hmc": lambda p: hmc(p, trajectory=quarter_period(gamma), warm_up=warm_up),
        "nuts": lambda p: nuts(p, warm_up=warm_up),
        "mclmc": lambda p: mclmc(p, warm_up=warm_up),
    }[name]


def main() -> None:
    """Samples, and prints the line of JSON."""
    args = exact_problems.arguments(__doc__)
    problem = exact_problems.problem_of(args.problem)
    nbeta, gamma = exact_problems.temperature(problem), exact_problems.GAMMA
    centre = stack([problem.centre])
    posterior = LocalPosterior.around(problem.loss, centre, nbeta, gamma, args.chains)
    streams = [Stream(args.seed, chain) for chain in range(args.chains)]
    warm_up, n = exact_problems.WARM_UP[args.sampler], problem.num_training_data

    def measured(draws: int) -> tuple[Clock, float, np.ndarray]:
        clock = Clock(build_of(args.sampler, gamma))
        trace = sample(posterior, clock, Schedule(warm_up + draws, n), streams)
        seconds = time.perf_counter() - clock.began
        values = nbeta * (trace.loss - trace.baseline)
        return clock, seconds, values[:, warm_up:].double().numpy()

    few = PILOT[args.sampler]
    _, pilot, _ = measured(few)
    draws = max(few, int(args.seconds / pilot * few))
    start = time.perf_counter()
    clock, seconds, values = measured(draws)
    exact_problems.report(
        args,
        values,
        seconds=seconds,
        warm_up_seconds=time.perf_counter() - start - seconds,
        gradients=clock.gradients,
        versions={"torch": torch.__version__},
    )


if __name__ == "__main__":
    main()
