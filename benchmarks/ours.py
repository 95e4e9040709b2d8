"""Times our own SGLD on a workload and prints one line of JSON.

    python -m benchmarks.ours --workload W1 --chains 8 [--mode minibatch|full] [--checks]

`minibatch`: each chain its own minibatch, the minibatch loss of every step traced. `full`:
full-data Langevin dynamics by sufficient statistics (linear networks only). `--checks` adds the
closer look at every 20th step that estimates take (acceptance and gradient norm); the peers compute
nothing like it.
"""

import time

import torch

from benchmarks import harness
from benchmarks.workloads import Workload, data, teacher
from llc.models import dln, mlp
from llc.models.base import block_steps
from llc.params import Params, stack
from llc.posterior import LocalPosterior
from llc.products import cheapest_order
from llc.samplers.base import Sampler
from llc.samplers.sgld import sgld
from llc.sampling import Schedule, sample
from llc.streams import NormalSource, Stream

CHECK_PERIOD = 20


def centre(workload: Workload) -> Params:
    """Returns w* under our leaf names."""
    leaves = [torch.from_numpy(leaf) for layer in teacher(workload) for leaf in layer.values()]
    names = mlp.shapes(workload.widths) if workload.bias else dln.shapes(workload.widths)
    return dict(zip(names, leaves, strict=True))


def posterior(workload: Workload, chains: int) -> LocalPosterior:
    """Returns the local posterior of a stack of chains around w*."""
    inputs, targets = map(torch.from_numpy, data(workload))
    at = centre(workload)
    loss = (
        mlp.MLPLoss(inputs, targets, workload.widths)
        if workload.bias
        else dln.LinearLoss(inputs, dln.product(at), workload.widths)
    )
    return LocalPosterior.around(loss, stack([at]), workload.nbeta, workload.gamma, chains)


def gram_flops(workload: Workload, batch_size: int | None) -> int:
    """Floating-point operations of a chain-step of the linear path, matrix products only."""
    widths = workload.widths
    first, last = widths[0], widths[-1]
    products = sum(p.rows * p.inner * p.columns for p in cheapest_order(widths))
    gram = 0 if batch_size is None else batch_size * first * first
    return 2 * (3 * products + last * first * first + gram)


def noise_seconds(target: LocalPosterior, streams: list[Stream], batch: int) -> float:
    """Returns the seconds that one step's noise takes for all chains, on one thread."""
    layout, like = target.layout, target.centre.flat
    steps = block_steps(target.loss, batch, target.chains)
    source, out = (
        NormalSource(streams, layout.size, steps, like),
        like.new_empty(steps, layout.total),
    )

    def fill() -> None:
        for chains, first, rows in source.parts(steps):
            layout.scatter(rows, out, like, 0.1, chains=chains, first=first)

    fill()
    start, rounds = time.perf_counter(), 10
    for _ in range(rounds):
        fill()
    return (time.perf_counter() - start) / rounds / steps


def main() -> None:
    """Times the sampler and prints the line of JSON."""
    p = harness.parser(__doc__.splitlines()[0])
    p.add_argument("--mode", choices=("minibatch", "full"), default="minibatch")
    p.add_argument("--checks", action="store_true")
    args = p.parse_args()
    workload = harness.workload_of(args)
    if args.mode == "full" and workload.bias:
        p.error("--mode full: only linear networks have sufficient statistics")
    batch = workload.num_data if args.mode == "full" else workload.batch_size
    target = posterior(workload, args.chains)
    streams = [Stream(0, chain) for chain in range(args.chains)]
    where: Params | None = None
    excess = torch.tensor(0.0)

    def build(part: LocalPosterior) -> Sampler:
        return sgld(part, workload.epsilon, CHECK_PERIOD if args.checks else None)

    def seconds_of(steps: int, phase: int) -> float:
        nonlocal where, excess
        start = time.perf_counter()
        renamed = [stream._replace(phase=phase) for stream in streams]
        trace = sample(target, build, Schedule(steps, batch), renamed, start=where)
        seconds = time.perf_counter() - start
        where, excess = trace.last, (trace.loss - trace.baseline).mean() * workload.nbeta
        return seconds

    pilot = 10 * block_steps(target.loss, batch, target.chains)
    seconds_of(pilot, 0)
    per_step = seconds_of(pilot, 1) / pilot
    steps = max(pilot, round(args.seconds / harness.REPEATS / per_step))
    phases = iter(range(2, 100))
    measured = harness.rates(lambda: seconds_of(steps, next(phases)), steps * args.chains)
    extra: dict[str, object] = {}
    if not workload.bias:
        extra["flops_per_chain_step"] = gram_flops(
            workload, None if args.mode == "full" else workload.batch_size
        )
        cores = harness.available_threads()
        step_seconds = args.chains / sorted(measured)[len(measured) // 2]
        extra["noise_share"] = noise_seconds(target, streams, batch) / (cores * step_seconds)
    harness.print_result(
        "llc", workload, args.chains, measured, 0.0, float(excess), ("torch",), **extra
    )


if __name__ == "__main__":
    main()
