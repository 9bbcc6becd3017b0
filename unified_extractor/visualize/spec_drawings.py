"""Drawings of a spec: where the taps look, with which weights, and which channels share them."""

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from unified_extractor.description import formula, in_words, is_one_for_the_image
from unified_extractor.spec import ExtractorSpec, as_pair


def operator(title: str, spec: ExtractorSpec) -> Figure:
    """Draw a spec in three panels: where the taps look, with which weights, and which channels share them.

    The spec is no trained layer, so learned offsets and generated kernels are shown as fixed random numbers.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    where, weight, share = figure.subplots(1, 3)
    _draw_where(where, spec)
    _draw_weight(weight, spec)
    _draw_sharing(share, spec)
    figure.suptitle(f"{title}\n{formula(spec)}", family="monospace", fontsize=9)
    return figure


def _draw_where(axis: Axes, spec: ExtractorSpec) -> None:
    (kh, kw), (dy, dx) = as_pair(spec.kernel_size), as_pair(spec.dilation)
    height, width = dy * (kh - 1) + 5, dx * (kw - 1) + 5
    rows, columns = (a.ravel().astype(float) for a in np.mgrid[0 : dy * kh : dy, 0 : dx * kw : dx])
    corner, margin = (0.0, max(kh * dy, kw * dx) / 2) if spec.offsets.shifts_windows else (2.0, 0.6)
    spread = 0.6  # of the arrows
    if spec.offsets.origin == "center":
        above, left = as_pair(2 if spec.offsets.reach is None else spec.offsets.reach)
        height, width, spread = 2 * above + 5, 2 * left + 5, max(above, left) / 2
        rows, columns = np.full(kh * kw, float(above)), np.full(kh * kw, float(left))
    axis.set(xlim=(-margin, width - 0.4), ylim=(height - 0.4, -margin), aspect="equal", xticks=[], yticks=[])
    for row in range(height):
        for column in range(width):
            axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="0.85"))
    if spec.offsets.shifts_windows:
        above, left = (d * ((k - 1) // 2 - h) for d, k, h in zip((dy, dx), (kh, kw), as_pair(spec.offsets.halo), strict=True))
        axis.scatter(columns - left, rows - above, s=18, facecolors="none", edgecolors="0.5")
    axis.scatter(columns + corner, rows + corner, s=24, color="0.55" if spec.offsets.are_trained else "tab:blue")
    if spec.offsets.are_trained:
        arrows = np.random.default_rng(1).normal(0, spread, (2, kh * kw))
        axis.quiver(
            columns + corner,
            rows + corner,
            arrows[1],
            arrows[0],
            angles="xy",
            scale_units="xy",
            scale=1,
            color="tab:blue",
            width=0.008,
        )
    outputs = ""
    if as_pair(spec.upsample) != (1, 1):
        outputs = " (crosses: the outputs of the pixel in the middle)"
        _draw_outputs(axis, spec, (corner + dy * (kh - 1) // 2, corner + dx * (kw - 1) // 2))
    axis.set_title("where", fontsize=10)
    shifted = " (rings: the same window without the shift)"
    trained = f" (gray: the {spec.offsets.origin}, arrows: an example)"
    marks = {
        "none": "",
        "learned": trained,
        "parameter": trained,
        "window_shift": shifted,
        "block": shifted,
    }
    axis.set_xlabel(_wrapped(in_words(spec)["where"] + marks[spec.offsets.kind] + outputs), fontsize=8)


def _draw_outputs(axis: Axes, spec: ExtractorSpec, pixel: tuple[float, float]) -> None:
    """Mark the places of the outputs in a pixel, (y, x)."""
    places = [start + (np.arange(s) - (s - 1) / 2) / s for start, s in zip(pixel, as_pair(spec.upsample), strict=True)]
    rows, columns = np.meshgrid(*places, indexing="ij")
    axis.scatter(columns, rows, s=14, marker="x", color="black", linewidths=0.8)


def _draw_weight(axis: Axes, spec: ExtractorSpec) -> None:
    """Draw the kernel at two positions, where a static one is the same and a dynamic one is not; one for an image, for two images."""
    kh, kw = as_pair(spec.kernel_size)
    random = np.random.default_rng(2)
    terms, has_static = spec.terms, spec.static_kernel.channels != "none"
    static = random.normal(size=(terms, kh, kw)) if has_static else np.ones((terms, kh, kw))
    gap = np.full((kh, 1), np.nan)
    values = (terms, kh, kw) if spec.dynamic_kernel.per_tap else (terms, 1, 1)
    has_dynamic = spec.dynamic_kernel.source != "none"
    dynamic = [np.ones((terms, kh, kw)) * (random.normal(size=values) if has_dynamic else 1) for _ in range(2)]
    if spec.dynamic_kernel.source == "gaussian":
        dynamic = [np.exp(-d * d / 2) for d in dynamic]
    elif spec.dynamic_kernel.normalization == "softmax":
        axes = 0 if spec.dynamic_kernel.softmax_over == "terms" else (1, 2)
        dynamic = [np.exp(d) / np.exp(d).sum(axes, keepdims=True) for d in dynamic]
    if spec.dynamic_kernel.normalization == "centered":
        dynamic = [d - d.mean((1, 2), keepdims=True) / 2 for d in dynamic]
    if spec.dynamic_kernel.normalization == "standardized":
        dynamic = [(d - d.mean((1, 2), keepdims=True)) / d.std((1, 2), ddof=1, keepdims=True) for d in dynamic]
    if spec.channel_kernel.combine != "none":  # one channel's, the same at both positions
        channel = random.normal(size=(1, kh, kw))
        dynamic = [d * channel if spec.channel_kernel.combine == "multiply" else d + channel for d in dynamic]
    weights = {
        "multiply": [static * d for d in dynamic],
        "add": [static + d for d in dynamic],
        "residual": [static * (1 + d) for d in dynamic],
    }[spec.combine]
    weights = [one.sum(0) for one in weights]
    labels = [f"one {'image' if is_one_for_the_image(spec) else 'position'}", "another"]
    if spec.dynamic_kernel.small_kernel_size is not None:
        weights[0] = _framed(weights[0], as_pair(spec.dynamic_kernel.small_kernel_size))
        labels = ["first half of the channels", "second half"]
    limit = float(np.abs(weights).max())
    axis.imshow(np.hstack([weights[0], gap, weights[1]]), cmap="RdBu_r", norm=Normalize(-limit, limit))
    axis.set(xticks=[(kw - 1) / 2, kw + (kw + 1) / 2], xticklabels=labels, yticks=[])
    axis.set_title("with which weight", fontsize=10)
    axis.set_xlabel(_wrapped(in_words(spec)["weight"] + " (values: an example)"), fontsize=8)


def _framed(kernel: "np.ndarray[Any, Any]", small: tuple[int, int]) -> "np.ndarray[Any, Any]":
    """Return a kernel with zeros around the taps of the small window."""
    rows, columns = ((k - s) // 2 for k, s in zip(kernel.shape, small, strict=True))
    inner = slice(rows, rows + small[0]), slice(columns, columns + small[1])
    framed = np.zeros_like(kernel)
    framed[inner] = kernel[inner]
    return framed


def _draw_sharing(axis: Axes, spec: ExtractorSpec) -> None:
    """Draw the channels from bottom to top, colored by the kernel that they use."""
    channels = 32
    static, dynamic = spec.static_kernel, spec.dynamic_kernel
    bars = []
    if static.channels == "depthwise":
        bars.append(("S", np.arange(channels)))
    elif static.channels == "dense":
        bars.append(("S, dense\nin a group", np.arange(channels) // (channels // min(static.groups, channels))))
    if dynamic.source != "none":
        windows = 1 if dynamic.small_kernel_size is None else 2
        groups = min(channels, windows * (dynamic.groups or max(1, channels // (dynamic.channels_per_group or 1))))
        order = np.arange(channels)
        bars.append(("D", order % groups if dynamic.channel_order == "interleaved" else order * groups // channels))
    if spec.channel_kernel.combine != "none":
        bars.append(("E", np.arange(channels)))
    if not bars:  # what channels share are offsets
        groups = min(channels, channels // (spec.offsets.channels_per_group or channels) * spec.offsets.groups)
        bars.append(("offsets", np.arange(channels) * groups // channels))
    for place, (_, kernels) in enumerate(bars):
        shades = kernels[:, None] * 7 % channels  # neighbors get distant colors, no two kernels the same
        axis.imshow(shades, cmap="turbo", extent=(place - 0.3, place + 0.3, 0, channels), vmin=0, vmax=channels - 1)
    axis.set(xlim=(-0.6, len(bars) - 0.4), ylim=(0, channels), aspect="auto", xticks=range(len(bars)), yticks=[])
    axis.set_xticklabels([name for name, _ in bars])
    axis.set_ylabel(f"{channels} channels, one color a kernel", fontsize=8)
    axis.set_title("who shares it", fontsize=10)
    axis.set_xlabel(_wrapped(in_words(spec)["shared by"]), fontsize=8)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 38)
