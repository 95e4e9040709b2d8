"""The no-U-turn sampler on all data (Hoffman & Gelman 2014): exact, and as far as it pays to go.

A trajectory of leapfrog steps is doubled, forwards or backwards in time by the toss of a coin,
until it, or a subtree of it, turns back on itself (`trees`), its energy error exceeds 1000, or it
has 2^max_depth leaves. The draw is one of its leaves, multinomially by e^−H (Betancourt 2017):
within a doubling by the largest log weight + Gumbel noise, between doublings with probability
min(1, W_new/W_old), which prefers to move on. With a diagonal mass M = diag(σ)⁻² the velocity is
carried as u = σp ~ N(0, I):
    u ← u − (ε/2)σ∇U(q),   q ← q + εσ u,   u ← u − (ε/2)σ∇U(q),   H = U(q) + ½‖u‖².

Iterative, over all chains at once: leaf i of doubling j is the same for every chain, so that what
to compare with what is plain bookkeeping. Chains that have finished wait for the others; where few
are left, these go on without them if a gradient takes long.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vecdot

from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.adaptation import Metric, StepSize, Windows, first_step
from llc.samplers.base import Block, Check, Info, Noise, Sampler
from llc.samplers.doubling import Best, Doubling, chosen, host
from llc.samplers.trees import Stretch, join

MAX_DEPTH = 10  # doublings: 1023 leapfrog steps
LONGEST_BLOCK = 4  # transitions: an interrupt waits for no more


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
    doubling = Doubling(posterior)
    data, path, chains, put = doubling.data, doubling.path, doubling.chains, doubling.put
    windows = Windows.of(warm_up if adapt_mass else 0)
    guesses = {*([0] if epsilon is None else []), *windows.ends}
    coins = 2**max_depth - 1  # where the uniforms of the doublings begin, after one a leaf

    def init(position: Stack) -> State:
        start = data.matrix(position)
        path.positions[0].matrix.copy_(start)
        loss, potential = data.evaluate(path.positions[0], path.slopes[0])
        guess = torch.full_like(loss, torch.nan if epsilon is None else epsilon)
        return State(
            data.stack(start),
            path.slopes[0].matrix.clone(),
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
                gradients += used * posterior.chains
            losses.append(state.loss)
            state, checks[step], used = transition(state, velocity, block.uniforms[step])
            gradients += used
            noise.flat.copy_(state.position.flat)
        loss = torch.stack(losses)
        baseline = data.full.centre_loss.expand_as(loss)
        return state, Info(loss, baseline, checks, gradients)

    @np.errstate(all="ignore")  # chains that diverge are told by their numbers
    def transition(state: State, velocity: Tensor, uniforms: Tensor) -> tuple[State, Check, int]:
        epsilons = state.step_size.value(state.step >= warm_up)
        steps, uniform = scaled(state, epsilons), host(uniforms)
        start = torch.stack([data.matrix(state.position), state.slope, velocity])
        ends = start.unsqueeze(1).repeat(1, 2, 1, 1)  # of the trajectory, the earlier one first
        energy = host(state.potential + 0.5 * vecdot(velocity, velocity))
        best = Best(start[:2], host(state.loss), host(state.potential), energy)
        total, log_weight, going = velocity, np.zeros_like(energy), np.ones(len(energy), bool)
        acceptance, leaves, used = np.zeros_like(energy), np.zeros_like(energy), 0
        for depth in range(max_depth):
            coin, accept = uniform[:, coins + 2 * depth], uniform[:, coins + 2 * depth + 1]
            ahead = put(coin < 0.5)
            side = ahead.long()
            here, far = ends[:, side, chains], ends[2, 1 - side, chains]
            signed = torch.where(ahead.unsqueeze(1), steps, -steps)
            own = uniform[:, 2**depth - 1 : 2 ** (depth + 1) - 1].T
            subtree, made = doubling.build(here, signed, energy, own, going)
            used += made
            acceptance, leaves = acceptance + subtree.acceptance, leaves + subtree.leaves
            going = subtree.whole
            if not going.any():
                break
            takes = going & (np.log(accept) < subtree.log_weight - log_weight)
            best = chosen(takes, put(takes), subtree.best, best)
            log_weight = np.logaddexp(log_weight, subtree.log_weight)
            joined, turning = join(Stretch(far, here[2], total), subtree.stretch)
            total, going = joined.total, going & ~host(turning)
            ends[:, side, chains] = subtree.end
        mean = put(acceptance / leaves)
        check = Check(mean, torch.full_like(mean, torch.nan), put(best.energy), epsilons)
        return settled(state, best, mean, put(leaves)), check, used

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
            put(best.loss),
            put(best.potential),
            step_size,
            metric,
            state.leaves + leaves,
            state.step + 1,
        )

    def guessed(state: State, velocity: Tensor) -> tuple[Tensor, int]:
        """(C,) a first ε, from twice σ; where that is not known, from the widest there can be."""
        energy = state.potential + 0.5 * vecdot(velocity, velocity)
        unit = 1 / sqrt(posterior.gamma) if state.step == 0 and posterior.gamma > 0 else 1.0
        here = torch.stack([data.matrix(state.position), state.slope, velocity])
        everywhere = np.ones(len(energy), bool)

        def log_ratio(epsilons: Tensor) -> Tensor:
            doubling.leap(here, scaled(state, epsilons), 1, everywhere)
            _, potential, kinetic = doubling.energies(1)
            result: Tensor = energy - potential[0] - kinetic[0]
            return result

        return first_step(log_ratio, torch.full_like(energy, 2 * unit), target)

    def scaled(state: State, epsilons: Tensor) -> Tensor:
        """(C, d) εσ."""
        scales = data.ones if state.metric is None else state.metric.inverse.sqrt()
        return scales * epsilons.unsqueeze(1)

    return Sampler(
        Noise(),
        init,
        advance,
        uniforms=coins + 2 * max_depth,
        longest_block=LONGEST_BLOCK,
        warm_up=warm_up,
    )
