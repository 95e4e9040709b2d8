"""Large models: gradients summed over parts of a batch, and forward passes in half precision."""

import pytest
import torch
from library_models import EXAMPLES, ROUNDING, SMALL, classifier, data, filled, numbers, source
from live_bytes import LiveBytes
from torch import nn
from torch.nn.functional import cross_entropy

from llc import estimate_llc


@pytest.mark.parametrize("engine", ["plain", "vmap"])
@pytest.mark.parametrize(("batch_size", "parts"), [(10, (5, 3, 1, 100)), (EXAMPLES, (30, 25))])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.filterwarnings("ignore:loss. returns a mean")
def test_parts_of_a_batch_add_up(engine, batch_size, parts, reduction):
    """For parts that divide the batch, and for others."""

    def loss(outputs, labels):
        return cross_entropy(outputs, labels, reduction=reduction)

    results = [
        estimate_llc(
            classifier(torch.float64), data(dtype=torch.float64), loss, batch_size=batch_size,
            microbatch_size=part, engine=engine, **{**SMALL, "num_draws": 20},
        )
        for part in (None, *parts)
    ]  # fmt: skip
    for result in results[1:]:
        torch.testing.assert_close(result.trace.loss, results[0].trace.loss, **ROUNDING)
        torch.testing.assert_close(result.trace.baseline, results[0].trace.baseline, **ROUNDING)


@pytest.mark.parametrize("engine", ["plain", "vmap"])
def test_activations_are_those_of_a_part(engine):
    """Wide activations of few parameters: a tenth of the batch at once, a tenth of the memory."""
    layers = [nn.Unflatten(1, (-1, 1)), nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 1), nn.Flatten()]
    model, examples, peaks = filled(nn.Sequential(*layers)), 100, []
    given = numbers(examples, 300), torch.randint(300, (examples,), generator=source())
    for parts in (None, examples // 10):
        with LiveBytes() as live:
            estimate_llc(
                model, given, batch_size=examples, microbatch_size=parts, engine=engine,
                **{**SMALL, "num_draws": 3, "num_chains": 2},
            )  # fmt: skip
        peaks.append(live.peak)
    assert peaks[1] < 0.2 * peaks[0]


def truthful(seed=0):
    """A classifier and labels drawn from its own probabilities, so that w* is about the best."""
    model = filled(nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3)))
    inputs = numbers(400, 5, seed=8)
    with torch.no_grad():
        chances = model(inputs).softmax(1)
    return model, (inputs, chances.multinomial(1, generator=source(seed)).squeeze(1))


@pytest.mark.parametrize("engine", ["plain", "vmap"])
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_autocast_changes_the_estimate_by_less_than_its_error(autocast, engine):
    model, given = truthful()
    options = {**SMALL, "num_draws": 500, "epsilon": 1e-3, "batch_size": 100, "engine": engine}
    exact, cast = (
        estimate_llc(model, given, autocast=kind, **options) for kind in (None, autocast)
    )
    assert exact.mean > 5 * exact.standard_error
    assert abs(cast.mean - exact.mean) < exact.standard_error
    assert not torch.equal(cast.trace.loss, exact.trace.loss)
    assert cast.trace.loss.dtype == torch.float32


@pytest.mark.parametrize("engine", ["plain", "vmap"])
def test_the_model_is_cast_and_the_loss_is_not(engine):
    seen = set()

    class Watching(nn.Linear):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            seen.add(("model", outputs.dtype))
            return {"logits": outputs}

    def loss(outputs, labels):
        seen.add(("loss", outputs["logits"].dtype))
        return cross_entropy(outputs["logits"], labels, reduction="none")

    model = filled(Watching(5, 3))
    estimate_llc(model, data(), loss, autocast=torch.bfloat16, engine=engine, **SMALL)
    # The probes before look at the model as it is.
    assert seen == {("model", torch.float32), ("model", torch.bfloat16), ("loss", torch.float32)}
    assert model.weight.dtype == torch.float32
