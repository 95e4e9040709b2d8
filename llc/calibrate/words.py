"""What the user of a run should think about, in words."""

import math
from collections.abc import Iterator, Sequence

from llc.calibrate.looks import Look
from llc.config import SGLDConfig

PLATEAU = 0.03  # λ̂ at ε and at ε/4 differ by less than this share, or by 4 standard errors
SPREADING = 0.05  # share of the directions that diffuse freely …
RELAXATIONS = 3.0  # … so that the run should be this many relaxation times of γ
HELD = 0.95  # share of the directions that γ holds
BIASED = 0.02  # share of λ̂


def advice(checks: Sequence[Look], found: float, share: float, config: SGLDConfig) -> Iterator[str]:
    """What the user should think about, in words; `share`: of the bias at ε found."""
    first, last = checks[0], checks[-1]
    if last.diverged_chains:
        yield f"chains diverge even at epsilon={last.epsilon:g}: raise gamma or lower itemp"
        return
    if share > BIASED:
        yield f"even epsilon={found:g} biases λ̂ by {share:.0%}: use larger batches"
    gap, error = first.llc - last.llc, math.hypot(first.llc_se, last.llc_se)
    if abs(gap) > max(PLATEAU * abs(last.llc), 4 * error):
        yield (
            f"λ̂ has no plateau yet: {first.llc:.4g} at epsilon={first.epsilon:g} and {last.llc:.4g}"
            f" at {last.epsilon:g}: sample longer, or raise gamma"
        )
    if all(look.llc < 0 for look in checks):
        yield "chains go below w*, which is no minimum: train longer or raise gamma"
    relaxations = found * config.gamma / 2 * config.num_steps
    spreading = min(1.0, *(look.spreading for look in checks))
    if spreading > SPREADING and relaxations < RELAXATIONS:
        yield (
            f"{spreading:.0%} of the directions still spread freely, and the run is "
            f"{relaxations:.2g} relaxation times 2/(epsilon·gamma) long: raise num_steps or gamma"
        )
    if last.held > HELD:
        yield (
            f"gamma holds {last.held:.0%} of the directions (γ‖w − w*‖² against d): see whether λ̂ "
            "stays with a smaller gamma or a larger itemp"
        )
