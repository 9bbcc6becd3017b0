"""From tensors to the kernels' flat arrays and back.

B batch, C input channels, O output channels, G kernel groups, F offset groups, K taps, Ho, Wo output positions.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unified_extractor.ops.backends.compiled.backward import Gradients, Wanted, backward
from unified_extractor.ops.backends.compiled.forward import forward
from unified_extractor.ops.backends.compiled.registers import T, lanes_of
from unified_extractor.ops.backends.compiled.static import StaticLayout
from unified_extractor.ops.backends.compiled.tables import FOLD, GATHER, UNFOLD, Plan, Shapes, plan_for
from unified_extractor.ops.backends.compiled.threads import share
from unified_extractor.ops.backends.compiled.work import Inputs
from unified_extractor.ops.geometry import Window

_MODES = {"gather": GATHER, "fold": FOLD, "unfold": UNFOLD}
_READY: set[tuple[Any, torch.dtype]] = set()


class Call(NamedTuple):
    """The tensors of a call and what becomes of them; float32 or float64 on the CPU, one dtype."""

    x: Tensor
    static: Tensor | None
    dynamic: Tensor | None
    offsets: Tensor | None
    window: Window
    aggregation: str
    """gather, fold or unfold."""
    heads: int = 0
    """Kernel groups, where the dynamic kernel is what is asked for: similarity."""

    def output_shape(self) -> list[Any]:
        """Of what :func:`run` returns."""
        channels = self.x.shape[1] if self.static is None else self.static.shape[0]
        if self.aggregation == "fold":
            return [self.x.shape[0], channels, *self.window.image]
        taps = [self.window.size] if self.aggregation == "unfold" else []
        return [self.x.shape[0], channels, *taps, *self.window.output]

    def dynamic_shape(self) -> list[Any]:
        """Of the dynamic kernel."""
        if self.dynamic is not None:
            return list(self.dynamic.shape)
        return [self.x.shape[0], self.heads, self.window.size, *self.window.output]


def run(call: Call) -> Tensor:
    """``[B, O, Ho, Wo]`` for gather, ``[B, C, H, W]`` for fold, ``[B, C, K, Ho, Wo]`` for unfold."""
    plan = _plan(call)
    y = call.x.new_empty(call.output_shape())
    static = StaticLayout(call.static, call.x, plan)
    arguments = (_inputs(call, static.for_forward()), _flat(y, call.x), plan)
    _share(forward, arguments, plan.batch * plan.unit_count, call.x, plan.space.image_gradient)
    return y


def gradients(call: Call, gradient: Tensor, wanted: Wanted) -> list[Tensor]:
    """The wanted gradients, in the order of :class:`Wanted`, from that of what :func:`run` returns."""
    plan = _plan(call)
    x, static = call.x, StaticLayout(call.static, call.x, plan)
    images = static.images_a_sum() if wanted.static else 1
    partial_sums = -(-plan.batch // images)
    of_static = static.new_sums(partial_sums) if wanted.static else None
    new = {True: x.new_empty, False: x.new_zeros}
    results = [
        torch.empty_like(x, memory_format=torch.contiguous_format) if wanted.x else None,
        of_static,
        new[plan.dynamic.every](call.dynamic_shape()) if wanted.dynamic else None,
        new[plan.offsets.every](call.offsets.shape) if wanted.offsets and call.offsets is not None else None,
    ]
    outputs = Gradients(*(_flat(t, x) for t in results))
    arguments = (_inputs(call, static.for_backward()), _flat(gradient, x), outputs, wanted, plan, images)
    _share(backward, arguments, partial_sums * plan.unit_count, x, plan.space.end)
    if of_static is not None:
        results[1] = static.from_sums(of_static)
    return [result for result, asked in zip(results, wanted, strict=True) if asked and result is not None]


def _inputs(call: Call, static: Tensor) -> Inputs:
    flat = [_flat(tensor, call.x) for tensor in (call.x, static, call.dynamic, call.offsets)]
    return Inputs(flat[0], flat[1], flat[2], flat[3], call.dynamic is not None)


def _share(kernel: Any, arguments: tuple[Any, ...], items: int, like: Tensor, space: int) -> None:
    """Run a pass; ``space``: numbers in a thread's buffers."""
    plan = next(argument for argument in arguments if isinstance(argument, Plan))

    def run(start: int, stop: int) -> None:
        indices = np.empty(plan.taps * T, np.int64)
        kernel(*arguments, _flat(like.new_empty(space), like), indices, start, stop)

    if (kernel, like.dtype) not in _READY:  # compile or load it once, not in every thread
        run(0, 0)
        _READY.add((kernel, like.dtype))
    share(run, items, plan.work)


def _flat(tensor: Tensor | None, like: Tensor) -> np.ndarray:
    if tensor is None:
        return _nothing(like.dtype)
    return tensor.detach().contiguous().numpy().reshape(-1)


@lru_cache
def _nothing(dtype: torch.dtype) -> np.ndarray:
    return torch.empty(0, dtype=dtype).numpy()


def _plan(call: Call) -> Plan:
    x, window, mode = call.x, call.window, _MODES[call.aggregation]
    shape = call.dynamic_shape()
    dynamic = None if call.dynamic is None and not call.heads else (shape[1], *shape[-2:])
    offsets = None if call.offsets is None else (call.offsets.shape[1], *call.offsets.shape[-2:])
    static = None if call.static is None else (call.static.shape[0], call.static.shape[1])
    alone = static == (x.shape[1], 1)
    dtype = str(x.dtype).removeprefix("torch.")
    lanes = lanes_of(x.element_size() * 8)
    return plan_for(Shapes(window, x.shape[0], x.shape[1], mode, None if alone else static, dynamic, offsets, T, lanes, dtype))
