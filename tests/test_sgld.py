"""One step against its equation, and many chains against the exact law of the recursion."""

import math

import pytest
import torch
from oracles import VectorLoss, cross_loss, dkw_bound, normals, quadratic_loss, run_sgld
from scipy import stats

from llc.models import dln, mlp
from llc.models.dln import LinearLoss
from llc.models.mlp import MLPLoss
from llc.params import stack, unstack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block
from llc.samplers.sgld import look, sgld
from llc.sampling import Schedule, sample
from llc.streams import NormalSource, ShuffledBatches, Stream

WIDTHS, N, CHAINS = (3, 4, 2), 20, 3
ROUNDING = {"rtol": 1e-10, "atol": 1e-11}
FALSE_FAIL = 1e-6


def problem(kind, model, gamma=2.0, nbeta=6.0):
    source = torch.Generator().manual_seed(0)
    centre = stack([model.init(WIDTHS, source, torch.float64)])
    inputs = normals(N, 3)
    answer = normals(2, 3, seed=1) if model is dln else normals(N, 2, seed=1)
    targets = inputs @ answer.T if model is dln else answer
    posterior = LocalPosterior.around(kind(inputs, answer, WIDTHS), centre, nbeta, gamma, CHAINS)

    def potential(params, rows):
        """U_B of one chain, params a dict of leaves that need gradients."""
        loss = (model.apply(params, inputs[rows]) - targets[rows]).square().mean()
        pull = sum((params[name] - centre[name][0]).square().sum() for name in centre)
        return nbeta * loss + gamma / 2 * pull

    return posterior, potential


def drift(potential, params, rows):
    """U, and its gradient as one vector in the order of the leaves."""
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    value = potential(leaves, rows)
    grads = torch.autograd.grad(value, list(leaves.values()))
    return value.detach(), torch.cat([grad.flatten() for grad in grads])


def vector(params):
    return torch.cat([leaf.flatten() for leaf in params.values()])


def fill(params, values):
    parts = values.split([leaf.numel() for leaf in params.values()])
    return {n: part.view_as(params[n]) for n, part in zip(params, parts, strict=True)}


KINDS = [(LinearLoss, dln), (MLPLoss, mlp)]


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize(("kind", "model"), KINDS)
def test_without_noise_it_is_gradient_descent_on_the_potential(kind, model, gamma):
    posterior, potential = problem(kind, model, gamma)
    epsilon, steps = 0.02, 9
    sampler = sgld(posterior, epsilon)
    layout = posterior.layout
    flat = torch.empty(steps, layout.total, dtype=torch.float64)
    silence = torch.zeros(CHAINS, steps, layout.size, dtype=torch.float64)
    noise = sampler.noise
    layout.scatter(silence, flat, noise.anchor, noise.scale, noise.pull)
    start = layout.pack({n: normals(CHAINS, *s, seed=5) for n, s in layout.shapes.items()})
    origin = {name: leaf.clone() for name, leaf in start.leaves.items()}
    batches = posterior.block(steps)
    batches.load(steps, None)
    block = Block([layout.stack(row) for row in flat], flat, batches)
    state, info = sampler.advance(sampler.init(start), block)
    assert state.step == steps
    assert all(torch.equal(start.leaves[name], origin[name]) for name in origin)
    for chain in range(CHAINS):
        params = unstack(origin, chain)
        for step in range(steps):
            _, grad = drift(potential, params, slice(None))
            params = fill(params, vector(params) - epsilon / 2 * grad)
            got = vector(unstack(block.positions[step].leaves, chain))
            torch.testing.assert_close(got, vector(params), **ROUNDING)
    assert info.loss.shape == info.baseline.shape == (steps, CHAINS)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize(("kind", "model"), KINDS)
