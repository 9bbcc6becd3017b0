"""The one layer: any extractor a spec can describe."""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unified_extractor.layers.blocks import average_pooled, input_projection
from unified_extractor.layers.channel_kernels import ChannelKernel
from unified_extractor.layers.gaussian_kernel import GaussianKernel
from unified_extractor.layers.generators import Feature, GeneratedKernel, SimilarityKernel, head, offset_groups
from unified_extractor.layers.guides import check_guide_channels, guide_size, source_of_kernels
from unified_extractor.layers.learned_queries import LearnedQueryKernel
from unified_extractor.layers.leaves import refuse_scripting, traced_as_leaf
from unified_extractor.layers.offsets import LearnedOffsets, ParameterOffsets, reach_of_taps
from unified_extractor.layers.regions import RegionKernel, in_one_window
from unified_extractor.layers.shifts import shift
from unified_extractor.named_specs import as_spec
from unified_extractor.names import suggesting_arguments
from unified_extractor.ops import checks
from unified_extractor.ops.autocast import autocasts
from unified_extractor.ops.checks import DynamicKernel
from unified_extractor.ops.dispatch import KERNEL_MEMORY, KernelMemory
from unified_extractor.ops.epilogue import center_blended, mixed_bias, modulated, overlap_normalized
from unified_extractor.ops.functional import extract
from unified_extractor.ops.geometry import Geometry
from unified_extractor.ops.spread_kernels import spread_kernel, spreading_pays
from unified_extractor.spec import ExtractorSpec, as_pair


