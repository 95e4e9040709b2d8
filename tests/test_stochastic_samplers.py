"""What holds for every sampler on minibatches: resuming, company, bad starts, and λ̂ as ε → 0."""

import math

import numpy as np
import pytest
import torch
from ladder import GAMMA, NBETA, cross_draws, run, skewed
from oracles import chain_mean_and_error, cross_loss, normals, quadratic_loss
from stochastic import BATCH, CHAINS, STREAMS, problem
from test_checkpoints import assert_equal, with_kills

import llc.sampling.feed
import llc.sampling.threads
from llc.data import make_teacher
from llc.diagnostics import ess, excess
from llc.models import dln
from llc.models.dln import LinearLoss
from llc.params import stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block
from llc.samplers.gibbs import gibbs
from llc.samplers.psgld import psgld
from llc.samplers.sghmc import sghmc
from llc.samplers.sgld import sgld
from llc.samplers.sgld_cv import sgld_cv
from llc.samplers.sgnht import sgnht
from llc.sampling import Schedule, sample
from llc.streams import Stream
from llc.theory import quadratic, quadrature

SIGMAS = 5

# Of a unit ε: metrics are learnt in a warm-up and then kept, which is exact as ε → 0.
SAMPLERS = {
    "sgld": lambda e: lambda p: sgld(p, e, 5),
    "rmsprop": lambda e: lambda p: psgld(p, e, stability=0.5, warm_up=200, check_period=5),
    "adam": lambda e: (
        lambda p: psgld(p, e, stability=0.5, warm_up=200, momentum=0.5, check_period=5)
    ),
    "corrected": lambda e: lambda p: psgld(p, e, stability=0.5, correction=True),
    "sgld_cv": lambda e: lambda p: sgld_cv(p, e, 5),
    "sghmc": lambda e: lambda p: sghmc(p, e, friction=0.3, check_period=5),
    "sgnht": lambda e: lambda p: sgnht(p, e, friction=0.1),
}
EVERY = pytest.mark.parametrize("name", SAMPLERS)
EXACT = pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "corrected"])


def sampled(build, posterior=None, keeper=None, streams=STREAMS, **schedule):
    schedule = {"num_steps": 50, "batch_size": BATCH, "distances": True, **schedule}
    posterior = posterior or problem()[0]
    return sample(posterior, build, Schedule(**schedule), streams, keeper=keeper)


@EVERY
@pytest.mark.parametrize("small", [0, 20_000])
def test_chains_go_on_to_the_last_bit(name, small, tmp_path, monkeypatch):
    monkeypatch.setattr("llc.checkpoints.SHARE", math.inf)  # a write at every tick
    monkeypatch.setattr(llc.sampling.threads, "SMALL", small)
    monkeypatch.setattr(llc.sampling.feed, "block_steps", lambda *_: 4)
    build = SAMPLERS[name](1e-2)
    whole = sampled(build)

    def work(keeper):
        return sampled(build, keeper=keeper)

    resumed, kills = with_kills(tmp_path / "c.pt", work, [0, 3, 5, 1])
    assert kills == 4
    assert_equal(whole._asdict(), resumed._asdict())
    assert whole.loss.isfinite().all()


