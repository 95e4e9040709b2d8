"""Random streams: one generator per chain and purpose, all derived from one seed.

A stream is named by (seed, chain, purpose); it does not depend on how many chains share a stack,
nor on the block length, so that results do not depend on how the work was cut up.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

PURPOSES = (
    "noise",
    "batches",
    "model",
    "data",
    "tests",
    "training",
    "training_batches",
    "probes",
    "uniforms",
)
ALIGNMENT = 16  # torch fills normals on the CPU in groups of 16; rows of that length never straddle
PIECE = 2**16  # indices permuted at once: caches hold what is in between
PART = 2**19  # normals at once of a single step, where one chain's are not more; whole groups
INDICES = 2**12  # computed at once, at least, up to an epoch's end: few cost as much as so many


class Stream(NamedTuple):
    """The random stream of one chain."""

    seed: int
    chain: int = 0
    phase: int = 0  # of a run that goes through several


def generator(stream: Stream, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose of one stream (NumPy's SeedSequence does the mixing)."""
    key = (stream.chain, stream.phase, PURPOSES.index(purpose))
    state = np.random.SeedSequence(stream.seed, spawn_key=key).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))


@contextmanager
def drawing_from(source: torch.Generator) -> Iterator[None]:
    """Whatever draws from torch's global CPU generator inside draws what `source` determines.

    For code that takes no generator, such as PyTorch's own initialisations. The global generator is
    put back afterwards; no other thread should draw from it meanwhile.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=source, device=source.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach CUDA's too
        yield


def derived_seed(seed: int, index: int) -> int:
    """The seed of part `index` of a run: distinct from other parts', whatever order they run in."""
    state = np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)
    return int(state[0])


class Generators:
    """One generator a chain, for one purpose."""

    def __init__(self, streams: Sequence[Stream], purpose: str, device: torch.device) -> None:
        self.generators = [generator(stream, purpose, device) for stream in streams]

    def state(self) -> list[Tensor]:
        """Where each generator stands."""
        return [source.get_state() for source in self.generators]

    def restore(self, state: list[Tensor]) -> None:
        """Go on from a `state`."""
        for source, where in zip(self.generators, state, strict=True):
            source.set_state(where)


class UniformSource(Generators):
    """`count` uniform numbers a step and chain, in float64, from each chain's own generator."""

    def __init__(self, streams: Sequence[Stream], count: int, device: torch.device) -> None:
        super().__init__(streams if count else [], "uniforms", device)
        self.count, self.device = count, device

    def draw(self, steps: int) -> Tensor | None:
        """(steps, C, count) in [0, 1); None where none are asked for."""
        if not self.count:
            return None
        rows = [
            torch.rand(steps, self.count, generator=source, dtype=torch.float64, device=self.device)
            for source in self.generators
        ]
        return torch.stack(rows, dim=1)


class Normals(NamedTuple):
    """Standard normals of some chains, from their number `first` on."""

    chains: slice
    first: int
    rows: Tensor  # (chains, steps, numbers)


