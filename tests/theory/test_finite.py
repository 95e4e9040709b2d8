"""Finite-n oracles against independent integrals, closed forms and the simulated recursion."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import kve

from llc.theory import normal_crossing, quadratic, quadratic_sgld, quadrature

TOLERANCE = 1e-6  # what quadrature promises by default, relative
ROUNDING = 1e-12


def monomial(*powers):
    return lambda w: np.prod(w ** np.array(powers), axis=-1)


def ridge(slope):
    return lambda w: (w[..., 0] + slope * w[..., 1]) ** 2


def bowl(*curvatures):
    return lambda w: 0.5 * np.sum(np.array(curvatures) * w**2, axis=-1)


def bessel_mass_and_energy(order, z):
    """e^z K_order(z), and −n d/dn log(n^{−1/2} e^z K_order(z)) for z ∝ 1/n."""
    if z > 1e3:  # there the difference below loses its digits, and scipy's function ends
        b = (4 * order**2 - 1) / 8
        c = b * (4 * order**2 - 9) / 16
        series = 1 + b / z + c / z**2
        return math.sqrt(math.pi / (2 * z)) * series, -(b / z + 2 * c / z**2) / series
    mass = kve(order, z)
    slope = -(kve(order - 1, z) + kve(order + 1, z)) / 2
    return mass, 0.5 + z * (1 + slope / mass)


@pytest.mark.parametrize(("nbeta", "gamma"), [(1.0, 3.0), (1e3, 1.0), (1e6, 1e-3)])
@pytest.mark.parametrize("curvature", [1e-2, 1.0, 40.0])
def test_quadratic_is_the_gaussian_integral(nbeta, gamma, curvature):
    scale = 1 / math.sqrt(nbeta * curvature + gamma)

    def density(x):
        w = x * scale
        return math.exp(-0.5 * nbeta * curvature * w**2 - 0.5 * gamma * w**2)

    def energy(x):
        return 0.5 * nbeta * curvature * (x * scale) ** 2 * density(x)

    expected = quad(energy, -15, 15, epsrel=1e-11)[0] / quad(density, -15, 15, epsrel=1e-11)[0]
    assert quadratic([curvature], nbeta, gamma) == pytest.approx(expected, rel=1e-10)


def test_quadratic_adds_up_and_tends_to_half_the_dimension():
    h = np.array([[0.5, 2.0], [7.0, 30.0]])
    parts = sum(quadratic([x], 50.0, 4.0) for x in h.ravel())
    assert quadratic(h, 50.0, 4.0) == pytest.approx(parts, rel=ROUNDING)
    assert quadratic(h, 50.0, 0.0) == 2
    assert quadratic([0.0], 50.0, 4.0) == 0


@pytest.mark.parametrize("stability", [0.05, 0.5, 2.0, 3.9])
def test_sgld_on_a_quadratic_is_the_fixed_point_of_its_variance(stability):
    h, nbeta, gamma = np.array([0.1, 1.0, 3.0]), 20.0, 2.0
    a = nbeta * h + gamma
    epsilon = stability / a.max()
    variance = np.zeros(3)
    slowest = np.abs(1 - epsilon * a / 2).max() ** 2
    for _ in range(math.ceil(math.log(1e-14) / math.log(slowest))):
        variance = (1 - epsilon * a / 2) ** 2 * variance + epsilon
    expected = 0.5 * nbeta * np.sum(h * variance)
    assert quadratic_sgld(h, nbeta, gamma, epsilon) == pytest.approx(expected, rel=1e-10)


def test_sgld_tends_to_the_exact_value_linearly_in_the_step():
    h, nbeta, gamma = [1.0, 2.0], 10.0, 1.0
    exact = quadratic(h, nbeta, gamma)
    biases = [quadratic_sgld(h, nbeta, gamma, e) - exact for e in (2e-4, 1e-4)]
    # 1/(1 − x) = 1 + x + x²/(1 − x), x = εa/4 ≤ 2e-4·21/4: linear to within a share x
    assert biases[0] / biases[1] == pytest.approx(2, rel=1.1e-3)
    assert biases[1] > 0


def test_an_unstable_step_is_refused_with_the_largest_stable_one():
    with pytest.raises(ValueError, match=r"epsilon is 0\.4.*curvature 3.*= 0\.363636"):
        quadratic_sgld([1.0, 3.0], 3.0, 2.0, 0.4)
    with pytest.raises(ValueError, match="epsilon"):
        quadratic_sgld([1.0], 3.0, 1.0, 1.0)  # εa = 4 exactly: a random walk, no stationary law
    assert math.isfinite(quadratic_sgld([1.0], 3.0, 1.0, 0.999))


@pytest.mark.parametrize(
    ("curvatures", "nbeta", "gamma", "name"),
    [
        ([1.0], 0.0, 1.0, "nbeta"),
        ([1.0], math.nan, 1.0, "nbeta"),
        ([1.0], 1.0, -1.0, "gamma"),
        ([1.0], 1.0, math.inf, "gamma"),
        ([0.0], 1.0, 0.0, "curvatures"),
        ([-3.0, 1.0], 1.0, 2.0, "curvatures"),
        ([math.nan], 1.0, 2.0, "curvatures"),
        ([], 1.0, 2.0, "curvatures"),
    ],
)
def test_improper_quadratics_are_refused(curvatures, nbeta, gamma, name):
    for call in (quadratic, lambda *a: quadratic_sgld(*a, 0.1)):
        with pytest.raises(ValueError, match=f"^{name}"):
            call(curvatures, nbeta, gamma)


@pytest.mark.parametrize("epsilon", [0.0, -1e-3, math.nan])
def test_a_step_size_is_positive(epsilon):
    with pytest.raises(ValueError, match=r"^epsilon"):
        quadratic_sgld([1.0], 1.0, 1.0, epsilon)


@pytest.mark.parametrize("nbeta", [1.0, 1e3, 1e6])
@pytest.mark.parametrize(
    ("curvatures", "tolerance"),
    [([2.0], TOLERANCE), ([0.1, 30.0], TOLERANCE), ([0.5, 2.0, 5.0], 1e-4)],
)
def test_quadrature_of_a_quadratic(curvatures, tolerance, nbeta):
    value = quadrature(bowl(*curvatures), nbeta, 1.0, len(curvatures), tolerance=tolerance)
    assert value == pytest.approx(quadratic(curvatures, nbeta, 1.0), rel=tolerance)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("nbeta", [1e2, 1e6])
def test_quadrature_of_a_power_tends_to_its_gamma_function_form(k, nbeta):
    # With γ = 0, nβw^{2k} is Gamma distributed with shape 1/(2k), the coefficient itself, and
    # dE/dγ = −½Cov(nβw^{2k}, w²) = −(nβ)^{−1/k} Γ(3/2k)/(2kΓ(1/2k)), at most 0.3 (nβ)^{−1/k}.
    gamma = 1e-8 * nbeta ** (1 / k)
    value = quadrature(monomial(2 * k), nbeta, gamma, 1)
    assert value == pytest.approx(float(normal_crossing([k]).value), rel=2 * TOLERANCE)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 30.0])
def test_quadrature_of_a_localised_power(k, strength):
    nbeta = 1e6
    gamma = strength * nbeta ** (1 / k)  # in x = (nβ)^{1/2k} w: exp(−x^{2k} − ½ strength x²)

    def density(x):
        return math.exp(-(x ** (2 * k)) - 0.5 * strength * x**2)

    top = quad(lambda x: x ** (2 * k) * density(x), 0, 8, epsrel=1e-9, points=[1])[0]
    expected = top / quad(density, 0, 8, epsrel=1e-9, points=[1])[0]
    value = quadrature(monomial(2 * k), nbeta, gamma, 1)
    assert value == pytest.approx(expected, rel=2 * TOLERANCE)


@pytest.mark.parametrize("gamma", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize("nbeta", [1.0, 1e3, 1e6])
def test_quadrature_of_a_quartic_is_a_bessel_function(nbeta, gamma):
    # ∫ exp(−nw⁴ − γw²/2) dw ∝ n^{−1/2} e^z K_{1/4}(z), z = γ²/(32n)
    _, expected = bessel_mass_and_energy(0.25, gamma**2 / (32 * nbeta))
    value = quadrature(monomial(4), nbeta, gamma, 1)
    assert value == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("gamma", [1e-2, 1.0, 100.0])
@pytest.mark.parametrize("nbeta", [1.0, 1e3, 1e6])
def test_quadrature_of_a_crossing_against_integrating_one_variable_out(nbeta, gamma):
    # Given w₁, w₂ is Gaussian with precision a = 2nβw₁² + γ: one integral is left, over u = log w₁.
    def marginal(u):
        w = math.exp(u)
        return w * math.exp(-0.5 * gamma * w * w) / math.sqrt(2 * nbeta * w * w + gamma)

    def energy(u):
        w = math.exp(u)
        return marginal(u) * nbeta * w * w / (2 * nbeta * w * w + gamma)

    bounds = {"a": -40, "b": math.log(12 / math.sqrt(gamma)), "epsrel": 1e-9, "limit": 500}
    expected = quad(energy, **bounds)[0] / quad(marginal, **bounds)[0]
    value = quadrature(monomial(2, 2), nbeta, gamma, 2)
    assert value == pytest.approx(expected, rel=2 * TOLERANCE)
    assert expected < float(normal_crossing([1, 1]).value)


def test_quadrature_of_a_crossing_does_not_depend_on_the_resolution():
    coarse, fine = (quadrature(monomial(2, 2), 1e6, 1.0, 2, tolerance=t) for t in (1e-3, 1e-9))
    assert coarse != fine
    assert coarse == pytest.approx(fine, rel=1e-3)


@pytest.mark.parametrize("nbeta", [1e2, 1e5])
def test_quadrature_in_three_variables_against_a_line_integral(nbeta):
    # Given w₁, (w₂, w₃) has the loss w₁²·w₂²w₃², whose mass is e^z K₀(z)/|w₁|, z = γ²/(8nβw₁²).
    gamma = 2.0

    def parts(u):  # over u = log w₁, which cancels the 1/|w₁|
        w = math.exp(u)
        mass, energy = bessel_mass_and_energy(0, gamma**2 / (8 * nbeta * w * w))
        mass *= math.exp(-0.5 * gamma * w * w)
        return mass, mass * energy

    bounds = {"a": -18, "b": math.log(12 / math.sqrt(gamma)), "epsrel": 1e-6, "limit": 500}
    mass, energy = (quad(lambda u, k=k: parts(u)[k], **bounds)[0] for k in (0, 1))
    expected = energy / mass
    value = quadrature(monomial(2, 2, 2), nbeta, gamma, 3, tolerance=1e-4)
    assert value == pytest.approx(expected, rel=2e-4)


def test_quadrature_ignores_a_constant_and_takes_a_loss_that_overflows():
    plain = quadrature(monomial(2, 2), 100.0, 1.0, 2)
    raised = quadrature(lambda w: monomial(2, 2)(w) + 5, 100.0, 1.0, 2)
    assert raised == pytest.approx(plain, rel=1e-9)  # 5 rounds the loss by 1e-15·nβ
    steep = quadrature(lambda w: 0.5 * w[..., 0] ** 2 * np.exp(w[..., 0] ** 4), 1e6, 1.0, 1)
    assert steep == pytest.approx(0.5, rel=1e-5)  # γ/nβ = 1e-6, and the quartic less


@pytest.mark.parametrize("tilt", [0.01, -0.3])
def test_quadrature_takes_a_loss_that_dips_below_the_centre(tilt):
    # ½w² − tw: the posterior is normal, of precision nβ + γ around nβt/(nβ + γ).
    nbeta, gamma, dip = 100.0, 2.0, tilt**2 / 2

    def loss(w):
        return 0.5 * w[..., 0] ** 2 - tilt * w[..., 0]

    mean = nbeta * tilt / (nbeta + gamma)
    exact = nbeta * (0.5 * (1 / (nbeta + gamma) + mean**2) - tilt * mean)
    value = quadrature(loss, nbeta, gamma, 1, dip=1.001 * dip)
    assert value == pytest.approx(exact, rel=TOLERANCE)
    with pytest.raises(ValueError, match=r"^loss falls"):
        quadrature(loss, nbeta, gamma, 1, dip=0.9 * dip)


def test_a_ridge_across_the_axes_is_right_or_refused():
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(60):
        slope, nbeta, gamma = rng.normal(), 10 ** rng.uniform(1, 6), 10 ** rng.uniform(-1, 1)
        try:
            value = quadrature(ridge(slope), nbeta, gamma, 2, tolerance=1e-2, max_points=10**6)
        except ValueError:
            outcomes.append("refused")
        else:
            exact = quadratic([2 * (1 + slope**2)], nbeta, gamma)
            assert value == pytest.approx(exact, rel=1e-2), (slope, nbeta, gamma)
            outcomes.append("right")
    assert min(outcomes.count("refused"), outcomes.count("right")) > 10


@pytest.mark.parametrize("nbeta", [1e4, 1e6])
@pytest.mark.parametrize("slope", [-1.0, -0.3, 0.5, 1.0])
def test_a_ridge_too_thin_for_the_grid_is_refused(slope, nbeta):
    with pytest.raises(ValueError, match=r"not tolerance 0\.01"):
        quadrature(ridge(slope), nbeta, 1.0, 2, tolerance=1e-2, max_points=10**6)


def test_a_loss_too_rough_for_any_grid_is_refused():
    with pytest.raises(ValueError, match=r"not tolerance 1e-09"):
        quadrature(lambda w: np.floor(np.abs(w[..., 0])), 1.0, 1.0, 1, tolerance=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nbeta": 0.0}, "^nbeta"),
        ({"gamma": 0.0}, "^gamma"),
        ({"dimension": 4}, "^dimension is 4"),
        ({"tolerance": -1.0}, "^tolerance"),
        ({"tolerance": 0.1}, "^tolerance"),
        ({"dip": -1.0}, "^dip"),
        ({"dip": 11.0}, "^dip is 11.0; .* 100/nbeta = 10$"),
        ({"loss": lambda w: w}, "^loss maps"),
        ({"loss": lambda w: np.sqrt(w[..., 0] * 0 - 1 * (w[..., 0] != 0))}, "^loss returned NaN"),
        ({"loss": lambda w: (w[..., 0] - 1) ** 2}, "^loss falls"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt")
def test_impossible_integrals_are_refused(changes, message):
    arguments = {"loss": bowl(1.0), "nbeta": 10.0, "gamma": 1.0, "dimension": 1} | changes
    with pytest.raises(ValueError, match=message):
        quadrature(**arguments)
