"""Runs recorded in MongoDB: like those in files, and complete on disk whatever the server does."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import bson
import gridfs
import numpy as np
import pymongo
import pytest
import starts
from mongo_server import Server, free_port, guard

import expt_dln_saddle_dynamics as saddle
from llc.records import SourceError, commandline, curve, curves, load_runs, traces
from llc.records.sources import open_source
from llc.tracking.commandline import execute

ROOT = Path(__file__).resolve().parents[1]
SADDLE = [
    "with", "num_training_data=500", "training_config.num_steps=250", "logging_period=60",
    "training_config.learning_rate=1e-3", "sgld_config.num_steps=20", "max_stacked_chains=2",
    "do_plot=True",
]  # fmt: skip


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    yield server
    server.stop()


@pytest.fixture
def database(server):
    client = pymongo.MongoClient(server.url)
    yield client["sweep"]
    client.close()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Runs are started here: what they write by default lands in it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def run(*arguments):
    return execute(starts.ex, ["starts.py", *map(str, arguments)])


def begin(here, *arguments):
    """Start a run that waits for a file called `go`; return when it waits."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "starts.py", "-b", "0.1", *arguments],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (here / "waiting").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def end(here, process):
    """Let it go on; return exit code, last line of stderr and seconds."""
    began = time.monotonic()
    (here / "go").touch()
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors.splitlines()[-1], time.monotonic() - began


def assert_whole_on_disk(directory):
    (run,) = (load_runs(directory)[lambda runs: ~runs["superseded"]]).to_dict("records")
    assert (run["status"], run["lambdahat"], run["chains"]) == ("COMPLETED", 0.0, [0, 0, 0])
    folder = Path(run["directory"])
    assert (folder / "version.txt").read_text() == "seed 0 version 2"
    assert json.loads((folder / "metrics.json").read_text())["loss"]["values"] == [None, 0.0, 0.0]
    assert "seed 0" in (folder / "cout.txt").read_text()


# --- as files do ---------------------------------------------------------------------------------


def test_the_same_table_from_files_and_from_mongo(server, database, here):
    code = execute(saddle.ex, ["saddle.py", "-F", "runs", "-m", server.address, *SADDLE])
    assert code == 0
    from_files, from_mongo = load_runs("runs"), load_runs(server.url)
    place = ["source", "directory"]
    assert list(from_files.columns) == list(from_mongo.columns)
    assert from_files.drop(columns=place).equals(from_mongo.drop(columns=place))
    assert (from_files.dtypes == from_mongo.dtypes).drop(place).all()
    assert load_runs("runs", server.url).equals(from_files)
    assert load_runs(server.url, "runs").equals(from_files)
    one, two = from_files.iloc[0], from_mongo.iloc[0]
    assert (one["status"], one["id"]) == ("COMPLETED", "1")
    assert curve(one).equals(curve(two))
    assert list(curve(one)["t"]) == [0, 60, 120, 180, 240, 250]
    labelled = curves(from_mongo, "config.seed")
    assert labelled.equals(curves(from_files, "config.seed").assign(source=server.url))
    assert traces(one).identical(traces(two))
    assert traces(one).sizes["checkpoint"] == 6

    # Three groups of checkpoints wrote traces and picture thrice: one version of each is kept.
    files = [file.filename for file in gridfs.GridFS(database).find()]
    assert len(files) == len(set(files))
    assert {"artifact://runs/1/traces.nc", "artifact://runs/1/saddle.png"} <= set(files)
    (document,) = database["runs"].find()
    sources = document["experiment"]["sources"]
    source = gridfs.GridFS(database).get(dict(sources)["expt_dln_saddle_dynamics.py"])
    assert source.read() == Path(saddle.__file__).read_bytes()
    # Traces are in GridFS only.
    assert len(bson.encode(document)) < 50_000
    assert "loss_trace" not in document["info"]["records"][0]
    metrics = {metric["name"] for metric in document["info"]["metrics"]}
    assert {"lambdahat", "train_loss"} <= metrics


def test_mongo_alone_leaves_nothing_on_disk(server, database, here, capsys):
    assert run("-m", server.address, "with", "seed=3") == 0
    assert run("-m", server.address) == 0
    assert f"MongoDB:       run 2 in {server.address}" in capsys.readouterr().out
    assert not list(here.glob("outputs/mongodb/*/[0-9]*"))
    runs = load_runs(server.url)
    assert list(runs["id"]) == ["1", "2"]
    assert list(runs["lambdahat"]) == [1.5, 0.0]
    points = curve(runs.iloc[0])
    assert points["loss"].tolist() == pytest.approx([np.nan, 3.0, 3.0], nan_ok=True)
    document = database["runs"].find_one({"_id": 1})
    assert document["info"]["none"] is None
    assert document["captured_out"].startswith("seed 3\n")
    sources = [s for s in gridfs.GridFS(database).find() if s.filename.startswith("_sources")]
    assert len(sources) == len(document["experiment"]["sources"])  # once for both runs
    assert commandline.main([server.url, "--filter", "seed=3"]) == 0
    assert "1 runs: 1 COMPLETED; 0 broken" in capsys.readouterr().out


