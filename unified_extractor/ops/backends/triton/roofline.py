"""The bytes and multiply-adds that each Triton kernel cannot do without, from a call's shapes, and the time a GPU needs for them at least.

B batch, C input channels, O output channels, F offset groups, K taps, P output positions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from unified_extractor.ops.backends.triton.banded.fold_rule import is_banded_fold
from unified_extractor.ops.backends.triton.banded.rule import is_banded
from unified_extractor.ops.backends.triton.plan import runs_in_slices
from unified_extractor.ops.call import Call
from unified_extractor.ops.cost import SAMPLE, kernel_multiply_adds


class Work(NamedTuple):
    """The least work of a kernel."""

    bytes: int
    """Bytes of every input, read once, and every result, written once."""
    multiply_adds: int
    """Multiply-adds of one value at a time, in float32 whatever the tensors' dtype. A bilinear sample counts 4."""
    matrix_multiply_adds: int = 0
    """Multiply-adds of matrix products."""


@dataclass(frozen=True)
class Device:
    """Peak rates of a GPU, per second, from its data sheet."""

    name: str
    bytes: float
    multiply_adds: float
    matrix_multiply_adds: float
    """Rate of matrix products in half precision. In float32 they run as other arithmetic does, TF32 being off by default."""


H200 = Device("NVIDIA H200", bytes=4.8e12, multiply_adds=33.5e12, matrix_multiply_adds=495e12)
"""An H200: 4.8 TB/s; 67 TFLOP/s in float32 and 990 in bfloat16 matrix products, two operations a multiply-add."""


class Limits(NamedTuple):
    """The least time of a kernel in microseconds, by each of a device's peak rates."""

    bandwidth: float
    arithmetic: float

    @property
    def larger(self) -> str:
        """Return the limit that takes longer, "bandwidth" or "arithmetic"."""
        return "bandwidth" if self.bandwidth >= self.arithmetic else "arithmetic"


def limits(work: Work, dtype: torch.dtype, device: Device = H200) -> Limits:
    """Return the time the device needs at least. Matrix units work beside the others in half precision, in float32 there are none."""
    single, matrix = work.multiply_adds / device.multiply_adds, work.matrix_multiply_adds / device.matrix_multiply_adds
    if dtype not in (torch.float16, torch.bfloat16):
        single, matrix = (work.multiply_adds + work.matrix_multiply_adds) / device.multiply_adds, 0.0
    return Limits(1e6 * work.bytes / device.bytes, 1e6 * max(single, matrix))


def forward_bytes(inputs: Sequence[Tensor | None], output: Tensor) -> int:
    """Return the bytes of a forward pass: inputs read once, the output written once."""
    return tensor_bytes([*inputs, output])


def backward_bytes(inputs: Sequence[Tensor | None], gradient: Tensor, gradients: Sequence[Tensor]) -> int:
    """Return the bytes of a backward pass: inputs and the gradient of the output read once, their gradients written once."""
    return tensor_bytes([*inputs, gradient, *gradients])


