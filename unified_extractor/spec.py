"""The configuration of an extractor: where a window samples the image, with which kernel, and which channels share that kernel.

Read this file first. Words used here and everywhere:

* A *window* has K = kh * kw *taps*, numbered row by row. At every output position a tap samples the image at one point.
* The *static kernel* S is a parameter, the same at every position, as in a convolution.
* The *dynamic kernel* D is computed from the input and differs from position to position, as in involution or attention.
* *Gather*: a window sums its taps into one output. *Fold*: a window adds one output at each of its taps.

An :class:`ExtractorSpec` answers these questions and knows nothing of channels, strides or tensors: the layer
:class:`unified_extractor.UnifiedExtractor2d` adds those. :mod:`unified_extractor.presets` has the specs of published operators.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unified_extractor.config_base import Config, naming_unknown_fields
from unified_extractor.extras import needed

Pair = int | tuple[int, int]
"""One value for both axes, or (y, x)."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Offsets(Config):
    """The distance of every sampling point from the regular grid."""

    kind: Literal["none", "learned", "parameter", "window_shift", "block"] = "none"
    """``none``: the regular grid. ``learned``: generated from the input (deformable convolution). ``parameter``: learned as parameters, the
    same at every position of every image (DCLS). ``window_shift``: a window at the border is shifted as a whole, to lie inside the image
    (neighborhood attention). ``block``: the image is cut into blocks, and the windows of all pixels of a block are moved onto the block
    (Swin)."""
    groups: int = 1
    """Number of channel groups that each have offsets of their own."""
    channels_per_group: int | None = None
    """Number of channels that share offsets. Set this or ``groups``, or neither."""
    origin: Literal["grid", "center"] = "grid"
    """The points from which offsets are measured. ``grid``: the taps of the regular grid; offsets are zero at the start of training.
    ``center``: the window's center, for all taps, so that the regular grid has no part in where they look. At the start the taps of
    a group lie in a row, and those of all groups in all directions (``learned``, deformable attention), or they are scattered at random
    (``parameter``, DCLS)."""
    scale: float = 1.0
    """Factor on the learned offsets and on the regular grid, about the window's center (``offset_scale`` of DCNv3)."""
    gated: bool = False
    """Switch for a factor of its own on each learned offset, the sigmoid of a second linear map (the dynamic scope of DySample)."""
    bound: Literal["none", "image", "clamp", "tanh"] = "none"
    """Limit of the sampling points. ``image``: they are clamped to the outermost pixels, which are so repeated around the image.
    ``clamp``: every offset is clamped to ``reach``. ``tanh``: it is ``reach`` times its hyperbolic tangent."""
    reach: Pair | None = None
    """The largest offset, (y, x), of ``bound`` ``clamp`` and ``tanh``, in pixels before ``scale``."""
    halo: Pair = 0
    """Number of taps, (y, x), that windows reach beyond their block on each side: a block has ``kernel_size - 2*halo`` taps (HaloNet)."""
    block_start: Pair = 0
    """Place, (y, x) in taps, at which the first whole block begins; a part of one lies before it (the shifted windows of Swin)."""

    @property
    def are_trained(self) -> bool:
        """Return whether training moves the sampling points, which so lie between pixels."""
        return self.kind in ("learned", "parameter")

    @property
    def shifts_windows(self) -> bool:
        """Return whether windows are shifted as a whole, by whole pixels."""
        return self.kind in ("window_shift", "block")

    def _check(self) -> None:
        _at_least("offsets.groups", self.groups, 1)
        _at_least("offsets.channels_per_group", 1 if self.channels_per_group is None else self.channels_per_group, 1)
        _at_least("offsets.reach", 0 if self.reach is None else self.reach, 0)
        _at_least("offsets.halo", self.halo, 0)
        _at_least("offsets.block_start", self.block_start, 0)
        if not math.isfinite(self.scale):
            raise ValueError(f"offsets.scale must be finite, got {self.scale}")
        for name, value in self.changed().items():
            if name != "kind":
                kinds = _KINDS_OF_OFFSETS.get(name, ("learned", "parameter"))
                _needs(f"offsets.{name}={value!r}", ("offsets.kind", self.kind, kinds))
        if self.channels_per_group is not None and self.groups != 1:
            raise ValueError(
                "one of offsets.groups and offsets.channels_per_group may be set, "
                f"got groups={self.groups}, channels_per_group={self.channels_per_group}"
            )
        if (self.reach is None) == (self.bound in ("clamp", "tanh")):
            raise ValueError(
                f"offsets.bound 'clamp' and 'tanh' need offsets.reach, others have none, got bound={self.bound!r}, reach={self.reach}"
            )


_KINDS_OF_OFFSETS = {"scale": ("learned",), "gated": ("learned",), "halo": ("block",), "block_start": ("block",)}
"""The kinds of offsets that a field belongs to; the others belong to trained ones."""


