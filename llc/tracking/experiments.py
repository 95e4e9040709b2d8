"""Make a Sacred experiment out of a config dataclass, with its provenance."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import llc
from llc.config import ConfigError, as_plain, parse
from llc.tracking.quiet_sacred import (
    PackageDependency,
    Source,
    apply_backspaces_and_linefeeds,
    get_digest,
    sacred,
)

DEPENDENCIES = ("torch", "sacred", "numpy", "scipy", "arviz", "xarray")


def experiment(
    name: str, config_class: type, check: Callable[[Any], None] = lambda config: None
) -> Any:
    """Return a `sacred.Experiment` whose configuration is the dataclass `config_class`.

    The configuration is parsed strictly before any observer starts, so that a run never begins
    with a key or value that means nothing; `check` may refuse (ConfigError) what the dataclass
    cannot know to be impossible. `run.json` names the commit, the sources (the calling
    script and all of `llc`) and the versions of what the numbers depend on.

    Raises:
        TypeError: if `config_class` is not a dataclass with a field `seed`.
    """
    fields = dataclasses.fields(config_class)
    if "seed" not in {field.name for field in fields}:
        raise TypeError(
            f"{config_class.__name__} needs a field 'seed': without it Sacred draws one"
        )
    ex = sacred.Experiment(name, interactive=True, save_git_info=False)
    ex.config_class = config_class
    ex.add_config(as_plain(config_class()))
    ex.config_hook(_strict(config_class, check))
    # A progress bar redraws its line: the record keeps the last state, not every redraw.
    ex.captured_out_filter = apply_backspaces_and_linefeeds
    # Sacred takes the module that constructs an experiment for its main file: that is us.
    caller = sys._getframe(1).f_globals
    _set_provenance(ex, caller.get("__file__"), caller.get("__doc__") or "")
    # Sacred asks for it with every line of a sweep that it is to understand, and writes into it.
    info = cache(ex.get_experiment_info)
    ex.get_experiment_info = lambda: {**info()}
    return ex


def _strict(config_class: type, check: Callable[[Any], None]) -> Any:
    def hook(config: Any, command_name: Any, logger: Any) -> dict[str, Any]:
        check(parse(config_class, config))
        # Sacred seeds its own generators from the value as it stands, and takes only an int.
        if type(config["seed"]) is not int:
            raise ConfigError(f"seed={config['seed']!r}: write it without a decimal point or 'e'")
        return {}

    return hook


def _set_provenance(ex: Any, script: str | None, doc: str) -> None:
    """Tell Sacred the script, the sources with their commits, and the versions."""
    ex.doc = doc
    main = Path(script).resolve() if script and Path(script).is_file() else None
    ex.base_dir = str(main.parent if main else Path.cwd())
    package = Path(llc.__file__).resolve().parent
    files = sorted(package.rglob("*.py"))
    sources = [_source(file, None) for file in files]
    # One source of each repository carries its commit: Sacred lists a repository per source.
    repository = _repository(package)
    if sources:
        sources[0] = _source(files[0], repository)
    ex.mainfile = None
    if main:
        of_main = _repository(main.parent)
        ex.mainfile = _source(main, None if of_main == repository else of_main)
        sources.append(ex.mainfile)
    ex.sources = set(sources)
    ex.dependencies = {PackageDependency("llc", llc.__version__)}
    for name in DEPENDENCIES:
        try:
            ex.dependencies.add(PackageDependency(name, version(name)))
        except PackageNotFoundError:
            continue


def _source(file: Path, repository: tuple[str, str, bool] | None) -> Any:
    url, commit, dirty = repository or (None, None, None)
    return Source(str(file), get_digest(str(file)), url, commit, dirty)


def _repository(directory: Path) -> tuple[str, str, bool] | None:
    """Return URL, commit and whether tracked files differ from it; None where git knows nothing."""
    head = _git(directory, "rev-parse", "--show-toplevel", "HEAD")
    if head is None:
        return None
    top, commit = head.splitlines()
    url = _git(directory, "remote", "get-url", "origin") or f"git:/{top}"
    # A clone made with a token in its address must not write that token into every record.
    url = re.sub(r"//[^/@]*@", "//", url)
    changes = _git(directory, "status", "--porcelain", "--untracked-files=no")
    return url, commit, changes != ""


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            # Many runs may start at once: none should hold the index lock.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
