"""Pure functions from chains and tables to matplotlib Axes, for the sampler benchmark."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

from llc import mixing
from llc.diagnostics import Estimate, excess
from llc.figures import COLOURS, MAX_CHAINS, legend, thinned

Array = NDArray[np.float64]

RANK_BINS = 20
ESS_POINTS = 20
MAX_LAG = 100  # draws


class Chains(NamedTuple):
    """What the panels draw; `finite()` leaves out the chains that diverged."""

    steps: NDArray[np.int64]  # (T,)
    draws: Array  # (C, T) nβ(L(w_t) − L(w*))
    num_burn_in: int  # draws that the estimate leaves out
    distance: Array | None = None  # (C, T) ‖w_t − w*‖
    checked_steps: NDArray[np.int64] | None = None  # (A,)
    energy: Array | None = None  # (C, A)
    coordinates: Array | None = None  # (C, T, P) w_t − w* at P of its coordinates
    num_left_out: int = 0  # chains that diverged

    @classmethod
    def of(cls, estimate: Estimate) -> "Chains":
        trace = estimate.trace
        has_energy = bool(trace.energy.isfinite().any())
        return cls(
            trace.steps.numpy(),
            excess(trace, estimate.nbeta),
            estimate.num_burn_in,
            None if trace.distance is None else trace.distance.double().numpy(),
            trace.checked_steps.numpy() if has_energy else None,
            trace.energy.double().numpy() if has_energy else None,
            None if trace.coordinates is None else trace.coordinates.double().numpy(),
        ).finite()

    def finite(self) -> "Chains":
        """Without the chains that diverged."""
        good = np.isfinite(self.draws).all(1)
        return self._replace(
            draws=self.draws[good],
            distance=None if self.distance is None else self.distance[good],
            energy=None if self.energy is None else self.energy[good],
            coordinates=None if self.coordinates is None else self.coordinates[good],
            num_left_out=self.num_left_out + int((~good).sum()),
        )

    @property
    def kept(self) -> Array:
        """(C, K) the draws after burn-in."""
        return self.draws[:, self.num_burn_in :]

    @property
    def kept_steps(self) -> NDArray[np.int64]:
        return self.steps[self.num_burn_in :]


def diagnostics_figure(chains: Chains, target: float | None, title: str) -> Figure:
    """All panels of one run; `target` is the value that λ̂ is compared with."""
    figure = Figure(figsize=(9.6, 11.5), layout="constrained")
    axes = figure.subplots(4, 2).flat
    running_mean(next(axes), chains, target)
    for panel in PANELS:
        panel(next(axes), chains)
    if chains.num_left_out:
        every = chains.num_left_out + len(chains.draws)
        title += f" ({chains.num_left_out} of {every} chains diverged)"
    figure.suptitle(title, fontsize=10)
    return figure


Panel = Callable[[Axes, Chains], None]


def _of_some_chains(needs: str = "draws") -> Callable[[Panel], Panel]:
    """Say so in the panel where there is nothing to draw."""

    def wrap(panel: Panel) -> Panel:
        def drawn(ax: Axes, chains: Chains) -> None:
            values = getattr(chains, needs)
            if values is not None and len(values):
                panel(ax, chains)
                return
            why = f"no {needs} with this sampler" if values is None else "every chain diverged"
            ax.text(0.5, 0.5, why, ha="center", color="0.4", transform=ax.transAxes)
            ax.set_axis_off()

        return drawn

    return wrap


@_of_some_chains()
def trace(ax: Axes, chains: Chains) -> None:
    """nβ(L(w_t) − L(w*)) of each chain, burn-in on grey; the upper half per cent is cut off."""
    where = thinned(len(chains.steps))
    for k, own in enumerate(chains.draws[:MAX_CHAINS]):
        ax.plot(chains.steps[where], own[where], color=_colour(k), lw=0.6)
    low, high = np.quantile(chains.draws, [0.005, 0.995])
    if high > low:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    _grey_burn_in(ax, chains)
    ax.set_ylabel("draws, nβ(L − L*)")


def running_mean(ax: Axes, chains: Chains, target: float | None = None) -> None:
    """Mean of each chain's kept draws so far; the curves end at the per-chain estimates."""
    for k, draws in enumerate(chains.kept[:MAX_CHAINS]):
        curve = np.cumsum(draws) / np.arange(1, len(draws) + 1)
        where = thinned(len(curve))
        ax.plot(chains.kept_steps[where], curve[where], color=_colour(k), lw=1)
    if len(chains.draws):
        ax.axhline(float(chains.kept.mean()), color="black", lw=0.8, label="λ̂")
    if target is not None:
        ax.axhline(target, color="black", ls="--", lw=0.8, label=f"compared with {target:.4g}")
    legend(ax, fontsize=8)
    ax.set_xlabel("step")
    ax.set_ylabel("running λ̂ per chain")


