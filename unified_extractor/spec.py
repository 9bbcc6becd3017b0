"""What can be configured: where a window's taps look, with which weight, and who shares that weight.

Read this file first. An :class:`ExtractorSpec` is one setting of the generalized unfold; it knows nothing of channels, strides
or tensors. ``unified_extractor.presets`` names the settings that reproduce published operators.
"""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

Pair = int | tuple[int, int]


class _Config:
    """Base of the config objects: types are checked, mappings (from YAML or a checkpoint) become nested objects."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for item in fields(self):  # type: ignore[arg-type]
            value = _converted(getattr(self, item.name), hints[item.name], f"{type(self).__name__}.{item.name}")
            object.__setattr__(self, item.name, value)
        self._check()

    def _check(self) -> None:
        """Raise ``ValueError`` for values that contradict each other."""

    def __repr__(self) -> str:
        """The call that makes this object: only what differs from the defaults."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.changed().items())})"

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != _default(f)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, repr=False)
class Offsets(_Config):
    """Where the taps look, relative to the regular grid."""

    kind: Literal["none", "learned", "window_shift"] = "none"
    """``learned``: generated from the input, zero at the start. ``window_shift``: whole windows move to stay inside the image."""
    groups: int = 1
    """Number of channel groups with their own learned offsets."""
    scale: float = 1.0
    """Factor on the learned offsets and on the regular grid, about the window's centre (DCNv3's ``offset_scale``)."""

    def _check(self) -> None:
        _at_least("offsets.groups", self.groups, 1)
        if not math.isfinite(self.scale):
            raise ValueError(f"offsets.scale must be finite, got {self.scale}")
        if self.kind != "learned" and self.groups != 1:
            raise ValueError(f"offsets.groups needs offsets.kind='learned', got groups={self.groups}, kind={self.kind!r}")
        if self.kind != "learned" and self.scale != 1.0:
            raise ValueError(f"offsets.scale needs offsets.kind='learned', got scale={self.scale}, kind={self.kind!r}")


@dataclass(frozen=True, kw_only=True, repr=False)
class StaticKernel(_Config):
    """The kernel that is a parameter: the same at every position."""

    channels: Literal["none", "dense", "depthwise"] = "none"
    """How channels mix: ``dense`` (within ``groups``), ``depthwise`` (each alone), or no static kernel at all."""
    groups: int = 1
    """Convolution groups of a dense kernel."""

    def _check(self) -> None:
        _at_least("static_kernel.groups", self.groups, 1)
        if self.channels != "dense" and self.groups != 1:
            raise ValueError(
                f"static_kernel.groups needs static_kernel.channels='dense', got groups={self.groups}, channels={self.channels!r}"
            )


@dataclass(frozen=True, kw_only=True, repr=False)
class DynamicKernel(_Config):
    """The kernel that is generated from the input: its own value at every position, shared by the channels of a group."""

    source: Literal["none", "generated", "similarity"] = "none"
    """``generated`` by the generator, or ``similarity``: query-key products inside the window (attention)."""
    groups: int | None = None
    """Number of kernels a position (attention's heads). Set this or ``channels_per_group``."""
    channels_per_group: int | None = None
    """Number of channels that share one kernel. Set this or ``groups``."""
    channel_order: Literal["contiguous", "interleaved"] = "contiguous"
    """Which channels share a kernel: neighbours (c // n), or every G-th (c % G)."""
    normalization: Literal["none", "softmax", "sigmoid", "group_norm"] = "none"
    """Applied to the generated values; softmax runs over the taps (fold: over the source taps)."""
    scale_by_head_dim: bool = False
    """Multiply the values by (channels per group)^-0.5 before the normalization, as attention does."""
    remove_center: bool = False
    """Generate and normalize one tap less and put a zero at the centre (DCNv3)."""
    relative_position: bool = False
    """Add a learned bias for every displacement between query and key."""
    initial: Literal["random", "zero"] = "random"
    """Starting values of the layer that emits the kernel."""

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
        if self.relative_position and self.source != "similarity":
            raise ValueError("dynamic_kernel.relative_position needs dynamic_kernel.source='similarity', got source='generated'")
        if self.source == "similarity":
            for name, value in (("remove_center", True), ("initial", "zero"), ("normalization", "group_norm")):
                if getattr(self, name) == value:
                    raise ValueError(f"dynamic_kernel.{name}={value!r} contradicts dynamic_kernel.source='similarity'")


