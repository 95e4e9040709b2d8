"""Any function of a stack of parameters as a loss, its gradient by autograd over the whole stack.

    L_B(w) = mean over the examples x of B of ℓ(w, x),
for models small enough that writing a backward pass is not worth it. The chains do not mix:
Σ_c L_B(w_c) has the gradients of all of them, so that one backward pass serves the stack.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from llc.models.base import EVERY, LossBlock, rows_of_each
from llc.params import Params, Shapes

PerExample = Callable[[Params, Tensor], Tensor]
Potential = Callable[[Params], Tensor]


class FunctionLoss:
    """Mean of `per_example(weights, examples)` over the rows of `data` (n, f).

    per_example: leaves (C, *shape) and examples (C, B, f), or (1, B, f) shared by the chains, to
    (C, B); differentiable by autograd, chain by chain.
    num_examples: n, where `data` is a single row that stands for n equal examples: every minibatch
    is then all the data.
    Raises: ValueError where `num_examples` does not fit the data.
    """

    def __init__(
        self,
        per_example: PerExample,
        shapes: Shapes,
        data: Tensor,
        num_examples: int | None = None,
    ) -> None:
        self.num_examples = len(data) if num_examples is None else num_examples
        if self.num_examples != len(data) and len(data) != 1:
            raise ValueError(
                f"num_examples={num_examples}: data has {len(data)} rows: leave num_examples out, "
                "or give the one row that stands for all"
            )
        self.per_example, self.shapes, self.data = per_example, shapes, data

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


def potential_loss(potential: Potential, shapes: Shapes, num_examples: int) -> FunctionLoss:
    """A loss without data: `potential`, leaves (C, *shape) -> (C,), for each of n examples."""
    nothing = torch.empty(1, 0)
    return FunctionLoss(
        lambda weights, _: potential(weights).unsqueeze(-1), shapes, nothing, num_examples
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

    @torch.enable_grad()
    def add_gradient(self, step: int, weights: Params, out: Params, scale: float) -> None:
        leaves = {name: leaf.detach().requires_grad_() for name, leaf in weights.items()}
        losses = self.loss.per_example(leaves, self._examples[step]).mean(-1)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        self._losses[step] = losses.detach()
        for name, grad in zip(leaves, grads, strict=True):
            out[name].add_(grad, alpha=scale)

    def losses(self, steps: slice = EVERY) -> Tensor:
        return self._losses[: self.used][steps].clone()  # a step may be asked about again

    def baselines(self, steps: slice = EVERY) -> Tensor:
        return self._baselines[: self.used][steps]
