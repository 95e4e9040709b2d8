"""What cannot be estimated is said in one line, in the words of the library that is stood for."""

import pytest
import torch
from library_models import EXAMPLES, data
from their_rule import bigrams, linear, loader, losses_of_tokens, sequences
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from llc.library import estimates
from llc.shims import GridSearchConfig, LLCEstimator, LLCGridSearch, llc


@pytest.fixture(autouse=True)
def no_sampling(monkeypatch):
    def sample(*_, **__):
        raise AssertionError("a chain was started")

    monkeypatch.setattr(estimates, "estimate_stack", sample)


def said(call):
    """The line of an error that is no surprise."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def by_canonical(model=None, given=None, settings=None, **options):
    made = LLCEstimator(**{"draws": 20, "chains": 2, "burnin_steps": 10, **(settings or {})})
    given = loader() if given is None else given
    made.estimate_llc(model or linear(), given, **{"show_progress": False, **options})


def by_devinterp(model=None, given=None, **options):
    given = sequences() if given is None else given
    llc(model or bigrams(), given, {}, **{"lr": 1e-3, "n_beta": 10.0, "num_draws": 20, **options})


def rows(*tensors, batch_size=4):
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size)


def with_nan(model):
    next(model.parameters()).data[-1] = torch.nan
    return model


def ragged():
    inputs, labels = data()
    return DataLoader([(inputs[0, 1:], labels[0]), *zip(inputs, labels, strict=True)], batch_size=4)


def with_nan_inputs():
    inputs, labels = data()
    inputs[50] = torch.nan
    return rows(inputs, labels)


def detached(outputs, targets):
    return cross_entropy(outputs.detach(), targets)


def summed(outputs, targets):
    return cross_entropy(outputs, targets, reduction="sum")


def infinite(model, input_ids):
    return (-losses_of_tokens(model, input_ids)).log()


SHORTER = {"input_ids": [1, 2, 3]}


class Unused(nn.Module):
    def __init__(self, used):
        super().__init__()
        self.used, self.unused = used, nn.Linear(2, 2)

    def forward(self, inputs):
        return self.used(inputs)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("train_dataloader: is empty", {"given": rows(torch.zeros(0, 5), torch.zeros(0).long())}),
        ("train_dataloader=tuple object: must be a DataLoader", {"given": data()}),
        ("train_dataloader: examples cannot be put into a batch", {"given": ragged()}),
        ("train_dataloader: inputs and targets have", {"unpack_fn": lambda b: (b[0], b[1][1:])}),
        ("unpack_fn=None: a batch is a tensor", {"given": DataLoader(data()[0], batch_size=4)}),
        ("unpack_fn: returned a tensor (60, 5)", {"unpack_fn": lambda batch: batch[0]}),
        ("criterion_fn: has no gradient", {"criterion_fn": detached}),
        ("model: the loss has no gradient in 'unused", {"model": Unused(linear())}),
        ("criterion_fn: is a sum", {"criterion_fn": summed}),
        ("criterion_fn='mse': must be", {"criterion_fn": "mse"}),
        ("parameter 'weight' has non-finite entries", {"model": with_nan(linear())}),
        ("criterion_fn: is nan at w* at example 50", {"given": with_nan_inputs()}),
        ("torch.float16, too coarse for a chain's steps: use model.fl", {"model": linear().half()}),
        ("nbeta=0: must be a finite number > 0", {"settings": {"nbeta": 0}}),
        ("nbeta=-3.0: must be", {"settings": {"nbeta": -3.0}}),
        ("learning_rate=0.0: must be", {"settings": {"learning_rate": 0.0}}),
        ("localization=-1: must be", {"settings": {"localization": -1}}),
        ("burnin_steps=-1: must be", {"settings": {"burnin_steps": -1}}),
        ("draws=1: must be a whole number >= 2", {"settings": {"draws": 1}}),
        ("chains=0: must be", {"settings": {"chains": 0}}),
        ("steps_bw_draws=0: must be", {"settings": {"steps_bw_draws": 0}}),
        ("grad_accumulation_steps=0: must be", {"settings": {"grad_accumulation_steps": 0}}),
        ("dtype=torch.int8: must be", {"settings": {"dtype": torch.int8}}),
        ("chain_batch=0: must be", {"chain_batch": 0}),
        ("devices: 'gpu' is not to be had", {"devices": ["gpu"]}),
        ("seed=-1: must be", {"seed": -1}),
        (
            "targeted_params: 'wieght' matches no parameter: did you mean 'weight'",
            {"targeted_params": ["wieght"]},
        ),
        ("targeted_params: is empty", {"targeted_params": []}),
        (
            "train_dataloader.batch_size*grad_accumulation_steps=61: there are only 60 examples",
            {"given": loader(EXAMPLES + 1)},
        ),
        (
            "train_dataloader.batch_size*grad_accumulation_steps=80: there are only 60 examples",
            {"settings": {"grad_accumulation_steps": 4}},
        ),
    ],
)  # fmt: skip
def test_canonical_interp(message, arguments):
    assert message in said(lambda: by_canonical(**arguments))


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("dataset: is empty", {"given": []}),
        ("dataset: is a single example", {"given": sequences()[:1]}),
        ("dataset=int object: must be a data set", {"given": 3}),
        ("dataset=a dict with keys 'input_ids': must be", {"given": {"input_ids": [[1, 2]]}}),
        ("dataset: an item is a tensor (6,): must be", {"given": list(torch.zeros(40, 6).long())}),
        ("dataset: has input_ids of shape (3,) to (6,)", {"given": [*sequences(), SHORTER]}),
        ("dataset: has input_ids of shape () to (): must", {"given": [{"input_ids": 3}] * 40}),
        ("dataset: input_ids must be numbers", {"given": [{"input_ids": "some text"}] * 40}),
        ("index out of range", {"given": [{"input_ids": [1, 2, 5]}] * 40}),
        ("no sequence has a second token", {"given": [{"input_ids": [1]}] * 40}),
        ("loss_fn: has no gradient", {"loss_fn": lambda m, ids: losses_of_tokens(m, ids).detach()}),
        ("loss_fn: returned float", {"loss_fn": lambda m, ids: 0.0}),
        ("model: the loss has no gradient in 'unused", {"model": Unused(bigrams())}),
        ("parameter 'bias' has non-finite", {"model": with_nan(bigrams())}),
        ("loss_fn: is not finite at w*", {"loss_fn": infinite}),
        ("torch.bfloat16, too coarse for a ch", {"model": bigrams().bfloat16()}),
        ("n_beta=0: must be a finite number > 0", {"n_beta": 0}),
        ("n_beta=-1.0: must be", {"n_beta": -1.0}),
        ("lr=0: must be", {"lr": 0}),
        ("localization=-1: must be", {"localization": -1}),
        ("num_burnin_steps=-1: must be", {"num_burnin_steps": -1}),
        ("num_burnin_steps+num_draws*num_steps_bw_draws=1: must be", {"num_draws": 1}),
        ("num_steps_bw_draws=0: must be", {"num_steps_bw_draws": 0}),
        ("gradient_accumulation_steps=0: must be", {"gradient_accumulation_steps": 0}),
        ("init_seed=-1: must be", {"init_seed": -1}),
        ("num_chians: unknown key (did you mean 'num_chains'?", {"num_chians": 3}),
        (
            "param_masks: 'table.wieght' matches no parameter: did you mean 'table.weight'",
            {"param_masks": {"table.wieght": None}},
        ),
        (
            "param_masks: 'table.wieght' matches no parameter: did you mean 'table.weight'",
            {"param_masks": {"table.wieght": None}, "loss_fn": losses_of_tokens},
        ),
        ("the mask of 'bias' is (3,): must be (5,)", {"param_masks": {"bias": torch.ones(3)}}),
        ("param_masks: is empty", {"param_masks": {}}),
        ("param_masks: is empty", {"param_masks": {}, "loss_fn": losses_of_tokens}),
        ("param_masks=a list of 1: must be a dict", {"param_masks": ["bias"]}),
        (
            "batch_size*gradient_accumulation_steps=61: there are only 60 examples",
            {"batch_size": EXAMPLES + 1},
        ),
        (
            "batch_size*gradient_accumulation_steps=64: there are only 60 examples",
            {"gradient_accumulation_steps": 2},
        ),
    ],
)  # fmt: skip
def test_devinterp(message, arguments):
    assert message in said(lambda: by_devinterp(**arguments))


@pytest.mark.parametrize(
    ("message", "cfg"),
    [
        ("nbeta=-1.0: must be", GridSearchConfig(1e-3, 1.0, (3.0, -1.0), 3)),
        ("epsilon=0.0: must be", GridSearchConfig((1e-3, 0.0), 1.0, 3.0, 2)),
        ("gamma=-1.0: must be", GridSearchConfig(1e-3, -1, 3.0, 2)),
        ("epsilon=(1, 2, 3): must be a number or a range", GridSearchConfig((1, 2, 3), 1, 3, 2)),
        ("estimates_per_dim=0: must be", GridSearchConfig((1e-4, 1e-3), 1.0, 3.0, 0)),
        ("draws=1: must be", GridSearchConfig(1e-3, 1.0, 3.0, 1, draws=1)),
    ],
)  # fmt: skip
def test_a_bad_point_is_refused_before_the_first_runs(message, cfg):
    assert message in said(lambda: LLCGridSearch(cfg).run_grid_search(linear(), loader()))


def test_errors_of_the_users_own_keep_their_words():
    def broken(batch):
        raise TypeError("my loss=3")

    assert said(lambda: by_canonical(unpack_fn=broken)) == "my loss=3"
