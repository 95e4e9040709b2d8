"""Awkward models and losses of users: run as they are, or refused with the reason."""

import pytest
import torch
from library_models import CLASSES, INPUTS, SMALL, data, filled, numbers
from torch import nn
from torch.nn.functional import cross_entropy

from llc import estimate_llc


def estimated(model, given=None, loss="cross_entropy", **rest):
    return estimate_llc(model, data() if given is None else given, loss, **{**SMALL, **rest})


def at_centre(model, given=None):
    """L(w*), by the model itself."""
    inputs, labels = data() if given is None else given
    with torch.no_grad():
        return cross_entropy(model(inputs), labels).item()


class Rotating(nn.Module):
    """Multiplies by complex numbers, as rotary embeddings do."""

    def __init__(self, kind):
        super().__init__()
        self.line, self.head = nn.Linear(INPUTS, 4), nn.Linear(4, CLASSES)
        angles = torch.polar(torch.ones(2), torch.tensor([1.0, 2.0]))
        if kind == "buffer":
            self.register_buffer("angles", angles)
        else:
            self.angles = nn.Parameter(angles, requires_grad=False)

    def forward(self, inputs):
        pairs = torch.view_as_complex(self.line(inputs).view(-1, 2, 2))
        return self.head(torch.view_as_real(pairs * self.angles).flatten(1))


class InDouble(nn.Linear):
    """Has a table in float64, and looks it up in float64."""

    def __init__(self):
        super().__init__(INPUTS, CLASSES)
        self.register_buffer("table", torch.eye(CLASSES, dtype=torch.float64) * 1.1)

    def forward(self, inputs):
        return (super().forward(inputs).double() @ self.table).float()


@pytest.mark.parametrize("engine", ["plain", "vmap"])
@pytest.mark.parametrize(
    "model", [Rotating("buffer"), Rotating("frozen"), InDouble()], ids=["buffer", "frozen", "table"]
)
def test_numbers_of_other_kinds_stay_as_they_are(model, engine):
    result = estimated(filled_real(model), engine=engine)
    assert result.init_loss == pytest.approx(at_centre(model), rel=1e-6)


def test_a_table_in_double_stays_so_in_exact_passes():
    result = estimated(filled_real(InDouble()), sampler="mala")
    assert torch.isfinite(result.trace.loss).all()


def filled_real(model):
    """`filled`, but for parameters that are not sampled."""
    moves = torch.Generator().manual_seed(3)
    for leaf in model.parameters():
        if leaf.requires_grad:
            leaf.data.copy_(torch.randn(leaf.shape, generator=moves) / 2)
    return model
