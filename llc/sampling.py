"""The only sampling loop: chains -> Trace.

Work is cut into blocks of K steps. A block's randomness and minibatches are prepared in one go,
its K steps are a handful of operations each, and what it measured goes into preallocated traces:
nothing inside a step waits for the device. For small models a second thread prepares the next
block while this one runs; large models split their chains over threads instead.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from threading import Event
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from llc.models.base import LossBlock, block_steps
from llc.params import Params, Stack, select
from llc.posterior import LocalPosterior
from llc.samplers.base import Block, Sampler
from llc.streams import NormalSource, ShuffledBatches, Stream
from llc.trace import Recorder, Trace, join

SMALL = 10_000  # parameters in the stack below which a step is too short to share among threads
LOOK_STEPS = 120  # how often divergence is looked for, at most

Build = Callable[[LocalPosterior], Sampler]


@dataclass(frozen=True)
class Schedule:
    """How long to sample, on what, and what to keep."""

    num_steps: int
    batch_size: int  # n: full-data gradients, and no batch is drawn
    thin: int = 1  # keep every `thin`-th draw
    shared_batches: bool = False  # one minibatch for all chains instead of one each
    full_data_trace: bool = False  # trace L_n(w_t) instead of the minibatch loss
    distances: bool = False  # trace ‖w_t − w*‖


def sample(
    posterior: LocalPosterior,
    build: Build,
    schedule: Schedule,
    streams: Sequence[Stream],
    *,
    start: Params | None = None,
    label: str | None = None,
) -> Trace:
    """Run every chain, from its centre or from `start` (C, *shape), and return what it left behind.

    `build(posterior)` makes the sampler; `streams` names each chain's random stream. Neither the
    number of chains in a stack nor the number of threads changes a chain's result beyond rounding.
    With a `label`, a progress bar of that name on a terminal.
    """
    started = perf_counter()
    small = _is_small(posterior)
    parts = [slice(0, posterior.chains)] if small else _thread_parts(posterior)
    threads = max(1, torch.get_num_threads() // len(parts))
    stop = Event()
    silent = None if label else True  # None: only where stderr is no terminal
    bar = tqdm(total=schedule.num_steps, unit="step", desc=label, disable=silent)

    def run(part: slice) -> Trace:
        watch = bar if part.start == 0 else None
        own = posterior if len(parts) == 1 else posterior.select(part)
        where = None if start is None else select(start, part)
        try:
            return _run(own, build, schedule, streams[part], where, small, stop, watch)
        except BaseException:
            stop.set()  # the other groups need not go on
            raise

    with bar, _intra_op_threads(torch.get_num_threads()):
        if len(parts) == 1:
            traces = [run(parts[0])]
        else:
            with _pool(len(parts), threads) as pool:
                try:
                    traces = list(pool.map(run, parts))
                finally:
                    stop.set()  # an interrupt must not leave the other groups running
    return join(traces, perf_counter() - started)


@torch.no_grad()
def _run(
    posterior: LocalPosterior,
    build: Build,
    schedule: Schedule,
    streams: Sequence[Stream],
    where: Params | None,
    ahead: bool,
    stop: Event,
    bar: "tqdm[int] | None",
) -> Trace:
    """One stack, start to end (or until every chain has diverged)."""
    sampler = build(posterior)
    recorder = Recorder(
        posterior, schedule.num_steps, schedule.thin, schedule.full_data_trace, schedule.distances
    )
    start = posterior.centre if where is None else posterior.layout.pack(where)
    state = sampler.init(start)
    next_look = LOOK_STEPS
    with _intra_op_threads(1 if ahead else torch.get_num_threads()):
        for block in _Feed(posterior, sampler, schedule, streams).blocks(ahead=ahead):
            state, info = sampler.advance(state, block)
            recorder.write(start, block, info)
            start = block.positions[-1]
            if bar is not None:
                bar.update(len(block.positions))
            if stop.is_set():
                break
            if recorder.done >= next_look:
                next_look = recorder.done + LOOK_STEPS
                if recorder.all_diverged():
                    break
    return recorder.trace(schedule.batch_size)


class _Feed:
    """Prepares blocks, in turn, in a ring of slots that are allocated once."""

    def __init__(
        self,
        posterior: LocalPosterior,
        sampler: Sampler,
        schedule: Schedule,
        streams: Sequence[Stream],
    ) -> None:
        layout, like = posterior.layout, posterior.centre.flat
        self.layout, self.noise, self.num_steps = layout, sampler.noise, schedule.num_steps
        # On CUDA the normals depend on how many are drawn at once: there K must not depend on the
        # stack, nor on the length of the run.
        chains = posterior.chains if like.device.type == "cpu" else 1
        self.steps = block_steps(posterior.loss, schedule.batch_size, chains)
        self.normals = NormalSource(streams, layout.size, self.steps, like)
        self.indices: ShuffledBatches | None = None
        if schedule.batch_size < posterior.loss.num_examples:
            keys = list(streams)
            if schedule.shared_batches:  # the chains of one seed share a stream, wherever they run
                keys = [stream._replace(chain=0) for stream in streams]
                keys = keys[:1] if len(set(keys)) == 1 else keys
            self.indices = ShuffledBatches(
                keys, posterior.loss.num_examples, schedule.batch_size, like.device
            )
        self.posterior, self.like = posterior, like

    def blocks(self, *, ahead: bool) -> Iterator[Block]:
        """Every block; with `ahead`, the next is prepared on another thread meanwhile.

        A block is valid until two more have been asked for: its last position is where the next
        one starts.
        """
        lengths = [self.steps] * (self.num_steps // self.steps)
        if self.num_steps % self.steps:
            lengths.append(self.num_steps % self.steps)
        slots = [self._slot() for _ in range(min(3 if ahead else 2, len(lengths)))]
        turns = [(slots[i % len(slots)], length) for i, length in enumerate(lengths)]
        if not ahead:
            yield from (self._prepare(*turn) for turn in turns)
            return
        with _pool(1, threads=1) as worker:
            pending = worker.submit(self._prepare, *turns[0])
            for turn in turns[1:]:
                block = pending.result()
                pending = worker.submit(self._prepare, *turn)
                yield block
            yield pending.result()

    def _slot(self) -> "_Slot":
        flat = self.like.new_empty(self.steps, self.layout.total)
        return _Slot(
            flat, [self.layout.stack(row) for row in flat], self.posterior.block(self.steps)
        )

    @torch.no_grad()
    def _prepare(self, slot: "_Slot", steps: int) -> Block:
        rows = self.normals.draw(self.steps)[:, :steps]
        self.layout.scatter(rows, slot.flat[:steps], self.noise.shift, self.noise.scale)
        slot.batches.load(steps, None if self.indices is None else self.indices.draw(steps))
        return Block(slot.positions[:steps], slot.flat[:steps], slot.batches)


class _Slot(NamedTuple):
    """Room for one block."""

    flat: Tensor  # (K, total): noise on arrival, the trajectory afterwards
    positions: list[Stack]
    batches: LossBlock


def _is_small(posterior: LocalPosterior) -> bool:
    return posterior.centre.flat.device.type == "cpu" and posterior.layout.total < SMALL


def _thread_parts(posterior: LocalPosterior) -> list[slice]:
    """How the chains are split over threads, on the CPU."""
    on_cpu = posterior.centre.flat.device.type == "cpu"
    threads = torch.get_num_threads() if on_cpu else 1
    groups = min(threads, posterior.chains)
    edges = [posterior.chains * i // groups for i in range(groups + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Worker threads with that many intra-op threads each."""
    return ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))


@contextmanager
def _intra_op_threads(count: int) -> Iterator[None]:
    """Set the count inside, and put it back afterwards.

    Part of it (MKL's) is global: what a worker thread sets would outlive the worker.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
