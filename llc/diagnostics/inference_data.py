"""An estimate's traces as ArviZ takes them."""

import warnings
from typing import Any

from llc.diagnostics.numbers import excess
from llc.diagnostics.result import Estimate

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # its announcement of version 1.0
    import arviz as az


def to_inference_data(estimate: Estimate) -> Any:
    """The traces as ArviZ InferenceData.

    `posterior` holds `llc`, nβ(L(w_t) − L(w*)) by draw, and where traced `w`, coordinates of
    w_t − w*; `sample_stats` holds `loss`, `baseline`,
    `diverged_at` and, where traced, `distance` and (on their own dimension `checked`, whose
    coordinates are steps) `acceptance`, `squared_gradient` and, for samplers that have one,
    `energy`.
    """
    trace = estimate.trace
    own = {"acceptance": trace.acceptance, "squared_gradient": trace.squared_gradient}
    if bool(trace.energy.isfinite().any()):
        own["energy"] = trace.energy
    checked = {name: values.numpy() for name, values in own.items() if values.numel()}
    stats = {"loss": trace.loss.numpy(), "baseline": trace.baseline.numpy()}
    if trace.distance is not None:
        stats["distance"] = trace.distance.numpy()
    draws = {"llc": excess(trace, estimate.nbeta)}
    if trace.coordinates is not None:
        draws["w"] = trace.coordinates.numpy()
    data = az.from_dict(
        posterior=draws,
        sample_stats=stats,
        coords={"draw": trace.steps.numpy()},
        posterior_attrs={
            "nbeta": estimate.nbeta,
            "init_loss": estimate.init_loss,
            "num_burn_in": estimate.num_burn_in,
        },
    )
    for name, values in checked.items():
        data.sample_stats[name] = (("chain", "checked"), values)
    if checked:
        data.sample_stats.coords["checked"] = trace.checked_steps.numpy()
    data.sample_stats["diverged_at"] = (("chain",), trace.diverged_at.numpy())
    return data
