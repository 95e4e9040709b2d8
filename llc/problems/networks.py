"""Networks with squared loss: perceptrons at a trained parameter, linear networks at the truth."""

from collections.abc import Callable
from functools import partial

import torch

from llc.config import ConfigError, TrainingConfig
from llc.config.benchmark import INPUTS
from llc.data import make_teacher
from llc.models import dln, mlp
from llc.models.activations import ACTIVATIONS
from llc.models.base import StackedLoss
from llc.models.dln import LinearLoss
from llc.models.mlp import MLPLoss
from llc.params import Params, count, stack, to
from llc.problems.base import Plan, Problem, Setting, whole
from llc.problems.sizing import Widths, fit
from llc.sampling.threads import intra_op_threads
from llc.streams import Stream
from llc.theory import Coefficient, deep_linear_local
from llc.training import train

DEFAULT_PARAMS = 1000
ERM_BATCH = 500


def perceptron(
    activation: str,
    setting: Setting,
    *,
    in_dim: int = 4,
    out_dim: int = 1,
    depth: int = 2,
    input_dist: str = "normal",
    noise_std: float = 0.1,
    erm_steps: int = 5000,
    learning_rate: float = 1e-3,
) -> Plan:
    """An MLP of `depth` hidden layers at a trained parameter, or at the truth.

    Data: x as `llc.data.make_inputs` draws `input_dist`, y = f(x; w₀) + N(0, `noise_std`²), w₀ a
    network of the same shape. w*: Adam on minibatches of 500 (on all the data where there are
    fewer) from another initialisation, in float64 on the CPU wherever the problem is wanted. As is
    usual for trained networks, w* is near a minimum and not one to the last digit. With
    `erm_steps` 0 and no noise it is w₀, where the loss is 0.
    """
    ends = whole("in_dim", in_dim, 1), whole("out_dim", out_dim, 1)
    for name, value in (("noise_std", noise_std), ("learning_rate", learning_rate)):
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{name}={value!r}: must be a finite number, 0 or more")
    if input_dist not in INPUTS:
        raise ConfigError(f"input_dist={input_dist!r}: must be one of {', '.join(INPUTS)}")
    if whole("erm_steps", erm_steps, 0) == 0 and noise_std > 0:
        raise ConfigError(
            f"noise_std={noise_std!r}: with erm_steps=0 w* is the truth, which noise makes no "
            "minimum: use noise_std=0.0 or train"
        )
    widths = fit(
        setting.target_params or DEFAULT_PARAMS,
        whole("depth", depth, 1),
        lambda hidden: (ends[0], *hidden, ends[1]),
        lambda sizes: count(mlp.shapes(sizes)),
    )
    config = TrainingConfig(
        optim="adam",
        learning_rate=learning_rate,
        momentum=None,
        batch_size=min(ERM_BATCH, setting.num_training_data),
        num_steps=erm_steps,
    )
    return partial(_perceptron, activation, setting, widths, input_dist, noise_std, config)


def _perceptron(
    activation: str,
    setting: Setting,
    widths: Widths,
    input_dist: str,
    noise_std: float,
    config: TrainingConfig,
) -> Problem:
    function, source = ACTIVATIONS[activation], setting.generator("model")
    truth, start = (mlp.init(widths, source, torch.float64) for _ in range(2))
    inputs = setting.inputs(widths[0], input_dist)
    answers = mlp.apply(stack([truth]), inputs, function)[0]
    noise = torch.randn(answers.shape, generator=source, dtype=torch.float64)
    targets = answers + noise_std * noise
    where, centre = "at the truth", truth
    if config.num_steps:
        loss = MLPLoss(inputs, targets, widths, function)
        where, centre = "trained", _trained(loss, start, config, setting.seed)
    return Problem(
        f"{activation}_mlp",
        f"{activation} perceptron {_joined(widths)}, {where}",
        MLPLoss(setting.put(inputs), setting.put(targets), widths, function),
        to(centre, setting.device, setting.dtype),
        known=None,
        reason="no closed form is known for a perceptron",
    )


def deep_linear(setting: Setting, *, depth: int = 3, rank: int | None = None) -> Plan:
    """A deep linear network at an aligned truth of rank `rank` (half the least width), no noise.

    All `depth` + 1 widths are as equal as the number of parameters allows.
    """
    return _linear("dln", setting, whole("depth", depth, 1) + 1, lambda sizes: sizes, rank)


def reduced_rank(setting: Setting, *, rank: int | None = None) -> Plan:
    """Reduced-rank regression y = B A x, half as many hidden units as inputs or outputs, no noise.

    w* is aligned, of rank `rank` (half the hidden units). λ there is that of Aoyagi & Watanabe
    2005, "Stochastic complexities of reduced rank regression in Bayesian estimation".
    """
    return _linear("reduced_rank", setting, 3, lambda s: (2 * s[0], s[1], 2 * s[2]), rank)


def _linear(
    name: str,
    setting: Setting,
    free: int,
    layout: Callable[[Widths], Widths],
    rank: int | None,
) -> Plan:
    target = setting.target_params or DEFAULT_PARAMS
    widths = fit(target, free, layout, lambda sizes: count(dln.shapes(sizes)))
    least = min(widths)
    chosen = max(1, least // 2) if rank is None else whole("rank", rank, 0)
    if chosen > least:
        raise ConfigError(f"rank={rank}: the widths are {_joined(widths)}: use {least} or less")
    if setting.num_training_data < widths[0]:
        raise ConfigError(
            f"num_training_data={setting.num_training_data}: fewer than the {widths[0]} inputs do "
            f"not determine the product, nor λ: use {widths[0]} or more"
        )
    return partial(_aligned, name, setting, widths, chosen)


def _aligned(name: str, setting: Setting, widths: Widths, rank: int) -> Problem:
    source = setting.generator("model")
    teacher = make_teacher("aligned_rank", widths, source, setting.dtype, rank=rank)
    centre = to(teacher.params, setting.device, setting.dtype)
    return Problem(
        name,
        f"linear network {_joined(widths)}, aligned rank {rank}",
        LinearLoss(setting.put(setting.inputs(widths[0])), dln.product(stack([centre])), widths),
        centre,
        Coefficient(deep_linear_local(widths, teacher.partial_ranks), None),
        "the local coefficient of w*, which at an aligned parameter is Aoyagi's λ",
    )


def _trained(loss: StackedLoss, start: Params, config: TrainingConfig, seed: int) -> Params:
    """Where training ends; on one thread, so that it ends there however many cores there are."""
    with intra_op_threads(1):
        *_, last = train(loss, start, config, Stream(seed), every=config.num_steps)
    if not last.finite:
        raise ConfigError(
            f"learning_rate={config.learning_rate}: training diverged: use a smaller one"
        )
    return last.params


def _joined(widths: Widths) -> str:
    return "-".join(map(str, widths))
