"""λ̂ of a deep linear network of a million parameters by HMC on all of n = 1e6 examples.

    python -m benchmarks.large_hmc

One chain from w*, `aligned_rank`, β = 1/log n, γ = 100. All n inputs are drawn, and are seen
through their second moment, so that a gradient costs the same whatever n is. λ is that of the
limit; beside it λ̂ of the same posterior by Gibbs sampling, which is exact too.
Standard errors of some twenty effective draws are rough. Writes `benchmarks/large_hmc.md`.
"""

import sys
from pathlib import Path
from time import perf_counter

import torch

from benchmarks import machine
from llc.config import SamplerConfig, SGLDConfig
from llc.diagnostics import Estimate
from llc.estimate import estimate_one
from studies.networks import Network, nbeta, teacher_and_loss

PAGE = Path(__file__).with_suffix(".md")
NETWORK = Network((500, 1000, 500), "aligned_rank", 50)
NUM_DATA, GAMMA = 10**6, 100.0
DRAWS = {"hmc": 60, "gibbs": 60}
LIMIT, LARGEST_ERROR = 600.0, 0.02  # seconds for HMC, data included; standard error of λ̂/λ


def main() -> int:
    """Write the page; 1 where HMC took too long or its standard error is too large."""
    begin = perf_counter()
    teacher, loss = teacher_and_loss(NETWORK, NUM_DATA)
    drawn = perf_counter() - begin
    known = float(teacher.local_coefficient())

    def read(name: str) -> tuple[Estimate, float]:
        begin = perf_counter()
        estimate = estimate_one(
            loss,
            teacher.params,
            nbeta=nbeta(NUM_DATA),
            sgld_config=SGLDConfig(gamma=GAMMA, num_chains=1),
            sampler_config=SamplerConfig(name, num_steps=DRAWS[name]),
            companions=False,  # λ is known here
            progress=True,
        )
        return estimate, perf_counter() - begin

    rows, seconds = [], {}
    for name, draws in DRAWS.items():
        result, seconds[name] = read(name)
        error = result.standard_error / known
        rows.append(
            f"| {name} | {draws} | {result.acceptance:.2f} | {result.gradients:,.0f} | "
            f"{seconds[name]:.0f} | {result.mean / known - 1:+.2%} | {error:.2%} | "
            f"{result.ess:.0f} |"
        )
        if name == "hmc":
            met = drawn + seconds[name] < LIMIT and error < LARGEST_ERROR
    about = machine.describe()
    page = [
        "# A million parameters by HMC",
        "",
        "Made by `python -m benchmarks.large_hmc`; do not edit.",
        "",
        (__doc__ or "").split("\n\n", 2)[2].strip(),
        "",
        f"{NETWORK}: {NETWORK.widths[1] * (NETWORK.widths[0] + NETWORK.widths[2]):,} parameters, "
        f"λ = {known:,.0f}. Drawing the data took {drawn:.0f} s.",
        "",
        "| sampler | transitions | acceptance | gradients | seconds | λ̂/λ − 1 | its standard error "
        "| ESS |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"{about['processor']}, {about['cores']} cores ({about['vector']}), "
        f"{torch.get_num_threads()} threads, torch {about['torch']}.",
        "",
    ]
    PAGE.write_text("\n".join(page), encoding="utf-8")
    print("\n".join(page))
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
