"""A function of tensors as the operations that it runs, found once and replayed.

`vmap`, `grad` and autograd work out in Python, at every call, which operations a gradient is made
of. For small models that takes several times as long as the operations themselves. A trace keeps
the list, simplified.
"""

from collections.abc import Callable, Sequence
from threading import Lock

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from llc.library.compiling import Compiling
from llc.library.simplify import simplify

Flat = Callable[..., Sequence[Tensor]]  # tensors in, tensors out
Adding = Callable[[Sequence[Tensor], Sequence[Tensor], float], Tensor]

_tracing = Lock()  # the tracer swaps parts of torch.nn while it works


def adding(
    function: Flat, examples: Sequence[Tensor], compiling: Compiling | None = None
) -> Adding:
    """(inputs, out, scale) -> v with outᵢ ← outᵢ + scale·gᵢ, where function(*inputs) is (*g, v).

    For inputs like `examples`: of the same shapes and types, on the same device, none of which
    needs a gradient. What the function reads besides is taken for constant. A function that cannot
    be traced runs as it is. compiling: of the trace, where there is one.
    """
    try:
        with _tracing:
            module = traced(function, examples)
        if compiling:
            return _as_it_is(compiling(module))
        _add_outputs(module, pure=simplify(module))
    except Exception:  # the tracer follows less than the transforms of torch.func do
        return _as_it_is(compiling(function) if compiling else function)
    run = module.forward

    def replay(inputs: Sequence[Tensor], out: Sequence[Tensor], scale: float) -> Tensor:
        value: Tensor = run(*inputs, *out, scale)
        return value

    return replay


def _as_it_is(function: Flat) -> Adding:

    def run(inputs: Sequence[Tensor], out: Sequence[Tensor], scale: float) -> Tensor:
        *gradients, value = function(*inputs)
        torch._foreach_add_(list(out), gradients, alpha=scale)
        return value

    return run


def traced(function: Flat, examples: Sequence[Tensor]) -> GraphModule:
    """The operations that `function` runs, those that write in place replaced where possible."""
    return make_fx(functionalize(function, remove="mutations"))(*examples)


def _add_outputs(module: GraphModule, *, pure: bool) -> None:
    """(*inputs) -> [*g, v] becomes (*inputs, *out, scale) -> v: each g goes where it is wanted.

    As soon as it is known, so that it can be forgotten; at the end where it may yet be written to.
    """
    graph = module.graph
    result = next(node for node in graph.nodes if node.op == "output")
    *gradients, value = result.args[0]
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last):
        scale = graph.placeholder("scale")
    for index, gradient in enumerate(gradients):
        with graph.inserting_before(scale):
            out = graph.placeholder(f"out{index}")
        product = pure and gradient.target is torch.bmm and list(gradient.users) == [result]
        soon = graph.inserting_after(max(gradient, scale))
        with soon if pure else graph.inserting_before(result):
            if product:
                graph.call_function(torch.Tensor.baddbmm_, (out, *gradient.args), {"alpha": scale})
            else:
                graph.call_function(torch.Tensor.add_, (out, gradient), {"alpha": scale})
    result.args = (value,)
    for gradient in dict.fromkeys(gradients):  # two leaves may have the same
        if not gradient.users:
            graph.erase_node(gradient)
    graph.lint()
    module.recompile()
