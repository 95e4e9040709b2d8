"""A function of tensors as the operations that it runs, found once and replayed.

`vmap`, `grad` and autograd work out in Python, at every call, which operations a gradient is made
of. For small models that takes several times as long as the operations themselves. A trace keeps
the list, without what changes nothing (views of the same shape, factors of one, transposes of
transposes) and with what depends on no input computed beforehand.
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

Flat = Callable[..., Sequence[Tensor]]  # tensors in, tensors out

aten = torch.ops.aten
SAME_NUMBERS = {
    aten.expand.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.detach.default,
    aten.alias.default,
}
DIRECT = {  # PyTorch's own binding of an operation: the same, a microsecond sooner
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.mul.Scalar: torch.mul,
    aten.div.Tensor: torch.div,
    aten.pow.Tensor_Scalar: torch.pow,
    aten.neg.default: torch.neg,
    aten.exp.default: torch.exp,
    aten.tanh.default: torch.tanh,
    aten.sigmoid.default: torch.sigmoid,
    aten.relu.default: torch.relu,
    aten.mm.default: torch.mm,
    aten.bmm.default: torch.bmm,
    aten.baddbmm.default: torch.baddbmm,
    aten.sum.dim_IntList: torch.sum,
    aten.mean.dim: torch.mean,
    aten.transpose.int: torch.transpose,
    aten.unsqueeze.default: torch.unsqueeze,
    aten.squeeze.dim: torch.squeeze,
    aten.view.default: torch.Tensor.view,
    aten._unsafe_view.default: torch.Tensor.view,
    aten.expand.default: torch.Tensor.expand,
}
UNIT_FACTOR = {aten.mul.Scalar, aten.div.Scalar, aten.pow.Tensor_Scalar}
FILLED = {aten.ones_like.default: torch.ones, aten.zeros_like.default: torch.zeros}

_tracing = Lock()  # the tracer swaps parts of torch.nn while it works


def trace(function: Flat, examples: Sequence[Tensor]) -> Flat:
    """`function` as it runs on tensors like `examples`: of the same shapes and types, on the same
    device, with gradients disabled.

    What it reads besides its arguments is taken for constant. Raises: whatever PyTorch raises for
    a function that cannot be traced.
    """
    with _tracing:
        module = make_fx(functionalize(function, remove="mutations"))(*examples)
    simplify(module)
    replay: Flat = module.forward
    return replay


def simplify(module: GraphModule) -> None:
    """Fewer operations for the same numbers, to rounding; nothing where one changes its inputs."""
    graph = module.graph
    if any(_operation(node)._schema.is_mutable for node in _calls(graph)):
        return
    for node in _calls(graph):
        same = _unchanged(node)
        if same is not None:
            node.replace_all_uses_with(same)
    graph.eliminate_dead_code()
    _fold_constants(module)
    for node in _calls(graph):
        _add_into_product(node)
    graph.eliminate_dead_code()
    for node in _calls(graph):
        node.target = DIRECT.get(_operation(node), node.target)
    module.recompile()


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
    return None not in (one, two) and (one.shape, one.stride, one.dtype) == (
        two.shape,
        two.stride,
        two.dtype,
    )


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
        if node.target in FILLED:
            device = node.meta["val"].device
            value = FILLED[node.target](about.shape, dtype=about.dtype, device=device)
        elif all(source in known for source in node.all_input_nodes):
            args, kwargs = (map_arg(own, known.__getitem__) for own in (node.args, node.kwargs))
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
        if product.target is aten.bmm.default and len(product.users) == 1 and _like(node, product):
            with node.graph.inserting_before(node):
                fused = node.graph.call_function(aten.baddbmm.default, (base, *product.args))
            fused.meta.update(node.meta)
            node.replace_all_uses_with(fused)
            return
