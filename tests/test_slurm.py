"""A sweep through a real SLURM: one node, started for these tests by `tests/slurm/start.sh`."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import awkward
import pytest

from llc.commands import files
from llc.commands.lines import command
from llc.commands.status import status

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "num_training_data": 1000,
    "sgld_config.num_steps": 2000,
    "sgld_config.num_chains": 2,
    "sgld_config.epsilon": 1e-6,
}
NAME = ' it\'s "50%" [$HOME] #1\n None λ̂ \\ `id` '
LASTS = {"sgld_config.num_steps": 700_000}  # most of a minute
FAILS, DIVERGES, LONG, NAMED = 3, 6, 9, 12

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("sbatch", "slurmd", "slurmctld", "munged")))
        or os.geteuid() != 0,
        reason="needs root and Debian's slurm-wlm and munge",
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which sbatch finds a running SLURM."""
    directory = tmp_path_factory.mktemp("slurm")
    with (directory / "start.out").open("w") as out:
        daemons = subprocess.Popen(
            [ROOT / "tests/slurm/start.sh", directory], stdout=out, stderr=out
        )
    wait_for(lambda: "ready" in (directory / "start.out").read_text(), 60)
    yield {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))},
        "SLURM_CONF": str(directory / "slurm.conf"),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "LLC_CHECKPOINT_SECONDS": "1",
    }
    daemons.terminate()
    daemons.wait(timeout=30)


@pytest.fixture
def site(tmp_path, monkeypatch):
    (tmp_path / "expt_dln.py").symlink_to(ROOT / "expt_dln.py")
    (tmp_path / "job.slurm").symlink_to(ROOT / "job.slurm")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def call(slurm, *words):
    done = subprocess.run(words, env=slurm, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def submit(slurm, *options, file="lines.txt", **variables):
    return call(slurm | variables, "sbatch", "--parsable", *options, "job.slurm", file)


def finish(slurm, seconds=240):
    wait_for(lambda: not call(slurm, "squeue", "-h"), seconds)


def exit_codes(slurm, job, count):
    """Of each task, as SLURM knows it."""
    tasks = (call(slurm, "scontrol", "show", "job", f"{job}_{k}") for k in range(1, count + 1))
    return [int(task.partition("ExitCode=")[2].partition(":")[0]) for task in tasks]


def log(job, task):
    return Path(f"outputs/slurm_logs/{job}_{task}").read_text()


def read(line, name):
    return json.loads((Path(line.note.partition(" (")[0]) / name).read_text())


def sweep():
    """Twelve lines, of which one fails, one diverges, one takes long and one has an odd name."""
    special = {
        FAILS: {"sgld_config.epsilonn": 1.0},
        DIVERGES: {"sgld_config.epsilon": 1.0},
        LONG: {"sgld_config.num_steps": 300_000},
        NAMED: {"expt_name": NAME},
    }
    return [
        command("expt_dln.py", ["-F", "outputs/a b"], {**TINY, **special.get(k, {}), "seed": k})
        for k in range(1, 13)
    ]


def test_a_sweep_with_a_failure_a_divergence_and_a_requeue(slurm, site):
    lines = sweep()
    files.write(lines, Path("lines.txt"))
    job = submit(slurm, "--array=1-12%4")
    wait_for(lambda: any(Path("outputs/a b/_checkpoints").glob("*.pt")), 120)
    wait_for(lambda: status(lines)[LONG - 1].state == "running", 120)
    time.sleep(2)
    call(slurm, "scancel", "--batch", "--signal=USR2", f"{job}_{LONG}")
    wait_for(lambda: status(lines)[LONG - 1].state == "interrupted", 30)
    finish(slurm)
    found = status(lines)
    expected = ["done"] * 12
    expected[FAILS - 1] = "failed"
    assert [line.state for line in found] == expected
    assert "epsilonn" in found[FAILS - 1].note
    assert "without λ̂" in found[DIVERGES - 1].note
    assert read(found[LONG - 1], "info.json")["resumed_from"]
    assert read(found[NAMED - 1], "config.json")["expt_name"] == NAME
    assert exit_codes(slurm, job, 12) == [0, 0, 2] + [0] * 9
    runs = [d for d in Path("outputs/a b").iterdir() if d.name.isdigit()]
    assert len(runs) == 12  # eleven lines that run, one of them twice
    assert "back into the queue" in log(job, LONG)
    assert "going on from run" in log(job, LONG)


WORDS = """
from dataclasses import dataclass
from llc import tracking
from llc.config import Seed

@dataclass(frozen=True)
class WordsConfig:
    text: str = "default"
    maybe: str | None = "default"
    texts: tuple[str, ...] = ("default",)
    seed: Seed = 0

ex = tracking.experiment("words", WordsConfig)

@ex.main
def main(_run):
    return 1

if __name__ == "__main__":
    tracking.run(ex)
"""


def test_every_text_reaches_the_config_unchanged(slurm, site):
    """Generator, file, SLURM, bash, Sacred, record: names of files and directories as well."""
    random, count = Random(0), 12
    Path("expt_words.py").write_text(WORDS)
    configs = [
        {
            "text": awkward.text(random),
            "maybe": random.choice([None, "None", awkward.text(random)]),
            "texts": [*awkward.AWKWARD[k::count], *(awkward.text(random) for _ in range(20))],
            "seed": k,
        }
        for k in range(count)
    ]
    places = [f"outputs/{awkward.name(random)}/a b" for _ in configs]
    lines = [
        command("expt_words.py", ["-F", place], config)
        for place, config in zip(places, configs, strict=True)
    ]
    file = 'it\'s 50% [$HOME] "é" `id`.txt'
    files.write(lines, Path(file))
    submit(slurm, f"--array=1-{count}%4", file=file)
    finish(slurm)
    found = status(files.read(Path(file)))
    assert [line.state for line in found] == ["done"] * count
    assert [Path(line.note).parent for line in found] == [*map(Path, places)]
    assert [json.loads(Path(line.note, "config.json").read_text()) for line in found] == configs


def test_packing_and_offsets(slurm, site):
    said = "python -c 'import sys; print(\"said\", sys.argv[1:])' {} '$HOME %A \\' é"
    files.write([said.format(k) for k in range(1, 12)], Path("lines.txt"))
    jobs = [submit(slurm, "--array=1-3", COMMANDS_PER_TASK="2", OFFSET=k) for k in ("0", "6")]
    finish(slurm)
    heard = [line for job in jobs for k in (1, 2, 3) for line in log(job, k).splitlines()]
    assert [line for line in heard if line.startswith("said")] == [
        f"said {[str(k), '$HOME %A ' + chr(92), 'é']}" for k in range(1, 12)
    ]


def test_a_task_that_runs_out_of_time_goes_on(slurm, site):
    """Two minutes less 90 seconds: after half a minute at most SLURM sends USR2, of itself."""
    files.write([command("expt_dln.py", ["-F", "runs"], TINY | LASTS)], Path("lines.txt"))
    job = submit(slurm, "--array=1", "--time=2")
    finish(slurm, 500)
    assert "back into the queue" in log(job, 1)
    assert "going on from run" in log(job, 1)
    assert exit_codes(slurm, job, 1) == [0]
    assert [line.state for line in status(files.read(Path("lines.txt")))] == ["done"]
