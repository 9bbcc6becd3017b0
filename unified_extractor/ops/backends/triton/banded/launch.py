"""Launches of the banded kernels: the number of their programs and what they read and write."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from unified_extractor.ops.backends.triton.banded.fold import banded_fold
from unified_extractor.ops.backends.triton.banded.fold_kernel_gradient import banded_fold_kernel_gradient
from unified_extractor.ops.backends.triton.banded.fold_rule import FoldBand, fold_band_for
from unified_extractor.ops.backends.triton.banded.gather import banded_gather
from unified_extractor.ops.backends.triton.banded.image_gradient import banded_image_gradient
from unified_extractor.ops.backends.triton.banded.kernel_gradient import banded_kernel_gradient
from unified_extractor.ops.backends.triton.banded.rule import Band, band_for
from unified_extractor.ops.backends.triton.records import constants, dynamic_kernel_record, image_record
from unified_extractor.ops.call import Call

Grid = Callable[[dict[str, Any]], tuple[int]]


class Start(Protocol):
    """The start of a kernel for a plan, with the sizes of its call."""

    def __call__(self, kernel: Any, grid: Grid, **arguments: Any) -> None:
        """Run the kernel."""


def run_gather(start: Start, call: Call, y: Tensor, *, interpreted: bool) -> None:
    """Write the output of a call."""
    kernel = dynamic_kernel_record(call.stored_kernel, fold=False)
    band = band_for(call, kernel, interpreted=interpreted)
    grid = _grid(call, call.geometry.output, (band.classes_y, band.classes_x), band, band.member_blocks, band.windows)
    start(banded_gather, grid, x=image_record(call.x), dynamic_kernel=kernel, y=image_record(y), band=constants(band))


def run_image_gradient(start: Start, call: Call, grad_y: Tensor, grad_x: Tensor, *, interpreted: bool) -> None:
    """Write the gradient of the image."""
    kernel = dynamic_kernel_record(call.stored_kernel, fold=False)
    band = band_for(call, kernel, interpreted=interpreted)
    grid = _grid(call, call.geometry.image, call.geometry.dilation, band, band.member_blocks, band.pixels)
    gradients = {"grad_y": image_record(grad_y), "grad_x": image_record(grad_x)}
    start(banded_image_gradient, grid, dynamic_kernel=kernel, band=constants(band), **gradients)


def run_kernel_gradient(start: Start, call: Call, grad_y: Tensor, grad_kernel: Tensor, *, interpreted: bool) -> None:
    """Write the gradient of the dynamic kernel, of which every window has its own."""
    kernel = dynamic_kernel_record(grad_kernel, fold=False)
    band = band_for(call, kernel, interpreted=interpreted)
    grid = _grid(call, call.geometry.output, (band.classes_y, band.classes_x), band, 1, band.windows)
    images = {"grad_y": image_record(grad_y), "x": image_record(call.x)}
    start(banded_kernel_gradient, grid, grad_dynamic_kernel=kernel, band=constants(band), **images)


def run_fold(start: Start, call: Call, source: Tensor, y: Tensor, *, gradient: bool, interpreted: bool) -> None:
    """Write the output of a fold or, of the output's gradient, that of its image."""
    kernel = dynamic_kernel_record(call.stored_kernel, fold=True)
    band, geometry = fold_band_for(call, kernel, interpreted=interpreted), call.geometry
    covered = [size + before for size, before in zip(geometry.image, geometry.padding, strict=True)]
    grid = _fold_grid(call, band, -(-covered[0] // geometry.stride[0]) * -(-covered[1] // band.outputs))
    images = {"source": image_record(source), "y": image_record(y)}
    start(banded_fold, grid, dynamic_kernel=kernel, band=constants(band), TRANSPOSED=gradient, **images)


def run_fold_kernel_gradient(start: Start, call: Call, grad_y: Tensor, grad_kernel: Tensor, *, interpreted: bool) -> None:
    """Write the gradient of a fold's dynamic kernel, of which every window has its own."""
    kernel = dynamic_kernel_record(grad_kernel, fold=True)
    band = fold_band_for(call, kernel, interpreted=interpreted)
    height, width = call.geometry.output
    grid = _fold_grid(call, band, height * -(-width // band.windows))
    images = {"grad_y": image_record(grad_y), "x": image_record(call.x)}
    start(banded_fold_kernel_gradient, grid, grad_dynamic_kernel=kernel, band=constants(band), **images)


def _fold_grid(call: Call, band: FoldBand, pieces: int) -> Grid:
    """Return the function from a configuration to the number of programs, from the number of pieces of an image."""
    return lambda meta: (-(-pieces // (meta["PIECES"] * band.spare)) * band.group_blocks * call.x.shape[0],)


def _grid(call: Call, size: tuple[int, int], classes: tuple[int, int], band: Band, member_blocks: int, columns: int) -> Grid:
    """Return the function from a configuration to the number of programs; ``size``: that of what is written."""
    in_a_class = [-(-size[axis] // classes[axis]) for axis in (0, 1)]
    across = -(-in_a_class[1] // columns) * classes[0] * classes[1]

    def grid(meta: dict[str, Any]) -> tuple[int]:
        pieces = meta["PIECES"] * band.spare * band.windows // columns
        tiles = -(-(-(-in_a_class[0] // meta["ROWS"]) * across) // pieces)
        return (tiles * band.group_blocks * member_blocks * call.x.shape[0],)

    return grid
