"""devinterp's arguments give its λ̂: by our own call, and by its update rule."""

from functools import cache

import numpy as np
import pytest
from library_models import numbers
from their_rule import (
    BATCH,
    CHAINS,
    NBETA,
    PULL,
    RATE,
    SEQUENCES,
    STEPS,
    TOKENS,
    VOCABULARY,
    assert_same_mean,
    bigrams,
    by_their_rule,
    losses_of_tokens,
    of_tokens,
    sequences,
)

from llc import SamplerConfig, estimate_llc
from llc.shims import llc
from llc.shims.devinterp import ELSEWHERE, UNUSED

SHORT = {"lr": RATE, "n_beta": NBETA, "localization": PULL, "num_chains": 2, "num_draws": 20}


def devinterp(model, **more):
    return llc(
        model, sequences(), {}, lr=RATE, n_beta=NBETA, localization=PULL,
        num_draws=STEPS // 2 - 50, num_burnin_steps=100, num_steps_bw_draws=2,
        **{"num_chains": CHAINS, "batch_size": BATCH, **more},
    )  # fmt: skip


def short(**more):
    return llc(bigrams(), sequences(), {}, **{**SHORT, **more})


@cache
def usual():
    return short()


def assert_same_chains(one, other, steps=None):
    """But for rounding: engines are chosen by a measurement each, and drift apart a little."""
    part = slice(steps)
    np.testing.assert_allclose(one.loss_trace[:, part], other.loss_trace[:, part], rtol=1e-4)


@pytest.mark.parametrize("loss_fn", [None, losses_of_tokens])
def test_it_is_our_call_with_other_names(loss_fn):
    got = devinterp(bigrams(), init_seed=7, loss_fn=loss_fn)
    ours = estimate_llc(
        bigrams(), {"input_ids": TOKENS}, nbeta=NBETA, epsilon=RATE, gamma=PULL,
        num_chains=CHAINS, num_draws=STEPS, burn_in=0, batch_size=BATCH, seed=7,
        companions=False, progress=False,
    )  # fmt: skip
    assert dict(got.sizes) == {"chain": CHAINS, "step": STEPS}
    np.testing.assert_allclose(got.llc_per_chain, ours.per_chain, rtol=1e-3)
    assert_same_chains(got, ours.to_xarray().rename(draw="step"), 5)
    initial = losses_of_tokens(bigrams(), TOKENS).mean().item()
    assert float(got.init_loss) == pytest.approx(initial, rel=1e-6)
    assert float(got.llc_mean) == float(got.llc_scalar) == got.llc_per_chain.values.mean()
    assert float(got.llc_std) == np.std(got.llc_per_chain.values, ddof=0)


ENTRIES = (numbers(VOCABULARY, VOCABULARY, seed=8) > 0).float()


@pytest.mark.parametrize(
    ("masks", "moving", "loss_fn"),
    [
        (None, None, None),
        ({"table.weight": None}, {"table.weight": 1.0, "bias": 0.0}, None),
        ({"table.weight": ENTRIES}, {"table.weight": ENTRIES, "bias": 0.0}, losses_of_tokens),
    ],
)
def test_masks_give_what_the_update_gives(masks, moving, loss_fn):
    """Of parameters that are not named nothing moves."""
    theirs = by_their_rule(bigrams(), of_tokens, SEQUENCES, moving=moving)
    got = devinterp(bigrams(), param_masks=masks, loss_fn=loss_fn)
    assert_same_mean(got.llc_per_chain.values, theirs)


def test_chains_that_share_their_batches_have_the_same_mean():
    """match_sampling_input_ids_across_chains: groups of four, of which only the means are alone."""
    theirs = by_their_rule(bigrams(), of_tokens, SEQUENCES, sharing=4)
    got = devinterp(bigrams(), num_chains=4 * CHAINS, match_sampling_input_ids_across_chains=True)
    assert_same_mean(got.llc_per_chain.values.reshape(CHAINS, 4).mean(1), theirs)


def test_accumulated_gradients_are_those_of_a_larger_batch():
    """Of which no more than `batch_size` goes through the model at once."""
    seen = []

    def recording(model, input_ids):
        seen.append(len(input_ids))
        return losses_of_tokens(model, input_ids)

    parts = devinterp(
        bigrams(), batch_size=BATCH // 4, gradient_accumulation_steps=4, loss_fn=recording
    )
    assert max(seen) == BATCH // 4
    whole = devinterp(bigrams())
    assert_same_chains(parts, whole, 5)
    np.testing.assert_allclose(parts.llc_per_chain, whole.llc_per_chain, rtol=1e-3)


def test_only_input_ids_are_read():
    """Not labels, nor a mask: padding is a token like others."""
    rows = [
        {**row, "labels": [-100] * 6, "attention_mask": [1, 1, 1, 0, 0, 0]} for row in sequences()
    ]
    assert_same_chains(llc(bigrams(), rows, {}, **SHORT), usual())


@pytest.mark.parametrize("value", [3, False])
def test_what_changes_no_law_changes_nothing(value):
    assert_same_chains(short(**dict.fromkeys(UNUSED, value)), usual())


def test_the_seed_and_the_chain_name_the_stream():
    """init_seed: whatever the number of chains."""
    one, two = short(init_seed=5), short(init_seed=6)
    assert_same_chains(short(init_seed=5, num_chains=3).isel(chain=slice(2)), one)
    assert float(abs(one.loss_trace - two.loss_trace).max()) > 1e-3


def test_the_device():
    assert_same_chains(short(device="cpu"), usual())
    with pytest.raises(ValueError, match=r"^device: 'gpu' is not to be had"):
        short(device="gpu")


OTHERS = {
    "noise_level": 0.5, "llc_weight_decay": 0.1, "bounding_box_size": 1.0, "init_noise": 0.1,
    "sampling_method": "rmsprop_sgld", "sampling_method_kwargs": {"eps": 0.1}, "rmsprop_eps": 0.1,
    "rmsprop_alpha": 0.9, "save_metrics": True, "output_path": "x.zarr",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_what_would_change_the_law_or_the_result_is_refused(name):
    with pytest.raises(TypeError, match=f"^{name}={OTHERS[name]!r}: is not supported: leave it"):
        short(**{name: OTHERS[name]})


def test_defaults_of_what_is_refused_change_nothing():
    defaults = {name: default for name, (default, _) in ELSEWHERE.items()}
    assert_same_chains(short(**defaults), usual())


def test_observables_are_refused():
    with pytest.raises(TypeError, match=r"observables=\['test'\].*estimate_llc\(observables=...\)"):
        llc(bigrams(), sequences(), {"test": sequences()}, **SHORT)


def test_rmsprop_is_a_sampler_here():
    """What the shim says instead of sampling_method='rmsprop_sgld' has the same λ̂."""
    rate = RATE / 10  # G is about ten
    theirs = by_their_rule(bigrams(), of_tokens, SEQUENCES, kept_out=200, rate=rate, rmsprop=True)
    ours = estimate_llc(
        bigrams(), {"input_ids": TOKENS}, nbeta=NBETA, epsilon=rate, gamma=PULL,
        sampler=SamplerConfig(preconditioner="rmsprop"), num_chains=CHAINS, num_draws=STEPS,
        burn_in=200, batch_size=BATCH, companions=False, progress=False,
    )  # fmt: skip
    assert_same_mean(np.array(ours.per_chain), theirs)
