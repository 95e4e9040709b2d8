"""What a command line would run, without running it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from llc.config import ConfigError, as_plain, parse
from llc.tracking.commandline import Request, read, read_updates


def planned(ex: Any, argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config that the command line `argv` would run with, and its options; nothing is run.

    Raises:
        ConfigError: in one line, where it would not run.
    """
    request = _read(ex, argv)
    if request is None:
        raise ConfigError("asks for help")
    # Whether the device exists is for the machine to say that runs the line.
    aside = {"device": "auto"} if "device" in ex.config_class.__dataclass_fields__ else {}
    updates = {**request.updates, **aside}
    quiet = {"--loglevel": "ERROR"}  # Sacred remarks on types that change
    prepared = ex._create_run(request.command, updates, request.named_configs, {}, {}, quiet)
    config = as_plain(parse(ex.config_class, prepared.config))
    return {**config, **{k: request.updates.get(k, v) for k, v in aside.items()}}, request.options


def _read(ex: Any, argv: Sequence[str]) -> Request | None:
    """As `read`; the lines of a sweep share what stands before `with`, and docopt is slow."""
    k = argv.index("with") if "with" in argv else 0
    before, updates = argv[:k], [*argv[k + 1 :]]
    # An option may come later, and `with` may be the value of one.
    if not (before and updates) or any(w.startswith("-") for w in (before[-1], *updates)):
        return read(ex, argv)
    request = _read_once(ex, tuple(before))
    if request is None:
        return None
    values, named_configs = read_updates(ex, updates)
    options = {**request.options, "with": True, "UPDATE": updates}
    return Request(request.command, values, named_configs, options)


@lru_cache
def _read_once(ex: Any, argv: tuple[str, ...]) -> Request | None:
    return read(ex, argv)
