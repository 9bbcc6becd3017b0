"""The interactive page: one HTML file in which a pointer on a photograph shows what the windows of several networks read there."""

# No plotting library: Bokeh and Plotly add megabytes for a pointer and dots, which a canvas and two hundred lines of script draw.

import base64
import copy
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unified_extractor.profiling.extractors import extractors
from unified_extractor.visualize.receptive_field import receptive_fields_of_layers
from unified_extractor.visualize.window_values import WindowReading, extractor_inputs, group_channels, output_size, read_windows

PAGE = Path(__file__).parent / "page"
MOST_POSITIONS, MOST_GROUPS = 32, 4
"""Output positions along an axis, and groups of channels, of which a layer's windows are in the page."""
FIELD_POSITIONS, FIELD_SIZE = 8, 32
"""Output positions along an axis at which receptive fields are computed, and the largest height and width of a stored one."""
STEPS_PER_PIXEL = 64
"""Steps of a tap's stored position in a pixel of the layer's input."""
NOWHERE = -32768
"""A stored position that is not finite."""


def write_page(
    networks: Mapping[str, tuple[nn.Module, Tensor]], shown: Tensor, path: str | Path, *, receptive_fields: bool = True
) -> Path:
    """Write the page of networks, each with its input ``[1, C, H, W]``, and return its path.

    Args:
        networks: networks on any device, in eval mode while they are read, with their inputs, by name.
        shown: photograph, ``[h, w]`` or ``[h, w, 3]`` in 0..1, of which all inputs show the same part.
        path: the new HTML file.
        receptive_fields: effective receptive fields too, which take most of the time.

    Raises:
        ValueError: there is no network, one has no extractor, or the photograph has another shape.
    """
    if not networks:
        raise ValueError("networks must have at least one network, got none")
    if shown.dim() != 2 and (shown.dim() != 3 or shown.shape[2] != 3):
        raise ValueError(f"shown must be [h, w] or [h, w, 3], got shape {list(shown.shape)}")
    data = {
        "picture": _picture(shown),
        "size": list(shown.shape[:2]),
        "steps": STEPS_PER_PIXEL,
        "nowhere": NOWHERE,
        "panels": [{"name": name, "layers": _layers(name, *pair, receptive_fields)} for name, pair in networks.items()],
    }
    parts = {
        "style": (PAGE / "explore.css").read_text(),
        "script": (PAGE / "explore.js").read_text(),
        "data": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),  # a name cannot end the script
    }
    text = (PAGE / "explore.html").read_text()
    for part, content in parts.items():
        text = text.replace(f"{{{{{part}}}}}", content)
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def _layers(title: str, network: nn.Module, image: Tensor, receptive_fields: bool) -> list[dict[str, Any]]:
    """Return what the page knows of each extractor of a network, in the order in which they run."""
    device = next((parameter.device for parameter in network.parameters()), image.device)
    names = {id(layer): name for name, layer in extractors(network).items()}
    read = extractor_inputs(network, image.to(device))
    if not read:
        raise ValueError(f"{title} has no extractor, so there is no window to show")
    sizes = [output_size(layer, x) for layer, x in read]
    layers = [
        {"name": names[id(layer)] or type(layer).__name__, **_windows(copy.deepcopy(layer).cpu(), x.cpu(), size)}
        for (layer, x), size in zip(read, sizes, strict=True)
    ]
    if receptive_fields:
        grids = [tuple(_spread(size, FIELD_POSITIONS) for size in sizes_of_one) for sizes_of_one in sizes]
        fields = receptive_fields_of_layers(network, image.to(device), [layer for layer, _ in read], grids)
        for layer, field, grid in zip(layers, fields, grids, strict=True):
            layer["field"] = _field(field.cpu(), grid)
    return layers


def _windows(layer: Any, x: Tensor, size: tuple[int, int]) -> dict[str, Any]:
    rows, columns = (_spread(length, MOST_POSITIONS) for length in size)
    positions = [grid.flatten() for grid in torch.meshgrid(rows, columns, indexing="ij")]
    channels = group_channels(layer)
    chosen = [int(index) for index in _spread(len(channels), MOST_GROUPS)]
    readings = [read_windows(layer, x, (positions[0], positions[1]), channel=channels[index]) for index in chosen]
    return {
        "input": list(x.shape[2:]),
        "output": list(size),
        "rows": rows.tolist(),
        "columns": columns.tolist(),
        "kernel": list(readings[0].weights.shape[1:]),
        "groupCount": len(channels),
        "groups": [{"number": index} | quantized(reading) for index, reading in zip(chosen, readings, strict=True)],
    }


def quantized(reading: WindowReading) -> dict[str, str]:
    """Return the windows of a reading as base64 texts of little-endian arrays, P being 1 for what is the same in all windows.

    These are ``centers``, the mean of a window's taps, float32 ``[P, 2]``; ``taps``, their distances from it in 64ths of a pixel,
    int16 ``[P or 1, K, 2]``; ``scales``, the largest magnitude of a window's weights, float32 ``[P or 1]``; and ``weights`` in 127ths of
    it, int8 ``[P or 1, K]``.
    """
    places = torch.stack([reading.rows.flatten(1), reading.columns.flatten(1)], 2).double()
    finite = places.isfinite().all(2, keepdim=True)
    known = places.where(finite, 0)
    centers = (known.sum(1) / finite.sum(1).clamp_min(1)).float()
    steps = ((known - centers[:, None]) * STEPS_PER_PIXEL).round().clamp(NOWHERE + 1, -NOWHERE - 1).where(finite, NOWHERE)
    weights = reading.weights.flatten(1).nan_to_num()
    scales = weights.abs().amax(1)
    shares = (weights / scales.clamp_min(torch.finfo(weights.dtype).tiny)[:, None] * 127).round()
    return {
        "centers": _base64(centers, "<f4"),
        "taps": _base64(_once(steps), "<i2"),
        "scales": _base64(_once(scales), "<f4"),
        "weights": _base64(_once(shares), "i1"),
    }


def _field(field: Tensor, grid: tuple[Tensor, ...]) -> dict[str, Any]:
    """Return receptive fields ``[P, H, W]``: square roots of their shares of the largest value, as uint8."""
    size = (min(field.shape[1], FIELD_SIZE), min(field.shape[2], FIELD_SIZE))
    small = nn.functional.adaptive_avg_pool2d(field, size)
    roots = (small / small.amax((1, 2), keepdim=True).clamp_min(torch.finfo(field.dtype).tiny)).sqrt()
    rows, columns = (positions.tolist() for positions in grid)
    return {"rows": rows, "columns": columns, "size": list(size), "values": _base64((roots * 255).round(), "u1")}


def _spread(count: int, most: int) -> Tensor:
    """Return at most so many of the numbers 0 to ``count`` - 1, evenly spread."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def _once(values: Tensor) -> Tensor:
    """Return the first row alone where all are equal."""
    return values[:1] if bool((values == values[:1]).all()) else values


def _base64(values: Tensor, dtype: str) -> str:
    return base64.b64encode(values.numpy().astype(np.dtype(dtype)).tobytes()).decode()


def _picture(shown: Tensor) -> str:
    """Return the photograph as the address of a PNG inside the page."""
    file = io.BytesIO()
    Image.fromarray((shown.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()).save(file, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
