"""The generators: every line is one that its script takes, and the same each time."""

import subprocess
import sys
from pathlib import Path

import pytest

import expt_dln
import expt_dln_saddle_dynamics
import expt_llc_curve
import expt_rescaling_invariance
import gen_commands_expt_dln as gen_dln
import gen_commands_expt_dln_saddle_dynamics as gen_saddle
import gen_commands_expt_llc_curve as gen_curve
import gen_commands_expt_rescaling_invariance as gen_rescaling
from llc.commands import files
from llc.tracking import planned

ROOT = Path(__file__).resolve().parents[1]
SIZES = [None, "1k", "10k", "100k", "1M", "10M", "100M"]
SWEEPS = {None: 5, "learning_rate": 25, "batch_size": 35, "momentum": 50, "l2": 30}


def configs(lines, module):
    """The strict configuration of every line."""
    assert len({*lines}) == len(lines)
    result = []
    for line in lines:
        python, script, *arguments = files.words(line, 1)
        assert (python, script) == ("python", f"{module.__name__}.py")
        result.append(planned(module.ex, [script, *arguments])[0])
    return result


@pytest.mark.parametrize("size_class", SIZES)
def test_dln_lines_are_draws_from_the_papers_ranges(size_class):
    found = configs(gen_dln.commands(size_class), expt_dln)
    size = gen_dln.SIZE_CLASSES.get(size_class, gen_dln.Size())
    assert len(found) == 100
    assert [config["seed"] for config in found] == list(range(100))
    depths = [len(config["layer_widths"]) for config in found]
    widths = [w for config in found for w in (config["input_dim"], *config["layer_widths"])]
    assert (min(depths), max(depths)) == size.layers  # 100 draws from at most 39 depths …
    assert size.widths[0] <= min(widths) <= max(widths) <= size.widths[1]
    for config in found:
        assert config["num_training_data"] == size.num_data
        assert config["do_training"]
        sgld = {"epsilon": size.epsilon, "num_steps": size.num_steps, "gamma": 1.0}
        assert config["sgld_config"].items() >= {**sgld, "batch_size": 500}.items()
        assert config["true_param_config"]["method"] == "rand_rank"
        assert config["true_param_config"]["prop_rank_reduce"] == 0.5
        assert config["training_config"]["num_steps"] == 50_000


def test_dln_constants_are_the_references():
    assert gen_dln.Size() == ((25, 50), (1000, 2000), 5e-9, 200_000, 1_000_000)


@pytest.mark.parametrize(("sweep", "count"), SWEEPS.items())
def test_curve_lines(sweep, count):
    found = configs(gen_curve.commands(sweep), expt_llc_curve)
    assert len(found) == count
    assert {config["seed"] for config in found} == {0, 1, 2, 3, 4}
    assert {config["sgld_config"]["epsilon"] for config in found} == {
        5e-8 if sweep == "l2" else 2e-7
    }


def test_adam_has_no_momentum(monkeypatch):
    both = {"training_config.optim": ["sgd", "adam"], "training_config.momentum": [None, 0.9]}
    monkeypatch.setattr(gen_curve, "config", {**gen_curve.config, **both, "seed": [0]})
    training = [c["training_config"] for c in configs(gen_curve.commands(), expt_llc_curve)]
    assert [(c["optim"], c["momentum"]) for c in training] == [
        ("sgd", None), ("sgd", 0.9), ("adam", None),
    ]  # fmt: skip


def test_saddle_lines():
    found = configs(gen_saddle.commands(), expt_dln_saddle_dynamics)
    assert {(c["width"], c["seed"]) for c in found} == {
        (width, seed) for width in (10, 50, 100) for seed in range(42, 47)
    }


def test_rescaling_lines_are_the_references():
    found = configs(gen_rescaling.commands(), expt_rescaling_invariance)
    assert [c["widths"] for c in found] == [[10, 20, 10], [20, 30, 20], [30, 40, 30]]


@pytest.mark.parametrize("generator", [gen_dln, gen_curve, gen_saddle, gen_rescaling])
def test_either_observer(generator):
    for kind, option in (("files", "-F"), ("mongo", "-m")):
        words = [files.words(line, 1) for line in generator.commands(kind=kind)]
        name = generator.EXPT_NAME
        place = f"./outputs/{name}/" if kind == "files" else f"localhost:27017:{name}"
        assert {tuple(w[2:4]) for w in words} == {(option, place)}


@pytest.mark.parametrize("generator", [gen_dln, gen_curve, gen_saddle, gen_rescaling])
def test_a_server_with_users(generator, monkeypatch):
    monkeypatch.setattr(generator, "MONGO_SERVER", "mongodb://me:pass@host:1")
    words = files.words(generator.commands(kind="mongo")[0], 1)
    assert words[2:4] == ["-m", f"mongodb://me:pass@host:1/{generator.EXPT_NAME}"]


@pytest.mark.parametrize("generator", [gen_dln, gen_curve, gen_saddle, gen_rescaling])
def test_a_generator_as_a_user_runs_it(generator, tmp_path):
    path = tmp_path / "sub" / "lines.txt"

    def run(*arguments):
        script = ROOT / f"{generator.__name__}.py"
        return subprocess.run(
            [sys.executable, script, *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    first = run(path)
    assert first.returncode == 0, first.stderr
    count = len(generator.commands())
    assert first.stdout == (
        f"{count} commands in {path}; to run them:\n"
        f"  sbatch --array=1-{count}%20 job.slurm {path}\n"
    )
    content = path.read_bytes()
    assert content.decode().splitlines() == generator.commands()
    path.write_text("mine\n")
    again = run(path)
    assert again.returncode == 2
    assert again.stderr == f"error: {path} is there already: add y to overwrite it\n"
    assert path.read_text() == "mine\n"
    assert run(path, "y").returncode == 0
    assert path.read_bytes() == content


def test_without_path_the_commands_run_here(monkeypatch, capsys):
    tiny = gen_dln.Size((1, 1), (2, 3), 1e-6, 20, 500)
    monkeypatch.setattr(gen_dln, "SIZE_CLASSES", {"tiny": tiny})
    ran = []
    monkeypatch.setattr(
        gen_dln, "run_all", lambda lines, workers: ran.append((lines, workers)) or 1
    )
    assert gen_dln.main(["--size-class", "tiny"]) == 1
    assert ran == [(gen_dln.commands("tiny"), 6)]