def tensor_bytes(tensors: Sequence[Tensor | None]) -> int:
    """Return the bytes of all tensors that are not None."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def step_bytes(call: Call) -> int:
    """Return the bytes of all kernels of a forward and backward pass."""
    return sum(traffic(kernel, call).bytes for kernel in kernels(call) if kernel != "collect")


def stored_step_bytes(call: Call) -> int:
    """Return the bytes of a forward and backward pass that stores a computed kernel.

    The matrix product that computes the kernel is added, and in backward the two products with its gradient.
    """
    assert call.computed_kernel is not None
    kernel, sources = torch.empty(call.kernel_shape(), dtype=call.x.dtype, device="meta"), call.kernel_tensors
    products = tensor_bytes([*sources, kernel]) + tensor_bytes([kernel, kernel, *sources[:2], *sources])
    return step_bytes(call._replace(dynamic_kernel=kernel)) + products


def traffic(kernel: str, call: Call) -> Work:
    """Return the fewest bytes and multiply-adds of a kernel in a gather or fold; every input's gradient is wanted.

    Args:
        kernel: "gather" or "fold"; or the gradients "fold gradient" (of x, sampled on the regular grid), "dynamic_kernel_backward" (of
            the dynamic kernel and no other, on the regular grid; of a computed kernel, of what it is computed from), "backward" (of x
            sampled at offsets, of offsets and of kernels), "dense kernel gradient" (of a dense static kernel, sampled anew) or "collect"
            (of x, where deterministic algorithms let "backward" write columns instead). By matrix products: "banded_gather",
            "banded_image_gradient", "banded_kernel_gradient", "banded_fold", "banded_fold gradient" and "banded_fold_kernel_gradient".
            With a slice of channels a thread, "slice_gather" does the work of "gather", "slice_backward" and "slice_static_kernel" that
            of "backward". A dense static kernel's products are counted with the kernel that writes or reads the columns.
        call: the call, whose tensors may be on the device "meta".
    """
    return _TRAFFIC[kernel](call)


def kernels(call: Call) -> list[str]:
    """Return the kernels that run for a call, forward and then backward; "collect" runs only under deterministic algorithms."""
    if is_banded(_with_stored_kernel(call)):
        return ["banded_gather", "banded_image_gradient", "banded_kernel_gradient"]
    if is_banded_fold(_with_stored_kernel(call)):
        return ["banded_fold", "banded_fold gradient", "banded_fold_kernel_gradient"]
    dense, has_offsets, has_kernel = call.has_dense_kernel, call.offsets is not None, call.dynamic_kernel is not None
    sliced = runs_in_slices(call._replace(static_kernel=None) if dense else call)
    forward = "fold" if call.aggregation == "fold" else "slice_gather" if sliced else "gather"
    depthwise = call.static_kernel is not None and not dense
    products = call.static_kernel is None and not has_offsets and call.aggregation == "gather"
    others = not products and (has_offsets or has_kernel or (depthwise and not sliced))
    return [
        forward,
        *(["dense kernel gradient"] if dense else []),
        *([] if has_offsets else ["fold gradient"]),
        *(["dynamic_kernel_backward"] if products else []),
        *(["slice_backward" if sliced else "backward"] if others else []),
        *(["slice_static_kernel"] if sliced and depthwise else []),
        *(["collect"] if has_offsets else []),
    ]


def samples(call: Call) -> int:
    """Return the number of samples of all taps, B*C*K*P."""
    return prod(call.x.shape[:2]) * call.geometry.taps * prod(call.geometry.output)


def _sampling(call: Call) -> int:
    """Return the multiply-adds of sampling bilinearly once."""
    return SAMPLE * samples(call) if call.offsets is not None else 0


def _weighting(call: Call) -> int:
    """Return the multiply-adds of each sample with its weights; those of a dense static kernel are counted as a matrix product."""
    weights = (call.dynamic_kernel is not None) + (call.static_kernel is not None and not call.has_dense_kernel)
    return samples(call) * call.results_per_window * (weights or (0 if call.has_dense_kernel else 1))


def _matrix(call: Call) -> int:
    """Return the multiply-adds of a dense static kernel, in each of its three products."""
    if call.static_kernel is None or not call.has_dense_kernel:
        return 0
    return call.x.shape[0] * call.static_kernel.numel() * prod(call.geometry.output)


def _computing(call: Call) -> int:
    """Return the multiply-adds of computing the dynamic kernel once."""
    return 0 if call.computed_kernel is None else call.x.shape[0] * kernel_multiply_adds(call.computed_kernel, call.geometry)


def _inputs(call: Call) -> int:
    """Return the bytes of all tensors of a call."""
    return tensor_bytes([call.x, call.static_kernel, call.stored_kernel, call.offsets, *call.kernel_tensors])


def _output(call: Call) -> int:
    """Return the bytes of the output, or of its gradient."""
    return prod(call.output_shape()) * call.x.element_size()


def _forward(call: Call) -> Work:
    """Return the work of "gather" and "fold", which samples anew for each output of a window. Columns in the cache are no traffic."""
    sampling = _sampling(call) * call.results_per_window
    return Work(_inputs(call) + _output(call), sampling + _weighting(call), _matrix(call) + _computing(call))


def _fold_gradient(call: Call) -> Work:
    """Return the work of the image's gradient on the regular grid."""
    total = _output(call) + tensor_bytes([call.static_kernel, call.stored_kernel, call.x, *call.kernel_tensors])
    return Work(total, _weighting(call), _matrix(call))


def _with_stored_kernel(call: Call) -> Call:
    """Return the call of a whole batch that a chunk of images is run as: its computed kernel is a tensor."""
    if call.computed_kernel is None:
        return call
    return call._replace(dynamic_kernel=torch.empty(call.kernel_shape(), dtype=call.x.dtype, device="meta"))


def _banded_gather(call: Call) -> Work:
    """Return the work of "banded_gather" and "banded_fold".

    The zeros outside the band are not counted, though the matrix units multiply them.
    """
    return Work(_inputs(call) + _output(call), 0, samples(call) * call.results_per_window + _computing(call))


