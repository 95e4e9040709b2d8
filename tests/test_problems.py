"""Benchmark problems: their sizes, gradients, minima, and λ against independent computations."""

import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from oracles import normals

from llc import problems
from llc.config import ConfigError
from llc.models import dln, mlp
from llc.params import Layout, count, select, stack
from llc.posterior import LocalPosterior
from llc.problems.analytic import mixture_losses, tanh_losses
from llc.problems.oracles import NODES, by_quadrature, sample_rule, weighted_mean
from llc.problems.sizing import fit
from llc.streams import ShuffledBatches, Stream
from llc.theory import deep_linear, quadratic, reduced_rank_regression

N, BATCH, CHAINS = 60, 12, 3
QUADRATURE = 1e-6  # what it promises, relative
SMALL = {"target_params": 60}
OPTIONS = {
    **{name: {**SMALL, "erm_steps": 300} for name in ("relu_mlp", "tanh_mlp", "gelu_mlp")},
    **dict.fromkeys(("dln", "reduced_rank"), SMALL),
    "quadratic": {"curvatures": (0.0, 0.5, 2.0)},
    "normal_crossing": {"exponents": (1, 2, 0)},
}
SIZED = [name for name in problems.NAMES if name not in ("tanh", "gaussian_mixture")]


@cache
def small(name, **changes):
    arguments = {"num_training_data": N, "seed": 3, **OPTIONS.get(name, {}), **changes}
    return problems.make(name, **arguments)


def around(problem, spread=0.3, seed=0, chains=CHAINS):
    """Points about w*, a stack in one buffer."""
    layout = Layout(problem.loss.shapes, chains)
    centre = layout.pack(
        {k: leaf.expand(chains, *leaf.shape) for k, leaf in problem.centre.items()}
    )
    return layout.stack(centre.flat + spread * normals(layout.total, seed=seed))


def full_gradient(loss, weights):
    block = loss.block(weights, loss.reference(weights), 1)
    block.load(1, None)
    out = {name: torch.zeros_like(leaf) for name, leaf in weights.items()}
    with torch.no_grad():
        block.add_gradient(0, weights, out, 1.0)
    return out, block.losses()[0]


@pytest.mark.parametrize("name", problems.NAMES)
def test_a_problem_is_whole(name):
    problem = small(name)
    assert problem.name == name
    assert problem.description
    assert problem.reason
    assert problem.num_training_data == N
    assert problem.num_params == sum(leaf.numel() for leaf in problem.centre.values())
    assert {k: tuple(leaf.shape) for k, leaf in problem.centre.items()} == dict(problem.loss.shapes)
    assert all(leaf.dtype == torch.float64 for leaf in problem.centre.values())
    assert (problem.known is None) == name.endswith("_mlp")