@dataclass(frozen=True, kw_only=True, repr=False)
class Generator(_Config):
    """What kernel and learned offsets are generated from: the feature that their two linear heads read.

    The steps, each present if set: average-pool to the output positions, reduce (1x1), look around (``view``), mix (1x1).
    """

    view: Pair | Literal["window", "global"] = 1
    """Extent, in output positions, of what one generated kernel depends on; ``window``: the extractor's own window, in pixels;
    ``global``: the whole image."""
    view_convolution: Literal["depthwise", "dense"] = "depthwise"
    """``depthwise``: a depthwise convolution over the view precedes linear heads. ``dense``: the heads are the convolution."""
    reduction: int | None = None
    """Reduce the channels to C // reduction first."""
    pointwise: bool = False
    """Mix the hidden channels by a 1x1 convolution after the view."""
    norm: Literal["none", "batch", "layer"] = "none"
    """Normalization after every hidden convolution."""
    activation: Literal["none", "relu", "gelu"] = "none"
    """Activation after the reduction and after the last hidden convolution."""
    head_multiple: int = 1
    """Kernel and offsets together are emitted in a multiple of this many values a position, the surplus unused (DCNv4's released
    code: 8, for aligned reads)."""

    @property
    def looks_around(self) -> bool:
        """Whether the view is a neighbourhood larger than one pixel and smaller than the image."""
        return self.view != "global" and self.view not in (1, (1, 1))

    def _check(self) -> None:
        if not isinstance(self.view, str):
            _at_least("generator.view", self.view, 1)
        if self.reduction is not None:
            _at_least("generator.reduction", self.reduction, 1)
        _at_least("generator.head_multiple", self.head_multiple, 1)
        if self.view_convolution == "dense":
            if not self.looks_around:
                raise ValueError(
                    f"generator.view_convolution='dense' needs a neighbourhood as generator.view, got view={self.view!r}"
                )
            if self.pointwise:
                raise ValueError("generator.pointwise=True contradicts generator.view_convolution='dense': the heads mix already")
        hidden = self.reduction is not None or self.pointwise or (self.looks_around and self.view_convolution == "depthwise")
        for name, value in (("norm", self.norm), ("activation", self.activation)):
            if value != "none" and not hidden:
                raise ValueError(
                    f"generator.{name}={value!r} has nothing to act on: set generator.reduction, generator.pointwise or a wider "
                    "depthwise generator.view"
                )


@dataclass(frozen=True, kw_only=True, repr=False)
class Projection(_Config):
    """Pointwise convolutions before (value, query, key) and after the operator. ``linear`` has no bias, ``affine`` has one."""

    input: Literal["none", "linear", "affine"] = "none"
    output: Literal["none", "linear", "affine"] = "none"


