"""The files that say what to install agree with each other and with the code."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import llc

ROOT = Path(__file__).resolve().parents[1]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file):
    """Return the pins of a requirements file; every line must be an exact one."""
    result = {}
    for line in (ROOT / file).read_text().splitlines():
        line = line.partition("#")[0].strip()
        if not line or line == "-r requirements.txt":
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line)
        assert match, f"{file}: {line!r} is not an exact pin"
        assert normal(match[1]) not in result, f"{file}: {match[1]} stands twice"
        result[normal(match[1])] = match[2]
    return result


def pipfile(section):
    table = tomllib.loads((ROOT / "Pipfile").read_text())[section]
    return {normal(name): version.removeprefix("==") for name, version in table.items()}


def tracked_files():
    """Return what git tracks or would track, or skip where there is no git checkout."""
    listing = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_pipfile_holds_the_same_pins():
    assert pipfile("packages") == pins("requirements.txt")
    assert pipfile("dev-packages") == pins("requirements-dev.txt")


def test_development_adds_to_the_runtime():
    first = (ROOT / "requirements-dev.txt").read_text().splitlines()[0]
    assert first == "-r requirements.txt"
    assert not set(pins("requirements.txt")) & set(pins("requirements-dev.txt"))


def test_torch_comes_first():
    assert next(iter(pins("requirements.txt"))) == "torch"


def test_pipfile_names_no_source():
    assert set(tomllib.loads((ROOT / "Pipfile").read_text())) == {
        "packages",
        "dev-packages",
        "requires",
    }


def test_no_file_names_a_package_registry():
    # In pieces, or this file would find itself.
    words = ["/sim" + "ple", "py" + "pi.org", "python" + "hosted", "download.py" + "torch"]
    for file in tracked_files():
        text = file.read_bytes().decode("utf-8", "replace")
        for word in words:
            assert word not in text, f"{word} in {file.relative_to(ROOT)}"


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "llc.__version__"}
    assert f"version: {llc.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert project["project"]["requires-python"] == ">=3.11"


def test_every_import_is_required():
    required = set(pins("requirements.txt"))
    distributions = packages_distributions()
    for file in [*ROOT.glob("llc/**/*.py"), *ROOT.glob("expt_*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names}:
                if name == "llc" or name in sys.stdlib_module_names:
                    continue
                owners = {normal(owner) for owner in distributions.get(name, [name])}
                assert owners & required, f"{file.name} imports {name}: not in requirements.txt"
