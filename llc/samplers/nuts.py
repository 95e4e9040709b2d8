"""The no-U-turn sampler on all data (Hoffman & Gelman 2014): exact, and as far as it pays to go.

A trajectory of leapfrog steps is doubled, forwards or backwards in time by the toss of a coin,
until it, or a subtree of it, turns back on itself (`trees`), its energy error exceeds 1000, or it
has 2^max_depth leaves. The draw is one of its leaves, multinomially by e^−H (Betancourt 2017):
within a doubling by the largest log weight + Gumbel noise, between doublings with probability
min(1, W_new/W_old), which prefers to move on. With a diagonal mass M = diag(σ)⁻² the velocity is
carried as u = σp ~ N(0, I):
    u ← u − (ε/2)σ∇U(q),   q ← q + εσ u,   u ← u − (ε/2)σ∇U(q),   H = U(q) + ½‖u‖².

Iterative, over all chains at once: leaf i of doubling j is the same for every chain, so that what
to compare with what is plain bookkeeping. Chains that have finished wait for the others.
"""

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vecdot

from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.adaptation import Metric, StepSize, Windows, first_step
from llc.samplers.base import Block, Check, Info, Noise, Sampler
from llc.samplers.rows import Phase, RowData
from llc.samplers.trees import Stretch, grow, join

MAX_DEPTH = 10  # doublings: 1023 leapfrog steps
DIVERGENCE = 1000.0  # energy error at which a trajectory is given up
LONGEST_BLOCK = 4  # transitions: an interrupt waits for no more
TINY = torch.finfo(torch.float64).tiny


class State(NamedTuple):
    """Carried from block to block."""

    position: Stack  # w_t, float64
    slope: Tensor  # (C, d) ∇U there
    loss: Tensor  # (C,) L_n
    potential: Tensor  # (C,) U
    step_size: StepSize
    metric: Metric | None  # (C, d); None: the mass is one
    leaves: Tensor  # (C,) leapfrog steps so far, each chain's own
    step: int  # t


class Best(NamedTuple):
    """The chosen leaf of every chain, and what is known there."""

    whole: Tensor  # (2, C, d) position and ∇U
    loss: Tensor  # (C,)
    potential: Tensor  # (C,)
    energy: Tensor  # (C,) H


class Subtree(NamedTuple):
    """What a doubling has built."""

    best: Best
    log_weight: Tensor  # (C,) log Σ e^{H_0 − H}
    stretch: Stretch
    whole: Tensor  # (C,) bool: complete, without a turn or a divergence
    acceptance: Tensor  # (C,) Σ min(1, e^{H_0 − H})
    leaves: Tensor  # (C,) as many