@dataclass(frozen=True, kw_only=True, repr=False)
class StaticKernel(Config):
    """The kernel that is a parameter, the same at every position."""

    channels: Literal["none", "dense", "depthwise"] = "none"
    """``dense``: an output channel reads all input channels of its group. ``depthwise``: it reads one. ``none``: no static kernel."""
    groups: int = 1
    """Number of groups of a dense kernel, as in a grouped convolution."""

    def _check(self) -> None:
        _at_least("static_kernel.groups", self.groups, 1)
        if self.channels != "dense" and self.groups != 1:
            raise ValueError(
                f"static_kernel.groups needs static_kernel.channels='dense', got groups={self.groups}, channels={self.channels!r}"
            )


@dataclass(frozen=True, kw_only=True, repr=False)
class DynamicKernel(Config):
    """The kernel that is computed from the input, another one at every position; the channels of a group share it."""

    source: Literal["none", "generated", "similarity", "gaussian", "regions"] = "none"
    """``generated``: by the :class:`Generator`. ``similarity``: products of query and keys inside the window (attention).
    ``gaussian``: exp(-d^2/2) of the distance d between the values at the window's pixel and at each tap, without parameters (PAC); a
    softmax divides it by its sum over the taps.
    ``regions``: products of query and the keys of a few regions of the image, which one linear map turns into values of the taps (ContMix).
    ``none``: no dynamic kernel."""
    groups: int | None = None
    """G, the number of kernels a position; in attention, the heads. Set this or ``channels_per_group``."""
    channels_per_group: int | None = None
    """Number of channels that share one kernel, C / G. Set this or ``groups``."""
    channel_order: Literal["contiguous", "interleaved"] = "contiguous"
    """Channels that share a kernel. ``contiguous``: channel c has kernel c // (C / G). ``interleaved``: kernel c % G."""
    per_tap: bool = True
    """Switch for a value of its own at each tap. False: one value for all taps of a window, a gate."""
    normalization: Literal["none", "softmax", "sigmoid", "group_norm", "centered", "standardized"] = "none"
    """Function applied to the generated values. ``softmax``, ``centered`` (a learned share of the mean is subtracted, one a group) and
    ``standardized`` (mean 0, deviation 1) run over the taps; in a fold, over the taps that are sampled."""
    softmax_over: Literal["taps", "terms"] = "taps"
    """The axis of a softmax. ``terms``: the values of all terms sum to one, as they mix several static kernels."""
    scale_by_head_dim: bool = False
    """Switch for a factor (C / G)^-0.5 on the values before the normalization, as in attention."""
    gain: float = 1.0
    """Constant factor on the values after the normalization (DDF)."""
    remove_center: bool = False
    """Switch for a zero at the central tap, which is then neither generated nor normalized (DCNv3)."""
    relative_position: bool | Literal["query"] = False
    """Switch for a learned bias of every relative position of query and key, or of every tap. ``query``: the product of the query with a
    learned vector of the relative row plus one of the relative column (HaloNet)."""
    query_reduction: int = 1
    """Divisor of the number of channels, for those of query and keys."""
    learned_queries: int = 0
    """Number of queries that are parameters, the same at every pixel, in the place of the pixel's own; their kernels are summed (QnA).
    0: the pixel's own query."""
    normalize_query: bool = False
    """Switch for learned queries that are divided by their norm in every head."""
    tap_scale: bool = False
    """Switch for a learned factor of every tap and learned query on the normalized values."""
    regions: Pair = 7
    """Numbers of regions, (y, x): cells of the image, over each of which it is averaged before the keys."""
    small_kernel_size: Pair | None = None
    """Extent of a second, smaller window around the same pixels, for the first half of the channels; every head has a kernel of either
    extent."""
    initial: Literal["random", "zero", "one"] = "random"
    """The start of the layer that emits the kernel. ``zero``: its weights and biases are zero. ``one``: its biases are one, so that the
    kernel is one everywhere. Times a static kernel, one is a plain convolution, and so is zero under a sigmoid or a softmax."""

    def _check(self) -> None:
        if self.source == "none":
            for name, value in self.changed().items():
                raise ValueError(f"dynamic_kernel.{name}={value!r} contradicts dynamic_kernel.source='none'")
            return
        if (self.groups is None) == (self.channels_per_group is None):
            raise ValueError(
                "exactly one of dynamic_kernel.groups and dynamic_kernel.channels_per_group must be set, "
                f"got groups={self.groups}, channels_per_group={self.channels_per_group}"
            )
        _at_least("dynamic_kernel.groups", 1 if self.groups is None else self.groups, 1)
        _at_least("dynamic_kernel.channels_per_group", 1 if self.channels_per_group is None else self.channels_per_group, 1)
        self._check_query()
        if not math.isfinite(self.gain) or self.gain == 0:
            raise ValueError(f"dynamic_kernel.gain must be finite and not 0, got {self.gain}")
        if self.initial == "one" and self.normalization != "none":
            raise ValueError(f"dynamic_kernel.initial='one' contradicts dynamic_kernel.normalization={self.normalization!r}")
        if self.initial == "zero" and self.normalization == "standardized":
            raise ValueError(
                "dynamic_kernel.initial='zero' contradicts dynamic_kernel.normalization='standardized': equal values have no deviation"
            )
        if self.softmax_over == "terms" and self.normalization != "softmax":
            raise ValueError(
                f"dynamic_kernel.softmax_over='terms' needs dynamic_kernel.normalization='softmax', got {self.normalization!r}"
            )
        if self.source in ("similarity", "gaussian", "regions"):
            own_rules = (("normalization", "sigmoid"), ("scale_by_head_dim", True)) if self.source == "gaussian" else ()
            for name, value in (
                *own_rules,
                ("remove_center", True),
                ("initial", "zero"),
                ("initial", "one"),
                ("normalization", "group_norm"),
                ("normalization", "centered"),
                ("normalization", "standardized"),
                ("per_tap", False),
            ):
                if getattr(self, name) == value:
                    raise ValueError(f"dynamic_kernel.{name}={value!r} contradicts dynamic_kernel.source={self.source!r}")
        if not self.per_tap:
            for name, value, found in (
                ("remove_center", True, self.remove_center),
                ("normalization", self.normalization, self.normalizes_taps),
            ):
                if found:
                    raise ValueError(
                        f"dynamic_kernel.{name}={value!r} is of several taps, it contradicts dynamic_kernel.per_tap=False"
                    )

    def _check_query(self) -> None:
        of_query = ("similarity",) if self.relative_position == "query" else ("similarity", "regions")
        for name, value, sources in (
            ("gain", self.gain, ("generated",)),
            ("query_reduction", self.query_reduction, ("similarity", "regions")),
            ("relative_position", self.relative_position, of_query),
            ("learned_queries", self.learned_queries, ("similarity",)),
            ("regions", self.regions, ("regions",)),
            ("small_kernel_size", self.small_kernel_size, ("regions",)),
        ):
            if name in self.changed() and self.source not in sources:
                raise ValueError(
                    f"dynamic_kernel.{name}={value!r} needs dynamic_kernel.source {' or '.join(map(repr, sources))}, got {self.source!r}"
                )
        if self.relative_position == "query" and self.learned_queries:
            raise ValueError(
                "dynamic_kernel.relative_position='query' needs dynamic_kernel.learned_queries=0, as the product with a query that is a "
                f"parameter is a bias, got {self.learned_queries}"
            )
        for name in ("normalize_query", "tap_scale"):
            if getattr(self, name) and not self.learned_queries:
                raise ValueError(f"dynamic_kernel.{name}=True needs dynamic_kernel.learned_queries of at least 1, got 0")
        _at_least("dynamic_kernel.learned_queries", self.learned_queries, 0)
        _at_least("dynamic_kernel.query_reduction", self.query_reduction, 1)
        _at_least("dynamic_kernel.regions", self.regions, 1)
        _at_least("dynamic_kernel.small_kernel_size", self.small_kernel_size or 1, 1)

    @property
    def normalizes_taps(self) -> bool:
        """Return whether the normalization of a tap's value depends on the window's other taps, and on no other window."""
        over_taps = self.normalization == "softmax" and self.softmax_over == "taps"
        return over_taps or self.normalization in ("centered", "standardized")


