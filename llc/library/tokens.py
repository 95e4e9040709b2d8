"""Sequences of `input_ids`, as Hugging Face's tokenisers leave them, and their next-token loss."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from llc.library.data import Examples

IGNORED = -100  # the label of a token that is not to be predicted, as PyTorch has it
KEYS = ("input_ids", "attention_mask", "labels")


def has_tokens(batch: Any) -> bool:
    """Whether a batch or an item is a mapping with `input_ids`."""
    return isinstance(batch, Mapping) and "input_ids" in batch


def collate_tokens(items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Sequences of any lengths as (B, T) tensors, shorter ones padded on the right."""
    rows = {key: [torch.as_tensor(item[key]) for item in items] for key in KEYS if key in items[0]}
    if "attention_mask" not in rows:
        rows["attention_mask"] = [torch.ones_like(row) for row in rows["input_ids"]]
    return {
        key: pad_sequence(values, batch_first=True, padding_value=IGNORED * (key == "labels"))
        for key, values in rows.items()
    }


def unpack_tokens(batch: Mapping[str, Any], takes_mask: bool) -> tuple[Any, Tensor]:
    """Inputs of the model and the labels (B, T), `IGNORED` where nothing is to be predicted.

    Labels are the tokens themselves unless the batch has some; the loss shifts them. Padding is
    neither predicted nor predicted from, on whichever side it is.
    Raises: ValueError for tokens after padding, where the model would not be told.
    """
    found = {key: torch.as_tensor(batch[key]) for key in KEYS if key in batch}
    tokens = found["input_ids"].long()
    mask = found.get("attention_mask", torch.ones_like(tokens)).long()
    if not takes_mask and bool((mask[:, 1:] > mask[:, :-1]).any()):
        raise ValueError(
            "data: has padding before tokens, and the model's forward takes no attention_mask that "
            "would tell: pad on the right"
        )
    labels = found.get("labels", tokens).long().masked_fill(mask == 0, IGNORED)
    labels[:, 1:].masked_fill_(mask[:, :-1] == 0, IGNORED)
    return {"input_ids": tokens, "attention_mask": mask} if takes_mask else tokens, labels


def pad_alike(parts: "Sequence[Examples]") -> "Sequence[Examples]":
    """Batches of different lengths T, all padded to the longest."""
    longest = max(part.targets.shape[1] for part in parts)

    def padded(part: "Examples") -> "Examples":
        room = (0, longest - part.targets.shape[1])
        wider = part.map(lambda t: pad(t, room))
        return wider._replace(targets=pad(part.targets, room, value=IGNORED))

    return [padded(part) for part in parts]


def next_token_loss(parts: Iterable[Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """ℓ_i = (n/T) Σ_t −log p(x_{i,t+1} | x_{i,≤t}), over the tokens to be predicted.

    T counts those of all n sequences, whose labels (·, ·) come in `parts`, so that the mean of ℓ
    over the sequences is the mean over all tokens, however unequal their lengths.
    Raises: ValueError where there is no token to predict.
    """
    counts = [(len(labels), int((labels[:, 1:] != IGNORED).sum())) for labels in parts]
    number, total = map(sum, zip(*counts, strict=True))
    if not total:
        raise ValueError("data: no sequence has a second token to predict that is not padding")
    share = number / total

    def loss(outputs: Any, own: Tensor) -> Tensor:
        return share * _each_token(outputs, own).sum(1)

    return loss


def token_losses(outputs: Any, labels: Tensor) -> Tensor:
    """(B, T − 1) −log p(x_{i,t+1} | x_{i,≤t}); NaN where that token is not to be predicted."""
    return _each_token(outputs, labels).masked_fill(labels[:, 1:] == IGNORED, torch.nan)


def _each_token(outputs: Any, labels: Tensor) -> Tensor:
    """The same, 0 where nothing is to be predicted."""
    logits = logits_of(outputs)[:, :-1]
    return cross_entropy(
        logits.transpose(1, 2), labels[:, 1:], reduction="none", ignore_index=IGNORED
    )


def logits_of(outputs: Any) -> Tensor:
    """The logits of whatever a model returns: a tensor, or an output with `logits`."""
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else None
    found = getattr(outputs, "logits", None) if found is None else found
    if not isinstance(found, Tensor):
        raise ValueError(
            f"model: returned {type(outputs).__name__}, which has no logits: give "
            "loss=lambda outputs, targets: ... with one value an example"
        )
    return found
