"""Configurations as command lines: grids, random draws, and quoting that survives every reader."""

from __future__ import annotations

import json
import math
import random
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Any

KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")


def grid(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the lists in `config`, the last key varying fastest.

    Keys are dotted. What is no list is the same in every combination; a value that is itself a
    list stands inside one: `{"layer_widths": [[10, 10], [20, 20]]}`.
    """
    choices = [value if isinstance(value, list) else [value] for value in config.values()]
    return [dict(zip(config, values, strict=True)) for values in product(*choices)]


def draws(
    draw: Callable[[random.Random], dict[str, Any]], count: int, seed: int
) -> list[dict[str, Any]]:
    """`count` random configurations; a larger count only adds to them."""
    return [draw(random.Random(f"{seed}/{k}")) for k in range(count)]


def command(script: str, options: Iterable[str], config: Mapping[str, Any]) -> str:
    """The line that runs `script` with these Sacred options and exactly this configuration.

    Raises:
        ValueError: naming the key or the line, for what a line cannot carry.
    """
    updates = [f"{_checked(key)}={literal(value, key)}" for key, value in config.items()]
    line = shlex.join(["python", script, *options, *(["with", *updates] if updates else [])])
    if any(c in line for c in "\n\r\0"):
        raise ValueError(f"{line!r}: a line break or NUL cannot stand in a line")
    return line


def literal(value: Any, key: str = "value") -> str:
    """The text that Sacred reads as `value`; a tuple comes back as a list.

    Sacred takes a value for a Python literal where it can, and else for a string as it stands.

    Raises:
        ValueError: for what would not come back: NaN, and anything but plain Python values.
    """
    if value is None or type(value) in (bool, int):
        return repr(value)
    if type(value) is float and math.isfinite(value):
        return repr(value)
    if type(value) is str:
        plain = WORD.fullmatch(value) and value not in ("True", "False", "None")
        return value if plain else _quoted(value)
    if type(value) in (list, tuple):
        entries = (_quoted(v) if type(v) is str else literal(v, key) for v in value)
        return f"[{', '.join(entries)}]"
    raise ValueError(
        f"{key}={value!r}: must be None, True, False, a finite plain number, text, or a list of "
        "these"
    )


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r}: must look like sgld_config.gamma")
    return key


def _quoted(text: str) -> str:
    """A Python string literal in double quotes, so that the shell's single quotes go around it."""
    quoted = json.dumps(text, ensure_ascii=False)  # its escapes mean the same in Python
    return "".join(c if c.isprintable() else _escaped(c) for c in quoted)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