@dataclass(frozen=True, kw_only=True, repr=False)
class ExtractorSpec(_Config):
    """One setting of the generalized unfold. Immutable: change it with ``dataclasses.replace``.

    Raises ``TypeError`` for a value of the wrong type, ``ValueError`` for an unknown name or for fields that contradict each other.
    """

    kernel_size: Pair = 3
    """Extent of the window in taps, (y, x)."""
    dilation: Pair = 1
    """Distance between taps in pixels, (y, x)."""
    padding: Pair | Literal["same"] = "same"
    """Zeros around the image in pixels, (y, x); ``same``: dilation*(k-1)//2 before and the remainder after."""
    offsets: Offsets = field(default_factory=Offsets)
    """Where the taps look."""
    static_kernel: StaticKernel = field(default_factory=StaticKernel)
    """The weight that is a parameter."""
    dynamic_kernel: DynamicKernel = field(default_factory=DynamicKernel)
    """The weight that is generated, and who shares it."""
    generator: Generator = field(default_factory=Generator)
    """What kernel and offsets are generated from."""
    combine: Literal["multiply", "add", "residual"] = "multiply"
    """Static S and dynamic D: ``S*D``, ``S + D`` or ``S*(1 + D)``."""
    aggregation: Literal["gather", "fold"] = "gather"
    """``gather``: one output a window. ``fold``: K outputs a window, added where the window's taps lie."""
    overlap_normalize: bool = False
    """Divide a fold by the number of windows that cover the pixel."""
    center_feature_scale: bool = False
    """Blend the value at the window's centre into the output by a generated gate, one a group (DCNv3)."""
    projection: Projection = field(default_factory=Projection)
    """Pointwise convolutions around the operator."""
    bias: bool = False
    """Learned constant added to every output channel of the operator."""

    @property
    def taps(self) -> int:
        """K, the number of taps in the window."""
        kh, kw = as_pair(self.kernel_size)
        return kh * kw

    @property
    def generates(self) -> bool:
        """Whether anything is computed from the generator's feature."""
        return self.dynamic_kernel.source == "generated" or self.offsets.kind == "learned"

    def _check(self) -> None:
        _at_least("kernel_size", self.kernel_size, 1)
        _at_least("dilation", self.dilation, 1)
        if self.padding != "same":
            _at_least("padding", self.padding, 0)
        self._check_kernels()
        self._check_sampling()
        self._check_output()

    def _check_kernels(self) -> None:
        static, dynamic = self.static_kernel.channels, self.dynamic_kernel.source
        if static == "none" and dynamic == "none":
            raise ValueError("static_kernel.channels and dynamic_kernel.source are both 'none': an extractor needs a kernel")
        if self.combine != "multiply" and "none" in (static, dynamic):
            raise ValueError(
                f"combine={self.combine!r} needs both kernels, got static_kernel.channels={static!r}, dynamic_kernel.source={dynamic!r}"
            )
        if self.dynamic_kernel.channel_order == "interleaved" and (static != "none" or self.offsets.groups != 1):
            raise ValueError(
                "dynamic_kernel.channel_order='interleaved' contradicts static_kernel.channels="
                f"{static!r} or offsets.groups={self.offsets.groups}: these take channels in their own order"
            )
        if self.dynamic_kernel.remove_center and (self.taps == 1 or not self._has_centre):
            raise ValueError(
                f"dynamic_kernel.remove_center needs an odd kernel_size of more than one tap, got kernel_size={self.kernel_size}"
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
        if self.offsets.kind == "window_shift" and not self._has_centre:
            raise ValueError(f"offsets.kind='window_shift' needs an odd kernel_size, got kernel_size={self.kernel_size}")
        if self.keeps_size:
            return
        if self.generates and self.generator.view not in ("window", "global"):
            raise ValueError(
                f"padding={self.padding} contradicts generator.view={self.generator.view!r}: kernels and offsets come from the "
                "window's centre pixel, which needs padding='same'; or take view='window' or 'global'"
            )
        for name, value in (("offsets.kind", self.offsets.kind), ("dynamic_kernel.source", self.dynamic_kernel.source)):
            if value in ("window_shift", "similarity"):
                raise ValueError(f"{name}={value!r} needs padding='same', got padding={self.padding}")

    def _check_output(self) -> None:
        fold = self.aggregation == "fold"
        if fold and self.combine != "multiply":
            raise ValueError(f"aggregation='fold' only multiplies, got combine={self.combine!r}")
        if fold and self.static_kernel.channels == "dense":
            raise ValueError("aggregation='fold' needs static_kernel.channels 'depthwise' or 'none', got 'dense'")
        if fold and self.dynamic_kernel.source == "similarity":
            raise ValueError("aggregation='fold' needs a kernel of K*K values, dynamic_kernel.source='similarity' gives K")
        if fold and self.dynamic_kernel.remove_center:
            raise ValueError(
                "dynamic_kernel.remove_center=True contradicts aggregation='fold': it is defined for one kernel a window"
            )
        if self.overlap_normalize and not fold:
            raise ValueError("overlap_normalize needs aggregation='fold', got aggregation='gather'")
        if not self.center_feature_scale:
            return
        for name, value, allowed in (
            ("aggregation", self.aggregation, ("gather",)),
            ("static_kernel.channels", self.static_kernel.channels, ("none", "depthwise")),
            ("dynamic_kernel.source", self.dynamic_kernel.source, ("generated",)),
        ):
            if value not in allowed:
                raise ValueError(f"center_feature_scale needs {name} in {allowed}, got {value!r}")
        if not (self.keeps_size and self._has_centre):
            raise ValueError(
                "center_feature_scale needs an odd kernel_size and padding='same', "
                f"got kernel_size={self.kernel_size}, padding={self.padding}"
            )

    @property
    def _has_centre(self) -> bool:
        return all(k % 2 == 1 for k in as_pair(self.kernel_size))

    @property
    def keeps_size(self) -> bool:
        """Whether stride 1 keeps height and width, so that window p is centred on pixel stride*p."""
        reach = [d * (k - 1) for d, k in zip(as_pair(self.dilation), as_pair(self.kernel_size), strict=True)]
        return self.padding == "same" or [2 * p for p in as_pair(self.padding)] == reach


def asdict_changed(config: _Config) -> dict[str, Any]:
    """The fields that differ from their defaults, nested, in the types of YAML and JSON: what ``type(config)`` accepts back."""
    return {
        name: asdict_changed(value) if isinstance(value, _Config) else list(value) if isinstance(value, tuple) else value
        for name, value in config.changed().items()
    }


def as_pair(value: Any) -> tuple[int, int]:
    """An int or (y, x) as (y, x)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _at_least(name: str, value: Any, minimum: int) -> None:
    if min(as_pair(value)) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def _default(item: "Field[Any]") -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _converted(value: Any, hint: Any, name: str) -> Any:
    """The value as the annotated type; lists become tuples, mappings config objects. ``TypeError`` or ``ValueError`` otherwise."""
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            known = {f.name for f in fields(hint)}
            if unknown := sorted(set(value) - known, key=str):
                raise ValueError(f"{name} has no field {unknown[0]!r}, it has {', '.join(sorted(known))}")
            return hint(**value)
        if isinstance(value, hint):
            return value
    elif get_origin(hint) in (types.UnionType, typing.Union):
        for option in get_args(hint):
            try:
                return _converted(value, option, name)
            except (TypeError, ValueError):
                continue
        if isinstance(value, str) and any(get_origin(option) is Literal for option in get_args(hint)):
            raise ValueError(f"{name} must be {_readable(hint)}, got {value!r}")
    elif get_origin(hint) is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        if isinstance(value, str):
            raise ValueError(f"{name} must be one of {get_args(hint)}, got {value!r}")
    elif get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and len(value) == 2:
            return tuple(_converted(v, int, name) for v in value)
    elif hint is types.NoneType:
        if value is None:
            return None
    elif type(value) is hint or (hint is float and type(value) is int):
        return hint(value)
    raise TypeError(f"{name} must be {_readable(hint)}, got {value!r} of type {type(value).__name__}")


def _readable(hint: Any) -> str:
    if get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_readable(option) for option in get_args(hint))
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint).replace("typing.", "")
