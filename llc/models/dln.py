"""Deep linear networks f(x) = W_L ⋯ W_1 x with squared loss, through second moments.

With targets y = T x the loss of a batch is an exact function of its Gram matrix S = XᵀX/B:
    L(w) = tr(E S Eᵀ)/o,   E = W_L ⋯ W_1 − T,   o outputs,
    ∂L/∂W_ℓ = (2/o) (W_L ⋯ W_{ℓ+1})ᵀ E S (W_{ℓ−1} ⋯ W_1)ᵀ,
the mean squared error over batch and outputs at d/B of the work, d inputs. With S over all the data
the full-data gradient costs no more, whatever n is.
"""

from collections.abc import Sequence
from copy import copy
from math import sqrt

import torch
from torch import Tensor

from llc.models.base import EVERY
from llc.params import Params, derive


def shapes(widths: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Leaf shapes for widths, input first: `layer1` is (widths[1], widths[0])."""
    return {f"layer{i}": (widths[i], widths[i - 1]) for i in range(1, len(widths))}


def init(widths: Sequence[int], generator: torch.Generator, dtype: torch.dtype) -> Params:
    """One network: normal entries of deviation 1/√fan_in, truncated at two deviations."""
    params = {}
    for name, (rows, columns) in shapes(widths).items():
        std = 1 / sqrt(columns)
        leaf = torch.empty(rows, columns, dtype=dtype)
        params[name] = torch.nn.init.trunc_normal_(
            leaf, std=std, a=-2 * std, b=2 * std, generator=generator
        )
    return params


def product(params: Params) -> Tensor:
    """W_L ⋯ W_1, shape (…, outputs, inputs)."""
    layers = list(params.values())
    total = layers[0]
    for layer in layers[1:]:
        total = layer @ total
    return total


def apply(params: Params, inputs: Tensor) -> Tensor:
    """f(x) for inputs (B, d): (…, B, o)."""
    outputs = inputs
    for layer in params.values():
        outputs = outputs @ layer.mT
    return outputs


def cheapest_cut(widths: Sequence[int]) -> int:
    """The boundary m in 1 … L−1 where prefix products W_m ⋯ W_1 meet suffix products W_L ⋯ W_{m+1}.

    Below it everything is carried with d_0 columns, above it with d_L rows.
    """
    first, last, layers = widths[0], widths[-1], len(widths) - 1
    areas = [widths[i] * widths[i + 1] for i in range(layers)]

    def cost(cut: int) -> int:
        below, above = sum(areas[1:cut]), sum(areas[cut : layers - 1])
        return below * first + above * last + widths[cut] * first * last

    return min(range(1, layers), key=cost, default=1)


class LinearLoss:
    """Mean squared error of a stack of deep linear networks against a linear teacher.

    `inputs` (n, d); `teacher` (o, d), or (S, o, d) where each centre has its own.
    """

    def __init__(self, inputs: Tensor, teacher: Tensor, widths: Sequence[int]) -> None:
        self.inputs = inputs
        self.teacher = teacher if teacher.dim() == 3 else teacher.unsqueeze(0)
        self.widths = tuple(widths)
        self.shapes = shapes(widths)
        self.num_examples = len(inputs)
        self.second_moment = second_moment(inputs)

    def reference(self, centres: Params) -> Tensor:
        """E* = W_L* ⋯ W_1* − T."""
        return product(centres) - self.teacher

    def numbers_per_step(self, batch_size: int) -> int:
        inputs, outputs = self.widths[0], self.widths[-1]
        gathered = 0 if batch_size >= self.num_examples else (batch_size + inputs) * inputs
        return gathered + 2 * inputs * outputs

    def block(self, like: Params, reference: Tensor, steps: int) -> "LinearBlock":
        return LinearBlock(self, like, reference, steps)

    def full_data(self, weights: Params) -> Tensor:
        gap = self.reference(weights).double()
        return _trace(gap, gap @ self.second_moment) / self.widths[-1]

    def select(self, index: slice) -> "LinearLoss":
        return self if len(self.teacher) == 1 else self._with(self.teacher[index])

    def repeat(self, times: int) -> "LinearLoss":
        return (
            self if len(self.teacher) == 1 else self._with(self.teacher.repeat_interleave(times, 0))
        )

    def _with(self, teacher: Tensor) -> "LinearLoss":
        other = copy(self)
        other.teacher = teacher
        return other


def _layers(params: Params) -> tuple[list[Tensor], list[Tensor]]:
    """The layers and their transposes, in order."""
    layers = list(params.values())
    return layers, [layer.mT for layer in layers]


def second_moment(inputs: Tensor, chunk: int = 65_536) -> Tensor:
    """XᵀX/n (d, d) in float64."""
    total = torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64, device=inputs.device)
    for start in range(0, len(inputs), chunk):
        wide = inputs[start : start + chunk].double()
        total += wide.mT @ wide
    return total / len(inputs)


def _trace(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).flatten(-2).sum(-1)


class LinearBlock:
    """K Gram matrices for C chains; see `models.base.LossBlock`."""

    def __init__(self, loss: LinearLoss, like: Params, reference: Tensor, steps: int) -> None:
        first = next(iter(like.values()))
        self.loss, self.chains = loss, len(first)
        self.depth, self.cut = len(like), cheapest_cut(loss.widths)
        self.minus_teacher = (-loss.teacher).expand(self.chains, -1, -1).contiguous()
        self.centre_gap, self.realisable = reference, not bool(reference.any())
        self.full = loss.second_moment.to(first)
        outputs, inputs = loss.widths[-1], loss.widths[0]
        self.gaps = first.new_empty(steps, self.chains, outputs, inputs)
        self.weighted = torch.empty_like(self.gaps)
        pairs = zip(self.gaps, self.weighted, strict=True)
        self._views = [(e, se, e.flatten(0, 1), se.flatten(0, 1)) for e, se in pairs]
        # Large intermediates are allocated once: fresh pages cost more than the products.
        self._prefixes = [first.new_empty(self.chains, width, inputs) for width in loss.widths]
        self._suffixes = [first.new_empty(self.chains, outputs, width) for width in loss.widths]
        self._below = [torch.empty_like(prefix) for prefix in self._prefixes]
        self._above = [torch.empty_like(suffix) for suffix in self._suffixes]

    def load(self, steps: int, indices: Tensor | None) -> None:
        self.used = steps
        if indices is None:
            self.grams, self.batch_grams = [self.full] * steps, self.full
            return
        steps, streams, size = indices.shape
        rows = self.loss.inputs.index_select(0, indices.flatten()).view(steps * streams, size, -1)
        grams = torch.baddbmm(rows.new_empty(()), rows.mT, rows, beta=0, alpha=1 / size)
        self.batch_grams = grams.view(steps, streams, *grams.shape[1:])
        self.grams = list(self.batch_grams if streams > 1 else self.batch_grams.squeeze(1))

    def add_gradient(self, step: int, weights: Params, out: Params, scale: float) -> None:
        layers, flipped = derive(weights, _layers)
        targets, _ = derive(out, _layers)
        gap, weighted, _, _ = self._views[step]
        factor = 2 * scale / self.loss.widths[-1]
        if self.depth == 1:
            torch.add(layers[0], self.minus_teacher, out=gap)
            self._weigh(step)
            targets[0].add_(weighted, alpha=factor)
            return
        prefixes, suffixes = self._products(layers)
        torch.baddbmm(self.minus_teacher, suffixes[self.cut], prefixes[self.cut], out=gap)
        self._weigh(step)
        self._descend_below(flipped, targets, prefixes, suffixes[self.cut], weighted, factor)
        self._descend_above(flipped, targets, suffixes, prefixes[self.cut], weighted, factor)

    def _weigh(self, step: int) -> None:
        """E S of one step; with one S for all chains as a single product."""
        gap, weighted, gap_rows, weighted_rows = self._views[step]
        gram = self.grams[step]
        if gram.dim() == 2:
            torch.mm(gap_rows, gram, out=weighted_rows)
        else:
            torch.bmm(gap, gram, out=weighted)

    def _products(self, layers: list[Tensor]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Prefixes W_ℓ ⋯ W_1 for ℓ = 1 … m and suffixes W_L ⋯ W_{ℓ+1} for ℓ = m … L−1."""
        prefixes = {1: layers[0]}
        for i in range(2, self.cut + 1):
            prefixes[i] = torch.bmm(layers[i - 1], prefixes[i - 1], out=self._prefixes[i])
        suffixes = {self.depth - 1: layers[-1]}
        for i in range(self.depth - 2, self.cut - 1, -1):
            suffixes[i] = torch.bmm(suffixes[i + 1], layers[i], out=self._suffixes[i])
        return prefixes, suffixes

    def _descend_below(
        self,
        flipped: list[Tensor],
        targets: list[Tensor],
        prefixes: dict[int, Tensor],
        suffix: Tensor,
        weighted: Tensor,
        factor: float,
    ) -> None:
        """Gradients of layers m … 1: δ_m = (W_L ⋯ W_{m+1})ᵀ E S, δ_{ℓ−1} = W_ℓᵀ δ_ℓ."""
        up, delta = flipped[-1] if self.cut == self.depth - 1 else suffix.mT, weighted
        for i in range(self.cut, 1, -1):
            delta = torch.bmm(up, delta, out=self._below[i])
            targets[i - 1].baddbmm_(delta, prefixes[i - 1].mT, alpha=factor)
            up = flipped[i - 1]
        targets[0].baddbmm_(up, delta, alpha=factor)

    def _descend_above(
        self,
        flipped: list[Tensor],
        targets: list[Tensor],
        suffixes: dict[int, Tensor],
        prefix: Tensor,
        weighted: Tensor,
        factor: float,
    ) -> None:
        """Gradients of layers m+1 … L: κ_m = E S (W_m ⋯ W_1)ᵀ, κ_ℓ = κ_{ℓ−1} W_ℓᵀ."""
        down, kappa = flipped[0] if self.cut == 1 else prefix.mT, weighted
        for i in range(self.cut + 1, self.depth):
            kappa = torch.bmm(kappa, down, out=self._above[i - 1])
            targets[i - 1].baddbmm_(suffixes[i].mT, kappa, alpha=factor)
            down = flipped[i - 1]
        targets[-1].baddbmm_(kappa, down, alpha=factor)

    def losses(self, steps: slice = EVERY) -> Tensor:
        gaps, weighted = self.gaps[: self.used][steps], self.weighted[: self.used][steps]
        return _trace(gaps, weighted) / self.loss.widths[-1]

    def baselines(self, steps: slice = EVERY) -> Tensor:
        count = len(range(self.used)[steps])
        if self.realisable:
            return self.gaps.new_zeros(count, self.chains)
        grams = self.batch_grams if self.batch_grams.dim() == 2 else self.batch_grams[steps]
        values = _trace(self.centre_gap, self.centre_gap @ grams) / self.loss.widths[-1]
        return values.expand(count, self.chains)
