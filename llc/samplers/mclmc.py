"""Microcanonical Langevin Monte Carlo on all data (Robnik et al. 2023): not exact, but fast.

A particle of speed one turns towards lower U, and forgets its direction after a length L:
    q' = u,   u' = −(I − uuᵀ)∇U(q)/(d − 1),   then   u ← (u + νξ)/|u + νξ|,  ξ ~ N(0, I),
    ν = √((e^{2ε/L} − 1)/d).
Its positions have the density e^−U as far as the integrator (`minimal_norm`, two gradients a step)
keeps the energy U + K. There is no accept step (`mamclmc` has one): what is not kept biases λ̂, with
ε² for small ε and faster towards the edge of stability. Each run measures its own (`response`):
(ε/8)·`Check.squared_gradient`, on average. With the ε it is tuned to, λ̂ lies below that of HMC by
1.7 % on a quadratic and 2.7 % on a reduced-rank regression in `benchmarks/exact_samplers.md`.

ε is the length of a step: √d times a step of each parameter. It is tuned to an energy error of
    E[ΔE²]/d = 5·10⁻⁴   a step.
L is the length after which the direction is lost. Both are in units of w, each chain's own, and are
fixed after the warm-up. Its thirds: ε alone, with L = 20ε; then L = √(Σ variances), the size of the
posterior; then L = 0.4·(the length travelled per effective draw), where that is longer. The ε that
is kept is the least of the second half of the warm-up: `EnergyError` says why.
"""

from math import exp, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from llc.params import Stack
from llc.posterior import LocalPosterior
from llc.samplers.adaptation import EnergyError, Mixing, first_step
from llc.samplers.base import Block, Check, Info, Noise, Sampler
from llc.samplers.integrators import minimal_norm
from llc.samplers.response import Response
from llc.samplers.rows import RowData

TARGET = 5e-4  # E[ΔE²]/d
FIRST_LENGTH = 20.0  # L/ε before anything is known
PERSISTENCE = 0.4  # L over the length travelled per effective draw, as in the paper
BATCHES = 16  # of the last third, whose means tell how many of its draws are effective
BURST = 10.0  # times √(d·target), more than which no ΔE counts for: bursts are of no first order
FORGOTTEN = 8.0  # L: what the loss remembers of an energy error is gone by then
CHECK_PERIOD = 20  # steps between closer looks
LONGEST_BLOCK = 64  # steps: an interrupt waits for no more


class State(NamedTuple):
    """Carried from block to block."""

    position: Stack  # w_t, float64
    velocity: Tensor  # (C, d) u, of length one
    slope: Tensor  # (C, d) ∇U
    loss: Tensor  # (C,) L_n
    potential: Tensor  # (C,) U
    error: EnergyError  # ε, and what it is tuned by
    length: Tensor  # (C,) L
    mixing: Mixing | None  # what L is tuned by; None: nothing
    response: Response  # of the loss to the errors of the energy, since the warm-up
    step: int  # t


