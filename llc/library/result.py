"""λ̂ of a user's model: an `Estimate` that prints, plots, saves and turns into xarray."""

import base64
import html
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

from llc.diagnostics import Estimate, excess
from llc.figures import estimate_figure
from llc.library.observables import split
from llc.trace import Trace

FORMAT = "llc.LLCEstimate/1"


@dataclass(frozen=True, repr=False)
class LLCEstimate(Estimate):
    """`Estimate` with what the model's user needs to know about how it came about."""

    num_examples: int = 0  # n
    num_free: int = 0  # parameters that were sampled …
    num_parameters: int = 0  # … of these
    sampler: str = "sgld"
    gamma: float = math.nan
    seed: int = 0
    engine: str = "plain"
    engine_reason: str = ""  # the measurement it was chosen by, and whether it was compiled
    compile_seconds: float = 0.0  # torch.compile's, first calls included
    sampler_reason: str = ""  # where the sampler was 'auto'
    notes: tuple[str, ...] = ()  # what is unusual about the estimate, in words
    # Of each observable, (examples,) or (examples, tokens).
    observed_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line, as in `λ̂ = 12.3 ± 0.4 (4 chains × 500 draws, R-hat 1.01, ESS 420): ok`."""
        chains, draws = self.trace.loss.shape
        what = "λ̂" if self.num_free == self.num_parameters else f"λ̂ of {self.num_free:,} parameters"
        numbers = f"R-hat {self.rhat:.2f}, ESS {self.ess:.0f}"
        line = (
            f"{what} = {self.value_and_error} ({chains} chains × {draws - self.num_burn_in} draws, "
            f"{numbers}): {self.status}"
        )
        return "; ".join([line, *self.notes])

    @property
    def value_and_error(self) -> str:
        """λ̂ ± its standard error, to two digits of the error."""
        if not (math.isfinite(self.mean) and 0 < self.standard_error < math.inf):
            return f"{self.mean:.4g} ± {self.standard_error:.2g}"
        places = max(0, 1 - math.floor(math.log10(self.standard_error)))
        return f"{self.mean:.{places}f} ± {self.standard_error:.{places}f}"

    @property
    def std(self) -> float:
        """Standard deviation of λ̂ over the chains; NaN for a single one."""
        return float(np.std(self.per_chain, ddof=1)) if len(self.per_chain) > 1 else math.nan

    @property
    def observables(self) -> dict[str, np.ndarray]:
        """By name, the losses of the data sets `observables=`, float32 (chain, draw, example).

        With the losses of the next token (chain, draw, example, token): number t is
        −log p(x_{t+1} | x_≤t), NaN where that token is padding or not to be predicted. Burn-in is
        among the draws, and a diverged chain is NaN from its first bad draw on. In memory and in
        files: 4 bytes times chains, draws and examples (and tokens), twice that while fetched.
        """
        if self.trace.observed is None:
            return {}
        parts = split(self.trace.observed, self.observed_shapes)
        return {name: values.numpy() for name, values in parts.items()}

    def to_xarray(self) -> xr.Dataset:
        """λ̂ and its traces, dimensions `chain` and `draw`; a draw's coordinate is its step.

        `llc_mean`, `llc_std` (over chains), `llc_per_chain`, `init_loss` L_n(w*); `loss_trace`
        L(w_t), `baseline_trace` L(w*) on the same examples, `llc_trace` nβ(L(w_t) − L(w*)). Burn-in
        is in the traces, and `num_burn_in` draws of it are left out of λ̂. An observable NAME is
        `observed_NAME`, its further dimensions `example_NAME` and `token_NAME`.
        """
        traces = {
            "loss_trace": self.trace.loss.numpy(),
            "baseline_trace": self.trace.baseline.numpy(),
            "llc_trace": excess(self.trace, self.nbeta),
        }
        scalars = {"llc_mean": self.mean, "llc_std": self.std, "init_loss": self.init_loss}
        names = ("nbeta", "gamma", "epsilon", "sampler", "seed", "num_examples", "num_free")
        more = ("num_parameters", "num_burn_in", "standard_error", "rhat", "ess", "status")
        return xr.Dataset(
            {
                **{name: ((), value) for name, value in scalars.items()},
                "llc_per_chain": (("chain",), np.array(self.per_chain)),
                **{name: (("chain", "draw"), values) for name, values in traces.items()},
                **{
                    f"observed_{name}": (
                        ("chain", "draw", f"example_{name}", f"token_{name}")[: values.ndim],
                        values,
                    )
                    for name, values in self.observables.items()
                },
            },
            coords={
                "chain": np.arange(len(self.per_chain)),
                "draw": self.trace.steps.numpy(),
            },
            attrs={name: getattr(self, name) for name in (*names, *more)}
            | {"notes": "; ".join(self.notes)},
        )

    def plot(self, known: float | None = None) -> Figure:
        """Running λ̂ per chain, against λ where it is `known`, above the loss trace."""
        return estimate_figure(self, known, f"λ̂ = {self.value_and_error}: {_short(self.status)}")

    def save(self, path: str | Path) -> Path:
        """Write everything to one file, which `load` reads; `to_xarray` is for other programs."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "trace"}
        values["observed_shapes"] = dict(self.observed_shapes)
        values["calibration"] = [dict(row) for row in self.calibration]
        target = Path(path)
        torch.save({"format": FORMAT, "values": values, "trace": self.trace._asdict()}, target)
        return target

    @classmethod
    def load(cls, path: str | Path) -> "LLCEstimate":
        """What `save` wrote.

        Raises: ValueError for another file.
        """
        try:
            kept = torch.load(Path(path), weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path}: was not written by LLCEstimate.save: {error}") from None
        if not isinstance(kept, dict) or kept.get("format") != FORMAT:
            raise ValueError(f"{path}: was not written by LLCEstimate.save")
        return cls(**kept["values"], trace=Trace(**kept["trace"]))

    def _repr_html_(self) -> str:
        """For notebooks: the line, the numbers behind it, and the running λ̂."""
        buffer = io.BytesIO()
        self.plot().savefig(buffer, format="png", dpi=80)
        picture = base64.b64encode(buffer.getvalue()).decode()
        rows = {
            "n, nβ": f"{self.num_examples:,}, {self.nbeta:.5g}",
            "sampler": f"{self.sampler}, ε = {self.epsilon:.3g}, γ = {self.gamma:g}",
            "parameters": f"{self.num_free:,} of {self.num_parameters:,}",
            "λ̂ per chain": ", ".join(f"{value:.4g}" for value in self.per_chain[:8])
            + " …" * (len(self.per_chain) > 8),
            "L(w*)": f"{self.init_loss:.5g}",
            "advice": "; ".join(self.advice),
        }
        table = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td>{html.escape(value)}</td></tr>"
            for name, value in rows.items()
            if value
        )
        return (
            f"<p><b>{html.escape(repr(self))}</b></p><table>{table}</table>"
            f"<img alt='running λ̂' src='data:image/png;base64,{picture}'>"
        )


def result_of(estimate: Estimate, **more: Any) -> LLCEstimate:
    """The estimate with what else is known."""
    own = {one.name: getattr(estimate, one.name) for one in fields(Estimate)}
    return LLCEstimate(**own, **more)


def _short(status: str) -> str:
    return status if len(status) < 45 else f"{status[:44]}…"
