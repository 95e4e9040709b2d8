"""A module of `llc` imports only from modules above it; few know Sacred, ArviZ or torchvision."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# fmt: off
ORDER = [
    "theory", "config", "devices", "mongodb", "checkpoints", "params", "products", "streams",
    "vision", "models", "data", "posterior", "training", "samplers", "efficiency", "trace",
    "sampling", "problems", "mixing", "influence", "diagnostics", "calibrate", "companions",
    "sampled", "estimate", "points", "benchmark_problem", "geometry", "figures", "grid_figures",
    "library", "shims", "benchmark_figures", "tracking", "reporting", "records", "benchmarking",
    "commands", "__main__",
]
# fmt: on
CONFINED = {
    "sacred": {"tracking", "records"},
    "pymongo": {"mongodb", "tracking", "records"},
    "gridfs": {"tracking", "records"},
    "bson": {"tracking", "records"},
    "arviz": {"diagnostics", "figures"},
    "torchvision": {"vision"},
    "sklearn": {"data"},
}

FILES = sorted(ROOT.glob("llc/**/*.py"))


def module_name(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported(file):
    """Yield the dotted name of everything that `file` imports, wherever in it."""
    package = module_name(file) if file.stem == "__init__" else module_name(file)[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ([*base, alias.name] for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_upwards(file):
    room = (*module_name(file), "")[1]
    assert not room or room in ORDER, f"add {room} to ORDER, where it belongs"
    for name in imported(file):
        allowed = CONFINED.get(name[0])
        assert allowed is None or room in allowed, f"only {allowed} may import {name[0]}"
        if name[0] == "llc" and room and len(name) > 1 and name[1] in ORDER:
            assert ORDER.index(name[1]) <= ORDER.index(room), f"{room} may not use {name[1]}"


def test_importing_llc_is_cheap():
    """`llc` itself loads nothing heavy: scripts that only check a config start at once."""
    heavy = {"torch", "sacred", "arviz", "pandas"}
    for name in imported(ROOT / "llc" / "__init__.py"):
        assert name[0] not in heavy
