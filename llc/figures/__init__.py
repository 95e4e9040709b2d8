"""Pure functions from estimates and tables to matplotlib Axes.

    runs = load_runs("outputs/figures/dln")
    figure, axes = panels(2, 1)
    llc_against_lambda(axes[0, 0], runs)
    relative_errors(axes[1, 0], runs)
    save(figure, "figures/llc_against_lambda", runs)

Nothing is left out in silence: what has no value to be drawn at is a cross at the edge of its panel
and counted in the legend, and `save` writes at the foot of a figure how many runs did not complete.
"""

from llc.figures.calibration import (
    bounds_by_step,
    calibration_figure,
    llc_by_setting,
    llc_by_step,
)
from llc.figures.estimates import estimate_figure, trailing_mean
from llc.figures.linear import llc_against_lambda, multiplicities, relative_errors, signed_errors
from llc.figures.rescaling import rescaled_llcs, rescaling_figure
from llc.figures.samplers import (
    difference_by_size,
    llc_by_size,
    mala_beside_sgld,
    seconds_by_size,
)
from llc.figures.style import (
    COLOURS,
    MAX_CHAINS,
    PAGE,
    SYMBOLS,
    legend,
    panels,
    save,
    thinned,
    title,
)
from llc.figures.tables import half_width
from llc.figures.traces import acceptance_traces, loss_traces, mean_acceptances
from llc.figures.training import llc_curves, loss_and_llc, saddle_to_saddle, training_curve

__all__ = [
    "COLOURS",
    "MAX_CHAINS",
    "PAGE",
    "SYMBOLS",
    "acceptance_traces",
    "bounds_by_step",
    "calibration_figure",
    "difference_by_size",
    "estimate_figure",
    "half_width",
    "legend",
    "llc_against_lambda",
    "llc_by_setting",
    "llc_by_size",
    "llc_by_step",
    "llc_curves",
    "loss_and_llc",
    "loss_traces",
    "mala_beside_sgld",
    "mean_acceptances",
    "multiplicities",
    "panels",
    "relative_errors",
    "rescaled_llcs",
    "rescaling_figure",
    "saddle_to_saddle",
    "save",
    "seconds_by_size",
    "signed_errors",
    "thinned",
    "title",
    "trailing_mean",
    "training_curve",
]