def _banded_image_gradient(call: Call) -> Work:
    """Return the work of "banded_image_gradient" and "banded_fold gradient"."""
    return Work(_inputs(call) + _output(call), 0, samples(call) * call.results_per_window)


def _banded_kernel_gradient(call: Call) -> Work:
    """Return the work of "banded_kernel_gradient" and "banded_fold_kernel_gradient".

    Of a computed kernel, which stays in the cache, it is that of its sources and its own.
    """
    total = _inputs(call) + _output(call) + tensor_bytes(call.kernel_tensors)
    return Work(total, 0, samples(call) * call.results_per_window + 3 * _computing(call))


def _dynamic_kernel_backward(call: Call) -> Work:
    """Return the work of a dynamic kernel's gradient; of a computed kernel, which stays in the cache, that of its sources and its own."""
    if call.computed_kernel is None:
        return _backward(call)
    total = _output(call) + _inputs(call) + tensor_bytes(call.kernel_tensors)
    return Work(total, samples(call), 3 * _computing(call))


def _dense_kernel_gradient(call: Call) -> Work:
    """Return the work of a dense static kernel's gradient; the kernel is not read, so its bytes stand for those of its gradient."""
    weighting = samples(call) if call.stored_kernel is not None else 0
    return Work(_inputs(call) + _output(call), _sampling(call) + weighting, _matrix(call))


def _backward(call: Call) -> Work:
    """Return the work of "backward", and of "dynamic_kernel_backward" with a stored kernel: the gradient of x adds up in float32.

    The dynamic kernel is read unless its own gradient is the only one.
    """
    sampled, outputs = samples(call), call.results_per_window
    has_offsets, depthwise = call.offsets is not None, call.static_kernel is not None and not call.has_dense_kernel
    written = tensor_bytes([call.stored_kernel, call.offsets, call.static_kernel if depthwise else None])
    count = _sampling(call) + (sampled * outputs if call.stored_kernel is not None else 0)  # the dynamic kernel's gradient
    if depthwise:
        count += sampled * outputs * (1 if call.stored_kernel is None else 2)  # its own; the other's is weighted by it
    if has_offsets:
        written += call.x.numel() * max(call.x.element_size(), 4)
        count += _weighting(call) + 2 * SAMPLE * sampled  # of the samples; then for the offsets, and into the corners
    unread = 0 if has_offsets or call.static_kernel is not None else tensor_bytes([call.stored_kernel])
    return Work(_inputs(call) - unread + _output(call) + written, count, _matrix(call))


def _slice_backward(call: Call) -> Work:
    """Return the work of "slice_backward": that of "backward" but for the gradient of a depthwise static kernel."""
    whole = _backward(call)
    if call.static_kernel is None or call.has_dense_kernel:
        return whole
    return whole._replace(
        bytes=whole.bytes - tensor_bytes([call.static_kernel]), multiply_adds=whole.multiply_adds - samples(call)
    )


def _slice_static_kernel(call: Call) -> Work:
    """Return the work of a depthwise static kernel's gradient; the kernel is not read, so its bytes stand for those of its gradient."""
    weighting = samples(call) if call.stored_kernel is not None else 0
    return Work(_inputs(call) + _output(call), _sampling(call) + weighting + samples(call))


def _collect(call: Call) -> Work:
    """Return the work of "collect".

    It reads columns in float32, a weight in float32 and a place in 64 bits for each corner of a sample, and where those of each
    pixel begin.
    """
    assert call.offsets is not None
    batch, groups = call.offsets.shape[:2]
    corners = 4 * batch * groups * call.geometry.taps * prod(call.geometry.output)
    begins = 8 * batch * groups * (prod(call.geometry.image) + 1)
    precise = max(call.x.element_size(), 4)
    return Work(precise * samples(call) + (precise + 8) * corners + begins + tensor_bytes([call.x]), SAMPLE * samples(call))


_TRAFFIC: dict[str, Callable[[Call], Work]] = {
    "banded_gather": _banded_gather,
    "banded_image_gradient": _banded_image_gradient,
    "banded_kernel_gradient": _banded_kernel_gradient,
    "banded_fold": _banded_gather,
    "banded_fold gradient": _banded_image_gradient,
    "banded_fold_kernel_gradient": _banded_kernel_gradient,
    "gather": _forward,
    "fold": _forward,
    "fold gradient": _fold_gradient,
    "dense kernel gradient": _dense_kernel_gradient,
    "dynamic_kernel_backward": _dynamic_kernel_backward,
    "backward": _backward,
    "slice_gather": _forward,
    "slice_backward": _slice_backward,
    "slice_static_kernel": _slice_static_kernel,
    "collect": _collect,
}
