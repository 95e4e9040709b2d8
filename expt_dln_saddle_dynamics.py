"""λ̂ along saddle-to-saddle training of a deep linear network (Jacot et al. 2021).

    python expt_dln_saddle_dynamics.py -F runs/saddle with quick

Weights start at N(0, σ²) with σ² = width^(−initialisation_exponent): the exponent is that of the
*variance*, the γ of arXiv 2106.15933. Inputs are N(0, I), the teacher is 10·diag(1, …, in_out_dim).
λ̂ of each checkpoint is taken at its own answers, so that w* is a global minimum with loss 0.
`info` holds a record per checkpoint, `traces.nc` all loss traces, `saddle.png` the picture.
Exit codes: 0 completed, 1 failed, 2 bad input, 75 SIGTERM or SIGUSR2, 130 Ctrl-C.
"""

import math
from functools import partial
from time import perf_counter

import torch
from torch import Tensor
from tqdm import tqdm

from llc import reporting, tracking
from llc.config import SaddleConfig, parse
from llc.data import make_inputs
from llc.devices import pick_device
from llc.diagnostics import LLCEstimate
from llc.estimate import estimate_llc_stack
from llc.models import dln
from llc.params import Params, stack, to
from llc.streams import Stream, derived_seed, generator
from llc.theory import deep_linear
from llc.training import Checkpoint, train

PICTURE = "saddle.png"
LEARNED = 1.0  # a tenth of the teacher's smallest singular value

ex = tracking.experiment("dln_saddle_dynamics", SaddleConfig)


@ex.named_config
def quick():
    # A quarter of the checkpoints of the default run, with the picture.
    logging_period = 200
    do_plot = True


@ex.main
def main(_run, _config):
    config = parse(SaddleConfig, _config)
    loss, start = setting(config)
    tracking.record(_run, itemp=config.itemp_value, nbeta=config.nbeta)
    records, pending, training_status = [], [], "ok"
    stream, every = Stream(config.seed), config.logging_period
    checkpoints = train(loss, start, config.training_config, stream, every)
    bar = {"total": config.num_checkpoints, "unit": "checkpoint", "desc": "training"}
    for checkpoint in tqdm(checkpoints, **bar, disable=None):  # None: shown on a terminal only
        train_loss = log_training(_run, loss, checkpoint)
        if not math.isfinite(train_loss):
            training_status = f"diverged by step {checkpoint.step}: lower learning_rate"
            break
        pending.append(({"t": checkpoint.step, "train_loss": train_loss}, checkpoint.params))
        if len(pending) == config.group_size:
            measure(_run, loss, pending, records, config)
    if pending:
        measure(_run, loss, pending, records, config)
    tracking.record(
        _run, training_status=training_status, peak_memory_mb=reporting.peak_memory_mb()
    )
    print(reporting.training_report(records, training_status))
    if directory := tracking.run_directory(_run):
        print(f"run directory: {directory}")
        if config.do_plot:
            print(f"picture:       {directory / PICTURE}")
    else:
        print("nothing was recorded: add -F runs/saddle before 'with'")
    return tracking.plain(records[-1]["lambdahat"]) if records else None


def setting(config: SaddleConfig) -> tuple[dln.LinearLoss, Params]:
    """The training loss and the initial weights."""
    device, dtype = pick_device(config.device), getattr(torch, config.dtype)
    stream, size = partial(generator, Stream(config.seed)), config.in_out_dim
    inputs = make_inputs("normal", config.num_training_data, size, stream("data"), dtype)
    teacher = 10 * torch.arange(1, size + 1, dtype=dtype).diag()
    start = dln.init_normal(config.widths, config.initial_deviation, stream("training"), dtype)
    loss = dln.LinearLoss(inputs.to(device), teacher.to(device), config.widths)
    return loss, to(start, device, dtype)


def log_training(_run, loss: dln.LinearLoss, checkpoint: Checkpoint) -> float:
    """Log where training is, and return its loss over all data."""
    train_loss = float(loss.full_data(stack([checkpoint.params])))
    _run.log_scalar("train_loss", tracking.plain(train_loss), checkpoint.step)
    if len(checkpoint.losses):
        mean = tracking.plain(checkpoint.losses.mean())  # over the steps since the last checkpoint
        _run.log_scalar("minibatch_loss", mean, checkpoint.step)
    return train_loss


def measure(_run, loss: dln.LinearLoss, pending: list, records: list, config: SaddleConfig):
    """Turn what is pending into records: λ̂ at those checkpoints, all on one chain axis."""
    started, steps = perf_counter(), [begun["t"] for begun, _ in pending]
    centres = stack([params for _, params in pending])
    estimates = estimate_at(loss, centres, steps, config)
    ranks = learned_ranks(dln.product(centres), min(config.widths))
    for (begun, _), estimate, rank in zip(pending, estimates, ranks, strict=True):
        known = deep_linear(config.widths, rank)
        truth = {"true_lambda": float(known.value), "true_multiplicity": known.multiplicity}
        record = {**begun, **truth, "true_rank": rank, **reporting.checkpoint_record(estimate)}
        for name in ("lambdahat", "lambdahat_se", "true_rank"):
            _run.log_scalar(name, tracking.plain(record[name]), record["t"])
        if config.verbose:
            tqdm.write(reporting.checkpoint_line(record))
        records.append(record)
    pending.clear()
    _run.log_scalar("estimation_seconds", perf_counter() - started, steps[-1])
    reporting.save_checkpoints(_run, records, estimates[0].trace.steps.tolist(), config.nbeta)
    if config.do_plot:
        title = f"deep linear network {'-'.join(map(str, config.widths))}"
        reporting.save_training_curve(_run, records, PICTURE, title)


def estimate_at(
    loss: dln.LinearLoss, centres: Params, steps: list[int], config: SaddleConfig
) -> list[LLCEstimate]:
    """λ̂ of each centre where the teacher is its own product, so that L(w*) = 0."""
    return estimate_llc_stack(
        loss.taught_by(dln.product(centres)),
        centres,
        nbeta=config.nbeta,
        sgld_config=config.sgld_config,
        seeds=[derived_seed(config.seed, step) for step in steps],
        full_data_trace=not config.loss_trace_minibatch,
        # Chains of 100 steps do not equilibrate, by design: companions would only confirm it, for
        # three times the cost.
        companions=False,
    )


def learned_ranks(products: Tensor, most: int) -> list[int]:
    """How many singular values exceed LEARNED: directions of the teacher that are found.

    Rounding would call every product of full rank: what is not learned yet is small, not zero.
    """
    values = torch.linalg.svdvals(products.double())[..., :most]
    return (values > LEARNED).sum(-1).tolist()


if __name__ == "__main__":
    tracking.run(ex)
