"""Data of any usual kind -> tensors addressed by index.

Whatever the data come as, they are read once, in order, and held as tensors whose first axis counts
the n examples: a minibatch is then a gather, and each chain draws its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

from llc.library.arrays import check_counts, is_array, whole, words
from llc.library.layout import is_narrow
from llc.library.tokens import collate_tokens, has_tokens, pad_alike, unpack_tokens
from llc.library.words import first_line
from llc.models.base import CACHED
from llc.streams import Stream, drawing_from, generator

AT_ONCE = 256  # items read into one batch, where the data come without batches
KINDS = (
    "a pair (inputs, targets) of tensors, a Dataset, a DataLoader, or a dataset with 'input_ids'"
)

Unpack = Callable[[Any], tuple[Any, Any]]


class Examples(NamedTuple):
    """Inputs and targets: a tensor each, or a tuple or dict of tensors, all (n, …)."""

    inputs: Any
    targets: Any

    @property
    def number(self) -> int:
        """n."""
        return len(self.leaves()[0])

    def map(self, function: Callable[[Tensor], Tensor]) -> "Examples":
        """The same examples with every tensor changed."""
        return Examples(tree_map(function, self.inputs), tree_map(function, self.targets))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Examples":
        """Elsewhere, floating-point numbers in that precision; labels and tokens keep theirs."""
        return self.map(lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype))

    def leaves(self) -> list[Tensor]:
        """Its tensors, one after another."""
        if isinstance(self.inputs, Tensor) and isinstance(self.targets, Tensor):
            return [self.inputs, self.targets]  # at every step: a general flattening takes longer
        return tree_flatten(self)[0]

    def unbind(self) -> list["Examples"]:
        """One for each entry of the first axis."""
        leaves, structure = tree_flatten(self)
        rows = zip(*(leaf.unbind() for leaf in leaves), strict=True)
        return [tree_unflatten(row, structure) for row in rows]

    def numbers(self) -> int:
        """Of one example, inputs and targets together."""
        return sum(leaf[0].numel() for leaf in self.leaves())

    def rows(self, indices: Tensor, like: Tensor, room: "Examples | None" = None) -> "Examples":
        """Those at `indices` (K, S, B) -> (K, S, B, …), numbers in the precision of `like`.

        room: what an earlier call returned, to be overwritten where it is long enough: fresh memory
        can cost more than the gather.
        """

        def gathered(table: Tensor, into: Tensor | None) -> Tensor:
            rows = _gathered(table, indices, into)
            return rows.to(like.dtype) if rows.is_floating_point() else rows

        leaves, form = tree_flatten(self)
        places = [None] * len(leaves) if room is None else room.leaves()
        found: Examples = tree_unflatten(list(map(gathered, leaves, places)), form)
        return found

    def by_columns(self) -> "Examples":
        """The same examples, tables of a few columns one column after another in memory.

        Minibatches come out so, too, in the order in which traced products of narrow layers have
        their results (`llc.library.layout`). Only of tables that caches hold, since a row is no
        longer in one place.
        """

        def turned(table: Tensor) -> Tensor:
            narrow = table.dim() == 2 and is_narrow(*table.shape)
            small = table.numel() <= CACHED and table.device.type == "cpu"
            turn = narrow and small and table.is_floating_point()
            return table.T.contiguous().T if turn else table

        return self.map(turned)

    def parts(self, size: int, axis: int = 0) -> Iterator["Examples"]:
        """All of them in order along their axis, `size` at a time."""
        leaves, form = tree_flatten(self)
        for parts in zip(*(leaf.split(size, axis) for leaf in leaves), strict=True):
            part: Examples = tree_unflatten(list(parts), form)
            yield part


def _gathered(table: Tensor, indices: Tensor, into: Tensor | None) -> Tensor:
    """Rows `indices` (K, S, B) of a table, (K, S, B, …), or (K, S, B, F) by columns as it is."""
    flat, shape = indices.flatten(), (*indices.shape, *table.shape[1:])
    by_columns = table.dim() == 2 and not table.is_contiguous() and table.T.is_contiguous()
    room = into if into is None or by_columns else into[: len(indices)]
    if room is not None and (room.dtype, room.shape) != (table.dtype, shape):
        room = None
    if by_columns:
        out = None if room is None else room.movedim(-1, 0).flatten(1)
        columns = torch.index_select(table.T, 1, flat, out=out)
        return columns.view(-1, *indices.shape).movedim(0, -1)
    if room is None:
        return table.index_select(0, flat).view(shape)
    torch.index_select(table, 0, flat, out=room.flatten(0, 2))
    return room


class Data(Protocol):
    """n examples addressed by index, held or fetched: see `Examples`."""

    @property
    def number(self) -> int: ...

    def numbers(self) -> int: ...

    def to(self, device: torch.device, dtype: torch.dtype) -> "Data": ...

    def parts(self, size: int) -> Iterator[Examples]: ...

    def rows(self, indices: Tensor, like: Tensor, room: Examples | None = None) -> Examples: ...


class Source(NamedTuple):
    """What was read."""

    examples: Data
    batch_size: int | None  # a DataLoader's own
    tokens: bool  # sequences of `input_ids`, to be predicted token by token


def read(data: Any, unpack: Unpack | None, takes_mask: bool, seed: int, least: int = 2) -> Source:
    """Everything in `data`, on the CPU or wherever its tensors are.

    unpack: a batch of `data` -> (inputs, targets). takes_mask: whether the model wants to be told
    which tokens are padding. seed: names the random numbers of data that draw some (augmentation);
    torch's global generator is left as it was. least: examples, at least.
    Raises: TypeError or ValueError for data of another kind or structure, or without examples.
    """
    with drawing_from(generator(Stream(seed), "data")):
        batches, batch_size = _batches(data)
        parts, tokens = [], False
        for batch in _in_turn(batches):
            tokens = unpack is None and has_tokens(batch)
            pair = unpack_tokens(batch, takes_mask) if tokens else unpacked(batch, unpack)
            parts.append(tensors_of(*pair))
    if not parts or not all(len(leaf) for part in parts for leaf in tree_flatten(part)[0]):
        raise ValueError(f"data: is empty: give at least {least} example{'s' * (least > 1)}")
    examples = _joined(pad_alike(parts) if tokens else parts)
    if check_counts(examples) < least:
        raise ValueError("data: is a single example: give at least two, log n must be positive")
    return Source(examples, batch_size, tokens)


def _batches(data: Any) -> tuple[Iterable[Any], int | None]:
    """`data` as collated batches in order, and the batch size of a DataLoader."""
    if isinstance(data, DataLoader):
        return _of_loader(data), data.batch_size
    if isinstance(data, TensorDataset):
        return [data.tensors], None
    if isinstance(data, Mapping) and has_tokens(data):
        return [data], None
    if whole(data):
        return [data], None
    if isinstance(data, IterableDataset):
        return _collated(iter(data)), None
    items: Any = data
    if isinstance(data, Dataset) or has_indices(data):
        return _collated(items[index] for index in range(len(items))), None
    raise TypeError(f"data={words(data)}: must be {KINDS}")


def has_indices(data: Any) -> bool:
    """Whether it is a sequence of items, and no array or mapping."""
    sized = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    return sized and not isinstance(data, Mapping | Tensor | str)


def _in_turn(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, where they can be made.

    Raises: ValueError for items that do not go together, as `default_collate` finds them.
    """
    try:
        yield from batches
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(
            f"data: examples cannot be put into a batch ({first_line(error)}): give examples of "
            "one structure and shape, or a DataLoader with a collate_fn that makes them so"
        ) from error