def test_ids_agree_where_files_and_database_differ(server, here):
    assert run("-F", "runs") == 0
    assert run("-F", "runs") == 0
    assert run("-m", server.address) == 0
    assert run("-F", "runs", "-m", server.address) == 0
    assert sorted(load_runs("runs")["id"]) == ["1", "2", "3"]
    assert sorted(load_runs(server.url)["id"]) == ["1", "3"]


def test_ids_that_are_taken(server, here, capsys):
    assert run("-m", server.address, "-i", "7") == 0
    assert run("-m", server.address, "-F", "runs", "-i", "7") == 2
    expected = f"error: -i 7: {server.address} already holds a run of this id: choose another\n"
    assert capsys.readouterr().err.endswith(expected)
    assert load_runs("runs").empty
    assert run("-m", server.address, "-i", "named") == 0
    assert run("-m", server.address) == 0  # text among the ids does not upset the count
    assert sorted(load_runs(server.url)["id"]) == ["7", "8", "named"]


def test_a_failed_run_says_so_in_the_database(server, here):
    assert run("-m", server.address, "with", "mode=fail") == 1
    assert list(load_runs(server.url)["status"]) == ["FAILED"]
    assert not list(here.glob("outputs/mongodb/*/[0-9]*"))


def test_half_written_documents_are_broken_runs(server, database):
    database["runs"].insert_many([{"_id": 1}, {"_id": 2, "status": "RUNNING", "config": 3}])
    runs = load_runs(server.url)
    assert runs.empty
    assert runs.attrs["broken"] == [
        (f"{server.url} run 1", "config: missing"),
        (f"{server.url} run 2", "config: not a record"),
    ]


# --- bad addresses -------------------------------------------------------------------------------


@pytest.fixture
def silent():
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = []

        def accept():
            try:
                while True:
                    kept.append(listener.accept()[0])
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}:sweep"
        listener.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


@pytest.mark.parametrize("kind", ["nobody", "silent"])
def test_a_server_that_does_not_answer(kind, silent, here, capsys):
    address = silent if kind == "silent" else f"127.0.0.1:{free_port()}:sweep"
    began = time.monotonic()
    assert run("-m", address, "-F", "runs") == 2
    assert time.monotonic() - began < 6  # ten seconds with the interpreter's start
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: -m {address}: MongoDB cannot be used (")
    assert "start it, correct the address, or record into files with -F DIR" in captured.err
    assert not list(here.rglob("*.json"))
    url = "mongodb://" + address.replace(":sweep", "/sweep")
    with pytest.raises(SourceError, match=f"{url}: "):
        load_runs(url)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "error: -m : must look like host:port:database"),
        ("mongodb://:x/db", "error: -m mongodb://:x/db: must look like mongodb://host:port/datab"),
        ("mongodb://me:secret@:x/db", "error: -m …@:x/db: must look like mongodb://host:port/dat"),
        ("mongodb://me:se/cret@host/db", "error: -m …@host/db: must look like mongodb://host:por"),
        ("me:secret@host:1:db", "error: -m …@host:1:db: must look like host:port:database"),
        ("host:1:db.runs", "error: -m host:1:db.runs: must look like host:port:database"),
        ("host:99999:db", "error: -m host:99999:db: MongoDB cannot be used (Port must be"),
    ],
)
def test_addresses_that_mean_nothing(address, message, here, capsys):
    assert run("-m", address) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert "cret" not in captured.err


