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

from llc.models.base import CACHED, EVERY, LossBlock
from llc.params import Params, derive
from llc.products import Product, cheapest_order, products


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


def init_normal(
    widths: Sequence[int], std: float, generator: torch.Generator, dtype: torch.dtype
) -> Params:
    """One network: independent N(0, `std`²) entries."""
    return {
        name: torch.randn(shape, generator=generator, dtype=dtype).mul_(std)
        for name, shape in shapes(widths).items()
    }


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

    def examples_per_step(self, batch_size: int) -> int:
        return min(batch_size, self.widths[0])

    def block(self, like: Params, reference: Tensor, steps: int) -> "LinearBlock":
        return LinearBlock(self, like, reference, steps)

    def full_data(self, weights: Params) -> Tensor:
        gap = self.reference(weights).double()
        return _trace(gap, gap @ self.second_moment) / self.widths[-1]

    def select(self, index: slice) -> "LinearLoss":
        return self if len(self.teacher) == 1 else self.taught_by(self.teacher[index])

    def repeat(self, times: int) -> "LinearLoss":
        if len(self.teacher) == 1:
            return self
        return self.taught_by(self.teacher.repeat_interleave(times, 0))

    def taught_by(self, teacher: Tensor) -> "LinearLoss":
        """The same inputs with the targets of other teachers (S, o, d), one a centre."""
        other = copy(self)
        other.teacher = teacher
        return other


def _both_ways(params: Params) -> list[Tensor]:
    """The layers in order, then their transposes."""
    layers = list(params.values())
    return layers + [layer.mT for layer in layers]


def second_moment(inputs: Tensor, chunk: int = 65_536) -> Tensor:
    """XᵀX/n (d, d) in float64."""
    total = torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64, device=inputs.device)
    for start in range(0, len(inputs), chunk):
        wide = inputs[start : start + chunk].double()
        total += wide.mT @ wide
    return total / len(inputs)


def _trace(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).flatten(-2).sum(-1)


