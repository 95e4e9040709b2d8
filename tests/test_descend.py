"""Step after step in one call, on minibatches that lie column by column: the same chains."""

import pytest
import torch
from library_models import EXAMPLES, INPUTS, ROUNDING, SMALL, data, filled
from torch import nn

from llc import estimate_llc
from llc.library.data import Examples
from llc.library.engines import Vmapped
from llc.library.stacked import LibraryBlock

ALL = {**SMALL, "num_chains": 3, "num_draws": 30, "burn_in": 0, "batch_size": 16, "seed": 3}


class OneRow(nn.Module):
    """Has all of a batch in one row for a moment, as only rows one after another allow."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(INPUTS, 3)

    def forward(self, inputs):
        return self.layer(inputs.view(-1).view(inputs.shape))


def model():
    return nn.Sequential(nn.Linear(INPUTS, 6), nn.ReLU(), nn.Linear(6, 3))


def traces(make=model, **settings):
    module = filled(make(), dtype=torch.float64)
    settings = ALL | settings
    estimate = estimate_llc(module, data(dtype=torch.float64), engine="vmap", **settings)
    return torch.as_tensor(estimate.to_xarray()["loss_trace"].values)


def counted(monkeypatch, owner, name):
    """Calls of a method, by what it returned."""
    found, method = [], getattr(owner, name)

    def run(*args, **kwargs):
        found.append(method(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(owner, name, run)
    return found


@pytest.mark.parametrize("settings", [{}, {"batch_size": EXAMPLES}, {"microbatch_size": 16}])
def test_steps_in_one_call_are_those_one_by_one(settings, monkeypatch):
    with monkeypatch.context() as patch:
        walks = counted(patch, Vmapped, "descend")
        together = traces(**settings)
        assert sum(map(len, walks)) == 28  # of 30 steps: every 20th is looked at by itself
    monkeypatch.setattr(Vmapped, "descend", lambda *_: None)
    torch.testing.assert_close(together, traces(**settings), **ROUNDING)


def test_a_batch_in_parts_is_not_walked(monkeypatch):
    walks = counted(monkeypatch, Vmapped, "descend")
    traces(microbatch_size=8)
    assert not walks


def test_chains_do_not_depend_on_how_examples_lie(monkeypatch):
    with monkeypatch.context() as patch:
        steps = counted(patch, LibraryBlock, "_parts")
        by_columns = traces()
        assert all(batch.inputs.stride(1) == 1 for (batch,) in steps)
    monkeypatch.setattr(Examples, "by_columns", lambda examples: examples)
    steps = counted(monkeypatch, LibraryBlock, "_parts")
    torch.testing.assert_close(by_columns, traces(), **ROUNDING)
    assert all(batch.inputs.stride(1) == INPUTS for (batch,) in steps)


def test_a_model_that_needs_rows_gets_them(monkeypatch):
    steps = counted(monkeypatch, LibraryBlock, "_parts")
    found = traces(OneRow)
    assert {batch.inputs.stride(1) for (batch,) in steps[-20:]} == {INPUTS}
    monkeypatch.setattr(Examples, "by_columns", lambda examples: examples)
    torch.testing.assert_close(found, traces(OneRow), **ROUNDING)


@pytest.mark.parametrize(("columns", "narrow"), [(1, False), (5, True), (16, False), (65, False)])
def test_rows_are_the_same_from_columns(columns, narrow):
    table = torch.arange(100.0 * columns).view(100, columns)
    rows, like = Examples(table, torch.arange(100)), torch.zeros(())
    indices = torch.randint(100, (4, 3, 8), generator=torch.Generator().manual_seed(0)).int()
    turned = rows.by_columns()
    assert turned.inputs.is_contiguous() is not narrow
    room = turned.rows(indices, like)
    for some in (indices, indices.flip(0), indices[:2]):
        found, expected = turned.rows(some, like, room), rows.rows(some, like)
        assert torch.equal(found.inputs, expected.inputs)
        assert torch.equal(found.targets, expected.targets)
    again = turned.rows(indices, like, room)
    assert again.inputs.data_ptr() == room.inputs.data_ptr()
