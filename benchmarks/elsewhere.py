"""The shims beside the libraries whose names they bear; writes `elsewhere.md`.

    python -m benchmarks.elsewhere [--peer-python .venv-bench/bin/python]

The same model, data and arguments: a classifier by canonical-interp's `LLCEstimator`, bigrams of
tokens by devinterp's `llc`, each as it is, with part of the parameters, and with gradients
accumulated and draws thinned. Theirs run in the peers' environment, ours here. Each chain gives one
λ̂; the difference of the means is in standard errors (Welch), which for canonical-interp are on the
small side, since its chains share their batches. Beyond five it counts as a failure.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from torch import nn

from benchmarks import run

PAGE = Path(__file__).with_name("elsewhere.md")
CHAINS, DRAWS, BURN_IN, BATCH = 16, 1000, 500, 50
INPUTS, CLASSES, EXAMPLES = 6, 3, 400
VOCABULARY, LENGTH, SEQUENCES = 8, 9, 300
COMMON = {"learning_rate": 2e-3, "localization": 5.0, "nbeta": EXAMPLES / math.log(EXAMPLES)}
# canonical-interp replays the first epoch: of its 8 steps every second would see half the data.
THIN = 3
CASES = ("as it is", "a part", "accumulated, thinned")


def classifier() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Returns a logistic regression near its minimum, and its data."""
    torch.manual_seed(0)
    inputs, model = torch.randn(EXAMPLES, INPUTS), nn.Linear(INPUTS, CLASSES)
    labels = torch.distributions.Categorical(logits=model(inputs).detach()).sample()
    return model, inputs, labels


class Bigrams(nn.Module):
    """Logits of the next token by the last."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.table(input_ids)


def sequences() -> tuple[nn.Module, list[list[int]]]:
    """Returns a model of bigrams, and sequences drawn from it."""
    torch.manual_seed(1)
    model = Bigrams()
    rows = torch.randint(VOCABULARY, (SEQUENCES, 1))
    while rows.shape[1] < LENGTH:
        law = torch.distributions.Categorical(logits=model(rows[:, -1]).detach())
        rows = torch.cat([rows, law.sample()[:, None]], 1)
    return model, rows.tolist()


def canonical(estimator_class, case: str) -> list[float]:
    """Returns λ̂ of each chain."""
    model, inputs, labels = classifier()
    several, thin = (2, THIN) if case == CASES[2] else (1, 1)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(inputs, labels), batch_size=BATCH // several, shuffle=True
    )
    estimator = estimator_class(DRAWS // thin, CHAINS, BURN_IN, thin, several, **COMMON)
    part = ["weight"] if case == CASES[1] else None
    estimator.estimate_llc(
        model, loader, compile=False, seed=0, show_progress=False, targeted_params=part
    )
    return estimator.get_metrics()["llcs"].tolist()


def devinterp(llc, as_dataset, case: str) -> list[float]:
    """Returns λ̂ of each chain."""
    model, rows = sequences()
    several, thin = (2, THIN) if case == CASES[2] else (1, 1)
    mask = torch.arange(VOCABULARY * VOCABULARY).view(VOCABULARY, VOCABULARY) % 3 > 0
    result = llc(
        model,
        as_dataset([{"input_ids": row} for row in rows]),
        {},
        lr=COMMON["learning_rate"],
        n_beta=COMMON["nbeta"],
        localization=COMMON["localization"],
        param_masks={"table.weight": mask} if case == CASES[1] else None,
        num_chains=CHAINS,
        num_draws=DRAWS // thin,
        num_steps_bw_draws=thin,
        batch_size=BATCH // several,
        gradient_accumulation_steps=several,
        num_init_loss_batches=SEQUENCES // BATCH,
        match_sampling_input_ids_across_chains=False,
    )
    return result.llc_per_chain.values.tolist()


def theirs(name: str, case: str) -> list[float]:
    """Returns λ̂ of each chain by a peer; runs in the peers' environment."""
    if name == "canonical-interp":
        from benchmarks.peer_canonical import with_batched

        with_batched()
        from canonical_interp.slt import LLCEstimator

        return canonical(LLCEstimator, case)
    from datasets import Dataset
    from devinterp.slt.llc import llc

    return devinterp(llc, lambda rows: Dataset.from_list(rows).with_format("torch"), case)


def main() -> int:
    """Compares, prints and writes the page; returns 1 where something disagrees."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--peer-python", default=".venv-bench/bin/python")
    p.add_argument("--peer", choices=("canonical-interp", "devinterp"), help="only print theirs")
    args = p.parse_args()
    torch.set_num_threads(1)
    if args.peer:
        print(json.dumps({case: theirs(args.peer, case) for case in CASES}))
        return 0
    from scipy import stats

    from llc import shims

    ours = {
        "canonical-interp": lambda case: canonical(shims.LLCEstimator, case),
        "devinterp": lambda case: devinterp(shims.llc, list, case),
    }
    python = str(Path(args.peer_python).absolute())
    lines = [
        "# The shims beside their models",
        "",
        "Made by `python -m benchmarks.elsewhere`; do not edit.",
        "",
        *(__doc__ or "").split("\n\n")[2].strip().splitlines(),
        "",
        "| | | theirs | ours | difference / standard error |",
        "|---|---|---|---|---|",
    ]
    worst = 0.0
    for name, own in ours.items():
        result = run.last_json(python, "benchmarks.elsewhere", ("--peer", name))
        if "failed" in result:
            print(f"{name}: {result['failed']}", file=sys.stderr)
            return 1
        for case in CASES:
            values = result[case], own(case)
            means = [f"{sum(one) / CHAINS:.3f} ± {stats.sem(one):.3f}" for one in values]
            score = -float(stats.ttest_ind(*values, equal_var=False).statistic)
            worst = max(worst, abs(score))
            lines.append(f"| {name} | {case} | {' | '.join(means)} | {score:+.1f} |")
    page = "\n".join([*lines, ""])
    print(page)
    PAGE.write_text(page, encoding="utf-8")
    return int(worst > 5)


if __name__ == "__main__":
    sys.exit(main())
