"""Pure torch, runs and exports everywhere. Refuses nothing.

The sums run over taps, so the columns ``[B, C, K, P]`` never exist: a tap on the regular grid is a view of the padded image, a tap with
offsets is sampled again in backward. Gradients are written in differentiable torch operations, hence double backward works.
An exported program has the columns, and few operations; so has a call under ``torch.func.vmap`` or ``jvp``, since each of its operations
is torch's own.
"""

from functools import partial

from torch import Tensor

from unified_extractor.ops.backends.eager import columns
from unified_extractor.ops.backends.eager.sums import Sample, TapProducts, TapSum
from unified_extractor.ops.call import Call
from unified_extractor.ops.channel_kernels import convolve_images, is_convolution_of_images, run_channel_kernel
from unified_extractor.ops.dynamic_kernels import AttentionKernel
from unified_extractor.ops.fold_as_gather import compose_fold, composed_geometry, composing_is_cheaper
from unified_extractor.ops.onnx_nodes import deform_conv, is_deform_conv
from unified_extractor.ops.rewrites import run_rewritten
from unified_extractor.ops.tracing import needs_plain_operations
from unified_extractor.ops.upsampling import run_sub_positions


class Eager:
    """The backend of plain torch."""

    name = "eager"

    def unusable_because(self) -> None:
        """Return None: torch is there."""

    def refuses_because(self, call: Call) -> None:
        """Return None: it runs every call."""

    def is_fast(self, call: Call, *, recomputing: bool) -> bool:
        """Return True: only the reference is behind it."""
        return True

    def recomputes(self, call: Call, *, demanded: bool) -> bool:
        """Return False: the dynamic kernel is stored."""
        return False

    def run(self, call: Call) -> Tensor:
        """Return the output of a call."""
        if call.geometry.upsample != (1, 1):
            return run_sub_positions(call, self.run)
        if call.channel_kernel is not None:
            return run_channel_kernel(call, self.run)
        if call.aggregation == "unfold":
            return columns.columns(call.x, call.offsets, call.geometry) if _has_columns(call) else _sample(call)
        if call.aggregation == "similarity":
            return _similarity(call)
        if is_deform_conv(call):
            return deform_conv(call)
        return run_rewritten(call, _aggregate)


def _has_columns(call: Call) -> bool:
    return call.offsets is None or needs_plain_operations()


def _sample(call: Call) -> Tensor:
    return Sample.apply(call.x, call.offsets, call.geometry)


def _similarity(call: Call) -> Tensor:
    kernel = call.dynamic_kernel
    assert isinstance(kernel, AttentionKernel)
    if needs_plain_operations():
        return columns.similarity(kernel.query, call.x, call.offsets, kernel.heads, call.geometry)
    return TapProducts.apply(kernel.query, call.x, call.offsets, kernel.heads, call.geometry)


def _aggregate(call: Call) -> Tensor:
    """Run a gather or fold that multiplies."""
    x, static_kernel, dynamic_kernel, offsets = call.x, call.static_kernel, call.stored_kernel, call.offsets
    geometry, fold = call.geometry, call.aggregation == "fold"
    if needs_plain_operations():
        return columns.product(call)
    if is_convolution_of_images(call):
        return convolve_images(call, partial(run_rewritten, aggregate=_aggregate))
    if fold and static_kernel is None and offsets is None and dynamic_kernel is not None:
        per_position = dynamic_kernel.shape[-2:] == geometry.output  # a kernel of the whole image is never expanded
        if per_position and composing_is_cheaper(geometry, channels=x.shape[1], groups=dynamic_kernel.shape[1]):
            dynamic_kernel = compose_fold(dynamic_kernel, geometry)
            geometry, fold = composed_geometry(geometry), False
    return TapSum.apply(x, static_kernel, dynamic_kernel, offsets, geometry, fold)
