"""One way to record, draw and print an estimate, for every experiment script."""

import math
import re
import resource
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from llc import tracking
from llc.diagnostics import LLCEstimate, to_inference_data
from llc.figures import estimate_figure, training_curve

CURVES = {"loss": "loss_trace", "distance": "sgld_distances"}


def summary(estimate: LLCEstimate) -> dict[str, Any]:
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


def checkpoint_record(estimate: LLCEstimate) -> dict[str, Any]:
    """What is kept of an estimate that is one of many along a training."""
    return {
        "lambdahat": estimate.mean,
        "lambdahat_se": estimate.standard_error,
        "init_loss": estimate.init_loss,
        "sgld_status": estimate.status,
        "num_diverged_chains": estimate.num_diverged_chains,
        "share_below_centre": estimate.share_below,
        "loss_trace": estimate.trace.loss,
        "baseline_trace": estimate.trace.baseline,
    }


def save_checkpoints(
    _run: Any, records: Sequence[Mapping[str, Any]], draws: Sequence[int], nbeta: float
) -> None:
    """Scalars of all checkpoints so far into `info`, their traces into `traces.nc`.

    `records`: `t` and what `checkpoint_record` gives. `draws`: the SGLD steps that were recorded.
    """
    scalars = [
        {key: value for key, value in record.items() if not key.endswith("_trace")}
        for record in records
    ]
    tracking.record(_run, records=scalars, sgld_statuses=kinds(records))
    dims = ("checkpoint", "chain", "draw")
    data = xr.Dataset(
        {
            name: (dims, np.stack([record[f"{name}_trace"] for record in records]))
            for name in ("loss", "baseline")
        },
        coords={"checkpoint": [record["t"] for record in records], "draw": list(draws)},
        attrs={"nbeta": nbeta},
    )
    with tracking.artifact(_run, "traces.nc") as path:
        data.to_netcdf(path, engine="h5netcdf")


def save_training_curve(
    _run: Any, records: Sequence[Mapping[str, Any]], name: str, title: str
) -> None:
    """The picture of λ̂ and the loss along training, as the artifact `name`."""
    steps, losses, llcs = (
        np.array([record[key] for record in records]) for key in ("t", "train_loss", "lambdahat")
    )
    with tracking.artifact(_run, name) as path:
        training_curve(steps, losses, llcs, title).savefig(path, dpi=150)


def kinds(records: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """How many checkpoints have each kind of status: the words before its details."""
    return Counter(_kind(record) for record in records)


def _kind(record: Mapping[str, Any]) -> str:
    return re.split(r":? at step |: ", record["sgld_status"])[0]


def checkpoint_line(record: Mapping[str, Any]) -> str:
    """One checkpoint, for a person at a terminal."""
    return (
        f"t = {record['t']:<8,} loss {record['train_loss']:<9.3g} λ̂ {_value(record):<14} "
        f"λ {record['true_lambda']:g} (rank {record['true_rank']})  {_kind(record)}"
    )


def _value(record: Mapping[str, Any]) -> str:
    if math.isnan(record["lambdahat"]):
        return "none"
    return f"{record['lambdahat']:.2f} ± {record['lambdahat_se']:.2g}"


def training_report(records: Sequence[Mapping[str, Any]], training_status: str) -> str:
    """The first and the last checkpoint, and how many have which status."""
    lines = [f"training: {training_status}"]
    if records:
        counts = kinds(records)
        lines += [checkpoint_line(records[0]), checkpoint_line(records[-1])]
        lines.append("status: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
        if below := counts["below the centre"]:
            lines.append(f"warning: at {below} checkpoints w* is no minimum, and λ̂ is biased")
    return "\n".join(lines)


def save(_run: Any, estimate: LLCEstimate, known: float | None, prefix: str, title: str) -> None:
    """Traces as NetCDF, the picture, and the thinned curves, all under `prefix`."""
    trace = estimate.trace
    with tracking.artifact(_run, f"{prefix}traces.nc") as path:
        to_inference_data(estimate).to_netcdf(str(path), engine="h5netcdf")
    with tracking.artifact(_run, f"{prefix}llc.png") as path:
        estimate_figure(estimate, known, title).savefig(path, dpi=150)
    for field, name in CURVES.items():
        values = getattr(trace, field)
        if values is not None:
            tracking.log_curve(_run, prefix + name, trace.steps, values.double().nanmean(0))
    tracking.log_curve(
        _run, f"{prefix}mala_acceptance_probs", trace.checked_steps, trace.acceptance.nanmean(0)
    )


def report(label: str, estimate: LLCEstimate, known: float | None, *, verbose: bool = False) -> str:
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
    if verbose:
        chains = ", ".join(f"{value:.4g}" for value in estimate.per_chain)
        lines += [
            f"  per chain       {chains}",
            f"  from above      {estimate.cooled_mean:.4g} ± {estimate.cooled_error:.2g}",
            f"  drift           {estimate.drift:+.2g} ± {estimate.drift_error:.2g}",
            f"  step-size bias  {estimate.step_size_bias:+.2g}",
            f"  acceptance      {estimate.acceptance:.3f}",
        ]
    return "\n".join(lines)
