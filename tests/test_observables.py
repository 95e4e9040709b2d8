"""Losses of named data sets along the chains: the right numbers, and no chain feels it."""

import numpy as np
import pytest
import torch
import xarray as xr
from library_models import (
    CLASSES,
    EXAMPLES,
    INPUTS,
    SMALL,
    classifier,
    data,
    filled,
    numbers,
    source,
)
from torch import nn
from torch.nn.functional import cross_entropy

from llc import LLCEstimate, estimate_llc
from llc.models.gpt import gpt
from llc.streams import Stream, generator

# Recorded in float32: half a unit in the last place of numbers of size one, and as much again where
# float32 losses are averaged on the way.
SINGLE = {"rtol": 1e-6, "atol": 1e-6}
PART = {"0.weight": (slice(1, 4), slice(None)), "4.*": None}
VOCABULARY, CONTEXT = 7, 9


def probe(count=8, dtype=torch.float32, seed=9):
    labels = torch.randint(CLASSES, (count,), generator=source(seed))
    return numbers(count, INPUTS, seed=seed, dtype=dtype), labels


def estimated(observables, dtype=torch.float64, **rest):
    return estimate_llc(
        classifier(dtype), data(dtype=dtype), observables=observables, **{**SMALL, **rest}
    )


def sequences(lengths, seed=4):
    return [
        {"input_ids": torch.randint(VOCABULARY, (length,), generator=source(seed + i))}
        for i, length in enumerate(lengths)
    ]


def language_model():
    return filled(
        gpt(VOCABULARY, CONTEXT, generator(Stream(0), "model"), width=8, depth=1, heads=2),
        dtype=torch.float64,
    )


@pytest.mark.parametrize("engine", ["plain", "vmap"])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 10},
        {"batch_size": 10, "sampler": "sghmc", "companions": True},
        {"sampler": "mala"},
        {"batch_size": 10, "chains_per_stack": 1, "devices": ["cpu", "cpu"], "params": PART},
    ],
)
def test_no_chain_feels_it(engine, options):
    without = estimated(None, engine=engine, **options)
    looked = estimated({"probe": probe(dtype=torch.float64)}, engine=engine, **options)
    assert torch.equal(without.trace.loss, looked.trace.loss)
    assert torch.equal(without.trace.baseline, looked.trace.baseline)
    assert repr(without) == repr(looked)


@pytest.mark.parametrize("engine", ["plain", "vmap"])
@pytest.mark.parametrize("sampler", ["sgld", "mala", "mclmc"])
def test_on_the_data_themselves_they_average_to_the_loss(engine, sampler):
    """Of the same draw: at the next one, L is another by far more than float32 rounds."""
    options = {"thin": 3, "batch_size": EXAMPLES, "params": PART, "engine": engine}
    if sampler == "mclmc":
        options["epsilon"] = "auto"
    result = estimated({"data": data(dtype=torch.float64)}, sampler=sampler, **options)
    own = result.observables["data"]
    assert own.shape == (*result.trace.loss.shape, EXAMPLES)
    assert own.dtype == np.float32
    loss = result.trace.loss.numpy()
    np.testing.assert_allclose(own.mean(2, dtype=np.float64), loss, **SINGLE)
    assert np.median(np.abs(np.diff(loss))) > 100 * SINGLE["atol"]


def test_each_starts_as_it_is_at_the_centre():
    model = classifier(torch.float64).eval()
    sets = {"a": probe(8, torch.float64), "b": probe(5, torch.float64, 10)}
    result = estimated(sets, batch_size=10)
    for name, (inputs, labels) in sets.items():
        expected = cross_entropy(model(inputs), labels, reduction="none").detach()
        for chain in result.observables[name]:
            np.testing.assert_allclose(chain[0], expected.numpy(), **SINGLE)
    assert np.ptp(result.observables["b"][:, -1], 0).min() > 100 * SINGLE["atol"]


