"""A gradient as the operations that it runs, found once and replayed.

`vmap`, `grad` and autograd work out in Python, at every call, which operations a gradient is made
of. For small models that takes several times as long as the operations themselves. A trace keeps
the list, simplified.
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from llc.library.compiling import Compiling
from llc.library.replay import Adding, Flat, Replay, adding
from llc.library.scripted import scripted, walking
from llc.library.simplify import VIEWS, simplify

aten = torch.ops.aten

FEW = 2**20  # numbers in the stack: with more, Python's share of an operation does not count

_tracing = Lock()  # the tracer swaps parts of torch.nn while it works


def replaying(
    function: Flat,
    leaves: Sequence[Tensor],
    examples: Sequence[Tensor],
    compiling: Compiling | None = None,
) -> Adding | None:
    """What `adding` gives, traced, or compiled from the trace; None where it cannot be.

    For leaves w and other inputs x like `leaves` and `examples`: of the same shapes and types, on
    the same device, none of which needs a gradient. What the function reads besides is taken for
    constant.
    """
    inputs = [*leaves, *examples]
    try:
        with _tracing:
            module = traced(function, inputs)
        if _has_sizes_of_its_own(module):
            return None
        if compiling:
            return adding(module, compiling)
        pure = simplify(module, inputs)
        _add_outputs(module, pure=pure)
        views = _views_of_leaves(module, len(leaves)) if pure else None
    except Exception:  # the tracer follows less than the transforms of torch.func do
        return None
    first = views(*leaves) if views else leaves
    run = _in_one_call(module, [*first, *examples], leaves)
    if run is None:
        return Replay(module.forward, views)
    return Replay(run, views, walking(run, len(first), len(examples), len(leaves)))


@torch.no_grad()
def _in_one_call(
    module: GraphModule, first: Sequence[Tensor], leaves: Sequence[Tensor]
) -> Callable[..., Any] | None:
    """A trace in TorchScript; None where Python is as fast, or where it does not do the same.

    first: inputs to try both on, outputs like the `leaves` besides.
    """
    if sum(leaf.numel() for leaf in leaves) > FEW:
        return None
    try:
        function, results = scripted(module), []
        for run in (module.forward, function):
            out = [torch.zeros_like(leaf) for leaf in leaves]
            results.append([*out, run(*first, *out, 1.0)])
    except (RuntimeError, TypeError, KeyError):  # not all of its operations are in TorchScript
        return None
    return function if all(map(_close, *results)) else None


def _close(one: Tensor, other: Tensor) -> bool:
    """The same operations on the same numbers; not to the bit where sums have no fixed order."""
    scale = one.abs().max().item() if one.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-2, atol=1e-2 * scale, equal_nan=True)


def traced(function: Flat, inputs: Sequence[Tensor]) -> GraphModule:
    """The operations that `function` runs, those that write in place replaced where possible."""
    return make_fx(functionalize(function, remove="mutations"))(*inputs)


def _has_sizes_of_its_own(module: GraphModule) -> bool:
    """Whether shapes depend on numbers (`nonzero`, a mask as an index): a trace has the first's."""
    for node in module.graph.nodes:
        if torch.Tag.dynamic_output_shape in getattr(node.target, "tags", ()):
            if node.target is not torch.ops.aten.index.Tensor:
                return True
            if any(one is not None and _is_mask(module, one) for one in node.args[1]):
                return True
    return False


def _is_mask(module: GraphModule, index: Node) -> bool:
    """Of what a tensor is indexed by, a constant or a result."""
    about = getattr(module, str(index.target)) if index.op == "get_attr" else None
    dtype = index.meta["tensor_meta"].dtype if about is None else about.dtype
    return dtype in (torch.bool, torch.uint8)


def _add_outputs(module: GraphModule, *, pure: bool) -> None:
    """(*inputs) -> [*g, v] becomes (*inputs, *out, scale) -> v: each g goes where it is wanted.

    As soon as it is known, so that it can be forgotten; at the end where it may yet be written to.
    """
    graph = module.graph
    result = next(node for node in graph.nodes if node.op == "output")
    *gradients, value = result.args[0]
    last = _placeholders(graph)[-1]
    with graph.inserting_after(last):
        scale = graph.placeholder("scale")
    for index, gradient in enumerate(gradients):
        with graph.inserting_before(scale):
            out = graph.placeholder(f"out{index}")
        product = pure and gradient.target is aten.bmm.default and list(gradient.users) == [result]
        soon = graph.inserting_after(max(gradient, scale))
        with soon if pure else graph.inserting_before(result):
            if product:
                factors = (out, *gradient.args)
                graph.call_function(aten.baddbmm_.default, factors, {"alpha": scale})
            else:
                graph.call_function(aten.add_.Tensor, (out, gradient), {"alpha": scale})
    result.args = (value,)
    for gradient in dict.fromkeys(gradients):  # two leaves may have the same
        if not gradient.users:
            graph.erase_node(gradient)
    graph.lint()
    module.recompile()


def _views_of_leaves(module: GraphModule, count: int) -> Callable[..., Sequence[Tensor]] | None:
    """Views of the first `count` inputs become inputs, after them.

    Returns: what makes these inputs, leaves and views, of the leaves; None where there are none.
    """
    graph, made = module.graph, Graph()
    leaves = _placeholders(graph)[:count]
    known: dict[Node, Node] = {leaf: made.placeholder(leaf.name) for leaf in leaves}
    for node in list(graph.nodes):
        if node.target not in VIEWS or not all(one in known for one in node.all_input_nodes):
            continue
        known[node] = made.node_copy(node, known.__getitem__)
        with graph.inserting_after(list(known)[-2]):  # the last input that is a leaf or a view
            place = graph.placeholder(f"view{len(known)}")
        known[place] = known.pop(node)
        node.replace_all_uses_with(place)
        graph.erase_node(node)
    if len(known) == count:
        return None
    made.output(tuple(known.values()))
    graph.lint()
    module.recompile()
    return GraphModule(torch.nn.Module(), made).forward


def _placeholders(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]
