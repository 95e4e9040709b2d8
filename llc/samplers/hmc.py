"""Hamiltonian Monte Carlo on all data (Duane et al. 1987; Neal 2011): exact.

A fresh momentum p ~ N(0, M), L = T/ε leapfrog steps of q' = M⁻¹p, p' = −∇U(q), then accepted with
probability min(1, exp(H − H')), H = U(q) + ½pᵀM⁻¹p. Each trajectory's time is drawn from
T·[½, 1½], so that no direction is in step with it. With M = I directions that feel the localisation
alone swing with the frequency √γ: T = π/(2√γ) takes them a quarter of a period, half-way round.
With an adapted M⁻¹ = γ·(variance of each parameter) all directions along the axes do.
"""

from math import pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.adaptation import Metric, StepSize, Windows, first_step
from llc.samplers.base import Block, Check, Info, Noise, Sampler
from llc.samplers.full_data import FullData
from llc.samplers.integrators import kinetic, leapfrog
from llc.samplers.metropolis import Place, accept

TARGET = 0.8  # acceptance; theory has 0.65 at best, and little is lost up to 0.8
MAX_STEPS = 1000  # leapfrog steps of one trajectory
LONGEST_BLOCK = 4  # transitions: an interrupt waits for no more


class State(NamedTuple):
    """Carried from block to block."""

    position: Stack  # w_t, float64
    slope: Tensor  # ∇U there, flat
    loss: Tensor  # (C,) L_n
    potential: Tensor  # (C,) U
    step_size: StepSize
    metric: Metric | None  # flat; None: M = I
    step: int  # t


def quarter_period(gamma: float) -> float:
    """π/(2√γ): the time in which γ alone turns position into momentum."""
    return pi / (2 * sqrt(gamma))


def hmc(
    posterior: LocalPosterior,
    *,
    trajectory: float,
    warm_up: int,
    epsilon: float | None = None,
    target: float = TARGET,
    adapt_mass: bool = False,
) -> Sampler:
    """HMC with trajectories of time `trajectory` on average.

    Each chain adapts its leapfrog step ε to the acceptance `target` in its `warm_up` transitions,
    from `epsilon`, or where there is none from a guess; with `adapt_mass` also its diagonal mass.
    """
    full, layout = FullData(posterior), posterior.layout
    unit = torch.ones_like(full.centre.flat)
    windows = Windows.of(warm_up if adapt_mass else 0)
    guesses = {*([0] if epsilon is None else []), *windows.ends}

    def init(position: Stack) -> State:
        place = Place.at(full, position)
        guess = torch.full_like(place.loss, torch.nan if epsilon is None else epsilon)
        metric = Metric.start(place.position.flat) if windows.ends else None
        return State(*place, StepSize.start(guess), metric, 0)

    def advance(state: State, block: Block) -> tuple[State, Info]:
        assert block.uniforms is not None
        losses, checks, gradients = [], {}, 0
        for step, noise in enumerate(block.positions):
            momentum = noise.flat.double()
            if state.metric is not None:
                momentum = momentum / state.metric.inverse.sqrt()
            if state.step in guesses:
                guess, used = guessed(state, momentum)
                state = state._replace(step_size=StepSize.start(guess))
                gradients += used
            losses.append(state.loss)
            state, checks[step], used = transition(state, momentum, block.uniforms[step])
            gradients += used
            noise.flat.copy_(state.position.flat)
        loss = torch.stack(losses)
        baseline = full.centre_loss.expand_as(loss)
        return state, Info(loss, baseline, checks, gradients * posterior.chains)

    def transition(state: State, momentum: Tensor, uniform: Tensor) -> tuple[State, Check, int]:
        epsilons = state.step_size.value(state.step >= warm_up)
        times = trajectory * (0.5 + uniform[:, 1])
        counts = (times / epsilons).ceil().clamp(1, MAX_STEPS)
        old = Place(*state[:4])
        inverse = unit if state.metric is None else state.metric.inverse
        before = old.potential + kinetic(layout.sums, momentum, inverse)
        new, used = travel(old, momentum, inverse, epsilons, counts)
        after = new.potential + kinetic(layout.sums, momentum, inverse)
        place, acceptance = accept(layout, before - after, uniform[:, 0], new, old)
        adapted = state.step_size
        if state.step < warm_up:
            adapted = adapted.update(acceptance, target)
        nothing = torch.full_like(acceptance, torch.nan)
        check = Check(acceptance, nothing, after, epsilons)
        return State(*place, adapted, learnt(state, place), state.step + 1), check, used

    def learnt(state: State, place: Place) -> Metric | None:
        """The metric after a transition to `place`."""
        metric = state.metric
        if metric is None or not windows.learning(state.step):
            return metric
        metric = metric.seen(place.position.flat)
        if state.step + 1 not in windows.ends:
            return metric
        return metric.renewed(average, posterior.gamma or 1.0)

    def average(values: Tensor) -> Tensor:
        return layout.spread(layout.sums(values) / layout.size, torch.empty_like(values))

    def travel(
        old: Place, momentum: Tensor, inverse: Tensor, epsilons: Tensor, counts: Tensor
    ) -> tuple[Place, int]:
        """Leapfrog every chain for its own count of steps; `momentum` ends where they do."""
        position = layout.stack(old.position.flat.clone())
        slope = old.slope.clone()
        step = torch.empty_like(slope)
        ends, taken = sorted(set(counts.tolist())), 0
        for end in ends:
            layout.spread(torch.where(counts >= end, epsilons, 0), step)
            drift = step * inverse
            for _ in range(int(end) - taken):
                leapfrog(full.gradient, position, momentum, slope, step, drift)
            taken = int(end)
        return Place.seen(full, position, slope), taken

    def guessed(state: State, momentum: Tensor) -> tuple[Tensor, int]:
        """(C,) the ε, to a factor of two, at which one step's acceptance falls below the target."""
        old = Place(*state[:4])
        inverse = unit if state.metric is None else state.metric.inverse
        before = old.potential + kinetic(layout.sums, momentum, inverse)
        one = torch.ones_like(before)

        def log_ratio(epsilons: Tensor) -> Tensor:
            moved = momentum.clone()
            new, _ = travel(old, moved, inverse, epsilons, one)
            return before - (new.potential + kinetic(layout.sums, moved, inverse))

        return first_step(log_ratio, torch.full_like(old.loss, trajectory), target)

    return Sampler(Noise(), init, advance, uniforms=2, longest_block=LONGEST_BLOCK, warm_up=warm_up)
