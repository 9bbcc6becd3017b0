"""A layer with the contract of a convolution, channels and stride, for every spec."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.layers.leaves import traced_as_leaf
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.named_specs import as_spec
from unified_extractor.names import suggesting_arguments
from unified_extractor.ops import checks
from unified_extractor.spec import ExtractorSpec, Pair, as_pair

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
"""Values outside the image, as of torch's convolutions."""


class ExtractorConv2d(nn.Module):
    """An extractor in a convolution's place: any spec takes ``in_channels`` to ``out_channels`` and shrinks the map by ``stride``.

    What the spec does not do by itself is added: a 1x1 convolution after a spec that cannot change channels, average pooling after a
    fold, whose map keeps its size.

    Args:
        in_channels: C.
        out_channels: O.
        spec: the extractor: a spec, or a preset's name or call such as "involution(kernel_size=3)".
        stride: pixels between windows, an int or (y, x).
        margin: pixels that the map loses at stride 1, an int or (y, x): ``dilation*(kernel_size - 1) - 2*padding`` of a convolution,
            0 where it keeps the size. None: as ``spec.padding`` says.
        padding_mode: values outside the image that taps see, as of ``torch.nn.Conv2d``.
        guide_channels: channels of the guide, another map from which ``forward(x, guide)`` generates kernels and offsets, of the image's
            size. None: those of the image, and the guide may be left out.

    Shape:
        ``[B, C, H, W]`` to ``[B, O, (H - margin - 1)//stride + 1, (W - margin - 1)//stride + 1]``, without a margin
        ``ceil(H/stride)``.

    Attributes:
        layer: the :class:`UnifiedExtractor2d` inside.

    Raises:
        ValueError, TypeError: as of :class:`UnifiedExtractor2d`; an image that is smaller than its margin.
    """

    @suggesting_arguments
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spec: ExtractorSpec | str,
        stride: Pair = 1,
        *,
        margin: Pair | None = None,
        padding_mode: PaddingMode = "zeros",
        guide_channels: int | None = None,
    ) -> None:
        super().__init__()
        spec = as_spec(spec)
        checks.one_of("padding_mode", padding_mode, get_args(PaddingMode))
        checks.pair("stride", stride, 1)
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.margin = as_pair(_own_margin(spec) if margin is None else margin)
        self.padding_mode = padding_mode
        reach = [
            0 if padding_mode == "zeros" else d * (k - 1)
            for d, k in zip(as_pair(spec.dilation), as_pair(spec.kernel_size), strict=True)
        ]
        self._frames = tuple(_frame(*sizes) for sizes in zip(self.margin, as_pair(stride), reach, strict=True))
        inner = out_channels if _changes_channels(spec) else in_channels
        same = replace(spec, padding="same")
        self.extractor = placed_extractor(in_channels, inner, same, stride, guide_channels=guide_channels)
        self.projection = nn.Identity() if inner == out_channels else nn.Conv2d(inner, out_channels, 1, bias=False)

    @property
    def layer(self) -> UnifiedExtractor2d:
        """Return the extractor, without what pads or pools around it."""
        return next(part for part in self.extractor.modules() if isinstance(part, UnifiedExtractor2d))

    def guide_shape(self, input_shape: Sequence[int]) -> tuple[int, ...] | None:
        """Return the shape of the guide that ``forward`` needs beside an image of shape ``[B, C, H, W]``; None where it needs none."""
        return self.layer.guide_shape(input_shape)

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as in the constructor."""
        self.layer.reset_parameters()
        if isinstance(self.projection, nn.Conv2d):
            self.projection.reset_parameters()

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Return ``[B, O, H', W']`` for an image ``[B, C, H, W]``.

        Args:
            x: image that is sampled.
            guide: map that kernels and offsets come from, ``[B, guide_channels, H, W]``; None: the image.
        """
        if (node := traced_as_leaf(self, x, guide)) is not None:
            return node
        plain = self.margin == (0, 0) and self.padding_mode == "zeros"
        return self.projection(self.extractor(x, guide) if plain else self._within_margin(x, guide))

    def _within_margin(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Return the extractor's map at those windows that a convolution with this margin has."""
        if x.shape[2] <= self.margin[0] or x.shape[3] <= self.margin[1]:
            raise ValueError(f"x must be larger than margin={self.margin}, got shape {list(x.shape)}")
        rows, columns = self._frames
        if self.padding_mode in ("reflect", "circular"):  # a reflection leaves the outermost pixel out
            least = [max(frame.border) + (self.padding_mode == "reflect") for frame in self._frames]
            if x.shape[2] < least[0] or x.shape[3] < least[1]:
                raise ValueError(
                    f"padding_mode={self.padding_mode!r} of a kernel_size={self.layer.spec.kernel_size} needs an image of at least "
                    f"{least[0]} x {least[1]} pixels, got shape {list(x.shape)}"
                )
        guide = None if guide is None else self._framed(self.layer.source(x, guide))
        y = self.extractor(self._framed(x), guide)
        return y[:, :, rows.dropped[0] : y.shape[2] - rows.dropped[1], columns.dropped[0] : y.shape[3] - columns.dropped[1]]

    def _framed(self, x: Tensor) -> Tensor:
        """Return a map with the border that the padding mode fills, and zeros around it."""
        rows, columns = self._frames
        x = F.pad(x, (*columns.border, *rows.border), "constant" if self.padding_mode == "zeros" else self.padding_mode)
        return F.pad(x, (*columns.zeros, *rows.zeros))

    def __repr__(self) -> str:
        """Return the call that makes this layer."""
        options = {"stride": (self.stride, 1), "margin": (self.margin, (0, 0)), "padding_mode": (self.padding_mode, "zeros")}
        options["guide_channels"] = (self.layer.guide_channels, self.in_channels)
        given = "".join(f", {name}={value!r}" for name, (value, default) in options.items() if value != default)
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, {self.layer.spec!r}{given})"


