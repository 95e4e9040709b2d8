"""Strata of deep linear networks by enumeration, the independent side of the tests.

Up to changes of basis a parameter is a direct sum of lines, each living from one layer boundary
a to another b (a type A quiver representation). A stratum is given by how many lines of each
kind there are: an (L+1, L+1) array m with m[a, b] for a ≤ b.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = NDArray[Any]


def strata(widths: tuple[int, ...]) -> Iterator[Table]:
    """Every multiplicity table whose lines fill the widths."""
    count = len(widths)
    intervals = [(a, b) for a in range(count) for b in range(a + 1, count)]

    def fill(index: int, left: Table, table: Table) -> Iterator[Table]:
        if index == len(intervals):
            yield table + np.diag(left)
            return
        a, b = intervals[index]
        for copies in range(int(left[a : b + 1].min()) + 1):
            rest, filled = left.copy(), table.copy()
            rest[a : b + 1] -= copies
            filled[a, b] = copies
            yield from fill(index + 1, rest, filled)

    yield from fill(0, np.array(widths), np.zeros((count, count), dtype=int))


def rank_table(m: Table) -> Table:
    """ρ[i, j] = number of lines that live from i to j at least; the widths on the diagonal."""
    count = len(m)
    ranks = np.zeros_like(m)
    for i, j in itertools.product(range(count), repeat=2):
        if i <= j:
            ranks[i, j] = m[: i + 1, j:].sum()
    return ranks


def codimension(m: Table) -> int:
    """Σ m_ab m_cd over a < c ≤ b+1 ≤ d: the codimension of the stratum in parameter space."""
    total = 0
    count = len(m)
    for a, b in itertools.product(range(count), repeat=2):
        total += int(m[a, b]) * int(m[a + 1 : b + 2, b + 1 :].sum())
    return total


def fibre_codimension(m: Table) -> int:
    """The codimension of the stratum's part with one given product: products of rank r form a
    manifold of dimension r(d_0 + d_L) − r², and the stratum maps onto it."""
    r, inputs, outputs = int(m[0, -1]), int(m[0].sum()), int(m[:, -1].sum())
    return codimension(m) + r * (inputs + outputs) - r * r


def normal_form(m: Table) -> list[Table]:
    """Layer matrices, entries 0 and 1, with these multiplicities."""
    lines = [(a, b) for a, b in np.ndindex(*m.shape) for _ in range(m[a, b])]
    alive = [[k for k, (a, b) in enumerate(lines) if a <= s <= b] for s in range(len(m))]
    return [
        np.array([[float(x == y) for x in alive[s]] for y in alive[s + 1]])
        for s in range(len(m) - 1)
    ]


def orbit_codimension(layers: list[Table]) -> int:
    """The codimension of the orbit under changes of basis, by its tangent space: the rank of
    (g_0 … g_L) ↦ (g_j W_j − W_j g_{j−1})_j."""
    sizes = [layers[0].shape[1], *(w.shape[0] for w in layers)]
    blocks = []
    for j, w in enumerate(layers, start=1):
        row = [np.zeros((w.size, size * size)) for size in sizes]
        row[j] = np.kron(np.eye(sizes[j]), w.T)  # row-major vec of g W
        row[j - 1] = -np.kron(w, np.eye(sizes[j - 1]))  # and of W g
        blocks.append(np.hstack(row))
    tangent = np.vstack(blocks)
    return len(tangent) - int(np.linalg.matrix_rank(tangent))
