"""Where chains run: cut up over stacks and devices, no chain's result depending on it.

A chain's random stream is named by the seed and the chain; stacks of another size multiply the
same numbers in another order, so that traces agree to rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from time import perf_counter
from typing import Any

import torch

from llc.checkpoints import Keeper
from llc.library.stacked import LibraryLoss
from llc.library.words import first_line
from llc.models.base import BLOCK_DATA, BLOCK_PARAMETERS
from llc.params import Layout, Params, count, select
from llc.posterior import LocalPosterior
from llc.samplers.base import Sampler
from llc.sampling import Schedule, sample
from llc.sampling.threads import intra_op_threads, pool
from llc.streams import Stream
from llc.trace import Trace, join

CPU = torch.device("cpu")


class Places:
    """Runs chains around one w* on several devices, at most `chains_per_stack` at once on each.

    The posterior may have several `points`, with a number of chains for each.
    """

    def __init__(
        self, loss: LibraryLoss, devices: Sequence[torch.device], chains_per_stack: int | None
    ) -> None:
        self.devices, self.chains_per_stack = devices, chains_per_stack
        self.losses = {device: loss.to(device) for device in devices}

    def groups(self, chains: int) -> list[slice]:
        """The chains of each stack; stack i runs on device i, modulo their number."""
        size = stack_size(chains, len(self.devices), self.chains_per_stack)
        edges = [*range(0, chains, size), chains]
        return [slice(*pair) for pair in pairwise(edges)]

    def run(
        self,
        posterior: LocalPosterior,
        chains: int,
        build: Callable[[LocalPosterior], Sampler],
        schedule: Schedule,
        streams: Sequence[Stream],
        *,
        start: Params | None = None,
        label: str | None = None,
        keeper: Keeper | None = None,
        name: str = "chains",
    ) -> Trace:
        """As `llc.sampling.Stacks` has it; with several devices the keeper gets nothing.

        The ends of several stacks are parked on the CPU.
        """
        total = posterior.chains * chains
        groups = self.groups(total)
        home = posterior.anchor.flat.device
        if len(groups) == 1 and self.devices[0] == home:
            own = posterior.repeat(chains)
            return sample(
                own, build, schedule, streams, start=start, label=label, keeper=keeper, name=name
            )
        started = perf_counter()
        shapes = posterior.layout.shapes if schedule.ends else {}
        like = posterior.anchor.flat
        ends = {leaf: like.new_empty(total, *shape, device=CPU) for leaf, shape in shapes.items()}
        one_by_one = keeper.part(name) if keeper and len(self.devices) == 1 else Keeper()

        def work(turn: int) -> list[Trace]:
            device = self.devices[turn]
            here, traces = self._at(posterior, device).repeat(chains), []
            for index in range(turn, len(groups), len(self.devices)):
                group = groups[index]
                place = None if start is None else _to(select(start, group), device)
                words = label and turn == 0 and f"{label}, stack {index + 1} of {len(groups)}"
                kept = one_by_one.kept(str(index))
                trace = (
                    Trace(**kept)
                    if kept
                    else sample(
                        here.select(group),
                        build,
                        schedule,
                        streams[group],
                        start=place,
                        label=words or None,
                        keeper=one_by_one,
                        name=str(index),
                    )
                )
                for leaf, whole in ends.items():
                    whole[group] = trace.last[leaf]
                last = select(ends, group)
                if one_by_one.path is not None:
                    one_by_one.keep(str(index), trace._replace(last=last)._asdict())
                traces.append(trace._replace(last={}))
                del trace, kept  # the stack, before there is another
            return traces

        workers = min(len(self.devices), len(groups))
        parts = [work(0)] if workers == 1 else self._side_by_side(work, workers)
        one_by_one.forget()
        ordered = [parts[i % workers][i // workers] for i in range(len(groups))]
        return join(ordered, perf_counter() - started)._replace(last=ends)

    def _side_by_side(self, work: Callable[[int], list[Trace]], workers: int) -> list[list[Trace]]:
        """Each device's stacks on a thread of their own."""
        threads = torch.get_num_threads()
        on_cpu = sum(device.type == "cpu" for device in self.devices[:workers])
        with (
            intra_op_threads(threads),
            pool(workers, max(1, threads // max(1, on_cpu))) as executor,
        ):
            return list(executor.map(work, range(workers)))

    def _at(self, posterior: LocalPosterior, device: torch.device) -> LocalPosterior:
        """The same posterior on another device."""
        flat, layout = posterior.anchor.flat.to(device), posterior.layout
        moved: dict[str, Any] = {
            "loss": self.losses[device],
            "anchor": Layout(layout.shapes, len(flat) // layout.size).stack(flat),
            "reference": posterior.reference.to(device),
            "centre_loss": posterior.centre_loss.to(device),
            "points": posterior.points and posterior.points.map(lambda own: own.to(device)),
        }
        return replace(posterior, **moved)


def stack_size(chains: int, devices: int, chains_per_stack: int | None) -> int:
    """Chains of a stack, at most."""
    return min(chains_per_stack or chains, -(-chains // devices))


def fitting(loss: LibraryLoss) -> int:
    """Chains of which a step fits into a block, so that caches hold it."""
    examples = loss.at_once * (1 + loss.data.numbers())
    return min(BLOCK_PARAMETERS // count(loss.shapes), BLOCK_DATA // examples)


def shared_out(shares: Sequence[bool], room: int) -> list[list[int]]:
    """The points that run at once: about as many each time, at most `room` where they may share."""
    alone = [[index] for index, own in enumerate(shares) if not own]
    sharing = [index for index, own in enumerate(shares) if own]
    times = -(-len(sharing) // max(1, room))
    edges = [len(sharing) * turn // times for turn in range(times + 1)] if times else []
    return [sharing[slice(*pair)] for pair in pairwise(edges)] + alone


def _to(params: Params, device: torch.device) -> Params:
    return {name: leaf.to(device) for name, leaf in params.items()}


def pick_devices(devices: Any, home: torch.device) -> list[torch.device]:
    """The devices that are asked for, one or several; that of the model where None.

    Raises: ValueError for one that is not here, or none.
    """
    if devices is None:
        return [home]
    several = [devices] if isinstance(devices, str | torch.device) else list(devices)
    if not several:
        raise ValueError("devices: is empty: name one, or leave it out")
    found = []
    for one in several:
        try:
            found.append(torch.empty(0, device=one).device)
        except (RuntimeError, AssertionError, TypeError) as error:
            reason = first_line(error)
            raise ValueError(f"devices: {one!r} is not to be had here: {reason}") from None
        if found[-1].type == "meta":
            raise ValueError(f"devices: {one!r} computes nothing: name one that does")
    return found
