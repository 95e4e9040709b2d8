"""What recorded benchmark runs say together: compare, analyze and the statistics behind them."""

import csv
import json
import math
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from mongo_server import Server

import expt_sampler_benchmark as benchmark
from llc.__main__ import main
from llc.benchmarking.runs import Run, load
from llc.benchmarking.statistics import Summary, families, summarise, target_of
from llc.benchmarking.tables import rows
from llc.config import BenchmarkConfig, as_plain, parse
from llc.records.sources import Found
from llc.tracking.commandline import execute

QUICK = [
    "do_plot=False", "problem_config.name=quadratic", "problem_config.target_params=5",
    "problem_config.num_training_data=200", "sgld_config.num_steps=300",
    "sgld_config.batch_size=20", "sgld_config.num_chains=2", "sampler_config.num_steps=200",
]  # fmt: skip


def run(directory, *updates):
    script = "expt_sampler_benchmark.py"
    return execute(benchmark.ex, [script, "-F", str(directory), "with", *QUICK, *updates])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """1–2 HMC, 3 SGLD, 4 SGLD diverged, 5 failed, 6 running, 7 HMC on another problem, 8 as 1."""
    place = tmp_path_factory.mktemp("runs")
    hmc = "sampler_config.name=hmc"
    for seed in (0, 1):
        assert run(place, hmc, f"seed={seed}") == 0
    assert run(place, "seed=0", "sgld_config.epsilon=1e-3") == 0
    assert run(place, "seed=1", "sgld_config.epsilon=1e3") == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "estimate_one", lambda *_, **__: 1 / 0)
        assert run(place, hmc, "seed=2") == 1
        assert run(place, hmc, "seed=3") == 1  # to be made to look as if it were running
    assert run(place, hmc, "problem_config.seed=1", "problem_config.name=tanh",
               "problem_config.target_params=None") == 0  # fmt: skip
    assert run(place, hmc, "seed=0") == 0
    path = place / "6" / "run.json"
    now = datetime.now(UTC).replace(tzinfo=None).isoformat()
    record = {**json.loads(path.read_text()), "status": "RUNNING", "heartbeat": now}
    path.write_text(json.dumps({**record, "fail_trace": None, "stop_time": None}))
    return place


# --- compare --------------------------------------------------------------------------------------


def test_every_run_is_shown_whatever_became_of_it(recorded, capsys):
    assert main(["compare", str(recorded)]) == 0
    out = capsys.readouterr().out
    assert "quadratic, curvatures 0.01 … 1, 5 parameters, n = 200, γ = 1: compared with" in out
    assert "one tanh unit" in out
    assert "8 runs, 1 of them made again later and not counted, 3 without λ̂; 0 cannot" in out
    assert f"failed: {recorded}/5 (hmc): ZeroDivisionError: division by zero" in out
    assert f"not finite: {recorded}/4 (sgld): diverged at step" in out
    assert f"running: {recorded}/6 (hmc): running" in out
    table = out.partition("\n\n")[0]
    assert "1 failed, 1 running" in table
    # Two step sizes are two settings, and each is named by what it differs in.
    assert {"sgld (epsilon=0.001)", "sgld (epsilon=1000.0)"} <= {
        line.partition("  ")[0] for line in table.splitlines()
    }


