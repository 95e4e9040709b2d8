"""devinterp's SGLD on a benchmark workload: its own loop and optimiser, chain after chain.

    python -m benchmarks.peer_devinterp --workload W1 --chains 8 --seconds 10

`devinterp.slt.llc` samples language models, and writes every token's loss to disk. This is the
loop inside it, `sample_single_chain`, with its optimiser `SGMCMC.sgld`, a squared loss and a list
in memory: less than a user of devinterp waits for. Batches are collated row by row, as its
`DataLoader` does. The rate of one chain is that of all, since they run one after another.
"""

import time
import warnings

import torch
from torch.utils.data import Dataset

from benchmarks import harness
from benchmarks.modules import module
from benchmarks.workloads import Workload, data

PILOT_STEPS = 200


class Rows(Dataset):
    """Inputs and targets side by side, under the name that the loop moves to the device."""

    def __init__(self, workload: Workload) -> None:
        self.table = torch.cat([torch.from_numpy(a) for a in data(workload)], dim=1)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.table[index]}


def main() -> None:
    """Times the sampler and prints the line of JSON."""
    args = harness.parser(__doc__.splitlines()[0]).parse_args()
    warnings.simplefilter("ignore")
    from devinterp.optim import SGMCMC
    from devinterp.slt import sampler

    sampler.trange = lambda *bounds, **_: _Silent(range(*bounds))
    torch.set_num_threads(harness.available_threads())
    workload = harness.workload_of(args)
    model, rows, inputs = module(workload), Rows(workload), workload.widths[0]
    losses: list[torch.Tensor] = []

    def evaluate(net, batch):
        table = batch["input_ids"]
        return (net(table[:, :inputs]) - table[:, inputs:]).square().mean(1), {}

    def keep(*, loss, **_) -> None:
        losses.append(loss.mean())

    def seconds_of(steps: int) -> float:
        losses.clear()
        start = time.perf_counter()
        sampler.sample_single_chain(
            model,
            rows,
            evaluate,
            {name: None for name, _ in model.named_parameters()},
            num_draws=steps,
            sampling_method=SGMCMC.sgld,
            sampling_method_kwargs={
                "lr": workload.epsilon,
                "nbeta": workload.nbeta,
                "localization": workload.gamma,
            },
            callbacks=[keep],
            batch_size=workload.batch_size,
            seed=0,
            dataloader_seed=0,
        )
        return time.perf_counter() - start

    seconds_of(PILOT_STEPS)
    per_step = seconds_of(PILOT_STEPS) / PILOT_STEPS
    steps = max(PILOT_STEPS, round(args.seconds / harness.REPEATS / per_step))
    measured = harness.rates(lambda: seconds_of(steps), steps)
    harness.print_result(
        "devinterp",
        workload,
        args.chains,
        measured,
        0.0,
        float(workload.nbeta * torch.stack(losses).mean()),
        ("devinterp", "torch", "numpy"),
        steps=steps,
    )


class _Silent:
    """A progress bar that shows nothing."""

    def __init__(self, steps: range) -> None:
        self.steps = steps

    def __enter__(self) -> range:
        return self.steps

    def __exit__(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    main()