def test_steps_are_the_formula_with_the_noise_and_the_batches_replayed(kind, model, gamma, shared):
    posterior, potential = problem(kind, model, gamma)
    epsilon, steps, size = 0.02, 5, 6
    streams = [Stream(7, chain) for chain in range(CHAINS)]
    schedule = Schedule(steps, size, shared_batches=shared)
    trace = sample(posterior, lambda part: sgld(part, epsilon), schedule, streams)
    noise = NormalSource(streams, posterior.layout.size, steps, posterior.centre.flat).draw(steps)
    indices = ShuffledBatches(streams, N, size, noise.device).draw(steps).long()
    for chain in range(CHAINS):
        params = unstack(posterior.centre.leaves, chain)
        centre = params
        for step in range(steps):
            rows = indices[step, 0 if shared else chain]
            value, grad = drift(potential, params, rows)
            pull = (vector(params) - vector(centre)).square().sum()
            loss = (value - posterior.gamma / 2 * pull) / posterior.nbeta
            torch.testing.assert_close(trace.loss[chain, step], loss, **ROUNDING)
            base = drift(potential, centre, rows)[0] / posterior.nbeta
            torch.testing.assert_close(trace.baseline[chain, step], base, **ROUNDING)
            kick = math.sqrt(epsilon) * noise[chain, step, : posterior.layout.size]
            params = fill(params, vector(params) - epsilon / 2 * grad + kick)
        last = vector(unstack(trace.last, chain))
        torch.testing.assert_close(last, vector(params), **ROUNDING)


@pytest.mark.parametrize(("kind", "model"), KINDS)
def test_acceptance_is_that_of_mala(kind, model):
    posterior, potential = problem(kind, model)
    layout, epsilon = posterior.layout, 0.05
    here, there = (
        layout.pack({n: 0.5 * normals(CHAINS, *s, seed=seed) for n, s in layout.shapes.items()})
        for seed in (5, 6)
    )
    there = layout.stack(here.flat + 0.2 * there.flat)
    indices = torch.randint(N, (2, CHAINS, 6), generator=torch.Generator().manual_seed(2))
    batches = posterior.block(2)
    batches.load(2, indices.int())
    block = Block([here, there], torch.stack([here.flat, there.flat]), batches)
    slope = layout.stack(torch.zeros_like(here.flat))
    batches.add_gradient(1, here.leaves, slope.leaves, 1.0)
    got = look(posterior, block, range(1, 2), there, slope.flat.unsqueeze(0), epsilon)[1]
    probabilities = []
    for chain in range(CHAINS):
        rows = indices[1, chain]
        one, two = (unstack(stack_.leaves, chain) for stack_ in (here, there))
        (old, old_grad), (new, new_grad) = (drift(potential, w, rows) for w in (one, two))

        def log_q(to, start, grad):
            law = torch.distributions.Normal(vector(start) - epsilon / 2 * grad, epsilon**0.5)
            return law.log_prob(vector(to)).sum()

        log_ratio = old - new + log_q(one, two, new_grad) - log_q(two, one, old_grad)
        probabilities.append(log_ratio.exp().clamp(max=1))
        norm = old_grad.square().sum()
        torch.testing.assert_close(got.squared_gradient[chain], norm, **ROUNDING)
    torch.testing.assert_close(got.acceptance, torch.stack(probabilities), **ROUNDING)
    assert min(probabilities) < 0.99  # the comparison is not about ones only


def test_acceptance_tends_to_one_with_the_step():
    rates = []
    for epsilon in (1e-1, 1e-2, 1e-3):
        loss = quadratic_loss([1.0, 0.3, 0.1])
        start = {"w": normals(200, 3)}
        trace = run_sgld(
            loss, nbeta=10.0, gamma=1.0, epsilon=epsilon, chains=200, num_steps=20,
            start=start, period=1,
        )  # fmt: skip
        rates.append(float(1 - trace.acceptance.mean()))
    # On a Gaussian 1 − α is of order ε^{3/2} or better: at least a factor of 10 for each of ours.
    assert rates[1] < rates[0] / 10
    assert rates[2] < rates[1] / 10


PRECISION, STEPS, MANY = 11.0, 50, 4000


def end_points(epsilon, start_variance, steps=STEPS):
    """Where 4,000 chains stand after `steps` on U = ½·11·w², from N(0, start_variance)."""
    start = {"w": normals(MANY, 1, seed=8) * start_variance**0.5}
    trace = run_sgld(
        quadratic_loss([1.0]), nbeta=10.0, gamma=1.0, epsilon=epsilon, chains=MANY,
        num_steps=steps, start=start,
    )  # fmt: skip
    return trace.last["w"][:, 0].numpy()


def ks_distance(values, variance):
    return stats.kstest(values, stats.norm(scale=variance**0.5).cdf).statistic


