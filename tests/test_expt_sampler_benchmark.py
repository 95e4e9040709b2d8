"""`expt_sampler_benchmark.py` as a user runs it: records, files, errors, known values."""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import arviz as az
import numpy as np
import pytest
from recording import one_line_error, recorded

import expt_sampler_benchmark
from llc.config import SAMPLERS
from llc.tracking.commandline import execute

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "problem_config.num_training_data=200", "problem_config.target_params=30",
    "sgld_config.num_steps=400", "sgld_config.num_chains=2", "sgld_config.batch_size=50",
]  # fmt: skip
SHORT = ["sampler_config.num_steps=60"]
PREFIXED = {
    "llc_mean", "llc_se", "ess", "rhat", "wnv_time", "wnv_fde", "ess_per_second", "ess_per_fde",
    "fde", "fde_warmup", "fde_calibration", "fde_companions", "timing_build", "timing_calibration",
    "timing_warmup", "timing_sampling", "timing_companions", "acceptance", "step_size", "status",
    "llc_per_chain", "llc_all_draws", "step_size_bias", "num_diverged_chains", "peak_memory_mb",
}  # fmt: skip
COMMON = {
    "problem", "sampler", "num_params", "true_lambda", "true_multiplicity", "known_by", "itemp",
    "dtype", "run_family_id", "run_hash", "code_version", "llc_status", "target_llc", "target_se",
    "target_kind", "target_status", "signed_error", "relative_error", "z_score", "L0", "nbeta",
    "epsilon_advice", "num_burn_in",
}  # fmt: skip

MISTAKES = [
    ("typo=3", "typo"),
    ("problem_config.typo=3", "problem_config.typo"),
    ("problem_config.name=relu", "problem_config.name"),
    ("problem_config.exponents='[1, 1]'", "problem_config.exponents"),
    ("problem_config.erm_steps=10", "problem_config.erm_steps"),
    ("problem_config.num_training_data=1", "problem_config.num_training_data"),
    ("problem_config.name=tanh", "problem_config.target_params=30"),
    ("problem_config.target_params=2", "problem_config.target_params"),
    ("problem_config.rank=9", "problem_config.rank"),
    ("problem_config.name=quadratic problem_config.curvature_range='[1]'", "curvature_range"),
    ("problem_config.name=quadratic problem_config.curvatures='[-1]'", "curvatures"),
    ("sampler_config.name=nutz", "sampler_config.name"),
    ("sampler_config.trajectory=1.0", "sampler_config.trajectory"),
    ("sampler_config.name=gibbs problem_config.name=quadratic", "sampler_config.name='gibbs'"),
    ("sampler_config.name=hmc sgld_config.gamma=0", "trajectory"),
    ("sgld_config.batch_size=201", "sgld_config.batch_size"),
    ("sgld_config.epsilon=auto sgld_config.num_steps=20", "sgld_config.num_steps"),
    ("reference_config.num_steps=2", "reference_config.num_steps"),
    ("reference_config.num_steps=100 sgld_config.gamma=0", "sgld_config.gamma"),
    ("itemp=0", "itemp"),
    ("seed=-1", "seed"),
    ("device=gpu", "device"),
    ("dtype=float16", "dtype"),
]


LENGTHS = {"hmc": 1000, "nuts": 600, "mamclmc": 1200}


def run(*arguments: str) -> int:
    return execute(expt_sampler_benchmark.ex, ["expt_sampler_benchmark.py", *arguments])


def info_of(directory, *updates):
    assert run("-F", str(directory), "with", "do_plot=False", *updates) == 0
    latest = max((d for d in directory.iterdir() if d.name.isdigit()), key=lambda d: int(d.name))
    return recorded(latest, "info.json")


