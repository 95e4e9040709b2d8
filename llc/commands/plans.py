"""What a line of a command file would run, and where the record of that run would be."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llc.commands import files
from llc.config import ConfigError, as_plain, parse
from llc.tracking import planned
from llc.tracking.places import files_for, read_address


class Place(NamedTuple):
    """Where a run records: a directory, a database (its URL), or both."""

    directory: str | None
    database: str | None


class Plan(NamedTuple):
    """The run of a line."""

    place: Place
    name: str  # of the experiment
    config_class: type
    digest: str


def plan(number: int, text: str, experiments: dict[str, Any]) -> Plan | str:
    """What line `number` would run, or why it cannot; `experiments` holds what is loaded already.

    Raises:
        ValueError: in one line, for a line that runs no experiment or records none.
    """
    _, script, *arguments = [*files.words(text, number), ""]  # the script may be missing
    if not Path(script).is_file():
        raise ValueError(f"line {number}: {script or text}: there is no such script here")
    if script not in experiments:
        experiments[script] = _load(script)
    ex = experiments[script]
    try:
        config, options = planned(ex, [script, *arguments[:-1]])
    except ConfigError as error:
        return str(error)
    place = _place(options)
    if place == (None, None):
        raise ValueError(f"line {number}: is recorded nowhere: add -F DIR or -m host:port:database")
    name = options["--name"] or ex.path
    return Plan(place, name, ex.config_class, digest(name, config))


def digest(name: str, config: Mapping[str, Any]) -> str:
    """A hash of an experiment and its whole configuration."""
    text = json.dumps([name, config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_record(name: str, config: Mapping[str, Any], config_class: type) -> str:
    """The digest of what a run used, keys at their defaults included; empty for what no line can.

    A record of an earlier version may lack keys that there are by now.
    """
    # Whether a device exists is for the machine to say that runs the line.
    aside = {"device": "auto"} if "device" in config else {}
    try:
        whole = as_plain(parse(config_class, {**config, **aside}))
    except ConfigError:  # another version of the experiment
        return ""
    return digest(name, {**whole, **{key: config[key] for key in aside}})


def _place(options: Mapping[str, Any]) -> Place:
    directory, mongo = options["--file_storage"], options["--mongo_db"]
    address = None if mongo is None else read_address(mongo)
    if directory is None and address is not None:
        directory = files_for(address)  # what the database did not take is there
    return Place(
        None if directory is None else os.path.normpath(directory),
        None if address is None else address.url,
    )


def _load(script: str) -> Any:
    """The experiment that a script defines as `ex`."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    module = importlib.util.module_from_spec(spec) if spec else None
    if spec is None or spec.loader is None or module is None:
        raise ValueError(f"{script}: is no Python script")
    spec.loader.exec_module(module)
    if not hasattr(getattr(module, "ex", None), "config_class"):
        raise ValueError(f"{script}: defines no experiment of llc")
    return module.ex
