"""λ̂ under rescaling of a ReLU network: the same function at other parameters.

    python expt_rescaling_invariance.py -F runs/rescaling with quick

w_s is w with layer 1 (weights and bias) times s and layer 2's weights over s: the same function for
every s > 0, hence the same λ. Modes, all with the one ε of `sgld_config`:
preconditioned     layer 1 moves with ε s², layer 2's weights with ε/s²; γ of `sgld_config` (0)
plain              plain SGLD with γ = `plain_gamma`; diverges where s makes the loss too steep
plain_small_steps  the same with ε·min(s², 1/s²), which is stable at every s
`info` holds a record per mode and scale, `traces.nc` all traces, `rescaling.png` the picture. The
repeats are the chains (`sgld_config.num_chains`); all copies ride on one chain axis, in float64:
small steps, of √ε/s = 3e-7 at s = 1e4, would be lost in float32 beside weights of size s.
Exit codes: 0 completed, 1 failed, 2 bad input, 3 on disk but not all of it in MongoDB (-m),
75 SIGTERM or SIGUSR2, 130 Ctrl-C.
"""

from dataclasses import replace
from functools import partial

import torch

from llc import tracking
from llc.config import RescalingConfig, parse
from llc.data import make_inputs
from llc.devices import pick_device
from llc.diagnostics import Estimate
from llc.estimate import estimate_stack
from llc.models import mlp
from llc.params import Params, stack, to
from llc.reporting import Copies
from llc.streams import Stream, derived_seed, generator

ex = tracking.experiment("rescaling_invariance", RescalingConfig)


@ex.named_config
def quick():
    # Five scales, three repeats, short chains: about a quarter of a minute on two cores.
    num_scales = 5
    sgld_config = {"num_steps": 2000, "num_chains": 3, "burn_in_prop": 0.5}


@ex.main
def main(_run, _config):
    config = parse(RescalingConfig, _config)
    keeper = tracking.keeper(_run)
    loss, truth = setting(config)
    tracking.record(
        _run,
        scales=config.scales,
        model_dim=config.model_dim,
        num_repeats=config.sgld_config.num_chains,
        itemp=config.itemp_value,
        nbeta=config.nbeta,
    )
    copies = Copies(
        _run,
        scales=config.scales,
        title=f"ReLU network {'-'.join(map(str, config.widths))}",
        verbose=config.verbose,
    )
    for mode in config.modes:
        copies.add(mode, estimate(mode, loss, truth, config, keeper.part(mode)))
    print(tracking.whereabouts(_run, "rescaling.png"))
    return copies.variations[config.modes[0]]


def setting(config: RescalingConfig) -> tuple[mlp.MLPLoss, Params]:
    """The loss of a network at its own answers, so that L(w*) = 0, and w* at s = 1."""
    device, dtype = pick_device(config.device), torch.float64
    stream = partial(generator, Stream(config.seed))
    truth = mlp.init(config.widths, stream("model"), dtype)
    inputs = make_inputs(
        "uniform", config.num_training_data, config.widths[0], stream("data"), dtype
    )
    targets = mlp.apply(stack([truth]), inputs)[0]
    loss = mlp.MLPLoss(inputs.to(device), targets.to(device), config.widths)
    return loss, to(truth, device, dtype)


def estimate(
    mode: str, loss: mlp.MLPLoss, truth: Params, config: RescalingConfig, keeper=None
) -> list[Estimate]:
    """λ̂ of the copy of every scale, all on one chain axis."""
    rescaling = mlp.rescaling(config.widths, torch.tensor(config.scales).to(loss.inputs))
    gamma = config.sgld_config.gamma if mode == "preconditioned" else config.plain_gamma
    seeds = range(len(config.scales))
    return estimate_stack(
        loss,
        {name: leaf * rescaling[name] for name, leaf in truth.items()},
        nbeta=config.nbeta,
        sgld_config=replace(config.sgld_config, gamma=gamma),
        metric=metric(mode, rescaling),
        seeds=[derived_seed(config.seed, 0 if config.same_noise else k) for k in seeds],
        companions=False,  # they would spread without bound where γ = 0
        progress=True,
        keeper=keeper,
    )


def metric(mode: str, rescaling: Params) -> Params | None:
    """G of a mode, where T_s is the rescaling: T_s², 1, or the least entry of T_s²."""
    squares = {name: factor.square() for name, factor in rescaling.items()}
    if mode == "preconditioned":
        return squares
    if mode == "plain":
        return None
    least = torch.stack([leaf.flatten(1)[:, 0] for leaf in squares.values()]).amin(0)
    return {name: least.view(-1, *[1] * (leaf.dim() - 1)) for name, leaf in squares.items()}


if __name__ == "__main__":
    tracking.run(ex)
