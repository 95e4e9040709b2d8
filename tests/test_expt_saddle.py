"""`expt_dln_saddle_dynamics.py` as a user runs it, and that grouping changes nothing."""

import math
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from recording import one_line_error, recorded

import expt_dln_saddle_dynamics as script
from llc.checkpoints import Keeper
from llc.config import ConfigError, SaddleConfig, SGLDConfig, as_plain, parse
from llc.estimate import estimate_one
from llc.models import dln
from llc.params import stack
from llc.streams import Stream, derived_seed
from llc.theory import deep_linear
from llc.tracking.commandline import execute
from llc.training import train

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "num_training_data=500", "training_config.num_steps=250", "training_config.learning_rate=1e-3",
    "logging_period=60", "sgld_config.num_steps=20",
]  # fmt: skip
STEPS = [0, 60, 120, 180, 240, 250]

REFERENCE_DEFAULTS = {
    "expt_name": None,
    "in_out_dim": 5,
    "width": 10,
    "num_hidden_layers": 4,
    "initialisation_exponent": 1.5,
    "num_training_data": 10_000,
    "itemp": None,
    "loss_trace_minibatch": True,
    "seed": 42,
    "logging_period": 50,
    "verbose": False,
    "do_plot": False,
}


def run(*arguments: str) -> int:
    return execute(script.ex, ["expt_dln_saddle_dynamics.py", *arguments])


def column(directory, name):
    return [record[name] for record in recorded(directory, "info.json")["records"]]


def test_defaults_are_the_references():
    config = as_plain(parse(SaddleConfig, {}))
    assert {key: config[key] for key in REFERENCE_DEFAULTS} == REFERENCE_DEFAULTS
    sgld = {"epsilon": 1e-6, "gamma": 1.0, "num_steps": 100, "num_chains": 1, "batch_size": 128}
    assert config["sgld_config"] == sgld | {"burn_in_prop": 0.0, "thin": 1, "shared_batches": False}
    training = {"optim": "sgd", "learning_rate": 1e-4, "momentum": None}
    assert config["training_config"] == training | {"batch_size": 128, "num_steps": 20_000}


def test_derived_values():
    config = parse(SaddleConfig, {"width": 16, "initialisation_exponent": 1.5})
    assert config.widths == (5, 16, 16, 16, 16, 5)
    assert config.initial_deviation**2 == pytest.approx(16**-1.5)
    assert config.nbeta == pytest.approx(10_000 / math.log(10_000))
    assert config.num_checkpoints == 401
    assert parse(SaddleConfig, {"logging_period": 30_000}).num_checkpoints == 2
    assert parse(SaddleConfig, {"sgld_config": {"num_chains": 3}}).group_size == 85


def test_a_group_of_keys_keeps_the_scripts_own_defaults():
    config = parse(SaddleConfig, {"sgld_config": {"gamma": 2.0}})
    assert config.sgld_config == replace(SaddleConfig().sgld_config, gamma=2.0)
    assert config.sgld_config != SGLDConfig(gamma=2.0)


MISTAKES = [
    ("typo=3", "typo: unknown key", "known keys"),
    ("widht=3", "widht: unknown key", "mean 'width'?"),
    ("sgld_config.typo=3", "sgld_config.typo: unknown key", "known keys"),
    ("width=0", "width=0: ", "a whole number >= 1"),
    ("num_hidden_layers=1.5", "num_hidden_layers=1.5: ", "a whole number >= 1"),
    ("initialisation_exponent=-1", "initialisation_exponent=-1: ", ">= 0"),
    ("logging_period=0", "logging_period=0: ", "a whole number >= 1"),
    ("sgld_config.batch_size=501", "sgld_config.batch_size=501: ", "num_training_data=500"),
    ("training_config.batch_size=501", "training_config.batch_size=501: ", "num_training_data"),
    (
        "max_stacked_chains=3 sgld_config.num_chains=4",
        "max_stacked_chains=3: ",
        "use max_stacked_chains=4 or more",
    ),
    (
        "training_config.num_steps=20000 logging_period=5",
        "logging_period=5: gives 4001 checkpoints",
        "use logging_period=14 or more",
    ),
]


