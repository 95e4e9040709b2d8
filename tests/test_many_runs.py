"""Many runs started at the same moment: each has its own id and nothing of another's."""

import os
import re
import subprocess
import sys
from pathlib import Path

import gridfs
import pymongo
import pytest
from mongo_server import Server

from llc.records import curve, load_runs
from llc.records.sources import open_source

ROOT = Path(__file__).resolve().parents[1]


def start_together(count, cwd, *options):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "starts.py"), str(count), *options],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def assert_whole(source, count, printed):
    """Every start has a record, and every part of a record is of one start.

    `printed` gives what a run wrote on its terminal.
    """
    runs = load_runs(source)
    assert runs.attrs["broken"] == []
    assert list(runs["status"]) == ["COMPLETED"] * count
    assert sorted(runs["config.seed"]) == list(range(count))
    assert sorted(map(int, runs["id"])) == list(range(1, count + 1))
    assert (runs["started"] < runs["ended"]).all()
    assert runs["heartbeat"].notna().all()
    config = runs.filter(like="config.").drop(columns="config.seed")
    assert config.astype(str).nunique().max() == 1
    for _, run in runs.iterrows():
        seed = run["config.seed"]
        assert (run["lambdahat"], run["result"], run["none"]) == (seed / 2, seed / 2, None)
        assert run["chains"] == [seed] * 3
        artifact = open_source(run["source"]).artifact(run, "version.txt")
        assert artifact.decode() == f"seed {seed} version 2"
        assert printed(run).startswith(f"seed {seed}\n")
        assert printed(run).count("seed") == 1
        assert re.search(rf"(runs/|run ){run['id']}\b", printed(run))
        points = curve(run)
        assert list(points["t"]) == [0, 1, 2]
        assert points["loss"].isna()[0]
        assert list(points["loss"])[1:] == [seed, seed]
    return runs


def in_files(run):
    return Path(run["directory"], "cout.txt").read_text()


def in_database(run):
    with pymongo.MongoClient(run["source"]) as client:
        return client["sweep"]["runs"].find_one({"_id": int(run["id"])})["captured_out"]


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    yield server
    server.stop()


@pytest.mark.slow
def test_64_on_one_directory(tmp_path):
    start_together(64, tmp_path, "-F", "runs", "-b", "0.1")
    assert_whole(tmp_path / "runs", 64, in_files)
    assert not [file for file in tmp_path.rglob(".*") if file.is_file()]


@pytest.mark.slow
def test_16_on_one_database(tmp_path, server):
    start_together(16, tmp_path, "-m", server.address, "-b", "0.1")
    assert_whole(server.url, 16, in_database)
    assert not list(tmp_path.glob("outputs/mongodb/*/[0-9]*"))
    with pymongo.MongoClient(server.url) as client:
        assert client["sweep"]["metrics"].count_documents({}) == 16
        stored = [file.filename for file in gridfs.GridFS(client["sweep"]).find()]
    # Of the sources those that start together may each bring a copy.
    artifacts = sorted(name for name in stored if name.startswith("artifact://"))
    assert artifacts == sorted(f"artifact://runs/{k}/version.txt" for k in range(1, 17))


@pytest.mark.slow
def test_16_on_both_under_the_same_ids(tmp_path, server):
    start_together(16, tmp_path, "-m", server.address, "-F", "runs", "-b", "0.1")
    columns = ["id", "config.seed", "lambdahat"]
    one = assert_whole(server.url, 16, in_database)[columns].sort_values("id", ignore_index=True)
    place = tmp_path / "runs"
    two = assert_whole(place, 16, in_files)[columns].sort_values("id", ignore_index=True)
    assert one.equals(two)
    assert len(load_runs(place, server.url)) == 16
