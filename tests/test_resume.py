"""Real runs, killed at random moments and started again, against the same runs left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr

ROOT = Path(__file__).resolve().parents[1]
SADDLE = [
    "expt_dln_saddle_dynamics.py", "training_config.num_steps=20000", "logging_period=400",
    "max_stacked_chains=8", "sgld_config.num_chains=2", "sgld_config.num_steps=8000",
]  # fmt: skip
CURVE = [
    "expt_llc_curve.py", "model_data_config.data_name=digits",
    "model_data_config.layer_width_factor=2", "training_config.num_steps=100",
    "training_config.batch_size=32", "training_config.momentum=0.9", "logging_period=20",
    "sgld_config.num_steps=120", "sgld_config.num_chains=2", "sgld_config.batch_size=32",
]  # fmt: skip
DLN = [
    "expt_dln.py", "num_training_data=1000", "sgld_config.num_steps=40000",
    "sgld_config.epsilon=1e-6", "do_training=True", "training_config.num_steps=4000",
]  # fmt: skip
BENCHMARK = [
    "expt_sampler_benchmark.py", "problem_config.num_training_data=1000",
    "problem_config.target_params=60", "sgld_config.num_chains=2", "sampler_config.name=hmc",
    "sampler_config.num_steps=300", "reference_config.num_steps=200",
]  # fmt: skip
AUTO = [
    "expt_dln.py", "num_training_data=1000", "sgld_config.num_steps=30000",
    "sgld_config.epsilon=auto", "sgld_config.batch_size=50",
]  # fmt: skip
TIMINGS = {
    "chain_steps_per_second", "sampling_seconds", "companion_seconds", "peak_memory_mb",
    "resumed_from", "ess_per_second", "wnv_time", "timing_build", "timing_calibration",
    "timing_warmup", "timing_sampling", "timing_companions",
}  # fmt: skip


def start(command, directory):
    script, *updates = command
    return subprocess.Popen(
        [sys.executable, script, "-F", str(directory), "with", *updates],
        cwd=ROOT,
        env={**os.environ, "LLC_CHECKPOINT_SECONDS": "0.05"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_for(condition, process, seconds=120):
    """Until the condition holds or the process has ended."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.002)


def numbered(directory):
    return sorted((d for d in directory.iterdir() if d.name.isdigit()), key=lambda d: int(d.name))


def written(folder):
    """When the last checkpoint was."""
    return max((file.stat().st_mtime_ns for file in folder.glob("_checkpoints/*.pt")), default=0)


def read(directory, name):
    return json.loads((directory / name).read_text())


def without_timings(value):
    if isinstance(value, dict):
        timed = TIMINGS | {f"hmc_{name}" for name in TIMINGS}
        return {k: without_timings(v) for k, v in value.items() if k not in timed}
    return [without_timings(v) for v in value] if isinstance(value, list) else value


def curves(directory):
    metrics = read(directory, "metrics.json")
    return {name: (curve["steps"], curve["values"]) for name, curve in metrics.items()}


def assert_same_record(one, two):
    assert without_timings(read(one, "info.json")) == without_timings(read(two, "info.json"))
    assert curves(one) == curves(two)
    for file in one.glob("*.nc"):
        with xr.open_dataset(file) as left, xr.open_dataset(two / file.name) as right:
            assert left.equals(right)


def left_alone(command, directory):
    finish(start(command, directory))
    (run,) = numbered(directory)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "kills"),
    [(SADDLE, 12), (CURVE, 8), (BENCHMARK, 4), (AUTO, 3)],
    ids=["saddle", "curve", "benchmark", "auto"],
)
def test_killed_runs_end_with_the_record_of_one_left_alone(command, kills, tmp_path):
    whole = left_alone(command, tmp_path / "whole")
    folder, moments = tmp_path / "killed", random.Random(1)
    for kill in range(kills):
        for part in folder.glob("_checkpoints/*.part"):  # of a write that was cut short before
            part.unlink()
        process = start(command, folder)
        count, before = kill + 1, written(folder)
        wait_for(lambda n=count: folder.exists() and len(numbered(folder)) >= n, process)
        if kill % 4 == 0:  # in the middle of a write
            wait_for(lambda: any(folder.glob("_checkpoints/*.part")), process)
        elif kill % 4 > 1:  # after some work; else perhaps before any
            wait_for(lambda then=before: written(folder) > then, process)
        if kill % 4:
            time.sleep(moments.uniform(0, 1.0))
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    output = finish(start(command, folder))
    last = numbered(folder)[-1]
    assert int(last.name) == kills + 1
    assert read(last, "info.json")["resumed_from"] in {str(n) for n in range(1, kills + 1)}
    assert "going on from run" in output
    assert_same_record(whole, last)
    assert not list(folder.glob("_checkpoints/*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "signum"), [(DLN, signal.SIGTERM), (CURVE, signal.SIGUSR2)], ids=["dln", "curve"]
)
def test_a_signal_ends_the_run_at_its_next_step(command, signum, tmp_path):
    folder = tmp_path / "stopped"
    process = start(command, folder)
    wait_for(lambda: any(folder.glob("_checkpoints/*.pt")), process)
    time.sleep(1.0)
    asked = time.monotonic()
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert time.monotonic() - asked < 5  # a step and a write take milliseconds; the rest is Sacred
    (stopped,) = numbered(folder)
    assert read(stopped, "run.json")["status"] == "INTERRUPTED"
    assert "going on from run 1" in finish(start(command, folder))
    assert_same_record(left_alone(command, tmp_path / "whole"), numbered(folder)[-1])


@pytest.mark.slow
def test_a_second_start_beside_the_first_keeps_out_of_its_way(tmp_path):
    first = start(DLN, tmp_path)
    wait_for(lambda: any(tmp_path.glob("_checkpoints/*.pt")), first)
    output = finish(start(DLN, tmp_path))
    assert "the same command is running already" in output
    finish(first)
    assert_same_record(*numbered(tmp_path))
