"""devinterp's and canonical-interp's names for `estimate_llc`: what existing code calls and reads.

Both step Δw = −(lr/2)(nβ ∇L_B(w) + γ(w − w*)) + √lr ξ: their learning rate is our ε, factor one.
`docs/from_elsewhere.md` has the whole table. New code calls `llc.estimate_llc`, which also says
whether its λ̂ is to be believed.
"""

from llc.shims.canonical import LLCEstimator
from llc.shims.devinterp import llc
from llc.shims.gridsearch import GridSearchConfig, LLCGridSearch

__all__ = ["GridSearchConfig", "LLCEstimator", "LLCGridSearch", "llc"]
