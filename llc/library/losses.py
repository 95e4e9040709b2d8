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
    return functional.cross_entropy(
        _classes_second(logits_of(outputs), targets), targets, reduction="none"
    )


def check_classes(outputs: Any, targets: Any) -> None:
    """Raise ValueError for what has no classes, of which `cross_entropy` would make a number."""
    logits = logits_of(outputs)
    if not isinstance(targets, Tensor):
        return
    logits, real = _classes_second(logits, targets), targets.is_floating_point()
    chances = targets.shape == logits.shape and not bool((targets < 0).any())
    if logits.dim() < 2 or logits.shape[1] < 2 or (real and not chances):
        raise ValueError(
            f"loss='cross_entropy': is that of classes, and the model returns "
            f"{tuple(logits.shape)} for targets {tuple(targets.shape)} {targets.dtype}: give a "
            "loss, for regression loss=lambda outputs, targets: (outputs - targets).square()"
        )


def _classes_second(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits (B, K, …), whichever axis they came with their classes on."""
    last = logits.shape[:-1] == targets.shape != logits.shape[:1] + logits.shape[2:]
    return logits.movedim(-1, 1) if last and logits.dim() > 2 else logits


class Objective:
    """Outputs and targets of B examples -> their B losses.

    A loss per token counts with its mean over each example's tokens. A `mean`-reduced loss gives
    all examples the batch's: right on average over them, and one by one unknown.
    """

    def __init__(self, loss: Loss, mean: bool) -> None:
        self.loss, self.mean = loss, mean

    def __call__(self, outputs: Any, targets: Any, count: int) -> Tensor:
        return self.of_each(self.loss(outputs, targets), count)

    def of_each(self, values: Tensor, count: int) -> Tensor:
        """What the loss returned -> (B,), or (B, T) for `Each`."""
        if self.mean:
            return values.expand(count)
        return values.flatten(1).mean(1) if values.dim() > 1 else values


class Each(Objective):
    """Outputs and targets of B examples -> their losses as they come, (B,) or by token (B, T)."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(loss, mean=False)

    def of_each(self, values: Tensor, count: int) -> Tensor:
        return values.flatten(1) if values.dim() > 1 else values
