"""A call of the library that is stopped goes on where it was, to the same result."""

import pytest
import torch
from library_models import classifier, data

import llc.sampling.threads
from llc import estimate_llc, grid
from llc.checkpoints import Keeper
from llc.library import estimates

OPTIONS = {
    "num_draws": 200, "epsilon": 1e-4, "batch_size": 10, "num_chains": 3, "engine": "vmap",
    "progress": False,
}  # fmt: skip


class StopError(Exception):
    pass


def boundaries(patch, stop_at=None):
    """Count the step boundaries at which a call may be stopped, and stop it at one of them."""
    passed = []

    def tick(self):
        passed.append(self)
        if len(passed) - 1 == stop_at:
            self._shared.write()
            raise StopError

    patch.setattr(Keeper, "pausing", lambda self: True)
    patch.setattr(Keeper, "tick", tick)
    return passed


def stop_and_go(call, path, shares):
    """Stop a call after shares of its way, and call it again; yields the results."""
    with pytest.MonkeyPatch.context() as patch:
        passed = boundaries(patch)
        call()
    for share in shares:
        with pytest.MonkeyPatch.context() as patch:
            boundaries(patch, int(share * len(passed)))
            with pytest.raises(StopError):
                call(checkpoint=path)
        assert path.exists()
        yield call(checkpoint=path)
        assert not path.exists()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chains_per_stack": 2, "engine": "plain"},
        {"sampler": "sghmc", "epsilon": "auto", "num_draws": 5000, "companions": False},
    ],
)
def test_a_call_goes_on_to_the_last_bit(options, tmp_path):
    def call(**more):
        return estimate_llc(classifier(), data(), **{**OPTIONS, **options, **more})

    whole = call()
    shares = (0.05,) if options.get("epsilon") else (0.0, 0.7)  # while ε is looked for
    for found in stop_and_go(call, tmp_path / "run.pt", shares):
        assert torch.equal(found.trace.loss, whole.trace.loss)
        for name in ("mean", "cooled_mean", "epsilon", "status"):
            assert repr(getattr(found, name)) == repr(getattr(whole, name))


def test_observables_and_grids_go_on_too(tmp_path):
    def observed(**more):
        sets = {"some": (data()[0][:4], data()[1][:4])}
        return estimate_llc(classifier(), data(), **OPTIONS, observables=sets, **more)

    whole = observed().observables["some"]
    for found in stop_and_go(observed, tmp_path / "run.pt", (0.4,)):
        assert (whole == found.observables["some"]).all()

    def table(**more):
        options = {**OPTIONS, "epsilon": [1e-4, 3e-4, 6e-4], "chains_per_stack": 6}
        return grid(classifier(), data(), **options, **more)

    whole = table()
    for found in stop_and_go(table, tmp_path / "grid.pt", (0.1, 0.9)):
        assert table_equal(found, whole)


def table_equal(one, two):
    columns = [name for name in one if name != "seconds"]
    return one[columns].equals(two[columns])


def test_another_call_is_refused_before_any_sampling(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    with pytest.MonkeyPatch.context() as patch:
        boundaries(patch, 1)
        with pytest.raises(StopError):
            estimate_llc(classifier(), data(), **OPTIONS, checkpoint=path)
    monkeypatch.setattr(estimates, "_sampled", None)
    changed = classifier()
    with torch.no_grad():
        next(changed.parameters())[0] += 1
    inputs, labels = data()
    for model, pair, options, words in (
        (classifier(), data(), {"seed": 1}, "seed"),
        (classifier(), data(), {"gamma": 3.0}, "points"),
        (changed, data(), {}, "model, data"),
        (classifier(), (inputs + 1, labels), {}, "data"),
    ):
        with pytest.raises(ValueError, match=rf"another call \(other {words}\): delete it"):
            estimate_llc(model, pair, **{**OPTIONS, **options}, checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cannot be read .*delete it to start afresh"):
        estimate_llc(classifier(), data(), **OPTIONS, checkpoint=path)


@pytest.mark.parametrize("before", [1, 2, 3])
def test_it_goes_on_with_another_number_of_threads(before, tmp_path, monkeypatch):
    """Chains stay cut up as they were."""
    monkeypatch.setattr(llc.sampling.threads, "SMALL", 0)
    threads, path = torch.get_num_threads(), tmp_path / "run.pt"
    options = {**OPTIONS, "companions": False}
    try:
        torch.set_num_threads(before)
        whole = estimate_llc(classifier(), data(), **options)
        with pytest.MonkeyPatch.context() as patch:
            boundaries(patch, 0)
            with pytest.raises(StopError):
                estimate_llc(classifier(), data(), **options, checkpoint=path)
        torch.set_num_threads(2 if before == 1 else 1)
        found = estimate_llc(classifier(), data(), **options, checkpoint=path)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found.trace.loss, whole.trace.loss)
