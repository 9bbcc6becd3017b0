"""The one layer: any extractor a spec can describe."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unified_extractor.layers.generators import Feature, GeneratedKernel, SimilarityKernel
from unified_extractor.layers.samplers import LearnedOffsets
from unified_extractor.ops import checks
from unified_extractor.ops.autocast import autocasts
from unified_extractor.ops.custom_ops import Call
from unified_extractor.ops.dynamic_kernels import KernelGenerator
from unified_extractor.ops.epilogue import center_blended, overlap_normalized
from unified_extractor.ops.functional import attend, extract, fuses, generate_and_extract
from unified_extractor.ops.geometry import Geometry, window_shift
from unified_extractor.spec import ExtractorSpec, as_pair


class UnifiedExtractor2d(nn.Module):
    """An extractor with parameters: generator, kernels, sampling, aggregation, as its spec says.

    Args:
        in_channels: C.
        out_channels: O. Differs from C only where a dense static kernel or an output projection mixes channels.
        spec: what to build; see :class:`unified_extractor.ExtractorSpec` and :mod:`unified_extractor.presets`.
        stride: pixels between windows, an int or (y, x). A gather shrinks the map by it, a fold does not.
        fused: whether a dynamic kernel is made where it is used, instead of being stored for backward, if it is a linear map of
            each position by itself or attention's on the regular grid. None: where that is faster. True: also where it is slower,
            so that it is not kept. False: never. What has been wrapped, parametrized or given hooks is called, and so stored.

    Shape:
        ``[B, C, H, W]`` to ``[B, O, H', W']``; for padding "same" H' is ceil(H / downsampling).

    Attributes:
        downsampling: by how much the map shrinks, an int or (y, x): ``stride`` for gather, 1 for fold.
        kernel_groups: G, the dynamic kernels a position; 1 where there is none.
        fused: as given; it may be changed at any time. Where it is fused, the child ``kernel`` is not called.

    Raises:
        ValueError, TypeError: channels that groups do not divide, or an image that does not fit; the message names the rule.
    """

    fused: bool | None = None
    """Of the class: layers that were pickled before there was a switch have none of their own."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spec: ExtractorSpec,
        stride: int | tuple[int, int] = 1,
        *,
        fused: bool | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
        if not isinstance(spec, ExtractorSpec):
            raise TypeError(f"spec must be an ExtractorSpec, got {type(spec).__name__}")
        steps = checks.pair("stride", stride, 1)
        self.in_channels, self.out_channels, self.spec, self.stride = in_channels, out_channels, spec, stride
        checks.fused(fused)
        self.fused = fused
        self.downsampling = stride if spec.aggregation == "gather" else 1
        self.kernel_groups = _kernel_groups(spec, in_channels)
        aggregated = self._check_channels()
        self._add_generator(steps)
        projection = spec.projection
        if projection.input != "none":
            self.value = nn.Conv2d(in_channels, in_channels, 1, bias=projection.input == "affine")
        self._add_static_kernel(aggregated)
        if projection.output != "none":
            self.projection = nn.Conv2d(aggregated, out_channels, 1, bias=projection.output == "affine")

    def _check_channels(self) -> int:
        """Rules between channels and spec. Returns the channels that the operator puts out."""
        spec, channels = self.spec, self.in_channels
        _divides("offsets.groups", spec.offsets.groups, "in_channels", channels)
        _divides("static_kernel.groups", spec.static_kernel.groups, "in_channels", channels)
        if spec.dynamic_kernel.source == "similarity" and self.kernel_groups % spec.offsets.groups:
            raise ValueError(
                f"offsets.groups={spec.offsets.groups} must divide the heads of a similarity kernel, got {self.kernel_groups}"
            )
        dense = spec.static_kernel.channels == "dense"
        if not dense and spec.projection.output == "none" and self.out_channels != channels:
            raise ValueError(
                "out_channels must equal in_channels where neither a dense static_kernel nor projection.output mixes channels, "
                f"got in_channels={channels}, out_channels={self.out_channels}"
            )
        aggregated = self.out_channels if dense else channels
        _divides("static_kernel.groups", spec.static_kernel.groups, "out_channels", aggregated)
        if spec.combine == "add" and aggregated != channels:
            raise ValueError(f"combine='add' needs out_channels equal to in_channels, got {self.out_channels} and {channels}")
        return aggregated

    def _add_generator(self, stride: tuple[int, int]) -> None:
        spec, channels = self.spec, self.in_channels
        if spec.generates:
            self.feature = Feature(channels, spec, stride)
        if spec.offsets.kind == "learned":
            self.offsets = LearnedOffsets(self.feature, spec, stride)
        if spec.dynamic_kernel.source == "generated":
            self.kernel: GeneratedKernel | SimilarityKernel = GeneratedKernel(
                self.feature, self.kernel_groups, channels // self.kernel_groups, spec, stride
            )
        elif spec.dynamic_kernel.source == "similarity":
            self.kernel = SimilarityKernel(channels, self.kernel_groups, spec, stride)
        if spec.center_feature_scale:
            self.center_gate = nn.Conv2d(self.feature.channels, self.kernel_groups, 1)
            nn.init.zeros_(self.center_gate.weight)
            nn.init.zeros_(self.center_gate.bias)  # type: ignore[arg-type]

    def _add_static_kernel(self, aggregated: int) -> None:
        static = self.spec.static_kernel
        self.static_kernel: nn.Parameter | None = None
        self.bias = nn.Parameter(torch.zeros(aggregated)) if self.spec.bias else None
        if static.channels != "none":
            per_group = 1 if static.channels == "depthwise" else self.in_channels // static.groups
            self.static_kernel = nn.Parameter(torch.empty(aggregated, per_group, *as_pair(self.spec.kernel_size)))
            nn.init.kaiming_uniform_(self.static_kernel, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, O, H', W']``."""
        geometry = self.geometry(x)
        feature = self.feature(x) if self.spec.generates else None
        offsets = self._offsets(x, feature, geometry)
        value = self._dealt(self.value(x) if self.spec.projection.input != "none" else x)
        y = self._aggregate(x, value, feature, offsets, geometry)
        if self.spec.overlap_normalize:
            y = overlap_normalized(y, geometry)
        if self.spec.center_feature_scale:
            y = center_blended(y, value, self.center_gate(feature), geometry)
        y = self._collected(y)
        if self.bias is not None and self._inner_bias is None:
            y = y + self.bias[:, None, None]
        return self.projection(y) if self.spec.projection.output != "none" else y

    def generate(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What this image makes the layer use: offsets ``[B, F, K, 2, h, w]`` in pixels, and the dynamic kernel
        ``[B, G, K, h, w]`` (fold: ``[B, G, K, K, h, w]``), h and w being Ho, Wo, or 1 for a global view; None for what the spec
        does not have.
        """
        geometry = self.geometry(x)
        feature = self.feature(x) if self.spec.generates else None
        offsets = self._offsets(x, feature, geometry)
        return offsets, self._dynamic_kernel(x, feature, offsets, geometry)

    def geometry(self, x: Tensor) -> Geometry:
        """The geometry of this layer on an image. Raises ``ValueError`` or ``TypeError`` if the image does not fit."""
        geometry = checks.geometry(x, self.spec.kernel_size, self.stride, self.spec.padding, self.spec.dilation)
        if x.shape[1] != self.in_channels:
            raise ValueError(f"x must have in_channels={self.in_channels} channels, got shape {list(x.shape)}")
        parameter = next(self.parameters(), x)
        if x.dtype != parameter.dtype and not autocasts(x):
            raise TypeError(f"x must have the dtype of the layer's parameters, {parameter.dtype}, got {x.dtype}")
        return geometry

    def _offsets(self, x: Tensor, feature: Tensor | None, geometry: Geometry) -> Tensor | None:
        if self.spec.offsets.kind == "learned":
            return self.offsets(feature, geometry)
        if self.spec.offsets.kind == "window_shift":
            shift = window_shift(geometry, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
            return shift.expand(x.shape[0], 1, geometry.taps, 2, *geometry.output)
        return None

    def _dynamic_kernel(self, x: Tensor, feature: Tensor | None, offsets: Tensor | None, geometry: Geometry) -> Tensor | None:
        if self.spec.dynamic_kernel.source == "generated":
            return self.kernel(feature)
        return self.kernel(x, offsets, geometry) if self.spec.dynamic_kernel.source == "similarity" else None

    def _aggregate(self, x: Tensor, value: Tensor, feature: Tensor | None, offsets: Tensor | None, geometry: Geometry) -> Tensor:
        """The operator on ``value``, with a kernel made on the way or, where that does not pay, before."""
        spec = self.spec
        options: dict[str, Any] = {
            "kernel_size": spec.kernel_size,
            "static_kernel": self.static_kernel,
            "bias": self._inner_bias,
            "stride": self.stride,
            "dilation": spec.dilation,
            "combine": spec.combine,
        }
        if spec.dynamic_kernel.source == "similarity" and (products := self._products(x, offsets)) is not None:
            query, key, position = products
            options |= {"normalization": spec.dynamic_kernel.normalization, "fused": self.fused}
            return attend(value, query, key, heads=self.kernel_groups, position=position, **options)
        options |= {"offsets": offsets, "padding": spec.padding, "aggregation": spec.aggregation}
        if (made := self._map(value, feature, offsets, geometry)) is None:
            return extract(value, dynamic_kernel=self._dynamic_kernel(x, feature, offsets, geometry), **options)
        options |= {"scale": made.scale, "normalization": made.normalization, "fused": self.fused}
        return generate_and_extract(value, made.feature, head_weight=made.weight, head_bias=made.bias, **options)

    def _products(self, x: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """What makes a similarity kernel, if it can be made where it is used."""
        if self.fused is False or not isinstance(self.kernel, SimilarityKernel):
            return None
        return self.kernel.products(x, offsets)

    def _map(self, value: Tensor, feature: Tensor | None, offsets: Tensor | None, geometry: Geometry) -> KernelGenerator | None:
        """What makes a generated kernel where it is used; None: it is stored, by its modules, whose calls are what costs count."""
        spec = self.spec
        if self.fused is False or feature is None or spec.dynamic_kernel.source != "generated":
            return None
        made = self.kernel.map(feature, geometry) if isinstance(self.kernel, GeneratedKernel) else None
        call = Call(value, self.static_kernel, None, offsets, geometry, spec.aggregation, spec.combine, generator=made)
        return made if made is not None and fuses(call, self.fused) else None

    @property
    def _inner_bias(self) -> Tensor | None:
        """The bias, where the operator adds it: only a static kernel that mixes channels leaves them in their final order."""
        return self.bias if self.spec.static_kernel.channels == "dense" else None

    def _dealt(self, x: Tensor) -> Tensor:
        """Channels in the order in which groups are contiguous."""
        interleaved = self.spec.dynamic_kernel.channel_order == "interleaved"
        return F.channel_shuffle(x, self.in_channels // self.kernel_groups) if interleaved else x

    def _collected(self, y: Tensor) -> Tensor:
        """The inverse of :meth:`_dealt`."""
        return F.channel_shuffle(y, self.kernel_groups) if self.spec.dynamic_kernel.channel_order == "interleaved" else y

    def __repr__(self) -> str:
        """The call that makes this layer."""
        stride = "" if self.stride == 1 else f", stride={self.stride}"
        fused = "" if self.fused is None else f", fused={self.fused}"
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, {self.spec!r}{stride}{fused})"


def _kernel_groups(spec: ExtractorSpec, channels: int) -> int:
    """G, the number of dynamic kernels a position; 1 where there is none."""
    dynamic = spec.dynamic_kernel
    if dynamic.channels_per_group is not None:
        _divides("dynamic_kernel.channels_per_group", dynamic.channels_per_group, "in_channels", channels)
        return channels // dynamic.channels_per_group
    groups = 1 if dynamic.groups is None else dynamic.groups
    _divides("dynamic_kernel.groups", groups, "in_channels", channels)
    return groups


def _divides(name: str, value: int, of: str, channels: Any) -> None:
    if channels % value:
        raise ValueError(f"{name} must divide {of}, got {name.rsplit('.')[-1]}={value}, {of}={channels}")
