"""Drawings of trained layers on an image: the sampling points of windows and the weights of their taps."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor, nn

from unified_extractor.visualize.label_placement import wrapped
from unified_extractor.visualize.window_values import WindowReading, extractor_inputs, output_size, read_window

WINDOW_COLORS = ("tab:orange", "tab:cyan", "tab:pink")


def draw_windows(networks: Mapping[str, nn.Module], image: Tensor, *, layer: int = 0, shown: Tensor | None = None) -> Figure:
    """Draw a row for each network: the sampling points of three windows on the image, and the weights of their taps.

    Args:
        networks: trained networks by name, on the CPU.
        image: input of the networks, ``[1, C, H, W]``.
        layer: number of the extractor in each network, counted from the input.
        shown: image to draw, ``[h, w]`` or ``[h, w, 3]`` in 0..1; by default the first channel of ``image``.
    """
    return _draw_rows({name: extractor_inputs(network, image)[layer] for name, network in networks.items()}, image, shown)


def draw_stages(network: nn.Module, image: Tensor, *, shown: Tensor | None = None) -> Figure:
    """Draw a row for the last extractor at each size of the feature map of one network, on any device."""
    last = {}
    for extractor, x in extractor_inputs(network, image.to(next(network.parameters()).device)):
        last[f"{x.shape[2]}x{x.shape[3]}"] = (copy.deepcopy(extractor).cpu(), x.cpu())
    return _draw_rows(last, image, shown)


def _draw_rows(layers: Mapping[str, tuple[Any, Tensor]], image: Tensor, shown: Tensor | None) -> Figure:
    """Draw a row for each pair of a layer and its input."""
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
