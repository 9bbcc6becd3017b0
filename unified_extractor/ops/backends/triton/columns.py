"""A dense or grouped static kernel: a library's matrix product of columns, the weighted samples of a chunk of images.

B images, n images of a chunk, M convolution groups, C input channels and O outputs, K taps, Ho, Wo output positions. A chunk's columns
``[n, C, K, Ho, Wo]`` stay in the second-level cache between the kernel that samples them and the product that reads them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from unified_extractor.ops.backends.triton.chunks import chunk_of, chunks_of
from unified_extractor.ops.backends.triton.plan import is_channels_last
from unified_extractor.ops.call import Call
from unified_extractor.ops.geometry import precision

Sample = Callable[[Call, Tensor], None]
"""``sample(call, columns)`` writes the weighted samples of a call whose aggregation is "unfold"."""


class _Matrices(NamedTuple):
    """The patterns that make tensors into matrices, one for each convolution group and perhaps image, as they lie in memory."""

    static_kernel: str
    columns: str
    outputs: str


_CHANNELS_LAST = _Matrices("(m o) c i j -> m o (i j c)", "n (m c) k h w -> m (k c) (n h w)", "n (m o) h w -> m o (n h w)")
_PLANAR = _Matrices("(m o) c i j -> m o (c i j)", "n (m c) k h w -> (n m) (c k) (h w)", "n (m o) h w -> (n m) o (h w)")


def dense_forward(call: Call, y: Tensor, sample: Sample) -> None:
    """Write ``y_op = sum_kc S_ock * D_kp * x~_ckp``.

    Args:
        call: the call.
        y: the memory of its output.
        sample: what writes the columns.
    """
    groups, patterns = _groups(call), _patterns(call)
    static_kernel = _static_matrices(call)
    for images, columns in _chunks(call):
        sample(_unfolding(call, images), columns)
        _write_product(static_kernel, rearrange(columns, patterns.columns, m=groups), y[images], patterns.outputs, groups)


def dense_backward(
    call: Call,
    grad_y: Tensor,
    results: dict[str, Tensor],
    sample: Sample,
    gradients: Callable[[Call, Tensor, dict[str, Tensor]], None],
) -> None:
    """Write the wanted gradients from that of the output.

    Args:
        call: the call.
        grad_y: the gradient of its output.
        results: the memory of the wanted gradients by name.
        sample: what writes the columns.
        gradients: ``gradients(call, grad_columns, results)`` writes the wanted gradients of a call whose aggregation is "unfold".
    """
    groups, patterns = _groups(call), _patterns(call)
    static_kernel, others = _static_matrices(call), {name: t for name, t in results.items() if name != "static_kernel"}
    total = torch.zeros_like(static_kernel, dtype=precision(call.x))
    for images, columns in _chunks(call):
        chunk, grad_outputs = _unfolding(call, images), rearrange(grad_y[images], patterns.outputs, m=groups)
        if "static_kernel" in results:
            sample(chunk, columns)
            products = _product(grad_outputs, rearrange(columns, patterns.columns, m=groups).mT)
            total += products.unflatten(0, (-1, groups)).sum(0, dtype=total.dtype)
        if others:
            _write_product(static_kernel.mT, grad_outputs, columns, patterns.columns, groups)
            gradients(chunk, columns, {name: t[images] for name, t in others.items()})
    if "static_kernel" in results:
        sizes = dict(zip("ij", call.geometry.kernel_size, strict=True))
        results["static_kernel"].copy_(rearrange(total, _reversed(patterns.static_kernel), **sizes))


def _patterns(call: Call) -> _Matrices:
    """Return the patterns by which nothing is copied, unless there are several convolution groups and channels are neighbors."""
    return _CHANNELS_LAST if is_channels_last(call.x) else _PLANAR


def _groups(call: Call) -> int:
    """Return the number of convolution groups, M."""
    assert call.static_kernel is not None
    return call.channels // call.static_kernel.shape[1]


def _static_matrices(call: Call) -> Tensor:
    """Return the static kernel as matrices."""
    assert call.static_kernel is not None
    matrices: Tensor = rearrange(call.static_kernel.detach(), _patterns(call).static_kernel, m=_groups(call))
    return matrices.contiguous()


def _chunks(call: Call) -> Iterator[tuple[slice, Tensor]]:
    """Yield the images of each chunk and memory for their columns, ``[n, C, K, Ho, Wo]``, the same for all chunks."""
    x, geometry = call.x, call.geometry
    of_an_image = call.channels * geometry.taps * geometry.output[0] * geometry.output[1] * x.element_size()
    parts = list(chunks_of(x.shape[0], of_an_image))
    most = max(images.stop - images.start for images in parts)
    if is_channels_last(x):
        columns = x.new_empty((most, *geometry.output, geometry.taps, call.channels)).permute(0, 4, 3, 1, 2)
    else:
        columns = x.new_empty((most, call.channels, geometry.taps, *geometry.output))
    for images in parts:
        yield images, columns[: images.stop - images.start]


def _unfolding(call: Call, images: slice) -> Call:
    """Return the call whose output are these images' samples, each with its weight of the dynamic kernel."""
    return chunk_of(call, images)._replace(static_kernel=None, aggregation="unfold")


def _write_product(left: Tensor, right: Tensor, target: Tensor, pattern: str, groups: int) -> None:
    """Write the product of matrices to a tensor that ``pattern`` makes into matrices; ``left`` has one for each convolution group."""
    matrices = rearrange(target, pattern, m=groups)
    repeated = left.expand(len(right) // groups, *left.shape).flatten(0, 1)
    _product(repeated, right, matrices)
    if matrices.data_ptr() != target.data_ptr():  # a copy, since the target does not lie in memory as matrices do
        sizes = dict(zip(pattern.split(" -> ")[0].replace("(", "").replace(")", "").split()[3:], target.shape[2:], strict=True))
        target.copy_(rearrange(matrices, _reversed(pattern), m=groups, **sizes))


def _product(left: Tensor, right: Tensor, memory: Tensor | None = None) -> Tensor:
    """Return the products of matrices in their own dtype, whatever autocast says of matrix products; nothing in ``memory`` is read."""
    memory = left.new_empty((*left.shape[:2], right.shape[2])) if memory is None else memory
    return memory.baddbmm_(left, right, beta=0)


def _reversed(pattern: str) -> str:
    """Return the pattern that takes back a pattern."""
    return " -> ".join(reversed(pattern.split(" -> ")))
