"""Gibbs sampling of deep linear networks against dense algebra, exact draws and quadrature."""

import math

import pytest
import torch
from ladder import MANY, cross_draws
from oracles import chain_mean_and_error, dkw_bound, normals
from scipy import stats

from llc.config import SamplerConfig, SGLDConfig
from llc.data import make_teacher
from llc.diagnostics import ess, excess
from llc.estimate import estimate_one
from llc.models import dln
from llc.models.dln import LinearLoss
from llc.models.mlp import MLPLoss
from llc.params import stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block
from llc.samplers.choose import choose
from llc.samplers.gibbs import gibbs
from llc.samplers.mala import mala
from llc.sampling import Schedule, sample
from llc.streams import Stream
from llc.theory import deep_linear, finite

NBETA, GAMMA, SIGMAS, FALSE_FAIL = 10.0, 1.0, 5, 1e-6


def network(widths, *, chains, nbeta=NBETA, gamma=GAMMA, seed=0, inputs=40, dtype=torch.float64):
    """Around a point that is not the teacher; few `inputs` leave directions unseen."""
    source = torch.Generator().manual_seed(seed)
    centre = {n: w.to(dtype) for n, w in dln.init(widths, source, torch.float64).items()}
    x = normals(inputs, widths[0], seed=seed + 1).to(dtype)
    teacher = normals(widths[-1], widths[0], seed=seed + 2).to(dtype)
    loss = LinearLoss(x, teacher, widths)
    return LocalPosterior.around(loss, stack([centre]), nbeta, gamma, chains)


def sweep(posterior, start, noise):
    """One sweep with the noise given: leaves after it."""
    layout = posterior.layout
    sampler = gibbs(posterior)
    flat = layout.pack(noise).flat.clone().unsqueeze(0)
    batches = posterior.block(1)
    batches.load(1, None)
    block = Block([layout.stack(flat[0])], flat, batches)
    state, _ = sampler.advance(sampler.init(layout.pack(start)), block)
    return state


def potential_of_layer(posterior, layers, index):
    """U as a function of one layer's entries, the others fixed; one chain."""
    loss, centre = posterior.loss, posterior.centre.leaves

    def value(entries):
        own = [w if i != index else entries.view_as(w) for i, w in enumerate(layers)]
        gap = torch.linalg.multi_dot(own[::-1]) - loss.teacher[0]
        data = (loss.inputs @ gap.T).square().mean()
        pull = sum((w - c[0]).square().sum() for w, c in zip(own, centre.values(), strict=True))
        return posterior.nbeta * data + posterior.gamma / 2 * pull

    return value


@pytest.mark.parametrize("widths", [(3, 4, 2), (2, 5, 3, 4), (6, 2, 2, 5)])
@pytest.mark.parametrize("inputs", [40, 3])  # with 3 inputs the second moment has no full rank
def test_each_layer_is_drawn_from_its_conditional(widths, inputs):
    """Without noise a layer goes to its conditional mean; noise moves it by Σ^½ of U's Hessian."""
    posterior = network(widths, chains=1, inputs=inputs)
    shapes = posterior.loss.shapes
    start = {n: normals(1, *s, seed=i + 5) for i, (n, s) in enumerate(shapes.items())}
    silence = {n: torch.zeros(1, *s, dtype=torch.float64) for n, s in shapes.items()}
    means = sweep(posterior, start, silence).position.leaves
    layers = [start[name][0] for name in shapes]
    for index, name in enumerate(shapes):
        value = potential_of_layer(posterior, layers, index)
        here = layers[index].flatten()
        slope = torch.autograd.functional.jacobian(value, here)
        hessian = torch.autograd.functional.hessian(value, here)
        mean = here - torch.linalg.solve(hessian, slope)
        torch.testing.assert_close(means[name][0].flatten(), mean, rtol=1e-8, atol=1e-9)
        columns = []
        for entry in range(len(here)):
            kick = {n: leaf.clone() for n, leaf in silence.items()}
            kick[name].flatten()[entry] = 1.0
            columns.append(sweep(posterior, start, kick).position.leaves[name][0].flatten() - mean)
        spread = torch.stack(columns, 1)
        torch.testing.assert_close(
            spread @ spread.T, torch.linalg.inv(hessian), rtol=1e-7, atol=1e-9
        )
        layers[index] = means[name][0]


