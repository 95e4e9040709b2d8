"""Prepares blocks: noise and minibatches of K steps in one go."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llc.models.base import LossBlock, block_steps
from llc.params import Params, Stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block, Sampler
from llc.sampling.threads import pool
from llc.streams import NormalSource, ShuffledBatches, Stream, UniformSource

Halt = Callable[[], bool]
Observe = Callable[[Params], Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long to sample, on what, and what to keep."""

    num_steps: int
    batch_size: int  # n: full-data gradients, and no batch is drawn
    thin: int = 1  # keep every `thin`-th draw
    shared_batches: bool = False  # one minibatch for all chains instead of one each
    full_data_trace: bool = False  # trace L_n(w_t) instead of the minibatch loss
    distances: bool = False  # trace ‖w_t − w*‖
    coordinates: int = 0  # trace w_t − w* at so many coordinates
    # Trace (C, M) numbers of leaves (C, *shape); it runs on the threads and devices of the chains.
    observe: Observe | None = None
    ends: bool = True  # keep where the chains end, which is as large as all of them


class Feed:
    """Prepares blocks, in turn, in a ring of slots, each allocated once."""

    def __init__(
        self,
        posterior: LocalPosterior,
        sampler: Sampler,
        schedule: Schedule,
        streams: Sequence[Stream],
        *,
        ahead: bool,
    ) -> None:
        layout, like = posterior.layout, posterior.anchor.flat
        self.layout, self.noise, self.num_steps = layout, sampler.noise, schedule.num_steps
        # On CUDA the normals depend on how many are drawn at once: there K must not depend on the
        # stack, nor on the length of the run.
        chains = posterior.chains if like.device.type == "cpu" else 1
        self.steps = min(
            block_steps(posterior.loss, schedule.batch_size, chains), sampler.longest_block
        )
        self.normals = NormalSource(streams, layout.size, self.steps, like)
        self.uniforms = UniformSource(streams, sampler.uniforms, like.device)
        self.indices: ShuffledBatches | None = None
        if schedule.batch_size < posterior.loss.num_examples:
            keys = list(streams)
            if schedule.shared_batches:  # the chains of one seed share a stream, wherever they run
                keys = [stream._replace(chain=0) for stream in streams]
                keys = keys[:1] if len(set(keys)) == 1 else keys
            self.indices = ShuffledBatches(
                keys, posterior.loss.num_examples, schedule.batch_size, like.device
            )
        self.posterior, self.like, self.ahead = posterior, like, ahead
        self.asked = 0  # steps prepared, or being prepared
        self.turn = 0
        self.slots: list[Slot] = []  # made when first needed
        self.room = min(3 if ahead else 2, -(-self.num_steps // self.steps))

    def blocks(self, halt: Halt) -> Iterator[Block]:
        """The blocks that are left, up to `halt`, but at least one; the next is prepared
        meanwhile with `ahead`.

        A block is valid until the next has been asked for, its positions one block longer: the last
        of them is where the next one starts.
        """
        if not self.ahead:
            while self.asked < self.num_steps:
                yield self._prepare(*self._next())
                if halt():
                    return
            return
        if self.asked == self.num_steps:
            return
        with pool(1, threads=1) as worker:
            pending = worker.submit(self._prepare, *self._next())
            while self.asked < self.num_steps and not halt():
                block = pending.result()
                pending = worker.submit(self._prepare, *self._next())
                yield block
            yield pending.result()

    def _next(self) -> "tuple[Slot, int]":
        """The slot and the length of the next block."""
        length = min(self.steps, self.num_steps - self.asked)
        self.asked += length
        place = self.turn % self.room
        if place == len(self.slots):
            self.slots.append(self._slot())
        self.turn += 1
        return self.slots[place], length

    def state(self) -> dict[str, Any]:
        """Where the random streams stand, between two blocks."""
        batches = None if self.indices is None else self.indices.state()
        return {
            "asked": self.asked,
            "normals": self.normals.state(),
            "uniforms": self.uniforms.state(),
            "batches": batches,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.asked = state["asked"]
        self.normals.restore(state["normals"])
        self.uniforms.restore(state["uniforms"])
        if self.indices is not None:
            self.indices.restore(state["batches"])

    def _slot(self) -> "Slot":
        flat = self.like.new_empty(self.steps, self.layout.total)
        # One block after another, a block's batches are done with when the next one's are drawn.
        one = self.slots and not self.ahead
        batches = self.slots[0].batches if one else self.posterior.block(self.steps)
        return Slot(flat, [self.layout.stack(row) for row in flat], batches)

    @torch.no_grad()
    def _prepare(self, slot: "Slot", steps: int) -> Block:
        noise, flat = self.noise, slot.flat[:steps]
        for chains, first, rows in self.normals.parts(self.steps):
            rows = rows[:, :steps]
            self.layout.scatter(rows, flat, noise.anchor, noise.scale, noise.pull, chains, first)
        slot.batches.load(steps, None if self.indices is None else self.indices.draw(steps))
        uniforms = self.uniforms.draw(steps)
        return Block(slot.positions[:steps], slot.flat[:steps], slot.batches, uniforms)


class Slot(NamedTuple):
    """Room for one block."""

    flat: Tensor  # (K, total): noise on arrival, the trajectory afterwards
    positions: list[Stack]
    batches: LossBlock
