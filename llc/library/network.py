"""A private copy of a user's model: evaluation mode, no hooks, some coordinates free.

The model itself is read, never written: not its parameters, buffers, gradients, hooks or modes.
"""

from collections import OrderedDict
from copy import deepcopy
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from llc.library.outputs import mapped, same
from llc.library.selection import Free, select_free
from llc.library.words import first_line
from llc.params import Layout, Params, Shapes

HALF = (torch.float16, torch.bfloat16)
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


class Network:
    """The copy, and where its free coordinates lie; `Engine`s run copies of it."""

    def __init__(self, module: nn.Module, free: Free, autocast: torch.dtype | None = None) -> None:
        self.module, self.free, self.autocast = module, free, autocast

    @property
    def shapes(self) -> Shapes:
        """Of the free leaves: a parameter's own, or (k,) where only k of its entries are free."""
        leaves = dict(self.module.named_parameters())
        return {
            name: tuple(leaves[name].shape) if index is None else (len(index),)
            for name, index in self.free.items()
        }

    def centre(self) -> Params:
        """w*: the free coordinates as they are, leaves (1, *shape) of one buffer.

        Parameters that are free as a whole become views of it, so that w* is held once.
        """
        leaves = dict(self.module.named_parameters())
        free = {
            name: gather(leaves[name].detach(), index).unsqueeze(0)
            for name, index in self.free.items()
        }
        centre = Layout(self.shapes, 1).pack(free).leaves
        for name, index in self.free.items():
            if index is None:
                leaves[name].data = centre[name][0]
        return centre

    def to(self, device: torch.device, dtype: torch.dtype) -> "Network":
        """The same network elsewhere, in that precision: see `moved`.

        It is a copy but for parameters that are there already: no engine writes into them, except
        where only some of their entries are free.
        """
        shared = {
            id(leaf): nn.Parameter(leaf.detach(), leaf.requires_grad)
            for name, leaf in self.module.named_parameters()
            if self.free.get(name) is None and type(leaf) is nn.Parameter
        }
        module = moved(deepcopy(self.module, shared), device, dtype)
        free = {name: None if i is None else i.to(device) for name, i in self.free.items()}
        return Network(module, free, self.autocast)

    def call(self, inputs: Any, leaves: Params | None = None) -> Any:
        """The model's outputs on its inputs: a tensor, a tuple of arguments or a dict of them.

        leaves: to run at, instead of the module's own. With `autocast` the model runs in that
        precision where PyTorch deems it safe, and what it returns is float32 again.
        """
        if self.autocast is None:
            return call(self.module, inputs, leaves)
        kind = next(self.module.parameters()).device.type
        # What is cast is never looked up again: the weights change from call to call.
        with torch.autocast(kind, self.autocast, cache_enabled=False):
            outputs = call(self.module, inputs, leaves)
        return mapped(lambda t: t.float() if t.dtype in HALF else t, outputs)


def copied(model: Any, params: Any) -> Network:
    """A network to be sampled in the coordinates that `params` selects (`selection.select_free`).

    Raises: TypeError unless `model` is a module; ValueError for one that cannot be sampled, with
        the reason.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "torch.inference_mode(): is on, and nothing computed in it can have a gradient: call "
            "this outside of it"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={type(model).__name__} object: must be a torch.nn.Module")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        raise ValueError(
            "model: is a torch.jit module, whose copies have no parameters of their own: give the "
            "torch.nn.Module that it was made from"
        )
    for name, leaf in model.named_parameters():
        _check_leaf(name, leaf)
    _check_aliases(model)
    free = select_free(model, params)
    module = _copy(model, with_hooks=False).eval()
    module.zero_grad(set_to_none=True)
    for name, leaf in module.named_parameters():
        leaf.data = leaf.data.contiguous()  # masked entries are written through flat views
        leaf.requires_grad_(name in free)
    return Network(module, free)


def check_hooks(model: nn.Module, network: Network, inputs: Any) -> None:
    """Raise ValueError where forward hooks change what the model computes.

    The copy has none: hooks that only look on would see every step of every chain.
    """
    if not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules()):
        return
    hooked = _copy(getattr(model, "_orig_mod", model), with_hooks=True).eval()
    like = next(one for one in network.module.parameters() if one.is_floating_point())
    moved(hooked, like.device, like.dtype)
    with torch.no_grad():
        unchanged = same(call(network.module, inputs), call(hooked, inputs))
    if not unchanged:
        raise ValueError(
            "model: has forward hooks that change its outputs, and chains run without hooks: "
            "remove them, or move what they compute into forward or a parametrization"
        )


def moved(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """`module` itself on another device, the numbers it computes with in another precision.

    Those are its real parameters, and buffers of the same kind as one of them. What it holds
    besides keeps its kind: complex rotations, a table in float64.
    """
    kinds = {leaf.dtype for leaf in module.parameters() if leaf.is_floating_point()}
    module._apply(  # type: ignore[no-untyped-call]
        lambda t: t.to(device, dtype if t.dtype in kinds else t.dtype)
    )
    return module


def takes(model: nn.Module, name: str) -> bool:
    """Whether the model's forward names an argument."""
    return name in signature(model.forward).parameters


