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
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(groups, *_extent(kernel_size, spec)), std=0.02))


class PositionVectors(nn.Module):
    """Learned vectors of relative rows and columns, whose sum is that of a relative position; the heads share them.

    Source: Vaswani et al., Scaling Local Self-Attention (HaloNet, CVPR 2021), after Ramachandran et al. (2019), where rows have half of the
    channels of a head and columns the others.
    """

    def __init__(self, head_dim: int, spec: ExtractorSpec) -> None:
        super().__init__()
        rows, columns = _extent(as_pair(spec.kernel_size), spec)
        self._spec = spec
        self.rows = nn.Parameter(head_dim**-0.5 * torch.randn(rows, head_dim))
        self.columns = nn.Parameter(head_dim**-0.5 * torch.randn(columns, head_dim))

    def forward(self, query: Tensor, geometry: Geometry) -> Tensor:
        """Return the products ``[B, G, K, Ho, Wo]`` of queries ``[B, E, Ho, Wo]`` with the vector of every tap."""
        query = query.unflatten(1, (-1, self.rows.shape[1]))
        by_row, by_column = (torch.einsum("bgeyx,re->bgryx", query, table) for table in (self.rows, self.columns))
        if not self._spec.offsets.shifts_windows:
            return (by_row[:, :, :, None] + by_column[:, :, None]).flatten(2, 3)
        places = (index.expand(*by_row.shape[:2], -1, -1, -1) for index in _places(geometry, self._spec, query.device))
        return by_row.gather(2, next(places)) + by_column.gather(2, next(places))


def position_bias(table: Tensor, geometry: Geometry, spec: ExtractorSpec) -> Tensor:
    """Return the bias of every tap of a table of :func:`position_table`, ``[G, K, Ho or 1, Wo or 1]``."""
    if not spec.offsets.shifts_windows:
        return table.flatten(1)[:, :, None, None]
    rows, columns = _places(geometry, spec, table.device)
    return table[:, rows, columns]


def _places(geometry: Geometry, spec: ExtractorSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows and columns ``[K, Ho, Wo]`` of the taps of shifted windows in tables of relative positions."""
    shifts = shift(spec, geometry, dtype=torch.float32, device=device)
    return relative_positions(geometry, shifts, _largest(geometry.kernel_size, spec))


def _extent(kernel_size: tuple[int, int], spec: ExtractorSpec) -> tuple[int, int]:
    """Return the number of relative rows and columns of the taps of a window."""
    if not spec.offsets.shifts_windows:
        return kernel_size
    rows, columns = _largest(kernel_size, spec)
    return 2 * rows + 1, 2 * columns + 1


def _largest(kernel_size: tuple[int, int], spec: ExtractorSpec) -> tuple[int, int]:
    """Return how many taps a window's pixel and one of its taps may be apart, (y, x)."""
    rows, columns = (k - halo - 1 for k, halo in zip(kernel_size, as_pair(spec.offsets.halo), strict=True))
    return rows, columns
