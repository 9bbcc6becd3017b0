"""Windows that are shifted as a whole, and position biases by the true places of their taps."""

import torch
from torch import Tensor, nn

from unified_extractor.ops.geometry import Geometry
from unified_extractor.ops.offsets import block_shift, relative_positions, window_shift
from unified_extractor.spec import ExtractorSpec, as_pair


def shift(spec: ExtractorSpec, geometry: Geometry, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the shift of every window of a spec whose windows are shifted, ``[1, 1, 1, 2, Ho, Wo]`` in whole pixels."""
    if spec.offsets.kind == "window_shift":
        return window_shift(geometry, dtype=dtype, device=device)
    return block_shift(geometry, as_pair(spec.offsets.halo), as_pair(spec.offsets.block_start), dtype=dtype, device=device)


def position_table(groups: int, kernel_size: tuple[int, int], spec: ExtractorSpec) -> nn.Parameter:
    """Return learned biases ``[G, kh, kw]`` of the taps; where windows are shifted, of true relative positions, ``[G, 2kh-1, 2kw-1]``,
    less twice the halo of blocks.
    """
    extent = kernel_size
    if spec.offsets.shifts_windows:
        rows, columns = _largest(kernel_size, spec)
        extent = (2 * rows + 1, 2 * columns + 1)
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(groups, *extent), std=0.02))


def position_bias(table: Tensor, geometry: Geometry, spec: ExtractorSpec) -> Tensor:
    """Return the bias of every tap of a table of :func:`position_table`, ``[G, K, Ho or 1, Wo or 1]``."""
    if not spec.offsets.shifts_windows:
        return table.flatten(1)[:, :, None, None]
    shifts = shift(spec, geometry, dtype=torch.float32, device=table.device)
    rows, columns = relative_positions(geometry, shifts, _largest(geometry.kernel_size, spec))
    return table[:, rows, columns]


def _largest(kernel_size: tuple[int, int], spec: ExtractorSpec) -> tuple[int, int]:
    """Return how many taps a window's pixel and one of its taps may be apart, (y, x)."""
    rows, columns = (k - halo - 1 for k, halo in zip(kernel_size, as_pair(spec.offsets.halo), strict=True))
    return rows, columns