def test_the_loss_is_that_of_the_position_and_nothing_is_overwritten():
    posterior = network((3, 4, 2), chains=3)
    shapes = posterior.loss.shapes
    start = {n: normals(3, *s, seed=4) for n, s in shapes.items()}
    before = {n: leaf.clone() for n, leaf in start.items()}
    state = sweep(posterior, start, {n: normals(3, *s, seed=6) for n, s in shapes.items()})
    full = posterior.loss.full_data(state.position.leaves)
    torch.testing.assert_close(state.loss, full, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(start[n], before[n]) for n in start)


def scalar_network(chains):
    """f(x) = w₂w₁x around zero with ⟨x²⟩ = 1: L = w₁²w₂²."""
    loss = LinearLoss(
        torch.ones(4, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64), (1, 1, 1)
    )
    zero = {n: torch.zeros(1, 1, 1, dtype=torch.float64) for n in loss.shapes}
    return LocalPosterior.around(loss, zero, NBETA, GAMMA, chains)


def run(posterior, steps, start=None, build=gibbs, seed=0):
    streams = [Stream(seed, chain) for chain in range(posterior.chains)]
    n = posterior.loss.num_examples
    return sample(posterior, build, Schedule(steps, n), streams, start=start)


def test_exact_draws_of_a_singular_posterior_stay_exact():
    draws = cross_draws()
    start = {n: draws[:, i].view(-1, 1, 1) for i, n in enumerate(("layer1", "layer2"))}
    last = run(scalar_network(MANY), 5, start).last
    fresh = cross_draws(seed=2)
    for i, name in enumerate(("layer1", "layer2")):
        assert (last[name] - start[name]).square().mean() > 0.1
        distance = stats.ks_2samp(last[name].flatten().numpy(), fresh[:, i].numpy()).statistic
        assert distance < 2 * dkw_bound(MANY, FALSE_FAIL / 2)


def test_llc_is_that_of_quadrature():
    exact = finite.quadrature(lambda w: (w**2).prod(-1), NBETA, GAMMA, 2)
    draws = excess(run(scalar_network(64), 2000), NBETA)[:, 500:]
    assert ess(draws) > 1000
    mean, error = chain_mean_and_error(draws)
    assert abs(mean - exact) < SIGMAS * error
    assert error < 0.03 * exact


def heated(heat, warm_up):
    return lambda posterior: gibbs(posterior, heat=heat, warm_up=warm_up)


def test_heated_sweeps_report_the_excess_of_their_temperature():
    """One layer is drawn afresh by each sweep: nβ(L − L*)/T has the exact mean at nβ/T."""
    widths, sweeps, heat, warm_up = (3, 2), 12, 1e4, 8
    weights = normals(1, 2, 3)
    loss = LinearLoss(normals(40, 3, seed=1), weights[0], widths)
    posterior = LocalPosterior.around(loss, {"layer1": weights}, 1e3, GAMMA, 4000)
    draws = excess(run(posterior, sweeps, build=heated(heat, warm_up)), 1e3)
    curvatures = torch.linalg.eigvalsh(loss.second_moment).repeat(2).numpy()  # 2/o of two outputs
    for sweep in range(1, sweeps):
        temperature = heat ** max(0, 1 - (sweep - 1) / warm_up)
        exact = finite.quadratic(curvatures, 1e3 / temperature, GAMMA)
        mean, error = draws[:, sweep].mean(), draws[:, sweep].std() / len(draws) ** 0.5
        assert abs(mean - exact) < SIGMAS * error
        assert error < 0.05 * exact


def test_heated_chains_end_in_the_posterior():
    exact = finite.quadrature(lambda w: (w**2).prod(-1), NBETA, GAMMA, 2)
    draws = excess(run(scalar_network(64), 2000, build=heated(100.0, 500)), NBETA)[:, 500:]
    assert ess(draws) > 1000
    mean, error = chain_mean_and_error(draws)
    assert abs(mean - exact) < SIGMAS * error
    assert error < 0.03 * exact


