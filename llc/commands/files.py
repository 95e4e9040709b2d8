"""Command files: a line per run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def write(lines: Sequence[str], path: Path, overwrite: bool = False) -> None:
    """Write a command file, with the directories above it.

    Raises:
        ValueError: where the file is there already and `overwrite` is not set, or cannot be
            written.
    """
    if path.exists() and not overwrite:
        raise ValueError(f"{path} is there already: remove it or choose another path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from None


def read(path: Path) -> list[str]:
    """The lines of a command file, those that are empty too, as `wc -l` counts them.

    Raises:
        ValueError: in one line, where it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"{path}: cannot be read ({reason})") from None
    # Not `splitlines`: to `wc` and the shell only a newline ends a line.
    return text.removesuffix("\n").split("\n") if text else []


def words(line: str, number: int) -> list[str]:
    """The words of line `number` of a command file, as a shell reads them.

    Raises:
        ValueError: in one line, for an empty line or quotes that do not close.
    """
    try:
        found = shlex.split(line)
    except ValueError as error:
        raise ValueError(f"line {number}: cannot be read ({error})") from None
    if not found:
        raise ValueError(f"line {number}: is empty")
    return found


def submission(path: Path, count: int) -> str:
    """The command that runs a file of `count` lines as a SLURM array."""
    return f"sbatch --array=1-{count}%20 job.slurm {shlex.quote(str(path))}"
