"""Data of every kind that a user may bring, and what one example is."""

import pytest
import torch
from library_models import (
    EXAMPLES,
    INPUTS,
    ROUNDING,
    SMALL,
    TiedLanguageModel,
    classifier,
    data,
    filled,
    numbers,
    source,
)
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from llc import estimate_llc


def test_per_token_losses_count_by_their_mean():
    model = filled(nn.Linear(INPUTS, 4), dtype=torch.float64)
    pair = numbers(EXAMPLES, INPUTS, dtype=torch.float64), numbers(EXAMPLES, 4, dtype=torch.float64)
    token = estimate_llc(model, pair, lambda out, y: (out - y).square(), **SMALL)
    example = estimate_llc(model, pair, lambda out, y: (out - y).square().mean(-1), **SMALL)
    torch.testing.assert_close(token.trace.loss, example.trace.loss, **ROUNDING)


def tokens(count=30, length=6):
    return torch.randint(7, (count, length), generator=source(5))


def test_input_ids_are_predicted_token_by_token():
    model, ids = filled(TiedLanguageModel()), tokens()
    result = estimate_llc(model, [{"input_ids": row.tolist()} for row in ids], **SMALL)
    with torch.no_grad():
        logits = model(ids)[:, :-1]
        mean = cross_entropy(logits.reshape(-1, 7), ids[:, 1:].reshape(-1))
    assert result.init_loss == pytest.approx(mean.item(), rel=1e-5)
    assert result.num_parameters == 7 * 4 + 4 * 4 + 4  # the tied matrix counts once


def test_padding_does_not_count():
    """Sequences of unequal lengths: L is the mean over all tokens that are there."""
    model, lengths = filled(TiedLanguageModel()), [6, 3, 5, 2] * 5
    items = [
        {"input_ids": row[:k].tolist(), "attention_mask": [1] * k}
        for row, k in zip(tokens(20), lengths, strict=True)
    ]
    result = estimate_llc(model, items, **SMALL)
    with torch.no_grad():
        losses = torch.cat([
            cross_entropy(model(row[None, :k])[0, :-1], row[1:k], reduction="none")
            for row, k in zip(tokens(20), lengths, strict=True)
        ])  # fmt: skip
    assert result.init_loss == pytest.approx(losses.mean().item(), rel=1e-5)


def kinds_of_data():
    inputs, labels = data()
    dataset = TensorDataset(inputs, labels)
    named = [{"x": x, "y": y} for x, y in dataset]
    return {
        "tensors": ((inputs, labels), None),
        "arrays": ((inputs.numpy(), labels.numpy()), None),
        "dataset": (dataset, None),
        "items": (list(dataset), None),
        "loader": (DataLoader(dataset, batch_size=EXAMPLES, shuffle=True), None),
        "collating": (
            DataLoader(
                named, batch_size=EXAMPLES,
                collate_fn=lambda rows: {k: torch.stack([r[k] for r in rows]) for k in rows[0]},
            ),
            lambda batch: (batch["x"], batch["y"]),
        ),
        "batched": (DataLoader(named, batch_size=EXAMPLES), lambda batch: (batch["x"], batch["y"])),
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(kinds_of_data()))
def test_data_of_every_kind_are_the_same(kind):
    given, unpack = kinds_of_data()[kind]
    arguments = {**SMALL, "engine": "plain"}
    one = estimate_llc(classifier(), given, unpack=unpack, **arguments)
    two = estimate_llc(classifier(), data(), batch_size=EXAMPLES, **arguments)
    assert torch.equal(one.trace.loss, two.trace.loss)


def test_a_loaders_batch_size_is_the_default():
    loader = DataLoader(TensorDataset(*data()), batch_size=20)
    result = estimate_llc(classifier(), loader, **SMALL)
    assert result.trace.gradients == pytest.approx(4 * 40 * 20 / EXAMPLES)