def test_without_pymongo(here, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("-m", "db") == 2
    expected = "error: -m db: needs pymongo: pip install -r requirements.txt\n"
    assert capsys.readouterr().err == expected


def test_a_database_that_refuses_the_first_document(server, here, capsys, monkeypatch):
    def refuse(self):
        raise pymongo.errors.OperationFailure("not authorized on sweep to execute command")

    monkeypatch.setattr("llc.tracking.mongo.MongoMirror._send_document", refuse)
    assert run("-m", server.address) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    errors = [line for line in captured.err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert "MongoDB cannot be used (not authorized on sweep" in errors[0]
    assert not list(here.glob("outputs/mongodb/*/[0-9]*"))


@pytest.fixture
def guarded(server):
    """The URL of the database for a user with this password."""
    with guard(server, "me", "xy@zzy") as port:
        yield lambda word: f"mongodb://me:{word}@127.0.0.1:{port}/sweep?authMechanism=PLAIN"


def test_users_have_passwords_that_nobody_sees(database, guarded, here, capfd):
    right, wrong = guarded("xy%40zzy"), guarded("plugh")
    assert run("-m", right, "-F", "runs") == 0
    assert run("-m", wrong) == run("-m", right, "-m", wrong) == run(right) == 2
    assert commandline.main([right, "--csv", "table.csv"]) == 0
    assert commandline.main([wrong]) == 2
    (found,) = load_runs(right).to_dict("records")
    assert open_source(found["source"]).artifact(found, "version.txt") == b"seed 0 version 2"
    (document,) = database["runs"].find()
    assert document["meta"]["options"]["--mongo_db"] in right.replace("/sweep", ":sweep")
    out, err = capfd.readouterr()
    assert err.count("Authentication failed.") == 2
    assert "unknown command" in err
    files = [file.read_text(errors="replace") for file in here.rglob("*") if file.is_file()]
    assert len(files) > 5
    told = out + err + str(document) + "".join(files)
    assert not [word for word in ("xy%40zzy", "xy@zzy", "plugh") if word in told]


def test_a_server_without_users(server, here, capsys):
    assert run("-m", server.url.replace("//", "//me:xyzzy@")) == 2
    error = f"-m {server.address}: MongoDB cannot be used (it takes no user and password)"
    assert capsys.readouterr().err.startswith(f"error: {error}")


# --- a server that goes --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("files", [[], ["-F", "runs"]], ids=["mongo", "both"])
def test_a_server_lost_on_the_way(server, here, files):
    process = begin(here, "-m", server.address, *files, "with", "mode=wait")
    server.stop()
    time.sleep(0.5)  # beats that fail
    code, last, seconds = end(here, process)
    assert code == 3
    folder = "runs/1" if files else f"outputs/mongodb/{server.address.replace(':', '-')}/1"
    assert last.startswith(f"error: MongoDB {server.address} does not have all of run 1 (127.")
    assert last.endswith(f"the record is in {folder}")
    assert seconds < 25
    assert_whole_on_disk(here / folder)
    # The half in the database gives way to the whole on disk.
    server.start()
    assert list(load_runs(server.url)["status"]) == ["RUNNING"]
    assert list(load_runs(server.url, here / folder)["status"]) == ["COMPLETED"]


@pytest.mark.slow
def test_a_server_that_comes_back(server, database, here):
    process = begin(here, "-m", server.address, "with", "mode=wait")
    server.stop()
    time.sleep(1)
    (here / "go").touch()
    time.sleep(2)
    server.start()
    code, last, _ = end(here, process)
    assert code == 0, last
    assert not list(here.glob("outputs/mongodb/*/[0-9]*"))
    assert list(load_runs(server.url)["lambdahat"]) == [0.0]
    files = [file.filename for file in gridfs.GridFS(database).find()]
    assert len(files) == len(set(files))


@pytest.mark.slow
@pytest.mark.parametrize("recovers", [True, False])
def test_a_server_that_hangs(server, here, recovers):
    process = begin(here, "-m", server.address, "with", "mode=wait")
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    try:
        if recovers:
            (here / "go").touch()
            time.sleep(3)
            server.process.send_signal(signal.SIGCONT)
        code, last, seconds = end(here, process)
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert seconds < 30
    if recovers:
        assert code == 0
        assert list(load_runs(server.url)["lambdahat"]) == [0.0]
    else:
        assert code == 3
        assert_whole_on_disk(here / last.rpartition("the record is in ")[2])


def test_a_document_that_is_refused(server, here, capsys):
    assert run("-m", server.address, "with", "mode=refused") == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "MongoDB can only handle up to 8-byte ints" in last
    folder = last.rpartition("the record is in ")[2]
    assert_whole_on_disk(here / folder)
    # The next run is recorded as if nothing had been.
    assert run("-m", server.address) == 0
    assert list(load_runs(server.url)["id"]) == ["1", "2"]


def test_a_killed_run_stays_on_disk(server, here):
    process = begin(here, "-m", server.address, "with", "mode=wait")
    process.kill()
    process.communicate()
    (run,) = load_runs(here / "outputs").to_dict("records")
    assert (run["id"], run["status"]) == ("1", "RUNNING")
    assert list(load_runs(server.url)["status"]) == ["RUNNING"]