@dataclass(frozen=True, kw_only=True, repr=False)
class Generator(Config):
    """The small network between the input and the two linear heads that emit dynamic kernel and learned offsets.

    Steps, each where its field asks for it: average pooling to the output positions (with a stride, or the global view), a 1x1
    convolution to fewer channels (``reduction``), a convolution over the neighbors (``view``), a 1x1 convolution (``pointwise``).
    """

    view: Pair | Literal["window", "global", "pooled", "runs"] = 1
    """Extent, in output positions, of what one generated kernel depends on. 1: the pixel at the window's center. ``window``: the
    extractor's own window, in pixels. ``global``: the whole image. ``pooled``: the image as means over as many cells as the window has
    taps, each of which generates the value of its tap (IDConv). ``runs``: such means over runs of the flattened image; one linear map,
    shared by all kernels, turns those of a hidden channel into the taps of its kernel (ATConv)."""
    downsample: Literal["average", "skip"] = "average"
    """Way to the output positions of a stride. ``average``: over the pixels between them, before all else. ``skip``: the convolution over
    the view has the stride, and a view of one pixel is that of the window's center (DDF)."""
    view_convolution: Literal["depthwise", "dense"] = "depthwise"
    """``depthwise``: a depthwise convolution over the view, then 1x1 heads. ``dense``: the heads are convolutions over the view."""
    reduction: int | None = None
    """Divisor of the number of channels: the first 1x1 convolution leaves C // reduction of them. None: no such convolution."""
    hidden_channels: int | None = None
    """Number of channels that the first 1x1 convolution leaves, whatever C is (CARAFE). Set this or ``reduction``, or neither."""
    pointwise: bool = False
    """Switch for a 1x1 convolution of the hidden channels after the view."""
    pixel_shuffle: bool = False
    """Switch for a pixel shuffle of the image before all else, to the positions of the output that ``upsample`` makes finer: the generator
    works there, with a part of the channels."""
    guide: Literal["image", "output"] = "image"
    """Size of the guide, another map from which kernels and offsets are generated where the layer is given one. ``image``: that of the
    image. ``output``: that of the output that ``upsample`` makes finer; the layer then needs a guide (joint upsampling)."""
    norm: Literal["none", "batch", "layer"] = "none"
    """Normalization after every hidden convolution."""
    activation: Literal["none", "relu", "gelu"] = "none"
    """Activation after the reduction and after the last hidden convolution."""
    head_multiple: int = 1
    """Number of which the values emitted a position, kernel and offsets together, are a multiple; the surplus is not used (8 in
    the released code of DCNv4, for aligned memory access)."""

    @property
    def looks_around(self) -> bool:
        """Return whether the view is larger than one pixel and smaller than the image."""
        return not self.is_one_for_all_positions and self.view not in (1, (1, 1))

    @property
    def is_one_for_all_positions(self) -> bool:
        """Return whether the view is the whole image, so that all positions have the same kernel."""
        return self.view in ("global", "pooled", "runs")

    @property
    def reduces(self) -> bool:
        """Return whether a 1x1 convolution comes first."""
        return self.reduction is not None or self.hidden_channels is not None

    def _check(self) -> None:
        if not isinstance(self.view, str):
            _at_least("generator.view", self.view, 1)
        for name in ("reduction", "hidden_channels"):
            _at_least(f"generator.{name}", 1 if getattr(self, name) is None else getattr(self, name), 1)
        if self.reduction is not None and self.hidden_channels is not None:
            raise ValueError(
                "one of generator.reduction and generator.hidden_channels may be set, "
                f"got reduction={self.reduction}, hidden_channels={self.hidden_channels}"
            )
        _at_least("generator.head_multiple", self.head_multiple, 1)
        if self.view_convolution == "dense":
            if not self.looks_around:
                raise ValueError(
                    f"generator.view_convolution='dense' needs a neighborhood as generator.view, got view={self.view!r}"
                )
            if self.pointwise:
                raise ValueError(
                    "generator.pointwise=True contradicts generator.view_convolution='dense': the heads see all channels already"
                )
        if self.pixel_shuffle and self.guide == "output":
            raise ValueError(
                "generator.pixel_shuffle=True contradicts generator.guide='output', which has the positions of the output"
            )
        for name, default in (("pixel_shuffle", False), ("downsample", "average"), ("guide", "image")):
            if getattr(self, name) != default and isinstance(self.view, str):
                raise ValueError(
                    f"generator.{name}={getattr(self, name)!r} needs generator.view in output positions, got view={self.view!r}"
                )
        hidden = self.reduces or self.pointwise or (self.looks_around and self.view_convolution == "depthwise")
        for name, value in (("norm", self.norm), ("activation", self.activation)):
            if value != "none" and not hidden:
                raise ValueError(
                    f"generator.{name}={value!r} has nothing to act on: set generator.reduction, generator.pointwise or a wider "
                    "depthwise generator.view"
                )


