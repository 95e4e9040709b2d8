"""An estimate at one parameter: its record, its pictures, its words."""

import math
import resource
from collections.abc import Mapping
from typing import Any

import pandas as pd

from llc import tracking
from llc.diagnostics import Estimate, to_inference_data
from llc.figures import calibration_figure, estimate_figure

CURVES = {"loss": "loss_trace", "distance": "sgld_distances"}


def summary(estimate: Estimate) -> dict[str, Any]:
    """The scalars of an estimate under their names in `info`."""
    trace = estimate.trace
    return {
        "lambdahat": estimate.mean,
        "lambdahat_se": estimate.standard_error,
        "lambdahat_per_chain": estimate.per_chain,
        "lambdahat_all_draws": estimate.all_draws,
        "lambdahat_cooled": estimate.cooled_mean,
        "lambdahat_cooled_se": estimate.cooled_error,
        "cooled_step_size_bias": estimate.cooled_bias,
        "lambdahat_drift": estimate.drift,
        "lambdahat_drift_se": estimate.drift_error,
        "step_size_bias": estimate.step_size_bias,
        "rhat": estimate.rhat,
        "ess": estimate.ess,
        "share_below_centre": estimate.share_below,
        "num_diverged_chains": estimate.num_diverged_chains,
        "sgld_status": estimate.status,
        "init_loss": estimate.init_loss,
        "nbeta": estimate.nbeta,
        "epsilon": estimate.epsilon,
        "epsilon_advice": estimate.advice,
        "num_burn_in": estimate.num_burn_in,
        "mala_acceptance_mean": estimate.acceptance,
        "chain_steps_per_second": trace.chain_steps_per_second,
        "full_data_gradients": estimate.gradients,
        "sampling_seconds": trace.seconds,
        "companion_seconds": estimate.companion_seconds,
        "peak_memory_mb": peak_memory_mb(),
    }


def peak_memory_mb() -> float:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def save(_run: Any, estimate: Estimate, known: float | None, prefix: str, title: str) -> None:
    """Traces as NetCDF, the picture, and the thinned curves, all under `prefix`."""
    with tracking.artifact(_run, f"{prefix}llc.png") as path:
        estimate_figure(estimate, known, title).savefig(path, dpi=150)
    save_numbers(_run, estimate, prefix, title)


def save_numbers(_run: Any, estimate: Estimate, prefix: str, title: str) -> None:
    """Traces as NetCDF, the thinned curves, and what ε was found from, all under `prefix`."""
    trace = estimate.trace
    with tracking.artifact(_run, f"{prefix}traces.nc") as path:
        to_inference_data(estimate).to_netcdf(str(path), engine="h5netcdf")
    if estimate.calibration:
        looks = pd.DataFrame(looks_of(estimate))
        with tracking.artifact(_run, f"{prefix}calibration.csv") as path:
            looks.to_csv(path, index=False)
        with tracking.artifact(_run, f"{prefix}calibration.png") as path:
            calibration_figure(looks, estimate.epsilon, title).savefig(path, dpi=150)
    for field, name in CURVES.items():
        values = getattr(trace, field)
        if values is not None:
            tracking.log_curve(_run, prefix + name, trace.steps, values.double().nanmean(0))
    tracking.log_curve(
        _run, f"{prefix}mala_acceptance_probs", trace.checked_steps, trace.acceptance.nanmean(0)
    )


def looks_of(estimate: Estimate) -> list[Mapping[str, Any]]:
    """The looks that found ε, one row each, with the words that go with them."""
    words = "; ".join(estimate.advice)
    return [{**look, "advice": words} for look in estimate.calibration]


def report(label: str, estimate: Estimate, known: float | None, *, verbose: bool = False) -> str:
    """A few aligned lines for a person at a terminal; `verbose` adds what the status rests on."""
    value = "none" if math.isnan(estimate.mean) else f"{estimate.mean:.4g}"
    error = "" if math.isnan(estimate.mean) else f" ± {estimate.standard_error:.2g}"
    lines = [f"{label} = {value}{error}"]
    if known is not None:
        lines.append(f"  λ               {known:g}")
        if known and not math.isnan(estimate.mean):
            lines.append(f"  relative error  {estimate.mean / known - 1:+.1%}")
    lines += [
        f"  status          {estimate.status}",
        f"  R-hat           {estimate.rhat:.3f}",
        f"  ESS             {estimate.ess:.0f}",
        f"  speed           {estimate.trace.chain_steps_per_second:,.0f} chain-steps/s "
        f"({estimate.trace.seconds:.1f} s)",
    ]
    if estimate.calibration:
        lines.insert(-1, f"  ε               {estimate.epsilon:g}, found by calibration")
        lines += [f"  note            {words}" for words in estimate.advice]
    return "\n".join([*lines, *(evidence(estimate) if verbose else [])])


def evidence(estimate: Estimate) -> list[str]:
    """What the status rests on, line by line."""
    chains = ", ".join(f"{value:.4g}" for value in estimate.per_chain)
    lines = [
        f"  per chain       {chains}",
        f"  from above      {estimate.cooled_mean:.4g} ± {estimate.cooled_error:.2g}",
        f"  drift           {estimate.drift:+.2g} ± {estimate.drift_error:.2g}",
        f"  acceptance      {estimate.acceptance:.3f}",
    ]
    if not math.isnan(estimate.step_size_bias):  # where the sampler has one
        lines.append(f"  step-size bias  {estimate.step_size_bias:+.2g}")
    return lines
