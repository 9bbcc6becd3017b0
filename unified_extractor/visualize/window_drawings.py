"""Drawings of trained layers on an image: the sampling points of windows and the weights of their taps."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from unified_extractor.visualize.label_placement import wrapped
from unified_extractor.visualize.window_values import (
    WindowReading,
    extractor_inputs,
    extractor_with_input,
    kernel_variation,
    output_size,
    read_window,
)

WINDOW_COLORS = ("tab:orange", "tab:cyan", "tab:pink")
_CAPTION = """Dots, lines and frame of one color: one window. Lines join neighboring taps, the square is the upper left one;
numbers, where there is room for them, count row by row. Dot size: weight of the tap. Red: positive, blue: negative.
Each row has one color scale. Hatched: outside the image, where taps read zero."""
_MOST_NUMBERS = 9
"""Largest number of taps of a window that are numbered."""
_LEAST_SPACING = 0.07
"""Distance between neighboring taps, as a share of the frame, below which numbers would cover each other."""


def draw_windows(networks: Mapping[str, nn.Module], image: Tensor, *, layer: int = 0, shown: Tensor | None = None) -> Figure:
    """Draw a row for each network: the sampling points of three windows on the image, and the weights of their taps.

    Args:
        networks: trained networks by name, on any device.
        image: input of the networks, ``[1, C, H, W]``.
        layer: number of the extractor in each network, counted from the input.
        shown: image to draw, ``[h, w]`` or ``[h, w, 3]`` in 0..1; by default the first channel of ``image``.

    Raises:
        ValueError: a network has no such extractor.
    """
    rows = {name: extractor_with_input(network, image, layer) for name, network in networks.items()}
    return _draw_rows(rows, image, shown)


def draw_stages(network: nn.Module, image: Tensor, *, shown: Tensor | None = None) -> Figure:
    """Draw a row for the last extractor at each size of the feature map of one network, on any device."""
    last = {}
    for extractor, x in extractor_inputs(network, image.to(next(network.parameters()).device)):
        last[f"{x.shape[2]}x{x.shape[3]}"] = (copy.deepcopy(extractor).cpu(), x.cpu())
    return _draw_rows(last, image, shown)


def _draw_rows(layers: Mapping[str, tuple[Any, Tensor]], image: Tensor, shown: Tensor | None) -> Figure:
    """Draw a row for each pair of a layer and its input."""
    picture = image[0, 0].numpy() if shown is None else shown.numpy()
    figure = Figure(figsize=(10, 2.75 * len(layers) + 0.5), layout="constrained")
    axes = figure.subplots(len(layers), 4, squeeze=False, width_ratios=(1.5, 1, 1, 1))
    for row, (name, (extractor, x)) in zip(axes, layers.items(), strict=True):
        readings = [read_window(extractor, x, position) for position in _three_positions(output_size(extractor, x))]
        _draw_sampling(row[0], picture, readings, scale=(picture.shape[0] / x.shape[2], picture.shape[1] / x.shape[3]))
        row[0].set_ylabel(wrapped(name))
        limit = max(float(reading.weights.abs().max()) for reading in readings) or 1.0
        for axis, reading, color in zip(row[1:], readings, WINDOW_COLORS, strict=True):
            _draw_kernel(axis, reading.weights.numpy(), color, limit)
        figure.colorbar(row[3].images[0], ax=row[3], fraction=0.046, ticks=[-limit, 0, limit], format="%.2g").ax.tick_params(
            labelsize=7
        )
        row[2].set_xlabel(f"kernels of all positions differ from their mean by {kernel_variation(extractor, x):.0%}", fontsize=7)
    figure.suptitle(_CAPTION, fontsize=8)
    axes[0][0].set_title("where taps look", fontsize=9)
    for axis, place in zip(axes[0][1:], ("upper left", "center", "lower right"), strict=True):
        axis.set_title(f"weights, window {place}", fontsize=9)
    return figure


def _three_positions(size: Sequence[int]) -> list[tuple[int, int]]:
    return [(int(size[0] * part), int(size[1] * part)) for part in (0.25, 0.5, 0.75)]


def _draw_sampling(axis: Axes, picture: np.ndarray, readings: list[WindowReading], scale: tuple[float, float]) -> None:
    """Draw the taps of windows on the image. Taps beyond the frame are triangles at its edge; how many lie outside is written below."""
    taps = [  # [2, kh, kw], (y, x) in pixels of the picture
        np.stack([(values.numpy() + 0.5) * s - 0.5 for values, s in zip((reading.rows, reading.columns), scale, strict=True)])
        for reading in readings
    ]
    points = np.concatenate([tap.reshape(2, -1) for tap in taps], 1)
    sizes = np.array(picture.shape[:2])
    low, high = _frame(points, sizes)
    axis.set_facecolor("0.97")
    axis.patch.set(hatch="////", edgecolor="0.6")
    axis.imshow(picture, cmap="gray", zorder=1)
    axis.add_patch(Rectangle((-0.5, -0.5), sizes[1], sizes[0], fill=False, edgecolor="0.3", linewidth=0.8, zorder=1.5))
    for tap, reading, color in zip(taps, readings, WINDOW_COLORS, strict=True):
        _draw_window(axis, tap, reading.weights.numpy(), color, low, high)
    axis.set(xticks=[], yticks=[], xlim=(low[1], high[1]), ylim=(high[0], low[0]))
    outside = _beyond(points, np.full(2, -0.5), sizes - 0.5).sum()
    hidden = _beyond(points, low, high).sum()
    text = f"{outside} of {points.shape[1]} taps outside the image" + f",\n{hidden} beyond the frame (triangles)" * bool(hidden)
    axis.set_xlabel(text, fontsize=7)


def _draw_window(axis: Axes, taps: np.ndarray, weights: np.ndarray, color: str, low: np.ndarray, high: np.ndarray) -> None:
    """Draw one window's taps ``[2, kh, kw]``: dots, lines between neighbors, numbers where there is room."""
    for rows, columns in ((taps[0], taps[1]), (taps[0].T, taps[1].T)):
        for line in zip(rows, columns, strict=True):
            axis.plot(line[1], line[0], color=color, linewidth=0.7, alpha=0.8, zorder=2)
    points, inset = taps.reshape(2, -1), (high - low) / 50
    y, x = np.clip(np.nan_to_num(points, nan=np.inf), (low + inset)[:, None], (high - inset)[:, None])
    beyond = _beyond(points, low, high)
    sizes = np.where(beyond, 30, 4 + 22 * np.abs(weights).ravel() / max(float(np.abs(weights).max()), 1e-12))
    for chosen, marker in ((~beyond, "o"), (beyond, "^")):
        axis.scatter(
            x[chosen], y[chosen], s=sizes[chosen], marker=marker, color=color, edgecolors="black", linewidths=0.3, zorder=3
        )
    _mark_first(axis, x[0], y[0], color)
    shown = np.stack([y, x]).reshape(taps.shape)
    steps = [np.linalg.norm(np.diff(shown, axis=along), axis=0).ravel() for along in (1, 2)]
    spacing = np.median(np.concatenate([*steps, [np.inf] * (len(x) == 1)])) / (high - low).max()
    if len(x) <= _MOST_NUMBERS and spacing >= _LEAST_SPACING:
        for number, place in enumerate(zip(x, y, strict=True), 1):
            box = {"boxstyle": "round,pad=0.1", "facecolor": color, "edgecolor": "none"}
            axis.annotate(str(number), place, (4, 3), textcoords="offset points", fontsize=6, bbox=box, zorder=4)


