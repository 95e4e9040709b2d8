"""Every sampler by its name, through `estimate_one`, on a quadratic whose λ̂ is known exactly."""

import pytest
import torch
from ladder import StoppedError, Stopping
from oracles import normals

from llc.checkpoints import Keeper
from llc.config import SAMPLERS, SamplerConfig, SGLDConfig, parse
from llc.estimate import estimate_one
from llc.models import dln
from llc.models.dln import LinearLoss
from llc.models.functions import potential_loss
from llc.params import stack
from llc.posterior import LocalPosterior
from llc.samplers.choose import choose
from llc.sampling import Schedule, sample
from llc.streams import Stream
from llc.theory import finite

CURVATURES = torch.tensor([1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0]).double()
NBETA, GAMMA = 100.0, 1.0
EXACT = finite.quadratic(CURVATURES.numpy(), NBETA, GAMMA)
STEPS = {"mala": 6000, "hmc": 1000, "nuts": 600, "mamclmc": 2000, "mclmc": 6000}


def estimate(config, seed=0, steps=10_000):
    loss = potential_loss(
        lambda w: 0.5 * (CURVATURES * w["w"].square()).sum(-1), {"w": (10,)}, 1000
    )
    sgld = SGLDConfig(
        epsilon=1e-3, gamma=GAMMA, num_steps=steps, num_chains=8, batch_size=10, burn_in_prop=0.5
    )
    centre = {"w": torch.zeros(10, dtype=torch.float64)}
    return estimate_one(
        loss, centre, nbeta=NBETA, sgld_config=sgld, sampler_config=config, seed=seed
    )


CHOICES = [{"name": name, "num_steps": STEPS.get(name)} for name in SAMPLERS if name != "gibbs"] + [
    {"name": "sgld", "preconditioner": "rmsprop"},
    {"name": "sgld", "preconditioner": "adam"},
    {"name": "hmc", "num_steps": 1000, "adapt_mass": True, "target_acceptance": 0.7},
    {"name": "sghmc", "friction": 0.5},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(map(str, c.values())))
def test_every_sampler_reads_the_exact_value(choice):
    result = estimate(parse(SamplerConfig, choice))
    bias = 0.0 if result.step_size_bias != result.step_size_bias else result.step_size_bias
    # MCLMC is tuned to an energy error that leaves about two per cent (Robnik et al. 2023).
    allowed = 0.05 * EXACT if choice["name"] == "mclmc" else abs(bias)
    assert abs(result.mean - EXACT) < 5 * result.standard_error + allowed
    assert result.standard_error < 0.05 * EXACT


@pytest.mark.parametrize(
    "choice", [*({"name": name} for name in SAMPLERS), {"name": "gibbs", "heat": 100.0}]
)
def test_a_stopped_run_goes_on_to_the_last_bit(choice, tmp_path, monkeypatch):
    monkeypatch.setattr("llc.checkpoints.SHARE", float("inf"))
    inputs, widths = normals(60, 3), (3, 4, 2)
    loss = LinearLoss(inputs, normals(2, 3, seed=1), widths)
    centre = stack([dln.init(widths, torch.Generator().manual_seed(0), torch.float64)])
    posterior = LocalPosterior.around(loss, centre, 20.0, 1.0, 2)
    sampler = SamplerConfig(**choice, num_steps=40)
    config = sampler.applied(SGLDConfig(epsilon=1e-3, batch_size=6, burn_in_prop=0.5), 60)

    def build(part):
        made = choose(sampler, config, steps=40, check_period=7)(part)
        return made._replace(longest_block=3)

    def work(keeper):
        schedule = Schedule(config.num_steps, config.batch_size)
        return sample(posterior, build, schedule, [Stream(4, 0), Stream(4, 1)], keeper=keeper)

    for blocks in (3, 4):
        keeper = Stopping(tmp_path / "c.pt", blocks)
        keeper.load()
        with pytest.raises(StoppedError):
            work(keeper)
    keeper = Keeper(tmp_path / "c.pt", period=0)
    assert keeper.load()
    resumed, alone = work(keeper), work(Keeper())
    for field in ("loss", "baseline", "acceptance", "energy", "step_size"):
        one, other = getattr(resumed, field), getattr(alone, field)
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0)), field
    assert alone.loss.isfinite().all()


def test_options_reach_the_sampler():
    """The same chain with an option spelt out and left out; another value gives another chain."""
    short = {"steps": 300}
    plain = estimate(SamplerConfig("sghmc"), **short).trace.loss
    same = estimate(SamplerConfig("sghmc", friction=0.1), **short).trace.loss
    other = estimate(SamplerConfig("sghmc", friction=0.2), **short).trace.loss
    assert torch.equal(plain, same)
    assert not torch.equal(plain, other)
    one = estimate(SamplerConfig("hmc", num_steps=40)).trace.step_size[:, -1]
    two = estimate(SamplerConfig("hmc", num_steps=40, target_acceptance=0.5)).trace.step_size[:, -1]
    assert (two > one).double().mean() > 0.5


def test_what_adapts_itself_has_a_burn_in_that_covers_it():
    with pytest.raises(ValueError, match=r"burn_in_prop=0\.1: nuts adapts itself"):
        SamplerConfig("nuts", burn_in_prop=0.1).applied(SGLDConfig(), 1000)
    with pytest.raises(ValueError, match="needs a preconditioner"):
        parse(SamplerConfig, {"correction": True})
