"""The no-U-turn sampler on all data (Hoffman & Gelman 2014): exact, and as far as it pays to go.

A trajectory of leapfrog steps is doubled, forwards or backwards in time by the toss of a coin,
until it, or a subtree of it, turns back on itself (`trees`), its energy error exceeds 1000, or it
has 2^max_depth leaves. The draw is one of its leaves, multinomially by e^−H (Betancourt 2017):
within a doubling by the largest log weight + Gumbel noise, between doublings with probability
min(1, W_new/W_old), which prefers to move on. With a diagonal mass M = diag(σ)⁻² the velocity is
carried as u = σp ~ N(0, I):
    u ← u − (ε/2)σ∇U(q),   q ← q + εσ u,   u ← u − (ε/2)σ∇U(q),   H = U(q) + ½‖u‖².

Iterative, over all chains at once: leaf i of doubling j is the same for every chain, so that what
to compare with what is plain bookkeeping. Leaves come in runs of up to eight: energies, turns and
the choice are looked at once a run. What a run adds beyond the leaf that ends a chain's trajectory
changes nothing and counts for nothing. Chains that have finished wait for the others; they are
left out of gradients that take long.
"""

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vecdot

from llc.models.base import block_steps
from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.adaptation import Metric, StepSize, Windows, first_step
from llc.samplers.base import Block, Check, Info, Noise, Sampler
from llc.samplers.rows import RowData
from llc.samplers.trees import Stretch, grow, join, turns