def mclmc(
    posterior: LocalPosterior,
    *,
    warm_up: int,
    epsilon: float | None = None,
    length: float | None = None,
    target: float = TARGET,
) -> Sampler:
    """MCLMC; in its `warm_up` steps each chain tunes its ε and L.

    epsilon: where ε starts, or stays where `warm_up` is 0; None: a guess. length: L, kept; None:
    tuned. target: E[ΔE²]/d.
    Raises: ValueError for fewer than two parameters, or where `warm_up` is 0 without ε and L.
    """
    data = RowData(posterior)
    chains, size = data.shape
    if size < 2:
        raise ValueError("mclmc: one parameter has no direction to turn to: use another sampler")
    if warm_up == 0 and (epsilon is None or length is None):
        raise ValueError("mclmc: warm_up=0: give epsilon and length, or a warm_up to tune them in")
    third = warm_up // 3 if length is None else 0
    batch = (warm_up - 2 * third) // BATCHES
    here, slope = data.rows(data.ones.clone()), data.rows(data.ones.clone())

    def init(position: Stack) -> State:
        here.matrix.copy_(data.matrix(position))
        loss, potential = data.evaluate(here, slope)
        return State(
            data.stack(here.matrix),
            torch.zeros_like(here.matrix),  # the first refreshment makes it any direction
            slope.matrix.clone(),
            loss,
            potential,
            EnergyError.start(torch.full_like(loss, torch.nan if epsilon is None else epsilon)),
            torch.full_like(loss, torch.nan if length is None else length),
            Mixing.start(here.matrix) if third else None,
            Response.start(loss),
            0,
        )

    def advance(state: State, block: Block) -> tuple[State, Info]:
        here.matrix.copy_(data.matrix(state.position))
        slope.matrix.copy_(state.slope)
        losses, errors, checks, gradients = [], [], {}, 2 * len(block.positions)
        warming = min(len(block.positions), max(0, warm_up - state.step))  # of these steps
        for step, noise in enumerate(block.positions):
            xi = data.matrix(noise)
            if state.step == 0 and epsilon is None:
                guess, used = guessed(state, xi)
                state = state._replace(error=EnergyError.start(guess))
                gradients += 2 * used
            losses.append(state.loss)
            state, error, check = transition(state, xi)
            errors.append(error)
            if (state.step - 1) % CHECK_PERIOD == 0:
                checks[step] = check
            data.copy(here, noise)
        loss = torch.stack([*losses, state.loss])
        baseline = data.full.centre_loss.expand_as(loss)
        if warming < len(errors):
            excess = data.nbeta * (loss - baseline)[warming + 1 :]
            state = measured(state, excess, torch.stack(errors[warming:]), checks, warming)
        state = state._replace(position=data.stack(here.matrix), slope=slope.matrix.clone())
        return state, Info(loss[:-1], baseline[:-1], checks, gradients * chains)

    def measured(
        state: State, excess: Tensor, errors: Tensor, checks: dict[int, Check], first: int
    ) -> State:
        """After steps from number `first` of a block on, whose `checks` now tell of the bias."""
        epsilons = state.error.step_size
        keep = (-epsilons / (FORGOTTEN * state.length)).exp()
        most = BURST * sqrt(size * target)
        looks = [step for step in checks if step >= first]
        response, shown = state.response.seen(
            excess, errors.clamp(-most, most), keep, [step - first for step in looks]
        )
        for step, means in zip(looks, shown, strict=True):
            checks[step] = checks[step]._replace(
                squared_gradient=8 / epsilons * means.product,
                energy_error=means.square / (size * target),
            )
        return state._replace(response=response)

    def transition(state: State, xi: Tensor) -> tuple[State, Tensor, Check]:
        """A step of `here`, which with `slope` stands for those of the state between two blocks;
        with the change ΔE of its energy."""
        warming = state.step < warm_up
        before = (here.matrix.clone(), slope.matrix.clone()) if warming else None
        epsilons = state.error.step_size
        velocity = refreshed(state, xi)
        gained = minimal_norm(gradient, here.matrix, velocity, slope.matrix, epsilons)
        loss, potential = data.energies(here)
        energy = potential + gained
        error = energy - state.potential
        nothing = torch.full_like(energy, torch.nan)
        check = Check(nothing, nothing, energy, epsilons)
        moved = state._replace(
            velocity=velocity, loss=loss, potential=potential, step=state.step + 1
        )
        if before is not None:
            moved = tuned(state, moved, error, *before)
        return moved, error, check

    def refreshed(state: State, xi: Tensor) -> Tensor:
        """u ← (u + νξ)/|u + νξ|."""
        epsilons, own = state.error.step_size, state.length
        own = torch.where(own.isnan(), FIRST_LENGTH * epsilons, own)
        nu = ((2 * epsilons / own).expm1() / size).sqrt()
        velocity = torch.addcmul(state.velocity, nu.unsqueeze(1), xi)
        return velocity.div_(torch.linalg.vector_norm(velocity, dim=1, keepdim=True))

    def tuned(state: State, moved: State, error: Tensor, start: Tensor, slopes: Tensor) -> State:
        """After a step of the warm-up; chains whose energy was lost go back to its start."""
        fine = error.isfinite()
        torch.where(fine.unsqueeze(1), here.matrix, start, out=here.matrix)
        torch.where(fine.unsqueeze(1), slope.matrix, slopes, out=slope.matrix)
        own, mixing = state.length, state.mixing
        tuning = state.error.seen(error, size * target, settling=2 * moved.step > warm_up)
        if mixing is not None and state.step >= third:
            mixing = mixing.seen(here.matrix, max(1, batch))
            if moved.step == 2 * third:
                own, mixing = mixing.spread(), Mixing.start(here.matrix)
            elif moved.step == warm_up and batch > 0:
                travelled = state.error.step_size * mixing.steps_per_draw(batch)
                own, mixing = (
                    torch.fmax(own, PERSISTENCE * travelled),
                    Mixing.start(here.matrix[:, :0]),
                )
        return moved._replace(
            velocity=torch.where(fine.unsqueeze(1), moved.velocity, 0),
            loss=torch.where(fine, moved.loss, state.loss),
            potential=torch.where(fine, moved.potential, state.potential),
            error=tuning.settled() if moved.step == warm_up else tuning,
            length=own,
            mixing=mixing,
        )

    def guessed(state: State, xi: Tensor) -> tuple[Tensor, int]:
        """(C,) the ε, to a factor of two, at which one step has the error wanted."""
        start, slopes = here.matrix.clone(), slope.matrix.clone()
        widest = sqrt(size / posterior.gamma) if posterior.gamma > 0 else sqrt(size)

        def log_ratio(epsilons: Tensor) -> Tensor:
            here.matrix.copy_(start)
            slope.matrix.copy_(slopes)
            velocity = xi / torch.linalg.vector_norm(xi, dim=1, keepdim=True)
            gained = minimal_norm(gradient, here.matrix, velocity, slope.matrix, epsilons)
            error = data.energies(here)[1] + gained - state.potential
            return -error.square() / (size * target)

        guess, used = first_step(log_ratio, torch.full_like(state.loss, widest), exp(-1))
        here.matrix.copy_(start)
        slope.matrix.copy_(slopes)
        return guess, used

    def gradient() -> None:
        data.gradient(here, slope)

    return Sampler(Noise(), init, advance, longest_block=LONGEST_BLOCK, warm_up=warm_up)
