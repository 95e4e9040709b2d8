"""One run of the sampler benchmark: its record and its words."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from llc.diagnostics import LLCEstimate
from llc.efficiency import efficiency
from llc.reporting.estimates import peak_memory_mb


class Target(NamedTuple):
    """What λ̂ is compared with, and where it comes from."""

    value: float | None
    error: float  # its standard error; 0 where it is exact
    kind: str  # exact at this n, reference (a long HMC run), lambda (asymptotic), none


def measured(estimate: LLCEstimate, build_seconds: float) -> dict[str, Any]:
    """What a sampler found and what it took."""
    trace = estimate.trace
    worth = efficiency(estimate.ess, estimate.standard_error, trace.seconds, trace.gradients)
    return {
        "llc_mean": estimate.mean,
        "llc_se": estimate.standard_error,
        "llc_per_chain": estimate.per_chain,
        "llc_all_draws": estimate.all_draws,
        "ess": estimate.ess,
        "rhat": estimate.rhat,
        **worth._asdict(),
        "fde": trace.gradients,
        "fde_warmup": trace.warm_up_gradients,
        "timing_build": build_seconds,
        "timing_warmup": trace.warm_up_seconds,
        "timing_sampling": trace.seconds - trace.warm_up_seconds,
        "timing_companions": estimate.companion_seconds,
        "acceptance": estimate.acceptance,
        "step_size_bias": estimate.step_size_bias,
        "num_diverged_chains": estimate.num_diverged_chains,
        "status": estimate.status,
    }


def benchmark_record(
    sampler: str, estimate: LLCEstimate, target: Target, build_seconds: float
) -> dict[str, Any]:
    """Everything in `info`: what was measured, under the sampler's name and for one table."""
    own = measured(estimate, build_seconds)
    status = {"llc_status": own.pop("status")}  # `status` is Sacred's own
    return {
        **{f"{sampler}_{key}": value for key, value in own.items()},
        f"{sampler}_status": estimate.status,
        **own,
        **status,
        **against(estimate, target),
        "L0": estimate.init_loss,
        "nbeta": estimate.nbeta,
        "num_burn_in": estimate.num_burn_in,
        "peak_memory_mb": peak_memory_mb(),
    }


def against(estimate: LLCEstimate, target: Target) -> dict[str, Any]:
    """The signed error against the target, also relative and in standard errors."""
    error = math.nan if target.value is None else estimate.mean - target.value
    spread = math.hypot(estimate.standard_error, target.error)
    return {
        "target_llc": target.value,
        "target_se": target.error,
        "target_kind": target.kind,
        "signed_error": error,
        "relative_error": error / target.value if target.value else math.nan,
        "z_score": error / spread if spread > 0 else math.nan,
    }


def benchmark_report(sampler: str, record: Mapping[str, Any]) -> str:
    """A few aligned lines for a person at a terminal."""
    value = record["llc_mean"]
    if math.isnan(value):
        return f"{sampler}: λ̂ = none\n  status          {record['llc_status']}"
    lines = [f"{sampler}: λ̂ = {value:.4g} ± {record['llc_se']:.2g}"]
    if record["target_llc"] is not None:
        lines.append(
            f"  compared with   {record['target_llc']:.4g} ({record['target_kind']}): "
            f"{record['relative_error']:+.1%}"
        )
    seconds = record["timing_warmup"] + record["timing_sampling"]
    return "\n".join(
        [
            *lines,
            f"  status          {record['llc_status']}",
            f"  ESS             {record['ess']:.0f}  (R-hat {record['rhat']:.3f})",
            f"  ESS per second  {record['ess_per_second']:.4g}  ({seconds:.2f} s)",
            f"  ESS per FDE     {record['ess_per_fde']:.4g}  ({record['fde']:,.0f} FDE)",
            f"  WNV             {record['wnv_time']:.3g} (time), {record['wnv_fde']:.3g} (FDE)",
        ]
    )
