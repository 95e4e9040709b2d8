"""What other libraries' users call gives their λ̂: by our own call, and by their update rule."""

import math

import numpy as np
import pytest
import torch
from library_models import CLASSES, INPUTS, data, filled, numbers
from scipy import stats
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from llc import estimate_llc
from llc.shims import GridSearchConfig, LLCEstimator, LLCGridSearch, llc

NBETA, RATE, PULL = 300.0, 1e-2, 4.0  # ε·a of some tenths: a chain forgets in tens of steps
CHAINS, STEPS, BATCH = 12, 600, 20
VOCABULARY, LENGTH, SEQUENCES = 5, 6, 60


def classifier():
    return filled(nn.Linear(INPUTS, CLASSES))


def loader():
    return DataLoader(TensorDataset(*data()), batch_size=BATCH)


class Bigrams(nn.Module):
    """Logits of the next token by the last."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, input_ids):
        return self.table(input_ids)


def sequences():
    rows = torch.randint(
        VOCABULARY, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(4)
    )
    return [{"input_ids": row.tolist()} for row in rows]


def tokens():
    return torch.tensor([row["input_ids"] for row in sequences()])


def losses_of_tokens(model, input_ids):
    logits = model(input_ids)[:, :-1]
    return cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")


def by_their_rule(model, batch_loss, examples, *, steps, kept_out, masks=None, seed=0):
    """(chains,) nβ(mean L_B(w_t) − L(w*)), with the update that both document:

    Δw = −(lr/2)(nβ ∇L_B(w) + γ(w − w*)) + √lr ξ. Each chain draws its own batches, so that chains
    are independent (they share them, which changes no mean).
    """
    source, results = torch.Generator().manual_seed(seed), []
    leaves = dict(model.named_parameters())
    centre = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    with torch.no_grad():
        initial = float(batch_loss(model, torch.arange(examples)))
    for _ in range(CHAINS):
        losses = []
        batches = []  # of whole epochs, over which the noise of L_B(w*) cancels
        for _ in range(steps):
            batches = batches or list(torch.randperm(examples, generator=source).split(BATCH))
            loss = batch_loss(model, batches.pop())
            losses.append(loss.item())
            grads = torch.autograd.grad(loss, list(leaves.values()))
            for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
                drift = NBETA * grad + PULL * (leaf.detach() - centre[name])
                noise = torch.randn(leaf.shape, generator=source)
                mask = 1.0 if masks is None else masks[name]
                leaf.data += mask * (-RATE / 2 * drift + math.sqrt(RATE) * noise)
        results.append(NBETA * (np.mean(losses[kept_out:]) - initial))
        for name, leaf in leaves.items():
            leaf.data.copy_(centre[name])
    return np.array(results)


def assert_same_mean(one, other):
    """Of chains: Welch's test, which fails once in a million times by chance."""
    low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval(1 - 1e-6)
    assert low < 0 < high
    assert high - low < abs(np.mean(other))  # else it could not have failed


def estimator(**more):
    options = {"learning_rate": RATE, "localization": PULL, "nbeta": NBETA, **more}
    return LLCEstimator(draws=400, chains=CHAINS, burnin_steps=200, **options)


def test_canonical_interp_is_our_call_with_other_names():
    shim = estimator(steps_bw_draws=2, grad_accumulation_steps=2)
    mean = shim.estimate_llc(classifier(), loader(), seed=3, show_progress=False, chain_batch=3)
    ours = estimate_llc(
        classifier(), data(), nbeta=NBETA, epsilon=RATE, gamma=PULL, num_chains=CHAINS,
        num_draws=500, burn_in=100, thin=2, batch_size=2 * BATCH, seed=3, companions=False,
        chains_per_stack=3, progress=False, engine=shim.estimate.engine,
    )  # fmt: skip
    metrics = shim.get_metrics()
    # Losses by another function: they round differently in the last bit of float32, times nβ.
    rounding = NBETA * 2**-22
    assert float(mean) == float(metrics["llc_mean"]) == pytest.approx(ours.mean, abs=rounding)
    np.testing.assert_allclose(metrics["llcs"], ours.per_chain, rtol=0, atol=rounding)
    assert float(metrics["llc_std"]) == pytest.approx(ours.std, abs=rounding)
    torch.testing.assert_close(metrics["losses"], ours.trace.loss[:, 100:])
    assert metrics["losses"].shape == (CHAINS, 400)
    assert float(metrics["losses_mean"]) == pytest.approx(float(ours.trace.loss[:, -1].mean()))


@pytest.mark.parametrize("criterion", [cross_entropy, lambda o, t: cross_entropy(o, t)])
def test_canonical_interp_gives_what_its_update_gives(criterion):
    """With L(w*) on each draw's own examples, and with that of all the data."""
    inputs, labels = data()
    theirs = by_their_rule(
        classifier(), lambda model, rows: cross_entropy(model(inputs[rows]), labels[rows]),
        len(inputs), steps=STEPS, kept_out=200,
    )  # fmt: skip
    shim = estimator()
    shim.estimate_llc(classifier(), loader(), criterion, show_progress=False)
    assert_same_mean(shim.get_metrics()["llcs"].numpy(), theirs)


