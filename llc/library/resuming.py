"""A call that goes on where it was stopped: a file with its chains, and whose they are."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from llc.checkpoints import Keeper
from llc.params import Params


@contextmanager
def kept_in(path: str | Path | None, call: Mapping[str, Any]) -> Iterator[Keeper]:
    """A keeper that writes to `path` now and then, with what the same `call` left there.

    call: what tells it from others, numbers and text by name. The file goes when all ends well.
    Raises: ValueError for a file that cannot be read or is another call's.
    """
    keeper = Keeper(None if path is None else Path(path))
    if keeper.load():
        theirs = keeper.kept("call") or {}
        other = [name for name, value in call.items() if theirs.get(name) != value]
        if other:
            raise ValueError(
                f"checkpoint={str(path)!r}: was left by another call (other {', '.join(other)}): "
                "delete it, or name another file"
            )
    keeper.keep("call", dict(call))
    yield keeper
    keeper.remove()


def digest(params: Params) -> str:
    """Twelve characters that tell parameter sets apart."""
    found = hashlib.sha256()
    for name, leaf in params.items():
        found.update(name.encode())
        found.update(_bytes(leaf))
    return found.hexdigest()[:12]


def _bytes(leaf: Tensor) -> bytes:
    return leaf.detach().cpu().contiguous().numpy().tobytes()
