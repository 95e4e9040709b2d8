"""Covariances under the posterior: exact on Gaussians, unbiased, and of the sign that is claimed.

Linear regression with ℓ_i = ½(x_i·w − y_i)² has a Gaussian posterior N(μ, A⁻¹), A = (nβ/n) XᵀX + γ,
under which, with m_i = x_i·μ − y_i and S_ij = x_iᵀ A⁻¹ x_j,
    Cov(ℓ_i, ℓ_j) = S_ij²/2 + m_i m_j S_ij.
"""

import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from llc import estimate_llc
from llc.influence import correlation, covariance, influence, susceptibility

N, D, NBETA, GAMMA = 12, 3, 6.0, 2.0


def generator(seed=0):
    return np.random.default_rng(seed)


X = generator().normal(size=(N, D))
Y = X @ np.array([1.0, -2.0, 0.5]) + generator(1).normal(size=N)
W = np.linalg.lstsq(X, Y)[0]  # w*: the posterior's mean, whatever γ


class Posterior:
    """The Gaussian where example i counts `weights[i]` times."""

    def __init__(self, weights):
        inverse = NBETA / N * (X.T * weights) @ X + GAMMA * np.eye(D)
        self.cov = np.linalg.inv(inverse)
        self.mean = self.cov @ (NBETA / N * (X.T * weights) @ Y + GAMMA * W)

    def losses(self):
        """E[ℓ_i]."""
        return 0.5 * ((X @ self.mean - Y) ** 2 + np.einsum("id,de,ie->i", X, self.cov, X))

    def covariance(self):
        apart, spread = X @ self.mean - Y, X @ self.cov @ X.T
        return spread**2 / 2 + np.outer(apart, apart) * spread

    def draws(self, chains, count, seed):
        weights = generator(seed).multivariate_normal(self.mean, self.cov, (chains, count))
        return 0.5 * (weights @ X.T - Y) ** 2


EXACT = Posterior(np.ones(N))
CHAINS = 60
# Each entry's error has CHAINS − 1 degrees of freedom; a false fail in 1e6 runs of all entries.
SIGMAS = stats.t.isf(0.5e-6 / N**2, CHAINS - 1)


def agrees(found, exact):
    return bool((np.abs(found.value - exact) < SIGMAS * found.error).all())


def test_the_closed_form_is_that_of_the_draws():
    losses = EXACT.draws(CHAINS, 400, 2)
    found = covariance(losses, losses)
    assert agrees(found, EXACT.covariance())
    assert found.error.max() < 0.1 * np.diag(EXACT.covariance()).max()
    assert not agrees(found, 1.2 * EXACT.covariance())
    spread = np.sqrt(np.diag(EXACT.covariance()))
    assert agrees_off_diagonal(
        correlation(losses, losses), EXACT.covariance() / np.outer(spread, spread)
    )


def agrees_off_diagonal(found, exact):
    """A correlation with itself is 1 and has no error."""
    np.testing.assert_allclose(np.diag(found.value), 1, rtol=1e-12)
    apart = ~np.eye(N, dtype=bool)
    return bool((np.abs(found.value - exact)[apart] < SIGMAS * found.error[apart]).all())


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.as_tensor(W))

    def forward(self, inputs):
        return inputs @ self.weight


def test_the_librarys_chains_have_the_covariances_of_the_posterior():
    """HMC is exact: what is left is the Monte-Carlo error."""
    data = torch.as_tensor(X), torch.as_tensor(Y)
    result = estimate_llc(
        Line(), data, lambda outputs, targets: (outputs - targets).square() / 2,
        nbeta=NBETA, gamma=GAMMA, sampler="hmc", num_chains=CHAINS, num_draws=200,
        companions=False, engine="vmap", observables={"data": data}, progress=False,
    )  # fmt: skip
    losses = result.observables["data"]
    assert agrees(covariance(losses, losses, result.num_burn_in), EXACT.covariance())


def slope(function, step=1e-4):
    return (function(step) - function(-step)) / (2 * step)


def test_influence_is_the_answer_to_more_of_an_example():
    """∂E[φ_j]/∂δ_i = (nβ/n)·BIF; central differences are good to 1e-8."""
    unit = np.eye(N)
    answer = np.stack(
        [slope(lambda d, i=i: Posterior(np.ones(N) + d * unit[i]).losses()) for i in range(N)]
    )
    np.testing.assert_allclose(answer, -NBETA / N * EXACT.covariance(), rtol=1e-5, atol=1e-7)
    losses = EXACT.draws(CHAINS, 400, 3)
    found = influence(losses, losses[:, :, :4])
    assert found.value.shape == (N, 4)
    assert agrees(found, N / NBETA * answer[:, :4])


