"""`expt_llc_curve.py` as a user runs it."""

import math
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from recording import one_line_error, recorded

import expt_llc_curve as script
from llc.checkpoints import Keeper
from llc.config import CurveConfig, as_plain, parse
from llc.models.modules import predict
from llc.tracking.commandline import execute
from llc.training import Checkpoint

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "model_data_config.data_name=digits", "model_data_config.layer_width_factor=2",
    "training_config.num_steps=5", "training_config.batch_size=32",
    "training_config.learning_rate=0.05", "logging_period=2", "sgld_config.num_steps=20",
    "sgld_config.batch_size=32",
]  # fmt: skip
STEPS = [0, 2, 4, 5]

REFERENCE_DEFAULTS = {
    "expt_name": None,
    "loss_trace_minibatch": True,
    "force_realisable": False,
    "seed": 42,
    "logging_period": 200,
    "verbose": False,
    "do_plot": False,
}
REFERENCE_GROUPS = {
    "sgld_config": {
        "epsilon": 5e-6, "gamma": 1.0, "num_steps": 1000, "num_chains": 1, "batch_size": 1024,
    },
    "model_data_config": {
        "model_name": "resnet18", "data_name": "cifar10", "label_noise_level": None,
        "layer_width_factor": 64,
    },
    "training_config": {
        "optim": "sgd", "learning_rate": 1e-3, "momentum": None, "batch_size": 128,
        "num_steps": 20_000, "l2_regularization": None,
    },
}  # fmt: skip


def run(*arguments: str) -> int:
    return execute(script.ex, ["expt_llc_curve.py", *arguments])


def records(directory: Path):
    return recorded(directory, "info.json")["records"]


def test_defaults_are_the_references():
    config = as_plain(parse(CurveConfig, {}))
    assert {key: config[key] for key in REFERENCE_DEFAULTS} == REFERENCE_DEFAULTS
    for group, values in REFERENCE_GROUPS.items():
        assert {key: config[group][key] for key in values} == values
    assert parse(CurveConfig, {}).nbeta == pytest.approx(50_000 / math.log(50_000))


MISTAKES = [
    ("typo=3", "typo: unknown key", "known keys"),
    ("model_data_config.typo=3", "model_data_config.typo: unknown key", "known keys"),
    ("model_data_config.model_name=vgg", "model_data_config.model_name='vgg': ", "'resnet18'"),
    ("model_data_config.data_name=mnist", "model_data_config.data_name='mnist': ", "'digits'"),
    ("model_data_config.label_noise_level=1.5", "model_data_config.label_noise_level=1.5: ", "[0"),
    ("training_config.l2_regularization=-1", "training_config.l2_regularization=-1: ", ">= 0"),
    ("sgld_config.batch_size=1501", "sgld_config.batch_size=1501: ", "num_training_data=1500"),
    (
        "training_config.num_steps=20000 logging_period=5",
        "logging_period=5: gives 4001 checkpoints",
        "use logging_period=14 or more",
    ),
    ("dtype=float16", "dtype='float16': ", "'bfloat16'"),
]


