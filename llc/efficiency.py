"""What an estimate costs, and what that cost buys: pure functions of numbers.

The cost is what has to be paid for the estimate: the chains from w* with their warm-up and
burn-in, and the search for ε where there was one. Companion chains, which only check it, are left
out and recorded on their own. FDE counts the gradients that move the chains (a Gibbs sweep counts
as one); seconds hold everything done on the way, closer looks at every 20th step included.
"""

import math
from typing import NamedTuple


class Efficiency(NamedTuple):
    """NaN where there is no effective draw, no error or no cost to divide by."""

    ess_per_second: float
    ess_per_fde: float
    wnv_time: float
    wnv_fde: float


def full_data_equivalents(gradients: float, batch_size: int, num_data: int) -> float:
    """FDE: `gradients` over `batch_size` examples, counted in gradients over all `num_data`."""
    return gradients * batch_size / num_data


def work_normalised_variance(standard_error: float, cost: float) -> float:
    """WNV: the variance of the estimate times its cost (Glynn & Whitt 1992).

    More of the same draws lower the one and raise the other alike: WNV belongs to the sampler, not
    to the length of the run. The estimate with a standard error of σ costs WNV/σ².
    """
    return standard_error**2 * cost


def efficiency(ess: float, standard_error: float, seconds: float, fde: float) -> Efficiency:
    """ESS and variance against `seconds` and against full-data-equivalent gradients."""
    return Efficiency(
        ess_per_second=_ratio(ess, seconds),
        ess_per_fde=_ratio(ess, fde),
        wnv_time=work_normalised_variance(standard_error, seconds),
        wnv_fde=work_normalised_variance(standard_error, fde),
    )


def _ratio(amount: float, cost: float) -> float:
    return amount / cost if cost > 0 else math.nan
