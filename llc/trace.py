"""What chains leave behind, and the device-side recorder that collects it."""

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llc.efficiency import full_data_equivalents
from llc.params import Params, Stack, select, squared_distance
from llc.posterior import LocalPosterior
from llc.samplers.base import Block, Check, Info

RUNAWAY = 1e3  # nβ(L − L*) beyond this many times the parameter count is a divergence too


class Trace(NamedTuple):
    """Chain × draw, stored whole (burn-in belongs to the analysis), on the CPU.

    A diverged chain reads NaN from its first non-finite draw on.
    """

    steps: Tensor  # (T,) the step t of each draw
    loss: Tensor  # (C, T) L(w_t), on that step's minibatch or on all data
    baseline: Tensor  # (C, T) L(w*) on the same examples
    distance: Tensor | None  # (C, T) ‖w_t − w*‖₂
    checked_steps: Tensor  # (A,) the steps that were looked at more closely:
    acceptance: Tensor  # (C, A) Metropolis probability of the step
    squared_gradient: Tensor  # (C, A) ‖∇U_B(w_t)‖²
    energy: Tensor  # (C, A) what a transition conserves, at its end; U_B(w_{t+1}) for SGLD
    step_size: Tensor  # (C, A) of the transition
    diverged_at: Tensor  # (C,) step of the first non-finite or runaway draw, −1 where there is none
    centre_loss: Tensor  # (C,) L_n(w*) over all data, float64
    last: Params  # leaves (C, *shape): where the chains ended, on their device; or empty
    chain_steps: int  # taken, over all chains
    gradients: float  # full-data-equivalent gradients, over all chains
    seconds: float
    warm_up_seconds: float = 0.0  # of them; a block in which the warm-up ends is split by steps
    warm_up_gradients: float = 0.0  # likewise
    coordinates: Tensor | None = None  # (C, T, P) w_t − w* at P coordinates, evenly spread
    observed: Tensor | None = None  # (C, T, M) whatever else was asked for of w_t, float32
    energy_error: Tensor | None = None  # (C, A) mean ΔE² a step, over what ε is tuned to

    @property
    def chain_steps_per_second(self) -> float:
        return self.chain_steps / self.seconds

    def chains(self, index: slice) -> "Trace":
        """The part of the trace that belongs to some of the chains; costs stay those of all."""
        parts: dict[str, Any] = {
            name: getattr(self, name)[index]
            for name in PER_CHAIN
            if getattr(self, name) is not None
        }
        return self._replace(**parts, last=select(self.last, index))


PER_CHAIN = (
    "loss",
    "baseline",
    "distance",
    "coordinates",
    "observed",
    "acceptance",
    "squared_gradient",
    "energy",
    "step_size",
    "energy_error",
    "diverged_at",
    "centre_loss",
)

RECORDED = (
    "loss",
    "baseline",
    "distance",
    "coordinates",
    "observed",
    "diverged_at",
    "done",
    "checked",
    "gradients",
    "looked",
    "looks",
    "warm_up_seconds",
    "warm_up_gradients",
)