class NormalSource(Generators):
    """Standard normals for K steps of each chain, from that chain's own generator.

    Of a single step they come in parts, so that the room for them does not grow with the model.
    """

    def __init__(self, streams: Sequence[Stream], size: int, steps: int, like: Tensor) -> None:
        super().__init__(streams, "noise", like.device)
        self.width, chains = -(-size // ALIGNMENT) * ALIGNMENT, len(streams)
        if steps == 1:
            chains = min(chains, max(1, PART // self.width))
        numbers = self.width if steps > 1 else min(self.width, PART)
        self.rows = like.new_empty(chains, steps, numbers)
        known: dict[Stream, int] = {}  # the points of a grid have the same streams: drawn once
        self.first = [known.setdefault(stream, i) for i, stream in enumerate(streams)]

    def parts(self, steps: int) -> Iterator[Normals]:
        """All of them, part by part, each valid until the next."""
        group, _, numbers = self.rows.shape
        for begin in range(0, len(self.generators), group):
            sources = self.generators[begin : begin + group]
            for first in range(0, self.width, numbers):
                rows = self.rows[: len(sources), :steps, : self.width - first]
                for i, (row, source) in enumerate(zip(rows, sources, strict=True)):
                    twin = self.first[begin + i] - begin
                    if 0 <= twin < i:
                        row.copy_(rows[twin])
                    else:
                        row.normal_(generator=source)
                yield Normals(slice(begin, begin + len(sources)), first, rows)

    def draw(self, steps: int) -> Tensor:
        """(C, steps, ≥ size), a copy."""
        whole = self.rows.new_empty(len(self.generators), steps, self.width)
        for chains, first, rows in self.parts(steps):
            whole[chains, :, first : first + rows.shape[2]] = rows
        return whole


class ShuffledBatches:
    """Minibatch indices in shuffled epochs, each chain its own; the last partial batch is dropped.

    The permutation of an epoch is a four-round Feistel network on a grid a × a ≥ n with random
    round tables (Luby & Rackoff 1988) and cycle walking (Black & Rogaway 2002): any index of the
    permutation costs O(1) and an epoch O(√n) memory, so that the work of a step does not grow
    with n.
    """

    ROUNDS = 4

    def __init__(
        self,
        streams: Sequence[Stream],
        num_examples: int,
        batch_size: int,
        device: torch.device,
        purpose: str = "batches",
    ) -> None:
        self.n, self.size = num_examples, batch_size
        self.epoch_length = num_examples // batch_size
        self.side = 1 + int((num_examples - 1) ** 0.5)
        self.side += self.side**2 < num_examples
        self.device = device
        self.generators = [generator(stream, purpose, device) for stream in streams]
        self.step = 0
        self.coming = torch.empty(0, len(streams), batch_size, dtype=torch.int32, device=device)
        self.tables = torch.empty(
            len(streams), 0, self.ROUNDS, self.side, dtype=torch.int32, device=device
        )

    def draw(self, steps: int) -> Tensor:
        """Indices (steps, C, B) int32 of the next `steps` minibatches."""
        if steps > len(self.coming):
            self.coming = self._from_here(steps)
        drawn, self.coming = self.coming[:steps], self.coming[steps:]
        self.step += steps
        return drawn

    def state(self) -> dict[str, Any]:
        """Where the epochs and each generator stand."""
        states = [source.get_state() for source in self.generators]
        return {"step": self.step, "tables": self.tables, "generators": states}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.step, self.tables = state["step"], state["tables"].to(self.device)
        self.coming = self.coming[:0]
        for source, where in zip(self.generators, state["generators"], strict=True):
            source.set_state(where)

    def _from_here(self, steps: int) -> Tensor:
        """Indices (≥ steps, C, B) of the next minibatches, of no epoch that is not needed yet."""
        chains = len(self.generators)
        first, last = self.step // self.epoch_length, (self.step + steps - 1) // self.epoch_length
        self._keep_epochs(first, last)
        room = max(steps, INDICES // (chains * self.size))
        steps = min(room, (last + 1) * self.epoch_length - self.step)
        time = torch.arange(self.step, self.step + steps, device=self.device)
        epoch, place = time // self.epoch_length - first, time % self.epoch_length
        epochs, streams = last - first + 1, torch.arange(chains, device=self.device)
        base = (streams * epochs + epoch.unsqueeze(1)) * (self.ROUNDS * self.side)
        index = place.unsqueeze(1) * self.size + torch.arange(self.size, device=self.device)
        shape = (steps, chains, self.size)
        bases = base.int().unsqueeze(2).expand(shape).reshape(-1)
        indices = index.int().unsqueeze(1).expand(shape).reshape(-1)
        pieces = zip(torch.split(indices, PIECE), torch.split(bases, PIECE), strict=True)
        return torch.cat([self._permute(*piece) for piece in pieces]).view(shape)

    def _keep_epochs(self, first: int, last: int) -> None:
        """Round tables (C, epochs first … last, rounds, a); each epoch is drawn once."""
        held = self.tables.shape[1]
        known = min(held, 1 if self.step % self.epoch_length else 0)
        new = last - first + 1 - known
        kept = self.tables[:, held - known :]
        fresh = [
            torch.randint(
                self.side,
                (new, self.ROUNDS, self.side),
                generator=source,
                dtype=torch.int32,
                device=self.device,
            )
            for source in self.generators
        ]
        self.tables = torch.cat([kept, torch.stack(fresh)], dim=1)

    def _permute(self, indices: Tensor, bases: Tensor) -> Tensor:
        result = self._feistel(indices, bases)
        if self.side**2 == self.n:
            return result
        outside = (result >= self.n).nonzero().squeeze(1)
        while len(outside):
            result[outside] = self._feistel(result[outside], bases[outside])
            outside = outside[result[outside] >= self.n]
        return result

    def _feistel(self, indices: Tensor, bases: Tensor) -> Tensor:
        side = self.side
        below = self.tables.flatten() - side
        left = indices.double().div_(side).int()  # exact, and faster than dividing integers
        right = torch.sub(indices, left, alpha=side)
        for turn in range(self.ROUNDS):
            # (T + left) mod side from T − side + left, whose sign bit says whether to add side.
            mixed = below[turn * side :].index_select(0, right + bases).add_(left)
            left, right = right, mixed.add_((mixed >> 31).bitwise_and_(side))
        return torch.add(right, left, alpha=side)
