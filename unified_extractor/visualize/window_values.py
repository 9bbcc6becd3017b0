"""The values of single windows of a layer on an image: the positions of their taps and the weights."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unified_extractor.layers.generators import offset_groups
from unified_extractor.ops.fold_as_gather import compose_fold, composed_geometry
from unified_extractor.ops.geometry import Geometry
from unified_extractor.profiling.extractors import eval_mode, extractors


@dataclass(frozen=True)
class WindowReading:
    """The taps of one window of one layer."""

    rows: Tensor
    """Pixel rows of the taps on the layer's input, ``[kh, kw]``."""
    columns: Tensor
    """Pixel columns of the taps on the layer's input, ``[kh, kw]``."""
    weights: Tensor
    """Weights of the taps between the first input and the first output channel, ``[kh, kw]``; for a fold those of the
    equivalent gather, whose window is (2kh-1, 2kw-1)."""


def extractor_inputs(network: nn.Module, image: Tensor) -> list[tuple[Any, Tensor]]:
    """Return each extractor of the network, in order, with its input for an image ``[1, C, H, W]``, in eval mode."""
    seen: list[tuple[Any, Tensor]] = []
    layers = extractors(network).values()
    if not layers:  # the network need not even take images: callers say that it has none
        return seen
    handles = [layer.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0]))) for layer in layers]
    try:
        with eval_mode(network), torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def extractor_with_input(network: nn.Module, image: Tensor, layer: int) -> tuple[Any, Tensor]:
    """Return the extractor of this number, counted from the input, and its input for an image, both on the CPU.

    Args:
        network: a layer or network, on any device.
        image: input of the network, ``[1, C, H, W]``, on any device.
        layer: number of the extractor.

    Raises:
        ValueError: the network has no such extractor.
    """
    device = next((parameter.device for parameter in network.parameters()), image.device)
    found = extractor_inputs(network, image.to(device))
    if not 0 <= layer < len(found):
        raise ValueError(f"layer must be below the number of extractors of {type(network).__name__}, {len(found)}, got {layer}")
    extractor, x = found[layer]
    return copy.deepcopy(extractor).cpu(), x.cpu()


def read_window(layer: Any, x: Tensor, position: tuple[int, int]) -> WindowReading:
    """Return the window at an output position (row, column) of a layer with the input ``x``, ``[1, C, H, W]``.

    A fold is read as the gather that is equal to it, so there ``position`` is a pixel of the output map. A fold with offsets or a
    static kernel is equal to no gather: it is read with the weights of the window's center output.
    """
    row, column = (torch.tensor([index]) for index in position)
    reading = read_windows(layer, x, (row, column))
    return WindowReading(reading.rows[0], reading.columns[0], reading.weights[0])