@pytest.mark.parametrize(("mistake", "start", "remedy"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_wrong_input_is_one_line_before_any_work(mistake, start, remedy, tmp_path, capsys):
    error = one_line_error(run, tmp_path / "runs", [*SMALL, *shlex.split(mistake)], capsys)
    assert error.startswith(start)
    assert remedy in error


def test_the_suggested_logging_period_passes():
    assert parse(SaddleConfig, {"logging_period": 14}).num_checkpoints <= 1500
    with pytest.raises(ConfigError):
        parse(SaddleConfig, {"logging_period": 13})


def test_record(tmp_path, capsys):
    options = ["do_plot=True", "verbose=True", "sgld_config.num_chains=2", "sgld_config.thin=2"]
    assert run("-F", str(tmp_path), "with", *SMALL, *options, "max_stacked_chains=8") == 0
    directory = tmp_path / "1"
    info, metrics = recorded(directory, "info.json"), recorded(directory, "metrics.json")
    assert info["training_status"] == "ok"
    assert info["nbeta"] == pytest.approx(500 / math.log(500))
    records = info["records"]
    assert [record["t"] for record in records] == STEPS
    for record in records:
        known = deep_linear((5, 10, 10, 10, 10, 5), record["true_rank"])
        assert record["true_lambda"] == float(known.value)
        assert record["true_multiplicity"] == known.multiplicity
        assert record["init_loss"] == record["share_below_centre"] == 0
        assert record["num_diverged_chains"] == 0
        assert record["lambdahat"] > 0
        assert record["lambdahat_se"] > 0
        assert record["sgld_status"].startswith("not converged: ESS")
    assert info["sgld_statuses"] == {"not converged": 6}
    for name in ("train_loss", "lambdahat", "lambdahat_se", "true_rank"):
        assert metrics[name]["steps"] == STEPS
        assert metrics[name]["values"] == [record[name] for record in records]
    assert metrics["minibatch_loss"]["steps"] == STEPS[1:]
    assert records[0]["true_rank"] == 0
    assert records[0]["train_loss"] > records[-1]["train_loss"]

    with xr.open_dataset(directory / "traces.nc", engine="h5netcdf") as traces:
        assert traces.loss.dims == ("checkpoint", "chain", "draw")
        assert traces.loss.shape == traces.baseline.shape == (6, 2, 10)
        assert traces.checkpoint.values.tolist() == STEPS
        assert traces.draw.values.tolist() == list(range(0, 20, 2))
        assert not traces.baseline.any()
        means = traces.attrs["nbeta"] * traces.loss.astype(float).mean(("chain", "draw"))
        np.testing.assert_allclose(means, [record["lambdahat"] for record in records], rtol=1e-6)
    assert (directory / "saddle.png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert all(f"t = {step:<8,} loss" in out for step in STEPS)
    assert "status: 6 not converged" in out
    assert f"run directory: {directory}" in out


def test_groups_change_nothing(tmp_path):
    for chains in ("1", "4", "256"):
        assert run("-F", str(tmp_path), "with", *SMALL, f"max_stacked_chains={chains}") == 0
    one, four, all_ = (column(tmp_path / k, "lambdahat") for k in "123")
    # 20 steps of float32 on other batch shapes, at losses without chaos.
    assert one == pytest.approx(all_, rel=1e-4)
    assert four == pytest.approx(all_, rel=1e-4)


def test_a_stack_of_checkpoints_is_each_checkpoint_alone():
    config = parse(
        SaddleConfig,
        {
            "num_training_data": 500, "dtype": "float64", "seed": 3,
            "training_config": {"num_steps": 200, "learning_rate": 1e-3},
            "sgld_config": {"num_steps": 30, "num_chains": 2},
        },
    )  # fmt: skip
    loss, start = script.setting(config)
    points = list(train(loss, start, config.training_config, Stream(3), 50))
    steps = [point.step for point in points]
    together = script.estimate_at(loss, stack([point.params for point in points]), steps, config)
    for point, estimate in zip(points, together, strict=True):
        alone = estimate_one(
            dln.LinearLoss(loss.inputs, dln.product(point.params), config.widths),
            point.params,
            nbeta=config.nbeta,
            sgld_config=config.sgld_config,
            seed=derived_seed(3, point.step),
            companions=False,
        )
        torch.testing.assert_close(estimate.trace.loss, alone.trace.loss, rtol=1e-9, atol=1e-12)
        assert estimate.mean == pytest.approx(alone.mean, rel=1e-9)
    assert len({estimate.mean for estimate in together}) == len(together)


def test_initial_weights_have_the_stated_variance():
    _, start = script.setting(parse(SaddleConfig, {"width": 200, "initialisation_exponent": 1.2}))
    entries = torch.cat([leaf.flatten() for leaf in start.values()]).double()
    # Five standard errors of a sample variance: false-fail 6e-7.
    tolerance = 5 * math.sqrt(2 / len(entries))
    assert float(entries.var()) == pytest.approx(200**-1.2, rel=tolerance)


def test_ranks_count_what_is_learned():
    values = torch.tensor([[50.0, 2.0, 0.9, 1e-7, 0.0], [0.01, 0.0, 0.0, 0.0, 0.0]])
    assert script.learned_ranks(values.diag_embed(), 5) == [2, 0]
    assert script.learned_ranks(values.diag_embed(), 1) == [1, 0]


def test_training_that_diverges_is_said_and_no_crash(tmp_path, capsys):
    options = ["training_config.learning_rate=1.0", "do_plot=True"]
    assert run("-F", str(tmp_path), "with", *SMALL, *options) == 0
    directory = tmp_path / "1"
    info = recorded(directory, "info.json")
    assert info["training_status"].startswith("diverged by step ")
    assert "learning_rate" in info["training_status"]
    assert len(info["records"]) < len(STEPS)
    assert all(record["train_loss"] is not None for record in info["records"])
    assert recorded(directory, "run.json")["status"] == "COMPLETED"
    assert "training: diverged by step" in capsys.readouterr().out


class KilledError(BaseException):
    pass


@pytest.fixture
def killed(monkeypatch):
    """Runs a command until what is written fulfils a condition."""
    monkeypatch.setenv("LLC_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr("llc.checkpoints.SHARE", math.inf)

    def run_until(condition, *arguments):
        def tick(keeper):
            original(keeper)
            if condition({name: state() for name, state in keeper._shared.held.items()}):
                raise KilledError

        original = Keeper.tick
        with monkeypatch.context() as patch:
            patch.setattr(Keeper, "tick", tick)
            with pytest.raises(KilledError):
                run(*arguments)

    return run_until


def test_a_run_killed_in_its_last_estimates_does_not_train_again(killed, tmp_path, monkeypatch):
    command = ["-F", str(tmp_path), "with", *SMALL]
    killed(lambda held: "estimate/chains" in held, *command)

    def advance(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr("llc.training.stacked._StackedTrainer.advance", advance)
    assert run(*command) == 0
    assert column(tmp_path / "2", "t") == STEPS


def test_a_resumed_run_that_adds_nothing_has_the_whole_record(killed, tmp_path):
    options = ["training_config.learning_rate=1.0", "max_stacked_chains=1"]
    command = ["-F", str(tmp_path), "with", *SMALL, *options]
    killed(lambda held: held["training"]["done"] > 0, *command)
    assert run(*command) == 0
    info = recorded(tmp_path / "2", "info.json")
    assert info["resumed_from"] == "1"
    assert info["training_status"].startswith("diverged by step ")
    assert [record["t"] for record in info["records"]] == [0]
    assert (tmp_path / "2" / "traces.nc").exists()


def test_centres_come_to_the_device_of_the_loss():
    loss = SimpleNamespace(inputs=torch.empty(1, device="meta"))
    pending = [({}, {"w": torch.zeros(2)}), ({}, {"w": torch.empty(2, device="meta")})]
    assert script.centres_of(loss, pending)["w"].device.type == "meta"


def test_chains_that_diverge_are_counted(tmp_path, capsys):
    assert run("-F", str(tmp_path), "with", *SMALL, "sgld_config.epsilon=1", "do_plot=True") == 0
    info = recorded(tmp_path / "1", "info.json")
    assert info["sgld_statuses"] == {"diverged": 6}
    assert all(record["lambdahat"] is None for record in info["records"])
    assert all(record["num_diverged_chains"] == 1 for record in info["records"])
    assert "status: 6 diverged" in capsys.readouterr().out


def test_a_broken_checkpoint_and_an_impossible_period_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llc.checkpoints.SHARE", float("inf"))
    monkeypatch.setenv("LLC_CHECKPOINT_SECONDS", "soon")
    assert run("-F", str(tmp_path), "with", *SMALL) == 2
    assert "LLC_CHECKPOINT_SECONDS=soon: must be" in capsys.readouterr().err
    monkeypatch.setenv("LLC_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr("llc.checkpoints.Keeper.remove", lambda _: None)  # as a kill would leave it
    assert run("-F", str(tmp_path), "with", *SMALL) == 0
    (file,) = tmp_path.glob("_checkpoints/*.pt")
    file.write_bytes(b"no checkpoint")
    capsys.readouterr()
    assert run("-F", str(tmp_path), "with", *SMALL) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "delete it to start afresh" in error
    assert str(file) in error


def test_same_seed_same_numbers(tmp_path):
    for seed in (7, 7, 8):
        assert run("-F", str(tmp_path), "with", *SMALL, f"seed={seed}") == 0
    first, second, other = (recorded(tmp_path / k, "info.json")["records"] for k in "123")
    assert first == second
    assert first != other


def test_without_an_observer_it_says_how_to_record(capsys):
    assert run("with", *SMALL) == 0
    assert "add -F runs before" in capsys.readouterr().out


@pytest.mark.slow
def test_readme_command(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    start = text.index("python expt_dln_saddle_dynamics.py -F runs/saddle with expt_name=")
    command = text[start : text.index("```", start)].replace("\\\n", " ")
    words = shlex.split(command.replace("runs/saddle", shlex.quote(str(tmp_path / "runs"))))
    words[0] = sys.executable
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    directory = tmp_path / "runs" / "1"
    records = recorded(directory, "info.json")["records"]
    assert len(records) == 401
    assert records[0]["lambdahat"] < 0.1
    ranks = Counter(record["true_rank"] for record in records)
    assert list(ranks) == sorted(ranks)  # one direction after another
    late = np.mean([record["lambdahat"] for record in records[-10:]])
    assert 0.8 * 12.5 < late < 1.2 * 12.5