@pytest.mark.parametrize(("mistake", "start", "remedy"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_wrong_input_is_one_line_before_any_work(mistake, start, remedy, tmp_path, capsys):
    error = one_line_error(run, tmp_path / "runs", [*SMALL, *shlex.split(mistake)], capsys)
    assert error.startswith(start)
    assert remedy in error


def test_missing_cifar_is_one_line(tmp_path, capsys):
    options = ["model_data_config.data_name=cifar10", f"model_data_config.data_dir={tmp_path}"]
    assert run("with", *SMALL, *options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cifar-10-python.tar.gz" in error
    assert str(tmp_path) in error


def test_record(tmp_path, capsys):
    options = ["do_plot=True", "verbose=True", "sgld_config.num_chains=2"]
    noise = "training_config.l2_regularization=0.01"
    assert run("-F", str(tmp_path), "with", *SMALL, *options, noise) == 0
    directory = tmp_path / "1"
    info, metrics = recorded(directory, "info.json"), recorded(directory, "metrics.json")
    assert info["training_status"] == "ok"
    assert info["nbeta"] == pytest.approx(1500 / math.log(1500))
    assert [record["t"] for record in info["records"]] == STEPS
    for record in info["records"]:
        assert record["test_loss"] > record["test_loss_no_reg"]
        assert 0 <= record["test_accuracy"] <= 1
        assert 0 <= record["train_accuracy"] <= 1
        assert record["init_loss"] > 0
        assert math.isfinite(record["lambdahat"])
        assert 0 < record["sgld_acceptance"] <= 1
    for name in ("test_loss", "test_accuracy", "lambdahat", "share_below_centre"):
        assert metrics[name]["steps"] == STEPS
        assert metrics[name]["values"] == [record[name] for record in info["records"]]
    assert metrics["train_loss"]["steps"] == STEPS[1:]
    with xr.open_dataset(directory / "traces.nc", engine="h5netcdf") as traces:
        assert traces.loss.dims == ("checkpoint", "chain", "draw")
        assert traces.loss.shape == traces.distance.shape == (4, 2, 20)
        assert traces.acceptance.dims == ("checkpoint", "chain", "check")
        excess = (traces.loss - traces.baseline).astype(float).isel(draw=slice(18, None))
        means = traces.attrs["nbeta"] * excess.mean(("chain", "draw"))
        lambdahats = [record["lambdahat"] for record in info["records"]]
        np.testing.assert_allclose(means, lambdahats, rtol=1e-5)
    assert recorded(directory, "run.json")["artifacts"] == ["traces.nc", "llc_curve.png"]
    assert (directory / "llc_curve.png").stat().st_size > 1000
    assert "test accuracy" in capsys.readouterr().out


def test_a_network_at_its_initialisation_is_said_to_be_no_minimum(tmp_path, capsys):
    options = ["sgld_config.num_steps=200", "sgld_config.epsilon=1e-4", "logging_period=5"]
    assert run("-F", str(tmp_path), "with", *SMALL, *options) == 0
    first = records(tmp_path / "1")[0]
    assert first["sgld_status"].startswith("below the centre")
    assert first["lambdahat"] < 0  # nothing is clipped
    assert first["share_below_centre"] > 0.5
    assert "w* is no minimum, and λ̂ is biased" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["model_name=mlp", "label_noise_level=0.5"])
def test_other_models_and_labels(option, tmp_path):
    assert run("-F", str(tmp_path), "with", *SMALL, f"model_data_config.{option}") == 0
    assert [record["t"] for record in records(tmp_path / "1")] == STEPS


def test_label_noise_is_for_training_alone():
    config = parse(CurveConfig, {"model_data_config": {
        "data_name": "digits", "layer_width_factor": 2, "label_noise_level": 0.5,
    }})  # fmt: skip
    images, training_labels, _ = script.setting(config)
    changed = (images.train_labels != training_labels).double().mean().item()
    # Half are redrawn, of which nine in ten differ; five binomial deviations, false-fail 6e-7.
    assert changed == pytest.approx(0.45, abs=5 * math.sqrt(0.5 * 0.9 * 0.1 / 1500))


def test_force_realisable_makes_the_networks_own_answers_the_targets():
    config = parse(CurveConfig, {
        "model_data_config": {"data_name": "digits", "layer_width_factor": 2},
        "sgld_config": {"num_steps": 20, "batch_size": 32}, "force_realisable": True,
    })  # fmt: skip
    images, labels, model = script.setting(config)
    weights = {name: leaf.detach().clone() for name, leaf in model.named_parameters()}
    record = script.measure(
        Checkpoint(0, weights, torch.empty(0)), model, images, labels, config, Keeper()
    )
    answers = predict(model, images.train_inputs).double().softmax(1)
    entropy = -(answers * answers.log()).sum(1).mean().item()
    assert record["init_loss"] == pytest.approx(entropy, rel=1e-5)  # the least possible loss


def test_training_that_diverges_is_said_and_no_crash(tmp_path, capsys):
    options = ["training_config.learning_rate=1e38", "model_data_config.model_name=mlp"]
    assert run("-F", str(tmp_path), "with", *SMALL, *options) == 0
    info = recorded(tmp_path / "1", "info.json")
    assert info["training_status"].startswith("diverged by step ")
    assert [record["t"] for record in info["records"]] in ([0], [0, 2])
    assert "training: diverged by step" in capsys.readouterr().out


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_changes_less_than_the_standard_error(device, tmp_path):
    """The same seeds, so that only rounding differs."""
    where = f"device={device}"
    options = ["sgld_config.num_steps=100", "sgld_config.num_chains=4", "logging_period=5"]
    for dtype in ("float32", "bfloat16"):
        assert run("-F", str(tmp_path), "with", *SMALL, *options, where, f"dtype={dtype}") == 0
    exact, half = (records(tmp_path / k)[0] for k in "12")  # before training drives them apart
    assert half["lambdahat"] != exact["lambdahat"]
    assert abs(half["lambdahat"] - exact["lambdahat"]) < exact["lambdahat_se"]


@pytest.mark.slow
def test_seed_command(tmp_path):
    """The seed README's command on digits, shortened in its lengths only."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    start = text.index("python expt_llc_curve.py -F runs/curve with expt_name=")
    command = text[start : text.index("```", start)].replace("\\\n", " ")
    _, *arguments = shlex.split(command)
    arguments[arguments.index("runs/curve")] = str(tmp_path)
    short = {"sgld_config.num_steps": 20, "training_config.num_steps": 3, "logging_period": 3}
    width = "model_data_config.layer_width_factor=2"
    arguments += [f"{key}={value}" for key, value in short.items()] + [width]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [record["t"] for record in records(tmp_path / "1")] == [0, 3]
    config = recorded(tmp_path / "1", "config.json")
    assert config["training_config"]["momentum"] is None
    assert config["training_config"]["l2_regularization"] is None