@pytest.mark.parametrize("name", problems.NAMES)
def test_gradients_over_all_data_against_differences(name):
    """Along a random direction, per chain: error h²f'''/6 of order 1e-8 and 2e-16·f/h, 1e-10."""
    problem, h = small(name), 1e-5
    weights = around(problem)
    layout = Layout(problem.loss.shapes, CHAINS)
    direction = normals(layout.total, seed=1) / problem.num_params**0.5
    grad, losses = full_gradient(problem.loss, weights.leaves)
    slope = sum(
        (grad[k] * leaf).reshape(CHAINS, -1).sum(1) for k, leaf in layout.views(direction).items()
    )
    ahead, behind = (
        problem.loss.full_data(layout.views(weights.flat + sign * h * direction))
        for sign in (1, -1)
    )
    torch.testing.assert_close(slope, (ahead - behind) / (2 * h), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(losses, problem.loss.full_data(weights.leaves), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", problems.NAMES)
def test_an_epoch_of_minibatches_is_all_the_data(name):
    loss, weights = small(name).loss, around(small(name)).leaves
    steps = N // BATCH
    streams = [Stream(0, chain) for chain in range(CHAINS)]
    batches = ShuffledBatches(streams, N, BATCH, torch.device("cpu")).draw(steps)
    centre = stack([small(name).centre])
    block = loss.block(weights, loss.reference(centre), steps)
    block.load(steps, batches)
    parts = {key: torch.zeros_like(leaf) for key, leaf in weights.items()}
    with torch.no_grad():
        for step in range(steps):
            block.add_gradient(step, weights, parts, 1 / steps)
    whole, _ = full_gradient(loss, weights)
    rounding = {"rtol": 1e-11, "atol": 1e-13}  # sums of 60 numbers of order one
    torch.testing.assert_close(parts, whole, **rounding)
    torch.testing.assert_close(block.losses().mean(0), loss.full_data(weights), **rounding)
    base = loss.full_data(centre).expand(CHAINS)
    torch.testing.assert_close(block.baselines().mean(0), base, **rounding)


@pytest.mark.parametrize("name", problems.NAMES)
def test_a_chain_does_not_depend_on_its_stack(name):
    loss, weights = small(name).loss, around(small(name)).leaves
    whole, losses = full_gradient(loss, weights)
    for chain in range(CHAINS):
        alone, loss_alone = full_gradient(loss, select(weights, slice(chain, chain + 1)))
        torch.testing.assert_close(loss_alone, losses[chain : chain + 1], rtol=1e-12, atol=0)
        for key, leaf in alone.items():
            here = whole[key][chain : chain + 1]
            torch.testing.assert_close(leaf, here, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", [n for n in problems.NAMES if not n.endswith("_mlp")])
def test_the_centre_is_a_minimum(name):
    """That of a sample by O(1/n) only: twice the log likelihood ratio stays below 20."""
    problem = small(name)
    slack = 10 / N if name == "gaussian_mixture" else 0
    least = float(problem.loss.full_data(stack([problem.centre])))
    for spread in (1e-3, 0.1, 1.0):
        found = problem.loss.full_data(around(problem, spread, chains=200).leaves)
        assert float(found.min()) >= least - slack
    grad, _ = full_gradient(problem.loss, stack([problem.centre]))
    assert all(not leaf.any() for leaf in grad.values())


def test_the_sample_of_a_mixture_has_lower_losses_than_the_truth():
    """Or its slack would be for nothing."""
    problem = small("gaussian_mixture")
    found = problem.loss.full_data(around(problem, 1.0, chains=500).leaves)
    assert -10 / N < float(found.min()) < 0


@pytest.mark.parametrize("name", ["relu_mlp", "tanh_mlp", "gelu_mlp"])
def test_training_arrives_near_a_minimum(name):
    """No network does better than the noise by more than its share d/n; 2 000 steps reach it.

    In expectation a minimum over d parameters is the noise's 0.01·(1 − d/n); the deviation of a
    mean of n squares is √(2/n), five of them: false-fail 3e-7 a side.
    """
    n = 2000
    problem = problems.make(name, target_params=50, num_training_data=n, erm_steps=2000)
    start = problems.make(name, target_params=50, num_training_data=n, erm_steps=1)
    loss = float(problem.loss.full_data(stack([problem.centre])))
    before = float(problem.loss.full_data(stack([start.centre])))
    assert loss > 0.01 * (1 - problem.num_params / n - 5 * math.sqrt(2 / n))
    assert loss < before / 4
    grad, _ = full_gradient(problem.loss, stack([problem.centre]))
    first, _ = full_gradient(problem.loss, stack([start.centre]))
    assert flat(grad).norm() < flat(first).norm() / 4


def flat(params):
    return torch.cat([leaf.reshape(-1) for leaf in params.values()])


@pytest.mark.parametrize("name", problems.NAMES)
def test_the_seed_names_the_problem_in_every_precision(name):
    first = small(name)
    again = problems.make(name, num_training_data=N, seed=3, **OPTIONS.get(name, {}))
    single = small(name, dtype=torch.float32)
    at = around(first).leaves
    assert torch.equal(first.loss.full_data(at), again.loss.full_data(at))
    for key, leaf in first.centre.items():
        assert torch.equal(leaf, again.centre[key])
        assert torch.equal(leaf.float(), single.centre[key])
    low = single.loss.full_data({key: leaf.float() for key, leaf in at.items()})
    torch.testing.assert_close(low, first.loss.full_data(at), rtol=1e-4, atol=1e-7)
    if name not in ("quadratic", "normal_crossing"):
        assert not torch.equal(small(name, seed=4).loss.full_data(at), first.loss.full_data(at))


@pytest.mark.parametrize("target", [50, 300, 1000, 10_000])
@pytest.mark.parametrize("name", SIZED)
def test_sizes(name, target):
    """One unit more in one layer is at most the widest pair of its neighbours, and a bias or two.

    The candidates go from size s to s + 1 one unit at a time, so that one is at most half that off.
    (Two units at a time for the ends of a reduced-rank regression.)
    """
    quick = {"erm_steps": 1} if name.endswith("_mlp") else {}
    problem = problems.make(name, target_params=target, num_training_data=20, **quick)
    if name in ("quadratic", "normal_crossing"):
        assert problem.num_params == target
        return
    widths = [0, *problem.loss.widths, 0]
    step = max(a + b + 3 for a, b in zip(widths, widths[2:], strict=False))
    assert abs(problem.num_params - target) <= (step if name == "reduced_rank" else step / 2)
    assert "-".join(map(str, problem.loss.widths)) in problem.description


def test_the_nearest_of_all_candidates_is_taken():
    found = fit(51, 2, lambda s: (4, *s, 1), lambda widths: count(mlp.shapes(widths)))
    assert found == (4, 4, 5, 1)
    assert count(mlp.shapes(found)) == 51
    found = fit(12, 2, lambda s: s, lambda widths: count(dln.shapes(widths)))
    assert found == (3, 4)
    with pytest.raises(ConfigError, match=r"^target_params=7: .* has 8 .* ask for 8 or more$"):
        fit(7, 1, lambda s: (4, *s, 2 - 1), lambda widths: count(mlp.shapes(widths)) + 1)


@pytest.mark.parametrize("rank", [0, 1, 3, None])
def test_linear_networks_know_their_coefficient(rank):
    """Aligned: the local coefficient is that of the most singular parameter with the product."""
    problem = problems.make("dln", target_params=100, num_training_data=20, rank=rank)
    widths = problem.loss.widths
    held = int(torch.linalg.matrix_rank(problem.loss.teacher[0]))
    assert held == (min(widths) // 2 if rank is None else rank)
    assert problem.known.value == deep_linear(widths, held).value
    problem = problems.make("reduced_rank", target_params=200, num_training_data=50, rank=rank)
    inputs, hidden, outputs = problem.loss.widths
    held = int(torch.linalg.matrix_rank(problem.loss.teacher[0]))
    exact = reduced_rank_regression(inputs, outputs, hidden, held)
    assert problem.known.value == exact.value


def test_a_quadratic_against_exact_draws():
    """E[nβL] from 10⁵ draws of the posterior itself; five standard errors."""
    problem, nbeta, gamma, draws = small("quadratic"), 40.0, 2.0, 100_000
    h = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    w = normals(draws, 3) / (nbeta * h + gamma).sqrt()
    energy = nbeta * problem.loss.full_data({"w": w})
    exact = problem.exact(nbeta, gamma)
    assert exact == quadratic(h, nbeta, gamma)
    assert abs(float(energy.mean()) - exact) < 5 * float(energy.std()) / math.sqrt(draws)
    assert problem.known == (1, 1)
    assert problem.exact(1e12, gamma) == pytest.approx(1, rel=1e-11)  # γ/nβh and below


def test_log_spaced_curvatures():
    problem = problems.make("quadratic", target_params=3, curvature_range=(0.01, 100.0))
    unit = {"w": torch.eye(3, dtype=torch.float64)}
    expected = torch.tensor([0.005, 0.5, 50], dtype=torch.float64)
    torch.testing.assert_close(problem.loss.full_data(unit), expected, rtol=1e-13, atol=0)
    assert problem.known.value == 1.5


def tail(coefficient, exact, nbeta):
    """How much 1/(λ − E) grows over a decade of n from `nbeta`."""
    gaps = [float(coefficient.value) - exact(scale * nbeta, 1.0) for scale in (1, 10)]
    return 1 / gaps[1] - 1 / gaps[0]


@pytest.mark.parametrize("name", ["tanh", "normal_crossing"])
def test_multiplicity_two_shows_in_how_lambda_is_approached(name):
    """Z(n) = n^(−1/2) (A log n + B + O(log n/n)): λ − E = 1/(log n + B/A), which is about 1/17.

    An error of 1e-6·E in E is one of 17²·4e-7 = 1e-4 in 1/(λ − E), which grows by log 10.
    """
    problem = problems.make(name, num_training_data=1000)
    assert problem.known == (0.5, 2)
    assert tail(problem.known, problem.exact, 1e6) == pytest.approx(math.log(10), abs=1e-3)


def test_the_population_of_the_mixture_has_its_coefficient():
    """K = θ⁴b²(…)/2: Z(n) = A n^(−1/4) + B n^(−1/2) + …, hence E − 1/4 = O(n^(−1/4)).

    With multiplicity 2 the error would be 1/log n or so, above n^(−1/4) from n = 1e4 on.
    """
    nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(100))
    values = weighted_mean(mixture_losses, nodes, weights / weights.sum())
    exact = by_quadrature(values, 2, dip=1e-12)
    scales = (1e5, 1e6, 1e7)
    errors = [abs(exact(nbeta, 1.0) - 0.25) for nbeta in scales]
    assert all(error < nbeta**-0.25 for error, nbeta in zip(errors, scales, strict=True))
    assert errors[0] > errors[1] > errors[2]


def test_tanh_on_its_own_data_against_integrating_one_variable_out():
    """Given b, a is normal of precision 2nβg + γ, with g the mean of tanh²(bx)."""
    problem, nbeta, gamma = small("tanh"), 300.0, 1.5
    x = problem.loss.data[:, 0].numpy()
    b = np.linspace(-10, 10, 20_001)  # the narrowest feature is (nβ)^(−1/2) wide
    g = np.mean(np.tanh(b[:, None] * x) ** 2, axis=1)
    precision = 2 * nbeta * g + gamma
    density = precision**-0.5 * np.exp(-gamma / 2 * b * b)
    expected = np.sum(nbeta * g / precision * density) / np.sum(density)
    assert problem.exact(nbeta, gamma) == pytest.approx(expected, rel=2 * QUADRATURE)


@pytest.mark.parametrize("n", [N, 2 * NODES])
def test_the_mixture_on_its_own_data_against_an_even_grid(n):
    """The trapezoidal rule on a smooth density: a step of 0.02 is a fifth of its finest feature."""
    problem, nbeta, gamma = small("gaussian_mixture", num_training_data=n), 50.0, 4.0
    axis = torch.arange(-175, 176, dtype=torch.float64) / 50
    points = torch.cartesian_prod(axis, axis)
    losses = torch.cat([problem.loss.full_data({"w": p}) for p in points.split(10_000)])
    density = (-nbeta * losses - gamma / 2 * points.square().sum(1)).exp()
    expected = float((nbeta * losses * density).sum() / density.sum())
    # Beyond 3.5 lie exp(−γ·3.5²/2) = 2e-11 of the mass.
    assert problem.exact(nbeta, gamma) == pytest.approx(expected, rel=3 * QUADRATURE)


def test_a_sample_rule_has_the_means_of_the_sample():
    sample = normals(5000, seed=8)
    nodes, weights = sample_rule(sample, 64)
    assert len(nodes) == 64
    for power in range(12):
        mean = float(sample.pow(power).mean())
        scale = float(nodes.abs().max()) ** power  # what rounding is relative to
        assert float(nodes.pow(power) @ weights) == pytest.approx(mean, abs=1e-13 * scale)
    few, equal = sample_rule(sample[:64], 64)
    assert torch.equal(few, sample[:64])
    assert torch.equal(equal, torch.full_like(few, 1 / 64))


def test_losses_are_what_they_say():
    """Against the densities and the function themselves."""
    points = normals(7, 2, seed=1)
    x = normals(1, 9, 1, seed=2)
    theta, b = points[:, :1], points[:, 1:]
    share = theta.square() / (1 + theta.square())

    def density(mean):
        return torch.distributions.Normal(mean, 1.0).log_prob(x[0, :, 0]).exp()

    mixture = (1 - share) * density(torch.zeros(1)) + share * density(b)
    expected = density(torch.zeros(1)).log() - mixture.log()
    torch.testing.assert_close(mixture_losses({"w": points}, x), expected, rtol=1e-12, atol=1e-13)
    line = (theta * torch.tanh(b * x[0, :, 0])) ** 2
    torch.testing.assert_close(tanh_losses({"w": points}, x), line, rtol=1e-13, atol=0)


def test_a_crossing_of_many_directions_has_no_quadrature():
    problem = problems.make("normal_crossing", target_params=5)
    assert problem.exact is None
    assert problem.known == (0.5, 5)
    grad, _ = full_gradient(problem.loss, {"w": torch.zeros(2, 5, dtype=torch.float64)})
    assert torch.equal(grad["w"], torch.zeros(2, 5, dtype=torch.float64))
    assert problems.make("normal_crossing", exponents=(3, 0, 1)).known == (Fraction(1, 6), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", problems.NAMES)
def test_the_posterior_takes_every_problem(name, dtype):
    problem = small(name, dtype=dtype)
    posterior = LocalPosterior.around(problem.loss, stack([problem.centre]), 10.0, 1.0, CHAINS)
    batches = posterior.block(1)
    batches.load(1, None)
    there = posterior.evaluate(batches, 0, posterior.centre)
    assert there.grad.flat.dtype == dtype
    torch.testing.assert_close(there.loss, there.baseline)
    if not name.endswith("_mlp"):  # at the truth, and in every precision
        assert not there.loss.any()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("relu", {}, r"problem='relu': must be one of relu_mlp, .*, gaussian_mixture"),
        ("relu_mlp", {"target_params": 7}, r"target_params=7: .* ask for 9 or more"),
        ("dln", {"target_params": 0}, r"target_params=0: must be a whole number, 1 or more"),
        ("dln", {"target_params": 2.5}, r"target_params=2.5: must be a whole number, 1 or more"),
        ("dln", {"target_params": 12, "rank": 3}, r"rank=3: the widths are 2-2-2-2: use 2 or less"),
        ("dln", {"depth": 0}, r"depth=0: must be a whole number, 1 or more"),
        ("dln", {"noise_std": 1}, r"noise_std=1: unknown option: dln takes depth, rank"),
        ("tanh", {"rank": 1}, r"rank=1: unknown option: tanh takes no options"),
        ("tanh", {"target_params": 50}, r"target_params=50: .* has 2 .* leave target_params out"),
        (
            "quadratic",
            {"curvatures": (1.0, -1.0)},
            r"curvatures=\(1.0, -1.0\): must be numbers, .*",
        ),
        ("quadratic", {"curvatures": (1.0,), "target_params": 2}, r"target_params=2: .* has 1 .*"),
        ("quadratic", {"curvature_range": (2, 1)}, r"curvature_range=\(2, 1\): must be 0 < low .*"),
        ("normal_crossing", {"exponents": (1, -1)}, r"exponents\[1\]=-1: must be a whole .*"),
        ("normal_crossing", {"exponents": (0, 0)}, r"exponents=\(0, 0\): at least one must .*"),
        ("tanh", {"num_training_data": 0}, r"num_training_data=0: must be a whole number, .*"),
        ("tanh", {"seed": -1}, r"seed=-1: must be a whole number, 0 or more"),
        ("relu_mlp", {"noise_std": -1.0}, r"noise_std=-1.0: must be a finite number, 0 or more"),
        (
            "relu_mlp",
            {"learning_rate": 1e200, "erm_steps": 50},
            r"learning_rate=1e\+200: training diverged: use a smaller one",
        ),
    ],
)
def test_mistakes_are_one_line(name, arguments, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        problems.make(name, **{"num_training_data": 20, **arguments})


def test_options_are_listed_with_their_defaults():
    assert problems.options_of("dln") == {"depth": 3, "rank": None}
    assert problems.options_of("tanh") == {}
    assert problems.options_of("gelu_mlp")["erm_steps"] == 5000
