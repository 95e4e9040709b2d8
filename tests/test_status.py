"""`llc status`: lines of a command file against records in files and MongoDB, real and damaged."""

import json
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pymongo
import pytest
from mongo_server import Server, free_port

import expt_dln as script
from llc.__main__ import main as llc
from llc.commands import files
from llc.commands.lines import command
from llc.commands.status import status
from llc.records import load_runs
from llc.tracking.commandline import execute

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "num_training_data": 100,
    "layer_widths": [2],
    "input_dim": 2,
    "sgld_config.num_steps": 20,
    "sgld_config.num_chains": 1,
    "sgld_config.batch_size": 10,
}


def line(seed, place="runs", **config):
    return recording(["-F", place], seed, **config)


def recording(options, seed, **config):
    return command("expt_dln.py", options, {**TINY, **config, "seed": seed})


def run(text):
    return execute(script.ex, files.words(text, 1)[1:])


def states(lines):
    return [found.state for found in status(lines)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run directory as a real run leaves it."""
    place = tmp_path_factory.mktemp("recorded")
    assert run(line(0, str(place))) == 0
    return place / "1"


@pytest.fixture
def site(tmp_path, monkeypatch, recorded):
    """A directory with the scripts, to start from; `record` there copies a run into runs/."""
    for file in ROOT.glob("expt_*.py"):
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return lambda number, seed, **run: record(recorded, number, seed, **run)


def record(recorded, number, seed, info=None, **run):
    directory = Path("runs") / str(number)
    directory.mkdir(parents=True)
    config = json.loads((recorded / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "seed": seed}))
    found = json.loads((recorded / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**found, **run}))
    (directory / "info.json").write_text(json.dumps(info or {}))
    return directory


def ago(**time):
    return (datetime.now(UTC) - timedelta(**time)).replace(tzinfo=None).isoformat()


def test_each_state(site):
    site(1, 0)
    site(2, 1, status="RUNNING", heartbeat=ago(seconds=110))
    site(3, 2, status="RUNNING", heartbeat=ago(seconds=125))
    site(4, 3, status="FAILED", fail_trace=["Traceback\n", "ValueError: bad luck\n"])
    site(5, 4, status="INTERRUPTED")
    site(6, 6, status="RUNNING", heartbeat=None, start_time=ago(seconds=3))
    site(7, 7, result=None)
    slow = {"options": {"--beat-interval": "100"}}
    site(8, 8, status="RUNNING", heartbeat=ago(seconds=490), meta=slow)
    site(9, 9, status="RUNNING", heartbeat=ago(seconds=510), meta=slow)
    found = status([line(seed) for seed in range(10)])
    assert [one.state for one in found] == [
        "done", "running", "failed", "failed", "interrupted", "missing", "running", "done",
        "running", "failed",
    ]  # fmt: skip
    assert found[0].note == "runs/1"
    assert "no sign of life since" in found[2].note
    assert found[3].note == "runs/4 (ValueError: bad luck)"
    assert found[7].note == "runs/7 (without λ̂)"
    # The rule is that of the table.
    runs = load_runs("runs").set_index("config.seed")["status"]
    assert {seed for seed, state in runs.items() if state == "DEAD"} == {2, 9}


def test_a_line_is_its_whole_config(site):
    site(1, 0)
    assert states([line(0), line(0, verbose=True), line(1)]) == ["done", "missing", "missing"]
    # Defaults written out, another order, another number format, another spelling of the path.
    assert states([line(0, dtype="float32"), line(0, do_training=False)]) == ["done"] * 2
    other = line(0, "runs/").replace(" expt_dln.py", " ./expt_dln.py")
    assert states([other.replace("num_training_data=100", "num_training_data=1e2")]) == ["done"]
    assert states(["python expt_dln.py -F runs with quick"]) == ["missing"]
    # The same numbers in another place are another run.
    assert states([line(0, "elsewhere")]) == ["missing"]


def test_of_several_runs_the_best_counts_else_the_latest(site):
    site(1, 0)
    site(2, 0, status="FAILED", fail_trace=["x"], start_time=ago())
    site(3, 1, status="INTERRUPTED", start_time=ago(hours=2))
    site(4, 1, status="RUNNING", heartbeat=ago(seconds=5), start_time=ago(hours=1))
    site(10, 2, status="FAILED", fail_trace=["x"], start_time=ago(hours=2))
    site(9, 2, status="INTERRUPTED", start_time=ago(hours=1))
    assert states([line(seed) for seed in range(3)]) == ["done", "running", "interrupted"]


def test_a_named_config_is_what_it_stands_for(site):
    directory = site(1, 5)
    config = json.loads((directory / "config.json").read_text())
    config["num_training_data"], config["layer_widths"], config["input_dim"] = 100_000, [10, 10], 10
    config["sgld_config"] |= {
        "epsilon": 4e-7, "gamma": 1.0, "num_steps": 200_000, "num_chains": 4, "batch_size": 500,
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    assert states(["python expt_dln.py -F runs with quick seed=5"]) == ["done"]


def test_a_device_that_is_not_here_is_no_mistake(site):
    directory = site(1, 0)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "device": "cuda:99"}))
    assert states([line(0, device="cuda:99"), line(0)]) == ["done", "missing"]


def test_damaged_and_foreign_directories_are_left_out(site, capsys):
    (site(1, 0) / "run.json").write_text('{"status": "COMP')
    shutil.rmtree(site(2, 0) / "run.json", ignore_errors=True)
    Path("runs/2/run.json").unlink()
    (site(3, 0) / "config.json").write_text("[]")
    site(4, 0, experiment={"name": "another"})
    (site(5, 0) / "config.json").write_text('{"key": "of another version"}')
    Path("runs/_sources").mkdir()
    assert states([line(0)]) == ["missing"]
    error = capsys.readouterr().err
    assert "runs/1: cannot be read" in error
    assert "runs/2: cannot be read" in error


def test_what_must_run_again_is_written(site, capsys):
    site(1, 0)
    site(2, 1, status="FAILED", fail_trace=["x"])
    site(3, 2, status="RUNNING", heartbeat=ago(seconds=1))
    site(4, 3, status="INTERRUPTED")
    lines = [*map(line, range(5)), line(0, typo=1)]
    files.write(lines, Path("lines.txt"))
    assert llc(["status", "lines.txt", "--failed", "new/again.txt"]) == 0
    assert files.read(Path("new/again.txt")) == [lines[1], *lines[3:]]
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "     1  done         runs/1"
    assert out[4] == "     5  missing"
    assert out[5].startswith("     6  failed       typo: unknown key")
    assert out[6] == "6 lines: 1 done, 2 failed, 1 interrupted, 1 missing, 1 running"
    assert out[8] == "  sbatch --array=1-4%20 job.slurm new/again.txt"
    assert llc(["status", "lines.txt", "--failed", "new/again.txt"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_nothing_to_run_again_writes_no_file(site):
    site(1, 0)
    files.write([line(0)], Path("lines.txt"))
    assert llc(["status", "lines.txt", "--failed", "again.txt"]) == 0
    assert not Path("again.txt").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("python nowhere.py -F runs", "line 2: nowhere.py: there is no such script here"),
        ("python", "line 2: python: there is no such script here"),
        ("", "line 2: is empty"),
        ("python expt_dln.py with seed=1", "line 2: is recorded nowhere: add -F DIR or -m"),
        ("python none.txt -F runs", "none.txt: is no Python script"),
    ],
)
def test_lines_that_tell_no_place_are_refused(site, capsys, text, problem):
    Path("none.txt").write_text("")
    Path("lines.txt").write_text(f"{line(0)}\n{text}\n")
    assert llc(["status", "lines.txt"]) == 2
    assert f"error: {problem}" in capsys.readouterr().err


# --- MongoDB -------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def database(server):
    client = pymongo.MongoClient(server.url)
    yield client["sweep"]
    client.close()


def test_each_state_in_a_database(site, server, database):
    lines = [recording(["-m", server.address], seed) for seed in range(6)]
    assert states(lines) == ["missing"] * 6
    assert run(lines[0]) == 0
    (document,) = database["runs"].find()
    changes = [
        {"status": "RUNNING", "heartbeat": datetime.now(UTC) - timedelta(seconds=110)},
        {"status": "RUNNING", "heartbeat": datetime.now(UTC) - timedelta(seconds=125)},
        {"status": "FAILED", "fail_trace": ["Traceback\n", "ValueError: bad luck\n"]},
        {"status": "INTERRUPTED"},
    ]
    database["runs"].insert_many(
        {**document, "_id": seed + 1, "config": {**document["config"], "seed": seed}, **change}
        for seed, change in enumerate(changes, 1)
    )
    found = status(lines)
    assert [one.state for one in found] == [
        "done", "running", "failed", "failed", "interrupted", "missing",
    ]  # fmt: skip
    assert found[0].note == f"{server.url} run 1"
    assert found[2].note.startswith(f"{server.url} run 3 (no sign of life since 20")
    assert found[3].note == f"{server.url} run 4 (ValueError: bad luck)"
    # As a URL it is the same database.
    assert states([recording(["-m", server.url], 0)]) == ["done"]


def test_a_line_that_records_in_both(site, server, database):
    both = recording(["-F", "runs", "-m", server.address], 0)
    assert run(both) == 0
    assert status([both])[0] == (both, "done", "runs/1")
    # The database lacks the end, or the files are elsewhere.
    database["runs"].update_one({"_id": 1}, {"$set": {"status": "RUNNING", "stop_time": None}})
    assert states([both]) == ["done"]
    database["runs"].update_one({"_id": 1}, {"$set": {"status": "COMPLETED"}})
    shutil.rmtree("runs")
    assert status([both])[0] == (both, "done", f"{server.url} run 1")


def test_what_the_database_did_not_take_is_done(site, server):
    text = recording(["-m", server.address], 0)
    kept = site(1, 0).rename("1")
    folder = Path("outputs/mongodb") / server.address.replace(":", "-")
    folder.mkdir(parents=True)
    kept.rename(folder / "1")
    assert status([text])[0] == (text, "done", f"{folder}/1")


def test_a_database_that_does_not_answer(site, capsys):
    address = f"127.0.0.1:{free_port()}:sweep"
    url = "mongodb://me:xyzzy@" + address.replace(":sweep", "/sweep")
    again = recording(["-m", url, "-m", url], 0)
    files.write([line(0), recording(["-m", url], 0), again], Path("lines.txt"))
    assert llc(["status", "lines.txt"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {url.replace('me:xyzzy@', '')}: 127.0.0.1:")
    assert err.count("\n") == 1
    files.write([again], Path("lines.txt"), overwrite=True)
    assert llc(["status", "lines.txt"]) == 0
    out += capsys.readouterr().out
    assert "1  failed" in out
    assert "xyzzy" not in out + err


# --- speed ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_thousand_lines_take_seconds(site):
    for number in range(1, 1001):
        site(number, number, info={"records": [{"t": t, "lambdahat": 1.5} for t in range(50)]})
    lines = [line(seed) for seed in range(1, 1001)]
    assert states(lines[:1]) == ["done"]  # imports
    begun = time.process_time()  # not of what else the machine does
    assert states(lines) == ["done"] * 1000
    seconds = time.process_time() - begun
    print(f"1,000 lines in {seconds:.1f} s")
    assert seconds < 6
