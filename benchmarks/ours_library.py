"""Times `llc.estimate_llc` on a workload and prints one line of JSON.

    python -m benchmarks.ours_library --workload W1 --chains 8

What a user of the library runs: the network as an ordinary `nn.Module`, the loss as an ordinary
function, ε given and no companions, since no peer has either; the engine is named, so that all runs
have the same. The closer looks at acceptance are part of it, every 20 steps and at most 100 a
chain. `compile_seconds` is a call of two steps: the look at the model and the traces of its
gradient. Each repeat is a call of its own, timed from its first step to its last.
"""

import time

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.modules import module
from benchmarks.workloads import data
from llc import LLCEstimate, estimate_llc

PILOT_DRAWS = 1000


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns each example's mean over the outputs."""
    return (outputs - targets).square().mean(1)


def main() -> None:
    """Times the library and prints the line of JSON."""
    p = harness.parser(__doc__.splitlines()[0])
    p.add_argument("--engine", choices=("vmap", "plain"), default="vmap")
    args = p.parse_args()
    torch.set_num_threads(harness.available_threads())
    workload = harness.workload_of(args)
    model = module(workload)
    examples = tuple(torch.from_numpy(a) for a in data(workload))
    seeds = iter(range(100))

    def run(draws: int) -> LLCEstimate:
        return estimate_llc(
            model,
            examples,
            squared_error,
            nbeta=workload.nbeta,
            num_chains=args.chains,
            num_draws=draws,
            burn_in=0,
            batch_size=workload.batch_size,
            epsilon=workload.epsilon,
            gamma=workload.gamma,
            seed=next(seeds),
            engine=args.engine,
            companions=False,
            progress=False,
        )

    start = time.perf_counter()
    run(2)
    compile_seconds = time.perf_counter() - start
    per_step = run(PILOT_DRAWS).trace.seconds / PILOT_DRAWS
    draws = max(PILOT_DRAWS, round(args.seconds / harness.REPEATS / per_step))
    results: list[LLCEstimate] = []

    def seconds_of() -> float:
        results[:] = [run(draws)]
        return results[0].trace.seconds

    measured = harness.rates(seconds_of, draws * args.chains)
    harness.print_result(
        "llc-library",
        workload,
        args.chains,
        measured,
        compile_seconds,
        results[0].mean,
        ("torch",),
    )


if __name__ == "__main__":
    main()
