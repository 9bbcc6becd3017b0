"""What any backend leaves to others: plain convolution to torch, sums of two kernels to two calls."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from unified_extractor.ops.dynamic_kernels import KernelGenerator
from unified_extractor.ops.geometry import Geometry, padded

Dynamic = Tensor | KernelGenerator | None
"""A dynamic kernel, or what makes it where it is used; what combines it as "residual" is not normalized."""

Product = Callable[[Tensor, Tensor | None, Any, Tensor | None, Geometry, str], Tensor]
"""``(x, static_kernel, dynamic_kernel, offsets, window, aggregation)``: the operator with ``combine="multiply"``, without bias."""


Combined = Callable[[Tensor, Tensor, Any, Tensor | None, Geometry, str], Tensor]
"""``(x, static_kernel, dynamic_kernel, offsets, window, combine)``: a gather with another ``combine``, each channel alone."""


def decomposed(product: Product, combined: Combined | None = None) -> Callable[..., Tensor]:
    """A backend's ``extract`` from its product of kernels and, where it can, from other combinations of them."""

    def extract(
        x: Tensor,
        static_kernel: Tensor | None,
        dynamic_kernel: Dynamic,
        offsets: Tensor | None,
        bias: Tensor | None,
        geometry: Geometry,
        combine: str,
        aggregation: str,
    ) -> Tensor:
        """See :func:`unified_extractor.extract`; the arguments are checked already."""
        if offsets is None and dynamic_kernel is None and aggregation == "gather":
            return _convolution(x, static_kernel, bias, geometry)
        if combined and combine != "multiply" and static_kernel is not None and static_kernel.shape[:2] == (x.shape[1], 1):
            assert dynamic_kernel is not None
            y = combined(x, static_kernel, dynamic_kernel, offsets, geometry, combine)
            return y if bias is None else y + bias[:, None, None]
        if combine == "add":
            static_part = extract(x, static_kernel, None, offsets, bias, geometry, "multiply", "gather")
            return static_part + product(x, None, dynamic_kernel, offsets, geometry, "gather")
        if combine == "residual" and dynamic_kernel is not None:
            dynamic_kernel = 1 + dynamic_kernel if isinstance(dynamic_kernel, Tensor) else dynamic_kernel.plus_one(geometry)
        y = product(x, static_kernel, dynamic_kernel, offsets, geometry, aggregation)
        return y if bias is None else y + bias[:, None, None]

    return extract


def _convolution(x: Tensor, static_kernel: Tensor | None, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """torch's own convolution; a plain window sum is one with ones."""
    if static_kernel is None:
        static_kernel = x.new_ones(x.shape[1], 1, *geometry.kernel_size)
    padding = geometry.padding
    if geometry.padding_after != padding:
        x, padding = padded(x, geometry), (0, 0)
    return F.conv2d(x, static_kernel, bias, geometry.stride, padding, geometry.dilation, x.shape[1] // static_kernel.shape[1])