def test_heat_shortens_the_way_to_equilibrium_in_deep_networks():
    """Ten layers between 10 and 97 wide around zero, 40 sweeps: cooled chains are there."""
    widths, nbeta = (81, 65, 72, 18, 97, 17, 10, 39, 82, 26, 23), 1e12
    zero = {n: torch.zeros(1, *s, dtype=torch.float64) for n, s in dln.shapes(widths).items()}
    loss = LinearLoss(normals(200, 81), torch.zeros(23, 81, dtype=torch.float64), widths)
    posterior = LocalPosterior.around(loss, zero, nbeta, 30.0, 8)
    known = float(deep_linear(widths, 0).value)

    def off(build):
        mean, error = chain_mean_and_error(excess(run(posterior, 40, build=build), nbeta)[:, 20:])
        return mean / known - 1, SIGMAS * error / known

    (plain, plain_error), (cooled, cooled_error) = off(gibbs), off(heated(1e10, 10))
    assert plain > 0.06 + plain_error
    assert abs(cooled) < 0.06 + cooled_error


def test_heat_is_for_the_chains_from_the_centre_alone():
    config = SamplerConfig("gibbs", heat=10.0)
    posterior = network((3, 4, 2), chains=1)
    made = [choose(config, SGLDConfig(), steps=40, temperature=t)(posterior) for t in (None, 1.0)]
    assert [sampler.warm_up for sampler in made] == [10, 0]


def test_it_agrees_with_mala_where_nothing_is_known():
    """Widths 2-3-2, a centre that is no minimum: two samplers with nothing in common."""
    posterior = network((2, 3, 2), chains=64)
    means = []
    for build in (gibbs, lambda part: mala(part, 0.1, warm_up=500)):
        draws = excess(run(posterior, 3000, build=build), NBETA)[:, 1000:]
        assert ess(draws) > 1000
        means.append(chain_mean_and_error(draws))
    (one, error), (other, other_error) = means
    assert abs(one - other) < SIGMAS * math.hypot(error, other_error)


def test_llc_approaches_the_learning_coefficient():
    """An aligned network of 5-7-6-5, rank 2: ten chains at nβ = 1e7."""
    teacher = make_teacher(
        widths=(5, 7, 6, 5), method="aligned_rank", rank=2, dtype=torch.float64,
        generator=torch.Generator().manual_seed(0), prop_rank_reduce=0.0, mean=0.0, std=1.0,
    )  # fmt: skip
    loss = LinearLoss(normals(1000, 5), dln.product(teacher.params), (5, 7, 6, 5))
    posterior = LocalPosterior.around(loss, stack([teacher.params]), 1e7, 1.0, 10)
    draws = excess(run(posterior, 2000), 1e7)[:, 500:]
    mean, error = chain_mean_and_error(draws)
    assert error < 0.02 * mean
    assert abs(mean / float(teacher.local_coefficient()) - 1) < 0.02 + SIGMAS * error / mean


def test_chains_do_not_depend_on_their_company_nor_on_their_centres():
    many, few = (run(network((3, 4, 2), chains=c), 20) for c in (5, 2))
    torch.testing.assert_close(many.loss[:2], few.loss, rtol=1e-8, atol=1e-12)


def test_float32_networks_are_sampled_in_float64():
    posterior = network((3, 4, 2), chains=2, dtype=torch.float32)
    sampler = gibbs(posterior)
    state = sampler.init(posterior.centre)
    assert state.position.flat.dtype == state.loss.dtype == torch.float64


def test_where_rounding_reaches_the_loss_it_says_so():
    """Fourteen layers of width 30 with γ = 0.01: norms of 100 each multiply to 1e28."""
    widths = (30,) * 15
    params = dln.init(widths, torch.Generator().manual_seed(0), torch.float64)
    loss = LinearLoss(normals(200, 30), dln.product(params), widths)
    config = SGLDConfig(gamma=0.01, num_chains=2)
    result = estimate_one(
        loss, params, nbeta=1e6, sgld_config=config, sampler_config=SamplerConfig("gibbs", 20),
        companions=False,
    )  # fmt: skip
    assert math.isnan(result.mean)
    assert result.status.startswith("diverged at step")
    assert result.status.endswith("rounding is as large as the loss: raise gamma")


def test_only_linear_networks_with_localisation():
    inputs = normals(5, 2)
    loss = MLPLoss(inputs, inputs, (2, 3, 2))
    zero = {n: torch.zeros(1, *s, dtype=torch.float64) for n, s in loss.shapes.items()}
    with pytest.raises(ValueError, match="deep linear networks only"):
        gibbs(LocalPosterior.around(loss, zero, 1.0, 1.0))
    with pytest.raises(ValueError, match="give gamma > 0"):
        gibbs(network((2, 2), chains=1, gamma=0.0))
