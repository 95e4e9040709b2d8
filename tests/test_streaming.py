"""Examples fetched step by step: the same chains, in bounded memory."""

import numpy as np
import pytest
import torch
from library_models import (
    ROUNDING,
    SMALL,
    TiedLanguageModel,
    classifier,
    data,
    filled,
    numbers,
    source,
)
from live_bytes import LiveBytes
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from llc import estimate_llc


class Pairs(Dataset):
    """Items made when they are asked for."""

    def __init__(self, inputs, labels, noise=0.0):
        self.inputs, self.labels, self.noise = inputs, labels, noise
        self.asked = []

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.inputs[index] + self.noise * torch.rand(()), self.labels[index]


def as_dicts(items):
    return {key: torch.stack([item[i] for item in items]) for i, key in enumerate(("x", "y"))}


def kinds():
    inputs, labels = data(dtype=torch.float64)
    pairs = Pairs(inputs, labels)
    by_key = {"unpack": lambda batch: (batch["x"], batch["y"])}
    return {
        "data set": (pairs, {}),
        "tensor data set": (TensorDataset(inputs, labels), {}),
        "arrays": ((inputs.numpy(), labels.numpy()), {}),
        "loader": (DataLoader(pairs, batch_size=10, shuffle=True), {}),
        "loader that collates": (DataLoader(pairs, batch_size=10, collate_fn=as_dicts), by_key),
    }


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("batch_size", [10, 60])
def test_streamed_chains_are_those_of_data_in_memory(kind, batch_size):
    given, options = kinds()[kind]
    options = {**SMALL, **options, "batch_size": batch_size, "engine": "plain"}
    held, streamed = (
        estimate_llc(classifier(torch.float64), given, stream=flag, **options)
        for flag in (False, True)
    )
    torch.testing.assert_close(streamed.trace.loss, held.trace.loss, **ROUNDING)
    torch.testing.assert_close(streamed.trace.baseline, held.trace.baseline, **ROUNDING)


def test_streamed_sequences_of_other_lengths():
    lengths = torch.randint(2, 9, (30,), generator=source()).tolist()
    items = [{"input_ids": torch.randint(7, (one,), generator=source(one))} for one in lengths]
    model = filled(TiedLanguageModel(), dtype=torch.float64)
    held, streamed = (
        estimate_llc(model, items, stream=flag, batch_size=6, **SMALL) for flag in (False, True)
    )
    torch.testing.assert_close(streamed.trace.loss, held.trace.loss, **ROUNDING)


def test_a_step_asks_for_its_own_examples_only():
    pairs = Pairs(*data(1000))
    runs = []
    for draws in (20, 40):
        pairs.asked.clear()
        options = {**SMALL, "num_draws": draws, "num_chains": 2, "engine": "plain"}
        estimate_llc(classifier(), pairs, stream=True, batch_size=3, **options)
        runs.append(len(pairs.asked))
    assert 0 < runs[1] - runs[0] <= 20 * 2 * 3


class Wide(Dataset):
    """Far more numbers than are ever needed at once."""

    def __len__(self):
        return 4000

    def __getitem__(self, index):
        return torch.full((5000,), np.sin(index), dtype=torch.float32), index % 3


def test_memory_is_that_of_a_step():
    """What is counted is what this thread, the only one, holds: all, for a model that is large."""
    model = filled(nn.Linear(5000, 3))
    with LiveBytes() as live:
        estimate_llc(
            model, Wide(), stream=True, batch_size=50, companions=False, epsilon=1e-4,
            num_draws=5, num_chains=2, engine="plain",
        )  # fmt: skip
    a_step = 4 * 5000 * 50 * 2
    # Of two blocks: items, the batch that they make, and each chain's own copy.
    assert 2 * a_step < live.peak < 12 * a_step < 4 * 5000 * 4000 / 3


class Endless(IterableDataset):
    def __iter__(self):
        yield from zip(*data(), strict=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Endless(), "stream=True: an IterableDataset has no indices"),
        (DataLoader(Endless(), batch_size=5), "stream=True: this DataLoader decides itself"),
        (
            DataLoader(TensorDataset(*data()), sampler=torch.utils.data.SubsetRandomSampler([1])),
            "stream=True: this DataLoader decides itself",
        ),
        (Pairs(*data(), noise=0.1), "data: example 0 comes out different each time"),
        ((data()[0][:30], data()[1]), "inputs and targets have 30 and 60 examples"),
        (TensorDataset(numbers(1, 5), torch.zeros(1).long()), "data: is empty or a single example"),
    ],
)
def test_what_cannot_be_streamed(given, message):
    with pytest.raises(ValueError, match=message):
        estimate_llc(classifier(), given, stream=True, **SMALL)


class Drawing(Pairs):
    def __getitem__(self, index):
        torch.rand(())
        return super().__getitem__(index)


def test_the_global_generator_is_as_it_was():
    model, state = classifier(), torch.get_rng_state()
    estimate_llc(model, Drawing(*data()), stream=True, **SMALL)
    assert torch.equal(torch.get_rng_state(), state)


def test_data_without_indices_cannot_be_streamed():
    with pytest.raises(TypeError, match="stream=True: data=int object: must be"):
        estimate_llc(classifier(), 3, stream=True, **SMALL)