@EVERY
def test_neither_company_nor_blocks_nor_threads_matter(name, monkeypatch):
    build = SAMPLERS[name](1e-2)
    whole = sampled(build)
    posterior, _ = problem()
    alone = sampled(build, posterior.select(slice(1, 2)), streams=STREAMS[1:2])
    torch.testing.assert_close(alone.loss[0], whole.loss[1], rtol=1e-9, atol=1e-9)
    monkeypatch.setattr(llc.sampling.feed, "block_steps", lambda *_: 7)
    monkeypatch.setattr(llc.sampling.threads, "SMALL", 0)
    torch.set_num_threads(2)
    try:
        cut = sampled(build)
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(cut.loss, whole.loss, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(cut.squared_gradient, whole.squared_gradient, equal_nan=True)


@EVERY
def test_what_is_carried_is_never_overwritten(name):
    posterior, _ = problem()
    sampler, layout = SAMPLERS[name](1e-2)(posterior), posterior.layout
    state = sampler.init(posterior.centre)
    for _ in range(2):
        flat = 0.1 * normals(3, layout.total, seed=3)
        batches = posterior.block(3)
        batches.load(3, torch.zeros(3, CHAINS, BATCH).int())
        before = [part.clone() for part in tensors(state)]
        after, info = sampler.advance(state, Block([layout.stack(f) for f in flat], flat, batches))
        assert all(map(torch.equal, before, tensors(state)))
        assert info.loss.shape == info.baseline.shape == (3, CHAINS)
        state = after


def tensors(state):
    rest = [part for part in state[1:] if isinstance(part, torch.Tensor)]
    return [state.position.flat, *rest]


@EVERY
def test_a_chain_that_diverges_is_marked_and_its_neighbours_are_not(name):
    loss = quadratic_loss([1.0])
    start = torch.tensor([[0.1], [1e200], [0.1]], dtype=torch.float64)
    trace = run(SAMPLERS[name](1e-2), loss, steps=40, chains=3, start=start)
    assert trace.diverged_at.tolist() == [-1, 0, -1]
    assert trace.loss[[0, 2]].isfinite().all()


@EXACT
def test_moments_from_a_bad_start(name):
    """λ̂ on a quadratic from three away: within five errors and what ε leaves (at most 1 %)."""
    h = [1.0, 0.1, 0.0]
    start = torch.full((64, 3), 3.0, dtype=torch.float64)
    trace = run(SAMPLERS[name](0.006), quadratic_loss(h), steps=4000, chains=64, start=start)
    assert excess(trace, NBETA)[:, 0].mean() > 40
    draws = excess(trace, NBETA)[:, 1500:]
    assert ess(draws) > 1000
    mean, error = chain_mean_and_error(draws)
    exact = quadratic(h, NBETA, GAMMA)
    assert abs(mean - exact) < SIGMAS * error + 0.01 * exact


@EXACT
def test_llc_of_a_singular_loss_is_that_of_quadrature(name):
    """w₁²w₂² from exact draws; five errors and 1 % for the step."""
    exact = quadrature(lambda w: (w**2).prod(-1), NBETA, GAMMA, 2)
    start = cross_draws()[:1000]
    trace = run(SAMPLERS[name](0.002), cross_loss(), steps=1500, chains=1000, start=start)
    mean, error = chain_mean_and_error(excess(trace, NBETA)[:, 300:])
    assert error < 0.02 * exact
    assert abs(mean - exact) < SIGMAS * error + 0.01 * exact


@EXACT
def test_the_bias_on_a_skewed_target_goes_with_the_step(name):
    """λ̂ of e^w − w − 1 twice, from exact draws on: at ε and at ε/4."""
    exact = quadrature(lambda w: (np.exp(w) - w - 1).sum(-1), NBETA, GAMMA, 2)
    target, gaps = skewed(), []
    for epsilon in (0.12, 0.03):
        trace = run(
            SAMPLERS[name](epsilon), target.loss, steps=450, chains=1500, start=target.start[:1500]
        )
        mean, error = chain_mean_and_error(excess(trace, NBETA)[:, 250:])
        gaps.append((mean - exact, error))
    (coarse, _), (fine, error) = gaps
    assert abs(fine) < abs(coarse) / 2 + SIGMAS * error


def linear_posterior(chains):
    """An aligned network 3-3-3 of rank one, its data noise-free."""
    source = torch.Generator().manual_seed(0)
    teacher = make_teacher("aligned_rank", (3, 3, 3), source, torch.float64, rank=1)
    loss = LinearLoss(normals(1000, 3), dln.product(teacher.params), (3, 3, 3))
    posterior = LocalPosterior.around(loss, stack([teacher.params]), 2000.0, 10.0, chains)
    return posterior, float(teacher.coefficient().value)


def network_llc(build, batch_size, steps, epsilon=0.0, chains=32):
    """λ̂ freed of the step-size bias that the checks tell, its error, ESS, the bias, and λ."""
    posterior, known = linear_posterior(chains)
    streams = [Stream(0, chain) for chain in range(chains)]
    trace = sample(posterior, build, Schedule(steps, batch_size), streams)
    draws = excess(trace, posterior.nbeta)[:, steps // 3 :]
    norms = trace.squared_gradient[:, trace.checked_steps >= steps // 3].nan_to_num()
    bias = epsilon / 8 * norms.mean(1, keepdim=True).numpy() if norms.numel() else 0.0
    return *chain_mean_and_error(draws - bias), ess(draws), np.mean(bias), known


@pytest.fixture(scope="module")
def reference():
    """λ̂ of the same posterior by Gibbs sampling."""
    return network_llc(gibbs, 1000, 1500)


@EXACT
def test_llc_of_a_deep_linear_network(name, reference):
    """Minibatches of a tenth, against Gibbs sampling: five errors of both, and 2 %."""
    exact, exact_error, _, _, known = reference
    mean, error, effective, bias, _ = network_llc(SAMPLERS[name](5e-5), 100, 6000, 5e-5)
    print(
        f"{name}: λ = {known}, Gibbs {exact:.3f} ± {exact_error:.3f}, "
        f"λ̂ = {mean:.3f} ± {error:.3f} after {bias:.3f} for the step; ESS {effective:.0f}"
    )
    assert known == 4.0
    assert abs(exact / known - 1) < 0.1  # nβ/γ = 200
    assert effective > 1000
    assert error < 0.02 * exact
    assert abs(mean - exact) < SIGMAS * math.hypot(error, exact_error) + 0.02 * exact