def test_canonical_interp_takes_the_loss_at_the_centre_and_other_batches():
    shim = estimator()
    rows = DataLoader([{"x": x, "y": x[:CLASSES]} for x in data()[0]], batch_size=BATCH)
    shim.estimate_llc(
        classifier(), rows, mse_loss, unpack_fn=lambda batch: (batch["x"], batch["y"]),
        current_loss=0.25, targeted_params=["weight"], show_progress=False,
    )  # fmt: skip
    metrics = shim.get_metrics()
    expected = NBETA * (metrics["losses"].mean(1) - 0.25)
    torch.testing.assert_close(metrics["llcs"], expected)
    assert shim.estimate.num_free == INPUTS * CLASSES
    assert not shim.estimate.notes  # it is known what `mse_loss` averages


def test_a_grid_is_a_row_a_point():
    cfg = GridSearchConfig((1e-3, 1e-2), 4.0, (10.0, 30.0), 2, draws=20, chains=2, burnin_steps=20)
    table = LLCGridSearch(cfg).run_grid_search(
        classifier(), loader(), cross_entropy, show_progress=False, seed=1
    )
    points = table[["epsilon", "gamma", "nbeta"]].to_numpy().tolist()
    assert points == [[e, 4.0, b] for e in (1e-3, 1e-2) for b in (10.0, 30.0)]
    one = LLCEstimator(20, 2, 20, learning_rate=1e-2, localization=4.0, nbeta=10.0)
    one.estimate_llc(classifier(), loader(), seed=1, show_progress=False)
    metrics = one.get_metrics()
    row = table.iloc[2]
    assert row.llc_mean == pytest.approx(float(metrics["llc_mean"]), rel=1e-6)
    assert row.loss_std == pytest.approx(float(metrics["losses_std"]), rel=1e-6)


def devinterp(model, **more):
    return llc(
        model, sequences(), {}, lr=RATE, n_beta=NBETA, localization=PULL, num_chains=CHAINS,
        num_draws=STEPS // 2 - 50, num_burnin_steps=100, num_steps_bw_draws=2, batch_size=BATCH,
        **more,
    )  # fmt: skip


@pytest.mark.parametrize("loss_fn", [None, losses_of_tokens])
def test_devinterp_is_our_call_with_other_names(loss_fn):
    got = devinterp(filled(Bigrams()), init_seed=7, loss_fn=loss_fn)
    ours = estimate_llc(
        filled(Bigrams()), {"input_ids": tokens()}, nbeta=NBETA, epsilon=RATE, gamma=PULL,
        num_chains=CHAINS, num_draws=STEPS, burn_in=0, batch_size=BATCH, seed=7,
        companions=False, progress=False,
    )  # fmt: skip
    assert dict(got.sizes) == {"chain": CHAINS, "step": STEPS}
    # The engines are chosen by a measurement each, and round differently.
    np.testing.assert_allclose(got.llc_per_chain, ours.per_chain, rtol=1e-3)
    np.testing.assert_allclose(got.loss_trace[:, :5], ours.trace.loss[:, :5], rtol=1e-4)
    assert float(got.init_loss) == pytest.approx(ours.init_loss, rel=1e-6)
    assert float(got.llc_mean) == float(got.llc_scalar) == got.llc_per_chain.values.mean()
    assert float(got.llc_std) == got.llc_per_chain.values.std()


@pytest.mark.parametrize("masked", [False, True])
def test_devinterp_gives_what_its_update_gives(masked):
    rows = tokens()
    mask = numbers(VOCABULARY, VOCABULARY, seed=8) > 0
    theirs = by_their_rule(
        filled(Bigrams()), lambda model, some: losses_of_tokens(model, rows[some]).mean(),
        SEQUENCES, steps=STEPS, kept_out=0, masks={"table.weight": mask} if masked else None,
    )  # fmt: skip
    got = devinterp(filled(Bigrams()), param_masks={"table.weight": mask if masked else None})
    assert_same_mean(got.llc_per_chain.values, theirs)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"noise_level": 0.5}, "noise_level=0.5: is not supported"),
        ({"sampling_method": "rmsprop_sgld"}, "sampling_method='rmsprop_sgld': is not supported"),
        ({"output_path": "x.zarr"}, "to_netcdf"),
        ({"num_chians": 3}, "num_chians: is no argument of llc"),
        ({"observables": {"test": []}}, "estimate_llc\\(observables=...\\)"),
    ],
)
def test_what_would_change_the_law_is_refused(argument, message):
    with pytest.raises(TypeError, match=message):
        llc(Bigrams(), sequences(), **{"lr": RATE, "n_beta": NBETA, **argument})


def test_what_changes_no_law_is_accepted():
    got = llc(
        filled(Bigrams()), sequences(), {}, lr=RATE, n_beta=NBETA, num_draws=20, num_chains=2,
        shuffle=False, num_init_loss_batches=4, noise_level=1.0, output_path=None,
    )  # fmt: skip
    assert np.isfinite(got.llc_mean)