def _of_loader(loader: "DataLoader[Any]") -> Iterable[Any]:
    """Its data set in order; a loader with a sampler of its own as it comes."""
    dataset: Any = loader.dataset
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
        return loader
    length = len(dataset)
    if not in_order(loader):
        return loader
    if isinstance(dataset, TensorDataset) and loader.collate_fn is default_collate:
        return [dataset.tensors]
    if not length:
        return []
    if loader.collate_fn is default_collate and has_tokens(dataset[0]):
        return _collated(dataset[index] for index in range(length))
    return DataLoader(
        dataset,
        loader.batch_size,
        shuffle=False,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
    )


def in_order(loader: "DataLoader[Any]") -> bool:
    """Whether a loader of a data set with indices goes through all of it, in whatever order."""
    sampler: Any = loader.sampler
    orders = isinstance(sampler, SequentialSampler | RandomSampler)
    return orders and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]


def _collated(items: Iterator[Any]) -> Iterator[Any]:
    while chunk := list(islice(items, AT_ONCE)):
        yield collated(chunk)


def collated(items: Sequence[Any]) -> Any:
    """Several items as one batch."""
    return collate_tokens(items) if has_tokens(items[0]) else default_collate(list(items))


def unpacked(batch: Any, unpack: Unpack | None) -> tuple[Any, Any]:
    """(inputs, targets) of a batch."""
    pair = batch if unpack is None else unpack(batch)
    if isinstance(pair, tuple | list) and len(pair) == 2:
        return pair[0], pair[1]
    if unpack is None:
        raise ValueError(
            f"data: a batch is {words(batch)}, not a pair (inputs, targets): give "
            "unpack=lambda batch: (inputs, targets)"
        )
    raise ValueError(f"unpack: returned {words(pair)}: must be a pair (inputs, targets)")


def tensors_of(inputs: Any, targets: Any) -> Examples:
    """Every leaf as a detached tensor with an axis for the examples."""

    def tensor(leaf: Any) -> Tensor:
        if not is_array(leaf):
            raise ValueError(f"data: holds {words(leaf)} where a tensor (examples, …) is needed")
        return torch.as_tensor(leaf).detach()

    found = Examples(tree_map(tensor, inputs), tree_map(tensor, targets))
    if not tree_flatten(found.inputs)[0] or any(not leaf.dim() for leaf in tree_flatten(found)[0]):
        raise ValueError("data: a batch has no axis for its examples: give tensors (examples, …)")
    return found


def _joined(parts: Sequence[Examples]) -> Examples:
    if len(parts) == 1:
        return parts[0]
    flat, specs = zip(*map(tree_flatten, parts), strict=True)
    shapes = [[leaf.shape[1:] for leaf in leaves] for leaves in flat]
    other = next(
        (i for i in range(len(parts)) if (specs[i], shapes[i]) != (specs[0], shapes[0])), 0
    )
    if other:
        raise ValueError(
            f"data: batch {other} is {_shapes(flat[other])} an example and batch 0 "
            f"{_shapes(flat[0])}: give examples of one structure and shape, or unpack= to make them"
        )
    joined: Examples = tree_unflatten(
        [torch.cat(leaves) for leaves in zip(*flat, strict=True)], specs[0]
    )
    return joined


def _shapes(leaves: Sequence[Tensor]) -> str:
    return " and ".join(str(tuple(leaf.shape[1:])) for leaf in leaves)
