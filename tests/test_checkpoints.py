from types import SimpleNamespace

import pytest
import torch
from oracles import quadratic_loss
from test_sampling import KINDS, problem

import llc.sampling.threads
from llc.checkpoints import Keeper
from llc.config import SGLDConfig, TrainingConfig
from llc.estimate import estimate_one
from llc.models import dln
from llc.models.dln import LinearLoss
from llc.params import unstack
from llc.posterior import LocalPosterior
from llc.samplers.sgld import sgld
from llc.sampling import Schedule, sample
from llc.sampling.threads import intra_op_threads
from llc.streams import Stream
from llc.trace import Recorder
from llc.training import train
from llc.training.loop import checkpoints

TIMING = {"seconds", "warm_up_seconds"}


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Period 0 means at every tick, however long a write takes."""
    monkeypatch.setattr("llc.checkpoints.SHARE", float("inf"))


class KilledError(Exception):
    pass


class Doomed(Keeper):
    """Writes at every tick, and dies after some."""

    ticks_left = 0

    def part(self, name):
        part = super().part(name)
        part.__class__, part.root = Doomed, getattr(self, "root", self)
        return part

    def tick(self):
        super().tick()
        root = getattr(self, "root", self)
        root.ticks_left -= 1
        if root.ticks_left < 0:
            raise KilledError


def with_kills(path, work, ticks):
    """Do `work(keeper)`, killed after each of `ticks` steps and started again, and count."""
    for count, lifetime in enumerate(ticks):
        keeper = Doomed(path, period=0)
        keeper.ticks_left = lifetime
        assert keeper.load() == (count > 0)
        try:
            return work(keeper), count
        except KilledError:
            continue
    keeper = Keeper(path, period=0)
    keeper.load()
    return work(keeper), len(ticks)


def assert_equal(one, two):
    """To the last bit, times excepted."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, two, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one.keys() - TIMING:
            assert_equal(one[name], two[name])
    else:
        assert one == two or (one != one and two != two)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("small", [0, 20_000])
@pytest.mark.parametrize(("kind", "model"), KINDS)
def test_chains_go_on_to_the_last_bit(kind, model, small, shared, tmp_path, monkeypatch):
    monkeypatch.setattr(llc.sampling.threads, "SMALL", small)
    monkeypatch.setattr(llc.sampling.feed, "block_steps", lambda *_: 4)
    loss, centre = problem(kind, model)
    posterior = LocalPosterior.around(loss, centre, 8.0, 2.0, 3)

    def observe(leaves):
        return torch.cat([leaf.flatten(1)[:, :2] for leaf in leaves.values()], 1)

    schedule = Schedule(
        90, 6, thin=3, shared_batches=shared, distances=True, coordinates=3, observe=observe
    )
    streams = [Stream(2, chain) for chain in range(3)]

    def work(keeper):
        return sample(posterior, lambda p: sgld(p, 1e-3, 7), schedule, streams, keeper=keeper)

    whole = work(Keeper())
    resumed, kills = with_kills(tmp_path / "c.pt", work, [0, 3, 5, 1])
    assert kills == 4
    assert_equal(whole._asdict(), resumed._asdict())


def test_a_group_that_has_diverged_rests_while_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(llc.sampling.threads, "SMALL", 0)
    monkeypatch.setattr(llc.sampling.feed, "block_steps", lambda *_: 4)
    centres = {"w": torch.zeros(2, 1, dtype=torch.float64)}
    posterior = LocalPosterior.around(quadratic_loss([1.0]), centres, 16.0, 1.0)

    def work(keeper):
        start = {"w": torch.tensor([[1e9], [0.0]], dtype=torch.float64)}
        streams, schedule = [Stream(2, chain) for chain in range(2)], Schedule(900, 50)
        return sample(
            posterior, lambda p: sgld(p, 0.01, 7), schedule, streams, start=start, keeper=keeper
        )

    with intra_op_threads(2):  # a group each
        whole, kept = work(Keeper()), work(Keeper(tmp_path / "c.pt", period=0))
    assert whole.diverged_at.tolist() == [0, -1]
    assert whole.chain_steps == 900 + 120
    assert_equal(whole._asdict(), kept._asdict())


def test_what_was_recorded_comes_back_to_the_device_of_the_chains():
    posterior = SimpleNamespace(
        anchor=SimpleNamespace(flat=torch.empty(2, device="meta")), chains=2, centre_loss=None
    )
    recorder = Recorder(posterior, 9, 1, False, True)
    state = {  # as read from a file: on the CPU
        name: torch.zeros(value.shape) if isinstance(value, torch.Tensor) else value
        for name, value in recorder.state().items()
    }
    recorder.restore(state, posterior.anchor)
    restored = [recorder.loss, recorder.distance, recorder.diverged_at, recorder.looks]
    assert {value.device.type for value in restored} == {"meta"}


def test_minibatch_losses_come_back_to_the_device_of_the_network():
    keeper = Keeper()
    keeper._shared.left["training"] = {"done": 3, "losses": torch.zeros(3), "trainer": {}}
    trainer = SimpleNamespace(
        params=lambda: {"w": torch.empty(1, device="meta")}, restore=lambda state: None, block=1
    )
    point = next(checkpoints(trainer, 3, 5, keeper, None))
    assert point.losses.device.type == "meta"


