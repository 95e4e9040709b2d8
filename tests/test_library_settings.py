"""Which sampler runs, and for how long."""

import pytest
from library_models import CLASSES, INPUTS, SMALL, data, filled
from torch import nn

from llc import estimate_llc
from llc.library.settings import Settings, default_draws


@pytest.mark.parametrize(
    ("examples", "options", "sampler"),
    [
        (60, {}, "hmc"),
        (60, {"batch_size": 60}, "hmc"),
        (60, {"batch_size": 10}, "sghmc"),
        (60, {"epsilon": 1e-4}, "sghmc"),
        (2100, {"epsilon": 1e-4}, "sghmc"),
    ],
)
def test_auto_takes_hmc_where_all_data_cost_little(examples, options, sampler):
    model = filled(nn.Linear(INPUTS, CLASSES))
    quick = {"companions": False, "progress": False, "num_chains": 2, **options}
    draws = 4400 if "epsilon" not in options and sampler == "sghmc" else 200
    result = estimate_llc(
        model, data(examples), sampler="auto",
        **{**quick, "num_draws": draws, "burn_in": draws // 2},
    )  # fmt: skip
    assert result.sampler == sampler
    assert result.sampler_reason


def test_default_draws_are_enough_for_every_sampler():
    """Of those that look for ε; the arguments are refused before any work where they are not."""
    for sampler in ("sgld", "sghmc", "sgnht", "mala"):
        settings = Settings(num_draws=default_draws(sampler))
        settings.configs(sampler, 10_000, 256)


@pytest.mark.parametrize("sampler", ["sgld", "hmc", "mclmc"])
def test_as_many_draws_as_asked_for(sampler):
    """Also of samplers that have a length of their own."""
    arguments = {**SMALL, "epsilon": "auto", "num_draws": 60, "thin": 2, "sampler": sampler}
    if sampler == "sgld":
        arguments["epsilon"] = 1e-4
    result = estimate_llc(filled(nn.Linear(INPUTS, CLASSES)), data(), **arguments)
    assert result.trace.loss.shape == (4, 60)
    assert result.num_burn_in == 30
