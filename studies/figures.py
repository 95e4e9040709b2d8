"""Every figure from nothing: the runs that are missing, then every notebook on their records.

    python -m studies.figures [--workers 2]        # also `make figures`
    python -m studies.figures --lines              # prints what stands in studies/figures.txt
    python -m studies.figures --publish            # copies the figures of docs/results.md there

The runs are reduced versions of all experiments, a line each in `studies/figures.txt`. A run that
is recorded under `outputs/figures` is not made again, one that was stopped goes on. The notebooks
write `figures/*.png` and `figures/*.pdf`; as executed, they are in `figures/` too.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from time import perf_counter

import gen_commands_expt_dln as dln
import gen_commands_expt_sampler_benchmark as benchmark
from llc.commands import files
from llc.commands.lines import command, draws, grid
from llc.commands.running import run_all
from llc.commands.status import AGAIN, status

ROOT = Path(__file__).parents[1]
LINES = ROOT / "studies" / "figures.txt"
NOTEBOOKS = ROOT / "notebooks"
TARGET = ROOT / "figures"
PUBLISHED = ROOT / "docs" / "figures" / "results"
WORKERS = 2

# How many networks of the paper's size classes, and of how many steps.
NETWORKS = {"1k": (10, 10_000), "10k": (6, 5000), "100k": (3, 1000)}
SADDLE = {"logging_period": 100, "seed": [42, 43, 44]}
RESCALING = {
    "widths": [[10, 20, 10]],
    "sgld_config.num_steps": 1500,
    "sgld_config.burn_in_prop": 0.5,
}
CLASSIFIER = {
    "model_data_config.data_name": "digits",
    "sgld_config.epsilon": 1e-5,
    "sgld_config.gamma": 100.0,
    "sgld_config.num_steps": 150,
    "sgld_config.burn_in_prop": 0.5,
    "sgld_config.batch_size": 256,
    "training_config.batch_size": 128,
    "training_config.num_steps": 600,
    "logging_period": 100,
}
SWEEPS = {
    "learning_rate": {
        "model_data_config.layer_width_factor": 4,
        "training_config.learning_rate": [0.01, 0.05, 0.25],
    },
    "batch_size": {
        "model_data_config.model_name": "mlp",
        "model_data_config.layer_width_factor": 16,
        "training_config.learning_rate": 0.05,
        "training_config.batch_size": [16, 64, 256],
    },
}


def lines() -> list[str]:
    """The command of every run, the longest first."""
    return [
        *_study("mala_vs_sgld"),
        *_lines("expt_rescaling_invariance.py", "rescaling", RESCALING),
        *(line for size in reversed(NETWORKS) for line in _networks(size)),
        *(
            line
            for sweep, own in SWEEPS.items()
            for line in _lines(
                "expt_llc_curve.py", f"curve_{sweep}", {**CLASSIFIER, **own, "seed": [0, 1, 2]}
            )
        ),
        *_lines("expt_dln_saddle_dynamics.py", "saddle", SADDLE),
        *_study("samplers_quick"),
    ]


def _networks(size: str) -> list[str]:
    count, steps = NETWORKS[size]

    def draw(random: Random) -> dict:
        own = dln.draw(random, dln.SIZE_CLASSES[size])
        shorter = {"sgld_config.num_steps": steps, "training_config.num_steps": 2000}
        return {**own, "num_training_data": 100_000, **shorter}

    name = f"dln_{size}"
    return [
        command("expt_dln.py", _place(name), {"expt_name": name, **config, "seed": k})
        for k, config in enumerate(draws(draw, count, dln.DRAW_SEED))
    ]


def _lines(script: str, name: str, config: dict) -> list[str]:
    return [command(script, _place(name), {"expt_name": name, **chosen}) for chosen in grid(config)]


def _study(name: str) -> list[str]:
    study = benchmark.read_study(ROOT / "studies" / f"{name}.yaml")
    return [
        command("expt_sampler_benchmark.py", _place(name), {"expt_name": name, **run.updates})
        for run in study
    ]


def _place(name: str) -> list[str]:
    return ["-F", f"outputs/figures/{name}"]


def missing(texts: Sequence[str]) -> list[str]:
    """The lines that have to run, from the first or on from where they were stopped."""
    return [line.text for line in status(texts) if line.state in AGAIN]


def execute(notebook: Path) -> None:
    """Run a notebook where it stands; what it shows is kept beside the figures."""
    import papermill

    TARGET.mkdir(exist_ok=True)
    papermill.execute_notebook(
        notebook, TARGET / notebook.name, cwd=notebook.parent, progress_bar=False
    )


def publish(made: Path) -> None:
    """Copy the figures that the documentation shows."""
    for picture in PUBLISHED.glob("*.png"):
        shutil.copyfile(made / picture.name, picture)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and all notebooks; 1 where a run failed, whose absence is drawn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=min(WORKERS, os.cpu_count() or 1))
    parser.add_argument("--lines", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--publish", action="store_true", help="copy the figures, run nothing")
    chosen = parser.parse_args(argv)
    if chosen.publish:
        publish(TARGET)
        return 0
    if chosen.lines:
        print(*lines(), sep="\n")
        return 0
    start = perf_counter()
    left = missing(files.read(LINES))
    print(f"{len(left)} runs to make", flush=True)
    code = run_all(left, chosen.workers) if left else 0
    if code > 1:  # a signal
        return code
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        print(f"{notebook.name}", flush=True)
        execute(notebook)
    count = len([*TARGET.glob("*.png")])
    print(f"{count} figures in {TARGET.name}/ after {perf_counter() - start:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
