"""Fewer operations for the same numbers: a traced gradient without what changes nothing.

Views of the same shape, factors of one, transposes of transposes are left out; what depends on no
input is computed beforehand; a product and what is added to it become one operation.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from llc.library.layout import flip_products
from llc.library.reassociate import reassociate

aten = torch.ops.aten
SAME_NUMBERS = {
    aten.expand.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.detach.default,
    aten.alias.default,
}
VIEWS = {
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.view.default,
    aten._unsafe_view.default,
    aten.expand.default,
}
FACTOR = {aten.mul.Scalar, aten.mul.Tensor}
UNIT_FACTOR = FACTOR | {aten.div.Scalar, aten.div.Tensor, aten.pow.Tensor_Scalar}
SMALL = 2**16  # numbers of a constant that is worth keeping
FILLED = {aten.ones_like.default: torch.ones, aten.zeros_like.default: torch.zeros}


def simplify(module: GraphModule, examples: Sequence[Tensor]) -> bool:
    """Fewer operations for the same numbers, to rounding; returns whether all of them are pure.

    Nothing is left out where one writes to its inputs: then what is the same depends on when.
    examples: inputs to run it on.
    """
    graph = module.graph
    pure = not any(_operation(node)._schema.is_mutable for node in _calls(graph))
    if pure:
        for node in _calls(graph):
            same = _unchanged(node)
            if same is not None:
                node.replace_all_uses_with(same)
        graph.eliminate_dead_code()
        _fold_constants(module)
        for rewrite in REWRITES:
            for node in _calls(graph):
                rewrite(node)
            graph.eliminate_dead_code()
        reassociate(graph)
        flip_products(module, examples)
        for node in _calls(module.graph):
            _number_as_tensor(node, examples[0].device)
        module.graph.eliminate_dead_code()
    module.recompile()
    return pure


def _calls(graph: Graph) -> list[Node]:
    """The nodes that run an operation, in order."""
    return [
        node
        for node in graph.nodes
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)
    ]


def _operation(node: Node) -> torch._ops.OpOverload[..., Any]:
    assert isinstance(node.target, torch._ops.OpOverload)
    return node.target


def _unchanged(node: Node) -> Node | None:
    """The node whose numbers, in the same places, are those of `node`; None: it changes some."""
    source, *rest = node.args
    if not isinstance(source, Node):
        return None
    if node.target is aten.transpose.int and source.target is aten.transpose.int:
        first = source.args[0]
        assert isinstance(first, Node)
        return first if sorted(rest) == sorted(source.args[1:]) else None  # type: ignore[type-var]
    unit = node.target in UNIT_FACTOR and rest[0] == 1
    return source if (unit or node.target in SAME_NUMBERS) and _like(node, source) else None


def _like(node: Node, other: Node) -> bool:
    """Whether two nodes have the same shape, strides and type."""
    one, two = node.meta.get("tensor_meta"), other.meta.get("tensor_meta")
    if one is None or two is None:
        return False
    return bool((one.shape, one.stride, one.dtype) == (two.shape, two.stride, two.dtype))


def _same_type(node: Node, other: Node) -> bool:
    one, two = node.meta.get("tensor_meta"), other.meta.get("tensor_meta")
    return one is not None and two is not None and one.dtype == two.dtype


def _shape(node: Node) -> list[int] | None:
    about = node.meta.get("tensor_meta")
    return None if about is None else list(about.shape)


def _replace(node: Node, target: Any, *args: Any) -> None:
    """Another operation with the same result."""
    with node.graph.inserting_before(node):
        other = node.graph.call_function(target, args)
    other.meta.update(node.meta)
    node.replace_all_uses_with(other)


def _fold_constants(module: GraphModule) -> None:
    """Compute now what depends on no input, or on the shape of one alone."""
    graph, known = module.graph, dict[Node, Any]()
    for node in list(graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(module, str(node.target))
    for node in _calls(graph):
        about = node.meta.get("tensor_meta")
        if about is None:
            continue
        if about.shape.numel() > SMALL:
            continue  # it would be in memory all the time
        if node.target in FILLED:
            device = node.meta["val"].device
            value = FILLED[node.target](about.shape, dtype=about.dtype, device=device)
        elif all(source in known for source in node.all_input_nodes):
            args: Any = map_arg(node.args, known.__getitem__)
            kwargs: Any = map_arg(node.kwargs, known.__getitem__)
            value = _operation(node)(*args, **kwargs)
        else:
            continue
        name = f"_folded{len(known)}"
        module.register_buffer(name, value)
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        constant.meta.update(node.meta)
        known[constant] = value
        node.replace_all_uses_with(constant)
    graph.eliminate_dead_code()


def _add_into_product(node: Node) -> None:
    """a + B C as one operation, where B C is wanted for nothing else (a layer's bias)."""
    if node.target is not aten.add.Tensor or node.kwargs:
        return
    for base, product in (node.args, node.args[::-1]):
        if not isinstance(base, Node) or not isinstance(product, Node):
            continue
        fits = (
            product.target is aten.bmm.default and _like(node, product) and _same_type(base, node)
        )
        if fits and len(product.users) == 1:
            _replace(node, aten.baddbmm.default, base, *product.args)
            return


def _sum_without_axis(node: Node) -> None:
    """A sum that keeps its axes, to have them dropped (a bias's gradient), drops them itself."""
    source = node.args[0]
    if node.target is not aten.view.default or not isinstance(source, Node):
        return
    if source.target is not aten.sum.dim_IntList or source.args[2:] != (True,) or source.kwargs:
        return
    summed, axes = source.args[:2]
    shape = _shape(summed) if isinstance(summed, Node) else None
    if shape is not None and isinstance(axes, list):
        dropped = {axis % len(shape) for axis in axes}
        if _shape(node) == [size for axis, size in enumerate(shape) if axis not in dropped]:
            _replace(node, aten.sum.dim_IntList, summed, axes)


def _view_with_axis(node: Node) -> None:
    """A view with one more axis, of one entry."""
    source = node.args[0]
    if node.target is not aten.view.default or not isinstance(source, Node):
        return
    before, after = _shape(source), _shape(node)
    if before is None or after is None or len(after) != len(before) + 1:
        return
    axis = next((i for i in range(len(after)) if after[:i] + after[i + 1 :] == before), None)
    if axis is not None and after[axis] == 1:
        _replace(node, aten.unsqueeze.default, source, axis)


def _one_factor(node: Node) -> None:
    """c (s x) of a number s and a constant c as (c s) x; of a constant that is one number, too."""
    if node.target is not aten.mul.Tensor:
        return
    for constant, product in (node.args, node.args[::-1]):
        if not isinstance(constant, Node) or not isinstance(product, Node):
            continue
        if constant.op != "get_attr" or not _like(node, product):
            continue
        module = node.graph.owning_module
        assert module is not None
        values, factor = getattr(module, str(constant.target)), 1.0
        if values.dtype != node.meta["tensor_meta"].dtype or not values.is_floating_point():
            continue  # c s would be computed in c's own precision
        if product.target in FACTOR and isinstance(product.args[1], int | float):
            factor, product = product.args[1], product.args[0]
        assert isinstance(product, Node)
        if bool((values == values.flatten()[0]).all()):
            _replace(node, aten.mul.Scalar, product, factor * float(values.flatten()[0]))
        elif factor != 1:
            name = f"_scaled_{node.name}"
            module.register_buffer(name, values * factor)
            with node.graph.inserting_before(node):
                scaled = node.graph.get_attr(name)
            scaled.meta.update(constant.meta)
            _replace(node, aten.mul.Tensor, scaled, product)
        return


def _sum_of_mean(node: Node) -> None:
    """The sum of means along the last axis as one sum, divided."""
    source: Any = node.args[0]
    if node.target is not aten.sum.dim_IntList or source.target is not aten.mean.dim:
        return
    plain = len(source.args) == len(node.args) == 2 and not source.kwargs and not node.kwargs
    values, axes = source.args[:2]
    outer: Any = node.args[1]
    shape = _shape(values)
    if not plain or not outer or shape is None:  # no axes: all of them
        return
    last = len(shape) - 1
    if [axis % len(shape) for axis in axes] == [last]:
        both = [*(axis % last for axis in outer), last]
        with node.graph.inserting_before(node):
            total = node.graph.call_function(aten.sum.dim_IntList, (values, both))
        total.meta.update(node.meta)
        _replace(node, aten.mul.Scalar, total, 1 / shape[-1])


def _number_as_tensor(node: Node, device: torch.device) -> None:
    """A factor held as a tensor without axes, which PyTorch would make of the number every time."""
    values, *factor = node.args
    if node.target is not aten.mul.Scalar or not isinstance(values, Node):
        return
    about, module = node.meta["tensor_meta"], node.graph.owning_module
    # In half precision PyTorch multiplies by the number as it is, and not rounded.
    if about.dtype in (torch.float32, torch.float64) and _same_type(values, node):
        assert module is not None
        name = f"_number_{node.name}"
        module.register_buffer(name, torch.tensor(factor[0], dtype=about.dtype, device=device))
        with node.graph.inserting_before(node):
            _replace(node, aten.mul.Tensor, values, node.graph.get_attr(name))


REWRITES = (_add_into_product, _sum_without_axis, _view_with_axis, _one_factor, _sum_of_mean)
