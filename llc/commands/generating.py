"""What the `gen_commands_expt_*.py` scripts share: their command line, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llc.commands import files


def arguments(
    doc: str, first: Mapping[str, str] | None = None, **path: Any
) -> argparse.ArgumentParser:
    """The parser of a generator: PATH, `y`, and where its runs are recorded.

    `first` are arguments before PATH, with their help; `path` is what argparse is to know of PATH
    besides.
    """
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    for name, what in (first or {}).items():
        parser.add_argument(name, metavar=name.upper(), help=what)
    parser.add_argument("path", metavar="PATH", type=Path, help="command file to write", **path)
    parser.add_argument(
        "overwrite", metavar="y", nargs="?", choices=["y"], help="overwrite PATH if it is there"
    )
    parser.add_argument(
        "--observer", choices=["files", "mongo"], default="files", help="default: files"
    )
    return parser


def observer(kind: str, name: str, server: str) -> list[str]:
    """The options that record a run under `name`: below outputs/, or in that MongoDB database.

    `server` is `host:port`, or where users have passwords `mongodb://user:password@host:port`.
    """
    if kind == "files":
        return ["-F", f"./outputs/{name}/"]
    return ["-m", f"{server}/{name}" if "://" in server else f"{server}:{name}"]


def deliver(lines: Sequence[str], path: Path, overwrite: bool) -> int:
    """Write the command file and say how to submit it; 2 where that cannot be."""
    if path.exists() and not overwrite:
        return _refuse(f"{path} is there already: add y to overwrite it")
    try:
        files.write(lines, path, overwrite=True)
    except ValueError as error:
        return _refuse(str(error))
    hint = f"; to run them:\n  {files.submission(path, len(lines))}" if lines else ""
    print(f"{len(lines)} commands in {path}{hint}")
    return 0


def _refuse(problem: str) -> int:
    print(f"error: {problem}", file=sys.stderr)
    return 2
