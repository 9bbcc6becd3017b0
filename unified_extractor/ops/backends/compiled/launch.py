"""The launch of both passes: from the tensors of a call to the flat arguments of the loops, and back.

B batch, C input channels, O output channels, G kernel groups, F offset groups, K taps, Ho, Wo output positions.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unified_extractor.ops.backends.compiled.backward import Backward, Gradients, backward
from unified_extractor.ops.backends.compiled.forward import Forward, forward
from unified_extractor.ops.backends.compiled.layouts import ComputedLayout, StaticLayout
from unified_extractor.ops.backends.compiled.plan import FOLD, GATHER, NONE, SIGMOID, SOFTMAX, UNFOLD, Plan, Shapes, plan_for
from unified_extractor.ops.backends.compiled.recomputing import pays_in_loops
from unified_extractor.ops.backends.compiled.records import flat_record
from unified_extractor.ops.backends.compiled.registers import T, lanes_of
from unified_extractor.ops.backends.compiled.terms import terms_backward, terms_forward
from unified_extractor.ops.backends.compiled.threads import parallel_for
from unified_extractor.ops.backends.compiled.workspace import Inputs
from unified_extractor.ops.call import Call, Wanted
from unified_extractor.ops.custom_ops import Passes, backward_with_stored_kernel, new_kernel_gradients, registered, stored
from unified_extractor.ops.dynamic_kernels import AttentionKernel

_AGGREGATIONS = {"gather": GATHER, "fold": FOLD, "unfold": UNFOLD, "similarity": GATHER}
_NORMALIZATIONS = {"none": NONE, "softmax": SOFTMAX, "sigmoid": SIGMOID}
_LIKE = {torch.float32: np.float32(0), torch.float64: np.float64(0)}
_DTYPE_NAMES = {torch.float32: "float32", torch.float64: "float64"}
_FEWEST_SUMS, _MOST_SUMS = 4, 64
"""Limits of the partial sums of a parameter's gradient: enough for threads, and not too many to add up."""
_READY: set[tuple[Any, torch.dtype]] = set()
"""Passes that are compiled or loaded, with their dtype."""


def run_forward(call: Call) -> Tensor:
    """Return the output of a call, whose tensors are on the CPU and share one dtype, float32 or float64."""
    if _is_computed_before(call):
        call = stored(call, PASSES)
    prepared = _prepare(_shapes(call))
    y, static_kernel = new_output(call), StaticLayout(call.static_kernel, call.x, prepared.plan).for_forward()
    inputs = _Inputs(call, prepared.plan, static_kernel, prepared.plan.buffers.grad_image, backward=False)
    kernel = terms_forward if call.terms else forward
    _run(kernel, lambda: Forward(inputs.of_a_thread(), y), prepared, call.x.dtype, prepared.plan.batch)
    return y


