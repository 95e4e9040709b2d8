"""Data that do not fit in memory: examples are fetched when a step or a pass needs them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from copy import copy
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from llc.library.arrays import check_counts, whole, words
from llc.library.data import (
    KINDS,
    Examples,
    Source,
    Unpack,
    collated,
    has_indices,
    in_order,
    tensors_of,
    unpacked,
)
from llc.library.tokens import has_tokens, unpack_tokens

Fetch = Callable[[list[int]], Any]  # indices -> a collated batch of those examples


class Streamed:
    """Like `Examples`, but fetched by index every time; only what is asked for is in memory."""

    def __init__(self, fetch: Callable[[list[int]], Examples], number: int) -> None:
        self._fetch, self.number = fetch, number
        self._lock = Lock()  # chains on several threads ask, and a data set may be no good at that
        self._place: tuple[torch.device, torch.dtype] | None = None
        self._numbers = self._at([0]).numbers()

    def numbers(self) -> int:
        """Of one example, inputs and targets together."""
        return self._numbers

    def to(self, device: torch.device, dtype: torch.dtype) -> "Streamed":
        """The same examples, going elsewhere when they come."""
        other = copy(self)
        other._place = device, dtype
        return other

    def parts(self, size: int) -> Iterator[Examples]:
        """All of them in order, `size` at a time."""
        for start in range(0, self.number, size):
            yield self._at(list(range(start, min(start + size, self.number))))

    def rows(self, indices: Tensor, like: Tensor, room: Examples | None = None) -> Examples:
        """Those at `indices` (K, S, B) -> (K, S, B, …), numbers in the precision of `like`.

        room: as in `Examples.rows`.
        """
        distinct, places = torch.unique(indices.flatten(), return_inverse=True)
        found = self._at(distinct.tolist()).to(like.device, like.dtype)
        return found.rows(places.view(indices.shape), like, room)

    def _at(self, indices: list[int]) -> Examples:
        with self._lock, own_randomness():
            found = self._fetch(indices)
        if found.number != len(indices):
            raise ValueError(
                f"data: gave {found.number} examples for {len(indices)} indices: a collate_fn that "
                "leaves some out cannot be streamed"
            )
        return found if self._place is None else found.to(*self._place)


def streamed(data: Any, unpack: Unpack | None, takes_mask: bool) -> Source:
    """`data` as examples that are fetched by index; arguments as for `data.read`.

    Raises: TypeError or ValueError for data without indices, of another structure, or that come
        out different each time.
    """
    fetch, number, batch_size = _by_index(data)
    if number < 2:
        raise ValueError("data: is empty or a single example: give at least two")
    with own_randomness():
        tokens = unpack is None and has_tokens(fetch([0]))

    def examples(indices: list[int]) -> Examples:
        batch = fetch(indices)
        return tensors_of(
            *(unpack_tokens(batch, takes_mask) if tokens else unpacked(batch, unpack))
        )

    with own_randomness():
        one, again = (tree_flatten(examples([0]))[0] for _ in range(2))
    if not all(torch.equal(a, b) for a, b in zip(one, again, strict=True)):
        raise ValueError(
            "data: example 0 comes out different each time (augmentation?), and streamed examples "
            "are fetched again and again: switch it off, or leave stream out"
        )
    return Source(Streamed(examples, number), batch_size, tokens)


def own_randomness() -> AbstractContextManager[None]:
    """Items may draw random numbers; torch's global generator stays as it was."""
    return torch.random.fork_rng(devices=[])


def _by_index(data: Any) -> tuple[Fetch, int, int | None]:
    """A way to fetch examples by index, their number, and the batch size of a DataLoader."""
    if isinstance(data, DataLoader):
        iterable = isinstance(data.dataset, IterableDataset) or data.batch_size is None
        if iterable or not in_order(data):
            raise ValueError(
                "stream=True: this DataLoader decides itself what comes next, and every chain "
                "draws examples of its own by index: give its data set, or leave stream out"
            )
        fetch, number, _ = _by_index(data.dataset)
        dataset: Any = data.dataset
        if data.collate_fn is not torch.utils.data.default_collate:
            collate = data.collate_fn
            return lambda at: collate([dataset[i] for i in at]), number, data.batch_size
        return fetch, number, data.batch_size
    if isinstance(data, TensorDataset):
        data = data.tensors
    if whole(data):
        number = check_counts(data)
        return lambda at: tree_map(lambda one: torch.as_tensor(one[at]), data), number, None
    if isinstance(data, IterableDataset):
        raise ValueError(
            "stream=True: an IterableDataset has no indices, and every chain draws examples of its "
            "own by index: give a data set with __getitem__, or leave stream out to hold it in "
            "memory"
        )
    items: Sequence[Any] = data
    if not has_indices(data):
        raise TypeError(f"stream=True: data={words(data)}: must be {KINDS}, and have indices")
    return lambda at: collated([items[i] for i in at]), len(items), None
