"""Text to train a small language model on, character by character.

`proverbs.txt` is the Book of Proverbs in the King James Version of 1611, a verse a line and an empty
line between chapters, as Debian's package bible-kjv-text 4.38 has it. Its copyright has expired;
in the United Kingdom the right to print it remains with the Crown.
"""

from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Tensor


class Text(NamedTuple):
    """A text as tokens, one a character."""

    tokens: Tensor  # (N,) int64
    characters: str  # token k stands for the k-th

    @property
    def vocabulary(self) -> int:
        """How many characters there are."""
        return len(self.characters)

    def encode(self, string: str) -> Tensor:
        """The tokens of another text.

        Raises: ValueError for a character that this one does not have.
        """
        strange = sorted(set(string) - set(self.characters))
        if strange:
            raise ValueError(f"string: has {strange[0]!r}, which is not among the characters")
        return torch.tensor([self.characters.index(one) for one in string])

    def decode(self, tokens: Tensor) -> str:
        """The characters of tokens (T,)."""
        return "".join(self.characters[token] for token in tokens.tolist())

    def windows(self, length: int, stride: int | None = None) -> dict[str, Tensor]:
        """`input_ids` (n, length): from every `stride`-th character, side by side where None.

        Raises: ValueError where not one window fits.
        """
        if not 0 < length <= len(self.tokens):
            raise ValueError(f"length={length}: must be within 1 and {len(self.tokens)}")
        return {"input_ids": self.tokens.unfold(0, length, stride or length).contiguous()}


def as_text(string: str) -> Text:
    """A string with an alphabet of its own, in the order of Unicode."""
    bare = Text(torch.empty(0), "".join(sorted(set(string))))
    return bare._replace(tokens=bare.encode(string))


def proverbs() -> Text:
    """The Book of Proverbs: 80,001 characters, 60 different ones."""
    return as_text(files("llc.data").joinpath("proverbs.txt").read_text(encoding="utf-8"))
