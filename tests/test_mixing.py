"""ESS and R-hat are ArviZ' own, number for number, for many centres at once."""

import arviz as az
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import normals

from llc import mixing


def autoregressive(centres, chains, count, memory, seed=0):
    """Stationary AR(1) chains with lag-one correlation `memory`."""
    draws = normals(centres, chains, count, seed=seed).numpy()
    for t in range(1, count):
        draws[..., t] = memory * draws[..., t - 1] + (1 - memory**2) ** 0.5 * draws[..., t]
    return draws


def twice(draws):
    """ArviZ asks for two chains for R-hat."""
    half = draws.shape[1] // 2
    return np.stack([draws[0, :half], draws[0, half : 2 * half]]) if len(draws) == 1 else draws


def assert_those_of_arviz(draws):
    with np.errstate(divide="ignore", invalid="ignore"):  # constant draws
        sizes = [az.ess(one, method="mean") for one in draws]
        ratios = [az.rhat(twice(one)) for one in draws]
    np.testing.assert_allclose(mixing.ess(draws), sizes, rtol=1e-9)
    np.testing.assert_allclose(mixing.rhat(draws), ratios, rtol=1e-9)


@pytest.mark.parametrize("memory", [-0.9, -0.3, 0.0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("count", [8, 9, 10, 11, 12, 13, 50, 51, 500])
@pytest.mark.parametrize("chains", [1, 2, 5])
def test_those_of_arviz(chains, count, memory):
    assert_those_of_arviz(autoregressive(7, chains, count, memory))


@given(
    st.integers(8, 40), st.integers(1, 3), st.integers(0, 2**31), st.sampled_from([-0.8, 0, 0.8])
)
def test_those_of_arviz_whatever_the_draws(count, chains, seed, memory):
    draws = autoregressive(3, chains, count, memory, seed)
    draws[1] = draws[1].round(0)  # ties
    draws[2] = np.exp(3 * draws[2])
    assert_those_of_arviz(draws + np.arange(chains)[:, None])


@pytest.mark.parametrize("chains", [1, 4])
def test_drifting_and_separate_chains(chains):
    draws = autoregressive(4, chains, 200, 0.5)
    draws[0] += np.linspace(0, 5, 200)
    draws[1] += 3 * np.arange(chains)[:, None]
    draws[2] = np.cumsum(draws[2], axis=1)
    assert_those_of_arviz(draws)


@pytest.mark.parametrize("count", [4, 5, 6, 7])
def test_very_short_chains(count):
    draws = autoregressive(20, 3, count, 0.3)
    sizes = [az.ess(one, method="mean") for one in draws]
    np.testing.assert_allclose(mixing.ess(draws), sizes, rtol=1e-9)


def test_what_is_not_finite_or_too_short_is_nan_and_harms_no_other():
    draws = autoregressive(3, 2, 100, 0.5)
    alone = mixing.ess(draws), mixing.rhat(draws)
    draws[1, 0, 7] = np.nan
    for got, want in zip((mixing.ess(draws), mixing.rhat(draws)), alone, strict=True):
        assert np.isnan(got[1])
        np.testing.assert_array_equal(got[[0, 2]], want[[0, 2]])
    for statistic in (mixing.ess, mixing.rhat):
        assert np.isnan(statistic(draws[:, :, :3])).all()


def test_constant_draws():
    draws = np.ones((2, 3, 50))
    assert mixing.ess(draws).tolist() == [150, 150]
    assert np.isnan(mixing.rhat(draws)).all()


def test_many_centres_in_several_goes(monkeypatch):
    draws = autoregressive(5, 2, 60, 0.5)
    whole = mixing.ess(draws), mixing.rhat(draws)
    monkeypatch.setattr(mixing, "AT_ONCE", 250)
    np.testing.assert_array_equal(mixing.ess(draws), whole[0])
    np.testing.assert_array_equal(mixing.rhat(draws), whole[1])
