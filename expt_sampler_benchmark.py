"""One problem, one sampler, one seed: λ̂ against what is known, diagnostics, cost.

    python expt_sampler_benchmark.py -F runs/benchmark with quick sampler_config.name=hmc

`problem_config.seed` names the data, the truth and the training; `seed` the chains. `info` holds
the scalars, under the sampler's name (`hmc_llc_mean`) and without it for one table of many runs;
`SAMPLER_metrics.json` holds the former alone, `traces.nc` the traces (ArviZ opens it),
`diagnostics.png` the panels. Exit codes as for `expt_dln.py`.
"""

import json
import math
from time import perf_counter

import torch

from llc import problems, tracking
from llc.benchmark_figures import Chains, diagnostics_figure
from llc.config import BenchmarkConfig, SamplerConfig, SGLDConfig, parse
from llc.devices import pick_device
from llc.diagnostics import to_inference_data
from llc.estimate import estimate_llc
from llc.problems import Problem
from llc.reporting import Target, benchmark_record, benchmark_report
from llc.tracking.versions import code_version

ex = tracking.experiment("sampler_benchmark", BenchmarkConfig)


@ex.named_config
def quick():
    # A deep linear network of some 100 parameters: a few seconds with any sampler.
    problem_config = {"name": "dln", "target_params": 100, "num_training_data": 1000}
    sgld_config = {"epsilon": 1e-4, "num_steps": 2000, "num_chains": 2, "batch_size": 100}


@ex.named_config
def base():
    # The reference's size: a perceptron of 10,000 parameters on 20,000 examples.
    problem_config = {"name": "relu_mlp", "target_params": 10_000, "num_training_data": 20_000}
    sgld_config = {"epsilon": 1e-5, "num_steps": 20_000, "num_chains": 4, "batch_size": 500}


@ex.main
def main(_run, _config):
    config = parse(BenchmarkConfig, _config)
    keeper = tracking.keeper(_run)
    name = config.sampler_config.name
    start = perf_counter()
    problem = make(config, config.dtype_value)
    build_seconds = perf_counter() - start
    estimate = estimate_llc(
        problem.loss,
        problem.centre,
        nbeta=config.nbeta,
        sgld_config=config.sgld_config,
        sampler_config=config.sampler_config,
        seed=config.seed,
        full_data_trace=not config.loss_trace_minibatch,
        distances=True,
        progress=True,
        keeper=keeper.part(name),
    )
    target = target_of(problem, config, keeper)
    record = benchmark_record(name, estimate, target, build_seconds)
    tracking.record(_run, **identity(problem, config), **record)
    save(_run, estimate, record, target, f"{config.sampler} on {problem.description}")
    print(f"{problem.description}\n{benchmark_report(config.sampler, record)}")
    print(tracking.whereabouts(_run, "diagnostics.png" if config.do_plot else None))
    return None if math.isnan(estimate.mean) else estimate.mean


def make(config: BenchmarkConfig, dtype: str) -> Problem:
    """The problem in that precision; its numbers are the same in either, to rounding."""
    own = config.problem_config
    return problems.make(
        own.name,
        target_params=own.target_params,
        seed=own.seed,
        num_training_data=own.num_training_data,
        dtype=getattr(torch, dtype),
        device=pick_device(config.device),
        **own.options,
    )


def target_of(problem: Problem, config: BenchmarkConfig, keeper) -> Target:
    """The exact value at this n, γ and nβ; else a reference run where asked for; else λ."""
    gamma, reference = config.sgld_config.gamma, config.reference_config
    if problem.exact is not None:
        return Target(problem.exact(config.nbeta, gamma), 0.0, "exact")
    if reference.num_steps:
        precise = problem if config.dtype_value == "float64" else make(config, "float64")
        long = estimate_llc(
            precise.loss,
            precise.centre,
            nbeta=config.nbeta,
            sgld_config=SGLDConfig(gamma=gamma, num_chains=reference.num_chains),
            sampler_config=SamplerConfig("hmc", num_steps=reference.num_steps),
            seed=config.seed + 1,
            progress=True,
            keeper=keeper.part("reference"),
        )
        return Target(long.mean, long.standard_error, "reference")
    if problem.known is not None:
        return Target(float(problem.known.value), 0.0, "lambda")
    return Target(None, math.nan, "none")


def identity(problem: Problem, config: BenchmarkConfig) -> dict:
    """What the run is of, and what it is compared and reused by."""
    code = code_version()
    return {
        "problem": problem.description,
        "sampler": config.sampler,
        "num_params": problem.num_params,
        "true_lambda": problem.known and problem.known.value,
        "true_multiplicity": problem.known and problem.known.multiplicity,
        "known_by": problem.reason,
        "itemp": config.itemp_value,
        "dtype": config.dtype_value,
        "run_family_id": config.family,
        "run_hash": config.run_hash(code),
        "code_version": code,
    }


def save(_run, estimate, record: dict, target: Target, title: str) -> None:
    prefix = f"{_run.config['sampler_config']['name']}_"
    own = {key: value for key, value in record.items() if key.startswith(prefix)} | {
        "L0": record["L0"]
    }
    # Sacred keeps its curves in `metrics.json`.
    with tracking.artifact(_run, f"{prefix}metrics.json") as path:
        path.write_text(json.dumps(tracking.plain(own), indent=2), encoding="utf-8")
    with tracking.artifact(_run, "traces.nc") as path:
        to_inference_data(estimate).to_netcdf(str(path), engine="h5netcdf")
    if _run.config["do_plot"]:
        with tracking.artifact(_run, "diagnostics.png") as path:
            diagnostics_figure(Chains.of(estimate), target.value, title).savefig(path, dpi=120)


if __name__ == "__main__":
    tracking.run(ex)
