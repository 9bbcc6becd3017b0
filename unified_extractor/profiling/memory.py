"""Bytes of tensors that a computation holds at once or saves for backward: counted, so they are the same on every machine."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Meter(TorchDispatchMode):
    """A dispatch mode that follows every storage that an operation returns until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def peak_bytes(compute: Callable[[], object], *inputs: Tensor) -> int:
    """Return the largest number of bytes that the tensors of a computation hold at one moment, its result included.

    Args:
        compute: function without arguments; a backward pass that it runs is counted too.
        inputs: tensors that are not counted because they exist before, not even where an operation returns a view of them.

    Memory that a single torch operation allocates and frees inside itself is not seen.
    """
    meter = _Meter()
    for tensor in inputs:
        meter.sizes[tensor.untyped_storage()._cdata] = 0
    with meter:
        compute()
    return meter.peak


def saved_bytes(compute: Callable[[], object], *known: Tensor) -> int:
    """Return the bytes that autograd saves for backward in a forward pass.

    Args:
        compute: forward pass, a function without arguments.
        known: tensors that are not counted, such as parameters, which exist anyway.
    """
    skipped = {tensor.untyped_storage()._cdata for tensor in known}
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in skipped:
            storages[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = compute()
    del output  # until here it holds every storage, so that no address is used twice
    return sum(storages.values())