def test_susceptibility_is_the_answer_to_a_mixture():
    """χ_i = (1/nβ) ∂E[L]/∂h of L_h = (1 − h) L + h ℓ_i."""
    answer = np.array(
        [
            slope(lambda h, i=i: Posterior((1 - h) + h * N * np.eye(N)[i]).losses().mean())
            for i in range(N)
        ]
    )
    losses = EXACT.draws(CHAINS, 400, 4)
    loss = losses.mean(2)
    found = susceptibility(losses, loss, loss)
    assert found.value.shape == (N,)
    assert agrees(found, answer / NBETA)
    assert np.abs(found.value.mean()) < 1e-12  # Σ_i (ℓ_i − L) = 0


def autoregressive(chains, draws, memory, seed):
    """Stationary from the first draw on, of variance 1, and twice that plus noise of variance 1."""
    source = generator(seed)
    noise = source.normal(size=(draws, chains))
    noise[1:] *= np.sqrt(1 - memory**2)
    path = [noise[0]]
    for step in noise[1:]:
        path.append(memory * path[-1] + step)
    one = np.stack(path, 1)
    return one, 2 * one + source.normal(size=(chains, draws))


def test_autocorrelation_does_not_bias_it():
    """Chains of a few correlation lengths, many times over: the mean is Cov = 2 within its error.

    Deviations from each chain's own mean alone would give a good deal less; and the mean squared
    jackknife error is the variance, or more (Efron & Stein 1981), but not by much.
    """
    repeats, chains = 3000, 4
    one, other = autoregressive(repeats * chains, 40, 0.9, 5)
    runs = [
        covariance(one[i : i + chains], other[i : i + chains])
        for i in range(0, repeats * chains, chains)
    ]
    values, errors = (np.array([run[k] for run in runs]) for k in range(2))
    tolerance = 5.5 * values.std() / np.sqrt(repeats)  # normal: false fails 4e-8
    assert abs(values.mean() - 2) < tolerance
    apart = one - one.mean(1, keepdims=True)
    assert (apart * other).mean() < 2 - 5 * tolerance
    ratio = (errors**2).mean() / values.var()
    # Run by run, squared errors and squares have relative variances of about 3 and 5.
    assert 1 - 5.5 * np.sqrt(10 / repeats) < ratio < 2


def test_invariances():
    source = generator(6)
    a, b = source.normal(size=(4, 50, 3)), source.normal(size=(4, 50, 2, 5))
    found = covariance(a, b)
    assert found.value.shape == found.error.shape == (3, 2, 5)
    moved = covariance(2 * a + 7, -3 * b + 1)
    np.testing.assert_allclose(moved.value, -6 * found.value, rtol=1e-9)
    np.testing.assert_allclose(moved.error, 6 * found.error, rtol=1e-9)
    np.testing.assert_allclose(covariance(b, a).value, np.moveaxis(found.value, 0, 2), rtol=1e-12)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(covariance(a[order], b[order]).error, found.error, rtol=1e-9)
    scaled = correlation(2 * a + 7, -3 * b + 1)
    np.testing.assert_allclose(scaled.value, -correlation(a, b).value, rtol=1e-9)
    assert (np.abs(scaled.value) < 1).all()
    np.testing.assert_allclose(covariance(a[:, 9:], b[:, 9:]).value, covariance(a, b, 9).value)


def test_a_single_chain_has_a_value_and_no_error():
    draws = generator(7).normal(size=(1, 30, 2))
    found = covariance(draws, draws)
    np.testing.assert_allclose(found.value, np.cov(draws[0].T), rtol=1e-12)
    assert np.isnan(found.error).all()


def test_nan_stays_where_it_is():
    a = generator(8).normal(size=(3, 20, 4))
    a[:, :, 1] = np.nan
    b = a[:, :, 0]
    for found in (covariance(a, b), correlation(a, b), susceptibility(a, b, b)):
        assert np.isnan(found.value).tolist() == [False, True, False, False]
        assert np.isnan(found.error).tolist() == [False, True, False, False]


@pytest.mark.parametrize("draws", [9, 30, 100, 333])
@pytest.mark.parametrize("chains", [1, 4])
@pytest.mark.parametrize("value", [1.0, 0.1, 1 / 3])
def test_what_does_not_vary_has_no_correlation(value, chains, draws):
    """Whatever the mean of so many equal numbers rounds to."""
    constant = np.full((chains, draws), value)
    b = generator(9).normal(size=(chains, draws))
    for other in (b, constant):
        assert covariance(constant, other).value == 0
        assert np.isnan(correlation(constant, other).value)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("traces: are (4, 9) and (4, 8)", lambda a: covariance(a, a[:, :8])),
        ("traces: are (9,) and (9,)", lambda a: covariance(a[0], a[0])),
        ("burn_in=8: must leave at least 2 of the 9", lambda a: covariance(a, a, 8)),
        ("burn_in=-1", lambda a: correlation(a, a, -1)),
        (
            "loss: is (4, 8): must be (chain, draw), (4, 9)",
            lambda a: susceptibility(a, a[:, 1:], a),
        ),
    ],
)
def test_traces_that_do_not_fit(message, call):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(np.zeros((4, 9)))
