"""How the chains of a run share out over stacks."""

from collections.abc import Sequence
from typing import Any, Protocol

from llc.checkpoints import Keeper
from llc.params import Params
from llc.posterior import LocalPosterior
from llc.sampling.feed import Schedule
from llc.sampling.loop import Build, sample
from llc.streams import Stream
from llc.trace import Trace


class Stacks(Protocol):
    """Cuts chains up into stacks; no chain's result depends on how."""

    def groups(self, chains: int) -> list[slice]:
        """The chains of each stack."""

    def run(
        self,
        posterior: LocalPosterior,
        chains: int,
        build: Build,
        schedule: Schedule,
        streams: Sequence[Stream],
        *,
        start: Params | None = None,
        label: str | None = None,
        keeper: Keeper | None = None,
        name: str = "chains",
    ) -> Trace:
        """Runs `chains` chains from each centre of `posterior` as `sample` does."""


class OneStack:
    """All chains at once."""

    def groups(self, chains: int) -> list[slice]:
        return [slice(0, chains)]

    def run(
        self,
        posterior: LocalPosterior,
        chains: int,
        build: Build,
        schedule: Schedule,
        streams: Sequence[Stream],
        **rest: Any,
    ) -> Trace:
        return sample(posterior.repeat(chains), build, schedule, streams, **rest)


ONE_STACK = OneStack()
