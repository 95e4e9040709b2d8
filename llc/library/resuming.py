"""A call that goes on where it was stopped: a file with its chains, and whose they are."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from llc.checkpoints import Keeper
from llc.config import as_plain
from llc.library.plans import Plan
from llc.library.stacked import LibraryLoss
from llc.params import Params

POINT = ("epsilon", "gamma", "nbeta")


@contextmanager
def kept_in(path: str | Path | None, call: Callable[[], Mapping[str, Any]]) -> Iterator[Keeper]:
    """A keeper that writes to `path` now and then, with what the same `call` left there.

    call: makes what tells it from others, numbers and text by name; that takes a pass over w*.
    The file goes when all ends well.
    Raises: ValueError for a file that cannot be read or is another call's.
    """
    if path is None:
        yield Keeper()
        return
    keeper, ours = Keeper(Path(path)), dict(call())
    if keeper.load():
        theirs = keeper.kept("call") or {}
        other = [name for name, value in ours.items() if theirs.get(name) != value]
        if other:
            raise ValueError(
                f"checkpoint={str(path)!r}: was left by another call (other {', '.join(other)}): "
                "delete it, or name another file"
            )
    keeper.keep("call", ours)
    yield keeper
    keeper.remove()


def call_of(
    loss: LibraryLoss, plans: Sequence[Plan], companions: bool, sets: Iterable[str]
) -> dict[str, Any]:
    """What tells a call of the library from others; L(w*) stands for the data."""
    first = plans[0]
    given = as_plain(replace(first.settings, engine="auto", compile=False))
    return {
        **{name: value for name, value in given.items() if name not in POINT},
        "points": [[getattr(plan.settings, name) for name in POINT] for plan in plans],
        "sampler": as_plain(first.sampler),
        "companions": companions,
        "observables": sorted(sets),
        "model": digest(loss.centre),
        "data": [loss.num_examples, f"{float(loss.full_data(loss.centre)[0]):.6g}"],
    }


def digest(params: Params) -> str:
    """Twelve characters that tell parameter sets apart."""
    found = hashlib.sha256()
    for name, leaf in params.items():
        found.update(name.encode())
        found.update(_bytes(leaf))
    return found.hexdigest()[:12]


def _bytes(leaf: Tensor) -> bytes:
    return leaf.detach().cpu().contiguous().numpy().tobytes()
