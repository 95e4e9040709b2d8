"""A run is repeated from its own config.json, to the last digit."""

import json
import shutil

import pytest
import xarray as xr

import expt_dln
import expt_dln_saddle_dynamics as saddle
from llc.records import load_runs
from llc.tracking.commandline import execute

DLN = [
    "layer_widths=[4,3]", "input_dim=3", "num_training_data=1000", "sgld_config.num_steps=300",
    "sgld_config.epsilon=1e-6", "true_param_config.method=rand_rank", "do_training=True",
    "training_config.num_steps=100", "do_hessian_trace=True", "do_functional_rank=True",
    "do_compute_distance=True", "expt_name=it's [100%] of $HOME", "seed=7",
]  # fmt: skip
SADDLE = [
    "num_training_data=500", "training_config.num_steps=120", "logging_period=60",
    "training_config.learning_rate=1e-3", "sgld_config.num_steps=20", "sgld_config.num_chains=2",
]  # fmt: skip
MEASURED = {
    "chain_steps_per_second", "sampling_seconds", "companion_seconds", "peak_memory_mb",
}  # fmt: skip


def numbers(value):
    """What does not depend on how busy the machine was."""
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items() if k not in MEASURED}
    return value


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")
@pytest.mark.parametrize(
    ("ex", "updates"), [(expt_dln.ex, DLN), (saddle.ex, SADDLE)], ids=["dln", "saddle"]
)
def test_a_run_is_repeated_from_its_config(ex, updates, tmp_path):
    runs = tmp_path / "runs"
    assert execute(ex, ["expt.py", "-F", str(runs), "with", *updates]) == 0
    first = runs / "1"
    assert execute(ex, ["expt.py", "-F", str(runs), "with", str(first / "config.json")]) == 0
    # Also from a copy elsewhere, into an empty directory.
    copy, other = tmp_path / "copy.json", tmp_path / "other"
    shutil.copy(first / "config.json", copy)
    assert execute(ex, ["expt.py", "-F", str(other), "with", str(copy)]) == 0
    for again in (runs / "2", other / "1"):
        assert_same(first, again)
    assert not load_runs(runs, other)["superseded"].any()


def test_a_key_after_the_file_changes_it(tmp_path):
    args = ["expt.py", "-F", str(tmp_path), "with"]
    assert execute(saddle.ex, [*args, *SADDLE]) == 0
    config = str(tmp_path / "1" / "config.json")
    assert execute(saddle.ex, [*args, config, "seed=8"]) == 0
    one, two = (json.loads((tmp_path / k / "config.json").read_text()) for k in ("1", "2"))
    assert two == one | {"seed": 8}


def assert_same(one, two):
    def read(directory, name):
        return json.loads((directory / name).read_text())

    assert read(one, "config.json") == read(two, "config.json")
    assert numbers(read(one, "info.json")) == numbers(read(two, "info.json"))
    assert read(one, "run.json")["result"] == read(two, "run.json")["result"]
    curves = [read(directory, "metrics.json") for directory in (one, two)]
    assert curves[0].keys() == curves[1].keys()
    for name, curve in curves[0].items():
        assert curve["values"] == curves[1][name]["values"]
    files = sorted(one.glob("*.nc"))
    assert files
    for file in files:
        with xr.open_datatree(file) as left, xr.open_datatree(two / file.name) as right:
            assert left.equals(right)
