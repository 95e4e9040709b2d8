"""`make figures` and `make paper`: lines that the scripts take, and what they cost."""

import json
import re

import nbformat
import pytest

from llc.commands import files
from llc.commands.status import Line
from llc.tracking import planned
from studies import figures, paper

EXPERIMENTS = {name: ex for name, (ex, _) in paper.EXPERIMENTS.items()}
TEXT = files.read(figures.LINES)


def config_of(line):
    """The strict configuration of a line, and where it records."""
    python, script, *arguments = files.words(line, 1)
    assert python == "python"
    config, options = planned(EXPERIMENTS[script], [script, *arguments])
    return {**config, "script": script, "place": options["--file_storage"]}


def test_the_file_holds_what_the_module_makes():
    """After a change of the module: `python -m studies.figures --lines > studies/figures.txt`."""
    assert figures.lines() == TEXT


def test_every_line_is_a_run_of_its_own_below_one_directory():
    configs = [config_of(line) for line in TEXT]
    assert len({json.dumps(config, sort_keys=True) for config in configs}) == len(TEXT)
    assert {c["place"] for c in configs} == {f"outputs/figures/{c['expt_name']}" for c in configs}
    assert {c["script"] for c in configs} == {*EXPERIMENTS}


def test_notebooks_ask_for_experiments_that_are_made():
    made = {config_of(line)["expt_name"] for line in TEXT}
    asked = {}
    for notebook in figures.NOTEBOOKS.glob("*.ipynb"):
        exec(nbformat.read(notebook, as_version=4).cells[0].source, found := {})
        asked[notebook.stem] = found
    final = asked["plots_final"]
    names = {*final["dln_expts"], *final["expts"], final["rescaling_expt"], final["mala_expt"]}
    names |= {record["expt_name"] for record in final["EXPERIMENT_RECORDS"]}
    assert names <= made
    places = [p for found in asked.values() for p in found.get("directory_paths", ())]
    assert {p.removeprefix("../outputs/figures").strip("/") for p in places} - {""} <= made


def test_only_what_is_missing_runs_and_every_notebook(monkeypatch, capsys):
    ran, executed = [], []
    monkeypatch.setattr(figures, "missing", lambda lines: [*lines][:3])
    monkeypatch.setattr(figures, "run_all", lambda lines, workers: ran.extend(lines) or 1)
    monkeypatch.setattr(figures, "execute", executed.append)
    assert figures.main(["--workers", "2"]) == 1  # a run failed: the figures are drawn all the same
    assert ran == TEXT[:3]
    assert [path.suffix for path in executed] == [".ipynb"] * 6
    assert "3 runs to make" in capsys.readouterr().out


def test_what_is_recorded_is_not_made_again(monkeypatch):
    states = {"a": "done", "b": "missing", "c": "interrupted", "d": "running", "e": "failed"}
    monkeypatch.setattr(figures, "status", lambda texts: [Line(t, states[t]) for t in texts])
    assert figures.missing([*states]) == ["b", "c", "e"]


def test_the_papers_files_are_the_generators_lines():
    found = paper.command_files()
    assert len(found["dln_100M"]) == 100
    assert len(found["llc_curve_momentum"]) == 50
    assert len(found["mala_vs_sgld_full"]) == 70


@pytest.mark.parametrize("name", ["dln_1k", "dln_saddle_dynamics", "llc_curve_l2",
                                  "rescaling_invariance", "mala_vs_sgld_full"])  # fmt: skip
def test_every_line_of_the_paper_has_a_cost(name):
    first, *_, last = paper.command_files()[name]
    assert 0 < paper.hours(first) < 1000
    assert 0 < paper.hours(last) < 1000


def test_costs_are_the_measured_ones_where_they_were_measured():
    assert paper.linear_step([10, 50, 10]) == pytest.approx(1.1e-4)
    widths = [185, 259, 286, 885, 235, 204, 274, 252]  # W2
    assert paper.linear_step(widths) == pytest.approx(4.3e-3, rel=1e-3)
    assert paper.linear_step([1000, 1512, 1000]) == pytest.approx(4 * 4.3e-3, rel=1e-3)
    # docs/rescaling.md: 83 s for 1,500 steps of five repeats, 17 scales and three modes.
    config = {"widths": [10, 20, 10], "num_scales": 17, "modes": ["a", "b", "c"],
              "sgld_config": {"num_steps": 1500, "num_chains": 5, "batch_size": 500}}  # fmt: skip
    assert paper.rescaling_seconds(config) == pytest.approx(83, rel=0.15)


def test_pictures_of_the_documentation_are_there_and_small():
    for page in [figures.ROOT / "README.md", *figures.ROOT.glob("docs/*.md")]:
        for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / name).stat().st_size < 500_000, f"{page.name}: {name}"


def test_publishing_renews_what_is_shown(tmp_path, monkeypatch):
    made, shown = tmp_path / "made", tmp_path / "shown"
    for place, names in ((made, "ab"), (shown, "b")):
        place.mkdir()
        for name in names:
            (place / f"{name}.png").write_text(place.name)
    monkeypatch.setattr(figures, "PUBLISHED", shown)
    figures.publish(made)
    assert {path.name: path.read_text() for path in shown.iterdir()} == {"b.png": "made"}
