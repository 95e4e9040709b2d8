"""Runs end as they should: exit code, one line, a whole record."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import pytest

import llc
from llc import tracking
from llc.config import ConfigError, OneOf, Seed, SGLDConfig
from llc.tracking.commandline import execute

ROOT = Path(__file__).resolve().parents[1]

TOY = '''"""A toy experiment."""
import shutil
import sys
import time
from dataclasses import dataclass
from typing import Annotated

from llc import tracking
from llc.config import OneOf, Seed, SGLDConfig, parse


@dataclass(frozen=True)
class ToyConfig:
    mode: Annotated[str, OneOf("work", "wait", "fail", "lose")] = "work"
    sgld_config: SGLDConfig = SGLDConfig()
    layer_widths: tuple[int, ...] = (2, 3)
    seed: Seed = 0


ex = tracking.experiment("toy", ToyConfig)


@ex.named_config
def quick():
    sgld_config = {"num_steps": 50}


@ex.main
def main(_run, _config):
    config = parse(ToyConfig, _config)
    print("first words", flush=True)
    if config.mode == "fail":
        raise RuntimeError("deliberate")
    if config.mode == "lose":
        shutil.rmtree(tracking.run_directory(_run).parent)
    if config.mode == "wait":
        try:
            time.sleep(30)
        except Exception:
            pass
    nan = float("nan")
    tracking.record(_run, lambdahat=nan, num_steps=config.sgld_config.num_steps)
    tracking.log_curve(_run, "loss", range(2000), [nan] + [1.0] * 1999)
    with tracking.artifact(_run, "traces.txt") as path:
        path.write_text("a trace")
    print(tracking.run_directory(_run))
    return nan


if __name__ == "__main__":
    tracking.run(ex)
'''


def strict(path):
    """Read JSON as the standard has it: no NaN."""

    def refuse(word):
        raise AssertionError(f"{word} in {path}")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


def git(directory, *arguments):
    subprocess.run(
        ["git", "-C", directory, "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Return a git checkout with the toy in it."""
    path = tmp_path_factory.mktemp("checkout")
    (path / "toy.py").write_text(TOY)
    git(path, "init", "-q")
    git(path, "remote", "add", "origin", "https://token@host.invalid/toy.git")
    git(path, "add", "toy.py")
    git(path, "commit", "-q", "-m", "toy")
    return path


def command(checkout, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, str(checkout / "toy.py"), *arguments]
    return argv, {"env": environment, "text": True, "stderr": subprocess.PIPE}


def run_toy(checkout, *arguments):
    argv, options = command(checkout, *arguments)
    return subprocess.run(argv, stdout=subprocess.PIPE, check=False, **options)


# --- whole runs, as users start them -----------------------------------------------------------


def test_completed_run(checkout, tmp_path):
    before = os.times()
    args = ("-F", str(tmp_path / "runs"), "with", "quick", "sgld_config.gamma=2")
    done = run_toy(checkout, *args)
    after = os.times()
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "1"
    assert done.stdout.splitlines() == ["first words", str(run)]
    assert "pkg_resources" not in done.stderr
    # Of the processor, whatever else it does; about one on an idle machine.
    assert after.elapsed - before.elapsed < 60  # nor does it wait for anything
    seconds = (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )
    assert seconds < 6

    entry = strict(run / "run.json")
    assert (entry["status"], entry["result"]) == ("COMPLETED", None)
    assert entry["artifacts"] == ["traces.txt"]
    assert (run / "traces.txt").read_text() == "a trace"
    assert (run / "cout.txt").read_text().splitlines()[0] == "first words"
    assert not list(run.glob(".*"))

    assert strict(run / "info.json") == {"lambdahat": None, "num_steps": 50}
    curve = strict(run / "metrics.json")["loss"]
    assert len(curve["steps"]) == len(curve["values"]) == 500
    assert (curve["steps"][0], curve["steps"][-1]) == (0, 1999)
    assert curve["values"][:2] == [None, 1.0]
    config = strict(run / "config.json")
    assert config["sgld_config"]["gamma"] == 2.0
    assert config["layer_widths"] == [2, 3]

    experiment = entry["experiment"]
    assert experiment["mainfile"] == "toy.py"
    names = {dependency.partition("==")[0] for dependency in experiment["dependencies"]}
    assert {"torch", "sacred", "numpy", "llc"} <= names
    assert f"llc=={llc.__version__}" in experiment["dependencies"]
    assert not any("unknown" in dependency for dependency in experiment["dependencies"])
    head = (checkout / ".git" / "HEAD").read_text().split()[1]
    commit = (checkout / ".git" / head).read_text().strip()
    repository = {"url": "https://host.invalid/toy.git", "commit": commit, "dirty": False}
    assert repository in experiment["repositories"]
    sources = {Path(name).name for name, _ in experiment["sources"]}
    assert {"toy.py", "commandline.py", "parsing.py"} <= sources