def test_a_row_a_run_and_a_figure(recorded, tmp_path, capsys):
    table, figure = tmp_path / "runs.csv", tmp_path / "all.png"
    assert main(["compare", str(recorded), "--csv", str(table), "--figure", str(figure)]) == 0
    with table.open(encoding="utf-8") as file:
        found = {Path(row["run"]).name: row for row in csv.DictReader(file)}
    assert [found[k]["outcome"] for k in "12345678"] == [
        "repeat", "done", "done", "not finite", "failed", "running", "done", "done",
    ]  # fmt: skip
    info = json.loads((recorded / "2" / "info.json").read_text())
    assert float(found["2"]["llc_mean"]) == info["llc_mean"]
    assert found["2"]["family"] == info["run_family_id"]
    assert found["5"]["why"] == "ZeroDivisionError: division by zero"
    assert len({found[k]["family"] for k in "1234568"}) == 1
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_read_is_named(recorded, tmp_path, capsys):
    for number in "12":
        shutil.copytree(recorded / number, tmp_path / number)
    (tmp_path / "1" / "run.json").write_text("{")
    config = json.loads((tmp_path / "2" / "config.json").read_text())
    (tmp_path / "2" / "config.json").write_text(json.dumps({**config, "formerly": 3}))
    assert main(["compare", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "0 runs, 0 without λ̂; 2 cannot be read" in out
    assert f"not read: {tmp_path}/1: run.json: not whole" in out
    assert f"not read: {tmp_path}/2: of another version: formerly: unknown key" in out


@pytest.mark.parametrize("command", ["compare", "analyze"])
def test_wrong_sources_are_one_line(command, tmp_path, capsys):
    for source, says in [
        (str(tmp_path), f"{tmp_path}: no runs of expt_sampler_benchmark.py there"),
        ("nowhere", "nowhere: no such directory"),
        ("a:b:c:d", "-m a:b:c:d: must look like host:port:database"),
    ]:
        assert main([command, source]) == 2
        assert capsys.readouterr().err == f"error: {says}\n"


def test_from_a_database_as_from_files(recorded, tmp_path, capsys):
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    try:
        both = ["-F", str(tmp_path / "sweep"), "-m", server.address, "with", *QUICK]
        line = ["expt_sampler_benchmark.py", *both, "sampler_config.name=hmc"]
        assert execute(benchmark.ex, line) == 0
        capsys.readouterr()
        tables = []
        for source in (tmp_path / "sweep", server.address):
            assert main(["compare", str(source)]) == 0
            tables.append(capsys.readouterr().out)
            assert main(["analyze", str(source), "--to", str(tmp_path)]) == 0
            tables[-1] += capsys.readouterr().out.partition("hmc")[2]
        assert tables[0] == tables[1]
        assert "1 runs, 0 without λ̂" in tables[0]
    finally:
        server.stop()


# --- analyze --------------------------------------------------------------------------------------


def test_the_traces_give_the_recorded_numbers(recorded, tmp_path, capsys):
    assert main(["analyze", str(recorded / "2"), "--to", str(tmp_path / "to")]) == 0
    _, row = capsys.readouterr().out.splitlines()
    info = json.loads((recorded / "2" / "info.json").read_text())
    for key in ("llc_mean", "llc_se", "target_llc", "ess", "rhat"):
        assert f" {info[key]:.4g} " in row
    assert row.endswith(info["llc_status"])
    assert (
        (tmp_path / "to" / f"diagnostics-{recorded.name}-2.png").read_bytes().startswith(b"\x89PNG")
    )
    assert not (recorded / "2" / "diagnostics.png").exists()  # the record stays as it is


def test_another_burn_in(recorded, tmp_path, capsys):
    kept = []
    for share in ("0.5", "0.9"):
        arguments = ["analyze", str(recorded / "2"), "--to", str(tmp_path), "--burn-in", share]
        assert main(arguments) == 0
        head, row = capsys.readouterr().out.splitlines()
        kept.append(int(row[head.index("kept draws") :].split()[0]))
    assert kept == [2 * 100, 2 * 20]
    with pytest.raises(SystemExit):
        main(["analyze", str(recorded / "2"), "--burn-in", "1"])
    assert "--burn-in" in capsys.readouterr().err


def test_runs_without_an_estimate(recorded, tmp_path, capsys):
    assert main(["analyze", str(recorded), "--to", str(tmp_path)]) == 0
    lines = {Path(line.split()[0]).name: line for line in capsys.readouterr().out.splitlines()}
    assert "diverged at step" in lines["4"]
    assert "–" in lines["4"]  # two diverged chains of two, or one: no λ̂ from the rest
    assert lines["5"].endswith("ZeroDivisionError: division by zero")
    assert lines["6"].endswith("running")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"diagnostics-{recorded.name}-{k}.png" for k in (1, 2, 3, 4, 7, 8)
    ]


# --- statistics -----------------------------------------------------------------------------------


def made(mean, seed=0, sampler="hmc", status="ok", **info):
    """A run with these numbers."""
    config = {
        "problem_config": {"name": "dln"}, "sampler_config": {"name": sampler}, "seed": seed,
    }  # fmt: skip
    full = {
        "llc_mean": mean, "llc_se": 0.1, "ess": 100.0, "fde": 1000.0, "llc_status": status,
        "timing_calibration": 0.0, "timing_warmup": 1.0, "timing_sampling": 3.0,
        "target_kind": "lambda", "true_lambda": 12.0, **info,
    }  # fmt: skip
    parsed = parse(BenchmarkConfig, config)
    run = {"status": "COMPLETED", "experiment": {"name": "sampler_benchmark"}}
    found = Found("here", f"{sampler}{seed}", None, run, as_plain(parsed), full)
    return Run(found, parsed, "done" if math.isfinite(mean) else "not finite")


def test_the_spread_between_seeds_counts():
    exact = {"target_kind": "exact", "target_llc": 10.0}
    values = [9.0, 10.0, 11.0, 12.0]
    (own,) = summarise([made(x, k, **exact) for k, x in enumerate(values)])
    deviation = np.std(values, ddof=1)
    assert (own.mean, own.deviation) == (10.5, pytest.approx(deviation))
    assert own.standard_error == pytest.approx(deviation / 2)
    assert own.z_score == pytest.approx(0.5 / (deviation / 2))
    assert own.rms_error == pytest.approx(deviation / 10)  # a bias of 0.8 SE adds nothing
    assert own.seconds == 4.0
    assert own.wnv_time == pytest.approx(deviation**2 * 4)
    assert own.wnv_fde == pytest.approx(deviation**2 * 1000)
    assert own.cost(0.01) == pytest.approx(deviation**2 / 100 * 1e4 * 4)
    (row,) = rows([own])
    assert row["SD/SE"] == f"{deviation / 0.1:.2g}"


def test_a_bias_does_not_look_cheap():
    exact = {"target_kind": "exact", "target_llc": 10.0}
    biased = [made(12 + 0.01 * k, k, "sgld", **exact) for k in range(5)]
    honest = [made(10 + (-1) ** k * 0.3, k, "nuts", **exact) for k in range(5)]
    one, two = summarise([*biased, *honest])
    assert one.wnv_time < two.wnv_time
    assert one.cost() > 10 * two.cost()
    assert one.rms_error == pytest.approx(0.2, rel=0.02)
    assert (one.is_biased, two.is_biased) == (True, False)
    assert [row["1 % (s)"][0] == ">" for row in rows([one, two])] == [True, False]


def test_honest_samplers_are_rarely_called_biased():
    """At 99 % each more than 15 of 300 unbiased ones are called biased once in a million times."""
    draw = np.random.default_rng(0)
    exact = {"target_kind": "exact", "target_llc": 10.0}
    called = 0
    for _ in range(300):
        values = draw.normal(10, 1, 5)
        (own,) = summarise([made(x, k, **exact) for k, x in enumerate(values)])
        called += own.is_biased
    assert called <= 15


def test_seeds_that_agree_by_chance_prove_no_bias():
    exact = {"target_kind": "exact", "target_llc": 10.0, "llc_se": 0.5}
    (own,) = summarise([made(10.3 + 0.001 * k, k, **exact) for k in range(3)])
    assert own.z_score > 100
    assert not own.is_biased


def test_one_seed_has_its_own_error_only():
    (own,) = summarise([made(9.0, target_kind="exact", target_llc=10.0)])
    assert (own.deviation, own.standard_error, own.is_biased) == (0.1, 0.1, False)
    assert rows([own])[0]["SD/SE"] == "–"


def test_no_sampler_is_its_own_judge():
    hmc = [made(10.0 + 0.1 * k, k, "hmc", ess=100.0 * (k + 1)) for k in range(3)]
    nuts = [made(11.0 + 0.1 * k, k, "nuts") for k in range(3)]
    sgld = [made(14.0, k, "sgld") for k in range(3)]
    bad = [made(99.0, k, "mala", status="not converged: ESS 3 < 100") for k in range(3)]
    targets = {own.label: own.target for own in summarise([*hmc, *nuts, *sgld, *bad])}
    of_hmc = (100 * 10.0 + 200 * 10.1 + 300 * 10.2) / 600
    assert targets["nuts"].value == pytest.approx(of_hmc)
    assert targets["hmc"].value == pytest.approx(11.1)
    assert targets["sgld"] == targets["mala"] == target_of([*hmc, *nuts, *sgld, *bad])
    assert targets["sgld"].value == pytest.approx((600 * of_hmc + 300 * 11.1) / 900)
    assert {target.kind for target in targets.values()} == {"pooled"}
    # The only exact one has no judge, λ judges where there are no exact ones.
    alone = {own.label: own.target.kind for own in summarise([*hmc, *sgld])}
    assert alone == {"hmc": "none", "sgld": "pooled"}
    (own,) = summarise(sgld)
    assert (own.target.value, own.target.kind, own.is_biased) == (12.0, "lambda", False)


def test_the_pools_error_is_that_of_a_mean():
    """Of equal weights it is sd/√m."""
    values = [9.0, 10.5, 12.0, 10.0]
    target = target_of([made(x, k) for k, x in enumerate(values)])
    assert target.error == pytest.approx(np.std(values, ddof=1) / 2)


def test_runs_without_an_estimate_are_counted():
    lost = made(math.nan, 1, status="diverged at step 3: 1 of 4 chains")
    runs = [made(10.0, 0), lost, made(10.2, 2)]
    (own,) = summarise(runs)
    assert len(own.done) == 2
    assert own.statuses == {"ok": 2, "not finite": 1}
    assert rows([own])[0]["runs"] == "2 ok, 1 not finite"
    (none,) = summarise(runs[1:2])
    assert rows([none])[0]["λ̂ ± SE"] == "–"


def test_families_hold_what_may_be_compared(recorded):
    runs, _ = load([str(recorded)])
    grouped = families(runs)
    assert sorted(len(own) for own in grouped.values()) == [1, 7]
    assert all(isinstance(own, Summary) for of in grouped.values() for own in summarise(of))
