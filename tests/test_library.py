"""λ̂ of users' own modules: nothing of theirs changes, and nothing of how it runs matters."""

import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from library_models import (
    CLASSES,
    EXAMPLES,
    INPUTS,
    ROUNDING,
    SMALL,
    assert_same,
    classifier,
    data,
    everything_of,
    excess,
    filled,
    numbers,
)
from torch import nn
from torch.nn.functional import cross_entropy

import llc
from llc import LLCEstimate, estimate_llc


def test_importing_llc_loads_no_torch():
    code = "import llc, sys; llc.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_names_of_llc_are_errors():
    with pytest.raises(AttributeError, match="no attribute 'estimate_nothing'"):
        llc.estimate_nothing  # noqa: B018


def looked_at(model, seen):
    """A model in training mode with gradients, hooks and a parameter that is no contiguous."""
    model.train()
    model[0].weight = nn.Parameter(model[0].weight.detach().t().contiguous().t())
    model[4].weight.grad = torch.ones_like(model[4].weight)
    model[2].register_forward_hook(lambda *_: seen.append(1))
    model[4].register_full_backward_hook(lambda *_: seen.append(2))
    return model


@pytest.mark.parametrize("engine", ["plain", "vmap"])
def test_a_model_is_as_it_was(engine):
    seen = []
    model = looked_at(classifier(), seen)
    before = everything_of(model)
    state = torch.get_rng_state()
    estimate_llc(model, data(), engine=engine, **SMALL)
    assert_same(before, everything_of(model))
    assert torch.equal(state, torch.get_rng_state())
    assert len(seen) <= 1  # a hook that looks on sees one comparison, and no chain


def test_a_model_is_as_it_was_after_an_exception():
    model = looked_at(classifier(), [])
    before = everything_of(model)
    calls = []

    def loss(outputs, targets):
        calls.append(1)
        if len(calls) > 20:
            raise RuntimeError("lost")
        return cross_entropy(outputs, targets, reduction="none")

    with pytest.raises(RuntimeError, match="lost"):
        estimate_llc(model, data(), loss, engine="plain", **SMALL)
    assert_same(before, everything_of(model))


def test_sampling_sees_evaluation_mode_and_frozen_buffers():
    """λ̂ in training mode equals that of the module without dropout, at its running statistics."""
    model = classifier().train()
    other = deepcopy(model).eval()
    other[3] = nn.Identity()
    one, two = (estimate_llc(net, data(), engine="plain", **SMALL) for net in (model, other))
    assert torch.equal(one.trace.loss, two.trace.loss)


def test_a_model_may_fit_its_data_to_the_last_bit():
    """Then its losses are rounding, which says nothing about whether they mix examples."""
    model = filled(nn.Sequential(nn.Linear(INPUTS, 6), nn.ReLU(), nn.Linear(6, 2)))
    inputs = numbers(EXAMPLES, INPUTS)
    targets = torch.cat([model(row[None]).detach() for row in inputs])
    loss = nn.MSELoss(reduction="none")
    result = estimate_llc(model, (inputs, targets), loss, **SMALL)
    assert result.init_loss < 1e-10


@pytest.mark.parametrize("engine", ["plain", "vmap"])
def test_a_parameter_may_be_a_single_number(engine):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.line = nn.Parameter(torch.tensor(1.5)), nn.Linear(INPUTS, CLASSES)

        def forward(self, inputs):
            return self.scale * self.line(inputs)

    result = estimate_llc(filled(Scaled()), data(), engine=engine, **SMALL)
    assert result.num_free == 1 + (INPUTS + 1) * CLASSES
    assert np.isfinite(result.mean)


@pytest.mark.parametrize("batch_size", [10, EXAMPLES])
@pytest.mark.parametrize("sampler", ["sgld", "sghmc", "mala"])
def test_both_engines_run_the_same_chains(batch_size, sampler):
    model = classifier(torch.float64)
    one, two = (
        estimate_llc(
            model, data(dtype=torch.float64), batch_size=batch_size, sampler=sampler, engine=engine,
            params={"0.weight": (slice(1, 4), slice(None)), "4.*": None}, **SMALL,
        )
        for engine in ("plain", "vmap")
    )  # fmt: skip
    torch.testing.assert_close(one.trace.loss, two.trace.loss, **ROUNDING)
    torch.testing.assert_close(one.trace.baseline, two.trace.baseline, **ROUNDING)
    assert excess(one).abs().max() > 1e-4


