"""Command lines from configurations and back, and the files they stand in."""

import json
import math
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from awkward import AWKWARD
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import expt_dln as script
from llc.__main__ import main as llc
from llc.commands import files, generating, running
from llc.commands.lines import command, draws, grid, literal
from llc.commands.status import status
from llc.config import ConfigError, DLNConfig, as_plain, parse
from llc.tracking import commandline, planned
from llc.tracking.commandline import execute
from llc.tracking.quiet_sacred import get_config_updates

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "num_training_data": 100,
    "layer_widths": [2],
    "input_dim": 2,
    "sgld_config.num_steps": 20,
    "sgld_config.num_chains": 1,
    "sgld_config.batch_size": 10,
    "sgld_config.burn_in_prop": 0.5,
}
TEXT = st.sampled_from(AWKWARD) | st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def same(one, two):
    """Equal, of the same types too: 1 is neither True nor 1.0."""
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and one == two


def updates(words):
    found, named = get_config_updates(words[words.index("with") + 1 :])
    assert named == []
    return found


def test_a_grid_is_every_combination():
    found = grid({"a": [1, 2], "b.c": "x", "d": [[3, 4], None]})
    assert [list(config.values()) for config in found] == [
        [1, "x", [3, 4]], [1, "x", None], [2, "x", [3, 4]], [2, "x", None],
    ]  # fmt: skip
    assert {tuple(config) for config in found} == {("a", "b.c", "d")}
    assert grid({}) == [{}]
    assert grid({"a": []}) == []


def test_more_draws_only_add():
    def draw(random):
        return {"a": random.random()}

    assert draws(draw, 3, 0) == draws(draw, 5, 0)[:3]
    assert draws(draw, 3, 0) != draws(draw, 3, 1)
    # The same on every machine and with every Python.
    assert draws(draw, 1, 0) == [{"a": random.Random("0/0").random()}]


@given(VALUES)
def test_sacred_reads_the_value_that_went_in(value):
    line = command("x.py", ["-F", "a b"], {"group.key": value, "seed": 3})
    assert "\n" not in line
    words = shlex.split(line)
    assert words[:4] == ["python", "x.py", "-F", "a b"]
    found = updates(words)
    assert same(found["group"]["key"], value)
    assert found["seed"] == 3


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(TEXT, min_size=1, max_size=30))
def test_bash_reads_the_words_that_we_read(tmp_path, texts):
    lines = [command("x.py", ["-F", "$x y"], {"expt_name": text}) for text in texts]
    files.write(lines, tmp_path / "lines.txt", overwrite=True)
    assert files.read(tmp_path / "lines.txt") == lines
    show = 'python() { printf "%s\\0" "$@"; printf "\\n\\0"; }\n'
    done = subprocess.run(
        ["bash", "-c", show + (tmp_path / "lines.txt").read_text(encoding="utf-8")],
        capture_output=True, check=True,
    )  # fmt: skip
    heard = [words.split("\0")[:-1] for words in done.stdout.decode().split("\n\0")[:-1]]
    assert heard == [files.words(line, 1)[1:] for line in lines]


@pytest.mark.parametrize("text", AWKWARD)
def test_the_strict_config_holds_the_text_that_went_in(text):
    words = shlex.split(command("expt_dln.py", ["-F", " $dir%"], {**TINY, "expt_name": text}))
    config, options = planned(script.ex, words[1:])
    assert config == as_plain(parse(DLNConfig, {**nested(TINY), "expt_name": text}))
    assert options["--file_storage"] == " $dir%"


SEED = ["with", "seed=5"]


