"""Local geometry of a trained network: rank of the Jacobian, trace of the Hessian."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jacrev, jvp, vmap

from llc.params import Params

Apply = Callable[[Params, Tensor], Tensor]  # (params, inputs (B, d)) -> outputs (B, o)


class FunctionalRank(NamedTuple):
    """How many directions of weight space change the function on the given inputs."""

    matrix_rank: int  # to the precision of the dtype (torch.linalg.matrix_rank)
    functional_rank: int  # singular values above the threshold
    threshold: float
    singular_values: Tensor  # of ∂f/∂w, descending


def functional_rank(
    apply: Apply, params: Params, inputs: Tensor, threshold: float = 1e-3
) -> FunctionalRank:
    """Numerical rank of the Jacobian ∂f(x_b)_o/∂w, a (B·o, d) matrix, in float64."""
    params = {name: leaf.double() for name, leaf in params.items()}
    # Example by example: over the whole batch the basis alone would be (B·o)².
    blocks = vmap(jacrev(apply), (None, 0))(params, inputs.double().unsqueeze(1))
    jacobian = torch.cat([block.flatten(0, 2).flatten(1) for block in blocks.values()], dim=1)
    values = torch.linalg.svdvals(jacobian)
    precision = values[0] * max(jacobian.shape) * torch.finfo(values.dtype).eps
    return FunctionalRank(
        matrix_rank=int((values > precision).sum()),
        functional_rank=int((values > threshold).sum()),
        threshold=threshold,
        singular_values=values,
    )


class HessianTrace(NamedTuple):
    """A Hutchinson estimate and its standard error over the probes."""

    mean: float
    standard_error: float


def hessian_trace(
    apply: Apply,
    params: Params,
    inputs: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    probes: int = 100,
    chunk: int = 10,
) -> HessianTrace:
    """tr ∇²L ≈ mean of vᵀ∇²L v over Rademacher probes v (Hutchinson 1990), in float64.

    L is the mean squared error over examples and outputs.
    """
    params = {name: leaf.double() for name, leaf in params.items()}
    inputs, targets = inputs.double(), targets.double()

    def loss(weights: Params) -> Tensor:
        return (apply(weights, inputs) - targets).square().mean()

    def curvature(probe: Params) -> Tensor:
        product = jvp(grad(loss), (params,), (probe,))[1]
        return torch.stack([(probe[name] * product[name]).sum() for name in probe]).sum()

    def rademacher(leaf: Tensor, count: int) -> Tensor:
        shape = (count, *leaf.shape)
        signs = torch.randint(0, 2, shape, generator=generator, device=generator.device)
        return signs.to(leaf).mul_(2).sub_(1)

    parts = []
    for start in range(0, probes, chunk):
        count = min(chunk, probes - start)
        parts.append(
            vmap(curvature)({name: rademacher(leaf, count) for name, leaf in params.items()})
        )
    values = torch.cat(parts)
    return HessianTrace(values.mean().item(), (values.std() / probes**0.5).item())


def largest_curvature(
    loss: Callable[[Params], Tensor],
    params: Params,
    generator: torch.Generator,
    iterations: int = 100,
) -> float:
    """Largest |eigenvalue| of ∇²L at `params`, by power iteration in float64.

    SGLD is stable there for ε < 4/(nβ·curvature + γ).
    """
    params = {name: leaf.double() for name, leaf in params.items()}
    vector = {
        name: torch.randn(leaf.shape, generator=generator, device=generator.device).to(leaf)
        for name, leaf in params.items()
    }
    size = 0.0
    for _ in range(iterations):
        norm = torch.stack([leaf.square().sum() for leaf in vector.values()]).sum().sqrt()
        if norm == 0:
            return 0.0
        vector = {name: leaf / norm for name, leaf in vector.items()}
        vector = jvp(grad(loss), (params,), (vector,))[1]
        size = torch.stack([leaf.square().sum() for leaf in vector.values()]).sum().sqrt().item()
    return size
