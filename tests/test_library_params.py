"""λ̂ of a part of a model: what is held fixed stays, bit for bit."""

import numpy as np
import pytest
import torch
from library_models import (
    CLASSES,
    INPUTS,
    SMALL,
    TiedLanguageModel,
    classifier,
    data,
    excess,
    filled,
)
from torch import nn

import llc
from llc import SamplerConfig, estimate_llc


class Recording(nn.Module):
    """Keeps every weight it was run at in a list that a copy shares."""

    seen: list = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.first, self.second = filled(nn.Linear(INPUTS, 4)), filled(nn.Linear(4, CLASSES))

    def forward(self, inputs):
        self.seen.append([leaf.detach().clone() for leaf in (self.first.weight, self.second.bias)])
        return self.second(torch.tanh(self.first(inputs)))


@pytest.mark.parametrize("sampler", ["sgld", "sghmc", "sgnht", "mala", "nuts", "mclmc", "psgld"])
def test_masked_coordinates_stay_bit_for_bit(sampler):
    model = Recording()
    mask = torch.zeros(4, INPUTS, dtype=torch.bool)
    mask[1:3, ::2] = True
    Recording.seen.clear()
    chosen = SamplerConfig("sgld", preconditioner="rmsprop") if sampler == "psgld" else sampler
    arguments = {**SMALL, "num_draws": 10}
    if sampler in ("nuts", "mclmc"):
        del arguments["epsilon"]
    result = estimate_llc(
        model, data(), params={"first.weight": mask}, engine="plain", sampler=chosen, **arguments
    )
    assert (result.num_free, result.num_parameters) == (6, 4 * INPUTS + 4 + 4 * CLASSES + CLASSES)
    weights = torch.stack([first.float() for first, _ in Recording.seen])
    assert (weights[:, ~mask] == model.first.weight[~mask]).all()
    assert (weights[-1, mask] != model.first.weight[mask]).all()
    assert all((bias.float() == model.second.bias).all() for _, bias in Recording.seen)


def test_what_may_select_parameters():
    model = TiedLanguageModel()

    def free(params):
        return llc.library.selection.select_free(model, params)

    assert list(free(None)) == ["embed.weight", "middle.weight", "middle.bias"]
    assert list(free("middle")) == list(free("middle.*")) == list(free(model.middle))
    assert list(free(model.head)) == list(free("head.weight")) == ["embed.weight"]  # tied
    assert list(free(["middle.bias", "embed*"])) == ["embed.weight", "middle.bias"]
    rows = free({"middle.weight": slice(1, 3)})["middle.weight"]
    assert rows.tolist() == list(range(4, 12))
    rows = free({"middle.weight": torch.tensor([1, 2]), "middle.bias": None})["middle.weight"]
    assert rows.tolist() == list(range(4, 12))
    assert free({"middle.weight": torch.ones(4, 4, dtype=torch.bool)}) == {"middle.weight": None}


def test_gamma_holds_only_what_is_free():
    """A quadratic in 1 of 3 coordinates: λ̂ = ½ nβh/(nβh + γ), whatever the others' curvature."""
    inputs = torch.diag(torch.tensor([3.0, 1.0, 7.0], dtype=torch.float64))
    model = nn.Linear(3, 1, bias=False).double()
    targets = model(inputs).detach()
    result = estimate_llc(
        model, (inputs, targets), lambda out, y: (out - y).square().sum(-1), nbeta=30.0, gamma=5.0,
        params={"weight": (0, 1)}, num_chains=100, num_draws=400, burn_in=100, sampler="mala",
        epsilon=0.05, batch_size=3, engine="vmap", companions=False, progress=False,
    )  # fmt: skip
    curvature = 30.0 * 2 / 3
    exact = 0.5 * curvature / (curvature + 5.0)
    mean, error = np.mean(result.per_chain), np.std(result.per_chain, ddof=1) / 10
    assert error < 0.02
    assert abs(mean - exact) < 5 * error


def test_fixed_parameters_stay():
    model = classifier()
    model[0].requires_grad_(False)
    result = estimate_llc(model, data(), **SMALL)
    assert result.num_free == result.num_parameters - 6 * INPUTS - 6
    assert (excess(result).abs().amax(1) > 0).all()
