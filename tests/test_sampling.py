"""The loop: a chain's trace does not depend on how the work was cut up."""

import math
import subprocess
import sys

import pytest
import torch
from oracles import cross_loss, normals, quadratic_loss, run_sgld

import llc.sampling
from llc.models import dln, mlp
from llc.models.base import BLOCK_STEPS, block_steps
from llc.models.dln import LinearLoss
from llc.models.mlp import MLPLoss
from llc.params import select, stack, unstack
from llc.posterior import LocalPosterior
from llc.samplers.base import Check
from llc.samplers.sgld import sgld
from llc.sampling import Schedule, sample
from llc.streams import NormalSource, Stream

WIDTHS, N, EPSILON = (3, 4, 2), 40, 1e-2
CHECKED = [name for name in Check._fields if name != "energy_error"]  # which SGLD does not have
FIELDS = ("loss", "baseline", "distance", *CHECKED, "diverged_at", "centre_loss")
KINDS = [(LinearLoss, dln), (MLPLoss, mlp)]
# Chains contract (γ > 0, small ε), so that rounding of batched products does not pile up: a few
# hundred roundings, each 1e-16 of a number of order ten.
ROUNDING = {"rtol": 1e-9, "atol": 1e-9}


def problem(kind, model, targets=1):
    source = torch.Generator().manual_seed(0)
    centre = stack([model.init(WIDTHS, source, torch.float64)])
    shape = (targets, 2, 3) if model is dln else (targets, N, 2)
    answers = normals(*shape, seed=1)
    return kind(normals(N, 3), answers if targets > 1 else answers[0], WIDTHS), centre


def run(
    kind, model, chains, *, num_steps=50, batch_size=6, period=7, start=None, seed=3, **schedule
):
    loss, centre = problem(kind, model)
    posterior = LocalPosterior.around(loss, centre, 8.0, 2.0, len(chains))
    schedule = Schedule(num_steps, batch_size, distances=True, **schedule)
    streams = [Stream(seed, chain) for chain in chains]
    return sample(posterior, lambda p: sgld(p, EPSILON, period), schedule, streams, start=start)


def assert_same(one, two, rows_one=slice(None), rows_two=slice(None), **tolerance):
    for name in FIELDS:
        left, right = getattr(one, name)[rows_one], getattr(two, name)[rows_two]
        torch.testing.assert_close(
            left, right, **(tolerance or ROUNDING), msg=lambda m, n=name: f"{n}: {m}"
        )
    for name in one.last:
        left, right = one.last[name][rows_one], two.last[name][rows_two]
        torch.testing.assert_close(left, right, **(tolerance or ROUNDING))


@pytest.mark.parametrize("batch_size", [6, N])
@pytest.mark.parametrize(("kind", "model"), KINDS)
def test_a_chain_is_the_same_alone_in_any_stack_and_anywhere_in_it(kind, model, batch_size):
    eight = run(kind, model, range(8), batch_size=batch_size)
    assert_same(run(kind, model, [5], batch_size=batch_size), eight, rows_two=slice(5, 6))
    mixed = run(kind, model, [7, 2, 4], batch_size=batch_size)
    for place, chain in enumerate((7, 2, 4)):
        assert_same(mixed, eight, slice(place, place + 1), slice(chain, chain + 1))
    assert not torch.allclose(eight.loss[0], eight.loss[1])
    assert eight.loss.isfinite().all()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("targets", [1, 5])
@pytest.mark.parametrize(("kind", "model"), KINDS)
def test_threads_change_nothing(kind, model, targets, shared, monkeypatch):
    loss, _ = problem(kind, model, targets)
    source = torch.Generator().manual_seed(1)
    centres = stack([model.init(WIDTHS, source, torch.float64) for _ in range(5)])
    posterior = LocalPosterior.around(loss, centres, 8.0, 2.0)
    schedule = Schedule(50, 6, shared_batches=shared, distances=True)
    streams = [Stream(2, chain) for chain in range(5)]
    before = torch.get_num_threads()
    traces = []
    for small, threads in ((20_000, 1), (20_000, 2), (0, 1), (0, 2), (0, 3), (0, 8)):
        monkeypatch.setattr(llc.sampling.threads, "SMALL", small)
        torch.set_num_threads(threads)
        try:
            traces.append(sample(posterior, lambda p: sgld(p, EPSILON, 7), schedule, streams))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    for trace in traces[1:]:
        assert_same(trace, traces[0])
        assert trace.chain_steps == traces[0].chain_steps == 250
        assert trace.gradients == pytest.approx(traces[0].gradients)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 119, 120, 121, 240, 250])
def test_a_shorter_run_is_the_beginning_of_a_longer_one(num_steps):
    longest, short = (run(LinearLoss, dln, [0, 1], num_steps=steps) for steps in (370, num_steps))
    assert short.steps.tolist() == list(range(num_steps))
    assert short.chain_steps == 2 * num_steps
    assert short.checked_steps.tolist() == list(range(0, num_steps, 7))
    for name in ("loss", "baseline", "distance"):
        own, head = getattr(short, name), getattr(longest, name)[:, :num_steps]
        torch.testing.assert_close(own, head, **ROUNDING)
    for name in ("acceptance", "squared_gradient"):
        own = getattr(short, name)
        torch.testing.assert_close(own, getattr(longest, name)[:, : own.shape[1]], **ROUNDING)