class _Frame(NamedTuple):
    """Padding of one axis of an image, and the windows of the padded image that do not count: the same for images of all sizes."""

    border: tuple[int, int]
    """Pixels before and after, filled by the padding mode."""
    zeros: tuple[int, int]
    """Pixels before and after, outside of the border, which put the first window that counts on a multiple of the stride."""
    dropped: tuple[int, int]
    """Windows before and after those that count."""


def _frame(margin: int, stride: int, reach: int) -> _Frame:
    """Return the frame in which windows are ``stride`` apart and the first one is centered ``margin // 2`` pixels inside the image.

    n pixels have ``(n - margin - 1)//stride + 1`` windows that count. Padded to n + zeros, they have ceil of its stride-th part, a constant
    number of windows more, because zeros + margin is a multiple of the stride.

    Args:
        margin: pixels that the map loses at stride 1.
        stride: pixels between windows.
        reach: extent of a window minus 1, all of which must lie within the border; 0 where zeros surround the image anyway.
    """
    first = margin // 2
    border = max(0, reach // 2 - first), max(0, first - margin + reach - reach // 2)
    first, margin = first + border[0], margin + sum(border)
    skipped = -(-first // stride)
    before, least = stride * skipped - first, max(0, first - margin)
    after = least + -(before + least + margin) % stride
    return _Frame(border, (before, after), (skipped, (before + after + margin) // stride - skipped))


def _own_margin(spec: ExtractorSpec) -> tuple[int, int]:
    """Return how many pixels a map loses by the padding of a spec."""
    if spec.padding == "same":
        return (0, 0)
    sizes = zip(as_pair(spec.dilation), as_pair(spec.kernel_size), as_pair(spec.padding), strict=True)
    rows, columns = (d * (k - 1) - 2 * p for d, k, p in sizes)
    return rows, columns


def _changes_channels(spec: ExtractorSpec) -> bool:
    """Return whether an extractor of this spec puts out as many channels as are asked for; ``add`` needs as many as come in."""
    if spec.static_kernel.channels == "dense":
        return spec.combine != "add"
    return spec.projection.output != "none"
