"""`expt_dln.py` as a user runs it: the README's command, the record, what wrong input gives."""

import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import arviz as az
import numpy as np
import pytest
from recording import one_line_error, recorded

import expt_dln
from llc.tracking.commandline import execute

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["num_training_data=2000", "sgld_config.num_steps=200", "sgld_config.epsilon=1e-7"]

MISTAKES = [
    ("sgld_config.typo=3", "sgld_config.typo"),
    ("sgld_config.epsilonn=1e-6", "epsilon"),
    ("typo=3", "typo"),
    ("sgld_config.epsilon=0", "sgld_config.epsilon"),
    ("sgld_config.epsilon=-1e-6", "sgld_config.epsilon"),
    ("sgld_config.epsilon=nan", "sgld_config.epsilon"),
    ("sgld_config.epsilon='small'", "sgld_config.epsilon"),
    ("sgld_config.gamma=-1", "sgld_config.gamma"),
    ("sgld_config.num_steps=0", "sgld_config.num_steps"),
    ("sgld_config.num_steps=10.5", "sgld_config.num_steps"),
    ("sgld_config.batch_size=0", "sgld_config.batch_size"),
    ("sgld_config.batch_size=1.5", "sgld_config.batch_size"),
    ("sgld_config.batch_size=2001", "sgld_config.batch_size"),
    ("sgld_config.num_chains=0", "sgld_config.num_chains"),
    ("sgld_config.num_chains=2.5", "sgld_config.num_chains"),
    ("sgld_config.burn_in_prop=1.0", "sgld_config.burn_in_prop"),
    ("sgld_config.burn_in_prop=-0.1", "sgld_config.burn_in_prop"),
    ("layer_widths='[]'", "layer_widths"),
    ("layer_widths='[10, 0]'", "layer_widths"),
    ("layer_widths=ten", "layer_widths"),
    ("true_param_config.method=randm", "true_param_config.method"),
    ("true_param_config.method=aligned_rank true_param_config.rank=11", "true_param_config.rank"),
    ("true_param_config.method=aligned_rank", "true_param_config.rank"),
    ("input_dist=normal", "input_dist"),
    ("sampler_config.name=nutz", "sampler_config.name"),
    ("sampler_config.trajectory=1.0", "sampler_config.trajectory"),
    ("sampler_config.name=gibbs sgld_config.gamma=0", "sgld_config.gamma"),
    ("training_config.optim=sdg", "training_config.optim"),
    ("device=gpu", "device"),
    ("dtype=float16", "dtype"),
]


def run(*arguments: str) -> int:
    return execute(expt_dln.ex, ["expt_dln.py", *arguments])