@torch.no_grad()
def read_windows(layer: Any, x: Tensor, positions: tuple[Tensor, Tensor], *, channel: int = 0) -> WindowReading:
    """Return the windows at P output positions, as :func:`read_window`, each field ``[P, kh, kw]``.

    Args:
        layer: an extractor.
        x: its input, ``[1, C, H, W]``.
        positions: rows and columns of the output positions, ``[P]`` each.
        channel: input channel, and with it the group of offsets and of the dynamic kernel, counted so that the channels of a group are
            contiguous. Weights are those between it and the first output channel that reads it.
    """
    offsets, dynamic, geometry = _generated(layer, x, channel)
    weights = _weights(layer, None if dynamic is None else _at(dynamic, positions).movedim(-1, 0), channel)
    shifts = (
        None if offsets is None else _at(offsets[0, channel * offsets.shape[1] // layer.in_channels], positions).movedim(-1, 0)
    )
    rows, columns = _positions(geometry, positions, shifts)
    shape = (len(positions[0]), *geometry.kernel_size)
    return WindowReading(*(values.expand(shape[0], -1).reshape(shape) for values in (rows, columns, weights)))


def group_channels(layer: Any) -> list[int]:
    """Return the first channel of each group whose windows differ from those of the others, for :func:`read_windows`.

    These are the groups of the dynamic kernel and of the offsets, or without them those of the static kernel.
    """
    spec, channels = layer.spec, layer.in_channels
    groups = [layer.kernel_groups] * (spec.dynamic_kernel.source != "none")
    groups += [offset_groups(spec, channels)] * spec.offsets.are_trained
    if not groups and layer.static_kernel is not None:
        groups = [channels // layer.static_kernel.shape[-3]]
    return sorted({group * channels // count for count in groups or [1] for group in range(count)})


@torch.no_grad()
def kernel_variation(layer: Any, x: Tensor) -> float:
    """Return how much the kernel of the first channels differs between positions of the output, for an input ``[1, C, H, W]``.

    That is the root mean square of a kernel minus the mean kernel over that of a kernel: 0 for one kernel everywhere, 1 for kernels
    whose mean over positions is zero.
    """
    dynamic = _generated(layer, x, 0)[1]
    if dynamic is None:
        return 0.0
    kernels = _weights(layer, dynamic.flatten(-2).movedim(-1, 0), 0)  # [positions, K]
    size = kernels.square().mean().sqrt()
    return float((kernels - kernels.mean(0)).square().mean().sqrt() / size) if size else 0.0


def output_size(layer: Any, x: Tensor) -> tuple[int, int]:
    """Return height and width of the positions at which :func:`read_window` can read."""
    geometry: Geometry = layer.geometry(x)
    return geometry.image if layer.spec.aggregation == "fold" and _composes(layer) else geometry.output


def _generated(layer: Any, x: Tensor, channel: int) -> tuple[Tensor | None, Tensor | None, Geometry]:
    """Return offsets, the dynamic kernel of a channel ``[K, Ho, Wo]``, of all terms ``[M, K, Ho, Wo]``, and its windows' geometry."""
    spec, geometry = layer.spec, layer.geometry(x)
    offsets, dynamic = layer.generate(x)
    if dynamic is None:
        return offsets, None, geometry
    axis = 2 if spec.terms > 1 else 1
    dynamic = dynamic.narrow(axis, channel * dynamic.shape[axis] // layer.in_channels, 1)
    if layer.channel_kernel is not None:
        own = layer.channel_kernel(x)[:, channel : channel + 1, :, None, None]
        dynamic = dynamic * own if spec.channel_kernel.combine == "multiply" else dynamic + own
    if spec.aggregation == "fold":
        if _composes(layer):
            dynamic, geometry = compose_fold(dynamic, geometry), composed_geometry(geometry)
        else:
            dynamic = dynamic[:, :, geometry.taps // 2]
    return offsets, dynamic[0, :, 0] if spec.terms > 1 else dynamic[0, 0], geometry


def _composes(layer: Any) -> bool:
    """Return True if a fold can be written as a gather."""
    return layer.spec.offsets.kind == "none" and layer.static_kernel is None


def _weights(layer: Any, dynamic: Tensor | None, channel: int) -> Tensor:
    """Return the combined kernel ``[..., K]`` of a channel."""
    if dynamic is not None and not layer.spec.dynamic_kernel.per_tap:
        dynamic = dynamic.expand(*dynamic.shape[:-1], layer.spec.taps)
    if layer.static_kernel is None:
        return torch.ones(layer.spec.taps) if dynamic is None else dynamic
    static = _static_kernel(layer, channel)
    if dynamic is None:
        return static
    weights = {"multiply": static * dynamic, "add": static + dynamic, "residual": static * (1 + dynamic)}[layer.spec.combine]
    return weights.sum(-2) if layer.spec.terms > 1 else weights


def _static_kernel(layer: Any, channel: int) -> Tensor:
    """Return the static kernel ``[K]``, or ``[M, K]``, between a channel and the first output channel that reads it."""
    static = layer.static_kernel.detach()
    outputs, per_group = static.shape[-4:-2]
    group = channel // per_group
    return static[..., group * outputs * per_group // layer.in_channels, channel % per_group, :, :].flatten(-2)


def _positions(geometry: Geometry, positions: tuple[Tensor, Tensor], offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return rows and columns of the taps ``[P, K]``, for offsets ``[P, K, 2]``."""
    taps = torch.tensor(geometry.tap_indices, dtype=torch.float32)
    starts = [positions[a] // geometry.upsample[a] * geometry.stride[a] - geometry.padding[a] for a in (0, 1)]
    grid = taps * torch.tensor(geometry.dilation) + torch.stack(starts, 1)[:, None]
    return (grid if offsets is None else grid + offsets).unbind(2)  # type: ignore[return-value]


def _at(field: Tensor, positions: tuple[Tensor, Tensor]) -> Tensor:
    """Return a field ``[..., Ho or 1, Wo or 1]`` at P positions, ``[..., P]``."""
    rows, columns = (p if size > 1 else torch.zeros_like(p) for p, size in zip(positions, field.shape[-2:], strict=True))
    return field[..., rows, columns]
