"""Products of narrow matrices the other way round, where that is faster.

BLAS fills the rows of its result with vectors, so that a product whose rows are short (a narrow
layer) leaves most of a vector empty: A B is then several times as slow as its transpose Bᵀ Aᵀ,
whose rows are the examples of a batch. What comes after works on the transpose as well, as far as
it can.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.fx.passes.shape_prop import _extract_tensor_metadata

aten = torch.ops.aten
VECTOR = 16  # numbers in a vector of a processor: rows of a multiple of that leave none empty
NARROW = 64  # columns, from which on a few empty places do not count
PRODUCTS = {aten.bmm.default, aten.baddbmm.default}
REDUCTIONS = {aten.sum.dim_IntList, aten.mean.dim}
SWAPPED = {0: 0, 1: 2, 2: 1}


def is_narrow(rows: int, columns: int) -> bool:
    """Whether matrices of that shape had better lie column by column in memory."""
    return columns < NARROW and columns % VECTOR != 0 and rows > columns


def flip_products(module: GraphModule, examples: Sequence[Tensor]) -> None:
    """Every product that is faster so, unless something after it needs the order it had.

    `module`, of operations without effects, is run once, on `examples`: its nodes know then in
    which order their numbers lie.
    """
    graph = Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    if not any(map(_is_faster_flipped, graph.nodes)):
        return
    for node in list(graph.nodes):
        if _is_faster_flipped(node):
            _flip(node)
        elif _is_of_numbers(node):
            _sink(node)
        elif node.target in REDUCTIONS:
            _reduce(node)
        elif _is_transpose(node) and _is_transpose(node.args[0]):
            node.replace_all_uses_with(node.args[0].args[0])
    graph.eliminate_dead_code()
    before, module.graph = module.graph, graph
    try:
        _Shapes(module).run(*examples)
    except RuntimeError:  # a view that only rows one after another have
        module.graph = before


class _Shapes(Interpreter):
    """Notes the shape, type and order of every result (`ShapeProp` also prints what fails)."""

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["tensor_meta"] = _extract_tensor_metadata(result)
        return result


def _is_faster_flipped(node: Node) -> bool:
    """Of A B and a + B C; not of gradients, which are added to leaves as they are."""
    if node.target not in PRODUCTS or node.kwargs or node.meta["val"].device.type != "cpu":
        return False
    *base, _, _ = node.args
    if any(isinstance(one, Node) and len(_shape(one)) != 3 for one in base):
        return False  # a bias that all chains share
    last = any(user.op == "output" for user in node.users)
    return not last and is_narrow(*node.meta["tensor_meta"].shape[1:])


def _is_of_numbers(node: Node) -> bool:
    """Whether the operation takes each number by itself, of stacks of matrices alike."""
    if node.op != "call_function" or torch.Tag.pointwise not in getattr(node.target, "tags", ()):
        return False
    if any(isinstance(value, Node) for value in node.kwargs.values()):
        return False
    shapes = {_shape(one) for one in (node, *node.all_input_nodes)}
    return len(shapes) == 1 and len(shapes.pop()) == 3


def _flip(node: Node) -> None:
    """(A B) becomes (Bᵀ Aᵀ)ᵀ, and a + B C becomes (aᵀ + Cᵀ Bᵀ)ᵀ."""
    *base, left, right = node.args
    _replace(node, (*base, right, left))


def _sink(node: Node) -> None:
    """f(Aᵀ, B) becomes f(A, Bᵀ)ᵀ: the transpose may meet another there."""
    if any(_is_transpose(one) for one in node.all_input_nodes):
        _replace(node, node.args)


def _reduce(node: Node) -> None:
    """Sums and means of Aᵀ along an axis are those of A along the other."""
    matrix, axes, *keep = node.args
    if not isinstance(matrix, Node) or not isinstance(axes, list) or keep:
        return
    if _is_transpose(matrix) and len(_shape(matrix)) == 3:
        node.args = (matrix.args[0], [SWAPPED[axis % 3] for axis in axes])


def _replace(node: Node, args: Sequence[Any]) -> None:
    """The operation of a node on the transposes of `args`, and the transpose of that."""
    graph, operation = node.graph, node.target
    assert not isinstance(operation, str)
    with graph.inserting_before(node):
        turned = [_transposed(graph, one) if isinstance(one, Node) else one for one in args]
        flipped = graph.call_function(operation, tuple(turned), node.kwargs)
        result = graph.call_function(aten.transpose.int, (flipped, 1, 2))
    result.meta.update(node.meta)
    node.replace_all_uses_with(result)


def _transposed(graph: Graph, matrix: Node) -> Node:
    """Of each matrix of a stack; of one that is a transpose itself, what that is of."""
    source, *axes = matrix.args or (None,)
    if _is_transpose(matrix):
        assert isinstance(source, Node)
        return source
    if matrix.target is aten.unsqueeze.default and axes == [1]:
        return graph.call_function(aten.unsqueeze.default, (source, 2))
    return graph.call_function(aten.transpose.int, (matrix, 1, 2))


def _shape(node: Node) -> tuple[int, ...]:
    """Empty where it is not known."""
    about = node.meta.get("tensor_meta")
    return () if about is None else tuple(about.shape)


def _is_transpose(node: Node) -> bool:
    return node.target is aten.transpose.int and set(node.args[1:]) == {1, 2}