@pytest.mark.parametrize(("mistake", "key"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_wrong_input_is_one_line_before_any_work(mistake, key, tmp_path, capsys):
    error = one_line_error(run, tmp_path / "runs", [*SMALL, *shlex.split(mistake)], capsys)
    assert key in error


def test_cuda_where_there_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run("-F", str(tmp_path / "runs"), "with", *SMALL, "device=cuda") == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_unwritable_directory(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run("-F", str(tmp_path / "file" / "runs"), "with", *SMALL) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_too_large_a_step_completes_and_says_so(tmp_path, capsys):
    steps = ["num_training_data=2000", "sgld_config.num_steps=200", "sgld_config.epsilon=1.0"]
    assert run("-F", str(tmp_path), "with", *steps) == 0
    info, status = recorded(tmp_path / "1", "info.json"), recorded(tmp_path / "1", "run.json")
    assert status["status"] == "COMPLETED"
    assert info["lambdahat"] is None
    assert info["lambdahat_per_chain"] == [None] * 4
    assert info["num_diverged_chains"] == 4
    assert info["sgld_status"].startswith("diverged at step")
    assert "4 of 4 chains" in info["sgld_status"]
    assert "epsilon" in info["sgld_status"]
    assert "diverged at step" in capsys.readouterr().out


def test_record(tmp_path):
    options = ["do_compute_distance=True", "save_true_param=True", "sgld_config.thin=2"]
    assert run("-F", str(tmp_path), "with", *SMALL, *options) == 0
    directory = tmp_path / "1"
    info, metrics = recorded(directory, "info.json"), recorded(directory, "metrics.json")
    assert info["true_lambda"] == info["true_local_lambda"] == 50
    assert info["true_rank"] == 10
    assert info["true_multiplicity"] == 1
    assert info["true_matrix_shape"] == [10, 10]
    assert info["model_dim"] == 200
    assert len(info["true_param_singular_values"]) == 10
    assert math.isclose(info["itemp"], 1 / math.log(2000))
    assert len(info["lambdahat_per_chain"]) == 4
    assert math.isclose(info["lambdahat"], np.mean(info["lambdahat_per_chain"]), rel_tol=1e-9)
    for name in ("loss_trace", "sgld_distances", "mala_acceptance_probs"):
        assert len(metrics[name]["values"]) >= 10
    with np.load(directory / "true_param.npz") as saved:
        assert saved["layer1"].shape == (10, 10)

    traces = az.from_netcdf(str(directory / "traces.nc"))
    stats = traces.sample_stats
    assert stats.loss.dims == ("chain", "draw")
    assert stats.loss.shape == stats.baseline.shape == stats.distance.shape == (4, 100)
    assert list(stats.draw.values[:3]) == [0, 2, 4]
    assert list(stats.checked.values[:3]) == [0, 20, 40]
    assert stats.acceptance.shape == (4, 10)
    nbeta = 2000 / math.log(2000)
    kept = (stats.loss - stats.baseline).values.astype(float)[:, 90:] * nbeta
    assert math.isclose(info["lambdahat"], kept.mean(), rel_tol=1e-6)


@pytest.mark.parametrize("sampler", ["gibbs", "hmc"])
def test_an_exact_sampler_reads_the_coefficient(sampler, tmp_path):
    """Where the paper's SGLD is off by 7 % at this rank: 17-23-31-12, aligned, n = 1e5, γ = 1."""
    network = ["layer_widths=[23, 31, 12]", "input_dim=17", "num_training_data=100000"]
    truth = ["true_param_config.method=aligned_rank", "true_param_config.rank=4"]
    chains = ["sgld_config.gamma=1.0", f"sampler_config.name={sampler}"]
    assert run("-F", str(tmp_path), "with", *network, *truth, *chains) == 0
    info = recorded(tmp_path / "1", "info.json")
    error = info["lambdahat"] - info["true_local_lambda"]
    assert abs(error) < 4 * info["lambdahat_se"] + 0.02 * info["true_local_lambda"]
    assert info["lambdahat_se"] < 0.02 * info["lambdahat"]
    assert info["step_size_bias"] is None
    stats = az.from_netcdf(str(tmp_path / "1" / "traces.nc")).sample_stats
    assert stats.acceptance.shape == stats.loss.shape


def test_same_seed_same_numbers(tmp_path):
    for _ in range(2):
        assert run("-F", str(tmp_path), "with", *SMALL, "seed=7") == 0
    first, second = (recorded(tmp_path / k, "info.json") for k in "12")
    timings = {
        "chain_steps_per_second",
        "sampling_seconds",
        "companion_seconds",
        "peak_memory_mb",
    }
    assert {k: v for k, v in first.items() if k not in timings} == {
        k: v for k, v in second.items() if k not in timings
    }


@pytest.mark.slow
def test_readme_command(tmp_path):
    """The full command of the README: rank-deficient truth, training, rank and Hessian trace."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    start = text.index("python expt_dln.py -F runs/dln with expt_name='try'")
    command = text[start : text.index("```", start)].replace("\\\n", " ")
    words = shlex.split(command.replace("runs/dln", shlex.quote(str(tmp_path / "runs"))))
    words[0] = sys.executable
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=600, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "λ̂(w*) = " in done.stdout
    assert "λ̂(trained) = " in done.stdout
    info = recorded(tmp_path / "runs" / "1", "info.json")
    assert info["functional_rank_info"]["threshold"] == 1e-3
    assert 0 < info["functional_rank_info"]["functional_rank"] <= info["model_dim"]
    assert info["hessian_trace_estimate"] > 0
    assert info["true_lambda"] <= info["true_local_lambda"] <= info["model_dim"] / 2
    trained = info["trained_param_info"]
    assert trained["lambdahat"] is not None
    assert trained["init_loss"] < 1e-2
    metrics = recorded(tmp_path / "runs" / "1", "metrics.json")
    assert metrics["training_losses"]["values"][-1] < metrics["training_losses"]["values"][0]
    for name in ("traces.nc", "trained_traces.nc", "llc.png", "trained_llc.png"):
        assert (tmp_path / "runs" / "1" / name).stat().st_size > 1000
