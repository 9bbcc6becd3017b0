"""Prepared calls: what a call launches, and the torch operations between its launches, recorded once and then repeated.

All that Python decides in a call follows from shapes, strides, dtypes, devices, alignments, wanted gradients and a few switches. The second
call with the same of these is recorded, and made into one function of straight-line Python (``repetition.py``); from the third on
that function alone is run, with the tensors of that call.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs
from triton.runtime import driver

from unified_extractor.ops.backends.triton.repetition import Place, Step, numbers, repetition

_MOST = 4096
"""Most calls that are known; all are forgotten when there are more, as where every image has another size."""
_PLAIN = (Tensor, torch.nn.Parameter)
Tensors = Sequence[Tensor | None]
_STATE = local()


class UnpreparedError(Exception):
    """The error for a call that cannot be repeated: it uses a tensor from elsewhere."""


class Tape(TorchDispatchMode):
    """The recorder of one call."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._inputs = len(inputs)
        self._tensors = list(inputs)
        """All tensors, so that no other gets the identity of one."""
        self._places = {id(tensor): Place(index) for index, tensor in enumerate(inputs)}
        self._steps: list[Step] = []
        self._count = self._inputs
        self._is_paused = False
        self._works = len(self._places) == len(inputs)  # one tensor in two places stands for two others the next time

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record an operation."""
        results = func(*args, **(kwargs or {}))
        if not self._is_paused:
            self._record(func, args, kwargs or {}, results)
        return results

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record no operations inside the context: those of a tuner, and of Triton's interpreter."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def launched(self, launch: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Record a launch."""
        self._record(launch, arguments, {}, None)

    def _record(self, function: Any, arguments: Any, named: Any, results: Any) -> None:
        if function is torch.ops.aten.detach.default and id(arguments[0]) in self._places:
            self._add(results, self._places[id(arguments[0])])  # the same memory
            return
        if function in _ALLOCATIONS:
            sizes = (results.shape, results.stride())
            kind = {"dtype": results.dtype, "device": results.device}
            self._steps.append(Step(torch.empty_strided, sizes, kind, self._add(results)))
            return
        try:
            with_places = tuple(self._with_places(value) for value in arguments)
            named = {name: self._with_places(value) for name, value in named.items()}
        except UnpreparedError:
            self._works = False
            return
        if function is torch.ops.aten._local_scalar_dense.default or any(numbers(value) for value in named.values()):
            self._works = False  # Python decides by a value
        found: Any = None
        if isinstance(results, Tensor):
            found = self._add(results)
        elif isinstance(results, tuple | list):
            self._works = self._works and all(isinstance(result, Tensor) for result in results)
            found = tuple(self._add(result) for result in results)
        self._steps.append(Step(function, with_places, named, found))

    def _add(self, tensor: Tensor, place: Place | None = None) -> Place:
        """Give a tensor a place, a new one unless it has one or is given one, and return it."""
        self._tensors.append(tensor)
        if place is None:
            place = self._places.get(id(tensor)) or Place(self._count)
            self._count = max(self._count, place.number + 1)
        self._places[id(tensor)] = place
        return place

    def _with_places(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in self._places:
                raise UnpreparedError
            return self._places[id(value)]
        if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
            return _rebuilt(value, map(self._with_places, value))
        return value

    def finish(self, result: Any) -> Callable[..., Any] | None:
        """Return the function of other tensors that repeats the call, from the call's result; None where it cannot be repeated."""
        try:
            with_places = self._with_places(result)
        except UnpreparedError:
            return None
        return repetition(self._inputs, self._steps, with_places) if self._works else None


_ALLOCATIONS = {
    torch.ops.aten.empty_like.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_strided.default,
}
"""Operations that allocate memory and write nothing."""


def _rebuilt(like: Any, parts: Any) -> Any:
    """Return a list, a tuple or a record of the same kind with other parts."""
    return list(parts) if isinstance(like, list) else tuple.__new__(type(like), parts)


def prepared(run: Callable[[Tensors, Any], Any]) -> Callable[[Tensors, Any], Any]:
    """Return a function of tensors and of what else a call is, which repeats what it has recorded of a call like this one."""
    known: dict[Any, Callable[..., Any] | None] = {}
    """What repeats a call; ``run`` where that cannot be repeated, None before it was recorded."""

    def fast(tensors: Tensors, rest: Any) -> Any:
        inputs: list[Tensor] = []
        key = _key(tensors, rest, inputs)
        if key is None:
            return run(tensors, rest)
        repeat = known.get(key)
        if repeat is None:
            if key not in known:
                if len(known) >= _MOST:
                    known.clear()
                known[key] = None
            elif not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
                result, known[key] = _recorded(run, tensors, rest, inputs)
                return result
        elif repeat is not run and not knobs.runtime.launch_enter_hook.calls:
            return repeat(*inputs)
        return run(tensors, rest)

    return fast


def _recorded(run: Callable[[Tensors, Any], Any], tensors: Tensors, rest: Any, inputs: list[Tensor]) -> Any:
    """Return the result of a call, and what repeats it."""
    tape = Tape(inputs)
    _STATE.tape = tape
    try:
        with tape:
            result = run(tensors, rest)
    finally:
        _STATE.tape = None
    return result, tape.finish(result) or run


def recorder() -> Tape | None:
    """Return the tape that records this thread's call; None if none does."""
    return getattr(_STATE, "tape", None)


def _key(tensors: Tensors, rest: Any, inputs: list[Tensor]) -> Any:
    """Return what a call's launches follow from, and list its tensors; None where someone acts on the operations on their way."""
    if torch._C._len_torch_dispatch_stack() > 0:
        return None
    key: list[Any] = [rest, torch.are_deterministic_algorithms_enabled()]
    for value in tensors:
        if value is None:
            key.append(None)
            continue
        if type(value) not in _PLAIN:
            return None
        inputs.append(value)
        key += (value.shape, value.stride(), value.dtype, value.device, value.data_ptr() % 16)
    if inputs:
        key.append(torch.is_autocast_enabled(inputs[0].device.type))
    return tuple(key)


class CompiledLaunch:
    """A launch of a compiled kernel on a grid, past Triton's tuner and binder."""

    def __init__(self, compiled: Any, grid: Sequence[int], device: torch.device) -> None:
        self._compiled = compiled
        self._grid = (*grid, 1, 1)[:3]
        self._device = device

    def __call__(self, *arguments: Any) -> None:
        """Launch it on the current stream of the tensors' device."""
        compiled, device = self._compiled, self._device
        if device.type == "cuda" and torch.cuda.current_device() != device.index:
            with torch.cuda.device(device):
                return self(*arguments)
        stream = driver.active.get_current_stream(driver.active.get_current_device())
        compiled.run(*self._grid, stream, compiled.function, compiled.packed_metadata, None, None, None, *arguments)
        return None
