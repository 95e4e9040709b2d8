"""Studies of samplers: from a file to lines, and what is recorded already is left out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mongo_server import Server

import expt_sampler_benchmark as benchmark
import gen_commands_expt_sampler_benchmark as generator
from llc.commands import files
from llc.commands.studies import read_study
from llc.config import ConfigError
from llc.tracking import planned
from llc.tracking.commandline import execute
from llc.tracking.versions import code_version

ROOT = Path(__file__).resolve().parents[1]
STUDY = """
base: {do_plot: false, sgld_config: {num_steps: 200, num_chains: 2, batch_size: 20}}
problems:
  quadratic: {target_params: 5, num_training_data: 100, seed: 3}
  line: {name: dln, target_params: 12, num_training_data: 100, samplers: {hmc: {num_steps: 20}}}
samplers:
  hmc: {num_steps: 40}
  plain: {name: sgld, sgld_config.epsilon: 1e-3}
  rms: {name: sgld, preconditioner: rmsprop, sgld_config: {epsilon: auto, num_steps: 4000}}
  gibbs: {num_steps: 30, only: [line]}
seeds: [0, 1]
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Write a study and work in its directory."""
    monkeypatch.chdir(tmp_path)

    def write(text=STUDY, name="small.yaml"):
        (tmp_path / name).write_text(text if isinstance(text, str) else json.dumps(text))
        return Path(name)

    return write


def configs(lines):
    """What the script makes of every line."""
    found = []
    for line in lines:
        python, script, *arguments = files.words(line, 1)
        assert (python, script) == ("python", "expt_sampler_benchmark.py")
        found.append(planned(benchmark.ex, [script, *arguments])[0])
    return found


def wrong(study, text, name="small.yaml"):
    """The one line that a wrong study gives, before anything is written."""
    with pytest.raises(ConfigError) as error:
        read_study(study(text, name))
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{name}: ")
    return line.removeprefix(f"{name}: ")


# --- from YAML to lines ---------------------------------------------------------------------------


def test_every_problem_with_every_sampler_and_seed(study):
    found = configs(generator.commands(study()))
    pairs = [(c["seed"], c["problem_config"]["name"], c["sampler_config"]["name"]) for c in found]
    own = [("quadratic", name) for name in ("hmc", "sgld", "sgld")]
    own += [("dln", name) for name in ("hmc", "sgld", "sgld", "gibbs")]
    assert pairs == [(seed, *pair) for seed in (0, 1) for pair in own]


def test_what_stands_further_down_wins(study):
    hmc, plain, rms, hmc_on_line, *_ = configs(generator.commands(study()))
    assert hmc["problem_config"]["seed"] == 3
    assert hmc["sampler_config"]["num_steps"] == 40
    assert hmc_on_line["sampler_config"]["num_steps"] == 20
    assert plain["sgld_config"]["epsilon"] == 1e-3  # a number, although YAML 1.1 reads it as text
    assert (plain["sgld_config"]["num_steps"], rms["sgld_config"]["num_steps"]) == (200, 4000)
    assert (rms["sgld_config"]["epsilon"], rms["sampler_config"]["preconditioner"]) == (
        "auto", "rmsprop",
    )  # fmt: skip
    assert {c["sgld_config"]["batch_size"] for c in (hmc, plain, rms)} == {20}
    assert {c["expt_name"] for c in (hmc, plain, rms)} == {"small"}


def test_seeds_may_change_what_they_like(study):
    text = STUDY.replace("[0, 1]", "{4: {problem_config.seed: 8}, 5: {}}")
    found = configs(generator.commands(study(text)))
    seeds = {(c["seed"], c["problem_config"]["seed"]) for c in found}
    assert seeds == {(4, 8), (5, 3), (5, 0)}  # quadratic has seed 3 of its own, the other 0


def test_a_gpu_is_for_the_machine_that_runs_the_line(study):
    found = configs(generator.commands(study(STUDY.replace("base: {", "base: {device: cuda, "))))
    assert {c["device"] for c in found} == {"cuda"}


# --- from JSON to lines ---------------------------------------------------------------------------


def test_a_list_of_settings(study):
    settings = [{"name": "hmc", "num_steps": 40}, {"sgld_config.epsilon": 1e-3}]
    grid = {
        "base": {"do_plot": False},
        "problem": {"name": "tanh", "num_training_data": 50, "sgld_config": {"batch_size": 10}},
        "samplers": settings,
        "seeds": [0, 7],
    }
    found = configs(generator.commands(study(grid, "grid.json")))
    assert [(c["seed"], c["sampler_config"]["name"]) for c in found] == [
        (0, "hmc"), (0, "sgld"), (7, "hmc"), (7, "sgld"),
    ]  # fmt: skip
    assert {c["problem_config"]["name"] for c in found} == {"tanh"}
    assert {c["sgld_config"]["batch_size"] for c in found} == {10}
    assert configs(generator.commands(study(settings, "bare.json")))[0]["seed"] == 0


def test_every_combination_of_lists(study):
    lists = {"name": ["hmc", "nuts"], "target_acceptance": [0.7, 0.8, 0.9], "adapt_mass": True}
    found = [c["sampler_config"] for c in configs(generator.commands(study(lists, "grid.json")))]
    assert [(c["name"], c["target_acceptance"]) for c in found] == [
        (name, target) for name in ("hmc", "nuts") for target in (0.7, 0.8, 0.9)
    ]
    assert all(c["adapt_mass"] for c in found)


# --- wrong studies --------------------------------------------------------------------------------

BAD = {
    "num_steps: 40}": ("num_step: 40}", "num_step: unknown key (did you mean 'num_steps'?"),
    "target_params: 5,": ("rank: 2,", "rank=2: would be ignored with name='quadratic'"),
    "{num_steps: 40}": ("{friction: 0.1}", "friction=0.1: would be ignored with name='hmc'"),
    "only: [line]": ("only: [lines]", "lines: unknown (did you mean 'line'?"),
    "samplers: {hmc: {": ("samplers: {gibs: {", "gibs: unknown (did you mean 'gibbs'?"),
    "gibbs: {num_steps: 30, only: [line]}": ("gibbs: {}", "deep linear networks only"),
    "[0, 1]": ("[0, 0]", "stands twice"),
    "seeds: [0, 1]": ("seeds: []", "seeds: there are none"),
    "base: {": ("base: {seed: 1, ", "seed stands under seeds"),
    "  plain:": ("  hmc:", "hmc: stands twice"),
    "seed: 3}": ("problem_config.seed: 2, seed: 3}", "problem_config.seed: stands twice"),
    "problems:": ("problem:", "problem: unknown (did you mean 'problems'?"),
    "1e-3": ("-1e-3", "epsilon=-0.001: must be a finite number > 0"),
    "sgld_config: {epsilon": (
        "sgld_config: 3, ignored: {epsilon",
        "sgld_config=3: must be a group",
    ),
    "  gibbs: {num_steps: 30, only: [line]}": (
        "  again: {name: hmc, num_steps: 40}",
        "is the same",
    ),
    "base: {do": ("base: {{do", "cannot be read"),
}


@pytest.mark.parametrize(("before", "after", "says"), [(k, *v) for k, v in BAD.items()])
def test_a_wrong_study_is_one_line(study, before, after, says):
    assert before in STUDY
    assert says in wrong(study, STUDY.replace(before, after, 1))


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("{}", "small.yaml", "problems: must be keys with values"),
        ("", "small.yaml", "a study: must be keys with values"),
        ('[{"name": "hmc"}, {"name": "hmc"}]', "a.json", "sampler 2, seed 0: is the same run as"),
        ('{"name": ["hmc"], "name": ["nuts"]}', "a.json", "name: stands twice"),
        ('{"samplers": 3}', "a.json", "samplers: must be a list of settings"),
        ('{"name": ["hmc"], "preconditioner": "adam"}', "a.json", "ignored with name='hmc'"),
        ("[", "a.json", "cannot be read"),
        ("", "study.txt", "must be a study, *.yaml, or a grid, *.json"),
    ],
)  # fmt: skip
def test_no_study_at_all(study, text, name, says):
    assert says in wrong(study, text, name)


def test_two_samplers_that_differ_only_in_what_neither_reads(study):
    same = "same: {name: hmc, num_steps: 40, sgld_config.epsilon: 1e-2}"
    text = STUDY.replace("gibbs: {num_steps: 30, only: [line]}", same)
    assert "sampler same, seed 0: is the same run as" in wrong(study, text)


def test_errors_of_the_command(study, capsys):
    assert generator.main([str(study("{}")), "lines.txt"]) == 2
    assert generator.main(["missing.yaml", "lines.txt"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[1:] == ["error: missing.yaml: cannot be read (No such file or directory)"]
    assert not Path("lines.txt").exists()


# --- the command, and what it leaves out ----------------------------------------------------------


def test_as_a_user_runs_it(study, tmp_path):
    study()
    script = ROOT / "gen_commands_expt_sampler_benchmark.py"
    done = subprocess.run(
        [sys.executable, script, "small.yaml", "lines.txt"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (
        0, "0 of 14 runs are completed in ./outputs/small/ and left out (--force keeps them)\n",
    )  # fmt: skip
    assert Path("lines.txt").read_text().splitlines() == generator.commands(Path("small.yaml"))
    assert "--array=1-14%20" in done.stdout


def test_print_writes_nothing(study, capsys):
    assert generator.main([str(study()), "lines.txt", "--print"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 14
    assert not Path("lines.txt").exists()


def test_without_path_they_run_here(study, monkeypatch):
    ran = []
    monkeypatch.setattr(generator, "run_all", lambda lines, _: ran.extend(lines) or 0)
    assert generator.main([str(study())]) == 0
    assert len(ran) == 14


def start(line):
    """Run a line in this process."""
    return execute(benchmark.ex, files.words(line, 1)[1:])


def left(lines, *options):
    """What the generator writes now."""
    assert generator.main([str(lines), "out.txt", "y", *options]) == 0
    return Path("out.txt").read_text().splitlines()


def test_completed_runs_are_left_out(study, capsys, monkeypatch):
    lines = generator.commands(study())
    hmc, plain, *rest = lines
    assert start(hmc) == 0
    assert left("small.yaml") == [plain, *rest]
    assert "1 of 14 runs are completed in ./outputs/small/" in capsys.readouterr().err
    assert left("small.yaml", "--force") == lines
    # What HMC does not read changes nothing; what it reads does.
    assert len(left(study(STUDY.replace("batch_size: 20", "batch_size: 10")))) == 13
    assert len(left(study(STUDY.replace("num_steps: 40", "num_steps: 41")))) == 14
    # A run that failed is to be made again, and so is everything after a change of the code.
    monkeypatch.setattr(benchmark, "estimate_one", lambda *_, **__: 1 / 0)
    assert start(plain) == 1
    assert left(study()) == [plain, *rest]
    monkeypatch.setattr(generator, "code_version", lambda: "another")
    assert left(study()) == lines


def test_a_run_that_diverged_is_not_made_again(study):
    lines = generator.commands(study(STUDY.replace("1e-3", "1e3")))
    assert start(lines[1]) == 0
    (info,) = [json.loads(p.read_text()) for p in Path("outputs/small").glob("[0-9]*/info.json")]
    assert info["llc_mean"] is None
    assert left("small.yaml") == [lines[0], *lines[2:]]


def test_nothing_left(study, capsys):
    one = {"base": {"do_plot": False, "sgld_config": {"num_steps": 20}}, "samplers": [{}]}
    path = study(one, "one.json")
    (line,) = generator.commands(path)
    assert start(line) == 0
    assert left(path) == []
    assert generator.main([str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 commands in out.txt"


def test_the_recorded_hash_is_that_of_the_line(study):
    run = read_study(study())[0]
    assert start(generator.commands(Path("small.yaml"))[0]) == 0
    info = json.loads(Path("outputs/small/1/info.json").read_text())
    assert info["run_hash"] == run.config.run_hash(code_version())
    assert info["run_family_id"] == run.config.family


def test_families_are_what_may_be_compared(study):
    runs = read_study(study())
    families = {(run.config.problem_config.name, run.config.family) for run in runs}
    assert len(families) == 2  # whatever the sampler, its settings and the seed

    def changed(before, after):
        return {run.config.family for run in read_study(study(STUDY.replace(before, after)))}

    own = {family for _, family in families}
    assert changed("num_steps: 200", "num_steps: 300") == own
    for before, after in [
        ("seed: 3", "seed: 4"),
        ("num_training_data: 100, seed", "num_training_data: 101, seed"),
        ("target_params: 5", "target_params: 6"),
    ]:
        assert len(changed(before, after) & own) == 1
    for change in ("itemp: 0.5", "sgld_config.gamma: 2.0"):
        assert not changed("base: {", f"base: {{{change}, ") & own


def test_runs_in_a_database(study, tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    try:
        monkeypatch.setattr(generator, "MONGO_SERVER", f"127.0.0.1:{server.port}")
        path = study(name="sweep.yaml")
        lines = generator.commands(path, "mongo")
        assert start(lines[0]) == 0
        assert left(path, "--observer", "mongo") == lines[1:]
    finally:
        server.stop()
    assert generator.main([str(path), "other.txt", "--observer", "mongo"]) == 2
    assert generator.main([str(path), "other.txt", "--observer", "mongo", "--force"]) == 0
