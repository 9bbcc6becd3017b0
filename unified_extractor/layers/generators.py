"""Dynamic kernels: the feature that they are generated from, and the modules that compute them.

B batch, C channels, G kernel groups, K taps, M terms, Ho, Wo output positions, h, w the positions of a feature (1, 1 for a global view,
kh, kw for a pooled one, 1, K for one of runs) and of a generated kernel (1, 1 for all three; finer than the feature by ``upsample``).
"""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from unified_extractor.layers.blocks import SameConv2d, average_pooled, cell_means, hidden_layer, input_projection
from unified_extractor.layers.shifts import PositionVectors, position_bias, position_table
from unified_extractor.ops.dynamic_kernels import (
    NORMALIZATIONS,
    AttentionKernel,
    LinearKernel,
    centered,
    normalized,
    scaled,
    without_outside_taps,
)
from unified_extractor.ops.functional import similarity
from unified_extractor.ops.geometry import Geometry, at_centers
from unified_extractor.ops.tracing import with_plain_strides
from unified_extractor.ops.upsampling import fine_values
from unified_extractor.spec import ExtractorSpec, Generator, as_pair


class Feature(nn.Module):
    """The input of the heads of kernel and offsets: the generator's view of the image, at the output positions."""

    def __init__(self, channels: int, spec: ExtractorSpec, stride: tuple[int, int]) -> None:
        super().__init__()
        generator = spec.generator
        self.view, self.stride, self.skips = generator.view, stride, generator.downsample == "skip"
        self.cells = (1, spec.taps) if generator.view == "runs" else as_pair(spec.kernel_size)
        self.upsample = as_pair(spec.upsample) if generator.pixel_shuffle else (1, 1)
        channels //= prod(self.upsample)
        self.channels = _hidden_channels(channels, generator)
        biased = generator.norm != "batch"
        if generator.reduces:
            self.reduce = hidden_layer(nn.Conv2d(channels, self.channels, 1, bias=biased), generator)
        if generator.looks_around and generator.view_convolution == "depthwise":
            look = _view_convolution(self.channels, self.channels, spec, stride, groups=self.channels, bias=biased)
            self.look = hidden_layer(look, generator, activate=not generator.pointwise)
        if generator.pointwise:
            self.mix = hidden_layer(nn.Conv2d(self.channels, self.channels, 1, bias=biased), generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature ``[B, hidden, h, w]`` of an image ``[B, C, H, W]``."""
        if self.view == "global":
            return self.of_mean(x)
        x = fine_values(x, self.upsample)
        if self.view == "pooled":
            x = cell_means(x, self.cells)
        elif self.view == "runs":
            x = cell_means(with_plain_strides(x).flatten(2).unsqueeze(2), self.cells)
        elif self.stride != (1, 1):
            x = self._at_output_positions(x)
        return self._hidden(x)

    def _at_output_positions(self, x: Tensor) -> Tensor:
        """Return an image as the layers take it, before which the stride is made; those of a wider view may have it themselves."""
        if self.view == "window" or (self.skips and self.view not in (1, (1, 1))):
            return x
        return at_centers(x, self.stride) if self.skips else average_pooled(x, self.stride)

    def of_mean(self, x: Tensor) -> Tensor:
        """Return the feature ``[B, hidden, 1, 1]`` of the mean of an image ``[B, C, H, W]``."""
        return self._hidden(fine_values(x, self.upsample).mean((2, 3), keepdim=True))

    def _hidden(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


def _hidden_channels(channels: int, generator: Generator) -> int:
    if generator.hidden_channels is not None:
        return generator.hidden_channels
    return channels if generator.reduction is None else max(1, channels // generator.reduction)


def head(
    feature: Feature,
    out_channels: int,
    spec: ExtractorSpec,
    stride: tuple[int, int],
    *,
    initial: float | None,
    bias: bool = True,
) -> nn.Conv2d:
    """Return the last, linear layer: 1x1, or a convolution over a dense view. ``initial``: a value that it emits everywhere at the start;
    None: random weights.
    """
    if spec.generator.view_convolution == "dense":
        layer: nn.Conv2d = _view_convolution(feature.channels, out_channels, spec, stride, bias=bias)
    else:
        layer = nn.Conv2d(feature.channels, out_channels, 1, bias=bias)
    return _started(layer, initial)


def _started(layer: Any, initial: float | None) -> Any:
    """Return a linear layer that emits a value everywhere at the start; None: random weights."""
    if initial is not None:
        nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, initial)
    return layer


def _view_convolution(
    in_channels: int, out_channels: int, spec: ExtractorSpec, stride: tuple[int, int], groups: int = 1, bias: bool = True
) -> SameConv2d:
    """Return a convolution over the generator's view; over the extractor's own window it has the extractor's geometry."""
    if spec.generator.view != "window":
        steps = stride if spec.generator.downsample == "skip" else 1
        return SameConv2d(in_channels, out_channels, as_pair(spec.generator.view), stride=steps, groups=groups, bias=bias)
    return SameConv2d(
        in_channels,
        out_channels,
        spec.kernel_size,
        stride=stride,
        dilation=spec.dilation,
        padding=spec.padding,
        groups=groups,
        bias=bias,
    )


def offset_groups(spec: ExtractorSpec, channels: int) -> int:
    """Return F, the number of channel groups that have offsets of their own."""
    own = spec.offsets
    return own.groups if own.channels_per_group is None else channels // own.channels_per_group


def offset_channels(spec: ExtractorSpec, groups: int) -> int:
    """Return the number of learned offsets that are emitted a position, for all windows there, with F ``groups``."""
    if spec.offsets.kind != "learned":
        return 0
    return 2 * groups * (spec.taps - spec.dynamic_kernel.remove_center) * prod(spec.sub_positions)


def with_zero_center(values: Tensor, taps: int, axis: int) -> Tensor:
    """Return K taps at an axis, from K - 1 taps and a zero at the center."""
    before, after = values.split(taps // 2, axis)
    return torch.cat([before, torch.zeros_like(before.narrow(axis, 0, 1)), after], axis)


def _is_untouched(module: nn.Module, kind: type) -> bool:
    """Return whether a module is of exactly this class and has no hooks: not wrapped, parametrized, pruned, sharded or observed."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) is kind and not any(hooks) and "forward" not in vars(module)


class GeneratedKernel(nn.Module):
    """The dynamic kernel of a generator: a linear function of the feature, normalized."""

    def __init__(self, feature: Feature, groups: int, head_dim: int, spec: ExtractorSpec, stride: tuple[int, int]) -> None:
        super().__init__()
        dynamic = spec.dynamic_kernel
        self.taps = spec.taps
        self.remove_center, self.per_tap = dynamic.remove_center, dynamic.per_tap
        self.normalization = dynamic.normalization
        self.terms, self.over_terms = spec.terms, dynamic.softmax_over == "terms"
        self.scale, self.gain = head_dim**-0.5 if dynamic.scale_by_head_dim else 1.0, dynamic.gain
        self.pooled = spec.generator.view in ("pooled", "runs")
        emitted = spec.taps - dynamic.remove_center if dynamic.per_tap else 1
        self.shape: tuple[int, ...] = (groups, emitted) if spec.aggregation == "gather" else (groups, emitted, emitted)
        if spec.terms > 1:
            self.shape = (spec.terms, *self.shape)
        values = torch.Size(self.shape).numel()
        self.sub_positions = spec.sub_positions
        self.channels = values // spec.taps if self.pooled else values * prod(self.sub_positions)
        emitted_offsets = offset_channels(spec, offset_groups(spec, groups * head_dim))
        surplus = -(self.channels + emitted_offsets) % spec.generator.head_multiple
        initial = {"random": None, "zero": 0.0, "one": 1 / (self.scale * self.gain)}[dynamic.initial]
        if spec.generator.view == "runs":
            if feature.channels != groups:
                raise ValueError(
                    "generator.view='runs' needs one hidden channel for each kernel, got generator.reduction="
                    f"{spec.generator.reduction} and {feature.channels} hidden channels for {groups} kernels"
                )
            self.head: nn.Conv2d | nn.Linear = _started(nn.Linear(spec.taps, spec.taps), initial)
        else:
            self.head = head(feature, self.channels + surplus, spec, stride, initial=initial)
        if dynamic.normalization == "group_norm":
            self.norm = nn.GroupNorm(groups, values)
        if dynamic.normalization == "centered":
            self.mean_share = nn.Parameter(torch.zeros(self.shape[: 1 if spec.terms == 1 else 2]))  # logits: half of the mean

    def forward(self, feature: Tensor) -> Tensor:
        """Return ``[B, G, K, h, w]`` of a feature ``[B, hidden, h, w]``, for fold ``[B, G, K, K, h, w]`` (output tap, source tap), for M
        terms ``[B, M, G, K, h, w]``; a gate has 1 in the place of K, as a pooled view's kernel has of a feature ``[B, hidden, 1, 1]``.
        """
        values = fine_values(with_plain_strides(self.head(feature)[:, : self.channels]), self.sub_positions)
        if self.pooled:
            values = values.flatten(1)[:, :, None, None]  # what a channel has at the cells are the values of its taps
        if self.normalization == "group_norm":
            values = self.norm(values)
        values = values.unflatten(1, (*self.shape[:-1], -1) if self.pooled else self.shape) * self.scale
        values = scaled(self._normalized(values), self.gain)
        return with_zero_center(values, self.taps, -3) if self.remove_center else values

    def _normalized(self, values: Tensor) -> Tensor:
        if self.normalization == "centered":
            return centered(values, self.mean_share)
        return values.softmax(1) if self.over_terms else normalized(values, self.normalization)

    def as_linear_map(self, feature: Tensor, geometry: Geometry) -> LinearKernel | None:
        """Return the kernel as a linear map of each position's feature, where it is one and nothing observes this module's calls."""
        if (
            not (_is_untouched(self, GeneratedKernel) and _is_untouched(self.head, nn.Conv2d))
            or self.head.kernel_size != (1, 1)
            or self.normalization not in NORMALIZATIONS
            or self.remove_center
            or self.gain != 1
            or self.terms > 1
            or self.pooled
            or not self.per_tap
            or feature.shape[2:] != geometry.output
        ):
            return None
        weight, bias = self.head.weight.flatten(1)[: self.channels], self.head.bias
        bias = None if bias is None else bias[: self.channels]
        return LinearKernel(feature, weight, bias, self.scale, self.normalization)


class SimilarityKernel(nn.Module):
    """The dynamic kernel of attention: products of query and keys inside the window, plus a bias of their relative position, or the
    query's product with a vector of that."""

    def __init__(self, channels: int, groups: int, spec: ExtractorSpec, stride: tuple[int, int]) -> None:
        super().__init__()
        dynamic = spec.dynamic_kernel
        self._spec, self.groups, self.stride = spec, groups, stride
        self.scale = (channels // groups) ** -0.5 if dynamic.scale_by_head_dim else 1.0
        self.query = input_projection(channels, channels // dynamic.query_reduction, spec)
        self.key = input_projection(channels, channels // dynamic.query_reduction, spec)
        self.position: nn.Parameter | PositionVectors | None = None
        if dynamic.relative_position == "query":
            self.position = PositionVectors(channels // dynamic.query_reduction // groups, spec)
        elif dynamic.relative_position:
            self.position = position_table(groups, as_pair(spec.kernel_size), spec)

    def forward(self, x: Tensor, offsets: Tensor | None, geometry: Geometry) -> Tensor:
        """Return ``[B, G, K, Ho, Wo]`` of an image ``[B, C, H, W]`` and the offsets of its sampling points."""
        query = self._scaled_query(x)
        values = similarity(
            query,
            self.key(x),
            self._spec.kernel_size,
            heads=self.groups,
            offsets=offsets,
            stride=self.stride,
            dilation=self._spec.dilation,
        )
        if isinstance(self.position, PositionVectors):
            values = values + self.position(query, geometry)
        elif self.position is not None:
            values = values + position_bias(self.position, geometry, self._spec)
        normalization = self._spec.dynamic_kernel.normalization
        return normalized(without_outside_taps(values, geometry, offsets, normalization), normalization)

    def as_attention(self, x: Tensor, offsets: Tensor | None) -> AttentionKernel | None:
        """Return query, keys and position, where these make the kernel: on the regular grid, and nothing observes this module's calls."""
        if offsets is not None or isinstance(self.position, PositionVectors) or not _is_untouched(self, SimilarityKernel):
            return None
        normalization = self._spec.dynamic_kernel.normalization
        assert normalization in ("none", "softmax", "sigmoid")  # the spec refuses the others beside query-key products
        return AttentionKernel(self._scaled_query(x), self.key(x), self.groups, self.position, normalization)

    def _scaled_query(self, x: Tensor) -> Tensor:
        pooled = x if self.stride == (1, 1) else average_pooled(x, self.stride)
        return self.query(pooled) * self.scale
