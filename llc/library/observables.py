"""Named data sets whose losses, one by one, are recorded along the chains."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from llc.library.data import Examples, Source, Unpack, read
from llc.library.losses import Each, Loss
from llc.library.stacked import LibraryLoss
from llc.library.tokens import IGNORED
from llc.library.words import first_line
from llc.params import Params, to


class Observables:
    """ℓ_i(w) of every example (or token) of several data sets, by name.

    It runs the model as the chains do, on whichever of the `devices` a stack is, with a copy of the
    model of its own; nothing of it is random and nothing is written to the chains.
    """

    def __init__(
        self,
        loss: LibraryLoss,
        sets: Mapping[str, Examples],
        each: Loss,
        devices: Sequence[torch.device],
    ) -> None:
        like = next(iter(loss.centre.values()))
        self.centre, self.dtype = loss.centre, like.dtype
        objective = Each(each)
        self.losses: dict[torch.device, dict[str, LibraryLoss]] = {}
        for device in devices:
            first = next(iter(sets.values())).to(like.device, like.dtype)
            own = LibraryLoss(loss.network, first, objective, loss.at_once, loss.engine).to(device)
            self.losses[device] = {
                name: own.on(data.to(device, like.dtype)) for name, data in sets.items()
            }
        self.shapes = {name: self._shape(name) for name in sets}

    def __call__(self, weights: Params) -> Tensor:
        """(C, M) all losses of the stack `weights` (C, *shape), the sets one after another."""
        device = next(iter(weights.values())).device
        here = to(weights, device, self.dtype)
        return torch.cat([one.losses(here).flatten(1) for one in self.losses[device].values()], 1)

    def _shape(self, name: str) -> tuple[int, ...]:
        """(n,) or (n, T), all of it having been computed at w*.

        Raises: ValueError where the model fails on the set, or a loss is not finite.
        """
        loss = next(iter(self.losses.values()))[name]
        try:
            values = loss.losses(self.centre)[0]
        except Exception as error:
            reason = first_line(error)
            raise ValueError(f"observables[{name!r}]: model or loss fail on it: {reason}") from None
        targets = next(loss.data.parts(loss.data.number)).targets
        bad = (~values.isfinite() & ~_masked(values, targets)).nonzero()
        if len(bad):
            where = " token ".join(str(int(index)) for index in bad[0])
            raise ValueError(
                f"observables[{name!r}]: the loss is {float(values[tuple(bad[0])])} at w* at "
                f"example {where}: look at the data"
            )
        return tuple(values.shape)


def read_observables(
    observables: Any, unpack: Unpack | None, takes_mask: bool, seed: int, like: Source
) -> dict[str, Examples]:
    """The data sets of `observables`, read as the data themselves (`llc.library.data.read`).

    None: there are none.
    Raises: TypeError unless it is a mapping from names; ValueError for a set that is empty or of
        another structure than `like`.
    """
    if observables is None:
        return {}
    if not isinstance(observables, Mapping):
        raise TypeError(
            f"observables={type(observables).__name__} object: must be a dict from names to data"
        )
    sets = {}
    for name, data in observables.items():
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"observables: the name {name!r} must be a word, without '/'")
        where = f"observables[{name!r}]"
        try:
            source = read(data, unpack, takes_mask, seed, least=1)
        except (TypeError, ValueError) as error:
            words = str(error)
            own = words.removeprefix("data") if words.startswith("data") else f": {words}"
            raise type(error)(where + own) from None
        if source.tokens != like.tokens or _structure(source) != _structure(like):
            raise ValueError(
                f"{where}: is of another structure than data: one example is "
                f"{_words(source)} there, and {_words(like)} in data"
            )
        assert isinstance(source.examples, Examples)
        sets[name] = source.examples
    return sets


def split(observed: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """(C, T, M) -> for each name (C, T, *shape)."""
    parts = torch.split(observed, [prod(shape) for shape in shapes.values()], -1)
    return {
        name: part.reshape(*part.shape[:-1], *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _masked(values: Tensor, targets: Any) -> Tensor:
    """Where there is nothing to predict: labels of −100, one for each token but the first."""
    nothing = torch.zeros_like(values, dtype=torch.bool)
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        return nothing
    if values.dim() < 2 or targets.dim() < 2:
        return nothing
    labels = targets.flatten(1)
    if labels.shape[1] - values.shape[1] not in (0, 1):
        return nothing
    return labels[:, -values.shape[1] :] == IGNORED


def _structure(source: Source) -> dict[str, tuple[Any, ...]]:
    """What has to agree: names, axes, and which numbers are whole; sizes may differ."""
    return {
        name: (leaf.dim(), leaf.is_floating_point()) for name, leaf in _one_example(source).items()
    }


def _one_example(source: Source) -> dict[str, Tensor]:
    """Its tensors by their place: inputs, inputs[0], inputs['x'], targets, …"""
    leaves = tree_flatten_with_path(next(source.examples.parts(1)))[0]
    return {keystr(path).lstrip("."): leaf for path, leaf in leaves}


def _words(source: Source) -> str:
    if source.tokens:
        return "a sequence of input_ids"
    kinds = [
        f"{name} {tuple(leaf.shape[1:])} {leaf.dtype}"
        for name, leaf in _one_example(source).items()
    ]
    return " and ".join(kinds).replace("torch.", "")
