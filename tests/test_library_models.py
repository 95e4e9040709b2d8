"""Awkward models and losses of users: run as they are, or refused with the reason."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from library_models import CLASSES, EXAMPLES, INPUTS, SMALL, data, filled, numbers, source
from torch import nn
from torch.nn.functional import cross_entropy

from llc import estimate_llc
from llc.library import estimates


def estimated(model, given=None, loss="cross_entropy", **rest):
    return estimate_llc(model, data() if given is None else given, loss, **{**SMALL, **rest})


def refused(message, *args, **rest):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        estimated(*args, **rest)
    text = str(caught.value)
    assert message in text, text
    assert "\n" not in text


def at_centre(model, given=None):
    """L(w*), by the model itself."""
    inputs, labels = data() if given is None else given
    with torch.no_grad():
        return cross_entropy(model(inputs), labels).item()


def filled_real(model):
    """`filled`, but for parameters that are not sampled."""
    moves = source(3)
    for leaf in model.parameters():
        if leaf.requires_grad:
            leaf.data.copy_(torch.randn(leaf.shape, generator=moves) / 2)
    return model


class Rotating(nn.Module):
    """Multiplies by complex numbers, as rotary embeddings do."""

    def __init__(self, kind):
        super().__init__()
        self.line, self.head = nn.Linear(INPUTS, 4), nn.Linear(4, CLASSES)
        angles = torch.polar(torch.ones(2), torch.tensor([1.0, 2.0]))
        if kind == "buffer":
            self.register_buffer("angles", angles)
        else:
            self.angles = nn.Parameter(angles, requires_grad=False)

    def forward(self, inputs):
        pairs = torch.view_as_complex(self.line(inputs).view(-1, 2, 2))
        return self.head(torch.view_as_real(pairs * self.angles).flatten(1))


class InDouble(nn.Linear):
    """Has a table in float64, and looks it up in float64."""

    def __init__(self):
        super().__init__(INPUTS, CLASSES)
        self.register_buffer("table", torch.eye(CLASSES, dtype=torch.float64) * 1.1)

    def forward(self, inputs):
        return (super().forward(inputs).double() @ self.table).float()


@pytest.mark.parametrize("engine", ["plain", "vmap"])
@pytest.mark.parametrize(
    "model", [Rotating("buffer"), Rotating("frozen"), InDouble()], ids=["buffer", "frozen", "table"]
)
def test_numbers_of_other_kinds_stay_as_they_are(model, engine):
    result = estimated(filled_real(model), engine=engine)
    assert result.init_loss == pytest.approx(at_centre(model), rel=1e-6)


def test_a_table_in_double_stays_so_in_exact_passes():
    result = estimated(filled_real(InDouble()), sampler="mala")
    assert torch.isfinite(result.trace.loss).all()


class Writing(nn.Module):
    """Changes one of its tensors, or its inputs, in forward."""

    def __init__(self, write):
        super().__init__()
        self.line, self.write = nn.Linear(INPUTS, CLASSES), write
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, inputs):
        self.write(self, inputs)
        return self.scale * self.line(inputs)


class Lookup(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4, max_norm=9.0), nn.Linear(4, CLASSES)

    def forward(self, tokens):
        return self.head(self.table(tokens).mean(1))


@pytest.mark.parametrize(
    ("message", "write"),
    [
        ("model: changes its inputs in place", lambda _, inputs: inputs.mul_(0.9995)),
        ("forward writes into buffer 'scale'", lambda self, _: self.scale.mul_(0.9995)),
        (
            "forward writes into parameter 'line.weight'",
            lambda self, _: self.line.weight.data.clamp_(-0.1, 0.1),
        ),
    ],
)
def test_what_forward_writes_in_place_is_refused(message, write):
    inputs, labels = data()
    refused(message, filled(Writing(write)), (inputs, labels))
    assert torch.equal(inputs, data()[0])


def test_a_first_layer_in_place_is_refused_and_the_data_stay():
    """Also where it changes nothing: that is so of these examples only."""
    inputs, labels = data()
    inputs[:4] = inputs[:4].abs()
    before = inputs.clone()
    model = nn.Sequential(nn.ReLU(inplace=True), filled(nn.Linear(INPUTS, CLASSES)))
    refused("give the first layer inplace=False", model, (inputs, labels))
    assert torch.equal(inputs, before)
    inside = nn.Sequential(nn.Linear(INPUTS, 4), nn.ReLU(inplace=True), nn.Linear(4, CLASSES))
    assert torch.isfinite(estimated(filled(inside)).trace.loss).all()


def test_an_embedding_with_max_norm_is_refused():
    """It would move the chains, even if w* is well inside."""
    tokens = torch.randint(7, (EXAMPLES, 3), generator=source())
    refused("forward writes into parameter 'table.weight'", filled(Lookup()), (tokens, data()[1]))


def test_a_loss_that_writes_into_the_targets_is_refused():
    def loss(outputs, targets):
        targets[targets < 0] = 0
        return cross_entropy(outputs, targets, reduction="none")

    inputs, labels = data()
    labels[2] = -1
    before = labels.clone()
    model = filled(nn.Linear(INPUTS, CLASSES))
    refused("loss: changes its targets in place", model, (inputs, labels), loss)
    assert torch.equal(labels, before)


def test_missing_numbers_in_the_data_are_no_change():
    class Filling(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs.nan_to_num())

    inputs, labels = data()
    inputs[1, 2] = torch.nan
    result = estimated(filled(Filling(INPUTS, CLASSES)), (inputs, labels))
    assert torch.isfinite(result.trace.loss).all()


class Encoder(nn.Module):
    """Averages over padding too, where PyTorch's fast path for inference returns zeros."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, CLASSES)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)

    def forward(self, tokens):
        hidden = self.layers(self.embed(tokens), src_key_padding_mask=tokens == 0)
        return self.head(hidden.mean(1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_transformer_with_padding_is_one_function():
    tokens, labels = torch.randint(1, 9, (EXAMPLES, 6), generator=source()), data()[1]
    tokens[10:30, 3:] = 0
    model = filled(Encoder()).eval()
    with_gradients = cross_entropy(model(tokens), labels).item()
    assert abs(at_centre(model, (tokens, labels)) - with_gradients) > 1e-3
    result = estimated(model, (tokens, labels), engine="plain", batch_size=EXAMPLES)
    assert result.init_loss == pytest.approx(with_gradients, rel=1e-5)
    first = result.trace.loss[:, 0]
    torch.testing.assert_close(first, result.trace.baseline[:, 0], rtol=1e-5, atol=0)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_that_asks_for_gradients_is_refused():
    class Two(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) * (1.1 if torch.is_grad_enabled() else 1.0)

    refused("gives other losses with gradients than without", filled(Two(INPUTS, CLASSES)))


@dataclass
class Output:
    logits: torch.Tensor
    name: str = "mine"


class Wrapping(nn.Linear):
    """Returns an object of its own, as many libraries' models do."""

    def __init__(self, noise=0.0):
        super().__init__(INPUTS, CLASSES)
        self.noise = noise

    def forward(self, inputs):
        outputs = super().forward(inputs)
        return Output(outputs + self.noise * torch.rand(()) if self.noise else outputs)


def of_logits(outputs, targets):
    assert outputs.logits.dtype == torch.float32
    return cross_entropy(outputs.logits, targets, reduction="none")


def of_logits_of_the_batch(outputs, targets):
    return cross_entropy(outputs.logits, targets)


def test_outputs_of_a_class_are_looked_into():
    refused(
        "gives other outputs on the same inputs",
        filled(Wrapping(noise=1.0)),
        loss=of_logits_of_the_batch,
    )
    model = filled(Wrapping())
    model.register_forward_hook(lambda _, __, out: Output(2 * out.logits))
    refused("has forward hooks that change its outputs", model, loss=of_logits)


@pytest.mark.parametrize("engine", ["plain", "vmap"])
def test_autocast_gives_losses_full_precision_in_outputs_of_a_class(engine):
    result = estimated(filled(Wrapping()), loss=of_logits, autocast=torch.bfloat16, engine=engine)
    assert torch.isfinite(result.trace.loss).all()


class Flat(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs).squeeze(-1)


@pytest.mark.parametrize(
    ("message", "model", "targets"),
    [
        ("returns (4, 1) for targets (4, 1)", nn.Linear(INPUTS, 1), numbers(EXAMPLES, 1)),
        ("returns (4, 1) for targets (4,)", nn.Linear(INPUTS, 1), data()[1] * 0),
        ("returns (4,) for targets (4,)", Flat(INPUTS, 1), numbers(EXAMPLES)),
        ("returns (4,) for targets (4,)", Flat(INPUTS, 1), data()[1]),
        ("returns (4, 3) for targets (4, 3)", nn.Linear(INPUTS, 3), numbers(EXAMPLES, 3)),
        ("returns (4, 3) for targets (4,) torch.float32", nn.Linear(INPUTS, 3), numbers(EXAMPLES)),
    ],
)
def test_the_default_loss_is_for_classes(message, model, targets):
    refused(message, filled(model), (data()[0], targets))


def test_class_probabilities_are_targets():
    chances = numbers(EXAMPLES, CLASSES).softmax(1)
    assert estimated(filled(nn.Linear(INPUTS, CLASSES)), (data()[0], chances)).init_loss > 0


def test_a_loss_for_each_class_is_refused_whatever_their_number():
    """Four classes, as many as examples are looked at."""

    def loss(outputs, targets):
        return (outputs - targets).square().mean(0)

    given = data()[0], numbers(EXAMPLES, 4)
    refused("returned (4,) for 2 examples", filled(nn.Linear(INPUTS, 4)), given, loss)


class Closing(nn.Module):
    def __init__(self):
        super().__init__()
        self.line, self.head = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, CLASSES)
        self.through = lambda hidden: self.line(hidden)

    def forward(self, inputs):
        return self.head(self.through(self.line(inputs)))


def test_a_function_that_runs_the_original_is_refused():
    refused("of the model itself, which the chains' copies never move", filled(Closing()))


def test_minus_infinity_among_the_logits_hides_nothing():
    class Masked(nn.Linear):
        def forward(self, inputs):
            hidden = nn.functional.dropout(inputs, 0.5)
            mask = torch.tensor([0.0, 0.0, -torch.inf])
            return super().forward(hidden) + mask

    inputs, labels = data()
    refused(
        "gives other outputs", filled(Masked(INPUTS, CLASSES)), (inputs, labels % 2), cross_entropy
    )


def test_logits_may_be_masked_by_example():
    """What a label that is another example's would cost is no matter."""

    class Allowing(nn.Linear):
        def forward(self, inputs):
            logits = super().forward(inputs[:, 1:])
            return logits.masked_fill(torch.arange(CLASSES) == inputs[:, :1], -torch.inf)

    inputs, labels = data()
    inputs[:, 0] = (labels + 1) % CLASSES
    result = estimated(filled(Allowing(INPUTS - 1, CLASSES)), (inputs, labels))
    assert torch.isfinite(result.trace.loss).all()


def test_a_mask_among_the_outputs():
    class Telling(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs), inputs[:, 0] > 0

    def loss(outputs, targets):
        return cross_entropy(outputs[0], targets, reduction="none")

    assert estimated(filled(Telling(INPUTS, CLASSES)), loss=loss).init_loss > 0


class Keeping(nn.Linear):
    def forward(self, inputs):
        self.last = super().forward(inputs)
        return self.last


@pytest.mark.parametrize("engine", ["plain", "vmap"])
@pytest.mark.parametrize(
    "options",
    [
        {"chains_per_stack": 1, "devices": ["cpu", "cpu"]},
        {"observables": {"few": data(4)}},
        {"sampler": "mala"},
    ],
)
def test_a_model_may_keep_activations(engine, options):
    model = filled(Keeping(INPUTS, CLASSES))
    result = estimated(model, engine=engine, **options)
    assert result.init_loss == pytest.approx(at_centre(model), rel=1e-6)


class Experts(nn.Module):
    """Each example goes to one of several; the first examples miss some."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(INPUTS, CLASSES) for _ in range(8))

    def forward(self, inputs):
        which, outputs = (inputs[:, 0] * 7.9).long(), inputs.new_zeros(len(inputs), CLASSES)
        for index, expert in enumerate(self.experts):
            rows = (which == index).nonzero()[:, 0]
            if len(rows):
                outputs = outputs.index_put((rows,), expert(inputs[rows]))
        return outputs


def test_experts_that_the_first_examples_do_not_reach():
    inputs = torch.rand(EXAMPLES, INPUTS, generator=source())
    assert (inputs[:, 0] * 7.9).long().unique().numel() == 8
    result = estimated(filled(Experts()), (inputs, data()[1]), batch_size=EXAMPLES)
    assert torch.isfinite(result.trace.loss).all()
    assert result.num_free == 8 * CLASSES * (INPUTS + 1)


def test_a_model_that_fails_is_one_line():
    class Failing(nn.Linear):
        def forward(self, inputs):
            raise RuntimeError("no\nat all")

    refused("model: fails on a batch of the data: no", filled(Failing(INPUTS, CLASSES)))


def test_a_gradient_that_fails_is_one_line():
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(_, value):
            return 2 * value

        @staticmethod
        def backward(_, __):
            raise RuntimeError("there is none\nat all")

    class Failing(nn.Linear):
        def forward(self, inputs):
            return Doubled.apply(super().forward(inputs))

    refused("model: its gradient fails at w*: there is none", filled(Failing(INPUTS, CLASSES)))


def weighted(outputs, targets):
    weight = torch.tensor([1.0, 2.0, 3.0])
    return cross_entropy(outputs, targets, weight=weight, reduction="none")


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "hmc", "epsilon": "auto"},
        {"sampler": "mala"},
        {"epsilon": "auto", "num_draws": 4000, "batch_size": 30},
    ],
)
def test_what_fails_in_float64_is_refused_where_that_is_asked_for(options, monkeypatch):
    def sample(*_, **__):
        raise AssertionError("a chain was started")

    monkeypatch.setattr(estimates, "estimate_stack", sample)
    model = filled(nn.Linear(INPUTS, CLASSES))
    refused("model: it or the loss fails in float64", model, loss=weighted, engine="plain",
            **options)  # fmt: skip


def test_what_fails_in_float64_runs_in_float32():
    model = filled(nn.Linear(INPUTS, CLASSES))
    for options in ({}, {"epsilon": "auto", "num_draws": 1000, "batch_size": 30}):
        assert estimated(model, loss=weighted, engine="plain", **options).init_loss > 0


def test_half_precision_that_overflows_in_the_sum_over_a_batch_is_refused():
    inputs, labels = 3000 * numbers(EXAMPLES, INPUTS).abs(), 0 * data()[1]
    model, options = filled(nn.Linear(INPUTS, CLASSES)), {"autocast": torch.float16}
    model.weight.data.mul_(1e-4)
    options |= {"engine": "plain", "batch_size": EXAMPLES, "epsilon": 1e-12}
    refused(
        "autocast=torch.float16: the gradient summed over 60", model, (inputs, labels), **options
    )
    result = estimated(model, (inputs, labels), microbatch_size=5, **options)
    assert torch.isfinite(result.trace.loss).all()


def test_a_sparse_buffer():
    class Averaging(nn.Linear):
        def __init__(self):
            super().__init__(INPUTS, CLASSES)
            self.register_buffer("mixing", (2 * torch.eye(INPUTS)).to_sparse())

        def forward(self, inputs):
            return super().forward((self.mixing @ inputs.T).T)

    model = filled_real(Averaging())
    result = estimated(model, engine="plain")
    assert result.init_loss == pytest.approx(at_centre(model), rel=1e-6)


def test_a_module_of_torch_jit_is_refused():
    model = filled(nn.Linear(INPUTS, CLASSES))
    with warnings.catch_warnings(action="ignore"):  # deprecated by PyTorch
        traced = torch.jit.trace(model, data()[0])
    refused("model: is a torch.jit module", nn.Sequential(traced))


def test_without_gradients_around_it_runs_the_same():
    model = filled(nn.Linear(INPUTS, CLASSES))
    one = estimated(model, engine="plain")
    with torch.no_grad():
        two = estimated(model, engine="plain")
    assert torch.equal(one.trace.loss, two.trace.loss)


def test_inference_mode_is_refused():
    model = filled(nn.Linear(INPUTS, CLASSES))
    with torch.inference_mode():
        refused("torch.inference_mode(): is on", model)


def test_a_device_without_numbers_is_refused():
    refused("devices: 'meta' computes nothing", filled(nn.Linear(INPUTS, CLASSES)), devices="meta")


class Sum(nn.Linear):
    def forward(self, a, b):
        return super().forward(a + b)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_a_pair_of_a_models_arguments_and_the_targets(kind, stream):
    inputs, labels = data()
    parts = inputs - 1, numbers(EXAMPLES, INPUTS) * 0 + 1
    given = (parts if kind == "tuple" else dict(zip("ba", parts, strict=True))), labels
    model = filled(Sum(INPUTS, CLASSES))
    other = filled(nn.Linear(INPUTS, CLASSES))
    one = estimated(model, given, stream=stream, engine="plain")
    two = estimated(other, engine="plain")
    torch.testing.assert_close(one.trace.loss, two.trace.loss, rtol=1e-4, atol=1e-6)
    refused("have 30 and 60 examples", model, (given[0], labels[:30]), stream=stream)


def test_observables_may_name_arguments_in_another_order():
    a, b, labels = data()[0], numbers(EXAMPLES, INPUTS), data()[1]
    model = filled(Sum(INPUTS, CLASSES))
    result = estimated(model, ({"a": a, "b": b}, labels), batch_size=EXAMPLES,
                       observables={"same": ({"b": b, "a": a}, labels)})  # fmt: skip
    same = torch.from_numpy(result.observables["same"]).mean(2)
    torch.testing.assert_close(same, result.trace.loss, rtol=1e-5, atol=0)
    refused(
        "one example is inputs (5,) float32 and targets () int64 there, and inputs['a'] (5,)",
        model, ({"a": a, "b": b}, labels), observables={"same": (a, labels)},
    )  # fmt: skip


def test_observables_with_a_column_for_the_loss():
    def column(outputs, targets):
        return cross_entropy(outputs, targets, reduction="none")[:, None]

    model = filled(nn.Linear(INPUTS, CLASSES))
    result = estimated(model, loss=column, observables={"few": data(4)})
    assert result.observables["few"].shape[2:] == (4, 1)


def test_observables_with_whole_targets_of_another_width():
    def loss(outputs, targets):
        return (outputs - targets.sum(1, keepdim=True)).square()

    given = data()[0], torch.randint(3, (EXAMPLES, 2), generator=source())
    result = estimated(filled(nn.Linear(INPUTS, 5)), given, loss, observables={"all": given})
    assert result.observables["all"].shape[2:] == (EXAMPLES, 5)


def test_an_empty_observable_asks_for_one_example():
    empty = torch.zeros(0, INPUTS), torch.zeros(0).long()
    refused("observables['few']: is empty: give at least 1", filled(nn.Linear(INPUTS, CLASSES)),
            observables={"few": empty})  # fmt: skip
