"""canonical-interp's arguments give its λ̂: by our own call, and by its update rule."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from library_models import CLASSES, EXAMPLES, INPUTS, data, filled, numbers
from their_rule import (
    BATCH,
    CHAINS,
    NBETA,
    PULL,
    RATE,
    assert_same_mean,
    by_their_rule,
    linear,
    loader,
    of_classes,
)
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from llc import estimate_llc
from llc.shims import GridSearchConfig, LLCEstimator, LLCGridSearch

# Losses by another function, stack or engine round differently in the last bits of float32, which
# chains at ε·a < 1 do not amplify; times nβ in λ̂.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def estimator(**more):
    options = {"learning_rate": RATE, "localization": PULL, "nbeta": NBETA, **more}
    return LLCEstimator(draws=400, chains=CHAINS, burnin_steps=200, **options)


def short(*arguments, model=None, given=None, settings=None, **options):
    """Of a run of 20 draws: the estimator after it."""
    options_of_it = {"learning_rate": RATE, "nbeta": NBETA, **(settings or {})}
    made = LLCEstimator(20, 2, 10, **options_of_it)
    made.estimate_llc(
        model or linear(), given or loader(), *arguments, **{"show_progress": False, **options}
    )
    return made


@cache
def usual():
    return losses_of(short())


def losses_of(made):
    return made.get_metrics()["losses"]


def test_it_is_our_call_with_other_names():
    shim = estimator(steps_bw_draws=2, grad_accumulation_steps=2)
    mean = shim.estimate_llc(linear(), loader(), seed=3, show_progress=False, chain_batch=3)
    ours = estimate_llc(
        linear(), data(), nbeta=NBETA, epsilon=RATE, gamma=PULL, num_chains=CHAINS,
        num_draws=500, burn_in=100, thin=2, batch_size=2 * BATCH, seed=3, companions=False,
        chains_per_stack=3, progress=False,
    )  # fmt: skip
    metrics = shim.get_metrics()
    assert metrics["losses"].shape == (CHAINS, 400)
    torch.testing.assert_close(metrics["losses"], ours.trace.loss[:, 100:], **ROUNDING)
    np.testing.assert_allclose(metrics["llcs"], ours.per_chain, rtol=0, atol=NBETA * 1e-5)
    assert float(mean) == float(metrics["llc_mean"]) == float(metrics["llcs"].mean())
    assert float(metrics["llc_std"]) == pytest.approx(np.std(metrics["llcs"].numpy(), ddof=1))
    last = metrics["losses"][:, -1].numpy()
    assert float(metrics["losses_mean"]) == pytest.approx(last.mean())
    assert float(metrics["losses_std"]) == pytest.approx(last.std(ddof=1))
    expected = of_classes(linear(), torch.arange(EXAMPLES)).item()
    assert float(shim.original_loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("criterion", [cross_entropy, lambda o, t: cross_entropy(o, t)])
def test_it_gives_what_its_update_gives(criterion):
    """With L(w*) on each draw's own examples, and with that of all the data."""
    theirs = by_their_rule(linear(), of_classes, EXAMPLES, kept_out=200)
    shim = estimator()
    shim.estimate_llc(linear(), loader(), criterion, show_progress=False)
    assert_same_mean(shim.get_metrics()["llcs"].numpy(), theirs)


def test_chains_that_share_their_batches_have_the_same_mean():
    """As theirs do: groups of four, of which only the means are independent."""
    theirs = by_their_rule(linear(), of_classes, EXAMPLES, kept_out=200, sharing=4)
    shim = LLCEstimator(400, 4 * CHAINS, 200, 1, 1, False, RATE, PULL, NBETA)
    shim.estimate_llc(linear(), loader(), show_progress=False)
    assert_same_mean(shim.get_metrics()["llcs"].view(CHAINS, 4).mean(1).numpy(), theirs)


