"""What a long computation leaves on disk, so that it goes on where it was stopped.

    with keeper.holding("training", state):      # state(): what this loop needs to go on
        while ...:
            one step
            keeper.tick()                        # writes when it is time; ends here when asked to

Results of finished stages are kept, loops under way are held; a file contains both, so that
everything in it belongs to one moment. It is replaced whole (write, sync, rename): a kill at any
time leaves the last complete one. It holds tensors, numbers, text, lists and dicts, and is read
with `weights_only=True`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import torch

PERIOD = 60.0  # seconds between writes …
SHARE = 0.02  # … or longer, so that writing takes no more than this share of the time


class Keeper:
    """Keeps results and loop states by name; without a path only in memory, for `stop`."""

    def __init__(self, path: Path | None = None, period: float = PERIOD) -> None:
        self._shared = _Shared(path, period)
        self._prefix = ""

    def part(self, name: str) -> "Keeper":
        """The same keeper with names of its own."""
        part = Keeper.__new__(Keeper)
        part._shared, part._prefix = self._shared, f"{self._prefix}{name}/"
        return part

    def load(self) -> bool:
        """Take over what an earlier run left; False where there is nothing.

        Raises: ValueError, in one line, for a file that cannot be read.
        """
        return self._shared.load()

    def keep(self, name: str, value: Any) -> None:
        """Every file from now on contains `value` under `name`."""
        self._shared.kept[self._prefix + name] = value

    def kept(self, name: str) -> Any | None:
        """What was kept under `name`, now or by an earlier run."""
        return self._shared.kept.get(self._prefix + name)

    def forget(self) -> None:
        """Drop everything kept under this part."""
        kept = self._shared.kept
        for name in [name for name in kept if name.startswith(self._prefix)]:
            del kept[name]

    def left(self, name: str) -> Any | None:
        """The state in which an earlier run left the loop `name`; None unless it was under way."""
        return self._shared.left.pop(self._prefix + name, None)

    @contextmanager
    def holding(self, name: str, state: Callable[[], Any]) -> Iterator[None]:
        """Inside, every file contains `state()` under `name`."""
        self._shared.held[self._prefix + name] = state
        try:
            yield
        finally:
            del self._shared.held[self._prefix + name]

    @property
    def at_work(self) -> bool:
        """Whether a loop is under way, so that a `tick` is soon to come."""
        return bool(self._shared.held)

    @property
    def path(self) -> Path | None:
        """The file."""
        return self._shared.path

    @property
    def writing(self) -> bool:
        """Whether a write is under way."""
        return self._shared.writing

    @property
    def ended(self) -> bool:
        """Whether `tick` has raised the reason to end."""
        return self._shared.ended

    def remove(self) -> None:
        """Delete the file, and what a kill in the middle of a write left beside it."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            _part(self.path).unlink(missing_ok=True)

    def stop(self, reason: BaseException) -> None:
        """Ask for an end: the next `tick` writes the file and raises `reason`."""
        self._shared.reason = reason

    def pausing(self) -> bool:
        """Whether `tick` has something to do; loops on other threads return to it then."""
        return self._shared.reason is not None or self._shared.due()

    def tick(self) -> None:
        """At a step boundary of everything under way: write when it is time, end when asked to."""
        if self.pausing():
            self._shared.write()
        if self._shared.reason is not None:
            self._shared.ended = True
            raise self._shared.reason


class _Shared:
    """What the parts of a keeper have in common."""

    def __init__(self, path: Path | None, period: float) -> None:
        self.path, self.period = path, period
        self.kept: dict[str, Any] = {}
        self.held: dict[str, Callable[[], Any]] = {}
        self.left: dict[str, Any] = {}
        self.reason: BaseException | None = None
        self.writing = self.ended = False
        self._next = monotonic() + period

    def due(self) -> bool:
        return self.path is not None and monotonic() >= self._next

    def load(self) -> bool:
        if self.path is None or not self.path.exists():
            return False
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            self.kept, self.left = content["kept"], content["held"]
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"checkpoint {self.path} cannot be read ({reason}): delete it to start afresh"
            ) from None
        return True

    def write(self) -> None:
        if self.path is None:
            return
        started = monotonic()
        self.writing = True
        try:
            self._replace(self.path)
        finally:
            self.writing = False
        now = monotonic()
        self._next = now + max(self.period, (now - started) / SHARE)

    def _replace(self, path: Path) -> None:
        content = {"kept": self.kept, "held": {name: f() for name, f in self.held.items()}}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _part(path)
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def _part(path: Path) -> Path:
    """Where the file is written before it replaces the last one."""
    return path.with_name(f"{path.name}.part")
