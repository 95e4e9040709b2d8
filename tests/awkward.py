"""Texts that a shell, Sacred or Python could take for something else."""

AWKWARD = [
    "", " ", " a ", "a b", "None", "True", "False", "1e5", "12", "0x1f", "[1, 2]", "{}", "()",
    "inf", "nan", "''", '"', "'", "it's", 'say "x"', "\\", "\\n", "a\nb", "\t", "\r", "\0", "\x85",
    "\u2028", "$HOME", "$(id)", "`id`", "%20", "50%", "a=b", "#", "~", "!", "*", "-x", "--", "λ̂",
    "日本", "\U0001f600", "a;b", "a&b", "a|b", "<x>", "with", "quick", "runs/a-b_c.d",
    '{"py/tuple": [1]}', "__debug__", "1_000", "1j", "b'x'", "...", "/",
]  # fmt: skip
PIECES = [
    *AWKWARD, *" \t\n'\"`$%()[]{}<>|&;*?!#~=,.:@^\\/-_", "None", "\x1b", "é", "ß", "中", "\u200d",
    "\u0301", "%d", "%A", "${x}", "$'a'", "word",
]  # fmt: skip


def text(random, most=8):
    """Pieces in a row, out of a random.Random."""
    return "".join(random.choices(PIECES, k=random.randint(0, most)))


def name(random):
    """The same as the name of a file, in which a line break, a NUL and a / cannot stand."""
    return "".join(c for c in text(random) if c not in "\n\r\0/")[:40]
