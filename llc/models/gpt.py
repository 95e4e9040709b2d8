"""A decoder-only transformer in the manner of GPT-2 (Radford et al. 2019), small and plain.

Pre-norm blocks, learned positions, no biases. Attention is written out: `vmap` follows every step
of it, which it does not do with PyTorch's fused kernels on the CPU, and up to a few hundred tokens
it is as fast as they are.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from llc.streams import drawing_from

STD = 0.02  # of the initial weights, as in GPT-2


class GPT(nn.Module):
    """Logits of the next token; 384 wide and 6 deep it has 10.7 million parameters.

    vocabulary: tokens. context: positions. width: of the residual stream, a multiple of `heads`.
    depth: blocks. tied: the head is the embedding.
    Raises: ValueError where the heads do not share the width evenly.
    """

    def __init__(
        self, vocabulary: int, context: int, width: int, depth: int, heads: int, tied: bool = False
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width}: must be a multiple of heads={heads}")
        self.width, self.heads = width, heads
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        for name, leaf in self.named_parameters():
            if leaf.dim() > 1:
                # Each block adds twice to the residual stream, whose size stays like this.
                into = name.endswith("out.weight")
                nn.init.normal_(leaf, std=STD / math.sqrt(2 * depth) if into else STD)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Tokens (B, T) -> logits (B, T, vocabulary).

        attention_mask: (B, T), 0 where a token is padding, on whichever side: nobody attends to it,
        and positions count from the first token that is none.
        """
        length = input_ids.shape[1]
        places = torch.arange(length, device=input_ids.device)
        seen = places <= places.unsqueeze(1)
        if attention_mask is not None:
            # A token always sees itself: no row of the softmax is empty, not even of padding.
            own = places == places.unsqueeze(1)
            seen = seen & ((attention_mask != 0)[:, None, None, :] | own)
            places = (attention_mask.cumsum(1) - 1).clamp(min=0)
        hidden = self.embed(input_ids) + self.position(places)
        bias = torch.zeros_like(seen, dtype=hidden.dtype).masked_fill(~seen, -math.inf)
        for block in self.blocks:
            hidden = block(hidden, bias)
        logits: Tensor = self.head(self.norm(hidden))
        return logits

    def head_of(self, block: int, head: int) -> dict[str, Tensor | tuple[slice, slice]]:
        """The parameters of one attention head, for `params=` of `estimate_llc`.

        Its rows of the query, key and value maps and its columns of the output map.
        """
        places = torch.arange(3 * self.width).view(3, self.heads, -1)[:, head]
        columns = slice(int(places[0, 0]), int(places[0, -1]) + 1)
        name = f"blocks.{block}.attention"
        return {
            f"{name}.maps.weight": places.flatten(),
            f"{name}.out.weight": (slice(None), columns),
        }


class Block(nn.Module):
    """x ← x + attention(norm x), then x ← x + MLP(norm x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.mlp = MLP(width)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """(B, T, width) -> the same; `bias` as in `Attention`."""
        hidden = hidden + self.attention(self.norm(hidden), bias)
        hidden = hidden + self.mlp(self.mlp_norm(hidden))
        return hidden


class Attention(nn.Module):
    """softmax(QKᵀ/√d + bias) V in each of the heads, mixed by `out`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.maps = nn.Linear(width, 3 * width, bias=False)  # rows: Q, K, V, each head by head
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """(B, T, width) -> the same; `bias` (…, T, T) is −∞ where a token does not look."""
        split = self.maps(hidden).unflatten(-1, (3, self.heads, -1)).movedim(1, 3)
        query, key, value = split.unbind(1)  # (B, heads, T, d) each
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2) + bias
        mixed: Tensor = self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        return mixed


class MLP(nn.Module):
    """Four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(width, 4 * width, bias=False)
        self.out = nn.Linear(4 * width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, width) -> the same."""
        moved: Tensor = self.out(gelu(self.into(hidden)))
        return moved


def gpt(
    vocabulary: int,
    context: int,
    generator: torch.Generator,
    *,
    width: int = 32,
    depth: int = 2,
    heads: int = 4,
    tied: bool = False,
) -> GPT:
    """A fresh network, by numbers that `generator` determines."""
    with drawing_from(generator):
        return GPT(vocabulary, context, width, depth, heads, tied)
