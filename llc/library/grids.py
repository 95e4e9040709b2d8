"""λ̂ over a grid of step sizes, localisations and inverse temperatures."""

from collections.abc import Sequence
from inspect import signature
from itertools import product
from typing import Any

import pandas as pd
from torch import nn

from llc.library.api import estimate_llc
from llc.library.estimates import estimates
from llc.library.result import LLCEstimate

COLUMNS = {
    "llc_mean": "mean",
    "standard_error": "standard_error",
    "rhat": "rhat",
    "ess": "ess",
    "status": "status",
    "ok": "ok",
    "cooled_mean": "cooled_mean",
    "acceptance": "acceptance",
    "step_size_bias": "step_size_bias",
    "share_below": "share_below",
    "init_loss": "init_loss",
    "gradients": "gradients",
}
AXES = ("epsilon", "gamma", "nbeta")

Values = float | str | None | Sequence[float | str | None]


def grid(
    model: nn.Module,
    data: Any,
    loss: Any = "cross_entropy",
    *,
    epsilon: Values = "auto",
    gamma: Values = 10.0,
    nbeta: Values = None,
    **options: Any,
) -> pd.DataFrame:
    """λ̂ at every combination of `epsilon`, `gamma` and `nbeta`, each a value or a list of them.

    Each point is `estimate_llc(model, data, loss, epsilon=…, gamma=…, nbeta=…, **options)` to
    rounding, with the same seed, so that points differ by what they are set to and not by luck. λ̂
    is to be trusted where it does not depend on ε, and read as a function of γ and nβ.

    SGLD's points whose ε is given run together, with all their chains on the chain axis: as many
    whole points as `chains_per_stack` allows, and where that is None, as caches hold; so large
    models take one after the other, as do all other samplers and an ε that is 'auto'.

    Returns: a row a point, in the order of the lists, the last one fastest: `epsilon` (as found
        where 'auto'), `gamma`, `nbeta`, `llc_mean`, `standard_error`, `rhat`, `ess`, `status`,
        `ok`, `cooled_mean`, `acceptance`, `step_size_bias`, `share_below`, `init_loss`,
        `gradients`, `seconds` (its share of what ran together); NaN where undefined.
        `llc.grid_figure` draws it.
    Raises: TypeError, ValueError as `estimate_llc`, before any point runs; ValueError for
        `observables`, which have no column.
    """
    points = [
        dict(zip(AXES, values, strict=True))
        for values in product(*map(_several, (epsilon, gamma, nbeta), AXES))
    ]
    known = signature(estimate_llc).parameters
    for name in options:
        if name not in known:
            raise TypeError(f"{name}: is no option of estimate_llc: it has {', '.join(known)}")
    if options.get("observables"):
        raise ValueError(
            "observables: a grid has no column for them: leave them out, or call estimate_llc at "
            "each point"
        )
    arguments = signature(estimate_llc).bind(model, data, loss, **options)
    arguments.apply_defaults()
    return pd.DataFrame([_row(own) for own in estimates(points, **arguments.arguments)])


def _several(values: Values, name: str) -> list[Any]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        return [values]
    several = list(values)  # type: ignore[arg-type]
    if not several:
        raise ValueError(f"{name}: is empty: give a value or several")
    return [one.item() if hasattr(one, "item") else one for one in several]


def _row(estimate: LLCEstimate) -> dict[str, Any]:
    return {
        **{name: getattr(estimate, name) for name in AXES},
        **{column: getattr(estimate, name) for column, name in COLUMNS.items()},
        "seconds": estimate.trace.seconds
        + estimate.companion_seconds
        + estimate.calibration_seconds,
    }
