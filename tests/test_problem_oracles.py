"""What problems say of λ, and of E[nβ(L − L*)] at finite n, against independent computations."""

import math

import numpy as np
import pytest
import torch
from oracles import normals

from llc import problems
from llc.problems.analytic import mixture_losses, tanh_losses
from llc.problems.oracles import NODES, by_quadrature, sample_rule, weighted_mean
from llc.theory import quadratic

QUADRATURE = 1e-6  # what it promises, relative


def test_a_quadratic_against_exact_draws():
    """E[nβL] from 10⁵ draws of the posterior itself; five standard errors."""
    nbeta, gamma, draws = 40.0, 2.0, 100_000
    problem = problems.make("quadratic", curvatures=(0.0, 0.5, 2.0))
    h = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    w = normals(draws, 3) / (nbeta * h + gamma).sqrt()
    energy = nbeta * problem.loss.full_data({"w": w})
    exact = problem.exact(nbeta, gamma)
    assert exact == quadratic(h, nbeta, gamma)
    assert abs(float(energy.mean()) - exact) < 5 * float(energy.std()) / math.sqrt(draws)
    assert problem.known == (1, 1)
    assert problem.exact(1e12, gamma) == pytest.approx(1, rel=1e-11)  # γ/nβh and below


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
    known = problems.make("gaussian_mixture").known
    assert known.multiplicity == 1
    errors = [abs(exact(nbeta, 1.0) - float(known.value)) for nbeta in scales]
    assert all(error < nbeta**-0.25 for error, nbeta in zip(errors, scales, strict=True))
    assert errors[0] > errors[1] > errors[2]


def test_tanh_on_its_own_data_against_integrating_one_variable_out():
    """Given b, a is normal of precision 2nβg + γ, with g the mean of tanh²(bx)."""
    problem, nbeta, gamma = problems.make("tanh", num_training_data=60, seed=3), 300.0, 1.5
    x = problem.loss.data[:, 0].numpy()
    b = np.linspace(-10, 10, 20_001)  # the narrowest feature is (nβ)^(−1/2) wide
    g = np.mean(np.tanh(b[:, None] * x) ** 2, axis=1)
    precision = 2 * nbeta * g + gamma
    density = precision**-0.5 * np.exp(-gamma / 2 * b * b)
    expected = np.sum(nbeta * g / precision * density) / np.sum(density)
    assert problem.exact(nbeta, gamma) == pytest.approx(expected, rel=2 * QUADRATURE)


@pytest.mark.parametrize("n", [60, 4 * NODES])
def test_the_mixture_on_its_own_data_against_an_even_grid(n):
    """The trapezoidal rule on a smooth density: a step of 0.02 is a fifth of its finest feature."""
    nbeta, gamma = 50.0, 4.0
    problem = problems.make("gaussian_mixture", num_training_data=n, seed=3)
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
