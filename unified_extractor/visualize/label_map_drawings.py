"""Drawings of label maps in the colors of their classes: images, what is true, and what a network says."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor, nn

from unified_extractor.profiling.extractors import eval_mode

_COLUMNS = ("image", "truth (white: no label)", "prediction")


def draw_label_maps(
    network: nn.Module,
    images: Tensor,
    *,
    shown: Tensor,
    truth: Tensor,
    names: Sequence[str],
    colors: Sequence[Sequence[int]],
) -> Figure:
    """Draw a row for each image: the image, its true label map, and the network's. Pixels without a label are white.

    Args:
        network: network from images to logits ``[B, classes, H, W]``, on any device.
        images: images ``[B, C, H, W]``, normalized.
        shown: the same as they are drawn, uint8 ``[B, C, H, W]``.
        truth: label maps, uint8 ``[B, H, W]``; values that are no class stand for pixels without a label.
        names: names of the classes.
        colors: red, green and blue of each class, 0 to 255.
    """
    with torch.no_grad(), eval_mode(network):
        predicted = network(images.to(next(network.parameters()).device)).argmax(1).cpu()
    palette = np.full((256, 3), 255, dtype=np.uint8)
    palette[: len(colors)] = colors
    height, width = images.shape[2:]
    figure = Figure(figsize=(9, 0.6 + 3 * len(images) * height / width + 0.25 * -(-len(names) // 6)), layout="constrained")
    axes = figure.subplots(len(images), 3, squeeze=False)
    for row, image, true, own in zip(axes, shown, truth, predicted, strict=True):
        pixels = image.permute(1, 2, 0).numpy()
        for axis, picture in zip(row, (pixels, palette[true.numpy()], palette[own.numpy()]), strict=True):
            axis.imshow(picture, cmap="gray", interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], _COLUMNS, strict=True):
        axis.set_title(title, fontsize=10)
    shares = [(red / 255, green / 255, blue / 255) for red, green, blue in colors]
    handles = [Patch(facecolor=share, edgecolor="0.4", label=name) for name, share in zip(names, shares, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8)
    return figure
