"""Runs one of our exact samplers on a benchmark problem and prints one line of JSON.

python -m benchmarks.exact_ours --problem dln --sampler nuts --seconds 20 --draws-to FILE
"""

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Barrier

import numpy as np
import torch
from torch import Tensor

from benchmarks import exact_problems
from llc.params import stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Sampler
from llc.samplers.hmc import hmc, quarter_period
from llc.samplers.mclmc import mclmc
from llc.samplers.nuts import nuts
from llc.sampling import Schedule, sample
from llc.streams import Stream

MOST_STEPS = 1_000_000  # of a chain; the time is over long before
PATIENCE = 600  # seconds that one group of chains waits for the warm-up of another


class TimeOverError(Exception):
    """The draws have had their time."""


def own_leaves(state) -> float | None:
    """Returns the gradients that the chains of NUTS asked for themselves, without their waits."""
    return float(state.leaves.sum()) if hasattr(state, "leaves") else None


class Clock:
    """Builds samplers that keep nβ(L − L*) after their warm-up and end after so many seconds.

    The chains may run in several groups, side by side: the time of all begins when the last of
    them is warm.
    """

    def __init__(self, build: Callable[[LocalPosterior], Sampler], seconds: float) -> None:
        self.build, self.seconds, self.began = build, seconds, 0.0
        self.groups: list[list[Tensor]] = []  # the values of each group, block by block
        self.gradients: list[float] = []  # likewise, of all groups

    def __call__(self, posterior: LocalPosterior) -> Sampler:
        sampler, values, done = self.build(posterior), [], 0
        self.groups.append(values)
        self.together = Barrier(len(self.groups), timeout=PATIENCE)

        def advance(state, block):
            nonlocal done
            warming = sampler.warm_up - done  # steps that are no draws yet
            done += len(block.positions)
            drawing = done > sampler.warm_up
            if drawing and not values:
                self.together.wait()
                self.began = time.perf_counter()
            before = own_leaves(state)
            state, info = sampler.advance(state, block)
            if drawing:
                excess = posterior.nbeta * (info.loss - info.baseline)
                values.append(excess[max(0, warming) :])
                self.gradients.append(
                    info.gradients if before is None else own_leaves(state) - before
                )
                if time.perf_counter() - self.began > self.seconds:
                    raise TimeOverError
            return state, info

        return sampler._replace(advance=advance)

    def draws(self) -> np.ndarray:
        """(C, draws), as many of each chain."""
        groups = [torch.cat(values) for values in self.groups]
        least = min(map(len, groups))
        return torch.cat([values[:least] for values in groups], dim=1).mT.double().numpy()


def build_of(name: str, gamma: float) -> Callable[[LocalPosterior], Sampler]:
    warm_up = exact_problems.WARM_UP[name]
    return {
        "hmc": lambda p: hmc(p, trajectory=quarter_period(gamma), warm_up=warm_up),
        "nuts": lambda p: nuts(p, warm_up=warm_up, max_depth=exact_problems.MAX_DEPTH),
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
    clock = Clock(build_of(args.sampler, gamma), args.seconds)
    schedule = Schedule(MOST_STEPS, problem.num_training_data)
    start = time.perf_counter()
    with suppress(TimeOverError):
        sample(posterior, clock, schedule, streams)
    seconds = time.perf_counter() - clock.began
    exact_problems.report(
        args,
        clock.draws(),
        seconds=seconds,
        warm_up_seconds=clock.began - start,
        gradients=sum(clock.gradients),
        versions={"torch": torch.__version__},
    )


if __name__ == "__main__":
    main()