def nuts(
    posterior: LocalPosterior,
    *,
    warm_up: int,
    epsilon: float | None = None,
    target: float = 0.8,
    adapt_mass: bool = True,
    max_depth: int = MAX_DEPTH,
) -> Sampler:
    """NUTS; in its `warm_up` transitions each chain adapts its ε and the diagonal of its mass.

    ε goes towards the mean acceptance `target` over a trajectory's leaves, from `epsilon`, or where
    there is none from a guess; it is in units of σ, the posterior's deviations, once these are
    known (`adapt_mass`), and in units of w before.
    """
    data = RowData(posterior)
    windows = Windows.of(warm_up if adapt_mass else 0)
    guesses = {*([0] if epsilon is None else []), *windows.ends}
    here, left, right = (data.phase() for _ in range(3))
    candidate = torch.zeros_like(here.whole[:2])
    coins = 2**max_depth - 1  # where the uniforms of the doublings begin, after one a leaf

    def init(position: Stack) -> State:
        start = data.matrix(position)
        here.position.matrix.copy_(start)
        loss, potential = data.evaluate(here.position, here.slope)
        guess = torch.full_like(loss, torch.nan if epsilon is None else epsilon)
        return State(
            data.stack(start),
            here.slope.matrix.clone(),
            loss,
            potential,
            StepSize.start(guess),
            Metric.start(start) if windows.ends else None,
            torch.zeros_like(loss),
            0,
        )

    def advance(state: State, block: Block) -> tuple[State, Info]:
        assert block.uniforms is not None
        losses, checks, gradients = [], {}, 0
        for step, noise in enumerate(block.positions):
            velocity = data.matrix(noise)
            if state.step in guesses:
                guess, used = guessed(state, velocity)
                state = state._replace(step_size=StepSize.start(guess))
                gradients += used
            losses.append(state.loss)
            state, checks[step], used = transition(state, velocity, block.uniforms[step])
            gradients += used
            noise.flat.copy_(state.position.flat)
        loss = torch.stack(losses)
        baseline = data.full.centre_loss.expand_as(loss)
        return state, Info(loss, baseline, checks, gradients * posterior.chains)

    def transition(state: State, velocity: Tensor, uniform: Tensor) -> tuple[State, Check, int]:
        epsilons = state.step_size.value(state.step >= warm_up)
        steps = scaled(state, epsilons)
        place(left, state, velocity)
        right.whole.copy_(left.whole)
        energy = state.potential + 0.5 * vecdot(velocity, velocity)
        best = Best(left.whole[:2].clone(), state.loss, state.potential, energy)
        total, log_weight = velocity, torch.zeros_like(energy)
        going = torch.ones_like(energy, dtype=torch.bool)
        acceptance, leaves, used = torch.zeros_like(energy), torch.zeros_like(energy), 0
        gumbel = uniform[:, :coins].clamp(min=TINY).log().neg().log().neg()
        for depth in range(max_depth):
            coin, accept = uniform[:, coins + 2 * depth], uniform[:, coins + 2 * depth + 1]
            ahead = (coin < 0.5).unsqueeze(1)
            torch.where(ahead, right.whole, left.whole, out=here.whole)
            far = torch.where(ahead, left.velocity, right.velocity)
            trajectory = Stretch(far, here.velocity.clone(), total)
            noise = gumbel[:, 2**depth - 1 : 2 ** (depth + 1) - 1]
            subtree, made = build(torch.where(ahead, steps, -steps), energy, noise, going)
            used += made
            acceptance, leaves = acceptance + subtree.acceptance, leaves + subtree.leaves
            going = subtree.whole
            if not going.any():
                break
            takes = going & (accept.log() < subtree.log_weight - log_weight)
            best = chosen(takes, subtree.best, best)
            log_weight = torch.logaddexp(log_weight, subtree.log_weight)
            joined, turns = join(trajectory, subtree.stretch)
            total, going = joined.total, going & ~turns
            torch.where(ahead, here.whole, right.whole, out=right.whole)
            torch.where(ahead, left.whole, here.whole, out=left.whole)
        acceptance = acceptance / leaves
        check = Check(acceptance, torch.full_like(energy, torch.nan), best.energy, epsilons)
        return settled(state, best, acceptance, leaves), check, used

    def build(steps: Tensor, energy: Tensor, noise: Tensor, going: Tensor) -> tuple[Subtree, int]:
        """As many leaves on from `here` as there are columns of `noise`, or until no chain goes."""
        trees: list[Stretch] = []
        key, index = torch.full_like(energy, -torch.inf), torch.zeros_like(energy).long()
        counted, losses, potentials, weights = [], [], [], []
        for leaf, own in enumerate(noise.unbind(1)):
            loss, potential = leap(steps)
            weight = energy - potential - 0.5 * vecdot(here.velocity, here.velocity)
            counted.append(going)
            going = going & (weight > -DIVERGENCE)  # NaN compares false
            weight = torch.where(going, weight, -torch.inf)
            better = weight + own > key
            key = torch.maximum(key, weight + own)
            torch.where(better.unsqueeze(1), here.whole[:2], candidate, out=candidate)
            index = torch.where(better, leaf, index)
            losses.append(loss)
            potentials.append(potential)
            weights.append(weight)
            turning = grow(trees, leaf, here.velocity.clone())
            if turning is not None:
                going = going & ~turning
                if not going.any():
                    break
        table = torch.stack([torch.stack(rows) for rows in (losses, potentials, weights)])
        loss, potential, weight = table.gather(1, index.expand(3, 1, -1))[:, 0]
        best = Best(candidate, loss, potential, energy - weight)
        acceptance = table[2].clamp(max=0).exp().sum(0)
        return Subtree(
            best,
            table[2].logsumexp(0),
            trees[-1],
            going,
            acceptance,
            torch.stack(counted).double().sum(0),
        ), len(losses)

    def leap(steps: Tensor) -> tuple[Tensor, Tensor]:
        """A leapfrog step of `here`; (C,) L_n and U where it ends."""
        here.velocity.addcmul_(steps, here.slope.matrix, value=-0.5)
        here.position.matrix.addcmul_(steps, here.velocity)
        result = data.evaluate(here.position, here.slope)
        here.velocity.addcmul_(steps, here.slope.matrix, value=-0.5)
        return result

    def settled(state: State, best: Best, acceptance: Tensor, leaves: Tensor) -> State:
        """Where the chains go on from, and what they have learnt."""
        step_size, metric = state.step_size, state.metric
        if state.step < warm_up:
            step_size = step_size.update(acceptance, target)
        if metric is not None and windows.learning(state.step):
            metric = metric.seen(best.whole[0])
            if state.step + 1 in windows.ends:
                metric = metric.renewed(lambda values: values.mean(1, keepdim=True))
        return State(
            data.stack(best.whole[0]),
            best.whole[1],
            best.loss,
            best.potential,
            step_size,
            metric,
            state.leaves + leaves,
            state.step + 1,
        )

    def guessed(state: State, velocity: Tensor) -> tuple[Tensor, int]:
        """(C,) a first ε, from twice σ; where that is not known, from the widest there can be."""
        energy = state.potential + 0.5 * vecdot(velocity, velocity)
        unit = 1 / sqrt(posterior.gamma) if state.step == 0 and posterior.gamma > 0 else 1.0

        def log_ratio(epsilons: Tensor) -> Tensor:
            place(here, state, velocity)
            _, potential = leap(scaled(state, epsilons))
            result: Tensor = energy - potential - 0.5 * vecdot(here.velocity, here.velocity)
            return result

        return first_step(log_ratio, torch.full_like(energy, 2 * unit), target)

    def scaled(state: State, epsilons: Tensor) -> Tensor:
        """(C, d) εσ."""
        scales = data.ones if state.metric is None else state.metric.inverse.sqrt()
        return scales * epsilons.unsqueeze(1)

    def place(phase: Phase, state: State, velocity: Tensor) -> None:
        phase.position.matrix.copy_(data.matrix(state.position))
        phase.slope.matrix.copy_(state.slope)
        phase.velocity.copy_(velocity)

    return Sampler(
        Noise(),
        init,
        advance,
        uniforms=coins + 2 * max_depth,
        longest_block=LONGEST_BLOCK,
        warm_up=warm_up,
    )


def chosen(which: Tensor, new: Best, old: Best) -> Best:
    """The leaves of `new` where `which` (C,), else those of `old`."""
    whole = torch.where(which.unsqueeze(1), new.whole, old.whole)
    return Best(whole, *(torch.where(which, a, b) for a, b in zip(new[1:], old[1:], strict=True)))
