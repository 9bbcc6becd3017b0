"""Prepared calls: what a call launches, and the torch operations between its launches, recorded once and then repeated.

All that Python decides in a call follows from shapes, strides, dtypes, devices, alignments, wanted gradients and a few switches. The second
call with the same of these is recorded; from the third on the tape alone is run, with the tensors of that call.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import local
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs
from triton.runtime import driver

_MOST = 4096
"""Most calls that are known; all are forgotten when there are more, as where every image has another size."""
_PLAIN = (Tensor, torch.nn.Parameter)
_STATE = local()


class _Place(NamedTuple):
    """A tensor's place among those of a tape."""

    number: int


class _Step(NamedTuple):
    """A torch operation or a launch."""

    function: Callable[..., Any]
    arguments: list[Any]
    """Its arguments; those with tensors are filled in when it is run."""
    filled: list[tuple[int, Any]]
    """The arguments with tensors: which, and with places instead of tensors."""
    named: dict[str, Any]
    results: tuple[int, ...]
    """The places of the resulting tensors."""
    freed: tuple[int, ...] = ()
    """The places of tensors that no later step uses, so that their memory serves it."""


class UnpreparedError(Exception):
    """The error for a call that cannot be repeated: it uses a tensor from elsewhere."""


class Tape(TorchDispatchMode):
    """The recorder of one call, and its repetition."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._tensors = list(inputs)
        """All tensors while the call is recorded; they are forgotten afterwards."""
        self._places = {id(tensor): _Place(index) for index, tensor in enumerate(inputs)}
        self._steps: list[_Step] = []
        self._result: Any = None
        self._count = len(self._tensors)
        self._is_paused = False
        self.works = len(self._places) == len(inputs)  # one tensor in two places stands for two others the next time

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
            new = partial(torch.empty_strided, results.shape, results.stride(), dtype=results.dtype, device=results.device)
            self._steps.append(_Step(new, [], [], {}, (self._add(results),)))
            return
        try:
            with_places = [self._with_places(value) for value in arguments]
            named = {name: self._with_places(value) for name, value in named.items()}
        except UnpreparedError:
            self.works = False
            return
        filled = [(n, value) for n, value in enumerate(with_places) if _has_place(value)]
        if function is torch.ops.aten._local_scalar_dense.default or any(map(_has_place, named.values())):
            self.works = False  # Python decides by a value
        several = results if isinstance(results, tuple | list) else (results,)
        tensors = [result for result in several if isinstance(result, Tensor)]
        found = tuple(self._add(tensor) for tensor in tensors)
        self._steps.append(_Step(function, with_places, filled, named, found))

    def _add(self, tensor: Tensor, place: _Place | None = None) -> int:
        """Give a tensor a place, a new one unless it has one or is given one, and return its index."""
        self._tensors.append(tensor)
        if place is None:
            place = self._places.get(id(tensor)) or _Place(self._count)
            self._count = max(self._count, place.number + 1)
        self._places[id(tensor)] = place
        return place.number

    def _with_places(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in self._places:
                raise UnpreparedError
            return self._places[id(value)]
        if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
            return _rebuilt(value, map(self._with_places, value))
        return value

    def finish(self, result: Any) -> None:
        """Keep the places of the call's result, and forget all tensors."""
        try:
            self._result = self._with_places(result)
        except UnpreparedError:
            self.works = False
        self._tensors, self._places = [], {}
        used = _numbers(self._result)
        for n, step in reversed(list(enumerate(self._steps))):
            here = _numbers([value for _, value in step.filled]) | set(step.results)
            self._steps[n] = step._replace(freed=tuple(here - used))
            used |= here

    def run(self, inputs: Sequence[Tensor]) -> Any:
        """Repeat the call with other tensors, and return its result."""
        tensors: list[Any] = [*inputs, *[None] * (self._count - len(inputs))]
        for function, arguments, filled, named, results, freed in self._steps:
            if filled:
                arguments = arguments.copy()
                for n, value in filled:
                    arguments[n] = tensors[value.number] if type(value) is _Place else _filled(value, tensors)
            found = function(*arguments, **named)
            if len(results) == 1:
                tensors[results[0]] = found
            elif results:
                for index, tensor in zip(results, found, strict=True):
                    tensors[index] = tensor
            if freed:
                del arguments, found
                for n in freed:
                    tensors[n] = None
        return _filled(self._result, tensors)


_ALLOCATIONS = {
    torch.ops.aten.empty_like.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_strided.default,
}
"""Operations that allocate memory and write nothing."""


def _has_place(value: Any) -> bool:
    """Return whether an argument has a tensor's place in it."""
    return type(value) is _Place or (isinstance(value, tuple | list) and any(map(_has_place, value)))


def _numbers(value: Any) -> set[int]:
    """Return the numbers of all places in an argument."""
    if type(value) is _Place:
        return {value.number}
    return set().union(*map(_numbers, value)) if isinstance(value, tuple | list) else set()


def _filled(value: Any, tensors: list[Any]) -> Any:
    """Return an argument with tensors in their places."""
    kind = type(value)
    if kind is _Place:
        return tensors[value.number]
    if kind is list:
        return [_filled(part, tensors) for part in value]
    if isinstance(value, tuple) and kind is not torch.Size:
        return tuple.__new__(kind, [tensors[part.number] if type(part) is _Place else part for part in value])
    return value


def _rebuilt(like: Any, parts: Any) -> Any:
    """Return a list, a tuple or a record of the same kind with other parts."""
    return list(parts) if isinstance(like, list) else tuple.__new__(type(like), parts)


def prepared(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of flat arguments that repeats what it has recorded of a call like this one."""
    known: dict[Any, Tape | None] = {}

    def fast(*arguments: Any) -> Any:
        inputs: list[Tensor] = []
        key = _key(arguments, inputs)
        tape = known.get(key) if key is not None else None
        if tape is not None and tape.works and not knobs.runtime.launch_enter_hook.calls:
            return tape.run(inputs)
        if key is None or tape is not None:
            return run(*arguments)
        if key not in known:
            if len(known) >= _MOST:
                known.clear()
            known[key] = None
            return run(*arguments)
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return run(*arguments)
        tape = Tape(inputs)
        result = _recorded(tape, run, arguments)
        known[key] = tape
        return result

    return fast


def _recorded(tape: Tape, run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    _STATE.tape = tape
    try:
        with tape:
            result = run(*arguments)
    finally:
        _STATE.tape = None
    tape.finish(result)
    return result


def recorder() -> Tape | None:
    """Return the tape that records this thread's call; None if none does."""
    return getattr(_STATE, "tape", None)


def _key(arguments: Sequence[Any], inputs: list[Tensor]) -> Any:
    """Return what a call's launches follow from, and list its tensors; None where someone acts on the operations on their way."""
    if torch._C._len_torch_dispatch_stack() > 0:
        return None
    key: list[Any] = [torch.are_deterministic_algorithms_enabled()]
    for value in arguments:
        if isinstance(value, Tensor):
            if type(value) not in _PLAIN:
                return None
            inputs.append(value)
            key += (value.shape, value.stride(), value.dtype, value.device, value.data_ptr() % 16)
        else:
            key.append(tuple(value) if isinstance(value, list) else value)
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