class LinearBlock(LossBlock):
    """K Gram matrices for C chains; see `models.base.LossBlock`."""

    def __init__(self, loss: LinearLoss, like: Params, reference: Tensor, steps: int) -> None:
        first = next(iter(like.values()))
        self.loss, self.chains = loss, len(first)
        self._rows: Tensor | None = None  # (K, C, B, d), until they are multiplied
        self._room = loss.inputs.new_empty(0, loss.widths[0])  # for them
        self.minus_teacher = (-loss.teacher).expand(self.chains, -1, -1).contiguous()
        self.centre_gap, self.realisable = reference, not bool(reference.any())
        self.full = loss.second_moment.to(first)
        outputs, inputs = loss.widths[-1], loss.widths[0]
        self.gaps = first.new_empty(steps, self.chains, outputs, inputs)
        self.weighted = torch.empty_like(self.gaps)
        pairs = zip(self.gaps, self.weighted, strict=True)
        self._views: list[tuple[Tensor, ...]] = [
            (e, se, _as_rows(e), _as_rows(se)) for e, se in pairs
        ]
        self._multiply_gram = products(first, outputs, inputs, inputs).multiply
        self._plan(cheapest_order(loss.widths), first)

    def _plan(self, order: list[Product], like: Tensor) -> None:
        """What a step multiplies, as places in one list of tensors.

        The list: layers, their transposes, products, their transposes, gradients of the products,
        gradient of the last product. Large intermediates are allocated once: fresh pages cost more
        than the products.
        """
        layers, own = len(order) + 1, max(0, len(order) - 1)  # the last product is the gap
        results = [like.new_empty(self.chains, p.rows, p.columns) for p in order[:-1]]
        self._own = [*results, *(p.mT for p in results), *map(torch.empty_like, results)]

        def value(slot: int) -> int:
            return slot if slot < layers else layers + slot

        def flipped(slot: int) -> int:
            return layers + slot if slot < layers else layers + own + slot

        def gradient(slot: int) -> int:
            return layers + 2 * own + slot

        self._forward, self._back, self._leaves = [], [], []
        for p in order:
            kernel = products(like, p.rows, p.inner, p.columns)
            factors = value(p.left), value(p.right)
            if p is order[-1]:
                self._last = (kernel.add, *factors)
            else:
                self._forward.append((kernel.multiply, *factors, value(p.result)))
        # Where P = A B has the gradient δ, A has δ Bᵀ and B has Aᵀ δ.
        for p in reversed(order):
            kernel, delta = products(like, p.rows, p.inner, p.columns), gradient(p.result)
            for slot, a, b in (
                (p.left, delta, flipped(p.right)),
                (p.right, flipped(p.left), delta),
            ):
                if slot < layers:
                    self._leaves.append((kernel.accumulate, slot, a, b))
                else:
                    self._back.append((kernel.multiply, a, b, gradient(slot)))

    def load(self, steps: int, indices: Tensor | None) -> None:
        self.used, self._rows = steps, None
        if indices is None:
            self._batch_grams = self.full.expand(1, 1, -1, -1)
            self._grams = [self._batch_grams[0]] * steps
            return
        self._rows = self._gathered(indices.flatten()).view(*indices.shape, -1)

    def _gathered(self, indices: Tensor) -> Tensor:
        """Rows `indices` (N,) of the inputs."""
        table = self.loss.inputs
        if table.numel() > CACHED and table.device.type == "cpu" and table.dtype == torch.float32:
            # Bags of one row each: their kernel fetches rows ahead.
            bags = torch.arange(len(indices), dtype=indices.dtype)
            rows: Tensor = torch.embedding_bag(table, indices, bags)[0]
            return rows
        if len(self._room) < len(indices):  # fresh memory for each block costs more than the gather
            self._room = table.new_empty(len(indices), table.shape[1])
        return torch.index_select(table, 0, indices, out=self._room[: len(indices)])

    def _multiply_rows(self) -> None:
        """S of each step, when first asked for.

        Not in `load`: where a worker loads blocks ahead, gathering takes it longer the larger n is
        (the caches hold less of the data), while the thread that multiplies would wait.
        """
        if self._rows is None:
            return
        steps, streams, size, inputs = self._rows.shape
        rows, self._rows = self._rows.view(steps * streams, size, inputs), None
        grams = rows.new_empty(steps * streams, inputs, inputs)
        products(rows, inputs, size, inputs).multiply(rows.mT, rows, grams).mul_(1 / size)
        self._batch_grams = grams.view(steps, streams, inputs, inputs)
        self._grams = list(self._batch_grams)

    def add_gradient(self, step: int, weights: Params, out: Params, scale: float) -> None:
        tensors, leaves = [*derive(weights, _both_ways), *self._own], derive(out, _both_ways)
        gap, factor = self._views[step][0], 2 * scale / self.loss.widths[-1]
        if len(self.loss.shapes) == 1:
            torch.add(tensors[0], self.minus_teacher, out=gap)
            leaves[0].add_(self._weigh(step), alpha=factor)
            return
        for multiply, a, b, result in self._forward:
            multiply(tensors[a], tensors[b], tensors[result])
        add, a, b = self._last
        add(self.minus_teacher, tensors[a], tensors[b], gap)
        tensors.append(self._weigh(step))
        for multiply, a, b, result in self._back:
            multiply(tensors[a], tensors[b], tensors[result])
        for accumulate, leaf, a, b in self._leaves:
            accumulate(leaves[leaf], tensors[a], tensors[b], factor)

    def _weigh(self, step: int) -> Tensor:
        """E S of one step; with one S for all chains as a single product."""
        gap, weighted, gap_rows, weighted_rows = self._views[step]
        self._multiply_rows()
        gram = self._grams[step]
        if len(gram) == 1:
            self._multiply_gram(gap_rows, gram, weighted_rows)
        else:
            self._multiply_gram(gap, gram, weighted)
        return weighted

    def losses(self, steps: slice = EVERY) -> Tensor:
        gaps, weighted = self.gaps[: self.used][steps], self.weighted[: self.used][steps]
        return _trace(gaps, weighted) / self.loss.widths[-1]

    def baselines(self, steps: slice = EVERY) -> Tensor:
        count = len(range(self.used)[steps])
        if self.realisable:
            return self.gaps.new_zeros(count, self.chains)
        self._multiply_rows()
        grams = self._batch_grams if len(self._batch_grams) == 1 else self._batch_grams[steps]
        values = _trace(self.centre_gap, self.centre_gap @ grams) / self.loss.widths[-1]
        return values.expand(count, self.chains)


def _as_rows(matrices: Tensor) -> Tensor:
    """(C, m, k) -> (1, C·m, k)."""
    return matrices.flatten(0, 1).unsqueeze(0)
