"""Pictures of extractors: the operator as a drawing, and what trained ones do on an image."""

import copy
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from unified_extractor.spec import ExtractorSpec, as_pair
from unified_extractor.visualize.description import formula, in_words
from unified_extractor.visualize.label_placement import wrapped
from unified_extractor.visualize.window_values import WindowReading, extractor_inputs, output_size, read_window

WINDOW_COLORS = ("tab:orange", "tab:cyan", "tab:pink")


def draw_operator(title: str, spec: ExtractorSpec) -> Figure:
    """The operator's three questions, one panel each: where taps look, with which weight, which channels share it.

    The drawing is of the spec, not of a trained layer: learned offsets and generated kernels are drawn by a fixed random number.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    where, weight, share = figure.subplots(1, 3)
    _draw_where(where, spec)
    _draw_weight(weight, spec)
    _draw_sharing(share, spec)
    figure.suptitle(f"{title}\n{formula(spec)}", family="monospace", fontsize=9)
    return figure


def draw_windows(networks: Mapping[str, nn.Module], image: Tensor, *, layer: int = 0, shown: Tensor | None = None) -> Figure:
    """For every network a row: sampling points of three windows on the image, and the weights of these windows' taps.

    Args:
        networks: trained networks by name, on the CPU.
        image: what they receive, ``[1, C, H, W]``.
        layer: which extractor of each network, counted from the input.
        shown: the image to draw, ``[h, w]`` or ``[h, w, 3]`` in 0..1; None: the first channel of ``image``.
    """
    return _draw_rows({name: extractor_inputs(network, image)[layer] for name, network in networks.items()}, image, shown)


def draw_stages(network: nn.Module, image: Tensor, *, shown: Tensor | None = None) -> Figure:
    """The same for one network, wherever it is: a row for its last extractor on every size of the map."""
    last = {}
    for extractor, x in extractor_inputs(network, image.to(next(network.parameters()).device)):
        last[f"{x.shape[2]}x{x.shape[3]}"] = (copy.deepcopy(extractor).cpu(), x.cpu())
    return _draw_rows(last, image, shown)


def _draw_rows(layers: Mapping[str, tuple[Any, Tensor]], image: Tensor, shown: Tensor | None) -> Figure:
    """A row for every layer and what it receives."""
    picture = image[0, 0].numpy() if shown is None else shown.numpy()
    figure = Figure(figsize=(9, 2.1 * len(layers) + 0.3), layout="constrained")
    axes = figure.subplots(len(layers), 4, squeeze=False)
    for row, (name, (extractor, x)) in zip(axes, layers.items(), strict=True):
        readings = [read_window(extractor, x, position) for position in _three_positions(output_size(extractor, x))]
        _draw_sampling(row[0], picture, readings, scale=(picture.shape[0] / x.shape[2], picture.shape[1] / x.shape[3]))
        row[0].set_ylabel(wrapped(name))
        for axis, reading, color in zip(row[1:], readings, WINDOW_COLORS, strict=True):
            _draw_kernel(axis, reading.weights.numpy(), color)
    figure.suptitle(
        "Dots and frame of one color: one window. Dot size: weight of the tap. Red: positive, blue: negative. White: outside the image.",
        fontsize=8,
    )
    axes[0][0].set_title("where taps look", fontsize=9)
    for axis, place in zip(axes[0][1:], ("upper left", "center", "lower right"), strict=True):
        axis.set_title(f"weights, window {place}", fontsize=9)
    return figure


def _three_positions(size: Sequence[int]) -> list[tuple[int, int]]:
    return [(int(size[0] * part), int(size[1] * part)) for part in (0.25, 0.5, 0.75)]


def _draw_sampling(axis: Axes, picture: np.ndarray, readings: list[WindowReading], scale: tuple[float, float]) -> None:
    axis.imshow(picture, cmap="gray")
    for reading, color in zip(readings, WINDOW_COLORS, strict=True):
        rows, columns = ((values + 0.5) * s - 0.5 for values, s in zip((reading.rows, reading.columns), scale, strict=True))
        strength = reading.weights.abs() / reading.weights.abs().max().clamp(min=1e-12)
        axis.scatter(columns, rows, s=4 + 22 * strength.numpy(), color=color, edgecolors="black", linewidths=0.3)
    axis.set(xticks=[], yticks=[], xlim=(-1.5, picture.shape[1] + 0.5), ylim=(picture.shape[0] + 0.5, -1.5))


def _draw_kernel(axis: Axes, weights: np.ndarray, color: str) -> None:
    limit = float(np.abs(weights).max()) or 1.0
    axis.imshow(weights, cmap="RdBu_r", norm=Normalize(-limit, limit))
    axis.set(xticks=[], yticks=[])
    axis.set_xlabel(f"largest {limit:.2g}", fontsize=7)
    for spine in axis.spines.values():
        spine.set(color=color, linewidth=2)


def _draw_where(axis: Axes, spec: ExtractorSpec) -> None:
    (kh, kw), (dy, dx) = as_pair(spec.kernel_size), as_pair(spec.dilation)
    height, width = dy * (kh - 1) + 5, dx * (kw - 1) + 5
    rows, columns = (a.ravel().astype(float) for a in np.mgrid[0 : dy * kh : dy, 0 : dx * kw : dx])
    corner, margin = (0.0, max(kh * dy, kw * dx) / 2) if spec.offsets.kind == "window_shift" else (2.0, 0.6)
    axis.set(xlim=(-margin, width - 0.4), ylim=(height - 0.4, -margin), aspect="equal", xticks=[], yticks=[])
    for row in range(height):
        for column in range(width):
            axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="0.85"))
    if spec.offsets.kind == "window_shift":
        axis.scatter(columns - dx * (kw // 2), rows - dy * (kh // 2), s=18, facecolors="none", edgecolors="0.5")
    axis.scatter(columns + corner, rows + corner, s=24, color="0.55" if spec.offsets.kind == "learned" else "tab:blue")
    if spec.offsets.kind == "learned":
        moves = np.random.default_rng(1).normal(0, 0.6, (2, kh * kw))
        axis.quiver(
            columns + corner,
            rows + corner,
            moves[1],
            moves[0],
            angles="xy",
            scale_units="xy",
            scale=1,
            color="tab:blue",
            width=0.008,
        )
    axis.set_title("where", fontsize=10)
    example = " (arrows: an example)" if spec.offsets.kind == "learned" else ""
    axis.set_xlabel(_wrapped(in_words(spec)["where"] + example), fontsize=7)


def _draw_weight(axis: Axes, spec: ExtractorSpec) -> None:
    """The kernel at two positions: a static one is the same at both, a dynamic one is not."""
    kh, kw = as_pair(spec.kernel_size)
    random = np.random.default_rng(2)
    static = random.normal(size=(kh, kw)) if spec.static_kernel.channels != "none" else np.ones((kh, kw))
    gap = np.full((kh, 1), np.nan)
    dynamic = [random.normal(size=(kh, kw)) if spec.dynamic_kernel.source != "none" else np.ones((kh, kw)) for _ in range(2)]
    if spec.dynamic_kernel.normalization == "softmax":
        dynamic = [np.exp(d) / np.exp(d).sum() for d in dynamic]
    weights = {
        "multiply": [static * d for d in dynamic],
        "add": [static + d for d in dynamic],
        "residual": [static * (1 + d) for d in dynamic],
    }[spec.combine]
    limit = float(np.abs(weights).max())
    axis.imshow(np.hstack([weights[0], gap, weights[1]]), cmap="RdBu_r", norm=Normalize(-limit, limit))
    axis.set(xticks=[(kw - 1) / 2, kw + (kw + 1) / 2], xticklabels=["one position", "another"], yticks=[])
    axis.set_title("with which weight", fontsize=10)
    axis.set_xlabel(_wrapped(in_words(spec)["weight"] + " (values: an example)"), fontsize=7)


def _draw_sharing(axis: Axes, spec: ExtractorSpec) -> None:
    """Channels from below to above, colored by the kernel they use."""
    channels = 32
    static, dynamic = spec.static_kernel, spec.dynamic_kernel
    bars = []
    if static.channels == "depthwise":
        bars.append(("S", np.arange(channels)))
    elif static.channels == "dense":
        bars.append(("S, mixing\ninside", np.arange(channels) // (channels // min(static.groups, channels))))
    if dynamic.source != "none":
        groups = min(channels, dynamic.groups or max(1, channels // (dynamic.channels_per_group or 1)))
        order = np.arange(channels)
        bars.append(("D", order % groups if dynamic.channel_order == "interleaved" else order * groups // channels))
    for place, (_, kernels) in enumerate(bars):
        spread = kernels[:, None] * 7 % channels  # neighbors get distant colors, no two kernels the same
        axis.imshow(spread, cmap="turbo", extent=(place - 0.3, place + 0.3, 0, channels), vmin=0, vmax=channels - 1)
    axis.set(xlim=(-0.6, len(bars) - 0.4), ylim=(0, channels), aspect="auto", xticks=range(len(bars)), yticks=[])
    axis.set_xticklabels([name for name, _ in bars])
    axis.set_ylabel(f"{channels} channels, one color a kernel", fontsize=8)
    axis.set_title("who shares it", fontsize=10)
    axis.set_xlabel(_wrapped(in_words(spec)["shared by"]), fontsize=7)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 56)
