"""λ̂ along the training of an image classifier.

    python expt_llc_curve.py -F runs/curve with quick

λ̂ of each checkpoint belongs to the clean labels (with `force_realisable` to the network's own
answers), with BatchNorm at its running statistics. ε is the step size of Δw = −(ε/2)∇U + √ε ξ with
U(w) = nβ L_n(w) + (γ/2)‖w − w*‖². `info` holds a record per checkpoint, `traces.nc` the traces,
`llc_curve.png` the picture. The same command again goes on where a run was stopped.
Exit codes: 0 completed, 1 failed, 2 bad input, 3 on disk but not all of it in MongoDB (-m),
75 SIGTERM or SIGUSR2, 130 Ctrl-C.
"""

from functools import partial

import torch
from torch import nn

from llc import tracking
from llc.config import CurveConfig, parse
from llc.data import Images, load_images, noisy_labels
from llc.devices import pick_device
from llc.estimate import estimate_one
from llc.models.image_mlp import image_mlp
from llc.models.modules import ModuleLoss, evaluate, predict
from llc.models.resnet import resnet18
from llc.reporting import Curve, checkpoint_record
from llc.streams import Stream, derived_seed, generator
from llc.training import Checkpoint, train_classifier

ex = tracking.experiment("llc_curve", CurveConfig)


@ex.named_config
def quick():
    # Offline, and under three minutes on two cores.
    model_data_config = {"data_name": "digits", "layer_width_factor": 4}
    sgld_config = {"num_steps": 200, "num_chains": 2, "batch_size": 256, "epsilon": 1e-5}
    training_config = {"learning_rate": 0.05, "num_steps": 600}
    logging_period = 50
    do_plot = True


@ex.main
def main(_run, _config):
    config = parse(CurveConfig, _config)
    keeper = tracking.keeper(_run)
    images, training_labels, model = setting(config)
    tracking.record(_run, itemp=config.itemp_value, nbeta=config.nbeta)
    curve = Curve(
        _run,
        keeper,
        draws=config.sampling.draws,
        nbeta=config.nbeta,
        title=f"{config.model_data_config.model_name} on {config.model_data_config.data_name}",
        picture="llc_curve.png" if config.do_plot else None,
        verbose=config.verbose,
    )
    checkpoints = train_classifier(
        model,
        images.train_inputs,
        training_labels,
        config.training_config,
        Stream(config.seed),
        config.logging_period,
        l2=config.training_config.l2,
        autocast=autocast_of(config),
        keeper=keeper,
        label=curve.label,
    )
    for checkpoint in checkpoints:
        if checkpoint.step <= curve.reached:
            continue  # measured before this run was stopped
        if not checkpoint.finite:
            curve.diverged(checkpoint.step)
            break
        curve.add([measure(checkpoint, model, images, training_labels, config, keeper)])
    print(curve.report())
    return curve.last_llc


def setting(config: CurveConfig) -> tuple[Images, torch.Tensor, nn.Module]:
    """The images, the labels that training sees, and the network at its initialisation."""
    about, stream = config.model_data_config, partial(generator, Stream(config.seed))
    device = pick_device(config.device)
    dtype = torch.float64 if config.dtype == "float64" else torch.float32
    images = load_images(about.data_name, about.data_dir, about.download)
    labels = noisy_labels(
        images.train_labels, about.label_noise_level or 0.0, images.classes, stream("data")
    )
    width, initial = about.layer_width_factor, stream("model")
    model = (
        resnet18(width, initial, images.classes)
        if about.model_name == "resnet18"
        else image_mlp((width, width), initial, images.classes)
    )
    return images.to(device, dtype), labels.to(device), model.to(device, dtype)


def measure(
    checkpoint: Checkpoint, model, images: Images, training_labels, config: CurveConfig, keeper
) -> dict:
    """The record of one checkpoint: how well the network does, and its λ̂."""
    targets = images.train_labels
    if config.force_realisable:
        targets = predict(model, images.train_inputs).softmax(1)
    part = keeper.part("estimate")
    estimate = estimate_one(
        ModuleLoss(model, images.train_inputs, targets, autocast_of(config)),
        checkpoint.params,
        nbeta=config.nbeta,
        sgld_config=config.sgld_config,
        sampler_config=config.sampler_config,
        seed=derived_seed(config.seed, checkpoint.step),
        full_data_trace=not config.loss_trace_minibatch,
        distances=True,
        companions=False,  # a curve compares checkpoints; companions would cost a third more
        progress=True,
        keeper=part,
    )
    part.forget()
    penalty = config.training_config.l2 * sum(
        float(leaf.square().sum()) for leaf in checkpoint.params.values()
    )
    test = evaluate(model, images.test_inputs, images.test_labels)
    train = evaluate(model, images.train_inputs, training_labels)
    return {
        "t": checkpoint.step,
        "train_loss": float(checkpoint.losses[-1]) if len(checkpoint.losses) else None,
        "test_loss": test.loss + penalty,
        "test_loss_no_reg": test.loss,
        "train_accuracy": train.accuracy,
        "test_accuracy": test.accuracy,
        **checkpoint_record(estimate),
    }


def autocast_of(config: CurveConfig) -> torch.dtype | None:
    """bfloat16 is a precision of the forward pass: weights and noise stay in float32."""
    return torch.bfloat16 if config.dtype == "bfloat16" else None


if __name__ == "__main__":
    tracking.run(ex)