def test_the_first_step_is_sgld_on_the_models_own_gradient():
    """Two chains with hardly any noise: L falls by (ε/2)·nβ·‖∇L‖² in a step."""
    model, (inputs, labels) = classifier(torch.float64), data(dtype=torch.float64)
    plain = deepcopy(model).eval()
    loss = cross_entropy(plain(inputs), labels)
    grads = torch.autograd.grad(loss, list(plain.parameters()))
    nbeta, epsilon = 1e6, 1e-14
    result = estimate_llc(
        model, (inputs, labels), nbeta=nbeta, batch_size=EXAMPLES, num_chains=2,
        **{**SMALL, "epsilon": epsilon, "num_draws": 2, "burn_in": 0},
    )  # fmt: skip
    assert result.init_loss == pytest.approx(loss.item(), rel=1e-12)
    drift = -epsilon / 2 * nbeta * sum(float(grad.square().sum()) for grad in grads)
    noise = epsilon**0.5 * sum(float(grad.square().sum()) for grad in grads) ** 0.5
    assert (excess(result)[:, 1] - drift).abs().max() < 6 * noise
    assert excess(result)[:, 0].abs().max() < 1e-14


def splits():
    return [
        {},
        {"chains_per_stack": 1},
        {"chains_per_stack": 3},
        {"devices": ["cpu", "cpu"]},
        {"devices": ["cpu", "cpu"], "chains_per_stack": 1},
        {"devices": "cpu"},
    ]


@pytest.mark.parametrize("engine", ["plain", "vmap"])
def test_chains_do_not_depend_on_how_they_are_cut_up(engine):
    results = [
        estimate_llc(
            classifier(torch.float64), data(dtype=torch.float64), batch_size=10, num_chains=5,
            engine=engine, **{**SMALL, "companions": True}, **split,
        )
        for split in splits()
    ]  # fmt: skip
    for result in results[1:]:
        torch.testing.assert_close(result.trace.loss, results[0].trace.loss, **ROUNDING)
        assert torch.equal(result.trace.baseline, results[0].trace.baseline)  # the same examples
        assert result.cooled_mean == pytest.approx(results[0].cooled_mean, rel=1e-6)
        assert result.mean == pytest.approx(results[0].mean, rel=1e-6)


def test_a_seed_fixes_a_run_and_another_changes_it():
    one, again, other = (
        estimate_llc(classifier(), data(), engine="plain", seed=seed, **SMALL) for seed in (1, 1, 2)
    )
    assert torch.equal(one.trace.loss, again.trace.loss)
    assert not torch.equal(one.trace.loss, other.trace.loss)


def test_fewer_chains_are_the_first_of_more():
    few, many = (
        estimate_llc(
            classifier(torch.float64), data(dtype=torch.float64), num_chains=chains, **SMALL
        )
        for chains in (2, 4)
    )
    torch.testing.assert_close(few.trace.loss, many.trace.loss[:2], **ROUNDING)


def test_nbeta_is_n_over_log_n():
    result = estimate_llc(classifier(), data(), **SMALL)
    assert result.nbeta == EXAMPLES / np.log(EXAMPLES)
    assert result.num_examples == EXAMPLES


def test_draws_burn_in_and_thinning():
    result = estimate_llc(
        classifier(), data(), thin=3, **{**SMALL, "num_draws": 100, "burn_in": 29}
    )
    assert result.trace.loss.shape == (4, 100)
    assert result.num_burn_in == 29
    assert result.trace.steps[1] == 3