def test_failed_run(checkout, tmp_path):
    done = run_toy(checkout, "-F", str(tmp_path), "with", "mode=fail")
    assert done.returncode == 1
    assert "RuntimeError: deliberate" in done.stderr
    entry = strict(tmp_path / "1" / "run.json")
    assert entry["status"] == "FAILED"
    assert "deliberate" in "".join(entry["fail_trace"])
    assert "first words" in (tmp_path / "1" / "cout.txt").read_text()


@pytest.mark.parametrize(
    ("signum", "exit_code"), [(signal.SIGTERM, 75), (signal.SIGUSR2, 75), (signal.SIGINT, 130)]
)
def test_interrupted_run(checkout, tmp_path, signum, exit_code):
    argv, options = command(checkout, "-F", str(tmp_path), "with", "mode=wait")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, **options) as process:
        assert process.stdout.readline() == "first words\n"
        process.send_signal(signum)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == exit_code, errors
    assert errors.splitlines()[-1] == f"interrupted by {signum.name}"
    assert "Traceback" not in errors
    assert strict(tmp_path / "1" / "run.json")["status"] == "INTERRUPTED"
    assert "first words" in (tmp_path / "1" / "cout.txt").read_text()


def test_lost_record(checkout, tmp_path):
    done = run_toy(checkout, "-F", str(tmp_path / "runs"), "with", "mode=lose")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: the record in {tmp_path / 'runs' / '1'} is incomplete")


