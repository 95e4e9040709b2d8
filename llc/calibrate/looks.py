"""What short runs show."""

import math
from typing import NamedTuple

from torch import Tensor

from llc.diagnostics import excess, mean_and_error, share_below
from llc.posterior import LocalPosterior
from llc.trace import Trace


class Look(NamedTuple):
    """What a short run at one ε shows, over its second half; NaN where undefined."""

    stage: str  # "climb" or "check"
    epsilon: float
    steps: int  # a chain
    acceptance: float
    acceptance_se: float
    llc: float  # λ̂
    llc_se: float
    bias: float  # of λ̂ by the step
    bias_se: float
    held: float  # γ‖w − w*‖²/d, the share of the directions that γ holds rather than the loss
    spreading: float  # growth of ‖w − w*‖² over that of free diffusion, ε·d a step
    below: float  # share of draws below L(w*)
    diverged_chains: int


def seen(
    trace: Trace,
    stage: str,
    epsilon: float,
    acceptance: Tensor,
    posterior: LocalPosterior,
    memory: float,
) -> Look:
    """What the second half of a trace shows; `memory`: correlation of one bias with the next."""
    assert trace.distance is not None
    half, size = trace.loss.shape[1] // 2, posterior.layout.size
    draws = excess(trace, posterior.nbeta)[:, half:]
    llc, llc_se = mean_and_error(draws)
    squares = trace.squared_gradient[:, trace.checked_steps >= half]
    distances = trace.distance.double().square()
    late, early = float(distances[:, half:].mean()), float(distances[:, :half].mean())
    bias, bias_se = (epsilon / 8 * value for value in _mean(squares))
    bias_se *= math.sqrt((1 + memory) / (1 - memory))
    return Look(
        stage,
        epsilon,
        trace.loss.shape[1],
        *_mean(acceptance),
        llc,
        llc_se,
        bias,
        bias_se,
        held=posterior.gamma * late / size,
        spreading=(late - early) / (half * epsilon * size),
        below=share_below(draws),
        diverged_chains=int((trace.diverged_at >= 0).sum()),
    )


def _mean(values: Tensor) -> tuple[float, float]:
    """Mean and standard error of looks that are taken for independent; NaN where undefined."""
    values, count = values.double(), max(1, values.numel())
    mean = float(values.mean()) if values.numel() else math.nan
    return mean, float((values - mean).square().mean() / max(1, count - 1)) ** 0.5
