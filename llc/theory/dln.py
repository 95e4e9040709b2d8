"""Learning coefficients of deep linear networks x ↦ W_L ⋯ W_1 x, as exact rationals."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc.theory.classical import Coefficient, whole_number, whole_numbers

IntArray = NDArray[np.int64]
PartialRanks = Sequence[Sequence[int]] | Mapping[int, Mapping[int, int]] | NDArray[Any]

_CLOSED = np.iinfo(np.int64).max  # the cost of a layer that can take no more


def deep_linear(widths: Sequence[int], rank: int) -> Coefficient:
    """Compute λ and its multiplicity for a deep linear network whose true product has this rank.

    Widths H_1 … H_{L+1}, M_s = H_s − r. 𝓜 holds the smallest ℓ+1 of the M_s, with ℓ such that
    Σ_𝓜 M ≥ ℓ max_𝓜 M and Σ_𝓜 M < ℓ min_{not 𝓜} M. With c = ⌈Σ_𝓜 M / ℓ⌉, a = Σ_𝓜 M − (c−1)ℓ:

        λ = ½(r(H_1 + H_{L+1}) − r²) + a(ℓ−a)/(4ℓ) − ¼ℓ(ℓ−1)(Σ_𝓜 M / ℓ)² + ½ Σ_{i<j∈𝓜} M_i M_j,
        m = a(ℓ−a) + 1.

    This is the coefficient at the most singular parameter with that product; at any other it
    may be larger: see `deep_linear_local`.

    Aoyagi 2024, "Consideration on the learning efficiency of multiple-layered neural networks
    with linear units", Neural Networks 172, main theorem.

    widths: L+1 positive whole numbers, the input first. rank: 0 … min(widths).
    Returns: `Coefficient` in exact rationals; the work is one sort.
    Raises: ValueError if there are fewer than two widths, one is below 1, or the rank is
        negative or above the smallest width.
    """
    sizes, r = _checked_widths(widths), whole_number("rank", rank, 0)
    if r > min(sizes):
        raise ValueError(f"rank is {r}; it cannot exceed the smallest width, {min(sizes)}")
    chosen = _binding_set(sorted(size - r for size in sizes))
    ell, total = len(chosen) - 1, sum(chosen)
    pairs = Fraction(total * total - sum(m * m for m in chosen), 2)  # Σ_{i<j} M_i M_j
    a = total - (-(-total // ell) - 1) * ell
    value = (
        Fraction(r * (sizes[0] + sizes[-1]) - r * r, 2)
        + Fraction(a * (ell - a), 4 * ell)
        - Fraction((ell - 1) * total * total, 4 * ell)
        + pairs / 2
    )
    return Coefficient(value, a * (ell - a) + 1)


def deep_linear_local(widths: Sequence[int], partial_ranks: PartialRanks) -> Fraction:
    """Compute the local learning coefficient of a deep linear network at a given parameter w*.

    Widths d_0 … d_L, ρ_ij = rank of W_j ⋯ W_{i+1} at w*, r = ρ_0L, d'_i = d_i − r and
    N_sj = d'_s − (ρ_sj − r) for s < j:

        λ(w*) = ½(r(d_0 + d_L) − r²) + ½C,
        C = min Σ_j (½δ_j² + d'_j δ_j) − ½d'_0²   over whole δ_1 … δ_L ≥ 0 with Σ_j δ_j = d'_0
            and Σ_{s<t≤j} δ_t ≤ N_sj for all s < j.

    C is the least codimension of the strata of {product as at w*} whose closure contains w*
    (the codimensions are those of Pepin Lehalleur and Rimányi 2024, "Geometry of fibers of the
    multiplication map of deep linear neural networks"); δ_j is how much the image of the input
    space shrinks at layer j along such a stratum. The δ_j range over a polymatroid, because N is
    submodular on intervals (Sylvester's and Frobenius' rank inequalities), and the cost is
    separable and convex, so that the greedy choice is optimal.

    What is proved: λ(w*) is at most this value, always (semicontinuity); it equals this value at
    w* = 0 (Pepin Lehalleur and Rimányi 2024; the value is then Aoyagi's λ for rank 0) and, for
    two layers, at every w* (an explicit slice). Beyond that equality is numerical evidence:
    estimates by HMC at n = 1e7 at ten points where this value and Aoyagi's λ differ. That the
    formula is the minimum over the strata was checked by brute force on small widths.

    widths: L+1 positive whole numbers, the input first. partial_ranks[i][j], 0 ≤ i < j ≤ L: the
        ρ_ij, as an (L+1, L+1) array, nested sequences or nested mappings; entries with i ≥ j are
        not read. For independent random layers, or aligned ones: `generic_partial_ranks`.
    Returns: the coefficient, an exact rational. Work: d'_0 steps of one L × L array operation.
    Raises: ValueError if a width is below 1, a rank is missing, or no parameter has these ranks.
    """
    sizes = _checked_widths(widths)
    ranks = _checked_ranks(sizes, partial_ranks)
    r = int(ranks[0, -1])
    reduced = np.array(sizes, dtype=np.int64) - r
    delta = _cheapest_shrinkage(reduced, reduced[:, None] - (ranks - r))
    codimension = sum(d * (d + 2 * m) for d, m in zip(delta, reduced[1:].tolist(), strict=True))
    codimension -= int(reduced[0]) ** 2
    return Fraction(r * (sizes[0] + sizes[-1]) - r * r, 2) + Fraction(codimension, 4)


def generic_partial_ranks(ranks: Sequence[int]) -> IntArray:
    """Compute the ranks of all partial products of layers that are independent, or aligned.

        ρ_ij = min(ranks[i], …, ranks[j−1])   for i < j.

    It holds with probability one for independent layers drawn with a density from the matrices
    of their rank (image and kernel in general position), and for layers whose row and column
    spaces are nested (each layer maps the leading directions of the last to its own).

    ranks: the ranks of the L layers, input side first.
    Returns: (L+1, L+1) int64 array for `deep_linear_local`, zero where i ≥ j.
    Raises: ValueError if there is no layer or a rank is negative or fractional.
    """
    layers = whole_numbers("ranks", ranks, 0)
    if not layers:
        raise ValueError("ranks are empty; give one rank per layer")
    table = np.zeros((len(layers) + 1, len(layers) + 1), dtype=np.int64)
    for i in range(len(layers)):
        table[i, i + 1 :] = np.minimum.accumulate(layers[i:])
    return table


def _checked_widths(widths: Sequence[int]) -> list[int]:
    sizes = whole_numbers("widths", widths, 1)
    if len(sizes) < 2:
        raise ValueError(f"widths are {sizes}; give at least two, the input first")
    return sizes


def _checked_ranks(widths: list[int], partial_ranks: PartialRanks) -> IntArray:
    """Return the (L+1, L+1) table of ranks with the widths on its diagonal and zeros below it."""
    count = len(widths)
    table = np.diag(np.array(widths, dtype=np.int64))
    for i in range(count):
        for j in range(i + 1, count):
            try:
                entry = partial_ranks[i][j]
            except (IndexError, KeyError):
                raise ValueError(
                    f"partial_ranks[{i}][{j}] is missing; give every 0 ≤ i < j ≤ {count - 1}"
                ) from None
            table[i, j] = whole_number(f"partial_ranks[{i}][{j}]", entry, 0)
    lines = _interval_multiplicities(table)
    if lines.min() < 0:
        i, j = (int(k) for k in np.argwhere(lines < 0)[0])
        name = f"widths[{i}]" if i == j else f"partial_ranks[{i}][{j}]"
        raise ValueError(
            f"partial_ranks fit no parameter: the products around {name} = {table[i, j]} have "
            f"ranks that need it to be {table[i, j] - lines[i, j]} or more; correct either"
        )
    return table


def _interval_multiplicities(table: IntArray) -> IntArray:
    """Return m_ij = ρ_ij − ρ_{i−1,j} − ρ_{i,j+1} + ρ_{i−1,j+1} for i ≤ j.

    It counts the lines of the parameter's normal form that live exactly from layer boundary i to
    j. Ranks are realisable iff none is negative.
    """
    padded = np.pad(table, ((1, 0), (0, 1)))
    lines = padded[1:, :-1] - padded[:-1, :-1] - padded[1:, 1:] + padded[:-1, 1:]
    return np.triu(lines)


def _cheapest_shrinkage(reduced: IntArray, room: IntArray) -> list[int]:
    """Minimise Σ_j ½δ_j² + d'_j δ_j greedily.

    Each unit goes to the layer with the smallest marginal cost d'_j + δ_j + ½ among those with
    room left in every interval around them.

    reduced: (L+1,), the d'_i. room: (L+1, L+1), N_sj where s < j. Returns δ_1 … δ_L.
    """
    layers = len(reduced) - 1
    slack = room[:-1, 1:].copy()  # row s, column j−1: the interval of layers s+1 … j
    slack[np.tril_indices(layers, -1)] = _CLOSED  # empty intervals never bind
    cost = reduced[1:].copy()
    delta = np.zeros(layers, dtype=np.int64)
    _close_full_layers(cost, slack)
    for _ in range(int(reduced[0])):
        t = int(cost.argmin())
        delta[t] += 1
        cost[t] += 1
        around = slack[: t + 1, t:]  # the intervals that contain layer t+1
        around -= 1
        if around.min() == 0:
            _close_full_layers(cost, slack)
    return [int(d) for d in delta]


def _close_full_layers(cost: IntArray, slack: IntArray) -> None:
    """Bar every layer of an interval without room, for good: slack never grows back."""
    for s, j in np.argwhere(slack == 0):
        cost[s : j + 1] = _CLOSED


def _binding_set(ordered: list[int]) -> list[int]:
    """Return Aoyagi's 𝓜, the longest prefix of the sorted M with Σ_𝓜 M ≥ (|𝓜| − 1) max 𝓜.

    Σ_𝓜 M − (|𝓜|−1) max 𝓜 falls as the prefix grows, so the scan may stop at the first failure,
    which is the other condition, Σ_𝓜 M < (|𝓜|−1) min_{not 𝓜} M.
    """
    size, total = 2, ordered[0] + ordered[1]
    while size < len(ordered) and total >= (size - 1) * ordered[size]:
        total += ordered[size]
        size += 1
    return ordered[:size]
