"""Which coordinates of a model are sampled: λ̂ of a part of it.

The others are constants of the loss, so that they get neither drift nor noise, whatever the
sampler, and neither γ nor a distance counts them.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from llc.library.words import first_line

Free = dict[str, Tensor | None]  # leaf -> flat indices (k,) of its free entries; None: all of them


def select_free(model: nn.Module, params: Any) -> Free:
    """The free coordinates of `model`, by the names of `named_parameters()`, in their order.

    params: None, all that require gradients; a name, glob pattern or submodule, or several of
    them; or a mapping from such names to masks (a boolean tensor of the parameter's shape) or
    whatever indexes the parameter (a slice, a tuple of slices, a tensor of indices).
    Raises: TypeError for anything else; ValueError where a name matches nothing, a mask does not
        fit, or nothing is left to sample.
    """
    leaves = dict(model.named_parameters())
    if not leaves:
        raise ValueError("model: has no parameters, so that λ̂ is 0: give another")
    trainable = [name for name, leaf in leaves.items() if leaf.requires_grad]
    if not trainable:
        raise ValueError("model: no parameter has requires_grad=True: nothing to sample")
    if params is None:
        return dict.fromkeys(trainable)
    chosen: dict[str, Tensor] = {}
    for key, index in _entries(params):
        for name in _matches(model, key, trainable):
            mask = chosen.setdefault(name, torch.zeros(leaves[name].shape, dtype=torch.bool))
            _mark(mask, index, name)
    if not chosen:
        raise ValueError("params: is empty: leave it out to sample all parameters")
    return {
        name: None if bool(chosen[name].all()) else chosen[name].flatten().nonzero().squeeze(1)
        for name in trainable
        if name in chosen
    }


def _entries(params: Any) -> Iterable[tuple[Any, Any]]:
    """What is selected, and which of its entries (None: all)."""
    if isinstance(params, Mapping):
        return list(params.items())
    several = isinstance(params, Iterable) and not isinstance(params, str | nn.Module | Tensor)
    return [(one, None) for one in (params if several else [params])]


def _matches(model: nn.Module, key: Any, trainable: list[str]) -> list[str]:
    """The parameters that a name, pattern or submodule stands for, but those held fixed."""
    if isinstance(key, nn.Module):
        found = _of_module(model, key)
    elif isinstance(key, str):
        found = _of_name(model, key)
    else:
        raise TypeError(
            f"params: {type(key).__name__} object: must be a name, a pattern, a submodule of the "
            "model, several of them, or a dict from them to masks or indices"
        )
    free = [name for name in trainable if name in found]
    if not free:
        raise ValueError(
            f"params: {_shown(key)} has requires_grad=False: set it to sample these parameters"
        )
    return free


def _of_module(model: nn.Module, part: nn.Module) -> set[str]:
    own = {id(leaf) for leaf in part.parameters()}
    found = {name for name, leaf in model.named_parameters() if id(leaf) in own}
    if not found or all(part is not other for other in model.modules()):
        raise ValueError(
            f"params: {_shown(part)} is not a part of the model with parameters: give one of "
            "model.named_modules()"
        )
    return found


def _of_name(model: nn.Module, pattern: str) -> set[str]:
    """By any of a tied parameter's names, or the name of a submodule."""
    first = {id(leaf): name for name, leaf in model.named_parameters()}
    every = dict(model.named_parameters(remove_duplicate=False))
    found = {
        first[id(leaf)]
        for name, leaf in every.items()
        if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
    }
    if not found:
        modules = [name for name, part in model.named_modules() if name]
        near = get_close_matches(pattern, [*every, *modules], n=3) or list(every)[:3]
        raise ValueError(
            f"params: {pattern!r} matches no parameter: did you mean "
            f"{' or '.join(map(repr, near))}? (* stands for anything)"
        )
    return found


def _mark(mask: Tensor, index: Any, name: str) -> None:
    """mask ← True at `index`, in place."""
    if index is None:
        mask.fill_(True)
    elif isinstance(index, Tensor) and index.dtype == torch.bool:
        if index.shape != mask.shape:
            raise ValueError(
                f"params: the mask of {name!r} is {tuple(index.shape)}: must be {tuple(mask.shape)}"
            )
        mask |= index.cpu()
    else:
        try:
            mask[index.cpu() if isinstance(index, Tensor) else index] = True
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            shown = " ".join(repr(index).split())  # a tensor's has lines
            raise ValueError(
                f"params: {shown} does not index {name!r}, which is {tuple(mask.shape)}: "
                f"{first_line(error)}"
            ) from None
    if not mask.any():
        raise ValueError(f"params: the mask of {name!r} selects nothing: leave it out")


def _shown(key: Any) -> str:
    return repr(key) if isinstance(key, str) else type(key).__name__
