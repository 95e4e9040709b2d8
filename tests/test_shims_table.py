"""The mapping in docs/from_elsewhere.md names the arguments that there are, and no others."""

import re
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
from their_rule import bigrams, linear, loader, sequences

import llc as package
from llc import estimate_llc
from llc.shims import GridSearchConfig, LLCEstimator, LLCGridSearch, llc
from llc.shims.devinterp import ELSEWHERE, UNUSED, Numbers

PAGE = Path(__file__).resolve().parents[1] / "docs/from_elsewhere.md"
ROW = re.compile(r"^\| (.+) \| (.+) \| (.+) \|$", re.M)


def columns():
    """The names in each column: what is in backticks, an identifier or `name=value`."""
    _, *rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    cells = zip(*rows, strict=True)
    return [
        set(re.findall(r"`([a-z_]\w*)(?:=[^`]*)?`", " ".join(column), re.I)) for column in cells
    ]


DEVINTERP, CANONICAL, OURS = columns()


def arguments(*functions):
    names = {name for function in functions for name in signature(function).parameters}
    return names - {"self", "others", "arguments", "options"}


def of_devinterp():
    return arguments(llc) | {one.name for one in fields(Numbers)} | set(ELSEWHERE) | UNUSED


def of_canonical():
    methods = LLCEstimator, LLCEstimator.estimate_llc, LLCGridSearch.run_grid_search
    # A configuration of points repeats the names of an estimator.
    return arguments(*methods, GridSearchConfig)


def test_every_argument_of_a_shim_is_in_its_column():
    assert of_devinterp() - DEVINTERP == set()
    assert of_canonical() - CANONICAL == set()
    of_no_other = {"stream", "engine", "companions", "checkpoint"}
    assert arguments(estimate_llc) - OURS == of_no_other


def test_every_name_in_a_column_is_taken_or_refused_or_returned():
    result = llc(bigrams(), sequences(), lr=1e-3, n_beta=10.0, num_draws=2)
    assert DEVINTERP - of_devinterp() - {"llc", "input_ids"} == {str(name) for name in result}
    made = LLCEstimator(2, 2, 0)
    made.estimate_llc(linear(), loader(), show_progress=False)
    answers = {*made.get_metrics(), "original_loss", "get_metrics"}
    classes = {"LLCGridSearch", "run_grid_search", "GridSearchConfig"}
    assert CANONICAL - of_canonical() - classes == answers
    assert all(hasattr(made, name) for name in answers - made.get_metrics().keys())
    assert OURS - arguments(estimate_llc) - {"Dataset", "loss_trace"} == {
        name for name in OURS - arguments(estimate_llc) if hasattr(made.estimate, name)
    }
    assert "loss_trace" in made.estimate.to_xarray()


@pytest.mark.parametrize("name", ["estimate_llc", "grid", "SamplerConfig"])
def test_what_else_is_named_is_there(name):
    assert name in PAGE.read_text(encoding="utf-8")
    assert hasattr(package, name)
