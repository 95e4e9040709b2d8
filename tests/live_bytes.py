"""How much memory tensors hold at a time, counted as they come and go."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations of this thread make inside, while they live."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.counted = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {one._cdata for one in storages((args, tuple((kwargs or {}).values())))}
        result = function(*args, **(kwargs or {}))
        for storage in storages(result):
            if storage._cdata not in before | self.counted:
                self._count(storage, storage._cdata, storage.nbytes())
        return result

    def _count(self, storage, key, size):
        self.now += size
        self.peak = max(self.peak, self.now)
        self.counted.add(key)

        def gone():
            self.now -= size
            self.counted.discard(key)

        weakref.finalize(storage, gone)


def storages(values):
    """Of all tensors in nested tuples and lists; those on `meta` hold nothing."""
    if isinstance(values, torch.Tensor):
        if values.untyped_storage().device.type != "meta":
            yield values.untyped_storage()
    elif isinstance(values, tuple | list):
        for value in values:
            yield from storages(value)
