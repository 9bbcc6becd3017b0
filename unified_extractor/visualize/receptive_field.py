"""The effective receptive field: the pixels on which the center of a stage's output depends, and how strongly (Luo et al.
2016)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor, nn

from unified_extractor.profiling.extractors import eval_mode
from unified_extractor.visualize.label_placement import wrapped


def effective_receptive_field(network: Any, images: Tensor, *, stage: int) -> Tensor:
    """Return how strongly the center of a stage's output depends on each pixel, averaged over images.

    The channels at the center are summed. The magnitude of their gradient is summed over the image's channels, divided by its total
    for each image, and averaged over images.

    Args:
        network: network with ``stages``; it runs in eval mode.
        images: images ``[B, C, H, W]``, normalized.
        stage: number of the stage, counted from 0.

    Returns:
        The field ``[H, W]``, whose sum is 1 (0 if no pixel reaches the center).

    Raises:
        ValueError: there is no such stage.
    """
    stages: list[nn.Module] = list(network.stages)
    if not 0 <= stage < len(stages):
        raise ValueError(f"stage must be below the number of stages, {len(stages)}, got {stage}")
    seen: list[Tensor] = []
    handle = stages[stage].register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = images.detach().clone().requires_grad_()
    try:
        with eval_mode(network), torch.enable_grad():
            network(x)
    finally:
        handle.remove()
    height, width = seen[0].shape[2:]
    (gradient,) = torch.autograd.grad(seen[0][:, :, height // 2, width // 2].sum(), x)
    strength = gradient.abs().sum(1)
    return (strength / strength.sum((1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)).mean(0)


def receptive_fields_of_layers(
    network: nn.Module, image: Tensor, layers: Sequence[nn.Module], grids: Sequence[tuple[Tensor, ...]]
) -> list[Tensor]:
    """Return how strongly layers' outputs at several positions depend on each pixel of an image ``[1, C, H, W]``.

    Channels at a position are summed, and the magnitude of their gradient is summed over the image's channels.

    Args:
        network: the network of the layers; it runs in eval mode.
        image: its input, on its device.
        layers: modules of the network that run once.
        grids: rows and columns of output positions, for each layer; a field is computed at each of their pairs.

    Returns:
        Fields ``[rows * columns, H, W]`` for each layer.
    """
    x = image.detach().clone().requires_grad_()
    outputs: dict[nn.Module, Tensor] = {}
    handles = [layer.register_forward_hook(lambda module, inputs, output: outputs.update({module: output})) for layer in layers]
    try:
        with eval_mode(network), torch.enable_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    fields = []
    for layer, grid in zip(layers, grids, strict=True):
        sums = outputs[layer].sum((0, 1))
        values = [sums[row, column] for row in grid[0].tolist() for column in grid[1].tolist()]
        gradients = [torch.autograd.grad(value, x, retain_graph=True, allow_unused=True)[0] for value in values]
        fields.append(torch.stack([torch.zeros_like(x[0, 0]) if g is None else g.abs().sum((0, 1)) for g in gradients]))
    return fields


def half_radius(field: Tensor) -> float:
    """Return the radius in pixels around the center of mass of a field ``[H, W]`` that contains half of its sum."""
    rows, columns = torch.meshgrid(*(torch.arange(size, dtype=field.dtype) for size in field.shape), indexing="ij")
    total = field.sum().clamp_min(torch.finfo(field.dtype).tiny)
    center = [(field * places).sum() / total for places in (rows, columns)]
    distance, order = ((rows - center[0]) ** 2 + (columns - center[1]) ** 2).sqrt().flatten().sort()
    within = field.flatten()[order].cumsum(0) / total
    return float(distance[min(int(torch.searchsorted(within, 0.5)), len(distance) - 1)])


def draw_receptive_fields(networks: Mapping[str, Any], images: Tensor) -> Figure:
    """Draw the effective receptive fields: a column for each network, a row for each stage.

    Args:
        networks: networks by name, all with the same number of stages.
        images: images ``[B, C, H, W]``, normalized.
    """
    depth = max(len(list(network.stages)) for network in networks.values())
    figure = Figure(figsize=(1.7 * len(networks) + 0.4, 1.95 * depth + 0.5), layout="constrained")
    axes = figure.subplots(depth, len(networks), squeeze=False)
    for column, (name, network) in enumerate(networks.items()):
        for stage in range(depth):
            axis = axes[stage, column]
            axis.set(xticks=[], yticks=[])
            if stage >= len(list(network.stages)):
                axis.set_axis_off()
                continue
            field = effective_receptive_field(network, images, stage=stage)
            axis.imshow(field / field.max().clamp_min(1e-30), cmap="magma", norm=PowerNorm(0.4, 0, 1))
            axis.set_xlabel(f"half within {half_radius(field):.1f} px", fontsize=7)
            if not column:
                axis.set_ylabel(f"stage {stage + 1}", fontsize=8)
        axes[0, column].set_title(wrapped(name), fontsize=8)
    figure.suptitle(f"What the center of a stage's map depends on, mean of {len(images)} images", fontsize=9)
    return figure
