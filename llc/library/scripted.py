"""A traced function as TorchScript's interpreter runs it: all its operations in one call.

Called from Python one by one, small operations cost more, and take and release the
interpreter's lock each time: two threads with a stack of chains each then wait for one another
most of the time. Inside TorchScript nobody asks for the lock.
"""

from collections.abc import Callable, Sequence
from operator import getitem
from typing import Any

import torch
from torch.fx import GraphModule, Node

FORMATS = {  # as TorchScript counts them
    torch.contiguous_format: 0,
    torch.preserve_format: 1,
    torch.channels_last: 2,
    torch.channels_last_3d: 3,
}
A_TENSOR = torch._C.TensorType.get()


def scripted(module: GraphModule) -> Callable[..., Any]:
    """`module`, of aten's operations, as one function; an input named `scale` is a number.

    Built operation by operation, since each is known down to its overload: nothing is traced or
    parsed again.
    Raises: RuntimeError, TypeError or KeyError for what TorchScript does not have.
    """
    script = _Script(module)
    for node in module.graph.nodes:
        script.add(node)
    script.graph.lint()
    function: Callable[..., Any] = torch._C._create_function_from_graph("replay", script.graph)
    return function


WALK = """
def walk(
    flats: List[Tensor],
    inputs: List[Tensor],
    batches: List[Tensor],
    outs: List[Tensor],
    keep: List[float],
    scale: float,
) -> Tensor:
    values: List[Tensor] = []
    for k in range(len(flats) - 1):
        for factor in keep:
            flats[k + 1].add_(flats[k], alpha=factor)
        values.append(replay({arguments}, scale))
    return torch.stack(values)
"""


def walking(replay: Callable[..., Any], inputs: int, batches: int, outs: int) -> Callable[..., Any]:
    """Step after step in one call, for a `replay` (*inputs, *batches, *outs, scale) -> v.

    Returns: (flats, inputs, batches, outs, keep, scale) -> the v of every step: of K + 1 positions
    the buffers, of K steps the replay's tensors one step after another, and each step's factors k.
    Step by step, buffer t + 1 ← buffer t + 1 + Σ k·(buffer t), before the replay.
    """
    each = (("inputs", inputs), ("batches", batches), ("outs", outs))
    arguments = (f"{name}[{count} * k + {i}]" for name, count in each for i in range(count))
    unit = torch.jit.CompilationUnit(WALK.format(arguments=", ".join(arguments)))
    function: Callable[..., Any] = unit.walk
    return function


class _Script:
    """The graph so far, and what stands for each node's result in it."""

    def __init__(self, module: GraphModule) -> None:
        self.module = module
        self.graph: Any = torch._C.Graph()  # PyTorch's stubs leave most of it out
        self.values: dict[Node, Any] = {}

    def add(self, node: Node) -> None:
        if node.op == "placeholder":
            value = self.graph.addInput(node.name)
            value.setType(torch._C.FloatType.get() if node.name == "scale" else A_TENSOR)
            self.values[node] = value
        elif node.op == "get_attr":
            self.values[node] = self.graph.insertConstant(getattr(self.module, str(node.target)))
        elif node.op == "output":
            self._output(node.args[0])
        elif node.target is getitem:
            self.values[node] = self._part(*node.args)
        else:
            self.values[node] = self._call(node)

    def _output(self, result: Any) -> None:
        several = isinstance(result, list | tuple)
        value = self._tensors(result, optional=False) if several else self.values[result]
        self.graph.registerOutput(value)

    def _part(self, source: Any, index: Any) -> Any:
        """Of an operation with several results, or one that returns a list."""
        several = self.values[source]
        if isinstance(several, list):
            return several[index]
        return self._insert("aten::__getitem__", [several, self.graph.insertConstant(index)])[0]

    def _call(self, node: Node) -> Any:
        operation = node.target
        if not isinstance(operation, torch._ops.OpOverload):
            raise TypeError(f"{operation}: is no operation of aten's")
        schema = operation._schema
        numbers = "Scalar" in operation.overloadpacket.overloads()  # which that is then taken for
        given = dict(zip((one.name for one in schema.arguments), node.args, strict=False))
        given |= node.kwargs
        arguments = [
            self._argument(given.get(one.name, one.default_value), str(one.type), numbers)
            for one in schema.arguments
        ]
        results = self._insert(schema.name, arguments, [one.type for one in schema.returns])
        return results[0] if len(results) == 1 else results

    def _argument(self, value: Any, kind: str, numbers: bool = True) -> Any:
        if isinstance(value, Node):
            return self.values[value]
        if kind == "Tensor" and not numbers:
            exact = torch.float64 if isinstance(value, float) else None
            value = torch.tensor(value, dtype=exact)
        if isinstance(value, list | tuple):
            if "Tensor" in kind:
                return self._tensors(value, optional="Optional" in kind)
            if not value:
                return self._insert("prim::ListConstruct", [], [torch._C.ListType.ofInts()])[0]
            value = list(value)
        if isinstance(value, torch.memory_format):
            value = FORMATS[value]
        return self.graph.insertConstant(float(value) if kind == "float" else value)

    def _tensors(self, values: Sequence[Any], *, optional: bool) -> Any:
        kind: Any = torch._C.OptionalType(A_TENSOR) if optional else A_TENSOR
        parts = [self._argument(value, "Tensor") for value in values]
        return self._insert("prim::ListConstruct", parts, [torch._C.ListType(kind)])[0]

    def _insert(self, name: str, arguments: list[Any], kinds: Sequence[Any] = (A_TENSOR,)) -> Any:
        node = self.graph.create(name, arguments, len(kinds))
        self.graph.insertNode(node)
        if name.startswith("aten::") and node.schema() == "(no schema)":
            raise TypeError(f"{name}: not for such arguments")
        for value, kind in zip(node.outputs(), kinds, strict=True):
            value.setType(kind)
        return list(node.outputs())
