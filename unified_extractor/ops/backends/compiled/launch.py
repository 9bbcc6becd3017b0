"""From tensors to the kernels' flat arrays and back.

B batch, C input channels, O output channels, G kernel groups, F offset groups, K taps, Ho, Wo output positions.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unified_extractor.ops.backends.compiled.backward import Backward, Gradients, backward
from unified_extractor.ops.backends.compiled.forward import Forward, forward
from unified_extractor.ops.backends.compiled.maps import CODES, MapSums, map_of
from unified_extractor.ops.backends.compiled.plan import FOLD, GATHER, UNFOLD, Plan, Shapes, plan_for
from unified_extractor.ops.backends.compiled.recomputing import pays_in_loops
from unified_extractor.ops.backends.compiled.records import flat_record
from unified_extractor.ops.backends.compiled.registers import T, lanes_of
from unified_extractor.ops.backends.compiled.static_kernel import StaticLayout
from unified_extractor.ops.backends.compiled.threads import parallel_for
from unified_extractor.ops.backends.compiled.workspace import Inputs
from unified_extractor.ops.call import Call, Wanted
from unified_extractor.ops.custom_ops import Passes, backward_with_stored_kernel, new_kernel_gradients, registered, stored
from unified_extractor.ops.dynamic_kernels import AttentionKernel

_MODES = {"gather": GATHER, "fold": FOLD, "unfold": UNFOLD, "similarity": GATHER}
_LIKE = {torch.float32: np.float32(0), torch.float64: np.float64(0)}
_LEAST_SUMS = 4
_READY: set[tuple[Any, torch.dtype]] = set()


def run(call: Call) -> Tensor:
    """The output of a call, whose tensors are on the CPU and share one dtype, float32 or float64."""
    if call.computed_kernel is not None and not pays_in_loops(call):
        call = stored(call, PASSES)
    plan, numbers = _plan(_shapes(call))
    y = new_output(call)
    inputs = _Inputs(call, plan, numbers, StaticLayout(call.static_kernel, call.x, plan).for_forward(), backward=False)
    _run(forward, lambda: Forward(inputs.of_a_thread(plan.buffers.grad_image), y), inputs, plan.batch)
    return y


def gradients(call: Call, gradient: Tensor, wanted: Wanted) -> list[Tensor]:
    """The wanted gradients, in the order of :class:`Wanted`, from that of what :func:`run` returns."""
    if call.computed_kernel is not None and not pays_in_loops(call):
        return backward_with_stored_kernel(call, gradient, wanted, PASSES)
    plan, numbers = _plan(_shapes(call))
    x, static = call.x, StaticLayout(call.static_kernel, call.x, plan)
    inputs, gradient = _Inputs(call, plan, numbers, static.for_backward(), backward=True), gradient.contiguous()
    images = _images_a_sum(call, plan, wanted)
    partial_sums = -(-plan.batch // images)
    of_static = static.new_partial_sums(partial_sums) if wanted.static else None
    of_map = MapSums(call.computed_kernel, plan, wanted, partial_sums, T)
    new = {1: x.new_empty, 0: x.new_zeros}
    results = [
        torch.empty_like(x, memory_format=torch.contiguous_format) if wanted.x else None,
        of_static,
        new[plan.dynamic_kernel.per_window](call.kernel_shape()) if wanted.dynamic else None,
        new[plan.offsets.per_window](call.offsets.shape) if wanted.offsets and call.offsets is not None else None,
    ]
    targets = Gradients(results[0], results[1], results[2], results[3], of_map.shares)
    followed = wanted._replace(dynamic=wanted.dynamic or any(wanted[4:]))

    def arguments() -> Backward:
        return Backward(inputs.of_a_thread(plan.buffers.end), gradient, targets, followed, images)

    _run(backward, arguments, inputs, partial_sums)
    if of_static is not None:
        results[1] = static.gradient(of_static)
    results += of_map.gradients()
    return [result for result, asked in zip(results, wanted, strict=True) if asked and result is not None]


def new_output(call: Call) -> Tensor:
    """As :func:`run` returns it, not written."""
    return call.x.new_empty(call.output_shape())


def new_gradients(call: Call, wanted: Wanted) -> list[Tensor]:
    """As :func:`gradients` returns them, not written."""
    static, offsets = (None if tensor is None else tensor.shape for tensor in (call.static_kernel, call.offsets))
    dynamic = call.kernel_shape() if wanted.dynamic else None
    shapes = zip((call.x.shape, static, dynamic, offsets), wanted[:4], strict=True)
    direct = [call.x.new_empty(shape) for shape, asked in shapes if asked and shape is not None]
    return [*direct, *new_kernel_gradients(call, wanted)]


def _images_a_sum(call: Call, plan: Plan, wanted: Wanted) -> int:
    """Images whose parameters' gradients are summed up in one: enough sums for threads, in not much more memory than the image takes."""
    static = call.static_kernel
    of_map = (
        0
        if call.computed_kernel is None or not any(wanted[4:])
        else plan.dynamic_kernel.groups * plan.generated.rows * plan.generated.padded_depth
    )
    largest = max(static.numel() if static is not None and wanted.static else 0, of_map)
    sums = min(max(_LEAST_SUMS, call.x.numel() // largest), 64) if largest else max(call.x.shape[0], 1)
    return max(1, -(-call.x.shape[0] // sums))


class _Inputs:
    """What the threads of a call share. Kernels get addresses only, so it must live as long as they run."""

    def __init__(self, call: Call, plan: Plan, numbers: np.ndarray, static: Tensor, *, backward: bool) -> None:
        self.plan, self.numbers = plan, numbers
        self.x, self.static = call.x.contiguous(), static.contiguous()
        self.dynamic, self.offsets = (None if t is None else t.contiguous() for t in (call.stored_kernel, call.offsets))
        self.map = map_of(call.computed_kernel, plan, backward=backward)

    def of_a_thread(self, size: int) -> Inputs:
        """With buffers of its own, ``size`` numbers."""
        corners, memory = np.empty(self.plan.taps * T, np.int64), self.x.new_empty(size)
        has_dynamic_kernel = self.dynamic is not None or self.plan.generated.depth + self.plan.generated.heads > 0
        return Inputs(self.x, self.static, self.dynamic, self.map, self.offsets, has_dynamic_kernel, memory, corners)


def _run(kernel: Any, call: Callable[[], Any], inputs: _Inputs, parts: int) -> None:
    """Run a pass over ``parts`` times all channel ranges; ``call`` makes a thread's arguments."""
    dtype = inputs.x.dtype

    def work(start: int, stop: int) -> None:
        record = call()  # holds the thread's buffers
        kernel(np.array(flat_record(record), np.int64), inputs.numbers, _LIKE[dtype], start, stop)

    if (kernel, dtype) not in _READY:  # compile or load it once, not in every thread
        work(0, 0)
        _READY.add((kernel, dtype))
    parallel_for(work, parts * inputs.plan.bundle_count, inputs.plan.multiply_adds)


def _shapes(call: Call) -> Shapes:
    x, kernel = call.x, call.computed_kernel
    dynamic = generated = None
    if call.dynamic_kernel is not None:
        shape = call.kernel_shape()
        dynamic = (shape[1], shape[-2], shape[-1])
    if isinstance(kernel, AttentionKernel):
        generated = (kernel.key.shape[1], CODES[kernel.normalization], kernel.heads)
    elif kernel is not None:
        generated = (kernel.weight.shape[1], CODES[kernel.normalization], 0)
    offsets = None if call.offsets is None else (call.offsets.shape[1], *call.offsets.shape[-2:])
    static = None if call.static_kernel is None else (call.static_kernel.shape[0], call.static_kernel.shape[1])
    depthwise = static is not None and not call.has_dense_kernel
    lanes, dtype = lanes_of(x.element_size() * 8), str(x.dtype).removeprefix("torch.")
    return Shapes(
        call.geometry,
        x.shape[0],
        x.shape[1],
        _MODES[call.aggregation],
        None if depthwise else static,
        depthwise,
        dynamic,
        offsets,
        generated,
        T,
        lanes,
        dtype,
    )


@lru_cache(maxsize=64)
def _plan(shapes: Shapes) -> tuple[Plan, np.ndarray]:
    """The plan of all calls with these shapes, and what a kernel gets of it: its numbers and the addresses of its tables."""
    plan = plan_for(shapes)
    return plan, np.array(flat_record(plan), np.int64)


PASSES = Passes(run, gradients, new_output, new_gradients)
OPERATORS = registered("compiled", PASSES)
