"""λ̂ of one function at rescaled parameters; writes `docs/rescaling.md` and its picture.

    python -m studies.rescaling [--steps 1500] [--seed 0]

`expt_rescaling_invariance.py` for three networks with 17 scales from 1e-4 to 1e4, n = 10,000,
ε = 1e-5, batches of 500 and five repeats. The chains are {} steps long instead of 10,000, and
their second half counts: enough to compare copies, not to reach λ.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from llc.figures import rescaled_llcs
from studies.networks import machine_line

NETWORKS = ([10, 20, 10], [20, 30, 20], [30, 40, 30])
FLAT = 0.03  # coefficient of variation that counts as flat
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "rescaling.md"
PICTURE = PAGE.parent / "figures" / "rescaling.png"

THEORY = """## What is exactly true

Let T_s be the diagonal map with entries s for layer 1's weights and bias, 1/s for layer 2's
weights and 1 elsewhere. ReLU has φ(sz) = sφ(z), so that L(T_s w) = L(w) on every minibatch,
w*_s = T_s w* has the λ of w*, and ∇L(T_s w) = T_s⁻¹ ∇L(w). SGLD with G = T_s² and γ = 0 moves
v = T_s w by

    v' = v − (ε/2) G nβ ∇L_B(v) + √(εG) ξ
       = T_s w − (ε/2) T_s² nβ T_s⁻¹ ∇L_B(w) + √ε T_s ξ = T_s [w − (ε/2) nβ ∇L_B(w) + √ε ξ].

The chain in rescaled coordinates is the image of the original one, step by step, with the same
noise ξ and the same minibatches: every loss, and λ̂, is the same number. The tests hold the code to
this, to rounding, in float64 and in float32.

With γ > 0 the potential has (γ/2)‖v − w*_s‖² = (γ/2)‖T_s(w − w*)‖², in the original coordinates a
localisation of γs² on layer 1 and γ/s² on layer 2's weights: another posterior, another λ̂, whatever
the sampler. For the identity the localisation has to be rescaled too, to
(γ/2)(v − w*_s)ᵀ G⁻¹ (v − w*_s) = (γ/2)‖w − w*‖²."""

MODES = """*preconditioned*: G = T_s², γ = 0; the chains of every scale are independent. *plain*:
G = 1, γ = 1 and the same ε: away from s = 1 the loss is steeper by max(s², 1/s²), and chains
diverge. *plain_small_steps*: the same with ε·min(s², 1/s²), which is stable everywhere. What is
left is that the posterior is not invariant (layer 1 is pinned at large s, layer 2 at small s), and
that so small a step does not move far. A λ̂ is missing where a chain diverged, and with it the
coefficient of variation. Everything is in float64: the small steps are lost in float32 beside
weights of 1e4. No companion chains are run: with γ = 0 nothing would hold them."""


class Run(NamedTuple):
    """One run of the script."""

    widths: list[int]
    info: dict
    seconds: float

    @property
    def records(self) -> pd.DataFrame:
        """A row a mode and scale."""
        return pd.DataFrame(self.info["records"])

    @property
    def name(self) -> str:
        return "-".join(map(str, self.widths))


def carry_out(widths: list[int], steps: int, seed: int, *more: str) -> Run:
    """The script as a user starts it."""
    updates = [f"widths={widths}", f"seed={seed}", f"sgld_config.num_steps={steps}", *more]
    updates.append("sgld_config.burn_in_prop=0.5")
    start = perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "expt_rescaling_invariance.py", "-F", directory, "with"]
        subprocess.run([*command, *updates], cwd=ROOT, check=True, stdout=sys.stderr)
        info = json.loads(Path(directory, "1", "info.json").read_text())
    return Run(widths, info, perf_counter() - start)


def row(run: Run, mode: str) -> str:
    """One row of the table."""
    own = run.records.query("mode == @mode")
    llcs = own["lambdahat"].astype(float)
    low, high = llcs.min(), llcs.max()
    variation = run.info["coefficient_of_variation"][mode]
    at_one = llcs[np.isclose(own["scale"], 1)].iloc[0]
    cells = [
        run.name,
        f"{run.info['model_dim']:,}",
        mode,
        "–" if variation is None else f"{variation:.2%}",
        "–" if np.isnan(at_one) else f"{at_one:.1f}",
        "–" if np.isnan(low) else f"{low:.1f} … {high:.1f}",
        f"{int(llcs.isna().sum())} of {len(own)}",
    ]
    return f"| {' | '.join(cells)} |"


def draw(runs: list[Run]) -> None:
    """A panel a network."""
    figure = Figure(figsize=(6.4, 9.6), layout="constrained")
    for k, (ax, run) in enumerate(zip(figure.subplots(len(runs), sharex=True), runs, strict=True)):
        rescaled_llcs(ax, run.records)
        ax.set_title(run.name, fontsize=10)
        if k < len(runs) - 1:
            ax.set_xlabel("")
    figure.savefig(PICTURE, dpi=120)


def main() -> int:
    """Run, print, and write the page; 1 where the preconditioned λ̂ is not flat."""
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--steps", type=int, default=1500)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    runs = [carry_out(widths, args.steps, args.seed) for widths in NETWORKS]
    same = carry_out(
        NETWORKS[0], args.steps, args.seed, "same_noise=True", "modes=['preconditioned']"
    )
    llcs = same.records["lambdahat"]
    variations = [run.info["coefficient_of_variation"]["preconditioned"] for run in runs]
    flat = sum(v is not None and v <= FLAT for v in variations)
    draw(runs)
    page = [
        "# λ̂ under rescaling",
        "",
        "Made by `python -m studies.rescaling`; do not edit.",
        "",
        (__doc__ or "").split("\n\n")[2].strip().format(f"{args.steps:,}"),
        "",
        f"**With matched preconditioning λ̂ is flat (coefficient of variation at most {FLAT:.0%}) "
        f"in {flat} of {len(runs)} networks.** With the same noise and minibatches in every copy "
        f"of {same.name} (`same_noise=True`) the largest relative difference between copies is "
        f"{llcs.max() / llcs.min() - 1:.0e}.",
        "",
        "![λ̂ against the scale](figures/rescaling.png)",
        "",
        "| network | parameters | mode | coefficient of variation | λ̂ at s = 1 | least … largest "
        "| diverged scales |",
        "|---|---|---|---|---|---|---|",
        *(row(run, mode) for run in runs for mode in run.records["mode"].unique()),
        "",
        MODES,
        "",
        THEORY,
        "",
        f"{machine_line()}; {', '.join(f'{run.seconds:.0f}' for run in runs)} s for the networks.",
        "",
    ]
    PAGE.write_text("\n".join(page), encoding="utf-8")
    print("\n".join(page))
    return int(flat < len(runs))


if __name__ == "__main__":
    sys.exit(main())