@pytest.mark.parametrize("length", [1, 7, 13])
def test_the_block_length_changes_nothing(length, monkeypatch):
    whole = run(MLPLoss, mlp, [0, 1], thin=3)
    monkeypatch.setattr(llc.models.base, "BLOCK_STEPS", length)
    assert_same(run(MLPLoss, mlp, [0, 1], thin=3), whole)


def test_blocks_are_bounded():
    def steps(size, batch=10, chains=1):
        loss = MLPLoss(torch.zeros(10**6, 1), torch.zeros(10**6, 1), (1, size, 1))
        return block_steps(loss, batch, chains)

    assert steps(1) == BLOCK_STEPS
    assert steps(10**9) == steps(1, batch=10**7) == steps(1, chains=10**6) == 1
    sizes = [steps(size) for size in (10, 1000, 10_000, 100_000)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("full_data", [False, True])
@pytest.mark.parametrize("thin", [2, 7, 60, 1000])
def test_thinning_keeps_every_so_manieth_draw(thin, full_data):
    whole = run(LinearLoss, dln, range(3), num_steps=250, full_data_trace=full_data)
    thinned = run(LinearLoss, dln, range(3), num_steps=250, thin=thin, full_data_trace=full_data)
    assert thinned.steps.tolist() == list(range(0, 250, thin))
    for name in ("loss", "baseline", "distance"):
        expected = getattr(whole, name)[:, ::thin]
        torch.testing.assert_close(getattr(thinned, name), expected, **ROUNDING)


@pytest.mark.parametrize(("kind", "model"), KINDS)
def test_full_data_losses_and_distances_are_those_of_the_positions(kind, model):
    """Positions from runs of every length: w_t is where a run of t steps ends."""
    loss, centre = problem(kind, model)
    steps = 9
    trace = run(kind, model, range(3), num_steps=steps, full_data_trace=True)
    positions = [run(kind, model, range(3), num_steps=t).last for t in range(1, steps)]
    base = loss.full_data(centre)
    torch.testing.assert_close(trace.centre_loss, base.expand(3), rtol=1e-14, atol=0)
    torch.testing.assert_close(trace.baseline, base.expand(3, steps), **ROUNDING)
    assert not trace.distance[:, 0].any()
    torch.testing.assert_close(trace.loss[:, 0], base.expand(3), **ROUNDING)
    for t, here in enumerate(positions, start=1):
        torch.testing.assert_close(trace.loss[:, t], loss.full_data(here), **ROUNDING)
        gap = sum((here[n] - centre[n]).square().flatten(1).sum(1) for n in centre).sqrt()
        torch.testing.assert_close(trace.distance[:, t], gap, **ROUNDING)


def test_with_one_batch_of_everything_the_trace_is_that_of_all_data():
    one = run(MLPLoss, mlp, range(2), batch_size=N)
    two = run(MLPLoss, mlp, range(2), batch_size=N, full_data_trace=True)
    torch.testing.assert_close(one.loss, two.loss, **ROUNDING)
    torch.testing.assert_close(one.baseline, two.baseline, **ROUNDING)
    assert one.gradients == 100


def test_shared_batches_are_shared():
    own, shared = (run(MLPLoss, mlp, range(3), shared_batches=flag) for flag in (False, True))
    assert torch.equal(shared.baseline[0], shared.baseline[1])
    assert not torch.equal(own.baseline[0], own.baseline[1])
    torch.testing.assert_close(own.loss[0], shared.loss[0], **ROUNDING)
    assert not torch.allclose(shared.loss[0], shared.loss[1])


def test_start_is_where_the_chains_begin_and_nothing_is_modified():
    loss, centre = problem(LinearLoss, dln)
    start = {name: normals(3, *shape, seed=4) for name, shape in loss.shapes.items()}
    posterior = LocalPosterior.around(loss, centre, 8.0, 2.0, 3)
    held = [*start.values(), *centre.values(), loss.inputs, loss.teacher, loss.second_moment]
    held += [posterior.centre.flat, posterior.centre_loss, posterior.reference]
    before = [tensor.clone() for tensor in held]
    schedule = Schedule(130, 6, full_data_trace=True)
    trace = sample(
        posterior,
        lambda p: sgld(p, EPSILON),
        schedule,
        [Stream(0, c) for c in range(3)],
        start=start,
    )
    assert all(torch.equal(one, two) for one, two in zip(held, before, strict=True))
    torch.testing.assert_close(trace.loss[:, 0], loss.full_data(start), **ROUNDING)
    assert trace.distance is None
    assert trace.acceptance.shape[1] == 0
    part = trace.chains(slice(1, 2))
    assert torch.equal(part.loss, trace.loss[1:2])
    assert all(torch.equal(part.last[n], trace.last[n][1:2]) for n in part.last)


def test_an_error_on_one_thread_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(llc.sampling.threads, "SMALL", 0)

    def fail(posterior):
        raise RuntimeError("no sampler")

    loss, centre = problem(LinearLoss, dln)
    posterior = LocalPosterior.around(loss, centre, 8.0, 2.0, 4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="no sampler"):
            sample(posterior, fail, Schedule(10, 6), [Stream(0, c) for c in range(4)])
    finally:
        torch.set_num_threads(before)


def far_and_near(far, chains=4, num_steps=1000, period=20):
    """Chain 1 starts at (far, far) on w₁²w₂², where the curvature is too much for its step."""
    start = normals(chains, 2, seed=3) * 0.1
    start[1] = far
    return run_sgld(
        cross_loss(), nbeta=10.0, gamma=1.0, epsilon=0.05, chains=chains, num_steps=num_steps,
        start={"w": start}, period=period, full_data_trace=True,
    )  # fmt: skip


def test_a_diverged_chain_is_marked_from_its_first_bad_step_and_disturbs_no_other():
    trace, calm = (far_and_near(far, num_steps=400, period=1) for far in (3.5, 0.1))
    first = int(trace.diverged_at[1])
    assert trace.diverged_at.tolist() == [-1, first, -1, -1]
    assert 0 < first < 20
    for values in (trace.loss, trace.baseline, trace.acceptance, trace.squared_gradient):
        assert values[1, :first].isfinite().all()
        assert values[1, first:].isnan().all()
    assert 10 * trace.loss[1, :first].max() <= 1e3 * 2  # the runaway bound
    alive = [0, 2, 3]
    for name in ("loss", "acceptance", "squared_gradient"):
        assert torch.equal(getattr(trace, name)[alive], getattr(calm, name)[alive])
    assert torch.equal(trace.last["w"][alive], calm.last["w"][alive])


@pytest.mark.parametrize("dimension", [1, 600])  # blocks of 120 steps, and of 109
def test_sampling_stops_early_when_every_chain_has_diverged(dimension):
    trace = run_sgld(
        quadratic_loss([1.0] * dimension), nbeta=10.0, gamma=0.0, epsilon=0.5, chains=3,
        num_steps=6000, period=20,
    )  # fmt: skip
    assert (trace.diverged_at >= 0).all()
    assert trace.chain_steps <= 3 * 1000
    assert trace.loss.shape == (3, 6000)
    assert trace.loss[:, -1].isnan().all()
    assert trace.checked_steps.shape == trace.acceptance.shape[1:]


def test_chain_groups_that_diverge_early_are_padded(monkeypatch):
    monkeypatch.setattr(llc.sampling.threads, "SMALL", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trace = far_and_near(3.5, chains=2)
    finally:
        torch.set_num_threads(before)
    assert trace.acceptance.shape == (2, 50)
    assert trace.acceptance[0].isfinite().all()
    assert trace.diverged_at[0] == -1
    assert trace.chain_steps < 2000


def test_the_noise_is_the_stream_of_the_chain_and_not_of_the_block(monkeypatch):
    """A free particle (nβ tiny, γ = 0) only adds up √ε ξ."""
    trace = run_sgld(
        quadratic_loss([1.0] * 3), nbeta=1e-300, gamma=0.0, epsilon=0.25, chains=2, num_steps=150
    )
    streams = [Stream(0, chain) for chain in range(2)]
    draws = NormalSource(streams, 3, 150, torch.empty(0, dtype=torch.float64)).draw(150)
    expected = 0.5 * draws[..., :3].sum(1)
    torch.testing.assert_close(trace.last["w"], expected, rtol=1e-12, atol=1e-12)
    assert math.isclose(float(trace.centre_loss[0]), 0)
    assert unstack(select(trace.last, slice(1, 2)), 0)["w"].shape == (3,)


LONGER_AND_LONGER = """
import resource
from llc import problems
from llc.posterior import LocalPosterior
from llc.params import stack
from llc.samplers.mala import mala
from llc.sampling import Schedule, sample
from llc.streams import Stream

problem = problems.make("tanh", num_training_data=1000)
posterior = LocalPosterior.around(problem.loss, stack([problem.centre]), 145.0, 10.0, 100)
for steps in (768, 2304):
    schedule = Schedule(num_steps=steps, batch_size=1000)
    sample(posterior, lambda own: mala(own, 0.02), schedule, [Stream(0, k) for k in range(100)])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_longer_run_takes_no_more_memory():
    """A step makes temporary losses of 100 × 1,000 examples, 0.8 MB. Were there one more of them
    alive, or in the way, at every step, 1,536 more steps would take 1.2 GB more."""
    command = [sys.executable, "-c", LONGER_AND_LONGER]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    short, long = (int(line) / 1024 for line in done.stdout.split())
    assert long - short < 300, (short, long)
