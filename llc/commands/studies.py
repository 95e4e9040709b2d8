"""Studies of samplers: a file that crosses problems, samplers and seeds, as configurations.

A YAML study is `base`, `problems`, `samplers` and `seeds`. Entries of `problems` and `samplers` are
mappings by label that hold keys of `problem_config` or `sampler_config` as they are, and any other
key of the experiment dotted or nested (`sgld_config: {epsilon: auto}`). `name` is the label unless
given. What stands further down this list wins: `base`, the problem, the sampler, what the problem
says under `samplers` about that one sampler, the seed (where `seeds` is a mapping).

    base: {sgld_config: {gamma: 1.0, num_chains: 4}}
    problems:
      quadratic: {target_params: 200, samplers: {hmc: {num_steps: 500}}}
      network: {name: dln, target_params: 1000}
    samplers:
      hmc: {}
      rmsprop: {name: sgld, preconditioner: rmsprop, sgld_config: {epsilon: auto}}
      gibbs: {only: [network]}
    seeds: [0, 1, 2]

A JSON grid is the samplers alone, a list of settings or lists of values by key of which every
combination is taken, on the experiment's default problem with seed 0; or an object with these under
`samplers`, beside `base`, `problem` and `seeds`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from llc.benchmark_problem import check
from llc.commands.lines import grid
from llc.config import BenchmarkConfig, ConfigError, ProblemConfig, SamplerConfig, parse

GROUPS = {"problem_config": ProblemConfig, "sampler_config": SamplerConfig}
OWN_WORDS = {"problem_config": "samplers", "sampler_config": "only"}  # of an entry
ELSEWHERE = {"seed": "stands under seeds", "expt_name": "is the name of the file"}

Updates = dict[str, Any]  # values by dotted key, as after `with`


class Planned(NamedTuple):
    """One run of a study."""

    where: str  # in the file, for messages
    updates: Updates
    config: BenchmarkConfig


def read_study(path: Path) -> list[Planned]:
    """Every run of a study or grid, seed by seed: an interrupted study has something of all.

    Raises:
        ValueError: in one line naming the place, for a file that cannot be read, a key that means
            nothing or would be ignored, a wrong value, and runs that are the same twice.
    """
    try:
        study = _load(path)
        runs = list(_runs(_study_of_grid(study) if path.suffix == ".json" else study))
        _check_different(runs)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return runs


def _load(path: Path) -> Any:
    """The content of the file, in which no key may stand twice."""
    loaders: dict[str, Callable[[str], Any]] = {
        ".yaml": _yaml, ".yml": _yaml, ".json": _json,
    }  # fmt: skip
    if path.suffix not in loaders:
        raise ConfigError("must be a study, *.yaml, or a grid, *.json")
    try:
        return loaders[path.suffix](path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})") from None
    except ConfigError:
        raise
    except ValueError as error:  # of UTF-8 or JSON
        raise ConfigError(f"cannot be read ({error})") from None


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """The pairs as a dict; of text, so that `on` and `3` can name an entry."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if str(key) in result:
            raise ConfigError(f"{key}: stands twice")
        result[str(key)] = value
    return result