def run_backward(call: Call, grad_y: Tensor, wanted: Wanted) -> list[Tensor]:
    """Return the wanted gradients, in the order of :class:`Wanted`, from that of what :func:`run_forward` returns."""
    if _is_computed_before(call):
        return backward_with_stored_kernel(call, grad_y, wanted, PASSES)
    prepared = _prepare(_shapes(call))
    plan, x = prepared.plan, call.x
    grad_y = grad_y.contiguous()
    static, computed = StaticLayout(call.static_kernel, x, plan), ComputedLayout(call.computed_kernel, plan)
    images = _images_per_sum(call, plan, wanted)
    count = -(-plan.batch // images)
    new = {1: x.new_empty, 0: x.new_zeros}  # where windows share a value, their gradients are added
    grad_x = x.new_empty(x.shape) if wanted.x else None
    grad_dynamic = new[plan.dynamic_kernel.per_window](call.kernel_shape()) if wanted.dynamic_kernel else None
    grad_offsets = new[plan.offsets.per_window](call.offsets.shape) if wanted.offsets and call.offsets is not None else None
    static_sums = static.new_partial_sums(count) if wanted.static_kernel else None
    kernel_sums = computed.new_partial_sums(count, wanted)
    gradients = Gradients(grad_x, static_sums, grad_dynamic, grad_offsets, kernel_sums)
    inputs = _Inputs(call, plan, static.for_backward(), plan.buffers.end, backward=True)
    followed = wanted._replace(dynamic_kernel=1) if any(wanted[4:]) else wanted
    kernel = terms_backward if call.terms else backward
    _run(kernel, lambda: Backward(inputs.of_a_thread(), grad_y, gradients, followed, images), prepared, x.dtype, count)
    grad_static = None if static_sums is None else static.gradient(static_sums)
    found = (grad_x, grad_static, grad_dynamic, grad_offsets, *computed.gradients(kernel_sums))
    return [gradient for gradient in found if gradient is not None]


def _is_computed_before(call: Call) -> bool:
    """Return whether a kernel that must not be saved is computed before the loops, since that is faster than in them.

    The choice of the backend asked the same rule. Its answer is not carried here: a registered operator has flat arguments, of which
    this would be one more in every call, in a recorded program too, and the rule is two products of sizes.
    """
    return call.computed_kernel is not None and not pays_in_loops(call)


def new_output(call: Call) -> Tensor:
    """Return memory for the output of :func:`run_forward`."""
    return call.x.new_empty(call.output_shape())


def new_gradients(call: Call, wanted: Wanted) -> list[Tensor]:
    """Return memory for the gradients of :func:`run_backward`."""
    static, offsets = (None if tensor is None else tensor.shape for tensor in (call.static_kernel, call.offsets))
    dynamic = call.kernel_shape() if wanted.dynamic_kernel else None
    shapes = zip((call.x.shape, static, dynamic, offsets), wanted[:4], strict=True)
    direct = [call.x.new_empty(shape) for shape, asked in shapes if asked and shape is not None]
    return [*direct, *new_kernel_gradients(call, wanted)]


def _images_per_sum(call: Call, plan: Plan, wanted: Wanted) -> int:
    """Return how many images share a partial sum of parameters' gradients: the sums take not much more memory than the images."""
    static_size = call.static_kernel.numel() if call.static_kernel is not None and wanted.static_kernel else 0
    map_size = plan.dynamic_kernel.groups * plan.computed.rows * plan.computed.padded_depth if any(wanted[4:]) else 0
    largest = max(static_size, map_size)
    if not largest:
        return 1
    sums = min(max(_FEWEST_SUMS, call.x.numel() // largest), _MOST_SUMS)
    return max(1, -(-plan.batch // sums))


class _Inputs:
    """The inputs that the threads of a call share. The loops get addresses alone, so it must live as long as they run."""

    def __init__(self, call: Call, plan: Plan, static_kernel: Tensor | None, size: int, *, backward: bool) -> None:
        self.x, self.static_kernel, self.size = call.x.contiguous(), static_kernel, size
        self.dynamic_kernel, self.offsets = (None if t is None else t.contiguous() for t in (call.stored_kernel, call.offsets))
        self.kernel_tensors = ComputedLayout(call.computed_kernel, plan).tensors(backward=backward)
        self.has_dynamic_kernel = int(call.dynamic_kernel is not None and call.aggregation != "similarity")

    def of_a_thread(self) -> Inputs:
        """Return the inputs with memory of the thread's own."""
        memory = self.x.new_empty(self.size)
        tensors = self.x, self.static_kernel, self.dynamic_kernel, self.kernel_tensors, self.offsets
        return Inputs(*tensors, self.has_dynamic_kernel, memory)


def _run(kernel: Any, arguments: Callable[[], Forward | Backward], prepared: "_Prepared", dtype: torch.dtype, count: int) -> None:
    """Run a pass over the work items of ``count`` images, or partial sums; ``arguments`` returns a thread's arguments."""

    def run(start: int, stop: int) -> None:
        record = arguments()  # holds the thread's memory
        kernel(np.array(flat_record(record), np.int64), prepared.numbers, _LIKE[dtype], start, stop)

    if (kernel, dtype) not in _READY:  # compile or load it once, not in every thread
        run(0, 0)
        _READY.add((kernel, dtype))
    parallel_for(run, count * prepared.plan.bundle_count, prepared.plan.multiply_adds)


def _shapes(call: Call) -> Shapes:
    """Return the part of a call that its plan depends on."""
    x, static_kernel, kernel, offsets = call.x, call.static_kernel, call.computed_kernel, call.offsets
    dense = dynamic = computed = None
    if call.has_dense_kernel and static_kernel is not None:
        dense = (static_kernel.shape[0], static_kernel.shape[1])
    if call.dynamic_kernel is not None:
        height, width = call.kernel_shape()[-2:]
        dynamic = (call.kernel_groups, height, width)
    if isinstance(kernel, AttentionKernel):
        computed = (kernel.key.shape[1], _NORMALIZATIONS[kernel.normalization], kernel.heads)
    elif kernel is not None:
        computed = (kernel.weight.shape[1], _NORMALIZATIONS[kernel.normalization], 0)
    return Shapes(
        call.geometry,
        x.shape[0],
        x.shape[1],
        _AGGREGATIONS[call.aggregation],
        dense,
        static_kernel is not None and dense is None,
        dynamic,
        None if offsets is None else (offsets.shape[1], offsets.shape[-2], offsets.shape[-1]),
        (call.terms, call.kernel_shape()[3]) if call.terms else (0, 0),
        computed,
        T,
        lanes_of(x.element_size() * 8),
        _DTYPE_NAMES[x.dtype],
    )


class _Prepared(NamedTuple):
    """A plan, and the plan as the loops take it: its numbers and the addresses of its tables."""

    plan: Plan
    numbers: np.ndarray


@lru_cache(maxsize=64)
def _prepare(shapes: Shapes) -> _Prepared:
    """Return the plan of all calls with these shapes, made once."""
    plan = plan_for(shapes)
    return _Prepared(plan, np.array(flat_record(plan), np.int64))


PASSES = Passes(run_forward, run_backward, new_output, new_gradients)
OPERATORS = registered("compiled", PASSES)
