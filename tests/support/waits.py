"""What of a training step would make the host wait for a GPU, counted on a CPU: operators that give the host a value or a size."""

from collections import Counter
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

_WAITING = {
    "_local_scalar_dense",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave.Tensor",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
}
"""Operators that read values on the host, or whose output has a size that depends on values."""
_COPYING = {"cpu", "numpy", "tolist", "__array__"}
"""Methods that copy to the host, of which no operator is seen where the tensor is on the CPU already."""


_DRAWING = ("rand.", "randint.", "randperm.", "uniform_.")
"""Operators by which the host draws numbers for itself; what is made of these alone lies on the host too."""


class _Operators(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found, self.on_host = found, WeakTensorKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.").removesuffix(".default")
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        on_host = f"{name}.".startswith(_DRAWING) or (given and all(value in self.on_host for value in given))
        chosen = args[1] if name.startswith(("index.", "index_put")) else ()
        if not on_host and (name in _WAITING or any(index is not None and index.dtype == torch.bool for index in chosen)):
            self.found[name] += 1
        made = function(*args, **(kwargs or {}))
        if on_host:
            self.on_host.update({value: True for value in tree_leaves(made) if isinstance(value, Tensor)})
        return made


class _Methods(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        # a device in place of the name is the tensor's own, which on the CPU cannot be told from the host
        named = any(isinstance(one, str) and one == "cpu" for one in (*args[1:], *kwargs.values()))
        to_host = name == "to" and named and not kwargs.get("non_blocking")
        if to_host or (name in _COPYING and args and isinstance(args[0], Tensor)):
            self.found[name] += 1
        return function(*args, **kwargs)


class CountWaits(L.Callback):
    """A callback that counts the waits of the steps after ``first`` until ``last``, batches and callbacks included."""

    found: ClassVar[Counter[str]] = Counter()
    counting: ClassVar[bool] = False
    steps: ClassVar[int] = 0

    def __init__(self, first: int = 2, last: int = 6) -> None:
        self.first, self.last = first, last
        self._modes: list[Any] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.first:
            CountWaits.found, CountWaits.counting = Counter(), True
            self._modes = [_Methods(CountWaits.found), _Operators(CountWaits.found)]
            for mode in self._modes:
                mode.__enter__()
        elif trainer.global_step == self.last:
            for mode in reversed(self._modes):
                mode.__exit__(None, None, None)
            CountWaits.counting, CountWaits.steps = False, self.last - self.first


class LateCopy:
    """A stand-in for ``HostCopy`` whose number arrives when the next two were requested, as if the host ran ahead of a GPU."""

    requested: ClassVar[int] = 0

    def __init__(self, value: Tensor) -> None:
        LateCopy.requested += 1
        self.value, self.number = value, LateCopy.requested

    @property
    def arrived(self) -> bool:
        return LateCopy.requested >= self.number + 2

    def read(self) -> bool | float:
        if CountWaits.counting and not self.arrived:
            CountWaits.found["read before it arrived"] += 1
        with _disable_current_modes():
            return self.value.item()