def call(module: nn.Module, inputs: Any, leaves: Params | None = None) -> Any:
    """The outputs of `module`: see `Network.call`."""
    named = inputs if isinstance(inputs, dict) else {}
    several = () if named else tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    if leaves is None:
        return module(*several, **named)
    return functional_call(module, leaves, several, named)


def gather(leaf: Tensor, index: Tensor | None) -> Tensor:
    """The free entries of a leaf (*shape): itself, or (k,)."""
    return leaf if index is None else leaf.flatten().index_select(0, index)


def scatter(base: Tensor, index: Tensor | None, free: Tensor) -> Tensor:
    """The leaf (*shape) that is `free` in its free entries and `base` in the others."""
    if index is None:
        return free
    return base.flatten().index_copy(0, index, free).view(base.shape)


def _copy(model: nn.Module, *, with_hooks: bool) -> nn.Module:
    """A deep copy; hooks are left out with all that they refer to."""
    nothing: dict[int, Any] = {
        id(getattr(part, name)): OrderedDict()
        for part in model.modules()
        for name in HOOKS
        if not with_hooks
    }
    try:
        return deepcopy(model, nothing)
    except Exception as error:
        raise ValueError(
            f"model: cannot be copied ({first_line(error)}): chains run on a deep copy; tensors "
            "kept as attributes must be detached, parameters or buffers"
        ) from error


def _check_leaf(name: str, leaf: Tensor) -> None:
    wrong = None
    if is_lazy(leaf):
        wrong = "is not initialised: run one batch through the model first"
    elif leaf.is_meta:
        wrong = "is on the meta device: load the weights first"
    elif leaf.layout != torch.strided:
        wrong = f"has the layout {leaf.layout}: make it dense"
    elif any(
        stride == 0 and size > 1 for stride, size in zip(leaf.stride(), leaf.shape, strict=True)
    ):
        wrong = "is expanded, several entries being one number: make it contiguous"
    elif leaf.requires_grad and not leaf.is_floating_point():
        wrong = f"is {leaf.dtype}: only real numbers can be sampled"
    elif leaf.is_floating_point() and not bool(leaf.isfinite().all()):
        wrong = "has non-finite entries: λ̂ needs a finite w*"
    if wrong:
        raise ValueError(f"model: parameter {name!r} {wrong}")


def _check_aliases(model: nn.Module) -> None:
    """Raise ValueError where two tensors share memory without being one: a copy would part them."""
    named = [*model.named_parameters(), *model.named_buffers()]
    spans = sorted(
        (leaf.untyped_storage().data_ptr(), *_span(leaf), name)
        for name, leaf in named
        if leaf.layout == torch.strided and leaf.numel()
    )
    for (storage, _, end, one), (other_storage, start, _, other) in pairwise(spans):
        if storage == other_storage and start < end:
            raise ValueError(
                f"model: {one!r} and {other!r} share memory without being the same parameter: tie "
                "them by assigning one Parameter to both, or make them separate"
            )


def _span(leaf: Tensor) -> tuple[int, int]:
    """First and last place (exclusive) of a tensor in its storage, in bytes."""
    last = sum((size - 1) * stride for size, stride in zip(leaf.shape, leaf.stride(), strict=True))
    start = int(leaf.storage_offset()) * leaf.element_size()
    return start, start + (int(last) + 1) * leaf.element_size()