class Recorder:
    """Preallocated traces of one stack on its device; nothing is fetched until asked."""

    def __init__(
        self,
        posterior: LocalPosterior,
        num_steps: int,
        thin: int,
        full_data: bool,
        distance: bool,
        coordinates: int = 0,
        warm_up: int = 0,
        observe: Callable[[Params], Tensor] | None = None,
        ends: bool = True,
    ) -> None:
        self.posterior, self.thin, self.full_data = posterior, thin, full_data
        like, chains = posterior.anchor.flat, posterior.chains
        self.steps = torch.arange(0, num_steps, thin)
        draws = len(self.steps)
        self.loss = like.new_full((draws, chains), torch.nan)
        self.baseline = like.new_full((draws, chains), torch.nan)
        self.distance = like.new_full((draws, chains), torch.nan) if distance else None
        self.coordinates: Tensor | None = None
        if coordinates:
            self.places = posterior.layout.coordinates(coordinates).to(like.device)
            self.home = posterior.centre.flat[self.places]
            self.coordinates = like.new_full((draws, *self.places.shape), torch.nan)
        self.observe = observe
        self.observed: Tensor | None = None  # allocated when its width is known
        self.looked: list[int] = []  # steps that have a `Check`
        self.looks = like.new_empty(0, len(Check._fields), chains, dtype=torch.float64)
        self.diverged_at = torch.full((chains,), -1, device=like.device)
        self.centre_loss = posterior.centre_loss
        self.last: Stack | None = None  # where the chains are, after the first block
        self.ends = ends
        self.done = self.checked = 0  # steps recorded, draws looked at
        self.gradients = 0.0  # evaluated, over all chains
        self.warm_up, self.began = warm_up, perf_counter()
        self.warm_up_seconds = self.warm_up_gradients = 0.0

    def write(self, start: Stack, block: Block, info: Info) -> None:
        """Record the steps of a block that began at `start`."""
        count = len(info.loss)
        picks = range(-self.done % self.thin, count, self.thin)
        first = -(-self.done // self.thin)
        rows = slice(first, first + len(picks))
        picked = slice(picks.start, count, self.thin)
        stacks = [start, *block.positions]
        if self.full_data:
            values = [self.posterior.loss.full_data(stacks[t].leaves) for t in picks]
            if values:
                self.loss[rows] = torch.stack(values).to(self.loss)
            self.baseline[rows] = self.centre_loss.to(self.loss)
        else:
            self.loss[rows], self.baseline[rows] = info.loss[picked], info.baseline[picked]
        if self.distance is not None:
            layout, centre = self.posterior.layout, self.posterior.anchor.leaves
            here = squared_distance(start.leaves, centre).unsqueeze(0)
            after = squared_distance(layout.views(block.flat[:-1]), centre)
            self.distance[rows] = torch.cat([here, after])[picked].sqrt_()
        if self.coordinates is not None:
            here = start.flat[self.places].unsqueeze(0)
            passed = torch.cat([here, block.flat[:-1, self.places]])[picked]
            self.coordinates[rows] = passed - self.home
        if self.observe is not None:
            for row, t in zip(range(rows.start, rows.stop), picks, strict=True):
                self._observe(row, self.observe(stacks[t].leaves))
        self._look(info.checks)
        one_a_step = count * self.posterior.chains
        gradients = one_a_step if info.gradients is None else info.gradients
        self.gradients += gradients
        if self.done < self.warm_up:
            share = min(1.0, (self.warm_up - self.done) / count)
            since = perf_counter() - self.began - self.warm_up_seconds
            self.warm_up_seconds += share * since
            self.warm_up_gradients += share * gradients
        self.done += count
        self.last = block.positions[-1]

    def _observe(self, row: int, values: Tensor) -> None:
        if self.observed is None:
            size = (*self.loss.shape, values.shape[1])
            self.observed = self.loss.new_full(size, torch.nan, dtype=torch.float32)
        self.observed[row] = values

    def _look(self, checks: dict[int, Check]) -> None:
        """Copy a block's checks into one tensor, which doubles when it is full.

        Kept as they come, thousands of small tensors would lie between the large temporary ones of
        the steps, and the heap could not use the room between them again.
        """
        if not checks:
            return
        begin, end = len(self.looked), len(self.looked) + len(checks)
        if end > len(self.looks):
            room = self.looks.new_empty(max(end, 2 * len(self.looks)), *self.looks.shape[1:])
            room[:begin] = self.looks[:begin]
            self.looks = room
        nothing = self.looks.new_full(self.looks.shape[2:], torch.nan)
        columns = (values for check in checks.values() for values in check)
        fresh = torch.stack([nothing if values is None else values for values in columns])
        self.looks[begin:end] = fresh.view(len(checks), *self.looks.shape[1:])
        self.looked += [self.done + step for step in checks]

    def state(self) -> dict[str, Any]:
        """What was recorded so far."""
        return {name: getattr(self, name) for name in RECORDED}

    def restore(self, state: dict[str, Any], last: Stack) -> None:
        """Go on from a `state`, at the position `last`."""
        device = self.loss.device
        for name in RECORDED:
            value = state[name]
            setattr(self, name, value.to(device) if isinstance(value, Tensor) else value)
        self.began = perf_counter() - self.warm_up_seconds
        self.last = last

    def all_diverged(self) -> bool:
        """Look at the draws since the last look; waits for the device."""
        end = -(-self.done // self.thin)
        if end == self.checked:
            return bool((self.diverged_at >= 0).all())
        rows = slice(self.checked, end)
        excess = (self.loss[rows] - self.baseline[rows]) * self.posterior.nbetas
        bad = ~(excess <= RUNAWAY * self.posterior.layout.size)  # NaN compares false
        first = self.steps[rows].to(bad.device)[bad.int().argmax(0)]
        fresh = bad.any(0) & (self.diverged_at < 0)
        self.diverged_at = torch.where(fresh, first, self.diverged_at)
        self.checked = end
        return bool((self.diverged_at >= 0).all())

    def trace(self, batch_size: int) -> Trace:
        """Fetch everything; NaN from the first bad step of a diverged chain on."""
        self.all_diverged()
        dead_from = self.diverged_at.cpu()
        dead = (dead_from >= 0).unsqueeze(1) & (self.steps >= dead_from.unsqueeze(1))
        checked = torch.tensor(self.looked, dtype=torch.int64)
        dead_when = (dead_from >= 0).unsqueeze(1) & (checked >= dead_from.unsqueeze(1))
        chain_steps = self.done * len(dead)
        num_data = self.posterior.loss.num_examples

        def fetch(values: Tensor, mask: Tensor) -> Tensor:
            return values.T.cpu().masked_fill(mask, torch.nan)

        def fetch_rows(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            return values.transpose(0, 1).cpu().masked_fill(dead.unsqueeze(2), torch.nan)

        looks = self.looks[: len(self.looked)].unbind(1)
        return Trace(
            steps=self.steps,
            loss=fetch(self.loss, dead),
            baseline=fetch(self.baseline, dead),
            distance=None if self.distance is None else fetch(self.distance, dead),
            coordinates=fetch_rows(self.coordinates),
            observed=fetch_rows(self.observed),
            checked_steps=checked,
            **{
                name: fetch(values, dead_when)
                for name, values in zip(Check._fields, looks, strict=True)
            },
            diverged_at=dead_from,
            centre_loss=self.centre_loss.cpu(),
            last=dict(self.last.leaves) if self.ends and self.last is not None else {},
            chain_steps=chain_steps,
            gradients=full_data_equivalents(self.gradients, batch_size, num_data),
            seconds=0.0,  # set by whoever times the whole
            warm_up_seconds=self.warm_up_seconds,
            warm_up_gradients=full_data_equivalents(self.warm_up_gradients, batch_size, num_data),
        )


def join(traces: list[Trace], seconds: float) -> Trace:
    """The traces of chain groups that ran side by side, as one."""
    if len(traces) == 1:
        return traces[0]._replace(seconds=seconds)
    longest = max(traces, key=lambda trace: trace.chain_steps / len(trace.loss))
    width = len(longest.checked_steps)
    parts: dict[str, Any] = {
        name: torch.cat([_pad(getattr(trace, name), name, width) for trace in traces])
        for name in PER_CHAIN
        if getattr(longest, name) is not None
    }
    last = {name: torch.cat([trace.last[name] for trace in traces]) for name in longest.last}
    return longest._replace(
        **parts,
        last=last,
        chain_steps=sum(trace.chain_steps for trace in traces),
        gradients=sum(trace.gradients for trace in traces),
        seconds=seconds,
        warm_up_seconds=max(trace.warm_up_seconds for trace in traces),
        warm_up_gradients=sum(trace.warm_up_gradients for trace in traces),
    )


def _pad(values: Tensor, name: str, width: int) -> Tensor:
    """A group whose chains all diverged stopped early, with fewer checks than the others."""
    if name not in Check._fields or values.shape[1] == width:
        return values
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=torch.nan)
