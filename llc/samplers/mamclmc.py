"""Metropolis-adjusted microcanonical sampling on all data (Robnik et al. 2025): exact.

From a direction u drawn uniformly on the sphere, a trajectory of
    q' = u,   u' = −(I − uuᵀ)∇U(q)/(d − 1)
of n steps of `minimal_norm`, two gradients each, accepted with probability min(1, e^−ΔE). The
change of the energy ΔE = ΔU + ΔK counts the volume the turns leave (`turn`), so that this is the
Metropolis ratio of e^−U. The length nε of each is drawn from L·[½, 1½], wherever it starts.

ε is the length of a step, and L that of a trajectory on average, both in units of w, each chain's
own. In the warm-up ε follows the acceptance, and L is 10ε until it becomes √(Σ variances), the size
of the posterior, at the end of every one of Stan's windows.
"""

from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.adaptation import Mixing, StepSize, Windows, first_step
from llc.samplers.base import Block, Check, Info, Noise, Sampler
from llc.samplers.integrators import minimal_norm
from llc.samplers.rows import RowData

TARGET = 0.9  # the acceptance that moves fastest, in the paper
FIRST_LENGTH = 10.0  # L/ε before anything is known
MAX_STEPS = 1000  # of one trajectory
LONGEST_BLOCK = 4  # transitions: an interrupt waits for no more


class State(NamedTuple):
    """Carried from block to block."""

    position: Stack  # w_t, float64
    slope: Tensor  # (C, d) ∇U
    loss: Tensor  # (C,) L_n
    potential: Tensor  # (C,) U
    step_size: StepSize
    length: Tensor  # (C,) L
    mixing: Mixing | None  # what L is tuned by; None: nothing
    step: int  # t


def mamclmc(
    posterior: LocalPosterior,
    *,
    warm_up: int,
    epsilon: float | None = None,
    length: float | None = None,
    target: float = TARGET,
) -> Sampler:
    """Adjusted MCLMC; in its `warm_up` transitions each chain tunes its ε and L.

    epsilon: where ε starts, or stays where `warm_up` is 0; None: a guess. length: L, kept; None:
    tuned. target: the acceptance.
    Raises: ValueError for fewer than two parameters.
    """
    data = RowData(posterior)
    chains, size = data.shape
    if size < 2:
        raise ValueError("mamclmc: one parameter has no direction to turn to: use another sampler")
    windows = Windows.of(warm_up if length is None else 0)
    guesses = {*([0] if epsilon is None else []), *windows.ends}
    here, slope = data.rows(data.ones.clone()), data.rows(data.ones.clone())

    def init(position: Stack) -> State:
        here.matrix.copy_(data.matrix(position))
        loss, potential = data.evaluate(here, slope)
        return State(
            data.stack(here.matrix),
            slope.matrix.clone(),
            loss,
            potential,
            StepSize.start(torch.full_like(loss, torch.nan if epsilon is None else epsilon)),
            torch.full_like(loss, torch.nan if length is None else length),
            Mixing.start(here.matrix) if windows.ends else None,
            0,
        )

    def advance(state: State, block: Block) -> tuple[State, Info]:
        assert block.uniforms is not None
        losses, checks, gradients = [], {}, 0
        for step, noise in enumerate(block.positions):
            direction = data.matrix(noise)
            direction /= torch.linalg.vector_norm(direction, dim=1, keepdim=True)
            if state.step in guesses:
                guess, used = guessed(state, direction)
                state = state._replace(step_size=StepSize.start(guess))
                gradients += 2 * used
            losses.append(state.loss)
            state, checks[step], used = transition(state, direction, block.uniforms[step])
            gradients += 2 * used
            noise.flat.copy_(state.position.flat)
        loss = torch.stack(losses)
        baseline = data.full.centre_loss.expand_as(loss)
        return state, Info(loss, baseline, checks, gradients * chains)

    def transition(state: State, velocity: Tensor, uniform: Tensor) -> tuple[State, Check, int]:
        epsilons = state.step_size.value(state.step >= warm_up)
        own = torch.where(state.length.isnan(), FIRST_LENGTH * epsilons, state.length)
        counts = (own * (0.5 + uniform[:, 1]) / epsilons).ceil().clamp(1, MAX_STEPS)
        used, loss, potential, energy = travel(state, velocity, epsilons, counts)
        log_ratio = (state.potential - energy).nan_to_num(nan=-torch.inf)
        moves = uniform[:, 0].log() < log_ratio
        acceptance = log_ratio.clamp(max=0).exp()
        check = Check(acceptance, torch.full_like(energy, torch.nan), energy, epsilons)
        column = moves.unsqueeze(1)
        position = torch.where(column, here.matrix, data.matrix(state.position))
        step_size, mixing = state.step_size, state.mixing
        if state.step < warm_up:
            step_size = step_size.update(acceptance, target)
        own = state.length
        if mixing is not None and windows.learning(state.step):
            mixing = mixing.seen(position, 1)
            if state.step + 1 in windows.ends:
                own, mixing = mixing.spread(), Mixing.start(position)
        new = State(
            data.stack(position),
            torch.where(column, slope.matrix, state.slope),
            torch.where(moves, loss, state.loss),
            torch.where(moves, potential, state.potential),
            step_size,
            own,
            mixing,
            state.step + 1,
        )
        return new, check, used

    def travel(
        state: State, velocity: Tensor, epsilons: Tensor, counts: Tensor
    ) -> tuple[int, Tensor, Tensor, Tensor]:
        """Take `here` from the state, for each chain's own count of steps; steps, L_n, U, U + K."""
        here.matrix.copy_(data.matrix(state.position))
        slope.matrix.copy_(state.slope)
        gained = torch.zeros_like(epsilons)
        longest = int(counts.max())
        for step in range(longest):
            steps = torch.where(counts > step, epsilons, 0)
            gained += minimal_norm(gradient, here.matrix, velocity, slope.matrix, steps)
        loss, potential = data.energies(here)
        return longest, loss, potential, potential + gained

    def guessed(state: State, direction: Tensor) -> tuple[Tensor, int]:
        """(C,) the ε, to a factor of two, at which one step's acceptance falls below the target."""
        widest = sqrt(size / posterior.gamma) if posterior.gamma > 0 else sqrt(size)
        one = torch.ones_like(state.loss)

        def log_ratio(epsilons: Tensor) -> Tensor:
            return state.potential - travel(state, direction.clone(), epsilons, one)[-1]

        return first_step(log_ratio, torch.full_like(one, widest), target)

    def gradient() -> None:
        data.gradient(here, slope)

    return Sampler(Noise(), init, advance, uniforms=2, longest_block=LONGEST_BLOCK, warm_up=warm_up)
