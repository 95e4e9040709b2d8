"""Check a plain mapping against a frozen dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from llc.config.rules import NumbersAsText, OneOf, Rule

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be run; the message is one line: key, value, remedy."""


def parse(cls: type[T], mapping: Any, prefix: str = "", defaults: T | None = None) -> T:
    """Check `mapping` against the dataclass `cls` and return it as an instance of it.

    Keys that are left out take their values from `defaults`, an instance of `cls`, or where there
    is none from its fields. Whole floats pass as integers and integers as
    floats; booleans pass as neither. `prefix` (such as `"sgld_config."`) goes before every key
    in a message.

    Raises:
        ConfigError: for an unknown key, a value of the wrong type, a value outside its range,
            or values that cannot go together; one line naming key, value and remedy.
    """
    hints = _hints(cls)  # type: ignore[arg-type]  # a class is hashable
    if not isinstance(mapping, Mapping):
        known = f"{prefix}{next(iter(hints))}=..."
        raise ConfigError(
            f"{prefix[:-1]}={_show(mapping)}: must be a group of keys such as {known}"
        )
    for key in mapping:
        if key not in hints:
            name = str(key) if str(key).isprintable() else repr(key)
            raise ConfigError(f"{prefix}{name}: unknown key ({_suggest(name, list(hints))})")
    known_values = vars(cls() if defaults is None else defaults)
    values = {k: _value(hints[k], v, f"{prefix}{k}", known_values[k]) for k, v in mapping.items()}
    config = cls(**(known_values | values))
    if hasattr(config, "check"):
        config.check(prefix)
    return config


def as_plain(config: Any) -> Any:
    """Turn a parsed config into dicts, lists and scalars, as Sacred and JSON know them."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: as_plain(value) for key, value in config.items()}
    return [as_plain(v) for v in config] if isinstance(config, (tuple, list)) else config


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    """What each key is annotated with; kept, since the status of a sweep parses thousands."""
    return types.MappingProxyType(get_type_hints(cls, include_extras=True))


def _value(hint: Any, value: Any, key: str, default: Any = None) -> Any:
    """Convert one value to what its annotation asks for; `default` fills up a group of keys."""
    hint, rules = _unwrap(hint)
    arms = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in arms:
        return None
    words = [word for arm in arms if get_origin(arm) is Literal for word in get_args(arm)]
    if isinstance(value, str) and value in words:
        return value
    plain = (arm for arm in arms if arm is not type(None) and get_origin(arm) is not Literal)
    base, inner = _unwrap(next(plain))
    rules = (*inner, *rules)
    if dataclasses.is_dataclass(base) and isinstance(base, type):
        return parse(base, value, f"{key}.", default)

    def refused() -> ConfigError:
        others = [*map(repr, words), *(["None"] if type(None) in arms else [])]
        demand = ", or ".join([_demand(base, rules), *others])
        return ConfigError(f"{key}={_show(value)}: must be {demand}")

    try:
        result = _convert(base, value, key, rules)
    except (TypeError, ValueError, OverflowError) as error:
        raise error if isinstance(error, ConfigError) else refused() from None
    if not all(rule.accepts(result) for rule in rules):
        raise refused()
    return result


def _unwrap(hint: Any) -> tuple[Any, tuple[Rule, ...]]:
    """Split `Annotated[base, rule, ...]` into base and rules."""
    if get_origin(hint) is Annotated:
        base, *rules = get_args(hint)
        return base, tuple(rules)
    return hint, ()


def _convert(base: Any, value: Any, key: str, rules: tuple[Rule, ...]) -> Any:
    """Convert without loss, or raise TypeError, ValueError or OverflowError."""
    if get_origin(base) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            raise TypeError
        entry = get_args(base)[0]
        return tuple(_value(entry, v, f"{key}[{i}]") for i, v in enumerate(value))
    if base is str and isinstance(value, (bool, int, float)):
        if any(isinstance(rule, NumbersAsText) for rule in rules):
            return str(value)
        raise TypeError
    if base in (bool, str):
        if isinstance(value, base):
            return value
        raise TypeError
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise TypeError
    if base is int and not isinstance(value, Integral) and not float(value).is_integer():
        raise ValueError
    return base(value)


def _demand(base: Any, rules: tuple[Rule, ...]) -> str:
    """Say what a value must be, as in 'a finite number > 0'."""
    words = {int: "a whole number", float: "a finite number", bool: "True or False", str: "text"}
    noun = words.get(base, "a list of whole numbers such as '[10, 10]'")
    if any(isinstance(rule, OneOf) for rule in rules):
        noun = ""
    return " ".join(filter(None, [noun, " and ".join(filter(None, map(str, rules)))]))


def _suggest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known keys: {', '.join(known)}"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
