"""Rules for one value, written as `typing.Annotated` metadata in the config dataclasses.

Each rule has a text, which completes "must be a whole number ...", and says whether it accepts a
value that already has the right type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any


class Rule:
    """A condition on one value; `str(rule)` is its text."""

    def accepts(self, value: Any) -> bool:
        """Whether the rule holds for `value`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Above(Rule):
    """Greater than `bound`."""

    bound: float

    def __str__(self) -> str:
        return f"> {self.bound}"

    def accepts(self, value: Any) -> bool:
        return bool(value > self.bound)


@dataclass(frozen=True)
class AtLeast(Rule):
    """Greater than or equal to `bound`."""

    bound: float

    def __str__(self) -> str:
        return f">= {self.bound}"

    def accepts(self, value: Any) -> bool:
        return bool(value >= self.bound)


@dataclass(frozen=True)
class Within(Rule):
    """Between `low` and `high`; `closed` says which ends belong: "both" or "left"."""

    low: float
    high: float
    closed: str = "both"

    def __str__(self) -> str:
        return f"in [{self.low}, {self.high}{']' if self.closed == 'both' else ')'}"

    def accepts(self, value: Any) -> bool:
        return bool(self.low <= value < self.high or (self.closed == "both" and value == self.high))


class OneOf(Rule):
    """One of the given words, or a word that matches `pattern` (shown as `shape`)."""

    def __init__(self, *words: str, pattern: str = "", shape: str = "") -> None:
        self.words, self.pattern, self.shape = words, pattern, shape

    def __str__(self) -> str:
        return "one of " + ", ".join(
            [*map(repr, self.words), *([self.shape] if self.shape else [])]
        )

    def accepts(self, value: Any) -> bool:
        return value in self.words or bool(self.pattern and re.fullmatch(self.pattern, value))


class NonEmpty(Rule):
    """At least one entry."""

    def __str__(self) -> str:
        return "with at least one entry"

    def accepts(self, value: Any) -> bool:
        return len(value) > 0


class NumbersAsText(Rule):
    """A label: a number is taken as its text (Sacred reads `expt_name=1e5` as a float)."""

    def __str__(self) -> str:
        return ""

    def accepts(self, value: Any) -> bool:
        return True


Positive = Annotated[float, Above(0)]
NonNegative = Annotated[float, AtLeast(0)]
Count = Annotated[int, AtLeast(1)]
