"""Figures of trained layers and networks on images, for notebooks and scripts."""

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from unified_extractor.visualize.interactive_page import write_page
from unified_extractor.visualize.kernel_drawings import draw_kernels
from unified_extractor.visualize.receptive_field import draw_receptive_fields
from unified_extractor.visualize.window_drawings import draw_windows
from unified_extractor.visualize.window_values import extractor_with_input

Networks = nn.Module | Mapping[str, nn.Module]
"""A layer or network, or several by name."""


def windows(networks: Networks, image: Tensor, *, layer: int = 0, shown: Tensor | None = None) -> Figure:
    """Return a figure of where the taps of three windows look, and with which weights: a row for each network.

    Example:
        ``ux.visualize.windows(network, image)``; ``ux.visualize.windows({"before": before, "after": after}, image, layer=2)``

    Args:
        networks: a layer or network on any device, or several by name.
        image: what they take, ``[C, H, W]`` or ``[1, C, H, W]``.
        layer: number of the extractor in each network, counted from the input.
        shown: image to draw, ``[h, w]`` or ``[h, w, 3]`` in 0..1; by default the three channels of ``image``, or its first one,
            stretched to 0..1.

    Raises:
        ValueError: the image has another rank, or a network has no such extractor.
    """
    batch = _one_image(image)
    return draw_windows(_by_name(networks), batch, layer=layer, shown=_picture(batch, shown))


def kernels(network: nn.Module, image: Tensor, *, layer: int = 0, across: int = 8, shown: Tensor | None = None) -> Figure:
    """Return a figure of a layer's kernels at evenly spaced positions of an image, between the first channels.

    Args:
        network: a layer or network on any device.
        image: what it takes, ``[C, H, W]`` or ``[1, C, H, W]``.
        layer: number of the extractor in the network, counted from the input.
        across: number of kernels in a row and in a column.
        shown: image to draw, as in :func:`windows`.

    Raises:
        ValueError: the image has another rank, ``across`` is below 1, or the network has no such extractor.
    """
    if across < 1:
        raise ValueError(f"across must be at least 1, got {across}")
    batch = _one_image(image)
    extractor, x = extractor_with_input(network, batch, layer)
    return draw_kernels(extractor, x, picture=_picture(batch, shown).numpy(), across=across)


def receptive_fields(networks: Networks, images: Tensor) -> Figure:
    """Return a figure of the effective receptive fields: a column for each network, a row for each of its stages.

    Args:
        networks: a network with ``stages``, or several by name.
        images: what they take, ``[B, C, H, W]``; fields are means over them.
    """
    return draw_receptive_fields(_by_name(networks), images)


def explore(
    networks: Networks, image: Tensor, path: str | Path, *, shown: Tensor | None = None, receptive_fields: bool = True
) -> Path:
    """Write an interactive page, one HTML file that needs no network, and return its path.

    A pointer, a finger or the arrow keys move over the image; for each network the page shows where the taps of the windows there
    look, with which weights, layer by layer and group by group, and on which pixels the layer's output depends.

    Example:
        ``ux.visualize.explore({"before": before, "after": after}, image, "explore.html")``

    Args:
        networks: a layer or network on any device, or several by name.
        image: what they take, ``[C, H, W]`` or ``[1, C, H, W]``.
        path: the HTML file.
        shown: image to draw, as in :func:`windows`; any size.
        receptive_fields: effective receptive fields too, which take most of the time.

    Raises:
        ValueError: the image has another rank, there is no network, or one has no extractor.
    """
    batch = _one_image(image)
    pairs = {name: (network, batch) for name, network in _by_name(networks).items()}
    return write_page(pairs, _picture(batch, shown), path, receptive_fields=receptive_fields)


def _by_name(networks: Networks) -> Mapping[str, nn.Module]:
    return networks if isinstance(networks, Mapping) else {type(networks).__name__: networks}


def _one_image(image: Tensor) -> Tensor:
    batch = image[None] if image.dim() == 3 else image
    if batch.dim() != 4 or len(batch) != 1:
        raise ValueError(f"image must be [C, H, W] or [1, C, H, W], got shape {list(image.shape)}")
    return batch.detach().cpu()


def _picture(batch: Tensor, shown: Tensor | None) -> Tensor:
    """Return what is drawn for an image, ``[h, w]`` or ``[h, w, 3]`` in 0..1."""
    if shown is not None:
        return shown
    picture = batch[0].permute(1, 2, 0) if batch.shape[1] == 3 else batch[0, 0]
    low, high = picture.aminmax()
    return (picture - low) / (high - low).clamp_min(torch.finfo(picture.dtype).tiny)
