"""Run directories become one table, broken and dead ones included, quickly."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from llc.records import SourceError, commandline, curve, curves, load_runs, select, traces
from llc.records import table as table_module
from llc.records.reading import read
from llc.records.sources import found

ROOT = Path(__file__).resolve().parents[1]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def make_run(directory, *, status="COMPLETED", seed=0, ago=3600, info=None, beat=None, **more):
    """A run as Sacred leaves it; `ago` is when it started, in seconds."""
    directory.mkdir(parents=True)
    started = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=ago)
    run = {
        "experiment": {
            "name": "toy",
            "repositories": [{"url": "u", "commit": "abc", "dirty": True}],
        },
        "host": {"hostname": "node1"},
        "meta": {"options": {"--beat-interval": beat}},
        "start_time": started.isoformat(),
        "heartbeat": (started + timedelta(seconds=60)).isoformat(),
        "stop_time": None if status == "RUNNING" else (started + timedelta(seconds=90)).isoformat(),
        "status": status,
        "result": 1.5,
    }
    write(directory / "run.json", run | more)
    write(
        directory / "config.json", {"seed": seed, "sgld_config": {"epsilon": 1e-5}, "itemp": None}
    )
    if info is not None:
        write(directory / "info.json", info)
    return directory


def checkpoints(count):
    return [{"t": 10 * k, "lambdahat": k / 2, "sgld_status": "ok"} for k in range(count)]


# --- the table -----------------------------------------------------------------------------------


def test_columns(tmp_path):
    info = {
        "lambdahat": 7.5, "itemp": 0.1, "per_chain": [7.0, 8.0], "none": None,
        "long": list(range(101)), "trained": {"lambdahat": 3.0, "deep": {"rank": 2}},
        "status": "clash", "records": checkpoints(3),
    }  # fmt: skip
    make_run(tmp_path / "a" / "1", info=info)
    (run,) = load_runs(tmp_path).to_dict("records")
    assert (run["source"], run["id"]) == (str(tmp_path), "1")
    assert run["directory"] == str(tmp_path / "a" / "1")
    assert (run["experiment"], run["host"], run["commit"]) == ("toy", "node1", "abc")
    assert (run["status"], run["superseded"], run["dirty"]) == ("COMPLETED", False, True)
    assert (run["duration"], run["result"]) == (90.0, 1.5)
    assert run["started"].tzinfo is not None
    assert run["config.sgld_config.epsilon"] == 1e-5
    assert run["config.itemp"] is None
    assert (run["lambdahat"], run["itemp"], run["per_chain"]) == (7.5, 0.1, [7.0, 8.0])
    assert (run["trained.lambdahat"], run["trained.deep.rank"]) == (3.0, 2)
    assert run["info.status"] == "clash"
    assert not {"long", "records"} & run.keys()


def test_a_run_directory_is_a_source_and_overlapping_sources_count_once(tmp_path):
    one = make_run(tmp_path / "sweep" / "1")
    make_run(tmp_path / "sweep" / "named")
    assert list(load_runs(one)["id"]) == ["1"]
    assert list(load_runs(tmp_path, tmp_path / "sweep", one)["id"]) == ["1", "named"]


def test_runs_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("10", "b", "9", "100", "a"):
        make_run(tmp_path / name)
    assert list(load_runs(tmp_path)["id"]) == ["9", "10", "100", "a", "b"]


def test_what_is_no_run_is_passed_over(tmp_path):
    make_run(tmp_path / "2026" / "1")
    (tmp_path / "2026" / "_sources").mkdir()
    (tmp_path / "2026" / "_checkpoints").mkdir()
    write(tmp_path / "notes.txt", "x")
    runs = load_runs(tmp_path)
    assert list(runs["id"]) == ["1"]
    assert runs.attrs["broken"] == []


def test_broken_runs_are_named(tmp_path):
    make_run(tmp_path / "1")
    make_run(tmp_path / "2", status=None)
    write(make_run(tmp_path / "3") / "run.json", '{"status": "RUNN')
    (make_run(tmp_path / "4") / "config.json").unlink()
    write(make_run(tmp_path / "5") / "info.json", "[1]")
    write(make_run(tmp_path / "6") / "run.json", "")
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cout.txt").touch()
    (make_run(tmp_path / "8") / "config.json").write_bytes(b"\xff\xfe")
    runs = load_runs(tmp_path)
    assert list(runs["id"]) == ["1"]
    broken = {Path(where).name: why for where, why in runs.attrs["broken"]}
    assert broken.keys() == {"2", "3", "4", "5", "6", "7", "8"}
    assert broken["2"] == "run: has no status"
    assert broken["3"].startswith("run.json: not whole")
    assert broken["4"] == "config: missing"
    assert broken["5"] == "info: not a record"
    assert broken["7"] == "run: missing"


def test_nothing_is_unpickled(tmp_path):
    trap = {"py/reduce": [{"py/function": "os.mkdir"}, {"py/tuple": [str(tmp_path / "trap")]}]}
    make_run(tmp_path / "1", info={"lambdahat": trap})
    write(tmp_path / "1" / "sacred_mongo_fail_1.pickle", "cos\nsystem\n(S'false'\ntR.")
    load_runs(tmp_path)
    assert not (tmp_path / "trap").exists()


def test_running_without_a_sign_of_life_is_dead(tmp_path):
    make_run(tmp_path / "1", status="RUNNING", ago=3600)
    make_run(tmp_path / "2", status="RUNNING", ago=90)
    make_run(tmp_path / "3", status="RUNNING", ago=3600, heartbeat=None)
    make_run(tmp_path / "4", status="RUNNING", ago=30, heartbeat=None)
    make_run(tmp_path / "5", status="RUNNING", ago=3600, beat="1000")
    make_run(tmp_path / "6", ago=3600)
    runs = load_runs(tmp_path)
    assert list(runs["status"]) == ["DEAD", "RUNNING", "DEAD", "RUNNING", "RUNNING", "COMPLETED"]
    assert runs["duration"][0] == 60


def test_superseded(tmp_path):
    make_run(tmp_path / "a" / "1", status="RUNNING", ago=1000)  # killed, resumed by 2
    make_run(tmp_path / "a" / "2", status="INTERRUPTED", ago=900, info={"resumed_from": "1"})
    make_run(tmp_path / "a" / "3", status="RUNNING", ago=800, info={"resumed_from": "1"})
    make_run(tmp_path / "a" / "4", status="RUNNING", ago=70, info={"resumed_from": "3"})
    make_run(tmp_path / "a" / "5", status="FAILED", seed=1, ago=500)  # its only start
    make_run(tmp_path / "a" / "6", seed=2, ago=500)  # completed twice
    make_run(tmp_path / "a" / "7", seed=2, ago=400)
    make_run(tmp_path / "b" / "3", status="INTERRUPTED", seed=3, ago=500)  # another 3
    make_run(tmp_path / "b" / "4", status="RUNNING", seed=4, ago=95)  # seems alive, and is not
    make_run(tmp_path / "b" / "5", seed=4, ago=92, info={"resumed_from": "4"})
    runs = load_runs(tmp_path)
    assert list(runs["superseded"]) == [True] * 3 + [False] * 5 + [True, False]


def test_filters(tmp_path):
    for seed in range(3):
        make_run(tmp_path / str(seed + 1), seed=seed, info={"lambdahat": seed or None})
    runs = load_runs(tmp_path)

    def ids(**where):
        return list(select(runs, where)["id"])

    assert ids(**{"config.seed": 1}) == ids(seed=1) == ["2"]
    assert ids(seed=(0, 2)) == ["1", "3"]
    assert ids(seed=1, status="FAILED") == []
    assert ids(lambdahat=None) == ["1"]
    assert ids(lambdahat=2) == ["3"]
    assert ids(id=2) == ["2"]
    assert list(load_runs(tmp_path, where={"sgld_config.epsilon": 1e-5, "seed": 2})["id"]) == ["3"]
    with pytest.raises(ValueError, match=r"sed: no run has this column \(did you mean 'seed'\?\)"):
        ids(sed=1)


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(SourceError, match="nowhere: no such directory"):
        load_runs(tmp_path / "nowhere")
    none = load_runs(tmp_path)
    assert none.empty
    assert list(none[~none["superseded"]]) == list(none)
    assert load_runs(tmp_path, where={"seed": 1}).empty


# --- curves and traces ---------------------------------------------------------------------------


def test_curves(tmp_path):
    make_run(tmp_path / "1", seed=5, info={"lambdahat": 9.0, "records": checkpoints(3)})
    make_run(tmp_path / "2", seed=6)
    write(
        tmp_path / "2" / "metrics.json",
        {
            "loss": {"steps": [0, 2, 4], "values": [3.0, None, 1.0]},
            "test": {"steps": [4], "values": [0.5]},
        },
    )
    make_run(tmp_path / "3", seed=7)
    runs = load_runs(tmp_path)
    assert curve(runs.iloc[0]).to_dict("records") == checkpoints(3)
    plain = curve(runs.iloc[1])
    assert list(plain["t"]) == [0, 2, 4]
    assert plain["loss"].tolist() == pytest.approx([3.0, np.nan, 1.0], nan_ok=True)
    assert plain["test"].isna().tolist() == [True, True, False]
    assert curve(runs.iloc[2]).empty
    both = curves(runs, "config.seed", "lambdahat")
    assert list(both["id"]) == ["1"] * 3 + ["2"] * 3
    assert list(both["config.seed"]) == [5] * 3 + [6] * 3
    assert list(both["lambdahat"])[:3] == [0.0, 0.5, 1.0]


def test_traces_of_both_layouts(tmp_path):
    make_run(tmp_path / "1")
    loss = np.random.default_rng(0).normal(size=(2, 3, 4))
    curve_like = xr.Dataset({"loss": (("checkpoint", "chain", "draw"), loss)}, attrs={"nbeta": 2.0})
    curve_like.to_netcdf(tmp_path / "1" / "traces.nc", engine="h5netcdf")
    run = load_runs(tmp_path).iloc[0]
    assert traces(run).identical(curve_like)
    grouped = tmp_path / "1" / "grouped.nc"
    draws = {"draw": [0, 10, 20, 30]}
    for group, mode in (("posterior", "w"), ("sample_stats", "a")):
        part = xr.Dataset({f"of_{group}": (("chain", "draw"), loss[0])}, coords=draws)
        part.to_netcdf(grouped, engine="h5netcdf", group=group, mode=mode)
    data = traces(run, "grouped.nc")
    assert set(data) == {"of_posterior", "of_sample_stats"}
    assert list(data["draw"]) == [0, 10, 20, 30]
    with pytest.raises(FileNotFoundError):
        traces(run, "missing.nc")


# --- the command ---------------------------------------------------------------------------------


def show(capsys, *argv):
    code = commandline.main([str(argument) for argument in argv])
    return code, *capsys.readouterr()


def test_command(tmp_path, capsys):
    for seed in range(3):
        make_run(tmp_path / "runs" / str(seed + 1), seed=seed, info={"lambdahat": 1.25 * seed})
    make_run(tmp_path / "runs" / "4", seed=3, status="FAILED")
    write(make_run(tmp_path / "runs" / "5") / "run.json", "{")
    code, out, _ = show(capsys, tmp_path)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == [
        "id", "experiment", "status", "started", "duration", "seed", "lambdahat",
    ]  # fmt: skip
    assert lines[3].split()[-2:] == ["2", "2.5"]
    assert lines[-2] == "4 runs: 3 COMPLETED, 1 FAILED; 1 broken"
    assert lines[-1].startswith(f"broken: {tmp_path}/runs/5: run.json: not whole")
    table = tmp_path / "table.csv"
    argv = ("--filter", "seed=1", "seed=2", "--columns", "id", "seed", "--csv", table)
    code, out, _ = show(capsys, tmp_path, *argv)
    assert out.splitlines()[:3] == ["id  seed", " 2     1", " 3     2"]
    assert table.read_text().splitlines() == ["id,config.seed", "2,1", "3,2"]
    code, out, _ = show(capsys, tmp_path, "--filter", "seed=9")
    assert (code, out.splitlines()[0]) == (0, "0 runs: none; 1 broken")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere"], "error: nowhere: no such directory"),
        ([".", "--filter", "seed"], "error: --filter seed: must look like key=value"),
        ([".", "--filter", "sede=1"], "error: sede: no run has this column (did you mean 'seed'?)"),
        ([".", "--columns", "seeed"], "error: seeed: no run has this column (did you mean"),
        ([".", "--csv", "no/such/file"], "error: "),
        (["mongodb://127.0.0.1:1/db"], "error: mongodb://127.0.0.1:1/db: 127.0.0.1:1: "),
        (["mongodb://me:secret@:x/db"], "error: mongodb://…: "),
        (["http://host/db"], "error: mongodb://…: "),
    ],
    ids=str,
)
def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch, argv, message):
    make_run(tmp_path / "1")
    monkeypatch.chdir(tmp_path)
    code, out, err = show(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert "secret" not in err


def test_the_module_has_subcommands(tmp_path):
    make_run(tmp_path / "1")

    def llc(*argv):
        command = [sys.executable, "-m", "llc", *argv]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert llc("runs", str(tmp_path)).stdout.endswith("1 runs: 1 COMPLETED; 0 broken\n")
    assert llc("ruins").returncode == 2


# --- speed ---------------------------------------------------------------------------------------


def test_a_thousand_runs_load_quickly(tmp_path):
    records = [
        {**point, **{f"measure_{k}": 0.1 * k for k in range(12)}} for point in checkpoints(50)
    ]
    metrics = {
        name: {"steps": list(range(50)), "values": [0.5] * 50, "timestamps": ["x"] * 50}
        for name in ("loss", "lambdahat", "accuracy")
    }
    for seed in range(1000):
        run = make_run(tmp_path / str(seed + 1), seed=seed, info={"records": records})
        write(run / "metrics.json", metrics)
    start = time.perf_counter()
    runs = load_runs(tmp_path)
    loaded = time.perf_counter() - start
    points = curves(runs, "config.seed")
    seconds = time.perf_counter() - start
    print(f"1,000 runs in {loaded:.2f} s, with curves {seconds:.2f} s")
    assert runs.shape[0] == 1000
    assert points.shape[0] == 50_000
    assert list(runs["config.seed"].sort_values()) == list(range(1000))
    assert seconds < 10


def test_attributes_survive_selection(tmp_path):
    make_run(tmp_path / "1")
    (tmp_path / "2").mkdir()
    runs = load_runs(tmp_path, where={"seed": 0})
    assert len(runs.attrs["broken"]) == 1
    assert isinstance(runs, pd.DataFrame)
    assert list(runs.columns[: len(table_module.FIXED)]) == table_module.FIXED


# --- one run in two places -----------------------------------------------------------------------


class Listing(list):
    """A source that says what it is told to."""

    name = "listing"

    def runs(self):
        return iter(self)


def twin(
    *, directory=None, mongo="host:1:db", heard="12:00", stopped=None, run_id="1", host="h", seed=0
):
    run = {
        "status": "RUNNING",
        "experiment": {"name": "toy"},
        "host": {"hostname": host},
        "meta": {"options": {"--mongo_db": mongo}},
        # MongoDB keeps milliseconds.
        "start_time": f"2026-01-01T11:00:00.123{'456' if directory else ''}",
        "heartbeat": f"2026-01-01T{heard}:00",
        "stop_time": stopped and f"2026-01-01T{stopped}:00",
    }
    return found("files" if directory else "db", run_id, directory, run, {"seed": seed}, {})


@pytest.mark.parametrize("order", [1, -1])
def test_a_run_in_files_and_in_a_database_is_one(order):
    files, database = twin(directory="runs/1"), twin()
    assert read(Listing([files, database][::order])) == ([files], [])
    # The database has the last heartbeat, and not the end that was before it.
    ended = twin(directory="runs/1", stopped="11:59")
    assert read(Listing([ended, database][::order])) == ([ended], [])
    # A copy of the files that was made while the run was going on.
    ahead = twin(heard="12:01")
    assert read(Listing([files, ahead][::order])) == ([ahead], [])


@pytest.mark.parametrize(
    "other", [{"run_id": "2"}, {"host": "node2"}, {"seed": 1}, {"directory": "elsewhere/1"}]
)
def test_another_run_is_another(other):
    both = [twin(directory="runs/1"), twin(**other)]
    assert read(Listing(both)) == (both, [])


def test_files_that_tell_of_no_database_are_a_run_of_their_own():
    both = [twin(directory="runs/1", mongo=None), twin()]
    assert read(Listing(both)) == (both, [])
