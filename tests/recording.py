"""What tests of the experiment scripts ask of their records and of their errors."""

import json
from collections.abc import Callable
from pathlib import Path


def recorded(directory: Path, name: str):
    """A file of a run directory, which has to be strict JSON."""

    def refuse(word):
        raise AssertionError(f"{name} holds {word}")

    return json.loads((directory / name).read_text(), parse_constant=refuse)


def one_line_error(run: Callable[..., int], target: Path, arguments: list[str], capsys) -> str:
    """The only line that wrong input gives, before anything was written to `target`."""
    assert run("-F", str(target), "with", *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert not target.exists()
    return error.removeprefix("error: ")
