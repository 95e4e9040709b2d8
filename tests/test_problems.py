"""Benchmark problems: their sizes, gradients, minima, and λ by other formulas."""

import math
from fractions import Fraction
from functools import cache

import pytest
import torch
from oracles import normals

from llc import problems
from llc.config import ConfigError
from llc.models import dln, mlp
from llc.params import Layout, count, select, stack
from llc.posterior import LocalPosterior
from llc.problems.sizing import fit
from llc.streams import ShuffledBatches, Stream
from llc.theory import deep_linear, reduced_rank_regression

N, BATCH, CHAINS = 60, 12, 3
SMALL = {"target_params": 60}
OPTIONS = {
    **{name: {**SMALL, "erm_steps": 300} for name in ("relu_mlp", "tanh_mlp", "gelu_mlp")},
    **dict.fromkeys(("dln", "reduced_rank"), SMALL),
    "quadratic": {"curvatures": (0.0, 0.5, 2.0)},
    "normal_crossing": {"exponents": (1, 2, 0)},
}
FASTER = {"learning_rate": 2e-3}
SIZED = [name for name in problems.NAMES if name not in ("tanh", "gaussian_mixture")]


@cache
def small(name, **changes):
    return problems.make(name, **arguments(name, **changes))


def arguments(name, **changes):
    return {"num_training_data": N, "seed": 3, **OPTIONS.get(name, {}), **changes}


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


def test_answers_are_noisy_and_training_is_adam():
    quiet, noisy, faster = (
        small("tanh_mlp", erm_steps=1, **changes)
        for changes in ({"noise_std": 0.0}, {"noise_std": 2.0}, {"noise_std": 0.0, **FASTER})
    )
    noise = (noisy.loss.targets - quiet.loss.targets) / 2
    assert abs(float(noise.square().mean()) - 1) < 5 * math.sqrt(2 / N)
    # Adam's first step is as long as the learning rate in every direction, up to its 1e-8.
    gap = (flat(faster.centre) - flat(quiet.centre)).abs()
    torch.testing.assert_close(gap, torch.full_like(gap, 1e-3), rtol=1e-3, atol=0)


def test_a_perceptron_at_the_truth_is_realisable():
    """The network of the reference's comparison of MALA and SGLD: 10-20-20-10 on U(−10, 10)."""
    sizes = {"in_dim": 10, "out_dim": 10, "target_params": 850, "num_training_data": 1000}
    problem = problems.make("relu_mlp", **sizes, input_dist="uniform", noise_std=0.0, erm_steps=0)
    assert problem.loss.widths == (10, 20, 20, 10)
    assert problem.description == "relu perceptron 10-20-20-10, at the truth"
    assert float(problem.loss.full_data(stack([problem.centre]))) == 0
    assert 9 < float(problem.loss.inputs.abs().max()) <= 10


def flat(params):
    return torch.cat([leaf.reshape(-1) for leaf in params.values()])


@pytest.mark.parametrize("name", problems.NAMES)
def test_the_seed_names_the_problem_in_every_precision(name):
    first = small(name)
    again = problems.make(name, **arguments(name))
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
    problem = problems.make(name, target_params=target, num_training_data=200, **quick)
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
    assert max(abs(2 * hidden - inputs), abs(2 * hidden - outputs)) <= 2
    held = int(torch.linalg.matrix_rank(problem.loss.teacher[0]))
    exact = reduced_rank_regression(inputs, outputs, hidden, held)
    assert problem.known.value == exact.value


def test_log_spaced_curvatures():
    problem = problems.make("quadratic", target_params=3, curvature_range=(0.01, 100.0))
    unit = {"w": torch.eye(3, dtype=torch.float64)}
    expected = torch.tensor([0.005, 0.5, 50], dtype=torch.float64)
    torch.testing.assert_close(problem.loss.full_data(unit), expected, rtol=1e-13, atol=0)
    grad, losses = full_gradient(problem.loss, unit)
    torch.testing.assert_close(grad["w"], torch.diag(2 * expected), rtol=1e-13, atol=0)
    torch.testing.assert_close(losses, expected, rtol=1e-13, atol=0)
    assert problem.known.value == 1.5


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
    ("name", "changes", "message"),
    [
        ("relu", {}, r"problem='relu': must be one of relu_mlp, .*, gaussian_mixture"),
        ("relu_mlp", {"target_params": 7}, r"target_params=7: .* ask for 9 or more"),
        ("dln", {"target_params": 0}, r"target_params=0: must be a whole number, 1 or more"),
        ("dln", {"target_params": 2.5}, r"target_params=2.5: must be a whole number, 1 or more"),
        ("dln", {"target_params": 12, "rank": 3}, r"rank=3: the widths are 2-2-2-2: use 2 or less"),
        (
            "dln",
            {"num_training_data": 17},
            r"num_training_data=17: .* 18 inputs .* 18 or more",
        ),
        ("dln", {"depth": 0}, r"depth=0: must be a whole number, 1 or more"),
        ("dln", {"noise_std": 1}, r"noise_std=1: unknown option: dln takes depth, rank"),
        ("tanh", {"rank": 1}, r"rank=1: unknown option: tanh takes no options"),
        (
            "tanh",
            {"target_params": 50},
            r"target_params=50: .* has 2 .* leave it at None",
        ),
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
        ("relu_mlp", {"erm_steps": 0}, r"noise_std=0.1: with erm_steps=0 .* or train"),
        ("relu_mlp", {"input_dist": "ball"}, r"input_dist='ball': must be one of normal, uniform"),
        (
            "relu_mlp",
            {"learning_rate": 1e200, "erm_steps": 50},
            r"learning_rate=1e\+200: training diverged: use a smaller one",
        ),
    ],
)
def test_mistakes_are_one_line(name, changes, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        problems.make(name, **{"num_training_data": 20, **changes})


def test_options_are_listed_with_their_defaults():
    assert problems.options_of("dln") == {"depth": 3, "rank": None}
    assert problems.options_of("tanh") == {}
    assert problems.options_of("gelu_mlp")["erm_steps"] == 5000
