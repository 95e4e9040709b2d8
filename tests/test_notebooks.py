"""The notebooks: stored clean, and every one executes on records made a moment before."""

import re
from pathlib import Path

import nbformat
import papermill
import pytest
from PIL import Image

import expt_dln
import expt_dln_saddle_dynamics
import expt_llc_curve
import expt_rescaling_invariance
import expt_sampler_benchmark
from llc.tracking.commandline import execute

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
NAMES = {
    "MALA_vs_SGLD", "hyperparam_tuning", "plots_final", "quickstart", "rescaling_invariance",
    "sampler_benchmark",
}  # fmt: skip
DRAWN = {  # with the records below, by notebook
    "plots_final": {
        "llc_against_lambda", "llc_against_lambda_by_size", "llc_against_lambda_trained",
        "multiplicities", "traces", "rescaling", "mala_vs_sgld", "saddle_saddle",
        "curve_learning_rate", "curve_batch_size",
    },
    "MALA_vs_SGLD": {"mala_vs_sgld"},
    "rescaling_invariance": {"rescaling"},
    "sampler_benchmark": {"samplers"},
    "hyperparam_tuning": {"calibration", "llc_by_gamma"},
    "quickstart": set(),
}  # fmt: skip

NOT_OF_RUNS = {"calibration", "llc_by_gamma"}  # drawn from a session's own estimates

DLN = "num_training_data=400 sgld_config.num_steps=60 sgld_config.batch_size=50 do_training=True "
DLN += "training_config.num_steps=20 training_config.batch_size=50"
SADDLE = "num_training_data=200 training_config.num_steps=40 logging_period=10 "
SADDLE += "sgld_config.num_steps=20 sgld_config.epsilon=1e-6"
CURVE = "model_data_config.data_name=digits model_data_config.model_name=mlp "
CURVE += "model_data_config.layer_width_factor=4 training_config.num_steps=20 logging_period=10 "
CURVE += "sgld_config.num_steps=10 sgld_config.burn_in_prop=0.5 sgld_config.batch_size=100"
RESCALING = "num_scales=3 num_training_data=200 sgld_config.num_steps=40 sgld_config.num_chains=2 "
RESCALING += "sgld_config.batch_size=50 sgld_config.burn_in_prop=0.5"
PERCEPTRON = "do_plot=False problem_config.name=relu_mlp problem_config.in_dim=3 "
PERCEPTRON += "problem_config.target_params=20 problem_config.noise_std=0 "
PERCEPTRON += "problem_config.erm_steps=0 sgld_config.num_steps=40 sgld_config.num_chains=2 "
PERCEPTRON += "sgld_config.batch_size=20 sgld_config.epsilon=1e-3"
RUNS = [  # script, name of the experiment, the rest
    (expt_dln, "dln_1k", DLN + " sgld_config.epsilon=1e-6"),
    (expt_dln, "dln_10k", DLN + " sgld_config.epsilon=1e-6 layer_widths='[20,20]'"),
    (expt_dln, "dln_1k", DLN + " sgld_config.epsilon=1.0 seed=1"),  # diverges
    (expt_dln_saddle_dynamics, "saddle", SADDLE),
    *(
        (expt_llc_curve, "curve_learning_rate", f"{CURVE} training_config.learning_rate={rate}")
        for rate in (0.01, 0.1)
    ),
    *(
        (expt_llc_curve, "curve_batch_size", f"{CURVE} training_config.batch_size={size}")
        for size in (32, 64)
    ),
    (expt_rescaling_invariance, "rescaling", RESCALING),
    *(
        (
            expt_sampler_benchmark,
            "mala_vs_sgld",
            f"{PERCEPTRON} problem_config.num_training_data={n} sampler_config.name={name}",
        )
        for n in (40, 80)
        for name in ("sgld", "mala")
    ),
]
SHORT = {
    "hyperparam_tuning": {
        "num_draws": 1000, "gammas": [10.0], "training_steps": 20, "companions": False,
    },
    "quickstart": {"num_draws": 1000, "companions": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Make tiny runs of every experiment; one diverges, and the record of another is not whole."""
    place = tmp_path_factory.mktemp("records")
    for script, name, words in RUNS:
        updates = [word.replace("'", "") for word in words.split()]
        target = str(place / name)
        arguments = [f"{script.__name__}.py", "-F", target, "with", f"expt_name={name}", *updates]
        assert execute(script.ex, arguments) == 0
    broken = place / "dln_1k" / "77"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    return place


def runs_of(picture):
    """How many runs a picture says that it was drawn from."""
    with Image.open(picture) as image:
        about = image.text["Description"]
    return 0 if about.startswith("no recorded runs") else int(about.split()[0])


def load(notebook):
    return nbformat.read(notebook, as_version=4)


def test_all_notebooks_are_there():
    assert {notebook.stem for notebook in NOTEBOOKS} == NAMES


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_clean(notebook):
    """No output, no counts, no trace of who ran it: what changes in git is what they say."""
    content = load(notebook)
    nbformat.validate(content)
    assert content.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    first, *others = content.cells
    assert first.metadata == {"tags": ["parameters"]}
    assert all(cell.metadata == {} for cell in others)
    for cell in content.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_executes(notebook, records, tmp_path):
    """As `make figures` runs it, on the records of the fixture."""
    directory = tmp_path / "figures"
    parameters = dict(SHORT.get(notebook.stem, {}))
    source = next((cell.source for cell in load(notebook).cells), "")
    if "figures_directory" in source:
        parameters["figures_directory"] = str(directory)
    if own := re.search(r'directory_paths = \["../outputs/figures(.*)"\]', source):
        name = "/mala_vs_sgld" if notebook.stem == "sampler_benchmark" else own[1]
        parameters["directory_paths"] = [f"{records}{name}"]
    target = tmp_path / notebook.name
    papermill.execute_notebook(
        notebook, target, parameters, cwd=notebook.parent, progress_bar=False
    )
    drawn = {path.stem for path in directory.glob("*.png")}
    without_data = {path.stem for path in directory.glob("*.png") if runs_of(path) == 0}
    assert without_data == drawn & NOT_OF_RUNS
    assert drawn == DRAWN[notebook.stem] == {path.stem for path in directory.glob("*.pdf")}
    shown = [o for c in load(target).cells if c.cell_type == "code" for o in c.outputs]
    assert any({"image/png", "text/html"} & set(o.get("data", {})) for o in shown)
    assert [o["text"] for o in shown if o.get("name") == "stderr"] == []