@pytest.mark.parametrize("share", [0.01, 0.5, 2.0, 3.5])
def test_the_discretised_law_is_invariant(share):
    """εa = `share`: from exact draws of N(0, 1/(a(1 − εa/4))) chains stay there."""
    epsilon = share / PRECISION
    variance = 1 / (PRECISION * (1 - share / 4))
    distance = ks_distance(end_points(epsilon, variance), variance)
    assert distance < dkw_bound(MANY, FALSE_FAIL)


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_the_exact_posterior_moves_to_the_closed_form_variance(share):
    """Var_k = ρ^{2k} v₀ + ε(1 − ρ^{2k})/(1 − ρ²), ρ = 1 − εa/2, and is seen to leave v₀."""
    epsilon, rho = share / PRECISION, 1 - share / 2
    for steps in (1, 3, STEPS):
        fade = rho ** (2 * steps)
        variance = fade / PRECISION + epsilon * (1 - fade) / (1 - rho**2)
        values = end_points(epsilon, 1 / PRECISION, steps)
        assert ks_distance(values, variance) < dkw_bound(MANY, FALSE_FAIL)
    if share > 1:  # a test that could not tell the two laws apart would prove nothing
        assert ks_distance(values, 1 / PRECISION) > dkw_bound(MANY, FALSE_FAIL)


def test_a_singular_target_is_left_alone_as_the_step_shrinks():
    """Skewed arms: |w₁| of exact draws of exp(−nβ w₁²w₂² − γ‖w‖²/2) against |w₁| after 60 steps."""
    nbeta, gamma = 10.0, 1.0
    source = torch.Generator().manual_seed(1)
    # Given w₁, w₂ is normal of precision 2nβw₁² + γ; w₁ has density ∝ N(0, 1/γ)·(2nβw₁² + γ)^−½,
    # drawn by rejection from N(0, 1/γ).
    first = torch.randn(60_000, generator=source, dtype=torch.float64) / gamma**0.5
    keep = torch.rand(60_000, generator=source, dtype=torch.float64)
    first = first[keep < (gamma / (2 * nbeta * first**2 + gamma)).sqrt()][:MANY]
    assert len(first) == MANY
    second = torch.randn(MANY, generator=source, dtype=torch.float64)
    second /= (2 * nbeta * first**2 + gamma).sqrt()
    start = {"w": torch.stack([first, second], dim=1)}
    trace = run_sgld(
        cross_loss(), nbeta=nbeta, gamma=gamma, epsilon=1e-3, chains=MANY, num_steps=60, start=start
    )  # fmt: skip
    moved = trace.last["w"]
    assert (moved - start["w"]).square().mean() > 0.01
    for column in (0, 1):
        result = stats.ks_2samp(moved[:, column], start["w"][:, column])
        # Dependent samples, each within a DKW bound of the law, ε = 1e-3 moves it far less.
        assert result.statistic < 2 * dkw_bound(MANY, FALSE_FAIL / 2)


@pytest.mark.parametrize("epsilon", [2e-8, 4e-7, 1e-4])
def test_localisation_survives_float32(epsilon):
    """The mean pull towards w* is (εγ/2)(w* − w), though 1 − εγ/2 rounds to one in float32.

    2^20 coordinates, each rounded to about 3e-8 in a direction that the noise makes random: the
    mean is good to 3e-8/√2^20 and the noise itself is subtracted exactly.
    """
    size = 2**20
    loss = VectorLoss(size, lambda w: 0 * w.sum(-1), lambda w: 0 * w)
    centre = {"w": torch.full((1, size), 0.7)}
    posterior = LocalPosterior.around(loss, centre, 1.0, 1.0)
    sampler = sgld(posterior, epsilon)
    noise = math.sqrt(epsilon) * torch.randn(1, size, generator=torch.Generator().manual_seed(0))
    flat = noise + sampler.noise.pull * sampler.noise.anchor
    start = posterior.layout.pack({"w": torch.full((1, size), -0.5)})
    batches = posterior.block(1)
    batches.load(1, None)
    sampler.advance(sampler.init(start), Block([posterior.layout.stack(flat[0])], flat, batches))
    moved = (flat.double() + 0.5 - noise.double()).mean().item()
    expected = epsilon / 2 * 1.2
    assert abs(moved - expected) < 5 * 3e-8 / math.sqrt(size) + 0.002 * expected