@dataclass(frozen=True, kw_only=True, repr=False)
class ChannelKernel(Config):
    """A second dynamic kernel E: one for each channel and image, generated from the whole image."""

    combine: Literal["none", "multiply", "add"] = "none"
    """The kernel that stands in the place of the dynamic kernel D. ``none``: D itself. ``multiply``: D*E. ``add``: D + E."""
    generator: Generator = field(default_factory=lambda: Generator(view="global"))
    """The network that generates E, with the view ``global``, ``pooled`` or ``runs``."""
    normalization: Literal["none", "softmax", "sigmoid", "centered", "standardized"] = "none"
    """Function applied to the generated values; all but the sigmoid run over the taps."""
    learned_gain: bool = False
    """Switch for a learned factor on every value after the normalization, one for each channel and tap."""

    def _check(self) -> None:
        for name, value in self.changed().items():
            if self.combine == "none":
                raise ValueError(f"channel_kernel.{name}={value!r} contradicts channel_kernel.combine='none'")
        if not self.generator.is_one_for_all_positions:
            raise ValueError(
                f"channel_kernel.combine={self.combine!r} needs channel_kernel.generator.view 'global', 'pooled' or 'runs', got "
                f"{self.generator.view!r}"
            )

    def as_dynamic_kernel(self, kernel_size: Pair) -> "ExtractorSpec":
        """Return the spec of an extractor whose dynamic kernel this is."""
        dynamic = DynamicKernel(source="generated", channels_per_group=1, normalization=self.normalization)
        return ExtractorSpec(kernel_size=kernel_size, dynamic_kernel=dynamic, generator=self.generator)


