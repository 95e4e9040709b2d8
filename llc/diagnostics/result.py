"""What an estimate comes with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llc.trace import Trace


@dataclass(frozen=True)
class Estimate:
    """λ̂ at one parameter, with everything needed to judge it; NaN where undefined."""

    mean: float  # over chains and draws after burn-in; NaN if any chain diverged
    standard_error: float  # Monte-Carlo, from chains and autocorrelation
    per_chain: tuple[float, ...]  # NaN for a diverged chain
    all_draws: float  # the same mean without burn-in
    num_burn_in: int  # draws left out per chain
    rhat: float  # rank-normalised split R-hat of the kept draws
    ess: float  # effective draws for the mean, over all chains
    drift: float  # second half of the trace minus the quarter before it
    drift_error: float  # its standard error
    companions: bool  # whether chains were also cooled from above
    cooled_mean: float  # λ̂ from them
    cooled_error: float
    cooled_bias: float  # their step-size bias
    companion_seconds: float  # what they took, all stages
    gradients: float  # full-data-equivalent: all chains, companions, and the search for ε
    step_size_bias: float  # (ε/8)·mean ‖∇U_B‖², in units of λ̂; NaN: none is measured
    share_below: float  # of 50 stretches of each chain's kept draws: mean L(w_t) < mean L(w*)
    num_diverged_chains: int
    status: str
    init_loss: float  # L_n(w*) over all data
    nbeta: float
    acceptance: float  # mean MALA acceptance probability of the steps, NaN where not traced
    trace: Trace = field(repr=False)
    epsilon: float = math.nan  # the step size; NaN: the sampler found its own
    # Where ε was found by `llc.calibrate`: one row a look, and its words on what needs thought.
    calibration: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    calibration_gradients: float = 0.0  # full-data-equivalent, over all chains
    calibration_seconds: float = 0.0
    advice: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.status == "ok"