def test_a_part_of_the_parameters_gives_what_its_update_gives():
    moving = {"weight": 1.0, "bias": 0.0}
    theirs = by_their_rule(linear(), of_classes, EXAMPLES, kept_out=200, moving=moving)
    shim = estimator()
    shim.estimate_llc(linear(), loader(), targeted_params=["weight"], show_progress=False)
    assert shim.estimate.num_free == INPUTS * CLASSES
    assert_same_mean(shim.get_metrics()["llcs"].numpy(), theirs)


def test_fixed_parameters_stay():
    model = linear()
    model.bias.requires_grad_(False)
    assert short(model=model).estimate.num_free == INPUTS * CLASSES


def tagged():
    """Logits (B, K, T) of two tokens with labels (B, T), some of which do not count."""
    inputs, labels = data()
    pairs = torch.stack([labels, labels.flip(0)], 1)
    pairs[::3, 1] = -100
    return nn.Sequential(filled(nn.Linear(INPUTS, 6)), nn.Unflatten(1, (CLASSES, 2))), inputs, pairs


def criteria():
    inputs, labels = data()
    soft = numbers(EXAMPLES, CLASSES, seed=9).softmax(1)
    one = nn.Sequential(filled(nn.Linear(INPUTS, 1)), nn.Flatten(0))
    return {
        "classes": (cross_entropy, linear(), inputs, labels, True),
        "shares": (cross_entropy, linear(), inputs, soft, True),
        "tokens": (cross_entropy, *tagged(), False),
        "vectors": (mse_loss, linear(), inputs, soft, True),
        "numbers": (mse_loss, one, inputs, numbers(EXAMPLES, seed=9), True),
    }


