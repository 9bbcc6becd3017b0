"""Drawings of the kernels of a layer at many positions of an image."""

from typing import Any

import numpy as np
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from unified_extractor.visualize.window_values import kernel_variation, output_size, read_window


def draw_kernels(layer: Any, x: Tensor, *, picture: np.ndarray, across: int) -> Figure:
    """Draw the image, and the kernels of a layer at evenly spaced positions, each where its window lies.

    Args:
        layer: an extractor, on the CPU.
        x: input of the layer, ``[1, C, H, W]``.
        picture: image to draw, ``[h, w]`` or ``[h, w, 3]`` in 0..1.
        across: number of kernels in a row.
    """
    height, width = output_size(layer, x)
    rows, columns = (torch.linspace(0, size - 1, min(across, size)).long().tolist() for size in (height, width))
    kernels = [[read_window(layer, x, (row, column)).weights.numpy() for column in columns] for row in rows]
    limit = max(float(np.abs(kernels).max()), 1e-12)
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    image, mosaic = figure.subplots(1, 2)
    image.imshow(picture, cmap="gray")
    drawn = mosaic.imshow(np.vstack([np.hstack([_framed(kernel) for kernel in line]) for line in kernels]), cmap="RdBu_r")
    drawn.set_norm(Normalize(-limit, limit))
    for axis in (image, mosaic):
        axis.set(xticks=[], yticks=[])
    image.set_title("the image", fontsize=10)
    mosaic.set_title(f"kernels of {len(rows)} x {len(columns)} of its {height} x {width} windows", fontsize=10)
    mosaic.set_xlabel(f"kernels of all positions differ from their mean by {kernel_variation(layer, x):.0%}", fontsize=9)
    figure.colorbar(drawn, ax=mosaic, fraction=0.046, ticks=[-limit, 0, limit], format="%.2g")
    return figure


def _framed(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel within a frame of nothing, so that neighbors are told apart."""
    return np.pad(kernel, 1, constant_values=np.nan)
