"""What cannot be estimated is said in one line, before any chain starts."""

import pytest
import torch
from library_models import (
    EXAMPLES,
    INPUTS,
    SMALL,
    TiedLanguageModel,
    classifier,
    data,
    filled,
    numbers,
)
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from llc import SamplerConfig, estimate_llc
from llc.library import estimates


@pytest.fixture(autouse=True)
def no_sampling(monkeypatch):
    def sample(*_, **__):
        raise AssertionError("a chain was started")

    monkeypatch.setattr(estimates, "estimate_stack", sample)


def refused(message, model=None, given=None, loss="cross_entropy", error=ValueError, **rest):
    with pytest.raises(error) as caught:
        estimate_llc(
            classifier() if model is None else model,
            data() if given is None else given,
            loss,
            **{**SMALL, **rest},
        )
    text = str(caught.value)
    assert "\n" not in text
    assert message in text, text


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("nbeta=0: must be a finite number > 0", {"nbeta": 0}),
        ("nbeta=-1.0", {"nbeta": -1.0}),
        ("burn_in=40: leaves 0 of num_draws=40", {"burn_in": 40}),
        ("burn_in=41", {"burn_in": 41}),
        ("batch_size=61: there are only 60 examples", {"batch_size": 61}),
        ("num_chains=0", {"num_chains": 0}),
        ("epsilon='fast'", {"epsilon": "fast"}),
        ("num_draws*thin=40: too few for epsilon='auto'", {"epsilon": "auto"}),
        ("sampler.name='sgdl'", {"sampler": "sgdl"}),
        ("burn_in=5: nuts adapts itself", {"sampler": "nuts", "epsilon": "auto", "burn_in": 5}),
        ("sampler.num_steps=5: leave it out", {"sampler": SamplerConfig(num_steps=5)}),
        ("epsilon=0.0001: would be ignored with sampler 'nuts'", {"sampler": "nuts"}),
        ("samples deep linear networks only", {"sampler": "gibbs"}),
        ("engine='fast'", {"engine": "fast"}),
        ("compile='fast'", {"compile": "fast"}),
        ("chains_per_stack=0", {"chains_per_stack": 0}),
        ("dtype=torch.float16: must be torch.float32", {"dtype": torch.float16}),
        ("microbatch_size=0", {"microbatch_size": 0}),
        ("autocast=torch.float32: must be torch.bfloat16", {"autocast": torch.float32}),
        (
            "autocast=torch.bfloat16: casts from float32, and chains are sampled in torch.float64",
            {"autocast": torch.bfloat16, "dtype": torch.float64},
        ),
        ("devices: 'gpu'", {"devices": ["gpu"]}),
        ("devices: is empty", {"devices": []}),
        ("loss='mse': must be 'cross_entropy' or a function", {"loss": "mse"}),
        ("'4.wieght' matches no parameter: did you mean '4.weight'", {"params": "4.wieght"}),
        ("params: is empty", {"params": []}),
        ("must be (6, 5)", {"params": {"0.weight": torch.ones(6, dtype=torch.bool)}}),
        ("selects nothing", {"params": {"0.weight": torch.zeros(6, 5, dtype=torch.bool)}}),
        ("does not index '0.weight'", {"params": {"0.weight": 6}}),
        ("tensor([[0], [9]]) does not index", {"params": {"0.weight": torch.tensor([[0], [9]])}}),
        ("is not a part of the model", {"params": nn.Linear(2, 2)}),
    ],
)  # fmt: skip
def test_arguments(message, arguments):
    refused(message, **arguments)


def test_a_selection_of_another_type():
    refused("params: int object", error=TypeError, params=3)


def test_a_sampler_of_another_type():
    refused("sampler=int object", error=TypeError, sampler=3)


PAIRS = list(zip(*data(), strict=True))


class Empty(Dataset):
    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError


class Ragged(Dataset):
    def __len__(self):
        return 600

    def __getitem__(self, index):
        return torch.zeros(INPUTS + (index > 299)), 0


class Rows(IterableDataset):
    """Not of one length, and without indices."""

    def __iter__(self):
        yield from ((inputs[: 5 - (i == 7)], labels) for i, (inputs, labels) in enumerate(PAIRS))


UNNAMED = [{"x": x, "y": y} for x, y in PAIRS[:5]] + [{"x": PAIRS[0][0]}]
BEYOND = torch.cat([data(EXAMPLES - 1)[1], torch.tensor([3])])  # the last is no class
UNFIT = "data: examples cannot be put into a batch"


@pytest.mark.parametrize(
    ("message", "given"),
    [
        ("data: is empty", Empty()),
        ("data: is empty", DataLoader(Empty(), batch_size=4)),
        ("data: is empty", DataLoader(TensorDataset(numbers(0, 5), numbers(0)), batch_size=4)),
        ("data: is a single example", data(1)),
        ("give unpack=lambda batch", (*data(), numbers(EXAMPLES))),
        ("with keys 'x', 'y', not a pair", [{"x": x, "y": y} for x, y in PAIRS]),
        ("inputs and targets have 30 and 60 examples", (data()[0][:30], data()[1])),
        ("batch_size=61 (of the DataLoader)", DataLoader(TensorDataset(*data()), batch_size=61)),
        ("batch 3 is (6,)", DataLoader(Ragged(), batch_size=100)),
        (UNFIT, Ragged()),
        (UNFIT, DataLoader(Ragged(), batch_size=80)),
        (UNFIT, Rows()),
        (UNFIT, DataLoader(Rows(), batch_size=20)),
        (UNFIT, [*PAIRS, PAIRS[0][0]]),
        (f"{UNFIT} ('y'): give", UNNAMED),
        (f"{UNFIT} ('input_ids')", [{"input_ids": [1, 2]}, {"ids": [1, 2]}]),
        ("found <class 'object'>", [(object(), 0)] * 8),
        ("model: fails on a batch of the data", (numbers(EXAMPLES, 9), data()[1])),
        ("returns (4, 3) for targets (4, 8) torch.float32", (data()[0], numbers(EXAMPLES, 8))),
        ("data: model or loss fail on a batch of it: Target 3", (data()[0], BEYOND)),
    ],
)  # fmt: skip
def test_data(message, given):
    refused(message, given=given)


