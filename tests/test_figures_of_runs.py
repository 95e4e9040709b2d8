"""Figures of tables of runs tell the truth: broken, diverged, single, few and no runs."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from llc import figures
from llc.figures.tables import half_width

TRUTH = np.array([10.0, 20.0, 40.0, 80.0])


def linear(**changes):
    """Four runs of deep linear networks: two `ok`, one not converged, one diverged."""
    values = {
        "source": "runs",
        "directory": [f"runs/{k}" for k in range(4)],
        "id": list("1234"),
        "status": "COMPLETED",
        "commit": "0123456789abcdef",
        "dirty": False,
        "lambdahat": [10.5, 19.0, 30.0, None],
        "lambdahat_se": [0.1, 0.2, 3.0, None],
        "true_local_lambda": TRUTH,
        "true_multiplicity": [1, 1, 3, 1],
        "model_dim": [30, 60, 200, 1000],
        "sgld_status": ["ok", "ok", "not converged: ESS 3", "diverged at step 7: 1 of 1 chains"],
        "mala_acceptance_mean": [0.9, 0.95, 0.99, None],
    }
    return pd.DataFrame({**values, **changes})


def labels(ax):
    box = ax.get_legend()
    return [] if box is None else [text.get_text() for text in box.get_texts()]


def words(ax):
    return [text.get_text() for text in ax.texts]


def drawn_crosses(ax):
    """The places of all crosses."""
    return [x for line in ax.get_lines() if line.get_marker() == "x" for x in line.get_xdata()]


def drawn(function, *arguments, **options):
    figure, ax = figures.panels()
    function(ax, *arguments, **options)
    figure.savefig(io.BytesIO())  # warnings are errors, those of the layout too
    return ax


# --- λ̂ against λ ----------------------------------------------------------------------------------

DIVERGED = "no λ̂ (n = 1): 1 diverged"


@pytest.mark.parametrize("function", [figures.llc_against_lambda, figures.relative_errors])
def test_every_run_is_a_mark_or_a_cross(function):
    ax = drawn(function, linear())
    assert {"ok (n = 2)", "not ok (n = 1)", DIVERGED} <= set(labels(ax))
    assert drawn_crosses(ax) == [80.0]  # at its λ
    marks = [c for c in ax.collections if c.get_label().startswith(("ok", "not ok"))]
    assert [x for c in marks for x in c.get_offsets()[:, 0]] == [10, 20, 40]
    assert marks[1].get_facecolor().tolist() == [[1, 1, 1, 1]]  # hollow


def test_errors_are_signed():
    ax = drawn(figures.relative_errors, linear())
    marks = [c for c in ax.collections if c.get_label().startswith(("ok", "not ok"))]
    assert [y for c in marks for y in c.get_offsets()[:, 1]] == pytest.approx([5, -5, -25])


def test_bars_are_95_per_cent():
    ax = drawn(figures.llc_against_lambda, linear(), log=False)
    ends = [
        segment[:, 1] for c in ax.containers for line in c[2] for segment in line.get_segments()
    ]
    assert [(high - low) / 2 for low, high in ends] == pytest.approx([0.196, 0.392, 5.88])


def test_a_run_that_failed_before_it_recorded_anything():
    runs = linear(status=["COMPLETED", "COMPLETED", "FAILED", "DEAD"])
    runs.loc[2:, ["lambdahat", "true_local_lambda", "model_dim", "sgld_status"]] = None
    ax = drawn(figures.llc_against_lambda, runs)
    assert "no λ̂ (n = 2): 1 FAILED, 1 DEAD" in labels(ax)
    assert drawn_crosses(ax) == []  # nobody knows where they would be


def test_all_nan():
    runs = linear(lambdahat=np.nan, sgld_status="diverged at step 1: all")
    for function in (figures.llc_against_lambda, figures.relative_errors):
        ax = drawn(function, runs)
        assert words(ax) == ["no run has λ̂ and λ"]
        assert labels(ax) == ["no λ̂ (n = 4): 4 diverged"]
        assert drawn_crosses(ax) == [*TRUTH]


@pytest.mark.parametrize("runs", [pd.DataFrame(), linear().iloc[:0]])
def test_no_runs(runs):
    for function in (figures.llc_against_lambda, figures.relative_errors):
        assert words(drawn(function, runs)) == ["no run has λ̂ and λ"]
    assert words(drawn(figures.multiplicities, runs)) == ["no runs"]
    assert words(drawn(figures.mean_acceptances, runs)) == ["no run has an acceptance"]
    assert words(drawn(figures.loss_traces, runs)) == ["no run has a trace"]
    assert words(drawn(figures.rescaled_llcs, runs)) == ["no records"]
    assert words(drawn(figures.saddle_to_saddle, runs)) == ["no checkpoint"]
    assert words(drawn(figures.llc_curves, runs, pd.DataFrame(), "config.rate")) == [
        "no checkpoint"
    ]
    for function in (figures.llc_by_size, figures.seconds_by_size):
        assert words(drawn(function, runs)) == ["no runs"]
    assert words(drawn(figures.difference_by_size, runs)) == ["nothing to compare"]


def test_what_a_logarithm_cannot_show():
    runs = linear(lambdahat=[10.5, -3.0, 30.0, 80.0], sgld_status="ok")
    ax = drawn(figures.llc_against_lambda, runs)
    assert "λ̂ ≤ 0 (n = 1)" in labels(ax)
    assert drawn_crosses(ax) == [20.0]
    ax = drawn(figures.relative_errors, runs)
    assert "ok (n = 4)" in labels(ax)
    assert ax.get_ylim()[0] < -115
    at_zero = linear(true_local_lambda=[0.0, 20.0, None, 80.0])
    assert "λ is 0 or not known (n = 2)" in labels(drawn(figures.relative_errors, at_zero))


def test_the_trained_parameter_has_columns_of_its_own():
    runs = linear(true_lambda=TRUTH / 2).rename(
        columns={name: f"trained_param_info.{name}" for name in ("lambdahat", "lambdahat_se")}
    )
    runs["trained_param_info.sgld_status"] = "ok"
    ax = drawn(
        figures.llc_against_lambda, runs, at="trained_param_info.", known="true_lambda", log=False
    )
    assert "ok (n = 3)" in labels(ax)
    assert ax.get_xlabel() == "λ of the most singular parameter"


def test_multiplicities_count_every_run():
    ax = drawn(figures.multiplicities, linear(true_multiplicity=[1, 1, 3, None]))
    bars = {tick.get_text(): bar.get_height() for tick, bar in zip(
        ax.get_xticklabels(), ax.patches, strict=True)}  # fmt: skip
    assert bars == {"1": 2, "3": 1, "not\nrecorded": 1}


# --- traces ---------------------------------------------------------------------------------------


def traced():
    rows = [{"source": "runs", "id": name, "t": t, "loss_trace": float(t + 1),
             "mala_acceptance_probs": 0.9, "sgld_status": "ok"}
            for name in "12" for t in range(5)]  # fmt: skip
    table = pd.DataFrame(rows)
    table.loc[7:, "loss_trace"] = np.nan
    table.loc[5:, "sgld_status"] = "diverged at step 2: 1 of 1 chains"
    return table


def test_a_diverged_trace_ends_in_a_cross():
    ax = drawn(figures.loss_traces, traced())
    assert labels(ax) == ["run 1", "run 2: diverged"]
    assert drawn_crosses(ax) == [1]
    assert [len(line.get_xdata()) for line in ax.get_lines()] == [5, 2, 1]


def test_runs_without_a_trace_are_counted():
    table = traced().assign(mala_acceptance_probs=[0.9] * 5 + [None] * 5)
    assert labels(drawn(figures.acceptance_traces, table)) == ["run 1", "no trace (n = 1)"]


def test_the_histogram_counts_those_without():
    ax = drawn(figures.mean_acceptances, linear())
    assert sum(patch.get_height() for patch in ax.patches) == 3
    assert labels(ax) == ["n = 3", "median", "none recorded (n = 1)"]


# --- along training -------------------------------------------------------------------------------


def sweep(rates=(0.1, 0.2), seeds=3, checkpoints=4):
    """Runs and checkpoints: λ̂ = 100·rate + seed + t."""
    runs, rows = [], []
    for rate in rates:
        for seed in range(seeds):
            name = {"source": "runs", "directory": f"runs/{rate}-{seed}", "id": f"{len(runs)}"}
            runs.append({**name, "status": "COMPLETED", "config.rate": rate})
            rows += [{**name, "t": 10 * t, "lambdahat": 100 * rate + seed + t, "train_loss": 1.0}
                     for t in range(checkpoints)]  # fmt: skip
    return pd.DataFrame(runs), pd.DataFrame(rows)


def band(ax, k):
    """Half the height of band k at its left end."""
    (corners,) = ax.collections[k].get_paths()
    heights = corners.vertices[corners.vertices[:, 0] == 0][:, 1]
    return (heights.max() - heights.min()) / 2


def test_curves_are_means_over_seeds_with_students_bands():
    ax = drawn(figures.llc_curves, *sweep(), "config.rate")
    assert labels(ax) == ["0.1 (n = 3)", "0.2 (n = 3)"]
    lines = [line for line in ax.get_lines() if line.get_marker() != "x"]
    assert lines[0].get_ydata() == pytest.approx([11, 12, 13, 14])
    assert lines[1].get_ydata() == pytest.approx([21, 22, 23, 24])
    assert band(ax, 0) == pytest.approx(4.302653 / 3**0.5, rel=1e-6)  # t of 2 degrees of freedom


def test_a_single_seed_has_no_band():
    ax = drawn(figures.llc_curves, *sweep(seeds=1), "config.rate")
    assert labels(ax) == ["0.1 (n = 1)", "0.2 (n = 1)"]
    assert len(ax.collections) == 0
    assert ax.get_lines()[0].get_ydata() == pytest.approx([10, 11, 12, 13])


def test_runs_that_ended_early_are_told_and_marked():
    runs, points = sweep()
    points = points[~((points["directory"] == "runs/0.2-2") & (points["t"] >= 20))]  # diverged
    points.loc[points["directory"] == "runs/0.1-0", "lambdahat"] = None  # λ̂ nowhere
    points = points[points["directory"] != "runs/0.1-1"]  # failed before the first checkpoint
    ax = drawn(figures.llc_curves, runs, points, "config.rate")
    assert labels(ax) == ["0.1 (n = 3, 2 incomplete)", "0.2 (n = 3, 1 incomplete)"]
    assert drawn_crosses(ax) == [0, 10, 20, 30, 20, 30]


def test_checkpoints_that_no_run_has_are_crosses_below():
    runs, points = sweep(rates=(0.1,), seeds=2)
    points.loc[points["t"] >= 20, "lambdahat"] = None
    ax = drawn(figures.llc_curves, runs, points, "config.rate")
    assert labels(ax) == ["0.1 (n = 2, 2 incomplete)"]
    assert drawn_crosses(ax) == [20, 30]


def test_the_first_checkpoint_has_no_minibatch_loss():
    runs, points = sweep()
    points.loc[points["t"] == 0, "train_loss"] = None
    ax = drawn(figures.llc_curves, runs, points, "config.rate", "train_loss")
    assert labels(ax) == ["0.1 (n = 3)", "0.2 (n = 3)"]
    assert drawn_crosses(ax) == []


def test_runs_of_several_places_with_one_id():
    runs, points = sweep()
    ax = drawn(figures.llc_curves, runs.assign(id="1"), points.assign(id="1"), "config.rate")
    assert labels(ax) == ["0.1 (n = 3)", "0.2 (n = 3)"]


def test_none_is_a_value_too():
    runs, points = sweep(rates=(0.1, 0.2))
    runs.loc[runs["config.rate"] == 0.1, "config.rate"] = None
    assert labels(drawn(figures.llc_curves, runs, points, "config.rate")) == [
        "none (n = 3)", "0.2 (n = 3)",
    ]  # fmt: skip


def test_a_saddle_run_with_gaps():
    curve = pd.DataFrame({"t": [0, 10, 20], "train_loss": [3.0, 2.0, 1.0],
                          "lambdahat": [0.0, None, 4.0]})  # fmt: skip
    ax = drawn(figures.saddle_to_saddle, curve, "diverged by step 30: lower the learning rate")
    assert labels(ax) == ["no λ̂ at 1 of 3 checkpoints"]
    assert drawn_crosses(ax) == [10]
    assert ax.get_title(loc="right").startswith("training diverged by step 30")


def test_a_saddle_run_without_estimates():
    curve = pd.DataFrame({"t": [0, 10], "train_loss": [3.0, 2.0], "lambdahat": [None, None]})
    assert labels(drawn(figures.saddle_to_saddle, curve)) == ["no λ̂ at 2 of 2 checkpoints"]


# --- two samplers ---------------------------------------------------------------------------------


def samplers():
    rows = []
    for n in (100, 1000):
        for name, level in (("sgld", 10.0), ("mala", 8.0)):
            for seed in range(2):
                rows.append({
                    "status": "COMPLETED", "config.sampler_config.name": name,
                    "config.problem_config.num_training_data": n,
                    "config.sgld_config.num_steps": 500, "config.sgld_config.num_chains": 2,
                    "llc_per_chain": [level - 1 + seed, level + 1 - seed],
                    "timing_sampling": 2.0 + seed,
                })  # fmt: skip
    return pd.DataFrame(rows)


def test_chains_of_all_seeds_are_repeats():
    ax = drawn(figures.llc_by_size, samplers())
    assert labels(ax) == ["mala (n = 4 chains)", "sgld (n = 4 chains)"]
    lines = [c[0] for c in ax.containers]
    assert [line.get_ydata().tolist() for line in lines] == [[8, 8], [10, 10]]
    bar = ax.containers[0][2][0].get_segments()[0][:, 1]
    assert (bar[1] - bar[0]) / 2 == pytest.approx(float(half_width([7, 9, 8, 8])))


def test_the_difference_is_signed_and_has_welchs_interval():
    ax = drawn(figures.difference_by_size, samplers())
    bars = ax.containers[0]
    assert bars[0].get_ydata() == pytest.approx([25])
    low, high = bars[2][0].get_segments()[0][:, 1]
    # Both have variance 2/3 and four values: 6 degrees of freedom, t = 2.446912.
    assert (high - low) / 2 == pytest.approx(100 / 8 * 2.446912 * (2 * 2 / 3 / 4) ** 0.5, rel=1e-6)


def test_seconds_are_for_a_thousand_steps_of_one_chain():
    ax = drawn(figures.seconds_by_size, samplers())
    assert ax.containers[0][0].get_ydata() == pytest.approx([2.5, 2.5])
    low, high = ax.containers[0][2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((2, 3))


def test_diverged_chains_and_failed_runs_of_a_sampler():
    runs = samplers()
    runs.at[0, "llc_per_chain"] = [None, 11.0]  # sgld, n = 100
    runs.at[4, "llc_per_chain"] = None  # sgld, n = 1000: failed
    runs.at[5, "llc_per_chain"] = None
    ax = drawn(figures.llc_by_size, runs)
    assert "sgld (n = 3 chains)" in labels(ax)
    assert "sgld: 1 chains diverged, 2 runs without λ̂" in labels(ax)
    assert drawn_crosses(ax) == pytest.approx([108, 1080])
    ax = drawn(figures.difference_by_size, runs)
    assert labels(ax) == ["no λ̂ of both (n = 1)"]
    assert drawn_crosses(ax) == [1000]


def test_a_setting_without_an_estimate():
    table = pd.DataFrame(
        {
            "gamma": [1.0, 10.0, 100.0],
            "llc": [5.0, None, 4.0],
            "llc_se": [0.1, None, 0.1],
            "status": ["ok", "diverged at step 3: all", "not converged: ESS"],
        }
    )
    ax = drawn(figures.llc_by_setting, table, "gamma")
    assert labels(ax) == [DIVERGED, "ok (n = 1)", "not ok (n = 1)"]
    assert drawn_crosses(ax) == [10]


# --- saving ---------------------------------------------------------------------------------------


def saved(runs, tmp_path):
    figure, ax = figures.panels()
    figures.llc_against_lambda(ax, runs)
    png, pdf = figures.save(figure, tmp_path / "sub" / "picture", runs)
    return figure, png, pdf


def test_metadata_tell_runs_and_commits(tmp_path):
    runs = linear(
        status=["COMPLETED", "COMPLETED", "COMPLETED", "FAILED"], dirty=[False, False, False, True]
    )
    runs.attrs["broken"] = [("runs/9", "not whole")]
    figure, png, pdf = saved(runs, tmp_path)
    about = (
        "4 runs: 3 COMPLETED, 1 FAILED; 1 unreadable; commit 0123456789ab, 0123456789ab (modified)"
    )
    with Image.open(png) as image:
        assert image.text["Description"] == about
        assert image.size[0] == pytest.approx(3.25 * 300, abs=1)
    assert about.replace("(", "\\(").replace(")", "\\)").encode() in pdf.read_bytes()
    assert figure.get_supxlabel() == "of 4 runs 1 FAILED; 1 more cannot be read"


def test_a_pdf_has_its_fonts_whole(tmp_path):
    _, _, pdf = saved(linear(), tmp_path)
    content = pdf.read_bytes()
    assert b"/FontFile2" in content  # TrueType, embedded
    assert b"/Type3" not in content


def test_the_same_figure_is_the_same_file(tmp_path):
    _, *first = saved(linear(), tmp_path / "a")
    _, *second = saved(linear(), tmp_path / "b")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_where_all_is_well_no_foot_is_needed(tmp_path):
    figure, *_ = saved(linear(), tmp_path)
    assert figure.get_supxlabel() == ""


def test_a_figure_of_no_record(tmp_path):
    _, png, _ = saved(pd.DataFrame(), tmp_path)
    with Image.open(png) as image:
        assert image.text["Description"] == "no recorded runs"
