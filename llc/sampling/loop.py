"""Runs stacks of chains block by block."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from tqdm import tqdm

from llc.checkpoints import Keeper
from llc.params import Params, select
from llc.posterior import LocalPosterior
from llc.samplers.base import Sampler
from llc.sampling.feed import Feed, Halt, Schedule
from llc.sampling.threads import intra_op_threads, is_small, pool, thread_parts
from llc.streams import Stream
from llc.trace import Recorder, Trace, join

LOOK_STEPS = 120  # how often divergence is looked for, at most

Build = Callable[[LocalPosterior], Sampler]


def sample(
    posterior: LocalPosterior,
    build: Build,
    schedule: Schedule,
    streams: Sequence[Stream],
    *,
    start: Params | None = None,
    label: str | None = None,
    keeper: Keeper | None = None,
    name: str = "chains",
) -> Trace:
    """Run every chain, from its centre or from `start` (C, *shape), and return what it left behind.

    `build(posterior)` makes the sampler; `streams` names each chain's random stream. Neither the
    number of chains in a stack nor the number of threads changes a chain's result beyond rounding.
    With a `label`, a progress bar of that name on a terminal. A `keeper` gets the state of the
    chains under `name`, and what an earlier run left there is taken up.
    """
    keeper = keeper or Keeper()
    left = keeper.left(name) or {"seconds": 0.0, "groups": []}
    started = perf_counter() - left["seconds"]
    small = is_small(posterior, schedule.batch_size)
    parts = [slice(0, posterior.chains)] if small else thread_parts(posterior)
    if left["groups"]:  # as they were cut up, whatever threads there are now
        parts = [slice(*ends) for ends in left["parts"]]
    groups = [
        _Chains(
            posterior if len(parts) == 1 else posterior.select(part),
            build,
            schedule,
            streams[part],
            None if start is None else select(start, part),
            small,
        )
        for part in parts
    ]
    if left["groups"]:
        for group, own in zip(groups, left["groups"], strict=True):
            group.restore(own)

    def state() -> dict[str, Any]:
        seconds = perf_counter() - started
        return {
            "seconds": seconds,
            "parts": [[part.start, part.stop] for part in parts],
            "groups": [group.state() for group in groups],
        }

    silent = None if label else True  # None: only where stderr is no terminal
    bar = tqdm(
        total=schedule.num_steps,
        initial=groups[0].recorder.done,
        unit="step",
        desc=label,
        disable=silent,
        leave=None,  # below the bar of a training it goes when it is done
    )
    threads = torch.get_num_threads()
    with (
        bar,
        intra_op_threads(threads),
        pool(len(groups), max(1, threads // len(groups))) as workers,
        keeper.holding(name, state),
    ):
        while not all(group.finished for group in groups):
            _advance_all(groups, keeper.pausing, bar, workers)
            keeper.tick()
    return join([group.trace() for group in groups], perf_counter() - started)


def _advance_all(
    groups: "list[_Chains]", pausing: Halt, bar: "tqdm[int]", workers: ThreadPoolExecutor
) -> None:
    """Every group of chains, side by side, up to its end or until it is time to pause."""
    if len(groups) == 1:
        groups[0].advance(pausing, bar)
        return
    stop = Event()  # an error or an interrupt must not leave the other groups running

    def halt() -> bool:
        return stop.is_set() or pausing()

    def advance(group: _Chains, watch: "tqdm[int] | None") -> None:
        try:
            group.advance(halt, watch)
        except BaseException:
            stop.set()
            raise

    try:
        list(workers.map(advance, groups, [bar] + [None] * (len(groups) - 1)))
    finally:
        stop.set()


class _Chains:
    """One stack of chains under way."""

    def __init__(
        self,
        posterior: LocalPosterior,
        build: Build,
        schedule: Schedule,
        streams: Sequence[Stream],
        where: Params | None,
        ahead: bool,
    ) -> None:
        self.posterior, self.schedule, self.ahead = posterior, schedule, ahead
        self.sampler = build(posterior)
        self.feed = Feed(posterior, self.sampler, schedule, streams, ahead=ahead)
        self.recorder = Recorder(
            posterior,
            schedule.num_steps,
            schedule.thin,
            schedule.full_data_trace,
            schedule.distances,
            schedule.coordinates,
            self.sampler.warm_up,
            schedule.observe,
            schedule.ends,
        )
        at = posterior.centre if where is None else posterior.layout.pack(where)
        self.carried = self.sampler.init(at)
        self.next_look = LOOK_STEPS
        self.finished = False

    @torch.no_grad()
    def advance(self, halt: Halt, bar: "tqdm[int] | None") -> None:
        """Block after block, to the end, until every chain has diverged, or until `halt`."""
        if self.finished:  # while other groups go on
            return
        recorder = self.recorder
        with intra_op_threads(1 if self.ahead else torch.get_num_threads()):
            for block in self.feed.blocks(halt):
                start = self.carried.position
                self.carried, info = self.sampler.advance(self.carried, block)
                recorder.write(start, block, info)
                if bar is not None:
                    bar.update(len(block.positions))
                if recorder.done >= self.next_look:
                    self.next_look = recorder.done + LOOK_STEPS
                    if recorder.all_diverged():
                        self.finished = True
                        return
        self.finished = recorder.done == self.schedule.num_steps

    def trace(self) -> Trace:
        return self.recorder.trace(self.schedule.batch_size)

    def state(self) -> dict[str, Any]:
        """Everything that the next block depends on."""
        position, *rest = self.carried
        return {
            "position": position.flat.clone(),
            "carried": tree_flatten(rest)[0],
            "recorder": self.recorder.state(),
            "feed": self.feed.state(),
            "next_look": self.next_look,
            "finished": self.finished,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        own, *rest = self.carried
        position = self.posterior.layout.stack(state["position"].to(own.flat.device))
        values = [
            value.to(own.flat.device) if isinstance(value, Tensor) else value
            for value in state["carried"]
        ]
        rest = tree_unflatten(values, tree_flatten(rest)[1])
        self.carried = type(self.carried)(position, *rest)
        self.recorder.restore(state["recorder"], position)
        self.feed.restore(state["feed"])
        self.next_look, self.finished = state["next_look"], state["finished"]