@pytest.mark.parametrize("given", [3, "data", {"x": 1}, torch.zeros(3)])
def test_data_of_another_type(given):
    with pytest.raises(TypeError, match="data="):
        estimate_llc(classifier(), given)


def test_an_unpacking_that_is_no_pair():
    refused("unpack: returned a tensor (60, 5)", unpack=lambda batch: batch[0])


def test_a_model_of_another_type():
    refused("model=function object", model=lambda x: x, error=TypeError)


def with_nan(model):
    model[4].bias.data[1] = torch.nan
    return model


def in_one_storage():
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5))
    model[1].weight = nn.Parameter(model[0].weight.detach().t())
    return model


def frozen():
    return classifier().requires_grad_(False)


def half_frozen():
    model = classifier()
    model[0].requires_grad_(False)
    return model


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(INPUTS, 3), nn.Linear(INPUTS, 3)

    def forward(self, inputs):
        return self.used(inputs)


class Noisy(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) + torch.rand(())


def hooked():
    model = classifier()
    model[2].register_forward_hook(lambda module, inputs, outputs: 2 * outputs)
    return model


def mixing():
    layers = nn.Linear(INPUTS, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3)
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("message", "model"),
    [
        ("has parameters of torch.float16, too coarse", classifier().half()),
        ("has parameters of torch.bfloat16, too coarse", classifier().bfloat16()),
        ("parameter '4.bias' has non-finite entries", with_nan(classifier())),
        ("has no parameters", nn.ReLU()),
        ("no parameter has requires_grad=True", frozen()),
        ("share memory without being the same parameter", in_one_storage()),
        ("is not initialised", nn.LazyLinear(3)),
        ("is on the meta device", nn.Linear(INPUTS, 3, device="meta")),
        ("no gradient in 'unused.weight', 'unused.bias'", Unused()),
        ("gives other outputs on the same inputs", Noisy(INPUTS, 3)),
        ("has forward hooks that change its outputs", hooked()),
        ("depends on the others in its batch", mixing()),
    ],
)
def test_models(message, model):
    refused(message, model=model)


def test_fixed_parameters_cannot_be_selected():
    refused("'0.weight' has requires_grad=False", model=half_frozen(), params="0.weight")


def each(outputs, targets):
    return cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize(
    ("message", "loss"),
    [
        ("loss: fails on outputs (4, 3)", lambda out, y: out @ out),
        ("loss: has no gradient", lambda out, y: each(out.detach(), y)),
        ("loss: returned float", lambda out, y: 1.0),
        ("loss: returned torch.int64", lambda out, y: y),
        ("loss: returned (3,) for 4 examples", lambda out, y: out.mean(0)),
        ("is a sum over the batch", lambda out, y: cross_entropy(out, y, reduction="sum")),
        ("loss: is not finite at w*", lambda out, y: each(out, y).log().neg().log()),
        ("its gradient in", lambda out, y: (each(out, y).detach() - each(out, y)).abs().sqrt()),
    ],
)
def test_losses(message, loss):
    refused(message, loss=loss)


def test_a_loss_that_is_nan_at_one_example():
    inputs, labels = data()
    inputs[50] = torch.nan
    refused("loss: is nan at w* at example 50", given=(inputs, labels))


def test_sequences_without_a_second_token():
    items = [{"input_ids": [1]} for _ in range(4)]
    refused("no sequence has a second token", model=filled(TiedLanguageModel()), given=items)


NAN = (torch.full((2, INPUTS), torch.nan), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("message", "observables"),
    [
        ("observables: the name 3", {3: data()}),
        ("observables: the name 'a/b'", {"a/b": data()}),
        ("observables['few']: is empty: give", {"few": (torch.zeros(0, 5), torch.zeros(0).long())}),
        ("observables['few']: inputs and targets have 4 and 60", {"few": (data(4)[0], data()[1])}),
        ("observables['few']: is of another structure than data", {"few": (data()[0], data()[0])}),
        ("observables['few']: is of another structure", {"few": [{"input_ids": [1, 2]}]}),
        ("observables['few']: model or loss fail on it", {"few": (numbers(4, 6), data(4)[1])}),
        ("observables['few']: the loss is nan at w* at example 0", {"ok": data(), "few": NAN}),
    ],
)  # fmt: skip
def test_observables(message, observables):
    refused(message, observables=observables)


def test_observables_of_another_type():
    refused("observables=list object", error=TypeError, observables=[data()])
    refused("observables['a']=int object", error=TypeError, observables={"a": 3})


def test_observables_need_a_loss_of_each_example():
    refused("observables: need a loss of one value", loss=cross_entropy, observables={"a": data()})


def test_autocast_that_a_device_cannot_run(monkeypatch):
    def unsupported(*_):
        raise RuntimeError("not implemented for 'Half'")

    monkeypatch.setattr(torch, "autocast", unsupported)
    refused("autocast=torch.float16: PyTorch cannot run it on cpu", autocast=torch.float16)
