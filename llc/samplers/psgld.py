"""Preconditioned SGLD: a step size for each coordinate, learnt (Li et al. 2016) or given.

    w' = w − (ε/2)(G D − Γ) + √(εG) ξ,   D = nβ m̂ + γ(w − w*),   ξ ~ N(0, I),   G diagonal,
    m ← μm + (1 − μ)g,   V ← κV + (1 − κ)g²,   G = 1/(a + √V̂),   g = ∇L_B(w),
V̂ and m̂ freed of their start at zero as in Adam (Kingma & Ba 2015). `momentum` μ = 0 is the RMSProp
of Li et al.; μ = 0.9 with `decay` κ = 0.999 is Adam's. The moments are those of the loss alone: nβ
and γ change neither G nor how fast it is learnt. εG is what SGLD's ε is, coordinate by coordinate:
up to ε/a where gradients are small.

With constant G a quadratic potential of curvature h has, for μ = 0, the stationary variance
1/(h(1 − εGh/4)). On any potential E⟨w − w*, ∇U⟩ = d + (ε/4) E[DᵀGD + 2μ/(1 − μ) nβ m̂ᵀGD] (expand
the norm of w' − w* in G⁻¹): that bracket is `Check.squared_gradient`, ∇U_Bᵀ G ∇U_B for μ = 0.

A G that follows w makes the law wrong by an amount that does not vanish with ε, unless the drift
has its derivative: `correction` adds Γ, which is, where V̂ follows w (ε ≪ 1 − κ),
    Γ_i = ∂G_i/∂w_i = −G_i² g_i H_ii/√V̂_i,   H_ii ≈ z_i (∇L_B(w + δz) − ∇L_B(w − δz))_i/2δ
with random signs z (Hutchinson 1989): two more gradients. (Li et al. count what the newest g² does
to G, a share 1 − κ of it.) Cheaper, and exact as ε → 0: learn G in a `warm_up` and keep it.
"""

from collections.abc import Mapping
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.base import Block, Check, Info, Noise, Sampler, bias_check, due
from llc.samplers.preconditioners import DiagonalHessian, Given, Learnt
from llc.samplers.sgld import look


class State(NamedTuple):
    """Carried from block to block."""

    position: Stack  # w_t
    mean: Tensor  # m, flat; stays zero where μ = 0
    square: Tensor  # V, flat; stays zero where G is given
    step: int  # t


def psgld(
    posterior: LocalPosterior,
    epsilon: float,
    *,
    decay: float = 0.99,
    momentum: float = 0.0,
    stability: float = 0.1,
    warm_up: int = 0,
    correction: bool = False,
    check_period: int | None = None,
) -> Sampler:
    """SGLD with step size ε and a learnt preconditioner.

    decay: κ. momentum: μ. stability: a. warm_up: after so many steps G stays as it is; 0: it never
    does. correction: add Γ as long as G is learnt. Every `check_period` steps one step is looked at
    more closely; its acceptance is that of a fixed G, NaN with momentum or correction.
    Raises: ValueError unless 0 ≤ κ, μ < 1 and a > 0.
    """
    _require_share("decay", decay)
    if not stability > 0:
        raise ValueError(f"stability={stability}: must be > 0; 0.1 is usual")
    metric = Learnt(posterior.centre.flat, decay, stability, warm_up)
    return _sampler(posterior, epsilon, metric, momentum, correction, check_period)