@_of_some_chains()
def ranks(ax: Axes, chains: Chains) -> None:
    """How often a chain's draws have which rank among all kept draws: level where chains agree."""
    kept = chains.kept
    places = (rankdata(kept).reshape(kept.shape) - 0.5) / kept.size
    edges = np.linspace(0, 1, RANK_BINS + 1)
    for k, own in enumerate(places[:MAX_CHAINS]):
        share = np.histogram(own, edges)[0] / own.size * RANK_BINS
        ax.stairs(share, edges, color=_colour(k), lw=1)
    ax.axhline(1, color="black", ls="--", lw=0.8)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("rank among all kept draws")
    ax.set_ylabel("density per chain")


@_of_some_chains()
def ess_evolution(ax: Axes, chains: Chains) -> None:
    """ESS of the first kept draws: a straight line where sampling longer pays as it should."""
    kept = chains.kept
    counts = np.unique(np.linspace(mixing.MIN_DRAWS, kept.shape[1], ESS_POINTS).astype(int))
    values = [float(mixing.ess(kept[None, :, :count])[0]) for count in counts]
    ax.plot(counts, values, "o-", ms=3, lw=1, color=COLOURS[0])
    ax.plot([0, counts[-1]], [0, values[-1]], color="black", ls="--", lw=0.8)
    ax.set_xlabel("kept draws per chain")
    ax.set_ylabel("ESS, all chains")


@_of_some_chains()
def autocorrelation(ax: Axes, chains: Chains) -> None:
    """Of each chain's kept draws, against the lag in draws."""
    covariance = mixing.autocovariance(chains.kept[None])[0, :, :MAX_LAG]
    for k, own in enumerate(covariance[:MAX_CHAINS]):
        if own[0] > 0:
            ax.plot(own / own[0], color=_colour(k), lw=1)
    ax.axhline(0, color="black", lw=0.8)
    ax.set_xlabel("lag, draws")
    ax.set_ylabel("autocorrelation per chain")


@_of_some_chains("energy")
def energy(ax: Axes, chains: Chains) -> None:
    """The energy around each chain's mean, and its changes from one look to the next.

    Where the changes are much narrower, momenta do not lead the chain through all energies
    (Betancourt 2016).
    """
    assert chains.energy is not None
    assert chains.checked_steps is not None
    values = chains.energy[:, chains.checked_steps >= chains.kept_steps[0]]
    values = values[np.isfinite(values).all(1)]  # at a trajectory that diverged it is infinite
    ax.set_xlabel("energy")
    ax.set_ylabel("density")
    if not values.size or values.shape[1] < 2:
        return
    for numbers, colour, label in (
        (values - values.mean(1, keepdims=True), COLOURS[0], "around the mean"),
        (np.diff(values, axis=1), COLOURS[1], "changes"),
    ):
        ax.hist(numbers.ravel(), 40, density=True, histtype="step", color=colour, label=label)
    ax.legend(fontsize=8)


@_of_some_chains("distance")
def distances(ax: Axes, chains: Chains) -> None:
    """‖w_t − w*‖ per chain, burn-in on grey."""
    assert chains.distance is not None
    where = thinned(len(chains.steps))
    for k, own in enumerate(chains.distance[:MAX_CHAINS]):
        ax.plot(chains.steps[where], own[where], color=_colour(k), lw=0.6)
    _grey_burn_in(ax, chains)
    ax.set_ylabel("‖w − w*‖ per chain")


@_of_some_chains("coordinates")
def parameters(ax: Axes, chains: Chains) -> None:
    """Some coordinates of w_t − w*: one colour each, one line a chain, burn-in on grey."""
    assert chains.coordinates is not None
    where = thinned(len(chains.steps))
    for own in chains.coordinates[:MAX_CHAINS]:
        for k, values in enumerate(own.T):
            ax.plot(chains.steps[where], values[where], color=_colour(k), lw=0.5)
    _grey_burn_in(ax, chains)
    ax.set_ylabel(f"{chains.coordinates.shape[2]} coordinates of w − w*")


PANELS: tuple[Panel, ...] = (
    trace, ranks, ess_evolution, autocorrelation, energy, distances, parameters,
)  # fmt: skip


def _grey_burn_in(ax: Axes, chains: Chains) -> None:
    if chains.num_burn_in:
        ax.axvspan(chains.steps[0], chains.kept_steps[0], color="0.93", zorder=0)
    ax.set_xlabel("step")


def _colour(chain: int) -> str:
    return COLOURS[chain % len(COLOURS)]
