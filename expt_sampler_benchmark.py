"""One problem, one sampler, one seed: λ̂ against what is known, diagnostics, cost.

    python expt_sampler_benchmark.py -F runs/benchmark with quick sampler_config.name=hmc

`problem_config.seed` names the data, the truth and the training; `seed` the chains. `info` holds
the scalars, under the sampler's name (`hmc_llc_mean`) and without it for one table of many runs;
`SAMPLER_metrics.json` holds the former alone, `traces.nc` the traces (ArviZ opens it),
`diagnostics.png` the panels. λ̂ is compared with the exact value at this n, γ and β where the
problem has one, else with a long HMC run (`reference_config.num_steps`), else with λ; `target_kind`
says which. The named configs set `problem_config.target_params`: problems of two parameters want it
back at None. Exit codes as for `expt_dln.py`.
"""

import json
import math
from time import perf_counter

from llc import tracking
from llc.benchmark_figures import Chains, diagnostics_figure
from llc.benchmark_problem import Target, check, known_target, planned, reference_target
from llc.config import BenchmarkConfig, parse
from llc.diagnostics import Estimate
from llc.estimate import estimate_one
from llc.problems import Problem
from llc.reporting import benchmark_record, benchmark_report, measured, save_numbers
from llc.tracking.versions import code_version

COORDINATES = 4  # of w − w*, traced as a sample of the parameters

ex = tracking.experiment("sampler_benchmark", BenchmarkConfig, check)


@ex.named_config
def quick():
    # A deep linear network of some 100 parameters: a few seconds with any sampler.
    problem_config = {"name": "dln", "target_params": 100, "num_training_data": 1000}
    sgld_config = {"epsilon": 1e-4, "num_steps": 10_000, "num_chains": 2, "batch_size": 100}


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
    problem = planned(config)()
    build_seconds = perf_counter() - start
    target = known_target(problem, config)
    estimate = estimate_one(
        problem.loss,
        problem.centre,
        nbeta=config.nbeta,
        sgld_config=config.sgld_config,
        sampler_config=config.sampler_config,
        seed=config.seed,
        full_data_trace=not config.loss_trace_minibatch,
        distances=True,
        coordinates=COORDINATES,
        progress=True,
        keeper=keeper.part(name),
    )
    own = measured(estimate, build_seconds)
    if config.reference is not None:
        target = reference_target(config, keeper.part("reference"))
    record = benchmark_record(name, estimate, target, own)
    tracking.record(_run, **identity(problem, config), **record)
    save(_run, estimate, record, target, f"{config.sampler} on {problem.description}")
    words = benchmark_report(config.sampler, estimate, record, verbose=config.verbose)
    print(f"{problem.description}\n{words}")
    print(tracking.whereabouts(_run, "diagnostics.png" if config.do_plot else None))
    return None if math.isnan(estimate.mean) else estimate.mean


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


def save(_run, estimate: Estimate, record: dict, target: Target, title: str) -> None:
    prefix = f"{_run.config['sampler_config']['name']}_"
    own = {key: value for key, value in record.items() if key.startswith(prefix)}
    # Sacred keeps its curves in `metrics.json`.
    with tracking.artifact(_run, f"{prefix}metrics.json") as path:
        numbers = tracking.plain(own | {"L0": record["L0"]})
        path.write_text(json.dumps(numbers, indent=2), encoding="utf-8")
    save_numbers(_run, estimate, "", title)
    if _run.config["do_plot"]:
        with tracking.artifact(_run, "diagnostics.png") as path:
            diagnostics_figure(Chains.of(estimate), target.value, title).savefig(path, dpi=120)


if __name__ == "__main__":
    tracking.run(ex)