MAX_DEPTH = 10  # doublings: 1023 leapfrog steps
DIVERGENCE = 1000.0  # energy error at which a trajectory is given up
RUN = 8  # leaves: a power of two
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
    end: Tensor  # (3, C, d) position, ∇U and velocity at its last leaf
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
    run = longest_run(posterior)
    data = RowData(posterior, run, apart=True)
    windows = Windows.of(warm_up if adapt_mass else 0)
    guesses = {*([0] if epsilon is None else []), *windows.ends}
    path, half = data.path(run), torch.empty_like(data.ones)
    chains = torch.arange(posterior.chains, device=half.device)
    coins = 2**max_depth - 1  # where the uniforms of the doublings begin, after one a leaf

    def init(position: Stack) -> State:
        start = data.matrix(position)
        here = path.leaves[0]
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
                gradients += used * posterior.chains
            losses.append(state.loss)
            state, checks[step], used = transition(state, velocity, block.uniforms[step])
            gradients += used
            noise.flat.copy_(state.position.flat)
        loss = torch.stack(losses)
        baseline = data.full.centre_loss.expand_as(loss)
        return state, Info(loss, baseline, checks, gradients)

    def transition(state: State, velocity: Tensor, uniform: Tensor) -> tuple[State, Check, int]:
        epsilons = state.step_size.value(state.step >= warm_up)
        steps = scaled(state, epsilons)
        start = torch.stack([data.matrix(state.position), state.slope, velocity])
        ends = start.unsqueeze(1).repeat(1, 2, 1, 1)  # of the trajectory, the earlier one first
        energy = state.potential + 0.5 * vecdot(velocity, velocity)
        best = Best(start[:2], state.loss, state.potential, energy)
        total, log_weight = velocity, torch.zeros_like(energy)
        going = torch.ones_like(energy, dtype=torch.bool)
        acceptance, leaves, used = torch.zeros_like(energy), torch.zeros_like(energy), 0
        for depth in range(max_depth):
            coin, accept = uniform[:, coins + 2 * depth], uniform[:, coins + 2 * depth + 1]
            ahead = coin < 0.5
            side = ahead.long()
            here, far = ends[:, side, chains], ends[2, 1 - side, chains]
            signed = torch.where(ahead.unsqueeze(1), steps, -steps)
            own = uniform[:, 2**depth - 1 : 2 ** (depth + 1) - 1]
            subtree, made = build(here, signed, energy, own, going)
            used += made
            acceptance, leaves = acceptance + subtree.acceptance, leaves + subtree.leaves
            going = subtree.whole
            if not going.any():
                break
            takes = going & (accept.log() < subtree.log_weight - log_weight)
            best = chosen(takes, subtree.best, best)
            log_weight = torch.logaddexp(log_weight, subtree.log_weight)
            joined, turning = join(Stretch(far, here[2], total), subtree.stretch)
            total, going = joined.total, going & ~turning
            ends[:, side, chains] = subtree.end
        acceptance = acceptance / leaves
        check = Check(acceptance, torch.full_like(energy, torch.nan), best.energy, epsilons)
        return settled(state, best, acceptance, leaves), check, used

    def build(
        here: Tensor, steps: Tensor, energy: Tensor, uniform: Tensor, going: Tensor
    ) -> tuple[Subtree, int]:
        """A leaf on from `here` for each column of `uniform`, or fewer where no chain goes on."""
        trees: list[Stretch] = []
        key, index = torch.full_like(energy, -torch.inf), torch.zeros_like(energy).long()
        whole, counted, tables, used = here[:2], [], [], 0
        for number, own in enumerate(torch.split(uniform, run, 1)):
            length = own.shape[1]
            used += length * leap(here, steps, length, going)
            here = path.whole[:3, length - 1]
            loss, potential, kinetic = data.energies_on(path, length)
            weight = energy - potential - kinetic
            fine = weight > -DIVERGENCE  # NaN compares false
            through = fine & ~turns(path.whole[2, :length]) if length > 1 else fine
            after = going & through.cumprod(0).bool()
            before = torch.cat([going.unsqueeze(0), after[:-1]])
            weight = torch.where(before & fine, weight, -torch.inf)
            counted.append(before)
            tables.append(torch.stack([loss, potential, weight]))
            keys, places = (weight + gumbel(own.mT)).max(0)
            better = keys > key
            key = torch.maximum(key, keys)
            index = torch.where(better, number * run + places, index)
            whole = torch.where(better.unsqueeze(1), path.whole[:2, places, chains], whole)
            going = after[-1]
            turning = grow(trees, number, Stretch.of(path.whole[2, :length]))
            if turning is not None:
                going = going & ~turning
            if not going.any():
                break
        table = torch.cat(tables, 1)
        loss, potential, weight = table.gather(1, index.expand(3, 1, -1))[:, 0]
        return Subtree(
            Best(whole, loss, potential, energy - weight),
            table[2].logsumexp(0),
            trees[-1],
            here,
            going,
            table[2].clamp(max=0).exp().sum(0),
            torch.cat(counted).double().sum(0),
        ), used

    def leap(here: Tensor, steps: Tensor, length: int, going: Tensor) -> int:
        """So many leapfrog steps on from `here`, along `path`; of how many chains the gradients."""
        some = going.tolist() if data.full.apart else None
        position, slope, velocity = here
        for step, leaf in enumerate(path.leaves[:length]):
            torch.addcmul(velocity, steps, slope, value=-0.5, out=half)
            torch.addcmul(position, steps, half, out=leaf.position.matrix)
            data.gradient_on(path, step, some)
            torch.addcmul(half, steps, leaf.slope.matrix, value=-0.5, out=leaf.velocity)
            position, slope, velocity = leaf.position.matrix, leaf.slope.matrix, leaf.velocity
        return posterior.chains if some is None else sum(some)

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

        here = torch.stack([data.matrix(state.position), state.slope, velocity])
        everywhere = torch.ones_like(energy, dtype=torch.bool)

        def log_ratio(epsilons: Tensor) -> Tensor:
            leap(here, scaled(state, epsilons), 1, everywhere)
            _, potential, kinetic = data.energies_on(path, 1)
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


def chosen(which: Tensor, new: Best, old: Best) -> Best:
    """The leaves of `new` where `which` (C,), else those of `old`."""
    whole = torch.where(which.unsqueeze(1), new.whole, old.whole)
    return Best(whole, *(torch.where(which, a, b) for a, b in zip(new[1:], old[1:], strict=True)))


def gumbel(uniform: Tensor) -> Tensor:
    """−log(−log u)."""
    result: Tensor = uniform.clamp(min=TINY).log().neg_().log_().neg_()
    return result


def longest_run(posterior: LocalPosterior) -> int:
    """How many leaves are looked at together: a power of two, fewer where they take much room."""
    room = block_steps(posterior.loss, posterior.loss.num_examples, posterior.chains)
    return 1 << (min(RUN, room).bit_length() - 1)