def test_bad_input_leaves_one_line_and_nothing_else(checkout, tmp_path):
    runs = tmp_path / "runs"
    done = run_toy(checkout, "-F", str(runs), "with", "sgld_config.epsilonn=1e-5")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: sgld_config.epsilonn: unknown key (did you mean 'eps")
    assert not runs.exists()


# --- the command line, in this process ---------------------------------------------------------


@dataclass(frozen=True)
class InProcessConfig:
    sgld_config: SGLDConfig = SGLDConfig()
    method: Annotated[str, OneOf("a", "b")] = "a"
    seed: Seed = 0


@pytest.fixture
def ex():
    experiment = tracking.experiment("in_process", InProcessConfig)
    experiment.add_named_config("quick", {"method": "b"})

    def main(_run, method):
        experiment.seen.append((_run, method))

    experiment.seen = []
    experiment.main(main)
    return experiment


BAD_COMMAND_LINES = [
    (["with", "typo=3"], "typo: unknown key"),
    (["with", "sgld_config=3"], "sgld_config=3: must be a group of keys"),
    (["with", "sgld_config.epsilon=nan"], "sgld_config.epsilon='nan': must be a finite"),
    (["with", "sgld_config.epsilon=1e-5x"], "sgld_config.epsilon='1e-5x': must be a"),
    (["with", "method.deeper=1"], "method={'deeper': 1}: must be one of 'a', 'b'"),
    (["with", "seed=-1"], "seed=-1: must be a whole number"),
    (["with", "seed=1e5"], "seed=100000.0: write it without"),
    (["with", "seed=None"], "seed=None: must be a whole number"),
    (["with", "quik"], "quik: unknown named config (did you mean 'quick'? known: quick)"),
    (["with", "=3"], "'=3': must look like key=value"),
    (["with", "a..b=3"], "'a..b=3': must look like key=value"),
    (["with", "a[0]=3"], "'a[0]=3': must look like key=value"),
    (["with", "sgld_config=2", "sgld_config.gamma=1"], "'sgld_config.gamma=1': cannot be read"),
    (["with", "method={1,2}"], "'method={1,2}': cannot be read"),
    (["quick"], "quick: unknown command (did you mean 'with quick'?)"),
    (["mian"], "mian: unknown command (did you mean 'main'? known: "),
    (["--nonsense"], ""),
    (["with"], ""),
    (["-F"], ""),
    (["-F", ""], "-F '': must be a directory"),
    (["-F", "FILE/sub"], "-F FILE/sub: cannot be written (Not a directory): choose another"),
    (["-F", "FILE"], "-F FILE: cannot be written (File exists): choose another"),
    (["-F", "DIR", "-i", "7"], "-i 7: DIR already holds a run of this id"),
    (["-C", "all"], "-C all: must be one of no, sys, fd"),
    (["-b", "0"], "-b 0: must be a number of seconds > 0"),
    (["-b", "often"], "-b often: must be a number of seconds > 0"),
    (["-l", "LOUD"], "Unknown level: 'LOUD'"),
]


@pytest.mark.parametrize(("argv", "start"), BAD_COMMAND_LINES, ids=lambda value: str(value))
def test_bad_command_lines(ex, tmp_path, capsys, argv, start):
    (tmp_path / "file").touch()
    (tmp_path / "dir" / "7").mkdir(parents=True)

    def real(text):
        return text.replace("FILE", str(tmp_path / "file")).replace("DIR", str(tmp_path / "dir"))

    assert execute(ex, ["toy.py", *map(real, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {real(start)}")
    assert captured.err.count("\n") == 1
    assert len(captured.err) > len("error: \n")
    assert captured.out == ""
    assert not ex.seen


@pytest.mark.parametrize("argv", [["--help"], ["help"], ["print_config"], ["print_dependencies"]])
def test_sacreds_own_commands(ex, capsys, argv):
    assert execute(ex, ["toy.py", *argv]) == 0
    assert capsys.readouterr().out
    assert not ex.seen


def test_print_config_shows_every_key(ex, capsys):
    assert execute(ex, ["toy.py", "print_config", "with", "quick"]) == 0
    out = capsys.readouterr().out
    for key in ("method", "seed", "epsilon", "burn_in_prop", "shared_batches"):
        assert key in out


def test_record_holds_the_values_used(ex, tmp_path):
    updates = ["sgld_config.num_steps=1e4", "sgld_config.gamma=1", "quick"]
    assert execute(ex, ["toy.py", "-F", str(tmp_path), "with", *updates]) == 0
    ((_, method),) = ex.seen
    assert method == "b"
    text = (tmp_path / "1" / "config.json").read_text()
    assert '"num_steps": 10000\n' in text.replace(",\n", "\n")
    assert '"gamma": 1.0' in text


def test_without_observer_there_is_no_directory(ex):
    assert execute(ex, ["toy.py"]) == 0
    ((run, _),) = ex.seen
    assert tracking.run_directory(run) is None


def test_experiment_needs_a_seed_of_its_own():
    @dataclass(frozen=True)
    class Seedless:
        method: str = "a"

    with pytest.raises(TypeError, match="Seedless needs a field 'seed'"):
        tracking.experiment("seedless", Seedless)


def test_without_git_there_is_no_repository(monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    info = tracking.experiment("no_git", InProcessConfig).get_experiment_info()
    assert info["repositories"] == []
    assert info["mainfile"] == "test_tracking.py"


def test_config_error_inside_the_run_is_one_line(tmp_path, capsys):
    ex = tracking.experiment("late", InProcessConfig)

    def main():
        raise ConfigError("data.path=x: no such file")

    ex.main(main)
    assert execute(ex, ["toy.py", "-F", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: data.path=x: no such file"
    assert strict(tmp_path / "1" / "run.json")["status"] == "FAILED"


# --- whole files -------------------------------------------------------------------------------


def test_full_disk_leaves_the_last_whole_record(ex, tmp_path, monkeypatch, capsys):
    def main(_run):
        tracking.record(_run, kept=1)

        def full(self, *args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)

    ex.main(main)
    assert execute(ex, ["toy.py", "-F", str(tmp_path)]) == 1
    monkeypatch.undo()
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: the record in")
    assert strict(tmp_path / "1" / "run.json")["status"] == "RUNNING"


def test_a_lost_record_keeps_the_checkpoint(ex, tmp_path):
    def main(_run):
        keeper = tracking.keeper(_run)
        keeper.stop(RuntimeError())
        with pytest.raises(RuntimeError):
            keeper.tick()
        if lose:
            _run._failed_observers.append(_run.observers[0])

    ex.main(main)
    for lose in (True, False):
        assert execute(ex, ["toy.py", "-F", str(tmp_path)]) == int(lose)
        assert len(list(tmp_path.glob("_checkpoints/*.pt"))) == int(lose)


def test_nothing_disturbs_a_run_that_ends_after_a_long_write(ex, tmp_path, monkeypatch):
    monkeypatch.setattr("llc.tracking.interrupts.GRACE_SECONDS", 0.1)

    def main(_run):
        keeper, stop = tracking.keeper(_run), _run._stop_heartbeat

        def slowly():  # the alarm, and a second signal
            assert keeper.ended
            time.sleep(0.3)
            signal.raise_signal(signal.SIGTERM)
            stop()

        def state():
            time.sleep(0.15)
            return 1

        monkeypatch.setattr(_run, "_stop_heartbeat", slowly)
        with keeper.holding("loop", state):
            signal.raise_signal(signal.SIGTERM)
            keeper.tick()

    ex.main(main)
    assert execute(ex, ["toy.py", "-F", str(tmp_path)]) == 75
    assert strict(tmp_path / "1" / "run.json")["status"] == "INTERRUPTED"


def test_heartbeats_while_recording(tmp_path):
    ex = tracking.experiment("beats", InProcessConfig)

    def main(_run):
        end = time.monotonic() + 0.5
        count = 0
        while time.monotonic() < end:
            count += 1
            tracking.record(_run, **{f"key{count % 500}": count})

    ex.main(main)
    assert execute(ex, ["toy.py", "-F", str(tmp_path), "-b", "0.001"]) == 0
    assert strict(tmp_path / "1" / "info.json")


# --- values ------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "left right")


def test_plain():
    import torch

    assert tracking.plain(
        {
            "np": np.float32(0.5),
            "nan": np.float64("nan"),
            "inf": -float("inf"),
            "int": np.int64(3),
            "bool": np.bool_(True),
            "array": np.array([[1.0, np.nan], [2.0, 3.0]]),
            "tensor": torch.tensor([1, 2]),
            "scalar": torch.tensor(0.25, requires_grad=True),
            "fraction": Fraction(17, 2),
            "tuple": (1, (2, None)),
            "pair": Pair(1, 2),
            "dataclass": SGLDConfig(),
            "text": np.str_("a"),
            "path": Path("a/b"),
            3: "key",
        }
    ) == {
        "np": 0.5,
        "nan": None,
        "inf": None,
        "int": 3,
        "bool": True,
        "array": [[1.0, None], [2.0, 3.0]],
        "tensor": [1, 2],
        "scalar": 0.25,
        "fraction": 8.5,
        "tuple": [1, [2, None]],
        "pair": {"left": 1, "right": 2},
        "dataclass": tracking.plain(vars(SGLDConfig())),
        "text": "a",
        "path": "a/b",
        "3": "key",
    }


@pytest.mark.parametrize("value", [1j, object(), np.datetime64("2024-01-01"), b"bytes"])
def test_plain_refuses_the_rest(value):
    with pytest.raises(TypeError, match="cannot be recorded"):
        tracking.plain(value)


def fake_run():
    run = SimpleNamespace(info={"old": 1}, metrics=[])
    run.log_scalar = lambda name, value, step: run.metrics.append((step, value))
    return run


def test_record_is_limited_to_a_megabyte():
    run = fake_run()
    before = run.info
    tracking.record(run, small=2)
    assert run.info == {"old": 1, "small": 2}
    assert before == {"old": 1}  # a heartbeat may be reading it
    with pytest.raises(ValueError, match=r"info\['trace'\] takes 5000000 of the 1000000 bytes"):
        tracking.record(run, trace=np.ones(10**6), other=[1])
    assert run.info == {"old": 1, "small": 2}


@pytest.mark.parametrize(("length", "kept"), [(0, 0), (1, 1), (500, 500), (501, 500), (10**5, 500)])
def test_curves_are_thinned_evenly(length, kept):
    run = fake_run()
    tracking.log_curve(run, "loss", np.arange(length), np.arange(length) * 1.0)
    steps = [step for step, _ in run.metrics]
    assert len(set(steps)) == kept
    assert steps == sorted(steps)
    if length:
        assert (steps[0], steps[-1]) == (0, length - 1)
        assert np.ptp(np.diff(steps)) <= 1 if length > 1 else True
    with pytest.raises(ValueError, match="'loss' has 2 steps and 1 values"):
        tracking.log_curve(run, "loss", [0, 1], [0.0])


def test_artifact_must_be_written_and_is_dropped_on_failure():
    added = []
    run = SimpleNamespace(add_artifact=lambda path, name: added.append((path.read_text(), name)))
    with tracking.artifact(run, "a.txt") as path:
        path.write_text("x")
    assert added == [("x", "a.txt")]
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match="was not written"), tracking.artifact(run, "b"):
        pass

    def fail_halfway():
        with tracking.artifact(run, "c") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert len(added) == 1
