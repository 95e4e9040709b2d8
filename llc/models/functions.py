"""Any function of a stack of parameters as a loss, its gradient by autograd over the whole stack.

    L_B(w) = mean over the examples x of B of ℓ(w, x),
for models small enough that writing a backward pass is not worth it. The chains do not mix:
Σ_c L_B(w_c) has the gradients of all of them, so that one backward pass serves the stack. Where the
gradient is given in closed form, autograd, which takes longer than a small function, is left out.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from llc.models.base import EVERY, LossBlock, rows_of_each
from llc.params import Params, Shapes

PerExample = Callable[[Params, Tensor], Tensor]
Potential = Callable[[Params], Tensor]
Slope = Callable[[Params, Tensor], tuple[Tensor, Params]]  # (C,) L_B, and its gradient


class FunctionLoss:
    """Mean of `per_example(weights, examples)` over the rows of `data` (n, f).

    per_example: leaves (C, *shape) and examples (C, B, f), or (1, B, f) shared by the chains, to
    (C, B); differentiable by autograd, chain by chain.
    num_examples: n, where `data` is a single row that stands for n equal examples: every minibatch
    is then all the data.
    slope: leaves and examples to (C,) their mean and its gradient, leaves (C, *shape); by autograd
    where not given.
    Raises: ValueError where `num_examples` does not fit the data.
    """

    def __init__(
        self,
        per_example: PerExample,
        shapes: Shapes,
        data: Tensor,
        num_examples: int | None = None,
        slope: Slope | None = None,
    ) -> None:
        self.num_examples = len(data) if num_examples is None else num_examples
        if self.num_examples != len(data) and len(data) != 1:
            raise ValueError(
                f"num_examples={num_examples}: data has {len(data)} rows: leave num_examples out, "
                "or give the one row that stands for all"
            )
        self.per_example, self.shapes, self.data = per_example, shapes, data
        self.slope = slope or partial(by_autograd, per_example)

    @property
    def equal_examples(self) -> bool:
        """Whether one row stands for all the examples."""
        return len(self.data) == 1

    @torch.no_grad()
    def reference(self, centres: Params) -> Tensor:
        """(S, n) losses of every example at w*; (S, 1) where all examples are equal."""
        like = next(iter(centres.values()))
        return self.per_example(centres, self.data.unsqueeze(0).to(like))

    def numbers_per_step(self, batch_size: int) -> int:
        whole = self.equal_examples or batch_size >= self.num_examples
        return 1 if whole else batch_size * (self.data.shape[1] + 1)

    def examples_per_step(self, batch_size: int) -> int:
        return 1 if self.equal_examples else batch_size

    def block(self, like: Params, reference: Tensor, steps: int) -> "FunctionBlock":
        return FunctionBlock(self, like, reference, steps)

    def full_data(self, weights: Params) -> Tensor:
        return self.reference(weights).double().mean(-1)

    def select(self, index: slice) -> "FunctionLoss":
        return self

    def repeat(self, times: int) -> "FunctionLoss":
        return self


@torch.enable_grad()
def by_autograd(
    per_example: PerExample, weights: Params, examples: Tensor
) -> tuple[Tensor, Params]:
    """(C,) the mean of `per_example`, and its gradient."""
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in weights.items()}
    losses = per_example(leaves, examples).mean(-1)
    grads = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
    return losses.detach(), dict(zip(leaves, grads, strict=True))


def potential_loss(
    potential: Potential,
    shapes: Shapes,
    num_examples: int,
    slope: Callable[[Params], tuple[Tensor, Params]] | None = None,
) -> FunctionLoss:
    """A loss without data: `potential`, leaves (C, *shape) -> (C,), for each of n examples.

    slope: leaves to (C,) the same and its gradient; by autograd where not given.
    """
    return FunctionLoss(
        lambda weights, _: potential(weights).unsqueeze(-1),
        shapes,
        torch.empty(1, 0),
        num_examples,
        slope and (lambda weights, _: slope(weights)),
    )


class FunctionBlock(LossBlock):
    """K minibatches of C chains; see `models.base.LossBlock`."""

    def __init__(self, loss: FunctionLoss, like: Params, reference: Tensor, steps: int) -> None:
        first = next(iter(like.values()))
        self.loss, self.centre_losses, self.chains = loss, reference, len(first)
        self._losses = first.new_zeros(steps, self.chains)

    def load(self, steps: int, indices: Tensor | None) -> None:
        loss, self.used = self.loss, steps
        if indices is None or loss.equal_examples:
            self._examples = [loss.data.unsqueeze(0)] * steps
            self._baselines = self.centre_losses.mean(-1).expand(steps, self.chains)
            return
        rows = loss.data.index_select(0, indices.flatten())
        self._examples = list(rows.view(*indices.shape, -1))
        values = rows_of_each(self.centre_losses.unsqueeze(-1), indices)
        self._baselines = values.squeeze(-1).mean(-1).expand(-1, self.chains)

    def add_gradient(self, step: int, weights: Params, out: Params, scale: float) -> None:
        losses, grads = self.loss.slope(weights, self._examples[step])
        self._losses[step] = losses
        for name, grad in grads.items():
            out[name].add_(grad, alpha=scale)

    def losses(self, steps: slice = EVERY) -> Tensor:
        return self._losses[: self.used][steps].clone()  # a step may be asked about again

    def baselines(self, steps: slice = EVERY) -> Tensor:
        return self._baselines[: self.used][steps]