def scaled_sgld(
    posterior: LocalPosterior,
    epsilon: float,
    factors: Mapping[str, float | Tensor],
    *,
    momentum: float = 0.0,
    check_period: int | None = None,
) -> Sampler:
    """SGLD with step size ε and the given diagonal G.

    factors: of every leaf a number > 0, or a tensor of them that broadcasts to (C, *shape).
    momentum, check_period: as for `psgld`.
    Raises: ValueError for factors that do not fit the parameters or are not > 0.
    """
    shapes, like = posterior.layout.shapes, posterior.centre.flat
    if factors.keys() != shapes.keys():
        raise ValueError(f"factors: for {sorted(factors)}: give one for each of {sorted(shapes)}")
    diagonal = posterior.layout.stack(torch.empty_like(like))
    for name, leaf in diagonal.leaves.items():
        leaf.copy_(torch.as_tensor(factors[name], dtype=leaf.dtype, device=leaf.device))
    if not bool((diagonal.flat > 0).all()):
        raise ValueError("factors: all must be > 0")
    return _sampler(posterior, epsilon, Given(diagonal.flat), momentum, False, check_period)


def _sampler(
    posterior: LocalPosterior,
    epsilon: float,
    metric: Given | Learnt,
    momentum: float,
    correction: bool,
    check_period: int | None,
) -> Sampler:
    _require_share("momentum", momentum)
    layout, centre, nbeta = posterior.layout, posterior.centre, posterior.nbeta
    slope = layout.stack(torch.empty_like(centre.flat))
    drift, root = torch.empty_like(centre.flat), torch.empty_like(centre.flat)
    hessian = DiagonalHessian(posterior) if correction else None

    def init(position: Stack) -> State:
        return State(position, torch.zeros_like(drift), torch.zeros_like(drift), 0)

    def advance(state: State, block: Block) -> tuple[State, Info]:
        mean, square, weights = state.mean.clone(), state.square.clone(), state.position
        looks = due(state.step, len(block.positions), check_period)
        checks: dict[int, Check] = {}
        metrics: list[Tensor] = []
        slopes: list[Tensor] = []
        probes = 0
        for step, proposal in enumerate(block.positions):
            time = state.step + step
            curvature = None
            if hessian and metric.learns(time):
                curvature = hessian.at(block, step, weights, proposal.flat)
                probes += 2
            slope.flat.zero_()
            block.batches.add_gradient(step, weights.leaves, slope.leaves, 1.0)
            diagonal = metric.at(slope.flat, square, time)
            force = slope.flat
            if momentum:
                force = mean.lerp_(force, 1 - momentum) / (1 - momentum ** (time + 1))
            torch.sub(weights.flat, centre.flat, out=drift).mul_(posterior.gamma / nbeta)
            drift.add_(force)  # D/nβ
            proposal.flat.mul_(torch.sqrt(diagonal, out=root))
            proposal.flat.addcmul_(diagonal, drift, value=-epsilon / 2 * nbeta)
            if curvature is not None:
                proposal.flat.add_(metric.derivative(slope.flat, curvature), alpha=epsilon / 2)
            proposal.flat.add_(weights.flat)
            if step in looks and (momentum or hessian):
                checks[step] = bias_check(squared_drift(diagonal, force), epsilon)
            elif step in looks:
                metrics.append(diagonal.clone())
                slopes.append(slope.flat.clone())
            weights = proposal
        loss, baseline = block.batches.losses(), block.batches.baselines()
        if metrics:  # now, since the looks ask for other losses
            seen = _joined(slopes), epsilon, _joined(metrics)
            checks = look(posterior, block, looks, state.position, *seen)
        after = State(weights, mean, square, state.step + len(loss))
        gradients = (len(loss) + probes) * posterior.chains
        return after, Info(loss, baseline, checks, gradients)

    def squared_drift(diagonal: Tensor, force: Tensor) -> Tensor:
        """DᵀGD + 2μ/(1 − μ) nβ m̂ᵀGD."""
        both = torch.add(drift, force, alpha=2 * momentum / (1 - momentum))
        return nbeta**2 * layout.sums(both.mul_(drift).mul_(diagonal))

    return Sampler(Noise(scale=sqrt(epsilon)), init, advance, warm_up=metric.warm_up)


def _joined(rows: list[Tensor]) -> Tensor:
    """(K, total); of a single one, itself."""
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)


def _require_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value}: must be at least 0 and below 1")