def test_a_mean_reduced_loss_says_so():
    """The same λ̂ within error, without the baseline on each draw's own examples."""
    arguments = {**SMALL, "num_draws": 100, "num_chains": 16, "batch_size": 20}
    own = estimate_llc(classifier(), data(), **arguments)
    with pytest.warns(UserWarning, match="reduction='none'"):
        mean = estimate_llc(classifier(), data(), cross_entropy, **arguments)
    assert "baseline not shared" in repr(mean)
    assert mean.trace.baseline.unique().numel() == 1
    assert mean.init_loss == pytest.approx(own.init_loss, rel=1e-6)
    torch.testing.assert_close(mean.trace.loss, own.trace.loss)  # the same chains
    assert mean.trace.baseline.mean() == pytest.approx(own.trace.baseline.mean().item(), rel=0.05)


def test_epsilon_is_found_unless_given():
    result = estimate_llc(classifier(), data(), num_draws=1000, companions=False, progress=False)
    assert result.epsilon > 0
    assert result.calibration


def test_a_result_prints_plots_and_comes_back(tmp_path):
    result = estimate_llc(classifier(), data(), **SMALL)
    assert repr(result).startswith("λ̂ = ")
    assert "(4 chains × 20 draws, R-hat " in repr(result)
    assert repr(result).count("\n") == 0
    assert "data:image/png;base64," in result._repr_html_()
    assert len(result.plot(known=2.0).axes) == 2
    back = LLCEstimate.load(result.save(tmp_path / "result.pt"))
    assert repr(back) == repr(result)
    assert torch.equal(back.trace.loss, result.trace.loss)
    with pytest.raises(ValueError, match="not written by LLCEstimate"):
        LLCEstimate.load(__file__)


def test_a_result_as_xarray(tmp_path):
    result = estimate_llc(classifier(), data(), **SMALL)
    table = result.to_xarray()
    assert table.loss_trace.dims == ("chain", "draw")
    assert float(table.llc_mean) == result.mean
    assert np.allclose(table.llc_per_chain, result.per_chain)
    assert float(table.llc_std) == pytest.approx(np.std(result.per_chain, ddof=1))
    kept = table.llc_trace[:, result.num_burn_in :]
    assert float(kept.mean()) == pytest.approx(result.mean)
    assert float(table.init_loss) == result.init_loss
    table.to_netcdf(tmp_path / "result.nc", engine="h5netcdf")


def test_a_diverged_run_is_a_result_not_an_exception():
    result = estimate_llc(classifier(), data(), **{**SMALL, "epsilon": 1e4})
    assert "diverged" in repr(result)
    result._repr_html_()


def test_dtype_is_that_of_the_chains():
    result = estimate_llc(classifier(), data(), dtype=torch.float64, **SMALL)
    assert result.trace.loss.dtype == torch.float64
    half = classifier(torch.bfloat16)
    assert np.isfinite(estimate_llc(half, data(), dtype=torch.float32, **SMALL).mean)


def test_an_engine_that_cannot_follow_is_not_chosen():
    """`vmap` cannot follow Python's `if`; the module itself can."""

    class Branching(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs if self.weight.sum() > 0 else -inputs)

    result = estimate_llc(filled(Branching(INPUTS, CLASSES)), data(), **SMALL)
    assert result.engine == "plain"
    assert result.engine_reason.startswith("vmap fails on this model: ")
    with pytest.raises(ValueError, match="engine='vmap': fails on this model"):
        estimate_llc(filled(Branching(INPUTS, CLASSES)), data(), engine="vmap", **SMALL)


@pytest.mark.parametrize("engine", ["plain", "vmap"])
def test_the_engine_that_is_asked_for_runs(engine):
    """A step of eight chains calls the module eight times, or replays what one call did."""
    calls = []

    class Counting(nn.Linear):
        def forward(self, inputs):
            calls.append(1)
            return super().forward(inputs)

    model = filled(Counting(INPUTS, CLASSES))
    numbers_of_calls = []
    for draws in (20, 40):
        calls.clear()
        arguments = {**SMALL, "num_draws": draws, "num_chains": 8, "sampler": "sghmc"}
        estimate_llc(model, data(), engine=engine, **arguments)
        numbers_of_calls.append(len(calls))
    checks = 1  # a closer look in the 20 steps between, of two or three gradients
    a_step = (numbers_of_calls[1] - numbers_of_calls[0]) / (20 + checks)
    assert a_step == pytest.approx({"plain": 8, "vmap": 0}[engine], rel=0.15)