def test_a_trace_whose_chains_all_diverged_ends_where_it_did(tmp_path, monkeypatch):
    monkeypatch.setattr(llc.sampling.feed, "block_steps", lambda *_: 4)
    posterior = LocalPosterior.around(
        quadratic_loss([1.0]), {"w": torch.zeros(1, 1, dtype=torch.float64)}, 16.0, 1.0, 2
    )

    def work(keeper):
        streams = [Stream(2, chain) for chain in range(2)]
        schedule = Schedule(900, 50)
        return sample(posterior, lambda p: sgld(p, 10.0, 7), schedule, streams, keeper=keeper)

    whole = work(Keeper())
    assert (whole.diverged_at >= 0).all()
    assert whole.chain_steps < 1800
    resumed, kills = with_kills(tmp_path / "c.pt", work, [0, 0, 0])
    assert kills == 3
    assert_equal(whole._asdict(), resumed._asdict())


@pytest.mark.parametrize("optim", ["sgd", "adam"])
def test_training_goes_on_to_the_last_bit(optim, tmp_path, monkeypatch):
    monkeypatch.setattr("llc.training.stacked.block_steps", lambda *_, **__: 4)
    loss, centre = problem(LinearLoss, dln)
    config = TrainingConfig(optim=optim, learning_rate=1e-3, num_steps=70, batch_size=6)

    def work(keeper):
        points = keeper.kept("points") or {}
        for point in train(loss, unstack(centre, 0), config, Stream(3), 20, keeper):
            points[point.step] = {"params": point.params, "losses": point.losses}
            keeper.keep("points", points)
            keeper.tick()  # as a stage does that works on the checkpoint
        return points

    whole = work(Keeper())
    assert list(whole) == [0, 20, 40, 60, 70]
    resumed, kills = with_kills(tmp_path / "c.pt", work, [0, 1, 2, 3, 4, 5])
    assert kills == 6
    assert list(resumed) == list(whole)
    for step, point in whole.items():
        assert_equal(point, resumed[step])


def test_an_estimate_goes_on_in_any_of_its_phases(tmp_path):
    config = SGLDConfig(epsilon=1e-3, gamma=1.0, num_steps=1000, batch_size=50, num_chains=2)
    centre = {"w": torch.zeros(1, dtype=torch.float64)}

    def work(keeper):
        return estimate_one(
            quadratic_loss([1.0]), centre, nbeta=16.0, sgld_config=config, keeper=keeper.part("a")
        )

    whole = work(Keeper())
    resumed, kills = with_kills(tmp_path / "c.pt", work, [0] * 20)
    assert kills >= 9  # four blocks from w*, and five stages of cooling
    assert resumed.mean == whole.mean
    assert resumed.cooled_mean == whole.cooled_mean
    assert resumed.status == whole.status
    assert resumed.gradients == whole.gradients
    assert_equal(whole.trace._asdict(), resumed.trace._asdict())


def test_what_an_estimate_keeps_is_no_copy_of_the_parameters():
    config = SGLDConfig(epsilon=1e-3, gamma=1.0, num_steps=10, batch_size=50, burn_in_prop=0.5)
    keeper = Keeper()
    centre = {"w": torch.zeros(1, dtype=torch.float64)}
    estimate_one(quadratic_loss([1.0]), centre, nbeta=16.0, sgld_config=config, keeper=keeper)
    assert keeper.kept("chains")["last"] == keeper.kept("cooled")["trace"]["last"] == {}


def test_a_request_to_stop_writes_and_raises(tmp_path):
    path = tmp_path / "folder" / "c.pt"
    keeper = Keeper(path)
    keeper.keep("result", 1)
    with keeper.holding("loop", lambda: {"step": 5}):
        keeper.tick()
        assert not path.exists()  # nothing is due yet
        assert keeper.at_work
        keeper.stop(KilledError())
        assert keeper.pausing()
        assert not keeper.ended
        with pytest.raises(KilledError):
            keeper.tick()
    assert keeper.ended
    assert not keeper.at_work
    later = Keeper(path)
    assert later.load()
    assert later.kept("result") == 1
    assert later.left("loop") == {"step": 5}
    assert later.left("loop") is None


def test_parts_have_names_of_their_own(tmp_path):
    keeper = Keeper()
    one, two = keeper.part("one"), keeper.part("two")
    one.keep("x", 1)
    two.keep("x", 2)
    keeper.keep("x", 3)
    one.forget()
    assert (one.kept("x"), two.kept("x"), keeper.kept("x")) == (None, 2, 3)
    assert not keeper.load()


def test_a_kill_while_writing_leaves_the_last_complete_file(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    keeper = Keeper(path, period=0)
    keeper.keep("step", 1)
    keeper.tick()
    keeper.keep("step", 2)

    def cut_short(_, file):
        file.write(b"half")
        raise KilledError

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(KilledError):
        keeper.tick()
    assert not keeper.writing
    later = Keeper(path)
    assert later.load()
    assert later.kept("step") == 1
    assert len(list(tmp_path.iterdir())) == 2
    later.remove()
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_said_in_one_line(tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="delete it to start afresh") as caught:
        Keeper(path).load()
    assert "\n" not in str(caught.value)
