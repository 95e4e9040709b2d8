"""λ̂ along saddle-to-saddle training of a deep linear network (Jacot et al. 2021).

    python expt_dln_saddle_dynamics.py -F runs/saddle with quick

Weights start at N(0, σ²) with σ² = width^(−initialisation_exponent): the exponent is that of the
*variance*, the γ of arXiv 2106.15933. Inputs are N(0, I), the teacher is 10·diag(1, …, in_out_dim).
λ̂ of each checkpoint is taken at its own answers, so that w* is a global minimum with loss 0.
`info` holds a record per checkpoint, `traces.nc` all loss traces, `saddle.png` the picture.
Exit codes: 0 completed, 1 failed, 2 bad input, 3 on disk but not all of it in MongoDB (-m),
75 SIGTERM or SIGUSR2, 130 Ctrl-C.
"""

import math
from functools import partial

import torch
from torch import Tensor

from llc import tracking
from llc.config import SaddleConfig, parse
from llc.data import make_inputs
from llc.devices import pick_device
from llc.diagnostics import Estimate
from llc.estimate import estimate_stack
from llc.models import dln
from llc.params import Params, stack, to
from llc.reporting import Curve, checkpoint_record
from llc.streams import Stream, derived_seed, generator
from llc.theory import deep_linear
from llc.training import Checkpoint, train

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
    keeper = tracking.keeper(_run)
    loss, start = setting(config)
    tracking.record(_run, itemp=config.itemp_value, nbeta=config.nbeta)
    curve = Curve(
        _run,
        keeper,
        draws=config.sampling.draws,
        nbeta=config.nbeta,
        title=f"deep linear network {'-'.join(map(str, config.widths))}",
        picture="saddle.png" if config.do_plot else None,
        verbose=config.verbose,
    )
    keeper.keep("pending", pending := keeper.kept("pending") or [])
    settings, every, stream = config.training_config, config.logging_period, Stream(config.seed)
    for checkpoint in train(loss, start, settings, stream, every, keeper, curve.label):
        begun = begin(loss, checkpoint)
        if not math.isfinite(begun["train_loss"]):
            curve.diverged(checkpoint.step)
            break
        if checkpoint.step > max(curve.reached, pending[-1][0]["t"] if pending else -1):
            pending.append((begun, checkpoint.params))
        # The last group too while training stands here: a resumed run need not train again.
        full = len(pending) == config.group_size
        if pending and (full or checkpoint.step == settings.num_steps):
            curve.add(measure(loss, pending, config, keeper))
            pending.clear()
    if pending:
        curve.add(measure(loss, pending, config, keeper))
    print(curve.report())
    return curve.last_llc


def setting(config: SaddleConfig) -> tuple[dln.LinearLoss, Params]:
    """The training loss and the initial weights."""
    device, dtype = pick_device(config.device), getattr(torch, config.dtype)
    stream, size = partial(generator, Stream(config.seed)), config.in_out_dim
    inputs = make_inputs("normal", config.num_training_data, size, stream("data"), dtype)
    teacher = 10 * torch.arange(1, size + 1, dtype=dtype).diag()
    start = dln.init_normal(config.widths, config.initial_deviation, stream("training"), dtype)
    loss = dln.LinearLoss(inputs.to(device), teacher.to(device), config.widths)
    return loss, to(start, device, dtype)


def begin(loss: dln.LinearLoss, checkpoint: Checkpoint) -> dict:
    """A checkpoint's record, as far as training knows it."""
    return {
        "t": checkpoint.step,
        "train_loss": float(loss.full_data(stack([checkpoint.params]))),
        # Over the steps since the last checkpoint.
        "minibatch_loss": float(checkpoint.losses.mean()) if len(checkpoint.losses) else None,
    }


def measure(loss: dln.LinearLoss, pending: list, config: SaddleConfig, keeper) -> list[dict]:
    """The records of what is pending: λ̂ at those checkpoints, all on one chain axis."""
    centres = centres_of(loss, pending)
    part = keeper.part("estimate")
    estimates = estimate_at(loss, centres, [begun["t"] for begun, _ in pending], config, part)
    part.forget()
    ranks = learned_ranks(dln.product(centres), min(config.widths))
    records = []
    for (begun, _), estimate, rank in zip(pending, estimates, ranks, strict=True):
        known = deep_linear(config.widths, rank)
        truth = {"true_lambda": float(known.value), "true_multiplicity": known.multiplicity}
        records.append({**begun, **truth, "true_rank": rank, **checkpoint_record(estimate)})
    return records


def centres_of(loss: dln.LinearLoss, pending: list) -> Params:
    """One stack on the loss's device; what an earlier start left comes from the CPU."""
    inputs = loss.inputs
    return stack([to(params, inputs.device, inputs.dtype) for _, params in pending])


def estimate_at(
    loss: dln.LinearLoss, centres: Params, steps: list[int], config: SaddleConfig, keeper=None
) -> list[Estimate]:
    """λ̂ of each centre where the teacher is its own product, so that L(w*) = 0."""
    return estimate_stack(
        loss.taught_by(dln.product(centres)),
        centres,
        nbeta=config.nbeta,
        sgld_config=config.sgld_config,
        sampler_config=config.sampler_config,
        seeds=[derived_seed(config.seed, step) for step in steps],
        full_data_trace=not config.loss_trace_minibatch,
        companions=False,  # they would only confirm that 100 steps do not equilibrate
        progress=True,
        keeper=keeper,
    )


def learned_ranks(products: Tensor, most: int) -> list[int]:
    """How many singular values exceed LEARNED: directions of the teacher that are found.

    Rounding would call every product of full rank: what is not learned yet is small, not zero.
    """
    values = torch.linalg.svdvals(products.double())[..., :most]
    return (values > LEARNED).sum(-1).tolist()


if __name__ == "__main__":
    tracking.run(ex)
