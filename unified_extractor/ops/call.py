"""One call of the operator: its tensors, its sizes, its switches. Built once by the checks and handed on whole."""

from typing import Literal, NamedTuple

from torch import Tensor

from unified_extractor.ops.dynamic_kernels import AttentionKernel, ComputedKernel, LinearKernel, kernel_shape
from unified_extractor.ops.geometry import Geometry

Aggregation = Literal["gather", "fold", "unfold", "similarity"]
"""Gather and fold as in :func:`unified_extractor.extract`. ``unfold``: the samples of all taps. ``similarity``: query-key products."""
Combine = Literal["multiply", "add", "residual"]


class Call(NamedTuple):
    """The arguments of an operator, checked. Letters: B batch, C channels, O outputs, G kernel groups, F offset groups, K taps."""

    x: Tensor
    """``[B, C, H, W]``; of a similarity the keys."""
    static_kernel: Tensor | None
    """``[O, C/groups, kh, kw]``, of M terms ``[M, O, C/groups, kh, kw]``; None: the identity."""
    dynamic_kernel: Tensor | LinearKernel | AttentionKernel | None
    """``[B, G, K, Ho, Wo]``, of a fold ``[B, G, K, K, Ho, Wo]``, of M terms ``[B, M, G, K, Ho, Wo]``, or what it is computed from; None: 1.
    With a tap axis of 1 it is a gate. Of a similarity, the kernel whose products are asked for."""
    offsets: Tensor | None
    """``[B, F, K, 2, Ho, Wo]``, (y, x) in pixels; None: 0."""
    bias: Tensor | None
    """``[O]``."""
    geometry: Geometry
    aggregation: Aggregation = "gather"
    combine: Combine = "multiply"
    channel_kernel: Tensor | None = None
    """``[B, C, K]``, what the dynamic kernel is multiplied by: one for each channel and image, K may be 1; None: 1."""

    @property
    def channels(self) -> int:
        """C, the number of channels that are sampled."""
        return self.x.shape[1]

    @property
    def computed_kernel(self) -> ComputedKernel | None:
        """The linear or attention kernel, where it stands in the place of the dynamic kernel and is not itself what is asked for."""
        kernel = self.dynamic_kernel
        return None if self.aggregation == "similarity" or isinstance(kernel, Tensor) else kernel

    @property
    def stored_kernel(self) -> Tensor | None:
        """The dynamic kernel, where it is given as a tensor."""
        return self.dynamic_kernel if isinstance(self.dynamic_kernel, Tensor) else None

    @property
    def kernel_tensors(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The tensors that the dynamic kernel is computed from, in the order of :class:`Wanted`; None where there are none."""
        kernel = self.computed_kernel
        if kernel is None:
            return None, None, None
        return (kernel.query, kernel.key, kernel.position) if isinstance(kernel, AttentionKernel) else kernel[:3]

    @property
    def has_gate(self) -> bool:
        """True for a dynamic kernel that has one value for all taps of a window."""
        kernel = self.stored_kernel
        return kernel is not None and self.aggregation == "gather" and kernel.shape[-3] == 1 < self.geometry.taps

    @property
    def has_kernel_of_image(self) -> bool:
        """True for dynamic kernels that are the same for all windows, also where there is none but a channel kernel."""
        return self.computed_kernel is None and (self.stored_kernel is None or self.stored_kernel.shape[-2:] == (1, 1))

    @property
    def terms(self) -> int:
        """M, the number of products of a static and a dynamic kernel that are summed; 0 where kernels have no axis of terms."""
        return 0 if self.static_kernel is None or self.static_kernel.dim() == 4 else self.static_kernel.shape[0]

    @property
    def kernel_groups(self) -> int:
        """G, the channel groups that each have a dynamic kernel of their own; 1 without one."""
        return 1 if self.dynamic_kernel is None else self.kernel_shape()[2 if self.terms else 1]

    @property
    def has_dense_kernel(self) -> bool:
        """True for a static kernel that is not depthwise: it sums over several channels, or a channel has several outputs."""
        return self.static_kernel is not None and self.static_kernel.shape[-4:-2] != (self.channels, 1)

    @property
    def outputs_per_channel(self) -> int:
        """The number of outputs that a channel reaches through a static kernel; 1 without one."""
        return 1 if self.static_kernel is None else self.static_kernel.shape[-4] * self.static_kernel.shape[-3] // self.channels

    @property
    def results_per_window(self) -> int:
        """The number of weighted sums of a window: K for fold, else 1."""
        return self.geometry.taps if self.aggregation == "fold" else 1

    def summands(self) -> tuple["Call", "Call"]:
        """Return the calls whose outputs add up to that of a call with another ``combine`` than "multiply".

        ``S + D`` is the static kernel and the dynamic one, ``S * (1 + D)`` the static kernel and the product. The first has the bias.
        """
        static = self._replace(dynamic_kernel=None, channel_kernel=None, combine="multiply")
        static_factor = None if self.combine == "add" else self.static_kernel
        return static, self._replace(static_kernel=static_factor, bias=None, combine="multiply")

    def kernel_shape(self) -> list[int]:
        """Return the shape of the dynamic kernel, which there must be."""
        assert self.dynamic_kernel is not None
        if isinstance(self.dynamic_kernel, Tensor):
            return list(self.dynamic_kernel.shape)
        return kernel_shape(self.dynamic_kernel, self.geometry, self.aggregation)

    def output_shape(self) -> list[int]:
        """Return the shape of the output: ``[B, O, Ho, Wo]``, fold ``[B, C, H, W]``, unfold ``[B, C, K, Ho, Wo]``, similarity a kernel."""
        if self.aggregation == "similarity":
            return self.kernel_shape()
        channels = self.channels if self.static_kernel is None else self.static_kernel.shape[-4]
        if self.aggregation == "fold":
            return [self.x.shape[0], channels, *self.geometry.image]
        taps = [self.geometry.taps] if self.aggregation == "unfold" else []
        return [self.x.shape[0], channels, *taps, *self.geometry.output]


class Wanted(NamedTuple):
    """The gradients that are asked for, each 1 or 0."""

    x: int
    static_kernel: int
    dynamic_kernel: int
    offsets: int
    feature: int = 0
    """The gradient of a linear kernel's feature, or of attention's query."""
    weight: int = 0
    """The gradient of a linear kernel's weight, or of attention's keys."""
    bias: int = 0
    """The gradient of a linear kernel's bias, or of attention's position."""


def similarity_call(query: Tensor, key: Tensor, heads: int, offsets: Tensor | None, geometry: Geometry) -> Call:
    """Return the call whose output are the products of each query with the keys at its taps, ``[B, heads, K, Ho, Wo]``."""
    return Call(key, None, AttentionKernel(query, key, heads, None, "none"), offsets, None, geometry, "similarity")