@pytest.mark.parametrize(("mistake", "key"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_wrong_input_is_one_line_before_any_work(mistake, key, tmp_path, capsys):
    error = one_line_error(run, tmp_path / "runs", [*SMALL, *shlex.split(mistake)], capsys)
    assert key in error


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_record_of_every_sampler(name, tmp_path):
    exact = SAMPLERS[name].full_data
    options = [*SMALL, f"sampler_config.name={name}", *(SHORT if exact else [])]
    assert run("-F", str(tmp_path), "with", *options) == 0
    directory = tmp_path / "1"
    info, config = recorded(directory, "info.json"), recorded(directory, "config.json")
    assert {f"{name}_{key}" for key in PREFIXED} | COMMON <= set(info)
    for key in PREFIXED - {"status"}:
        assert info[key] == info[f"{name}_{key}"]
    assert info["llc_status"] == info[f"{name}_status"]
    metrics = json.loads((directory / f"{name}_metrics.json").read_text())
    assert metrics == {k: info[k] for k in info if k.startswith(f"{name}_")} | {"L0": info["L0"]}
    assert config["sampler_config"]["name"] == name

    assert info["dtype"] == ("float64" if exact else "float32")
    assert math.isclose(info["nbeta"], 200 / math.log(200))
    assert info["target_kind"] == "lambda"
    assert info["target_llc"] == info["true_lambda"]
    assert info["z_score"] is None  # λ is no expectation at this n
    seconds = sum(info[f"timing_{part}"] for part in ("calibration", "warmup", "sampling"))
    assert math.isclose(info["ess_per_second"], info["ess"] / seconds)
    assert math.isclose(info["wnv_time"], info["llc_se"] ** 2 * seconds)
    assert math.isclose(info["wnv_fde"], info["llc_se"] ** 2 * info["fde"])
    assert (info["fde_warmup"] > 0) == (exact and name not in ("gibbs", "mala"))
    assert info["fde_companions"] > 0

    posterior = az.from_netcdf(str(directory / "traces.nc")).posterior
    assert posterior.llc.dims == ("chain", "draw")
    assert posterior.llc.shape == ((2, 60) if exact else (2, 400))
    assert posterior.w.shape == (*posterior.llc.shape, 4)
    kept = posterior.llc.values[:, posterior.attrs["num_burn_in"] :]
    assert math.isclose(kept.mean(), info["llc_mean"], rel_tol=1e-5)
    assert np.isfinite(posterior.w.values).all()
    assert (directory / "diagnostics.png").stat().st_size > 10_000
    curves = recorded(directory, "metrics.json")
    assert len(curves["loss_trace"]["values"]) == posterior.sizes["draw"]


# 5 standard errors of chains with hundreds of effective draws: the mean of so many is normal, its
# error known to some 5 %, so that fewer than one in a hundred thousand fails by chance.
@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize(
    "problem",
    [
        "problem_config.name=quadratic problem_config.target_params=10",
        "problem_config.name=normal_crossing problem_config.exponents='[1,1]'",
    ],
)
def test_exact_samplers_read_the_exact_value(problem, name, tmp_path):
    length = f"sampler_config.num_steps={LENGTHS[name]}"
    options = [f"sampler_config.name={name}", length, "problem_config.num_training_data=200"]
    info = info_of(tmp_path, *shlex.split(problem), *options)
    assert info["target_kind"] == "exact"
    assert info["target_se"] == 0
    assert info["ess"] > 200
    assert math.isclose(info["z_score"], info["signed_error"] / info["llc_se"])
    assert abs(info["z_score"]) < 5
    assert info["llc_se"] < 0.1 * info["target_llc"]


def test_a_reference_is_the_same_for_every_sampler_and_seed(tmp_path):
    options = [*SMALL, "reference_config.num_steps=60"]
    one = info_of(tmp_path, *options)
    two = info_of(tmp_path, *options, "seed=3", "sampler_config.name=hmc", *SHORT)
    assert one["target_kind"] == two["target_kind"] == "reference"
    assert one["target_llc"] == two["target_llc"] != one["true_lambda"]
    assert one["target_se"] > 0
    assert one["target_status"] == two["target_status"]
    assert math.isclose(
        two["z_score"],
        (two["llc_mean"] - two["target_llc"]) / math.hypot(two["llc_se"], two["target_se"]),
    )
    assert one["run_family_id"] == two["run_family_id"]
    assert one["run_hash"] != two["run_hash"]
    exact = info_of(tmp_path, "problem_config.name=tanh", *options[2:], *options[:1])
    assert exact["target_kind"] == "exact"


def test_the_search_for_the_step_size_is_part_of_the_cost(tmp_path):
    options = [*SMALL, "sgld_config.num_steps=4000", "sgld_config.epsilon=auto"]
    info = info_of(tmp_path, *options)
    chains = 2 * 4000 * 50 / 200
    assert 0 < info["fde_calibration"] < 0.1 * chains
    assert math.isclose(info["fde"], chains + info["fde_calibration"])
    assert info["timing_calibration"] > 0
    assert info["step_size"] > 0
    assert (tmp_path / "1" / "calibration.csv").exists()


def test_too_large_a_step_completes_and_says_so(tmp_path, capsys):
    options = [*SMALL, "sgld_config.epsilon=1.0", "sgld_config.num_steps=200"]
    assert run("-F", str(tmp_path), "with", *options) == 0
    info = recorded(tmp_path / "1", "info.json")
    assert info["llc_mean"] is info["wnv_time"] is info["relative_error"] is None
    assert info["num_diverged_chains"] == 2
    assert info["llc_status"].startswith("diverged at step")
    assert "λ̂ = none" in capsys.readouterr().out
    assert (tmp_path / "1" / "diagnostics.png").exists()


def test_same_seed_same_numbers(tmp_path):
    one, two, other = (info_of(tmp_path, *SMALL, f"seed={seed}") for seed in (7, 7, 8))
    assert one["llc_mean"] == two["llc_mean"] != other["llc_mean"]
    assert one["run_hash"] == two["run_hash"] != other["run_hash"]
    assert one["L0"] == other["L0"]  # the problem has a seed of its own


def test_verbose_adds_what_the_status_rests_on(tmp_path, capsys):
    info_of(tmp_path, *SMALL, "verbose=True")
    output = capsys.readouterr().out
    for words in ("per chain", "from above", "drift"):
        assert words in output


@pytest.mark.slow
def test_the_commands_of_the_docstring_run_as_written(tmp_path):
    lines = expt_sampler_benchmark.__doc__.splitlines()
    commands = [line.strip() for line in lines if line.strip().startswith("python ")]
    assert commands
    for command in commands:
        _, script, *arguments = shlex.split(command)
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "benchmark" / "1" / "diagnostics.png").exists()