def test_however_the_chains_are_cut_up():
    sets = {"probe": probe(20, torch.float64)}
    splits = [
        {"chains_per_stack": size, "devices": devices, "engine": engine}
        for size, devices, engine in (
            (None, None, "vmap"), (1, None, "vmap"), (3, ["cpu", "cpu"], "vmap"), (2, None, "plain")
        )
    ]  # fmt: skip
    first, *others = (
        estimated(sets, batch_size=10, num_chains=5, **split).observables["probe"]
        for split in splits
    )
    for other in others:
        np.testing.assert_allclose(other, first, **SINGLE)


@pytest.mark.parametrize("engine", ["plain", "vmap"])
def test_tokens_are_told_apart(engine):
    """By token, padding NaN; over all tokens of the data they average to the loss."""
    lengths = [9, 4, 7, 2, 9, 5]
    items, model = sequences(lengths), language_model()
    result = estimate_llc(
        model, items, batch_size=6, engine=engine, observables={"text": items}, **SMALL
    )
    own = result.observables["text"]
    assert own.shape == (4, 40, 6, 8)
    there = ~np.isnan(own)
    assert (there.sum(3) == np.array(lengths) - 1).all()
    np.testing.assert_allclose(np.nanmean(own, (2, 3)), result.trace.loss.numpy(), **SINGLE)
    tokens = items[1]["input_ids"]
    expected = cross_entropy(model(tokens[None])[0, :-1], tokens[1:], reduction="none")
    np.testing.assert_allclose(own[0, 0, 1, :3], expected.detach().numpy(), **SINGLE)
    assert not there[:, :, 1, 3:].any()


def test_sequences_may_be_of_another_length():
    items, model = sequences([5] * 6), language_model()
    other = {"input_ids": torch.randint(VOCABULARY, (3, 9), generator=source(5))}
    labels = other["input_ids"].clone()
    labels[0, :4] = -100
    observables = {"long": other, "late": {**other, "labels": labels}, "one": items[:1]}
    result = estimate_llc(model, items, observables=observables, **SMALL)
    own = result.observables
    assert [own[name].shape[2:] for name in observables] == [(3, 8), (3, 8), (1, 4)]
    assert np.isnan(own["late"][:, :, 0, :3]).all()
    np.testing.assert_array_equal(own["late"][:, :, :, 3:], own["long"][:, :, :, 3:])


def test_a_loss_of_ones_own_by_token():
    """(B, T) values are kept, though λ̂ takes their mean."""

    def loss(outputs, targets):
        return (outputs - targets).square()

    inputs, targets = numbers(20, INPUTS), numbers(20, 4, seed=1)
    model = filled(nn.Linear(INPUTS, 4))
    result = estimate_llc(
        model, (inputs, targets), loss, observables={"same": (inputs, targets)}, **SMALL
    )
    own = result.observables["same"]
    assert own.shape == (4, 40, 20, 4)
    np.testing.assert_allclose(own.mean((2, 3)), result.trace.loss.numpy(), rtol=1e-5)


def test_a_diverged_chain_is_nan():
    result = estimated({"probe": probe(dtype=torch.float64)}, epsilon=1e4)
    own, when = result.observables["probe"], result.trace.diverged_at
    assert (when >= 0).all()
    for chain, step in enumerate(when.tolist()):
        assert np.isfinite(own[chain, :step]).all()
        assert np.isnan(own[chain, step:]).all()


def test_they_are_saved_and_labelled(tmp_path):
    items = sequences([9, 4, 7])
    result = estimate_llc(
        language_model(), items, observables={"text": items, "first": items[:1]}, **SMALL
    )
    back = LLCEstimate.load(result.save(tmp_path / "result.pt"))
    for name, values in result.observables.items():
        np.testing.assert_array_equal(back.observables[name], values)
    table = result.to_xarray()
    assert table.observed_text.dims == ("chain", "draw", "example_text", "token_text")
    assert table.observed_first.shape == (4, 40, 1, 8)
    table.to_netcdf(tmp_path / "result.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "result.nc", engine="h5netcdf") as read:
        np.testing.assert_array_equal(read.observed_text, result.observables["text"])
    plain = estimated({"probe": probe(dtype=torch.float64)}).to_xarray()
    assert plain.observed_probe.dims == ("chain", "draw", "example_probe")
    assert not estimated(None).observables