@pytest.mark.parametrize(
    "argv",
    [
        ["-F", "runs", *SEED], [*SEED, "-F", "runs"], ["-F", "with", *SEED], ["-n", "with", *SEED],
        ["print_config", *SEED], ["-F", "runs"], ["-d", *SEED], ["with", "quick", "seed=5"],
        ["with", "seed=5", "-F", "with"], ["-F", "runs", "with", "a=b", "with", "seed=5"],
        ["-F", "runs", "with"], ["-F", "with", "seed=5"], ["typo", *SEED], ["-z", *SEED],
        ["-h", *SEED], ["-F", "runs", "with", "seed"], ["-F", "runs", "with", "seed=["],
        ["-F", "runs", "with", "a=1", "a.b=2", "seed=5"], ["--", *SEED], [],
    ],
    ids=str,
)  # fmt: skip
def test_lines_share_what_stands_before_with_and_nothing_else(argv, monkeypatch):
    def told(words):
        try:
            return planned(script.ex, ["expt_dln.py", *words])
        except ConfigError as error:
            return str(error)

    told([word.replace("5", "6") for word in argv])
    shared = told(argv)
    monkeypatch.setattr("llc.tracking.planning._read", commandline.read)
    assert shared == told(argv)
    assert isinstance(shared, str) or SEED[1] not in argv or shared[0]["seed"] == 5


def test_a_run_records_the_text_that_went_in(tmp_path, monkeypatch):
    """From the generator through file, shlex, docopt, Sacred and the strict config to disk."""
    monkeypatch.chdir(tmp_path)
    Path("expt_dln.py").symlink_to(ROOT / "expt_dln.py")
    name = ' it\'s "50%" [$HOME] #1\n\tNone λ̂ \\ `id` \u2028\x85\0 '
    line = command("expt_dln.py", ["-F", " $x %A/日 本"], {**TINY, "expt_name": name})
    files.write([line], Path("sub/lines.txt"))
    (read,) = files.read(Path("sub/lines.txt"))
    assert execute(script.ex, files.words(read, 1)[1:]) == 0
    (run,) = Path(" $x %A/日 本").glob("1")
    config = json.loads((run / "config.json").read_text())
    assert config["expt_name"] == name
    assert status([read])[0].state == "done"


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, np.float64(1.0), np.int64(1), {"a": 1}, b"x", {1}, [math.nan]]
)
def test_what_would_not_come_back_is_refused(value):
    with pytest.raises(ValueError, match=r"^some\.key="):
        command("x.py", [], {"some.key": value})


@pytest.mark.parametrize("key", ["", "a b", "a=b", "a.", "-a", "1a", "é"])
def test_keys_that_are_none_are_refused(key):
    with pytest.raises(ValueError, match="must look like"):
        command("x.py", [], {key: 1})


def test_a_line_is_one_line():
    with pytest.raises(ValueError, match="line break"):
        command("x.py", ["-F", "a\nb"], {})


def test_lines_are_easy_to_read():
    config = {"expt_name": "try", "optim": "sgd", "momentum": None, "lr": 5e-09, "on": True}
    line = command("x.py", ["-F", "./outputs/dln/"], {**config, "widths": (2, 3), "label": "a b"})
    assert line == (
        "python x.py -F ./outputs/dln/ with expt_name=try optim=sgd momentum=None lr=5e-09 on=True "
        """'widths=[2, 3]' 'label="a b"'"""
    )
    assert literal([1, "a", ("b", None)]) == '[1, "a", ["b", None]]'


def test_a_file_is_not_overwritten_unasked(tmp_path, capsys):
    path = tmp_path / "new" / "lines 1.txt"
    assert generating.deliver(["a", "b"], path, False) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"2 commands in {path}; to run them:",
        f"  sbatch --array=1-2%20 job.slurm '{path}'",
    ]
    assert path.read_text() == "a\nb\n"
    assert generating.deliver(["c"], path, False) == 2
    assert capsys.readouterr().err == f"error: {path} is there already: add y to overwrite it\n"
    assert path.read_text() == "a\nb\n"
    assert generating.deliver(["c"], path, True) == 0
    assert path.read_text() == "c\n"
    assert generating.deliver(["c"], path / "below", False) == 2
    assert "cannot be written" in capsys.readouterr().err