@pytest.mark.parametrize("name", criteria())
@pytest.mark.parametrize("accumulated", [1, 3])
def test_losses_of_known_criteria_are_their_means(name, accumulated):
    """The same chains as with a criterion of which only its mean is known, batch by batch."""
    criterion, model, inputs, targets, known = criteria()[name]
    given = DataLoader(TensorDataset(inputs, targets), batch_size=BATCH // 2)
    settings = {"grad_accumulation_steps": accumulated, "nbeta": NBETA / 5}
    apart = short(criterion, model=model, given=given, settings=settings)
    whole = short(lambda o, t: criterion(o, t), model=model, given=given, settings=settings)
    torch.testing.assert_close(losses_of(apart), losses_of(whole), **ROUNDING)
    assert bool(whole.estimate.notes)
    assert bool(apart.estimate.notes) != known


def test_accumulated_gradients_are_those_of_a_larger_batch():
    """Of which no more than the loader's batch goes through the model at once."""
    seen = []

    def recording(outputs, targets):
        seen.append(len(targets))
        return cross_entropy(outputs, targets, reduction="none")

    settings = {"grad_accumulation_steps": 4}
    parts = short(recording, given=loader(BATCH // 4), settings=settings)
    assert max(seen) == BATCH // 4
    torch.testing.assert_close(losses_of(parts), usual(), **ROUNDING)


def test_other_batches_and_the_loss_at_the_centre():
    rows = DataLoader([{"x": x, "y": y} for x, y in zip(*data(), strict=True)], batch_size=BATCH)
    made = short(
        given=rows, unpack_fn=lambda batch: (batch["x"], batch["y"]),
        current_loss=torch.tensor(0.25),
    )  # fmt: skip
    torch.testing.assert_close(losses_of(made), usual(), **ROUNDING)
    expected = NBETA * (losses_of(made).mean(1) - 0.25)
    torch.testing.assert_close(made.get_metrics()["llcs"], expected)
    assert float(made.original_loss) == 0.25


def test_more_than_inputs_and_targets_may_be_in_a_batch():
    rows = DataLoader(TensorDataset(*data(), torch.arange(EXAMPLES)), batch_size=BATCH)
    torch.testing.assert_close(losses_of(short(given=rows)), usual(), **ROUNDING)


@pytest.mark.parametrize(
    "options",
    [
        {"chain_batch": 1}, {"devices": ["cpu", "cpu"]}, {"devices": torch.device("cpu")},
        {"compile": False}, {"compile": "default"}, {"seed": 0}, {"show_progress": True},
    ],
)  # fmt: skip
def test_what_changes_no_chain(options):
    torch.testing.assert_close(losses_of(short(**options)), usual(), **ROUNDING)
    other = losses_of(short(**{**options, "seed": 1}))
    assert (other - usual()).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("given", "chains", "autocast"),
    [
        (torch.float32, None, None),
        (torch.float64, torch.float64, None),
        (torch.bfloat16, None, torch.bfloat16),
    ],
)
def test_dtype_is_of_the_forward_pass(given, chains, autocast):
    seen = set()

    class Linear(nn.Linear):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            seen.add(outputs.dtype)
            return outputs

    made = short(model=filled(Linear(INPUTS, CLASSES)), settings={"dtype": given})
    assert given in seen
    ours = estimate_llc(
        linear(), data(), nbeta=NBETA, epsilon=RATE, gamma=5.0, num_chains=2, num_draws=30,
        burn_in=10, batch_size=BATCH, dtype=chains, autocast=autocast, companions=False,
        progress=False,
    )  # fmt: skip
    rough = {"rtol": 0.03, "atol": 1e-3} if autocast else ROUNDING  # bfloat16: 8 bits
    torch.testing.assert_close(losses_of(made), ours.trace.loss[:, 10:], check_dtype=False, **rough)


def test_a_model_in_double_precision_stays_so():
    made = short(model=linear().double())
    assert made.original_loss.dtype == torch.float32  # as theirs is
    exact = estimate_llc(
        linear().double(), data(), nbeta=NBETA, epsilon=RATE, gamma=5.0, num_chains=2,
        num_draws=30, burn_in=10, batch_size=BATCH, companions=False, progress=False,
    )  # fmt: skip
    assert made.estimate.init_loss == pytest.approx(exact.init_loss, rel=1e-14)


def test_burn_in_is_rounded_up_to_whole_draws():
    made = LLCEstimator(20, 2, 5, 2, learning_rate=RATE, nbeta=NBETA)
    made.estimate_llc(linear(), loader(), show_progress=False)
    assert made.estimate.num_burn_in == 3
    assert losses_of(made).shape == (2, 20)


def test_metrics_are_empty_before_and_when_cleared():
    made = LLCEstimator(20, 2, 5, verbose=True, nbeta=NBETA)
    assert made.get_metrics() == {}
    assert made.estimate is made.original_loss is None
    made.estimate_llc(linear(), loader(), show_progress=False)
    made.clear_metrics()
    assert made.get_metrics() == {}


def test_defaults_are_theirs():
    made = LLCEstimator(3, 2, 1)
    assert (made.learning_rate, made.localization, made.nbeta) == (0.001, 5.0, 32 / math.log(32))
    assert (made.draws, made.chains, made.burnin_steps, made.steps_bw_draws) == (3, 2, 1, 1)


def test_a_grid_is_a_row_a_point():
    cfg = GridSearchConfig((1e-3, 1e-2), 4.0, (10.0, 30.0), 2, draws=20, chains=2, burnin_steps=20)
    table = LLCGridSearch(cfg).run_grid_search(
        linear(), loader(), cross_entropy, show_progress=False, seed=1
    )
    points = table[["epsilon", "gamma", "nbeta"]].to_numpy().tolist()
    assert points == [[e, 4.0, b] for e in (1e-3, 1e-2) for b in (10.0, 30.0)]
    one = LLCEstimator(20, 2, 20, learning_rate=1e-2, localization=4.0, nbeta=10.0)
    one.estimate_llc(linear(), loader(), seed=1, show_progress=False)
    metrics = one.get_metrics()
    row = table.iloc[2]
    for column, name in {
        "llc_mean": "llc_mean", "llc_std": "llc_std", "loss_mean": "losses_mean",
        "loss_std": "losses_std",
    }.items():  # fmt: skip
        assert row[column] == pytest.approx(float(metrics[name]), rel=1e-3)
