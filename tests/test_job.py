"""`job.slurm` run by bash, with the variables that SLURM sets and a `scontrol` that takes notes."""

import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SAY = "python -c 'import sys; print(\"said\", sys.argv[1])' {}"
FAIL = "python -c 'import sys; sys.exit(int(sys.argv[1]))' {}"
# A run that can be stopped and started again, as ours can: it ends when `release` is there.
PATIENT = """
import signal, sys, time, pathlib
def stop(*_):
    sys.exit(75)
signal.signal(signal.SIGUSR2, stop)
signal.signal(signal.SIGTERM, stop)
with open(sys.argv[1], "a") as starts:
    starts.write("x")
while not pathlib.Path("release").exists():
    time.sleep(0.01)
"""
# Two of these wait for each other: in turn they would never end.
MEET = """
import pathlib, sys, time
mine, other = map(pathlib.Path, sys.argv[1:])
mine.touch()
while not other.exists():
    time.sleep(0.01)
"""


@pytest.fixture
def site(tmp_path):
    """A directory to submit from, with `python` and `scontrol` on PATH."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "python").symlink_to(sys.executable)
    scontrol = bin_ / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/scontrol.log\n')
    scontrol.chmod(0o755)
    (tmp_path / "patient.py").write_text(PATIENT)
    return tmp_path


def submit(site, lines, task, restarts=0, **variables):
    if lines is not None:
        (site / "lines.txt").write_text("".join(f"{line}\n" for line in lines))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("SLURM")},
        "PATH": f"{site / 'bin'}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_RESTART_COUNT": str(restarts),
        **variables,
    }
    return subprocess.Popen(
        ["bash", str(ROOT / "job.slurm"), "lines.txt"],
        cwd=site,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def code(process):
    _, errors = process.communicate(timeout=60)
    assert not errors, errors
    return process.returncode


def log(site, name="7_1"):
    return (site / "outputs" / "slurm_logs" / name).read_text()


def said(site, name):
    return [line.split()[1] for line in log(site, name).splitlines() if line.startswith("said")]


def requeued(site):
    file = site / "scontrol.log"
    return file.read_text().split("\n")[:-1] if file.exists() else []


def started(site, name):
    """How often a patient run was started."""
    return len((site / name).read_text()) if (site / name).exists() else 0


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def test_a_task_runs_its_line(site):
    assert code(submit(site, map(SAY.format, "abc"), 2)) == 0
    assert said(site, "7_2") == ["b"]
    assert "line 2 of lines.txt" in log(site, "7_2")
    assert requeued(site) == []
    assert [f.name for f in (site / "outputs" / "slurm_logs").iterdir()] == ["7_2"]


def test_the_exit_code_is_that_of_the_line(site):
    assert code(submit(site, [FAIL.format(3)], 1)) == 3
    assert "exit code 3" in log(site)


@pytest.mark.parametrize("concurrent", ["0", "1"])
def test_a_task_packs_several_lines(site, concurrent):
    lines = [*map(SAY.format, "abcdefgh")]
    lines[4] = FAIL.format(5)
    packed = {"COMMANDS_PER_TASK": "3", "CONCURRENT": concurrent}
    assert [code(submit(site, lines, k, **packed)) for k in (1, 2, 3)] == [0, 5, 0]
    if concurrent == "1":
        assert [said(site, f"7_1.{k}") for k in (1, 2, 3)] == [["a"], ["b"], ["c"]]
        assert [said(site, f"7_3.{k}") for k in (7, 8)] == [["g"], ["h"]]
        assert "exit code 5" in log(site, "7_2")
    else:
        assert [said(site, f"7_{k}") for k in (1, 2, 3)] == [[*"abc"], [*"df"], [*"gh"]]


def test_lines_at_the_same_time(site):
    (site / "meet.py").write_text(MEET)
    lines = ["python meet.py x y", "python meet.py y x"]
    assert code(submit(site, lines, 1, COMMANDS_PER_TASK="2", CONCURRENT="1")) == 0


def test_offset_and_packing_reach_every_line_once(site):
    lines = [*map(SAY.format, "abcdefghijk")]
    packed = {"COMMANDS_PER_TASK": "2"}
    for offset in (0, 6):
        for k in (1, 2, 3):
            logs = f"outputs/slurm_logs/{offset}"
            assert code(submit(site, lines, k, OFFSET=str(offset), LOGS=logs, **packed)) == 0
    heard = [said(site, f"{offset}/7_{k}") for offset in (0, 6) for k in (1, 2, 3)]
    assert [*chain(*heard)] == [*"abcdefghijk"]


def test_lines_past_the_end_and_line_0_are_refused(site):
    lines = [SAY.format("a")]
    assert code(submit(site, lines, 2)) == 2
    assert "error: line 2: lines.txt has lines 1 to 1" in log(site, "7_2")
    assert code(submit(site, lines, 0)) == 2
    assert "task 0: 1 is the first" in log(site, "7_0")


@pytest.mark.parametrize(
    "variables", [{"COMMANDS_PER_TASK": "0"}, {"COMMANDS_PER_TASK": "a[$(id)]"}, {"OFFSET": "-1"}]
)
def test_variables_that_mean_nothing_are_refused(site, variables):
    assert code(submit(site, [SAY.format("a")], 1, **variables)) == 2
    ((name, value),) = variables.items()
    assert f"job.slurm: {name}={value}: must be" in log(site)


def test_what_is_missing_is_said(site):
    assert code(submit(site, None, 1)) == 2
    assert "lines.txt: cannot be read" in log(site)
    process = submit(site, [], "")
    assert "runs as a task of an array" in process.communicate(timeout=60)[1]
    process = submit(site, [], 1, LOGS="/proc/none")
    assert "/proc/none/7_1: cannot be written" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_a_last_line_without_newline_counts(site):
    (site / "lines.txt").write_text(f"{SAY.format('a')}\n{SAY.format('b')}")
    assert code(submit(site, None, 1, COMMANDS_PER_TASK="2")) == 0
    assert said(site, "7_1") == ["a", "b"]


def test_usr2_reaches_the_run_and_requeues_this_task(site):
    line = "python patient.py ready"
    process = submit(site, [line], 1)
    wait_for(lambda: started(site, "ready"))
    process.send_signal(signal.SIGUSR2)
    assert code(process) == 75
    assert requeued(site) == ["requeue 7_1"]
    (site / "release").touch()
    assert code(submit(site, [line], 1, restarts=1)) == 0
    assert started(site, "ready") == 2
    assert log(site).count("line 1 of lines.txt") == 2  # the log goes on


def test_lines_that_have_ended_are_not_run_again(site):
    lines = [SAY.format("a"), FAIL.format(3), "python patient.py ready", SAY.format("d")]
    process = submit(site, lines, 1, COMMANDS_PER_TASK="4")
    wait_for(lambda: started(site, "ready"))
    process.send_signal(signal.SIGUSR2)
    assert code(process) == 75
    assert requeued(site) == ["requeue 7_1"]
    assert said(site, "7_1") == ["a"]
    (site / "release").touch()
    assert code(submit(site, lines, 1, restarts=1, COMMANDS_PER_TASK="4")) == 0
    assert said(site, "7_1") == ["a", "d"]
    assert log(site).count("exit code 3") == 1


def test_usr2_reaches_all_runs_of_a_task(site):
    lines = [f"python patient.py {name}" for name in "xyz"]
    process = submit(site, lines, 1, COMMANDS_PER_TASK="3", CONCURRENT="1")
    wait_for(lambda: all(started(site, name) for name in "xyz"))
    process.send_signal(signal.SIGUSR2)
    assert code(process) == 75
    assert log(site).count("exit code 75") == 3
    assert requeued(site) == ["requeue 7_1"]


def test_usr2_at_any_moment_loses_no_line(site):
    """Also before a run can catch it: what was killed by it comes back."""
    lines, logs = [SAY.format(name) for name in "abcdef"], site / "outputs" / "slurm_logs"
    pause, restarts = 0.0, 0
    while True:
        starts = log(site).count("lines.txt") if restarts else 0
        process = submit(site, lines, 1, restarts=restarts, COMMANDS_PER_TASK="6")
        wait_for(lambda n=starts: (logs / "7_1").exists() and log(site).count("lines.txt") > n)
        time.sleep(pause)
        process.send_signal(signal.SIGUSR2)
        if code(process) == 0:
            break
        pause, restarts = pause + 0.013, restarts + 1
        assert requeued(site) == ["requeue 7_1"] * restarts
    # A line that is killed after its last word says it twice.
    assert {*said(site, "7_1")} == {*"abcdef"}
    assert "140" in log(site)


def test_a_cancelled_task_stays_cancelled(site):
    process = submit(site, ["python patient.py ready"], 1)
    wait_for(lambda: started(site, "ready"))
    process.send_signal(signal.SIGTERM)
    assert code(process) == 75
    assert requeued(site) == []


def test_a_requeue_that_fails_is_said(site):
    (site / "bin" / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    process = submit(site, ["python patient.py ready"], 1)
    wait_for(lambda: started(site, "ready"))
    process.send_signal(signal.SIGUSR2)
    assert code(process) == 2
    assert "scontrol requeue 7_1 failed" in log(site)