def _yaml(text: str) -> Any:
    import re

    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Of YAML 1.2 in what matters here: 1e-4 is a number, and no key stands twice."""

    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    Loader.add_constructor(
        "tag:yaml.org,2002:map",
        lambda loader, node: _once(
            [
                (loader.construct_object(key, deep=True), loader.construct_object(own, deep=True))
                for key, own in node.value
            ]
        ),
    )
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"cannot be read ({' '.join(str(error).split())})") from None


def _study_of_grid(content: Any) -> Any:
    """A grid as a study of one problem."""
    whole = isinstance(content, Mapping) and "samplers" in content
    parts = dict(content) if whole else {"samplers": content}
    _check_keys("", parts, ("base", "problem", "samplers", "seeds"))
    samplers = parts["samplers"]
    if isinstance(samplers, Mapping):
        samplers = grid(samplers)
    if not isinstance(samplers, list):
        raise ConfigError("samplers: must be a list of settings, or lists of values by key")
    default = {"name": ProblemConfig().name}
    return {
        "base": parts.get("base", {}),
        "problems": {"problem": {**default, **_mapping(parts.get("problem", {}), "problem")}},
        "samplers": {
            str(k): {"name": SamplerConfig().name, **_mapping(own, f"samplers.{k}")}
            for k, own in enumerate(samplers, 1)
        },
        "seeds": parts.get("seeds", [0]),
    }


def _runs(study: Any) -> Iterator[Planned]:
    parts = _mapping(study, "a study")
    _check_keys("", parts, ("base", "problems", "samplers", "seeds"))
    base = dict(_flat(_mapping(parts.get("base", {}), "base"), "base"))
    problems, samplers = (_entries(parts, name) for name in ("problems", "samplers"))
    crossed = product(_seeds(parts.get("seeds")), problems.items(), samplers.items())
    for (seed, of_seed), (problem, on), (sampler, by) in crossed:
        own = _mapping(on.get("samplers", {}), f"problems.{problem}.samplers")
        _check_keys(f"problems.{problem}.samplers.", own, samplers)
        only = by.get("only", list(problems))
        _check_keys(f"samplers.{sampler}.only: ", only, problems)
        if problem not in only:
            continue
        pair = f"problems.{problem}.samplers.{sampler}"
        updates = {
            **base,
            **_entry(on, "problem_config", problem, f"problems.{problem}"),
            **_entry(by, "sampler_config", sampler, f"samplers.{sampler}"),
            **dict(_flat(_mapping(own.get(sampler, {}), pair), pair, "sampler_config")),
            **of_seed,
            "seed": seed,
        }
        yield _planned(f"problem {problem}, sampler {sampler}, seed {seed}", updates)


def _planned(where: str, updates: Updates) -> Planned:
    """The run with its configuration, which is checked as the script will do it."""
    nested: dict[str, Any] = {}
    for key, value in updates.items():
        group, dot, rest = key.partition(".")
        if dot and isinstance(nested.setdefault(group, {}), dict):
            nested[group][rest] = value
        else:  # a value where keys belong is for `parse` to refuse
            nested[group] = value
    # Whether a device exists is for the machine to say that runs the line.
    device = nested.pop("device", None)
    try:
        config = parse(BenchmarkConfig, nested)
        check(config)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return Planned(where, updates, config if device is None else replace(config, device=device))


def _entries(parts: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    entries = _mapping(parts.get(name), name)
    if not entries:
        raise ConfigError(f"{name}: there are none: give at least one")
    return {label: _mapping(own or {}, f"{name}.{label}") for label, own in entries.items()}


def _entry(values: Mapping[str, Any], group: str, label: str, where: str) -> Updates:
    given = {key: value for key, value in values.items() if key != OWN_WORDS[group]}
    return {f"{group}.name": label, **dict(_flat(given, where, group))}


def _seeds(given: Any) -> list[tuple[int, Updates]]:
    """The seeds with what each of them changes."""
    listed = given if isinstance(given, Mapping) else {key: {} for key in given or []}
    if not listed:
        raise ConfigError("seeds: there are none: give a list such as [0, 1, 2]")
    if len(listed) < len(given):
        raise ConfigError(f"seeds={given}: one stands twice")
    return [
        (_seed(key), dict(_flat(_mapping(own or {}, f"seeds.{key}"), f"seeds.{key}")))
        for key, own in listed.items()
    ]


def _seed(key: Any) -> int:
    if isinstance(key, bool) or not str(key).isdecimal():
        raise ConfigError(f"seeds: {key!r}: must be a whole number, 0 or more")
    return int(key)


def _flat(values: Mapping[str, Any], where: str, group: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys; those that the experiment does not know by themselves belong to `group`."""
    known = {field.name for field in fields(BenchmarkConfig)}
    in_group = {field.name for field in fields(GROUPS[group])} if group else set()
    seen: set[str] = set()
    for key, value in values.items():
        first = key.partition(".")[0]
        own = bool(group) and (first in in_group or first not in known)
        if first in ELSEWHERE and not own:
            raise ConfigError(f"{where}: {key} {ELSEWHERE[first]}: leave it out")
        inner = value if isinstance(value, Mapping) else {"": value}
        for rest, entry in inner.items():
            dotted = ".".join(filter(None, (group if own else "", key, rest)))
            if dotted in seen:
                raise ConfigError(f"{where}: {dotted}: stands twice")
            seen.add(dotted)
            yield dotted, entry


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: must be keys with values" + ("" if value else ", is empty"))
    return dict(value)


def _check_keys(where: str, given: Any, known: Any) -> None:
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), list(known), n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"{where}{key}: unknown ({hint}known: {', '.join(known)})")


def _check_different(runs: Sequence[Planned]) -> None:
    """Raise ConfigError where two runs differ only in what their sampler leaves unread."""
    first: dict[str, str] = {}
    for run in runs:
        other = first.setdefault(run.config.run_hash(""), run.where)
        if other != run.where:
            raise ConfigError(f"{run.where}: is the same run as {other}: leave one of them out")
