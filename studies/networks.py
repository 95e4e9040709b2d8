"""Deep linear networks with known λ, and estimates at their true parameters."""

import math
from dataclasses import dataclass

import torch

from benchmarks import machine
from llc.data import Teacher, make_inputs, make_teacher
from llc.diagnostics import Estimate
from llc.geometry import largest_curvature
from llc.models import dln
from llc.params import Params
from llc.streams import Stream, generator


@dataclass(frozen=True)
class Network:
    """A teacher: widths with the input first, method as in `llc.data`, and one seed for it all."""

    widths: tuple[int, ...]
    method: str
    rank: int | None = None
    seed: int = 0

    def __str__(self) -> str:
        rank = "" if self.rank is None else f" {self.rank}"
        return f"{'-'.join(map(str, self.widths))} {self.method.removesuffix('_rank')}{rank}"


def teacher_and_loss(network: Network, num_data: int) -> tuple[Teacher, dln.LinearLoss]:
    """The network and its loss on uniform inputs."""
    stream = Stream(network.seed)
    teacher = make_teacher(
        network.method, network.widths, generator(stream, "model"), rank=network.rank
    )
    inputs = make_inputs(
        "uniform", num_data, network.widths[0], generator(stream, "data"), torch.float32
    )
    return teacher, dln.LinearLoss(inputs, dln.product(teacher.params), network.widths)


def curvature(loss: dln.LinearLoss, at: Params, seed: int) -> float:
    """Largest eigenvalue of ∇²L_n at a parameter."""

    def full_data(weights: Params) -> torch.Tensor:
        return loss.full_data({name: leaf.unsqueeze(0) for name, leaf in weights.items()})[0]

    return largest_curvature(full_data, at, generator(Stream(seed), "probes"))


def small_step(network: Network, loss: dln.LinearLoss, at: Params, nbeta: float) -> float:
    """ε for full-data Langevin dynamics with γ = 1.

    A tenth of 1/(nβ h + γ), h the largest curvature at w*, for `random` networks and a third of
    that for `aligned_rank`, whose chains wander into steeper places; at w* = 0, which has no
    curvature, 2e-7.
    """
    height = curvature(loss, at, network.seed)
    share = 0.1 if network.method == "random" else 0.03
    return share / (nbeta * height + 1) if height else 2e-7


def nbeta(num_data: int) -> float:
    """n/log n."""
    return num_data / math.log(num_data)


def misses(estimate: Estimate, known: float) -> bool:
    """Whether λ̂ is off λ by more than four standard errors and more than 3 %."""
    return abs(estimate.mean - known) > max(4 * estimate.standard_error, 0.03 * known)


def machine_line() -> str:
    """What a table was made on."""
    about = machine.describe()
    return (
        f"{about['processor']}, {about['cores']} cores ({about['vector']}), "
        f"{about['memory_gb']} GB, torch {about['torch']}, Python {about['python']}"
    )
