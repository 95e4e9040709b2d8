"""λ̂ against λ for deep linear networks, at the truth and at a trained parameter.

    python expt_dln.py -F runs/dln with quick

ε is the step size of Δw = −(ε/2)∇U + √ε ξ with U(w) = nβ L_n(w) + (γ/2)‖w − w*‖².
`info` holds the scalars, `traces.nc` the traces (ArviZ opens it), `llc.png` the picture.
Exit codes: 0 completed, 1 failed, 2 bad input, 3 on disk but not all of it in MongoDB (-m),
75 SIGTERM or SIGUSR2, 130 Ctrl-C.
"""

import math
from functools import partial

import numpy as np
import torch

from llc import tracking
from llc.config import DLNConfig, parse
from llc.data import Teacher, make_inputs, make_teacher
from llc.devices import pick_device
from llc.estimate import estimate_one
from llc.geometry import functional_rank, hessian_trace
from llc.models import dln
from llc.params import Params, to
from llc.reporting import report, save, summary
from llc.streams import Stream, generator
from llc.training import Checkpoint, train

ex = tracking.experiment("dln_lambdahat", DLNConfig)


@ex.named_config
def quick():
    # Two layers of width 10: about half a minute on two cores.
    num_training_data = 100_000
    sgld_config = {"epsilon": 4e-7, "gamma": 1.0, "num_steps": 200_000, "batch_size": 500}


@ex.main
def main(_run, _config):
    config = parse(DLNConfig, _config)
    keeper = tracking.keeper(_run)
    device = pick_device(config.device)
    dtype = getattr(torch, config.dtype)
    stream = partial(generator, Stream(config.seed))
    teacher = make_teacher(
        widths=config.widths,
        generator=stream("model"),
        dtype=dtype,
        **vars(config.true_param_config),
    )
    inputs = make_inputs(
        config.input_dist, config.num_training_data, config.input_dim, stream("data"), dtype
    ).to(device)
    truth = to(teacher.params, device, dtype)
    loss = dln.LinearLoss(inputs, dln.product(truth), config.widths)
    record_truth(_run, teacher, config)

    estimate = partial(
        estimate_one,
        loss,
        nbeta=config.nbeta,
        sgld_config=config.sgld_config,
        sampler_config=config.sampler_config,
        full_data_trace=not config.loss_trace_minibatch,
        distances=config.do_compute_distance,
        progress=True,
    )
    at_truth = estimate(truth, seed=config.seed, keeper=keeper.part("truth"))
    known = teacher.local_coefficient()
    tracking.record(_run, **summary(at_truth))
    title = f"deep linear network {'-'.join(map(str, config.widths))}"
    save(_run, at_truth, known, "", f"{title}, at the true parameter")
    print(report("λ̂(w*)", at_truth, known, verbose=config.verbose))
    if known != (most_singular := teacher.coefficient().value):
        print(f"  (λ of the most singular parameter with this product: {float(most_singular):g})")
    record_geometry(_run, truth, stream, config)

    if config.do_training:
        trained = train_network(_run, loss, config, device, dtype, keeper)
        if trained is None:
            status = "training diverged: lower training_config.learning_rate"
            record = {"lambdahat": None, "sgld_status": status}
            print(f"λ̂(trained): none, {status}")
        else:
            at_trained = estimate(trained, seed=config.seed, keeper=keeper.part("trained"))
            record = summary(at_trained)
            save(_run, at_trained, None, "trained_", f"{title}, at the trained parameter")
            print(report("λ̂(trained)", at_trained, None, verbose=config.verbose))
        tracking.record(_run, trained_param_info=record)
    print(tracking.whereabouts(_run, "llc.png"))
    return None if math.isnan(at_truth.mean) else at_truth.mean


def train_network(_run, loss, config: DLNConfig, device, dtype, keeper) -> Params | None:
    """Train from a fresh initialisation; None if the parameters end non-finite."""
    stream, steps = Stream(config.seed), config.training_config.num_steps
    start = to(dln.init(config.widths, generator(stream, "training"), dtype), device, dtype)
    kept = keeper.kept("trained")
    if kept is None:
        *_, end = train(loss, start, config.training_config, stream, steps, keeper)
        kept = end._asdict()
        keeper.keep("trained", kept)
    tracking.log_curve(_run, "training_losses", range(steps), kept["losses"])
    end = Checkpoint(**kept)
    return to(end.params, device, dtype) if end.finite else None


def record_truth(_run, teacher: Teacher, config: DLNConfig) -> None:
    coefficient = teacher.coefficient()
    product = dln.product(to(teacher.params, "cpu", torch.float64))
    tracking.record(
        _run,
        true_lambda=coefficient.value,
        true_multiplicity=coefficient.multiplicity,
        true_local_lambda=teacher.local_coefficient(),
        true_rank=teacher.rank,
        true_matrix_shape=list(product.shape),
        true_param_singular_values=torch.linalg.svdvals(product),
        model_dim=config.model_dim,
        itemp=config.itemp_value,
    )
    if config.save_true_param:
        with tracking.artifact(_run, "true_param.npz") as path:
            np.savez(path, **{name: leaf.numpy() for name, leaf in teacher.params.items()})
        tracking.record(_run, true_param="true_param.npz")


def record_geometry(_run, truth: Params, stream, config: DLNConfig) -> None:
    tests = make_inputs(
        config.input_dist,
        config.num_test_data,
        config.input_dim,
        stream("tests"),
        torch.float64,
    ).to(next(iter(truth.values())).device)
    if config.do_functional_rank:
        rank = functional_rank(dln.apply, truth, tests)
        tracking.record(_run, functional_rank_info=rank)
    if config.do_hessian_trace:
        targets = dln.apply(to(truth, tests.device, torch.float64), tests)
        trace = hessian_trace(dln.apply, truth, tests, targets, stream("probes"))
        tracking.record(
            _run, hessian_trace_estimate=trace.mean, hessian_trace_se=trace.standard_error
        )


if __name__ == "__main__":
    tracking.run(ex)
