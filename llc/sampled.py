"""Chains from w* and companions from above, and what they say: one estimate a centre."""

from collections.abc import Callable, Sequence

from torch import Tensor

from llc.checkpoints import Keeper
from llc.companions import CHECK_PERIOD, cool
from llc.config import SGLDConfig
from llc.diagnostics import Estimate, summarise_stack
from llc.models.base import StackedLoss
from llc.params import Params
from llc.posterior import LocalPosterior
from llc.sampling import Build, Observe, Schedule, Stacks
from llc.streams import Stream
from llc.trace import Trace


def check_run(loss: StackedLoss, centres: Params, nbeta: float, config: SGLDConfig) -> None:
    """Raise ValueError for a centre that is not finite, nβ ≤ 0 or a batch larger than the data."""
    if not nbeta > 0:
        raise ValueError(f"nbeta={nbeta}: must be > 0; n/log n is the usual choice")
    if config.batch_size > loss.num_examples:
        raise ValueError(
            f"batch_size={config.batch_size}: there are only {loss.num_examples} examples"
        )
    for name, leaf in centres.items():
        if not bool(leaf.isfinite().all()):
            raise ValueError(f"centre: {name!r} has non-finite entries: λ̂ needs a finite w*")


def sampled(
    posterior: LocalPosterior,
    recipe: Callable[..., Build],
    config: SGLDConfig,
    seeds: Sequence[int],
    *,
    hot: float | Tensor,
    nbeta: float | Sequence[float],
    epsilon: float | Sequence[float],
    full_data_trace: bool = False,
    distances: bool = False,
    coordinates: int = 0,
    companions: bool,
    progress: bool,
    keeper: Keeper,
    stacks: Stacks,
    observe: Observe | None = None,
    check_period: int = CHECK_PERIOD,
) -> list[Estimate]:
    """The estimate at each centre of `posterior`, from chains that start there and from above.

    recipe: makes the sampler for `steps`, a `temperature` and a `check_period`. hot: the highest
    temperature; nbeta, epsilon: as sampled with, of all centres or of each. check_period: steps
    from one closer look (acceptance, gradient norm) of the chains from w* to the next.
    """
    schedule = Schedule(
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        thin=config.thin,
        shared_batches=config.shared_batches,
        full_data_trace=full_data_trace,
        distances=distances,
        coordinates=coordinates,
        observe=observe,
        ends=False,
    )
    kept = keeper.kept("chains")
    trace = (
        Trace(**kept)
        if kept
        else stacks.run(
            posterior,
            config.num_chains,
            recipe(steps=config.num_steps, check_period=check_period),
            schedule,
            [Stream(seed, chain) for seed in seeds for chain in range(config.num_chains)],
            label="chains from w*" if progress else None,
            keeper=keeper,
        )
    )
    keeper.keep("chains", trace._asdict())
    cooled = None
    if companions:
        cooled = cool(posterior, recipe, hot, schedule, seeds, progress, keeper, stacks)
    return summarise_stack(trace, len(seeds), nbeta, config.num_burn_in, epsilon, cooled)