def _frame(points: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends (y, x) of what is shown: the image, and points as far outside as a half of it."""
    finite = points[:, np.isfinite(points).all(0)]
    room = 0.06 * sizes + 0.5
    ends = [np.append(finite, edge[:, None], 1) for edge in (np.full(2, -0.5), sizes - 0.5)]
    low = np.maximum(ends[0].min(1), -0.5 - sizes / 2) - room
    high = np.minimum(ends[1].max(1), sizes - 0.5 + sizes / 2) + room
    return low, high


def _beyond(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return which of the points ``[2, N]`` lie outside of a rectangle, or nowhere."""
    return np.logical_not(np.all((points >= low[:, None]) & (points <= high[:, None]), axis=0))


def _draw_kernel(axis: Axes, weights: np.ndarray, color: str, limit: float) -> None:
    axis.imshow(weights, cmap="RdBu_r", norm=Normalize(-limit, limit))
    _mark_first(axis, 0, 0, color)
    if weights.size <= _MOST_NUMBERS:
        for number, (row, column) in enumerate(np.ndindex(*weights.shape), 1):
            box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
            axis.annotate(str(number), (column - 0.5, row - 0.5), (4, -9), textcoords="offset points", fontsize=6, bbox=box)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(color=color, linewidth=2)


def _mark_first(axis: Axes, x: float, y: float, color: str) -> None:
    """Draw the square that marks a window's upper left tap."""
    axis.scatter(x, y, s=70, marker="s", facecolors="none", edgecolors=color, linewidths=1.2, zorder=3)