class UnifiedExtractor2d(nn.Module):
    """An extractor with parameters: generator, kernels, sampling, aggregation, as its spec says.

    Args:
        in_channels: C.
        out_channels: O. Differs from C only where a dense static kernel or an output projection mixes channels;
            :class:`unified_extractor.ExtractorConv2d` takes any.
        spec: what to build; see :class:`unified_extractor.ExtractorSpec` and :mod:`unified_extractor.presets`. A preset's name or call
            such as "involution(kernel_size=3)" stands for its spec.
        stride: pixels between windows, an int or (y, x). A gather shrinks the map by it, a fold does not: where the map must shrink take
            :class:`unified_extractor.ExtractorConv2d`.
        kernel_memory: for a dynamic kernel that is a linear map of each position by itself, or attention's on the regular grid.
            "auto": the faster of the two ways. "store": it is saved for backward. "recompute": it is computed where it is used and
            again in backward, also where that is slower. A kernel module that was wrapped, parametrized or given hooks is called,
            and its result stored.
        guide_channels: channels of the guide, another map from which ``forward(x, guide)`` generates kernels and offsets, query and
            keys too, at the same positions: of the size of the image or, with ``generator.guide="output"``, of the output. None: those
            of the image, and the guide may be left out.

    Shape:
        ``[B, C, H, W]`` to ``[B, O, H', W']``; for padding "same" H' is ceil(H / downsampling) * upsampling.

    Attributes:
        downsampling: by how much the map shrinks, an int or (y, x): ``stride`` for gather, 1 for fold.
        upsampling: by how much it grows, an int or (y, x): ``spec.upsample``, beside which the stride is 1.
        kernel_groups: G, the dynamic kernels a position; 1 where there is none.
        guide_channels: channels of the map that kernels and offsets are generated from.
        kernel_memory: as given; it may be changed at any time. The child ``kernel`` is called only where its result is stored
            because of what was done to it.

    Raises:
        ValueError, TypeError: channels that groups do not divide, or an image that does not fit; the message names the rule.
    """

    kernel_memory: KernelMemory = "auto"
    """The default of the class: layers that were pickled before there was a switch have none of their own."""

    @suggesting_arguments
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spec: ExtractorSpec | str,
        stride: int | tuple[int, int] = 1,
        *,
        kernel_memory: KernelMemory = "auto",
        guide_channels: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
        spec = as_spec(spec)
        steps = checks.pair("stride", stride, 1)
        if as_pair(spec.upsample) != (1, 1) and steps != (1, 1):
            raise ValueError(f"spec.upsample={spec.upsample} needs stride=1, got stride={stride}")
        self.in_channels, self.out_channels, self.spec, self.stride = in_channels, out_channels, spec, stride
        checks.one_of("kernel_memory", kernel_memory, KERNEL_MEMORY)
        self.kernel_memory = kernel_memory
        if guide_channels is not None:
            check_guide_channels(spec, guide_channels)
        self.guide_channels = in_channels if guide_channels is None else guide_channels
        self.downsampling, self.upsampling = stride if spec.aggregation == "gather" else 1, spec.upsample
        self.kernel_groups = _heads(spec, in_channels) * (1 if spec.dynamic_kernel.small_kernel_size is None else 2)
        aggregated = self._check_channels()
        self._add_generator(steps)
        projection = spec.projection
        if projection.input != "none":
            self.value = input_projection(in_channels, in_channels, spec)
        self._add_static_kernel(aggregated)
        if spec.modulation != "none":
            self.modulation = nn.Conv2d(in_channels, aggregated, 1)
        if projection.output != "none":
            self.projection = nn.Conv2d(aggregated, out_channels, 1, bias=projection.output == "affine")

    def _check_channels(self) -> int:
        """Check the rules between channels and spec, and return the channels that the operator puts out."""
        spec, channels = self.spec, self.in_channels
        _divides("offsets.groups", spec.offsets.groups, "in_channels", channels)
        _divides("offsets.channels_per_group", spec.offsets.channels_per_group or 1, "in_channels", channels)
        _divides("static_kernel.groups", spec.static_kernel.groups, "in_channels", channels)
        groups = offset_groups(spec, channels)
        if spec.dynamic_kernel.source == "similarity" and self.kernel_groups % groups:
            raise ValueError(
                f"offsets.groups must divide the heads of dynamic_kernel.source='similarity', got {groups} groups and "
                f"{self.kernel_groups} heads"
            )
        _check_heads(spec, channels, self.guide_channels)
        if spec.generator.pixel_shuffle and self.guide_channels % math.prod(as_pair(spec.upsample)):
            raise ValueError(
                f"generator.pixel_shuffle=True needs {self._source_channels} that the outputs of a pixel divide, "
                f"got {self._source_channels}={self.guide_channels}, spec.upsample={spec.upsample}"
            )
        dense = spec.static_kernel.channels == "dense"
        if not dense and spec.projection.output == "none" and self.out_channels != channels:
            raise ValueError(
                "out_channels must equal in_channels where neither a dense static_kernel nor projection.output mixes channels, "
                f"got in_channels={channels}, out_channels={self.out_channels}: give the spec projection=Projection(output='linear'), or "
                "take ExtractorConv2d, which adds a projection where one is needed"
            )
        aggregated = self.out_channels if dense else channels
        _divides("static_kernel.groups", spec.static_kernel.groups, "out_channels", aggregated)
        if spec.combine == "add" and aggregated != channels:
            raise ValueError(
                f"combine='add' needs out_channels equal to in_channels, got {self.out_channels} and {channels}: ExtractorConv2d adds a "
                "projection where one is needed"
            )
        return aggregated

    def _add_generator(self, stride: tuple[int, int]) -> None:
        spec, channels = self.spec, self.in_channels
        if spec.generates:
            self.feature = Feature(self.guide_channels, spec, stride)
        if spec.offsets.kind == "learned":
            self.offsets: LearnedOffsets | ParameterOffsets = LearnedOffsets(
                self.feature, offset_groups(spec, channels), spec, stride
            )
        elif spec.offsets.kind == "parameter":
            self.offsets = ParameterOffsets(offset_groups(spec, channels), spec)
        if spec.dynamic_kernel.source == "generated":
            self.kernel: GeneratedKernel | SimilarityKernel | LearnedQueryKernel | GaussianKernel | RegionKernel = (
                GeneratedKernel(self.feature, self.kernel_groups, channels // self.kernel_groups, spec, stride)
            )
        elif spec.dynamic_kernel.source == "similarity":
            kernel_of = LearnedQueryKernel if spec.dynamic_kernel.learned_queries else SimilarityKernel
            self.kernel = kernel_of(self.guide_channels, self.kernel_groups, spec, stride)
        elif spec.dynamic_kernel.source == "gaussian":
            self.kernel = GaussianKernel(self.kernel_groups, spec, stride)
        elif spec.dynamic_kernel.source == "regions":
            self.kernel = RegionKernel(self.guide_channels, _heads(spec, channels), spec, stride)
        self.channel_kernel = (
            None if spec.channel_kernel.combine == "none" else ChannelKernel(channels, self.guide_channels, spec)
        )
        if spec.center_feature_scale:
            self.center_gate = head(self.feature, self.kernel_groups, spec, stride, initial=0.0)

    def _add_static_kernel(self, aggregated: int) -> None:
        static = self.spec.static_kernel
        self.static_kernel: nn.Parameter | None = None
        terms = (self.spec.terms,) if self.spec.terms > 1 else ()
        biases = (*terms, aggregated) if self.spec.bias == "mixed" else (aggregated,)
        self.bias = nn.Parameter(torch.zeros(biases)) if self.spec.bias else None
        if static.channels != "none":
            per_group = 1 if static.channels == "depthwise" else self.in_channels // static.groups
            self.static_kernel = nn.Parameter(torch.empty(*terms, aggregated, per_group, *as_pair(self.spec.kernel_size)))
            for kernel in self.static_kernel if terms else [self.static_kernel]:
                nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as in the constructor; running statistics start again too."""
        with torch.device("cpu"):
            guide_channels = self.guide_channels if self.spec.reads_guide else None
            fresh = UnifiedExtractor2d(self.in_channels, self.out_channels, self.spec, self.stride, guide_channels=guide_channels)
        self.load_state_dict(fresh.state_dict())

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Return the output ``[B, O, H', W']`` for an image ``[B, C, H, W]``.

        Args:
            x: image that is sampled.
            guide: map that kernels, offsets, query and keys come from, ``[B, guide_channels, H, W]``, or of the output's size where the
                spec says ``generator.guide="output"``; None: the image.
        """
        if (node := traced_as_leaf(self, x, guide)) is not None:
            return node
        geometry = self.geometry(x)
        source = source_of_kernels(self.spec, x, guide, self.guide_channels, geometry)
        feature = self.feature(source) if self.spec.generates else None
        offsets = self._offsets(source, feature, geometry)
        value = self._group_contiguous(self.value(x) if self.spec.projection.input != "none" else x)
        y = self._aggregate(source, value, feature, offsets, geometry)
        if self.spec.overlap_normalize:
            y = overlap_normalized(y, geometry)
        if self.spec.center_feature_scale:
            y = center_blended(y, value, self.center_gate(feature), geometry)
        y = self._own_order(y)
        if self.bias is not None and self.spec.bias is True and self._inner_bias is None:
            y = y + self.bias[:, None, None].to(y.dtype)
        if self.spec.modulation != "none":
            y = modulated(y, self._modulation(x), self.spec.modulation)
        return self.projection(y) if self.spec.projection.output != "none" else y

    def source(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Return the map that kernels and offsets come from: the guide where there is one, else the image.

        Raises:
            ValueError, TypeError: a guide that is missing or does not fit.
        """
        return source_of_kernels(self.spec, x, guide, self.guide_channels, self.geometry(x))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes that were pickled. Raise ``ValueError`` for those of an earlier version, whose layers had other ones."""
        super().__setstate__(state)
        older = "channel_kernel" not in {**vars(self), **self._modules} or any("spec" in vars(part) for part in self.children())
        if older or "guide_channels" not in vars(self):
            raise ValueError(
                f"this {type(self).__name__} was pickled by an earlier version of unified_extractor, whose layers had other attributes: "
                "build the layer anew and load its state_dict"
            )

    def __prepare_scriptable__(self) -> NoReturn:
        """Raise ``NotImplementedError`` when ``torch.jit.script`` compiles this layer."""
        refuse_scripting(self)

    def generate(self, x: Tensor, guide: Tensor | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Return the fields that the layer generates from an image, or from its guide.

        These are offsets ``[B, F, K, 2, h, w]`` in pixels, and the dynamic kernel ``[B, G, K, h, w]`` (fold: ``[B, G, K, K, h, w]``, M
        terms: ``[B, M, G, K, h, w]``, a gate: 1 in the place of K), h and w being Ho, Wo, or 1 for a global or pooled view, and for
        offsets that are parameters; None for what the spec does not have. Of two windows, kernels and shifts of the smaller come first,
        zeros around its taps. The child ``channel_kernel`` gives the kernel ``[B, C, K]`` that joins the dynamic one, where there is one.
        """
        geometry = self.geometry(x)
        source = source_of_kernels(self.spec, x, guide, self.guide_channels, geometry)
        feature = self.feature(source) if self.spec.generates else None
        offsets = self._offsets(source, feature, geometry)
        return offsets, self._dynamic_kernel(source, feature, offsets, geometry)

    def guide_shape(self, input_shape: Sequence[int]) -> tuple[int, ...] | None:
        """Return the shape of the guide that this layer needs beside an image of shape ``[B, C, H, W]``; None where it needs none."""
        if self.guide_channels == self.in_channels and self.spec.generator.guide == "image":
            return None
        parameter = next(self.parameters(), torch.empty(0))
        geometry = self.geometry(torch.empty(tuple(input_shape), device="meta", dtype=parameter.dtype))
        return (input_shape[0], self.guide_channels, *guide_size(self.spec, geometry))

    def geometry(self, x: Tensor) -> Geometry:
        """Return the geometry of this layer on an image. Raise ``ValueError`` or ``TypeError`` if the image does not fit."""
        spec = self.spec
        geometry = checks.geometry(x, spec.kernel_size, self.stride, spec.padding, spec.dilation, spec.upsample)
        if x.shape[1] != self.in_channels:
            raise ValueError(f"x must have in_channels={self.in_channels} channels, got shape {list(x.shape)}")
        parameter = next(self.parameters(), x)
        if x.dtype != parameter.dtype and not autocasts(x):
            raise TypeError(f"x must have the dtype of the layer's parameters, {parameter.dtype}, got {x.dtype}")
        return geometry

    def windows(self, geometry: Geometry) -> list[Geometry]:
        """Return the geometries of the windows: that of the spec's small kernel first, where there is one, and the one that is given."""
        small = self.spec.dynamic_kernel.small_kernel_size
        return [geometry] if small is None else [geometry.narrowed(as_pair(small)), geometry]

    def _offsets(self, x: Tensor, feature: Tensor | None, geometry: Geometry) -> Tensor | None:
        if self.spec.offsets.kind == "learned":
            return self.offsets(feature, geometry)
        if self.spec.offsets.kind == "parameter":
            return self.offsets(geometry).expand(x.shape[0], -1, -1, -1, -1, -1)
        if self.spec.offsets.shifts_windows:
            options: Any = {"dtype": torch.promote_types(x.dtype, torch.float32), "device": x.device}
            shifts = torch.cat([shift(self.spec, window, **options) for window in self.windows(geometry)], 1)
            return shifts.expand(x.shape[0], shifts.shape[1], geometry.taps, 2, *geometry.output)
        return None

    def _dynamic_kernel(self, x: Tensor, feature: Tensor | None, offsets: Tensor | None, geometry: Geometry) -> Tensor | None:
        if self.spec.dynamic_kernel.source == "generated":
            return self.kernel(feature)
        if self.spec.dynamic_kernel.source == "regions":
            windows = self.windows(geometry)
            return in_one_window(self.kernel(x, windows), windows)
        return self.kernel(x, offsets, geometry) if self.spec.dynamic_kernel.source in ("similarity", "gaussian") else None

    def _aggregate(self, x: Tensor, value: Tensor, feature: Tensor | None, offsets: Tensor | None, geometry: Geometry) -> Tensor:
        """Apply the operator to ``value``, with the dynamic kernel or, where there is such a form, with what it is computed from."""
        spec, windows, reach = self.spec, self.windows(geometry), reach_of_taps(self.spec)
        if reach is not None and spreading_pays(x, spec.taps, reach):
            assert isinstance(self.offsets, ParameterOffsets)
            size = (2 * reach[0] + 1, 2 * reach[1] + 1)
            dense = spread_kernel(self.static_kernel, self.offsets(geometry), geometry, reach, self.in_channels)
            return self._extract(value, None, None, geometry, kernel_size=size, static_kernel=dense, padding="same", dilation=1)
        if len(windows) > 1:
            shifts = [None if offsets is None else offsets[:, i : i + 1, : window.taps] for i, window in enumerate(windows)]
            parts = zip(value.chunk(len(windows), 1), self.kernel(x, windows), shifts, windows, strict=True)
            return torch.cat([self._extract(*part) for part in parts], 1)
        kernel = self._computed_kernel(x, feature, offsets, geometry)
        if kernel is None:
            kernel = self._dynamic_kernel(x, feature, offsets, geometry)
        y = self._extract_joined(x, value, kernel, offsets, geometry)
        if spec.bias != "mixed":
            return y
        if spec.generator.view == "pooled":
            kernel = self.kernel(self.feature.of_mean(x))
        assert isinstance(kernel, Tensor)
        assert self.bias is not None
        return y + mixed_bias(kernel, self.bias)

    def _extract_joined(
        self, x: Tensor, value: Tensor, kernel: DynamicKernel, offsets: Tensor | None, geometry: Geometry
    ) -> Tensor:
        """Apply the operator with a dynamic kernel that the channel kernel joins, where there is one."""
        if self.channel_kernel is None:
            return self._extract(value, kernel, offsets, geometry)
        channel_kernel: Tensor = self.channel_kernel(x)
        if self.spec.channel_kernel.combine == "multiply":
            return self._extract(value, kernel, offsets, geometry, channel_kernel=channel_kernel)
        changes: dict[str, Any] = {"channel_kernel": channel_kernel, "bias": None, "combine": "multiply"}
        if self.spec.combine == "add":  # S + D + E
            changes["static_kernel"] = None
        return self._extract(value, kernel, offsets, geometry) + self._extract(value, None, offsets, geometry, **changes)

    def _extract(
        self, value: Tensor, kernel: DynamicKernel, offsets: Tensor | None, geometry: Geometry, **changes: Any
    ) -> Tensor:
        """Apply the operator as the spec says, but for arguments that are changed."""
        arguments: dict[str, Any] = {
            "kernel_size": geometry.kernel_size,
            "static_kernel": self.static_kernel,
            "dynamic_kernel": kernel,
            "offsets": offsets,
            "bias": self._inner_bias,
            "stride": self.stride,
            "padding": "same" if self.spec.keeps_size else self.spec.padding,
            "dilation": self.spec.dilation,
            "combine": self.spec.combine,
            "aggregation": self.spec.aggregation,
            "upsample": self.spec.upsample,
            "kernel_memory": self.kernel_memory,
        }
        return extract(value, **(arguments | changes))

    def _modulation(self, x: Tensor) -> Tensor:
        """Return what the output is multiplied by before its activation, at the output positions."""
        steps = as_pair(self.downsampling)
        values: Tensor = self.modulation(x if steps == (1, 1) else average_pooled(x, steps))
        return values

    def _computed_kernel(self, x: Tensor, feature: Tensor | None, offsets: Tensor | None, geometry: Geometry) -> DynamicKernel:
        """Return what the dynamic kernel is computed from, or None where its module must be called."""
        source = self.spec.dynamic_kernel.source
        if source == "generated" and isinstance(self.kernel, GeneratedKernel):
            assert feature is not None
            return self.kernel.as_linear_map(feature, geometry)
        if source == "similarity" and isinstance(self.kernel, SimilarityKernel):
            return self.kernel.as_attention(x, offsets)
        return None

    @property
    def _source_channels(self) -> str:
        """The argument that says how many channels the map has that kernels and offsets are generated from."""
        return "in_channels" if self.guide_channels == self.in_channels else "guide_channels"

    @property
    def _inner_bias(self) -> Tensor | None:
        """The bias where the operator adds it: only a dense static kernel leaves the channels in their final order."""
        return self.bias if self.spec.static_kernel.channels == "dense" and self.spec.bias is True else None

    def _group_contiguous(self, x: Tensor) -> Tensor:
        """Return the image with its channels in the order in which groups are contiguous."""
        interleaved = self.spec.dynamic_kernel.channel_order == "interleaved"
        return F.channel_shuffle(x, self.in_channels // self.kernel_groups) if interleaved else x

    def _own_order(self, y: Tensor) -> Tensor:
        """Return the image with its channels back in their own order."""
        return F.channel_shuffle(y, self.kernel_groups) if self.spec.dynamic_kernel.channel_order == "interleaved" else y

    def __repr__(self) -> str:
        """Return the call that makes this layer."""
        stride = "" if self.stride == 1 else f", stride={self.stride}"
        memory = "" if self.kernel_memory == "auto" else f", kernel_memory={self.kernel_memory!r}"
        guide = "" if self.guide_channels == self.in_channels else f", guide_channels={self.guide_channels}"
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, {self.spec!r}{stride}{memory}{guide})"


def _heads(spec: ExtractorSpec, channels: int) -> int:
    """Return the number of dynamic kernels of one window at a position; 1 where there is none."""
    dynamic = spec.dynamic_kernel
    if dynamic.channels_per_group is not None:
        _divides("dynamic_kernel.channels_per_group", dynamic.channels_per_group, "in_channels", channels)
        return channels // dynamic.channels_per_group
    groups = 1 if dynamic.groups is None else dynamic.groups
    _divides("dynamic_kernel.groups", groups, "in_channels", channels)
    return groups


def _check_heads(spec: ExtractorSpec, channels: int, guide_channels: int) -> None:
    """Raise ``ValueError`` where queries have no equal number of channels for each head, or where two windows have none for each kernel."""
    heads, dynamic = _heads(spec, channels), spec.dynamic_kernel
    source = "in_channels" if guide_channels == channels else "guide_channels"
    _divides("dynamic_kernel.query_reduction", dynamic.query_reduction, source, guide_channels)
    if dynamic.source in ("similarity", "gaussian", "regions"):
        queries = guide_channels // dynamic.query_reduction
        _divides("dynamic_kernel.groups", heads, f"{source} // dynamic_kernel.query_reduction", queries)
    if dynamic.small_kernel_size is not None:
        _divides("kernels of both windows, 2 * dynamic_kernel.groups", 2 * heads, "in_channels", channels)


def _divides(name: str, value: int, of: str, channels: Any) -> None:
    if channels % value:
        raise ValueError(f"{name} must divide {of}, got {name.rsplit('.')[-1]}={value}, {of}={channels}")
