"""Chains of products in a cheaper order: (A B) C is A (B C).

Without a bias or an activation in between (deep linear networks, low-rank adapters), a gradient
takes every example through every matrix, forth and back. Multiplying the matrices by one another
first, and the examples by the residuals once for all layers, takes fewer multiplications.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten
PRECISE = {torch.float32, torch.float64}  # others might overflow in another order


class Factor(NamedTuple):
    """A stack of matrices in a graph, or their transposes."""

    node: Node
    turned: bool

    def transposed(self) -> "Factor":
        return Factor(self.node, not self.turned)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.node.meta["tensor_meta"].shape[1:]
        return (columns, rows) if self.turned else (rows, columns)


def reassociate(graph: Graph) -> None:
    """Every order that takes fewer multiplications, and no more products than there are."""
    while any(_improve(node) for node in graph.nodes if _is_product(node)):
        graph.eliminate_dead_code()


def _improve(node: Node) -> bool:
    """(U V) W as U (V W), where that is cheaper, or the same of the transposes; whether it was."""
    left, right = map(_factor, node.args)
    turned = right.transposed(), left.transposed()
    for product, other in ((left, right), turned):
        if not _is_product(product.node):
            continue
        one, two = _parts(product)
        known, goes = _known(node, two, other), _is_used_once(product.node)
        before = _cost(product.shape, other.shape) + goes * _cost(one.shape, two.shape)
        after = _cost(one.shape, (two.shape[0], other.shape[1]))
        after += 0 if known else _cost(two.shape, other.shape)
        if (known or goes) and after < before:
            part = known or _multiplied(two, other)
            again = (part.transposed(), one.transposed()) if other is turned[1] else (one, part)
            node.replace_all_uses_with(_multiplied(*again).node)
            return True
    return False


def _cost(left: tuple[int, int], right: tuple[int, int]) -> int:
    """Multiplications of a product, for each of the stack."""
    return left[0] * left[1] * right[1]


def _is_product(node: Node) -> bool:
    return node.target is aten.bmm.default and node.meta["tensor_meta"].dtype in PRECISE


def _is_transpose(node: Node) -> bool:
    return node.target is aten.transpose.int and set(node.args[1:]) == {1, 2}


def _factor(matrices: Any) -> Factor:
    turned = False
    while _is_transpose(matrices):
        matrices, turned = matrices.args[0], not turned
    return Factor(matrices, turned)


def _parts(product: Factor) -> tuple[Factor, Factor]:
    """U and V of U V, or of its transpose."""
    left, right = map(_factor, product.node.args)
    return (right.transposed(), left.transposed()) if product.turned else (left, right)


def _is_used_once(node: Node) -> bool:
    """Counting the uses of its transposes as its own."""
    users = list(node.users)
    while len(users) == 1 and _is_transpose(users[0]):
        users = list(users[0].users)
    return len(users) == 1


def _known(before: Node, left: Factor, right: Factor) -> Factor | None:
    """Their product, or its transpose, where the graph has it already."""
    for node in left.node.graph.nodes:
        if node is before:
            return None
        if _is_product(node):
            for product in (Factor(node, False), Factor(node, True)):
                if _parts(product) == (left, right):
                    return product
    return None


def _multiplied(left: Factor, right: Factor) -> Factor:
    """Their product, as soon as both are there."""
    graph = left.node.graph
    placed = [_placed(factor) for factor in (left, right)]
    with graph.inserting_after(_later(placed)):
        node = graph.call_function(aten.bmm.default, tuple(placed))
    _describe(node, left.node, (left.shape[0], right.shape[1]))
    return Factor(node, False)


def _placed(factor: Factor) -> Node:
    """The node itself, or its transpose."""
    if not factor.turned:
        return factor.node
    with factor.node.graph.inserting_after(_later([factor.node])):
        node = factor.node.graph.call_function(aten.transpose.int, (factor.node, 1, 2))
    _describe(node, factor.node, factor.shape)
    stride = factor.node.meta["tensor_meta"].stride
    node.meta["tensor_meta"] = node.meta["tensor_meta"]._replace(
        stride=(stride[0], stride[2], stride[1])
    )
    return node


def _later(nodes: Sequence[Node]) -> Node:
    """The last of them, or of the inputs, which come first in a graph."""
    inputs = (node for node in nodes[0].graph.nodes if node.op == "placeholder")
    last: Node = max(*nodes, *inputs)
    return last


def _describe(node: Node, like: Node, shape: tuple[int, int]) -> None:
    """What is noted of every node, for a stack of matrices row by row in memory."""
    about, (rows, columns) = like.meta["tensor_meta"], shape
    stack = torch.Size((about.shape[0], rows, columns))
    node.meta.update(like.meta)
    node.meta["tensor_meta"] = about._replace(shape=stack, stride=(rows * columns, columns, 1))
