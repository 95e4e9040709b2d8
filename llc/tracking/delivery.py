"""Delivery behind a run's back: tried again until it works, given up only at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import IntEnum
from time import monotonic

RETRY_SECONDS = 1.0
PATIENCE_SECONDS = 12.0  # at the end of a run: how long without progress before giving up


class Kind(IntEnum):
    """What can be owed, in the order of delivery: what speaks of the others comes last."""

    SOURCES = 0
    METRIC = 1
    ARTIFACT = 2
    DOCUMENT = 3


Item = tuple[Kind, str]


class Delivery:
    """A thread that calls `deliver(item)` for whatever is owed.

    `deliver` raises `ConnectionError` where it should be tried again and anything else where the
    item as it is now is refused; an item that is owed anew is delivered anew.
    """

    def __init__(self, deliver: Callable[[Kind, str], None]) -> None:
        self._deliver = deliver
        self._due: set[Item] = set()
        self._refused: dict[Item, str] = {}
        self._trouble = "it was too slow"
        self._ending = False
        self._alive = monotonic()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Begin; nothing is owed yet."""
        self._thread.start()

    def owe(self, kind: Kind, name: str = "") -> None:
        """Something is new, or has changed."""
        with self._changed:
            self._due.add((kind, name))
            self._changed.notify()

    def progress(self) -> None:
        """Called by a `deliver` that takes long: it is alive."""
        self._alive = monotonic()

    def finish(self) -> None:
        """Wait until all is delivered, or nothing has moved for `PATIENCE_SECONDS`."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self.progress()
        while self._thread.is_alive() and monotonic() - self._alive < PATIENCE_SECONDS:
            self._thread.join(0.1)

    def missing(self) -> str | None:
        """After `finish`: why something was not delivered; None when nothing is owed."""
        with self._changed:
            # The item under way is not among those due, but the thread ends only after it.
            if self._due or self._thread.is_alive():
                return self._trouble
            return next(iter(self._refused.values()), None)

    def _work(self) -> None:
        while (item := self._next()) is not None:
            try:
                self._deliver(*item)
            except ConnectionError as error:
                self._trouble = str(error)
                with self._changed:
                    self._due.add(item)
                    # A run that ends meanwhile cuts the pause short.
                    if not self._ending:
                        self._changed.wait_for(lambda: self._ending, RETRY_SECONDS)
                        continue
                threading.Event().wait(RETRY_SECONDS)
            except Exception as error:
                with self._changed:
                    self._refused[item] = f"{type(error).__name__}: {error}"
                self.progress()
            else:
                with self._changed:
                    self._refused.pop(item, None)
                self.progress()

    def _next(self) -> Item | None:
        """The most urgent item, as soon as there is one; None when the run has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._due or self._ending)
            if not self._due:
                return None
            item = min(self._due)
            self._due.remove(item)
            return item
