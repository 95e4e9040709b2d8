"""λ̂ of rescaled copies of one network: one record a mode and scale, kept and drawn as they come."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from llc import tracking
from llc.diagnostics import Estimate
from llc.figures import rescaling_figure
from llc.reporting.estimates import peak_memory_mb


class Copies:
    """The records of a run so far."""

    def __init__(self, _run: Any, *, scales: Sequence[float], title: str, verbose: bool) -> None:
        self._run, self.scales, self.title, self.verbose = _run, scales, title, verbose
        self.records: list[dict[str, Any]] = []
        self.variations: dict[str, float | None] = {}  # by mode; None: not all copies have a λ̂
        self._traces: dict[str, xr.Dataset] = {}

    def add(self, mode: str, estimates: Sequence[Estimate]) -> None:
        """Take in a mode, with an estimate a scale: `info`, `traces.nc`, the picture, a line."""
        means = np.array([estimate.mean for estimate in estimates])
        own = [
            {
                "mode": mode,
                "scale": scale,
                "lambdahat": estimate.mean,
                "lambdahat_se": estimate.standard_error,
                "lambdahat_per_chain": estimate.per_chain,
                "num_diverged_chains": estimate.num_diverged_chains,
                "step_size_bias": estimate.step_size_bias,
                "sgld_acceptance": estimate.acceptance,
                "init_loss": estimate.init_loss,
                "sgld_status": estimate.status,
            }
            for scale, estimate in zip(self.scales, estimates, strict=True)
        ]
        self.records += own
        variation = coefficient_of_variation(means)
        self.variations[mode] = None if math.isnan(variation) else variation
        self._traces[mode] = self._dataset(estimates)
        self._save()
        if self.verbose:
            for record in own:
                tqdm.write(line(record))
        print(self._summary(mode, means))

    def _summary(self, mode: str, means: np.ndarray[Any, Any]) -> str:
        found, count = means[np.isfinite(means)], len(means)
        reading = f"λ̂ {found.min():.4g} … {found.max():.4g}" if len(found) else "no λ̂"
        variation = self.variations[mode]
        if variation is None:
            return f"{mode}: {reading}; diverged at {count - len(found)} of {count} scales"
        return f"{mode}: {reading}, coefficient of variation {variation:.2%} over {count} scales"

    def _save(self) -> None:
        tracking.record(
            self._run,
            records=self.records,
            coefficient_of_variation=self.variations,
            peak_memory_mb=peak_memory_mb(),
        )
        traces = xr.concat(
            self._traces.values(), pd.Index(list(self._traces), name="mode"), join="outer"
        )
        with tracking.artifact(self._run, "traces.nc") as path:
            traces.to_netcdf(path, engine="h5netcdf")
        with tracking.artifact(self._run, "rescaling.png") as path:
            figure = rescaling_figure(pd.DataFrame(self.records), self.title)
            figure.savefig(path, dpi=150)

    def _dataset(self, estimates: Sequence[Estimate]) -> xr.Dataset:
        """Scale × chain × draw, in float32."""
        losses, baselines = (
            np.stack([getattr(one.trace, name).float().numpy() for one in estimates])
            for name in ("loss", "baseline")
        )
        dims = ("scale", "chain", "draw")
        return xr.Dataset(
            {"loss": (dims, losses), "baseline": (dims, baselines)},
            coords={"scale": list(self.scales), "draw": estimates[0].trace.steps.numpy()},
            attrs={"nbeta": estimates[0].nbeta},
        )


def coefficient_of_variation(values: np.ndarray[Any, Any]) -> float:
    """Standard deviation over mean; NaN where a value is, or there is only one."""
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / values.mean())


def line(record: dict[str, Any]) -> str:
    """One copy, for a person at a terminal."""
    found = math.isfinite(record["lambdahat"])
    value = f"{record['lambdahat']:.4g} ± {record['lambdahat_se']:.2g}" if found else "none"
    return f"  {record['mode']}  s = {record['scale']:<8.3g} λ̂ {value:<16}  {record['sgld_status']}"