def run_line(directory, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "llc", "run-line", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_run_line_becomes_the_line(tmp_path):
    show = "import sys, os; print(sys.argv[1:], sys.executable, os.getpid()); sys.exit(7)"
    lines = ["python -c pass", f"python -c {shlex.quote(show)} 'a b' '$HOME' '%' λ"]
    files.write(lines, tmp_path / "lines.txt")
    process = run_line(tmp_path, "lines.txt", "2")
    out, _ = process.communicate(timeout=60)
    assert out == f"['a b', '$HOME', '%', 'λ'] {sys.executable} {process.pid}\n"
    assert process.returncode == 7


def test_a_signal_reaches_the_line_itself(tmp_path):
    (tmp_path / "lines.txt").write_text(
        "python -c 'print(1, flush=True); import time; time.sleep(60)'\n"
    )
    process = run_line(tmp_path, "lines.txt", "1")
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGUSR2)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGUSR2


REFUSED = [
    (["lines.txt", "0"], "line 0: lines.txt has lines 1 to 4"),
    (["lines.txt", "5"], "line 5: lines.txt has lines 1 to 4"),
    (["lines.txt", "-1"], "line -1: "),
    (["lines.txt", "2"], "line 2: is empty"),
    (["lines.txt", "3"], "No closing quotation"),
    (["lines.txt", "4"], "line 4: no-such-program: No such file"),
    (["none.txt", "1"], "none.txt: cannot be read (No such file or directory)"),
]


@pytest.mark.parametrize(("arguments", "problem"), REFUSED)
def test_lines_that_cannot_be_run_are_refused(arguments, problem, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("lines.txt").write_text("python -c pass\n\npython 'x\nno-such-program\n")
    assert llc(["run-line", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert problem in error
    assert error.count("\n") == 1


def test_the_table_of_commands(capsys):
    assert llc(["--help"]) == 0
    assert "run-line" in capsys.readouterr().out
    assert llc(["typo"]) == 2
    assert "status" in capsys.readouterr().err


def test_run_line_loads_nothing_heavy():
    """It stands before every single run, and on a file system shared by all of them."""
    code = "import llc.commands.running, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert not {"torch", "sacred", "numpy", "tqdm"} & {*done.stdout.split()}


def test_lines_run_beside_each_other_and_are_counted(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    # Two that wait for each other, and more than there are workers.
    meet = (
        "from pathlib import Path; import sys; Path(sys.argv[1]).touch()\n"
        "while not Path(sys.argv[2]).exists(): pass"
    )
    lines = [shlex.join(["python", "-c", meet, *pair]) for pair in ("xy", "yx")]
    lines += ["python -c 'import sys; sys.exit(\"bad luck\")'", "no-such-program", "python -c pass"]
    assert running.run_all(lines, 2) == 1
    out, err = capfd.readouterr()
    assert out == "5 commands: 3 with exit code 0, 1 with exit code 1, 1 with exit code 127\n"
    assert "line 3: exit code 1: bad luck" in err
    assert "line 4: exit code 127: No such file" in err
    assert running.run_all(["python -c pass"], 2) == 0


STOPPABLE = """
import signal, sys, time
from pathlib import Path
def stop(*_):
    time.sleep(0.5)
    Path(sys.argv[1] + ".ended").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, signal.SIG_IGN)
Path(sys.argv[1]).touch()
while True:
    time.sleep(0.01)
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_generator_that_is_stopped_leaves_no_run_behind(tmp_path, signum, code):
    lines = [shlex.join(["python", "-c", STOPPABLE, name]) for name in "abcd"]
    program = f"import sys; from llc.commands.running import run_all; sys.exit(run_all({lines}, 2))"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not ((tmp_path / "a").exists() and (tmp_path / "b").exists()):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signum)
    time.sleep(0.1)
    process.send_signal(signum)  # an impatient user does not cut them off
    _, errors = process.communicate(timeout=60)  # its runs hold stderr of their own
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    # It waited for those under way to end in their own manner; the others never began.
    assert {file.name for file in tmp_path.iterdir()} == {"a", "a.ended", "b", "b.ended"}


def nested(config):
    result = {}
    for key, value in config.items():
        *groups, last = key.split(".")
        group = result
        for name in groups:
            group = group.setdefault(name, {})
        group[last] = value
    return result
