"""Sequences: what is predicted, masks and padding on either side, and what models return."""

import pytest
import torch
from library_models import SMALL, TiedLanguageModel, filled, source
from torch import nn
from torch.nn.functional import cross_entropy

from llc import estimate_llc
from llc.library.tokens import IGNORED, next_token_loss, token_losses, unpack_tokens
from llc.models.gpt import gpt
from llc.streams import Stream, generator

VOCABULARY, CONTEXT = 7, 10
LENGTHS = [10, 3, 6, 10, 2, 5, 8, 4]
# Padding changes how sums are split up: some hundred roundings of 1e-16 of numbers of size one.
ROUNDING = {"rtol": 1e-9, "atol": 1e-12}


def transformer():
    net = gpt(VOCABULARY, CONTEXT, generator(Stream(0), "model"), width=8, depth=2, heads=2)
    return filled(net, dtype=torch.float64)


def sequences():
    return [torch.randint(VOCABULARY, (n,), generator=source(n + i)) for i, n in enumerate(LENGTHS)]


def padded(side):
    """(B, T) tokens and mask, as tokenisers make them; the padding is a token like others."""
    rows = {"input_ids": [], "attention_mask": []}
    for tokens in sequences():
        room = CONTEXT - len(tokens)
        pair = (room, 0) if side == "left" else (0, room)
        rows["input_ids"].append(nn.functional.pad(tokens, pair, value=2))
        rows["attention_mask"].append(nn.functional.pad(torch.ones_like(tokens), pair))
    return {key: torch.stack(values) for key, values in rows.items()}


def mean_over_tokens(model):
    """Sequence by sequence, without any padding."""
    losses = [
        cross_entropy(model(tokens[None])[0, :-1], tokens[1:], reduction="none")
        for tokens in sequences()
    ]
    return torch.cat(losses).mean().item()


@pytest.mark.parametrize("engine", ["plain", "vmap"])
def test_padding_on_either_side_and_none_are_one(engine):
    """The same loss at w* and along every chain."""
    arguments = {**SMALL, "engine": engine, "batch_size": len(LENGTHS)}
    model = transformer()
    ragged, left, right = (
        estimate_llc(model, items, **arguments)
        for items in (
            [{"input_ids": tokens.tolist()} for tokens in sequences()],
            padded("left"),
            padded("right"),
        )
    )
    assert ragged.init_loss == pytest.approx(mean_over_tokens(model), rel=1e-12)
    for other in (left, right):
        torch.testing.assert_close(other.trace.loss, ragged.trace.loss, **ROUNDING)
    assert (ragged.trace.loss - ragged.trace.baseline).abs().max() > 1e-4


def test_what_is_predicted():
    tokens = torch.tensor([[2, 2, 5, 1, 3]])
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    _, labels = unpack_tokens({"input_ids": tokens, "attention_mask": mask}, takes_mask=True)
    assert labels[0, 1:].tolist() == [IGNORED, IGNORED, 1, 3]  # not 5, of which nothing is told
    own = {"input_ids": tokens, "labels": torch.tensor([[2, 2, IGNORED, 1, IGNORED]])}
    assert unpack_tokens(own, takes_mask=False)[1][0].tolist() == [2, 2, IGNORED, 1, IGNORED]
    assert own["labels"][0].tolist() == [2, 2, IGNORED, 1, IGNORED]


def test_padding_before_tokens_needs_a_mask():
    model = filled(TiedLanguageModel())
    with pytest.raises(ValueError, match=r"data: has padding before tokens.*pad on the right"):
        estimate_llc(model, padded("left"), **SMALL)
    estimate_llc(model, padded("right"), **SMALL)


def test_losses_by_token_and_by_sequence_agree():
    logits = torch.randn(4, 6, VOCABULARY, generator=source(), dtype=torch.float64)
    labels = torch.randint(VOCABULARY, (4, 6), generator=source(1))
    labels[1, 3:] = IGNORED
    by_token = token_losses(logits, labels)
    assert by_token.isnan().sum() == 3
    expected = -logits[0, 2].log_softmax(0)[labels[0, 3]]
    assert by_token[0, 2].item() == pytest.approx(expected.item(), rel=1e-12)
    mean = next_token_loss([labels])(logits, labels).mean()
    assert mean.item() == pytest.approx(by_token.nanmean().item(), rel=1e-12)


class Wrapped(nn.Module):
    """As Hugging Face's models answer: a mapping with more than the logits."""

    def __init__(self):
        super().__init__()
        self.net = transformer()

    def forward(self, input_ids=None, attention_mask=None, labels=None, use_cache=True):
        assert labels is None
        return {
            "logits": self.net(input_ids, attention_mask),
            "past_key_values": ((input_ids, attention_mask),) if use_cache else None,
        }


@pytest.mark.parametrize("engine", ["plain", "vmap"])
def test_models_that_answer_with_more_than_logits(engine):
    """And that are looked at by hooks, which see no chain."""
    model, seen = Wrapped(), []
    for block in model.net.blocks:
        block.attention.register_forward_hook(lambda *_: seen.append(1))
    plain, wrapped = (
        estimate_llc(net, padded("right"), batch_size=4, engine=engine, **SMALL)
        for net in (transformer(), model)
    )
    assert torch.equal(plain.trace.loss, wrapped.trace.loss)
    assert len(seen) <= 2


def test_a_head_moves_and_nothing_else():
    model = transformer()
    result = estimate_llc(model, padded("right"), params=model.head_of(1, 0), **SMALL)
    assert result.num_free == 4 * 8 * 4
    assert (result.trace.loss - result.trace.baseline).abs().max() > 1e-6


def test_tokens_that_the_model_does_not_know():
    items = [{"input_ids": [1, 2, 3]} for _ in range(9)] + [{"input_ids": [1, VOCABULARY, 0]}]
    with pytest.raises(ValueError, match="data: model or loss fail on a batch of it: index out of"):
        estimate_llc(transformer(), items, **SMALL)
