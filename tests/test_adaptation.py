"""Samplers that adapt themselves: alone or in company, at once or resumed, in either precision."""

import math

import pytest
import torch
from ladder import GAMMA, NBETA, StoppedError, Stopping, run
from oracles import chain_mean_and_error, cross_loss, normals, quadratic_loss

from llc.checkpoints import Keeper
from llc.data import make_teacher
from llc.diagnostics import ess, excess
from llc.models import dln
from llc.models.dln import LinearLoss
from llc.models.mlp import MLPLoss
from llc.models.mlp import init as init_mlp
from llc.params import Layout, stack
from llc.posterior import LocalPosterior
from llc.samplers.full_data import FullData
from llc.samplers.hmc import hmc
from llc.samplers.mamclmc import mamclmc
from llc.samplers.mclmc import mclmc
from llc.samplers.nuts import nuts
from llc.samplers.rows import RowData
from llc.sampling import Schedule, sample
from llc.streams import Stream
from llc.theory import finite

SIGMAS = 5
WARM_UP = 90
ADAPTIVE = {
    "hmc": lambda part: hmc(part, trajectory=1.5, warm_up=WARM_UP, adapt_mass=True),
    "nuts": lambda part: nuts(part, warm_up=WARM_UP, max_depth=6),
    "mclmc": lambda part: mclmc(part, warm_up=WARM_UP, target=1e-6),
    "mamclmc": lambda part: mamclmc(part, warm_up=WARM_UP),
}
STEPS = {"hmc": 700, "nuts": 700, "mclmc": 6000, "mamclmc": 2000}


def assert_same(one, two):
    for name in ("loss", "acceptance", "energy", "step_size", "squared_gradient", "energy_error"):
        assert torch.equal(*(getattr(t, name).nan_to_num(-1.0) for t in (one, two)))
    assert all(torch.equal(leaf, two.last[name]) for name, leaf in one.last.items())
    assert one.gradients == two.gradients


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_chain_adapts_whatever_its_company(name):
    loss = quadratic_loss([1.0, 0.1, 0.0])
    many = run(ADAPTIVE[name], loss, steps=WARM_UP + 30, chains=5)
    few = run(ADAPTIVE[name], loss, steps=WARM_UP + 30, chains=2)
    torch.testing.assert_close(many.step_size[:2], few.step_size, rtol=1e-6, atol=0)
    torch.testing.assert_close(many.loss[:2], few.loss, rtol=1e-6, atol=1e-9)
    for one, other in (
        (many.squared_gradient, few.squared_gradient),
        (many.energy_error, few.energy_error),
    ):
        torch.testing.assert_close(one[:2], other, rtol=1e-3, atol=1e-6, equal_nan=True)
    assert not torch.equal(many.step_size[0], many.step_size[1])


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_resumed_run_is_the_same_to_the_last_bit(name, tmp_path, monkeypatch):
    """Stopped in the warm-up and after it."""
    monkeypatch.setattr("llc.checkpoints.SHARE", float("inf"))
    loss = quadratic_loss([1.0, 0.1, 0.0])
    centre = {"w": torch.zeros(1, 3, dtype=torch.float64)}
    posterior = LocalPosterior.around(loss, centre, NBETA, GAMMA, 3)
    build = lambda part: ADAPTIVE[name](part)._replace(longest_block=7)  # noqa: E731

    def work(keeper):
        streams = [Stream(4, chain) for chain in range(3)]
        return sample(
            posterior, build, Schedule(WARM_UP + 40, loss.num_examples), streams, keeper=keeper
        )

    for blocks in (6, 10):
        keeper = Stopping(tmp_path / "c.pt", blocks)
        keeper.load()
        with pytest.raises(StoppedError):
            work(keeper)
    keeper = Keeper(tmp_path / "c.pt", period=0)
    assert keeper.load()
    assert_same(work(keeper), work(Keeper()))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_llc_of_a_singular_loss_after_adapting(name):
    """Each chain with what it has learnt; ten of them would do, if they agreed."""
    exact = finite.quadrature(lambda w: (w**2).prod(-1), NBETA, GAMMA, 2)
    steps = WARM_UP + STEPS[name]
    trace = run(ADAPTIVE[name], cross_loss(), steps=steps, chains=48)
    draws = excess(trace, NBETA)[:, WARM_UP:]
    assert ess(draws) > 1000
    mean, error = chain_mean_and_error(draws)
    assert abs(mean - exact) < SIGMAS * error
    assert error < 0.05 * exact


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_networks_in_both_precisions(name, dtype):
    """A linear network: losses are those of the positions, and λ̂ is near the known one."""
    widths, source = (4, 3, 4), torch.Generator().manual_seed(0)
    teacher = make_teacher("aligned_rank", widths, source, dtype, rank=1)
    loss = LinearLoss(normals(500, 4).to(dtype), dln.product(stack([teacher.params])), widths)
    posterior = LocalPosterior.around(loss, stack([teacher.params]), 1000.0, 1.0, 3)
    trace = sample(posterior, ADAPTIVE[name], Schedule(200, 500), [Stream(0, c) for c in range(3)])
    assert trace.loss.isfinite().all()
    again = sample(posterior, ADAPTIVE[name], Schedule(201, 500), [Stream(0, c) for c in range(3)])
    expected = loss.full_data({n: w.double() for n, w in trace.last.items()})
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(
        again.loss[:, 200].double(), expected, rtol=tolerance, atol=1e-3 * tolerance
    )
    assert (excess(again, 1000.0)[:, WARM_UP:].mean() > 1.0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_see_what_the_stack_sees(dtype):
    inputs, targets = normals(50, 3).to(dtype), normals(50, 2, seed=1).to(dtype)
    loss = MLPLoss(inputs, targets, (3, 4, 2))
    centre = stack([init_mlp((3, 4, 2), torch.Generator().manual_seed(0), dtype)])
    posterior = LocalPosterior.around(loss, centre, NBETA, GAMMA, 2)
    full, data, layout = FullData(posterior), RowData(posterior), Layout(loss.shapes, 2)
    where = layout.pack({n: normals(2, *s, seed=9) for n, s in loss.shapes.items()})
    slope = full.gradient(where, torch.empty_like(where.flat))
    value = full.loss(where)
    rows, here = data.rows(data.matrix(where)), data.rows(torch.empty_like(data.ones))
    got = data.evaluate(rows, here)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(data.stack(here.matrix).flat, slope, **close)
    torch.testing.assert_close(got[0], value, **close)
    torch.testing.assert_close(got[1], full.potential(where, value), **close)
    assert math.prod(data.shape) == layout.total