@dataclass(frozen=True, kw_only=True, repr=False)
class Projection(Config):
    """The 1x1 convolutions around the operator: ``linear`` without bias, ``affine`` with one."""

    input: Literal["none", "linear", "affine", "batch_norm"] = "none"
    """The one before it, of the values that are sampled; those of query and key of attention are alike. ``batch_norm``: without bias,
    behind it a batch norm."""
    output: Literal["none", "linear", "affine"] = "none"
    """The one after it."""


@dataclass(frozen=True, kw_only=True, repr=False)
class ExtractorSpec(Config):
    """One setting of the generalized unfold, immutable: ``dataclasses.replace`` makes a changed copy.

    Example::

        ExtractorSpec(kernel_size=7, dynamic_kernel=DynamicKernel(source="generated", channels_per_group=16))

    Raises:
        TypeError: a value of the wrong type.
        ValueError: an unknown name, or fields that contradict each other.
    """

    kernel_size: Pair = 3
    """Extent of the window in taps, (y, x)."""
    dilation: Pair = 1
    """Distance between taps in pixels, (y, x)."""
    padding: Pair | Literal["same"] = "same"
    """Zeros around the image in pixels, (y, x). ``same``: dilation*(k-1)//2 before and the remainder after, which keeps the size."""
    offsets: Offsets = field(default_factory=Offsets)
    """The sampling points."""
    static_kernel: StaticKernel = field(default_factory=StaticKernel)
    """The kernel that is a parameter, S."""
    dynamic_kernel: DynamicKernel = field(default_factory=DynamicKernel)
    """The kernel that is computed from the input, D."""
    generator: Generator = field(default_factory=Generator)
    """The network that generates D and learned offsets."""
    channel_kernel: ChannelKernel = field(default_factory=ChannelKernel)
    """A second dynamic kernel, of each channel, that joins D."""
    terms: int = 1
    """M, the number of pairs of a static and a dynamic kernel, whose products are summed to the kernel of a window."""
    combine: Literal["multiply", "add", "residual"] = "multiply"
    """The kernel that the window applies: ``multiply`` S*D, ``add`` S + D, ``residual`` S*(1 + D)."""
    aggregation: Literal["gather", "fold"] = "gather"
    """``gather``: a window gives one output. ``fold``: it gives K, each added at the pixel of one of its taps."""
    upsample: Pair = 1
    """Windows at every pixel, (y, x): the output is finer than the image by these factors. The windows of a pixel have the same taps on the
    regular grid, and dynamic kernels and learned offsets of their own; learned offsets begin at the place of each output in its pixel."""
    overlap_normalize: bool = False
    """Switch for dividing a fold's output by the number of windows that cover the pixel."""
    center_feature_scale: bool = False
    """Switch for a generated gate, one a group, that blends the value at the window's center into the output (DCNv3)."""
    projection: Projection = field(default_factory=Projection)
    """The 1x1 convolutions before and after the operator."""
    bias: bool | Literal["mixed"] = False
    """Switch for a learned constant on every output channel of the operator. ``mixed``: one for each term, mixed like the static kernels
    by the dynamic kernel's values (CondConv); with a pooled view, by those that the mean of the image generates (IDConv)."""
    modulation: Literal["none", "identity", "sigmoid", "silu", "gelu"] = "none"
    """The output is multiplied by this activation of a 1x1 convolution of the input, before the output projection."""

    @property
    def taps(self) -> int:
        """Return K, the number of taps in the window."""
        kh, kw = as_pair(self.kernel_size)
        return kh * kw

    @property
    def sub_positions(self) -> tuple[int, int]:
        """Return for how many windows, (y, x), each position of the generator emits kernels and offsets: for those of a pixel, or for one
        where all positions are alike or the generator works at those of the output.
        """
        works_at_outputs = self.generator.pixel_shuffle or self.generator.guide == "output"
        single = self.generator.is_one_for_all_positions or works_at_outputs
        return (1, 1) if single else as_pair(self.upsample)

    @property
    def reads_guide(self) -> bool:
        """Return whether anything is computed from a guide, where the layer is given one."""
        return self.generates or self.dynamic_kernel.source != "none"

    @property
    def generates(self) -> bool:
        """Return whether the dynamic kernel or the offsets come from the generator."""
        return self.dynamic_kernel.source == "generated" or self.offsets.kind == "learned"

    @classmethod
    def from_yaml(cls, path: str | Path) -> "ExtractorSpec":
        """Return the spec in a YAML file, of fields as in ``configs/extractor``, or of the configuration of a run with one spec.

        A preset's name or call stands for its spec.

        Raises:
            OSError: the file cannot be read.
            TypeError, ValueError: the file is no YAML, or has no spec in it; the message names the file.
        """
        path, values = spec_in(path)
        if isinstance(values, str):
            return cls._from_text(values, f"{path}: spec")
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise ValueError(f"{path} must hold the fields of one spec, got {type(values).__name__}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}") from error

    @classmethod
    def _from_text(cls, text: str, name: str) -> "ExtractorSpec":
        """Return the spec of a preset's name or call; ``named_specs``, which knows the presets, gives this method."""
        raise NotImplementedError

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Return the fields that differ from their defaults as YAML, and with ``path`` write them to that file."""
        text: str = needed("yaml").safe_dump(asdict_changed(self), sort_keys=False)
        if path is not None:
            Path(path).write_text(text)
        return text

    def _check(self) -> None:
        _at_least("kernel_size", self.kernel_size, 1)
        _at_least("dilation", self.dilation, 1)
        if self.padding != "same":
            _at_least("padding", self.padding, 0)
        self._check_kernels()
        self._check_terms()
        self._check_channel_kernel()
        self._check_sampling()
        self._check_pooled_view()
        self._check_small_window()
        self._check_output()
        self._check_upsample()

    def _check_kernels(self) -> None:
        static, dynamic = self.static_kernel.channels, self.dynamic_kernel.source
        if static == "none" and dynamic == "none" and not self.offsets.are_trained:
            raise ValueError(
                "static_kernel.channels and dynamic_kernel.source are both 'none': an extractor needs a kernel, or offsets.kind 'learned' "
                "or 'parameter'"
            )
        if self.combine != "multiply" and "none" in (static, dynamic):
            raise ValueError(
                f"combine={self.combine!r} needs both kernels, got static_kernel.channels={static!r}, dynamic_kernel.source={dynamic!r}"
            )
        grouped = self.offsets.groups != 1 or self.offsets.channels_per_group is not None
        if self.dynamic_kernel.channel_order == "interleaved" and (static != "none" or grouped):
            raise ValueError(
                f"dynamic_kernel.channel_order='interleaved' contradicts static_kernel.channels={static!r}, offsets.groups="
                f"{self.offsets.groups} or offsets.channels_per_group={self.offsets.channels_per_group}: these take channels in their "
                "own order"
            )
        if self.dynamic_kernel.remove_center and (self.taps == 1 or not self._has_center):
            raise ValueError(
                f"dynamic_kernel.remove_center needs an odd kernel_size of more than one tap, got kernel_size={self.kernel_size}"
            )
        single = self.taps == 1 or not self.dynamic_kernel.per_tap
        if self.dynamic_kernel.normalization == "group_norm" and single and self.generator.is_one_for_all_positions:
            raise ValueError(
                f"dynamic_kernel.normalization='group_norm' contradicts generator.view={self.generator.view!r}, with which a group has one "
                f"value, got kernel_size={self.kernel_size}, dynamic_kernel.per_tap={self.dynamic_kernel.per_tap}"
            )
        if self.dynamic_kernel.normalization in ("centered", "standardized") and self.taps == 1:
            raise ValueError(
                f"dynamic_kernel.normalization={self.dynamic_kernel.normalization!r} needs a kernel_size of more than one tap, got "
                f"kernel_size={self.kernel_size}"
            )

    def _check_terms(self) -> None:
        _at_least("terms", self.terms, 1)
        dynamic = self.dynamic_kernel
        if self.bias == "mixed" and self.terms == 1:
            raise ValueError("bias='mixed' needs terms of more than 1, got terms=1")
        pooled = self.generator.view == "pooled"
        if self.bias == "mixed" and dynamic.per_tap and not pooled:
            raise ValueError("bias='mixed' needs dynamic_kernel.per_tap=False or generator.view='pooled', got per_tap=True")
        if self.bias == "mixed" and pooled and dynamic.normalizes_taps:
            raise ValueError(
                f"bias='mixed' has one value for all taps, dynamic_kernel.normalization={dynamic.normalization!r} is of several"
            )
        static = self.static_kernel
        if self.bias == "mixed" and static.channels == "dense" and (dynamic.groups is None or static.groups % dynamic.groups):
            raise ValueError(
                "bias='mixed' beside a dense static kernel needs dynamic_kernel.groups that divide static_kernel.groups, so that an "
                f"output's channels share one dynamic kernel, got {dynamic.groups} and {static.groups}"
            )
        if self.terms == 1:
            if dynamic.softmax_over == "terms":
                raise ValueError("dynamic_kernel.softmax_over='terms' needs terms of more than 1, got terms=1")
            return
        _needs(
            f"terms={self.terms}",
            ("static_kernel.channels", self.static_kernel.channels, ("dense", "depthwise")),
            ("dynamic_kernel.source", dynamic.source, ("generated",)),
            ("aggregation", self.aggregation, ("gather",)),
            ("combine", self.combine, ("multiply",)),
            (
                "dynamic_kernel.normalization",
                dynamic.normalization,
                ("none", "softmax", "sigmoid", "centered", "standardized"),
            ),
        )

    def _check_channel_kernel(self) -> None:
        own, dynamic = self.channel_kernel, self.dynamic_kernel
        if own.combine == "none":
            return
        what = f"channel_kernel.combine={own.combine!r}"
        if dynamic.source == "none":
            raise ValueError(
                f"{what} needs a dynamic kernel beside it, got dynamic_kernel.source='none': a kernel of each channel alone is "
                "dynamic_kernel.channels_per_group=1 with generator.view='global'"
            )
        _needs(
            what,
            ("dynamic_kernel.small_kernel_size", dynamic.small_kernel_size, (None,)),
            ("dynamic_kernel.channel_order", dynamic.channel_order, ("contiguous",)),
        )
        if own.combine == "add":
            _needs(what, ("aggregation", self.aggregation, ("gather",)), ("terms", self.terms, (1,)))
        if self.taps == 1 and own.normalization in ("softmax", "centered", "standardized"):
            raise ValueError(
                f"channel_kernel.normalization={own.normalization!r} needs a kernel_size of more than one tap, got "
                f"kernel_size={self.kernel_size}"
            )

    def _check_sampling(self) -> None:
        if self.generator.changed() and not self.generates:
            raise ValueError(
                f"{self.generator!r} has nothing to generate, got dynamic_kernel.source={self.dynamic_kernel.source!r}, "
                f"offsets.kind={self.offsets.kind!r}"
            )
        if self.generator.head_multiple > 1 and self.dynamic_kernel.source != "generated":
            raise ValueError(
                f"generator.head_multiple needs dynamic_kernel.source='generated', got head_multiple={self.generator.head_multiple}, "
                f"source={self.dynamic_kernel.source!r}"
            )
        heads, offset_groups = self.dynamic_kernel.groups, self.offsets.groups
        if self.dynamic_kernel.source == "similarity" and heads is not None and heads % offset_groups:
            raise ValueError(
                f"offsets.groups must divide dynamic_kernel.groups where dynamic_kernel.source='similarity', "
                f"got offsets.groups={offset_groups}, dynamic_kernel.groups={heads}"
            )
        if self.dynamic_kernel.source == "gaussian":
            _needs("dynamic_kernel.source='gaussian'", ("offsets.kind", self.offsets.kind, ("none", "window_shift", "block")))
        if self.offsets.kind == "window_shift" and not self._has_center:
            raise ValueError(f"offsets.kind='window_shift' needs an odd kernel_size, got kernel_size={self.kernel_size}")
        own = self.offsets
        axes = zip(as_pair(self.kernel_size), as_pair(own.halo), as_pair(own.block_start), strict=True)
        if any(kernel - 2 * halo <= start for kernel, halo, start in axes):
            raise ValueError(
                "kernel_size must be more than 2*offsets.halo + offsets.block_start, as blocks begin within the first one's extent, "
                f"got kernel_size={self.kernel_size}, halo={own.halo}, block_start={own.block_start}"
            )
        if self.keeps_size:
            return
        if self.offsets.origin == "center":
            raise ValueError(f"offsets.origin='center' needs padding='same', got padding={self.padding}")
        if self.generates and self.generator.view != "window" and not self.generator.is_one_for_all_positions:
            raise ValueError(
                f"padding={self.padding} contradicts generator.view={self.generator.view!r}: kernels and offsets come from the "
                "window's center pixel, which needs padding='same'; or take view='window', 'global', 'pooled' or 'runs'"
            )
        for name, value in (("offsets.kind", self.offsets.kind), ("dynamic_kernel.source", self.dynamic_kernel.source)):
            if value in ("window_shift", "block", "similarity", "gaussian", "regions"):
                raise ValueError(f"{name}={value!r} needs padding='same', got padding={self.padding}")

    def _check_pooled_view(self) -> None:
        view = self.generator.view
        if view not in ("pooled", "runs"):
            return
        rules: list[tuple[str, Any, tuple[Any, ...]]] = [
            ("offsets.kind", self.offsets.kind, ("none", "parameter", "window_shift", "block")),
            ("aggregation", self.aggregation, ("gather",)),
            ("dynamic_kernel.per_tap", self.dynamic_kernel.per_tap, (True,)),
            ("dynamic_kernel.remove_center", self.dynamic_kernel.remove_center, (False,)),
            ("center_feature_scale", self.center_feature_scale, (False,)),
        ]
        if view == "runs":
            rules += [("terms", self.terms, (1,)), ("generator.head_multiple", self.generator.head_multiple, (1,))]
        _needs(f"generator.view={view!r}, of one value for each tap,", *rules)

    def _check_small_window(self) -> None:
        small = self.dynamic_kernel.small_kernel_size
        if small is None:
            return
        if any(k < s or (k - s) % 2 for k, s in zip(as_pair(self.kernel_size), as_pair(small), strict=True)):
            raise ValueError(
                "dynamic_kernel.small_kernel_size must be kernel_size or an even number of taps less, as both windows have one center, "
                f"got small_kernel_size={small}, kernel_size={self.kernel_size}"
            )
        _needs(
            "dynamic_kernel.small_kernel_size",
            ("offsets.kind", self.offsets.kind, ("none", "window_shift")),
            ("static_kernel.channels", self.static_kernel.channels, ("none",)),
        )

    def _check_output(self) -> None:
        fold = self.aggregation == "fold"
        if fold and self.combine != "multiply":
            raise ValueError(f"aggregation='fold' only multiplies, got combine={self.combine!r}")
        if fold and self.static_kernel.channels == "dense":
            raise ValueError("aggregation='fold' needs static_kernel.channels 'depthwise' or 'none', got 'dense'")
        if fold and self.dynamic_kernel.source in ("similarity", "gaussian", "regions"):
            raise ValueError(
                f"aggregation='fold' needs a kernel of K*K values, dynamic_kernel.source={self.dynamic_kernel.source!r} gives K"
            )
        if fold and not self.dynamic_kernel.per_tap:
            raise ValueError("dynamic_kernel.per_tap=False contradicts aggregation='fold', which has K*K values a window")
        if fold and self.dynamic_kernel.remove_center:
            raise ValueError(
                "dynamic_kernel.remove_center=True contradicts aggregation='fold': it is defined for one kernel a window"
            )
        if self.overlap_normalize and not fold:
            raise ValueError("overlap_normalize needs aggregation='fold', got aggregation='gather'")
        if self.modulation != "none" and not self.keeps_size:
            raise ValueError(
                f"modulation={self.modulation!r} contradicts padding={self.padding}: it is of the pixel at the window's center, which "
                "needs padding='same'"
            )
        if not self.center_feature_scale:
            return
        _needs(
            "center_feature_scale",
            ("aggregation", self.aggregation, ("gather",)),
            ("static_kernel.channels", self.static_kernel.channels, ("none", "depthwise")),
            ("dynamic_kernel.source", self.dynamic_kernel.source, ("generated",)),
        )
        if not (self.keeps_size and self._has_center):
            raise ValueError(
                "center_feature_scale needs an odd kernel_size and padding='same', "
                f"got kernel_size={self.kernel_size}, padding={self.padding}"
            )

    def _check_upsample(self) -> None:
        _at_least("upsample", self.upsample, 1)
        if as_pair(self.upsample) == (1, 1):
            for name, default in (("pixel_shuffle", False), ("guide", "image")):
                if (value := getattr(self.generator, name)) != default:
                    raise ValueError(f"generator.{name}={value!r} needs upsample of more than 1, got upsample=1")
            return
        _needs(
            f"upsample={self.upsample}",
            ("aggregation", self.aggregation, ("gather",)),
            ("dynamic_kernel.source", self.dynamic_kernel.source, ("none", "generated")),
            ("center_feature_scale", self.center_feature_scale, (False,)),
            ("modulation", self.modulation, ("none",)),
        )

    @property
    def _has_center(self) -> bool:
        return all(k % 2 == 1 for k in as_pair(self.kernel_size))

    @property
    def keeps_size(self) -> bool:
        """Return whether stride 1 keeps height and width, so that the window of output p has pixel stride*p at its center."""
        reach = [d * (k - 1) for d, k in zip(as_pair(self.dilation), as_pair(self.kernel_size), strict=True)]
        return self.padding == "same" or [2 * p for p in as_pair(self.padding)] == reach


for _one in (Offsets, StaticKernel, DynamicKernel, Generator, ChannelKernel, Projection, ExtractorSpec):
    naming_unknown_fields(_one)


def asdict_changed(config: Config) -> dict[str, Any]:
    """Return the fields that differ from their defaults, nested, in the types of YAML and JSON. ``type(config)`` takes them back."""
    return {
        name: asdict_changed(value) if isinstance(value, Config) else list(value) if isinstance(value, tuple) else value
        for name, value in config.changed().items()
    }


def as_pair(value: Any) -> tuple[int, int]:
    """Return an int or (y, x) as (y, x)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _needs(what: str, *rules: tuple[str, Any, tuple[Any, ...]]) -> None:
    """Raise ``ValueError`` for the first of ``(name, value, allowed values)`` whose value ``what`` does not go with."""
    for name, value, allowed in rules:
        if value not in allowed:
            raise ValueError(f"{what} needs {name} {' or '.join(map(repr, allowed))}, got {value!r}")


def _at_least(name: str, value: Any, minimum: int) -> None:
    if min(as_pair(value)) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def spec_in(path: str | Path) -> tuple[Path, Any]:
    """Return what stands in a YAML file in the place of a spec, and the file that holds it: the configuration of a run may name another.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no YAML, or files name each other in a circle.
    """
    yaml = needed("yaml")  # reading and writing files alone needs more than the standard library
    path, seen = Path(path), set()
    while path.resolve() not in seen:
        seen.add(path.resolve())
        try:
            values = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
        for key in ("model", "network", "init_args", "spec") if isinstance(values, Mapping) and "model" in values else ():
            values = values.get(key) if isinstance(values, Mapping) else None
        if not isinstance(values, str) or Path(values).suffix not in (".yaml", ".yml"):
            return path, values
        path = path.parent / values
    raise ValueError(f"{path} names itself as the file of its spec")
