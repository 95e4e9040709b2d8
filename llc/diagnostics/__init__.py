"""Trace -> Estimate: λ̂, its Monte-Carlo error, and whether to believe it.

    λ̂ = nβ · mean_t [L_{B_t}(w_t) − L_{B_t}(w*)]
over the draws after burn-in (Lau et al. 2023; both losses on the same examples, which removes the
minibatch noise they share and changes nothing on average).

`ok` claims that λ̂ is within max(3 %, 4 standard errors) of its exact posterior expectation. Chains
that share a start look alike long before they have equilibrated, so that R-hat and ESS alone cannot
support this. Beside them the status asks for
- no drift: the mean over the second half of the trace against the quarter before it;
- the same answer from the other side: companion chains that were heated to 16 times the temperature
  or more and cooled again approach equilibrium from above, chains from w* from below (the sandwich
  of Grosse et al. 2015, used as a convergence test), once each is freed of its own step-size bias;
- a small step: at stationarity E⟨w − w*, ∇U_B⟩ = d + (ε/4)·E‖∇U_B‖² (expand E‖w_{t+1} − w*‖²), so
  that on a quadratic potential with γ = 0 and a loss that vanishes at w*, λ̂ is too high by exactly
  (ε/8)·E‖∇U_B‖², discretisation and minibatch noise together; ‖∇U_B‖² is measured along the chain.
  With γ > 0 this overstates the bias; where targets are noisy the minibatch trace can have up to
  twice as much, so that `ok` allows it half the claimed error. A sampler that measures no such bias
  (the exact ones; NaN) is taken to have none;
- chains that move: a sampler that rejects everything repeats itself, and its chains may well agree.
"""

from llc.diagnostics.inference_data import to_inference_data
from llc.diagnostics.numbers import ess, excess, mean_and_error, rhat, share_below
from llc.diagnostics.result import Estimate
from llc.diagnostics.status import error_bound, judge, standing_still
from llc.diagnostics.summary import summarise, summarise_stack

__all__ = [
    "Estimate",
    "error_bound",
    "ess",
    "excess",
    "judge",
    "mean_and_error",
    "rhat",
    "share_below",
    "standing_still",
    "summarise",
    "summarise_stack",
    "to_inference_data",
]
