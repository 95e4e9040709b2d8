"""Compiled gradients: the same chains, or a reason."""

from functools import partial

import pytest
import torch
from library_models import ROUNDING, SMALL, classifier, data, filled
from torch import nn

from llc import estimate_llc
from llc.library import probe


@pytest.fixture
def traced(monkeypatch):
    """`torch.compile` without a C++ compiler, which takes most of its time."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def run(model=None, **options):
    return estimate_llc(
        classifier(torch.float64) if model is None else model, data(dtype=torch.float64),
        batch_size=10, **{**SMALL, "num_draws": 20, **options},
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["plain", "vmap"])
def test_compiled_chains_are_the_same(engine, traced):
    plain, compiled = (run(engine=engine, compile=flag) for flag in (False, True))
    torch.testing.assert_close(compiled.trace.loss, plain.trace.loss, **ROUNDING)
    assert compiled.engine_reason.startswith("compiled: ")
    assert compiled.compile_seconds > 0 == plain.compile_seconds
    assert compiled.notes == plain.notes == ()


def test_a_model_that_cannot_be_compiled_runs_as_it_is(traced):
    class Printing(nn.Linear):
        def forward(self, inputs):
            torch._dynamo.graph_break()
            return super().forward(inputs)

    model = filled(Printing(5, 3), dtype=torch.float64)
    plain, asked = (run(model, engine="plain", compile=flag) for flag in (False, True))
    assert torch.equal(plain.trace.loss, asked.trace.loss)
    assert asked.engine_reason.startswith("not compiled: Unsupported: ")
    assert "graph_break" in repr(asked)


def test_where_there_is_no_compiler(monkeypatch):
    def missing(function, **_):
        def fail(*_):
            raise RuntimeError("\nNo working C++ compiler found\nin any place")

        return fail

    monkeypatch.setattr(torch, "compile", missing)
    result = run(engine="vmap", compile=True)
    assert "not compiled: RuntimeError: No working C++ compiler found in any place" in result.notes
    assert result.ess > 0


@pytest.mark.parametrize("faster", [True, False])
def test_auto_tries_long_runs_only_and_keeps_what_is_faster(faster, monkeypatch, traced):
    short = run(engine="vmap", compile="auto")
    assert short.compile_seconds == 0
    assert "not compiled: 20 gradients take about" in short.engine_reason
    assert short.notes == ()
    times, measure = iter([1.0, 0.5 if faster else 2.0]), probe.time_gradient

    def timed(loss, *rest):
        measure(loss, *rest)  # which compiles
        return next(times)

    monkeypatch.setattr(probe, "WORTH", 0.0)
    monkeypatch.setattr("llc.library.estimates.on_engine", lambda loss, *_: loss)
    monkeypatch.setattr(probe, "time_gradient", timed)
    long = run(engine="plain", compile="auto")
    assert long.compile_seconds > 0
    words = ("compiled: 500 ms" if faster else "not compiled: 2e+03 ms") + " compiled, 1e+03 ms as"
    assert long.engine_reason.startswith(words)
