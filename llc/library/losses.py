"""The loss of a user's model: one value an example, or what comes closest."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from llc.library.tokens import logits_of

Loss = Callable[[Any, Any], Tensor]


def cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    """−log softmax(outputs)[target], for each example or each of its tokens.

    Logits (B, K) with labels (B,) or probabilities (B, K); (B, K, …) with labels (B, …), as PyTorch
    has it; or (B, …, K) with labels (B, …).
    """
    logits = logits_of(outputs)
    last = logits.shape[:-1] == targets.shape != logits.shape[:1] + logits.shape[2:]
    return functional.cross_entropy(
        logits.movedim(-1, 1) if last and logits.dim() > 2 else logits, targets, reduction="none"
    )


class Objective:
    """Outputs and targets of B examples -> their B losses.

    A loss per token counts with its mean over each example's tokens. A `mean`-reduced loss gives
    all examples the batch's: right on average over them, and one by one unknown.
    """

    def __init__(self, loss: Loss, mean: bool) -> None:
        self.loss, self.mean = loss, mean

    def __call__(self, outputs: Any, targets: Any, count: int) -> Tensor:
        values = self.loss(outputs, targets)
        if self.mean:
            return values.expand(count)
        return values.flatten(1).mean(1) if values.dim() > 1 else values


class Each(Objective):
    """Outputs and targets of B examples -> their losses as they come, (B,) or by token (B, T)."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss, mean=False)

    def __call__(self, outputs: Any, targets: Any, count: int) -> Tensor:
        values = self.loss(outputs, targets)
        return values.flatten(1) if values.dim() > 1 else values
