"""canonical-interp's compiled LLCEstimator on a benchmark workload.

    python -m benchmarks.peer_canonical --workload W1 --chains 8 --seconds 10

The model is an ordinary module and the data come through a shuffled DataLoader that fetches a
batch by one index operation; the estimator replays its first epoch for ever. All chains share one
minibatch, which is less work than the own minibatch per chain of the other implementations.

The estimator calls `unpack_fn` once a step, outside the compiled code: it serves as the clock, so
that a rate covers only steps after compilation.
"""

import itertools
import logging
import statistics
import time

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from benchmarks import harness
from benchmarks.modules import module
from benchmarks.workloads import Workload, data

WARM_STEPS = 20  # compilation and recompilation happen in these


def with_batched() -> None:
    """Gives `itertools` what the package imports and Python has from 3.12 on."""

    def batched(iterable, size):
        iterator = iter(iterable)
        while chunk := tuple(itertools.islice(iterator, size)):
            yield chunk

    if not hasattr(itertools, "batched"):
        itertools.batched = batched


def sample(workload: Workload, chains: int, steps: int) -> tuple[list[float], torch.Tensor]:
    """Returns the time at the beginning of each step, and the losses (chains, steps)."""
    with_batched()
    from canonical_interp.slt import LLCEstimator

    inputs, targets = (torch.from_numpy(a) for a in data(workload))
    dataset = TensorDataset(inputs, targets)
    batches = BatchSampler(RandomSampler(dataset), workload.batch_size, drop_last=True)
    loader = DataLoader(dataset, sampler=batches, batch_size=None)
    times: list[float] = []

    def unpack(rows):
        times.append(time.perf_counter())
        return rows[0], rows[1]

    estimator = LLCEstimator(
        draws=steps,
        chains=chains,
        burnin_steps=0,
        learning_rate=workload.epsilon,
        localization=workload.gamma,
        nbeta=workload.nbeta,
    )
    estimator.estimate_llc(
        module(workload),
        loader,
        criterion_fn=nn.functional.mse_loss,
        unpack_fn=unpack,
        show_progress=False,
        current_loss=0.0,  # the targets are the teacher's own outputs
        seed=0,
    )
    return times, estimator.get_metrics()["losses"]


def main() -> None:
    """Times the sampler and prints the line of JSON."""
    args = harness.parser(__doc__.splitlines()[0]).parse_args()
    logging.disable(logging.WARNING)  # advice on burn-in and loader workers
    torch.set_num_threads(harness.available_threads())
    workload = harness.workload_of(args)

    start = time.perf_counter()
    times, _ = sample(workload, args.chains, 2 * WARM_STEPS)
    compile_seconds = times[WARM_STEPS] - start
    tail = times[WARM_STEPS:]
    step_seconds = statistics.median(b - a for a, b in itertools.pairwise(tail))
    # The first epoch is slower, for its loading: it is left out where it is short.
    epoch = workload.num_data // workload.batch_size
    skipped = epoch if epoch * step_seconds < 1.0 else WARM_STEPS
    steps = max(5, round(args.seconds / harness.REPEATS / step_seconds))

    times, losses = sample(workload, args.chains, skipped + harness.REPEATS * steps + 1)
    windows = iter(times[i + steps] - times[i] for i in range(skipped, len(times) - steps, steps))
    measured = harness.rates(lambda: next(windows), steps * args.chains)
    harness.print_result(
        "canonical-interp",
        workload,
        args.chains,
        measured,
        compile_seconds,
        float(workload.nbeta * losses[:, -steps:].mean()),
        ("canonical-interp", "torch", "numpy"),
        steps=steps,
    )


if __name__ == "__main__":
    main()
