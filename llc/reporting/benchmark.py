"""One run of the sampler benchmark: its record and its words.

Costs are those of the estimate: the search for ε where there was one, warm-up, burn-in and kept
draws. `timing_companions` and `fde_companions`, of the chains that only check it, come on top.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from llc.benchmark_problem import Target
from llc.diagnostics import Estimate
from llc.efficiency import efficiency
from llc.reporting.estimates import evidence, peak_memory_mb


def measured(estimate: Estimate, build_seconds: float) -> dict[str, Any]:
    """What a sampler found and what it took, once it has."""
    trace = estimate.trace
    searched = estimate.calibration_gradients
    seconds, fde = trace.seconds + estimate.calibration_seconds, trace.gradients + searched
    return {
        "llc_mean": estimate.mean,
        "llc_se": estimate.standard_error,
        "llc_per_chain": estimate.per_chain,
        "llc_all_draws": estimate.all_draws,
        "ess": estimate.ess,
        "rhat": estimate.rhat,
        **efficiency(estimate.ess, estimate.standard_error, seconds, fde)._asdict(),
        "fde": fde,
        "fde_calibration": searched,
        "fde_warmup": trace.warm_up_gradients,
        "fde_companions": estimate.gradients - fde,
        "timing_build": build_seconds,
        "timing_calibration": estimate.calibration_seconds,
        "timing_warmup": trace.warm_up_seconds,
        "timing_sampling": trace.seconds - trace.warm_up_seconds,
        "timing_companions": estimate.companion_seconds,
        "step_size": last_step_size(estimate),
        "acceptance": estimate.acceptance,
        "step_size_bias": estimate.step_size_bias,
        "num_diverged_chains": estimate.num_diverged_chains,
        "peak_memory_mb": peak_memory_mb(),
    }


def last_step_size(estimate: Estimate) -> float:
    """The step size at the end, whether given, found or adapted; the chains' mean."""
    sizes = estimate.trace.step_size
    return float(sizes[:, -1].nanmean(dtype=torch.float64)) if sizes.numel() else estimate.epsilon


def benchmark_record(
    sampler: str, estimate: Estimate, target: Target, own: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything in `info`: what was `measured`, under the sampler's name and for one table."""
    return {
        **{f"{sampler}_{key}": value for key, value in own.items()},
        f"{sampler}_status": estimate.status,
        **own,
        "llc_status": estimate.status,  # `status` is Sacred's own
        **against(estimate, target),
        "L0": estimate.init_loss,
        "nbeta": estimate.nbeta,
        "epsilon_advice": estimate.advice,
        "num_burn_in": estimate.num_burn_in,
    }


def against(estimate: Estimate, target: Target) -> dict[str, Any]:
    """The signed error against the target, also relative and in standard errors of both."""
    error = math.nan if target.value is None else estimate.mean - target.value
    spread = math.hypot(estimate.standard_error, target.error)
    return {
        "target_llc": target.value,
        "target_se": target.error,
        "target_kind": target.kind,
        "target_status": target.status,
        "signed_error": error,
        "relative_error": error / target.value if target.value else math.nan,
        "z_score": error / spread if spread > 0 else math.nan,
    }


def benchmark_report(
    sampler: str, estimate: Estimate, record: Mapping[str, Any], *, verbose: bool = False
) -> str:
    """A few aligned lines for a person at a terminal; `verbose` adds what the status rests on."""
    if math.isnan(estimate.mean):
        return f"{sampler}: λ̂ = none\n  status          {estimate.status}"
    lines = [f"{sampler}: λ̂ = {estimate.mean:.4g} ± {estimate.standard_error:.2g}"]
    if record["target_llc"] is not None:
        lines.append(
            f"  compared with   {record['target_llc']:.4g} ({record['target_kind']}): "
            f"{record['relative_error']:+.1%}"
        )
    if record["target_status"] not in (None, "ok"):
        lines.append(f"  the reference   {record['target_status']}")
    seconds = sum(record[f"timing_{part}"] for part in ("calibration", "warmup", "sampling"))
    lines += [
        f"  status          {estimate.status}",
        f"  ESS             {record['ess']:.0f}  (R-hat {record['rhat']:.3f})",
        f"  ESS per second  {record['ess_per_second']:.4g}  ({seconds:.2f} s)",
        f"  ESS per FDE     {record['ess_per_fde']:.4g}  ({record['fde']:,.0f} FDE)",
        f"  WNV             {record['wnv_time']:.3g} (time), {record['wnv_fde']:.3g} (FDE)",
    ]
    if estimate.calibration:
        lines.append(f"  ε               {estimate.epsilon:g}, found by calibration")
        lines += [f"  note            {words}" for words in estimate.advice]
    return "\n".join([*lines, *(evidence(estimate) if verbose else [])])
