"""Launches: the kernels that a call runs, on how many programs, and the memory they write.

B batch, C input channels, O output channels, K taps, Ho, Wo output positions.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton import knobs

from unified_extractor.ops.backends.triton.backward import backward
from unified_extractor.ops.backends.triton.banded.fold_rule import is_banded_fold
from unified_extractor.ops.backends.triton.banded.launch import (
    run_fold,
    run_fold_kernel_gradient,
    run_gather,
    run_image_gradient,
    run_kernel_gradient,
)
from unified_extractor.ops.backends.triton.banded.rule import is_banded
from unified_extractor.ops.backends.triton.chunks import backward_in_chunks, forward_in_chunks
from unified_extractor.ops.backends.triton.columns import dense_backward, dense_forward
from unified_extractor.ops.backends.triton.deterministic import gradient_from_columns
from unified_extractor.ops.backends.triton.dynamic_kernel_backward import dynamic_kernel_backward
from unified_extractor.ops.backends.triton.fold import fold
from unified_extractor.ops.backends.triton.forward import gather
from unified_extractor.ops.backends.triton.plan import is_channels_last, plan_for
from unified_extractor.ops.backends.triton.prepared import prepared
from unified_extractor.ops.backends.triton.records import Plan, dynamic_kernel_record, image_record, offsets_record, sizes_record
from unified_extractor.ops.backends.triton.slice_static_kernel import SLICES_TOGETHER, slice_static_kernel
from unified_extractor.ops.backends.triton.sliced import slice_backward, slice_gather
from unified_extractor.ops.backends.triton.tuning import start
from unified_extractor.ops.call import Call, Wanted
from unified_extractor.ops.custom_ops import Passes, new_kernel_gradients, registered
from unified_extractor.ops.geometry import precision

_LEAST_WINDOWS = 512
"""Windows whose share of a depthwise kernel's gradient a program adds up, at least."""


def run_forward(call: Call) -> Tensor:
    """Return the output of a call."""
    if call.computed_kernel is not None:
        return forward_in_chunks(call, PASSES)
    y = new_output(call)
    if y.numel() and call.has_dense_kernel:
        dense_forward(call, y, _write_output)
    elif y.numel():
        _write_output(call, y)
    return y


def run_backward(call: Call, grad_y: Tensor, wanted: Wanted) -> list[Tensor]:
    """Return the wanted gradients, in the order of :class:`Wanted`, from that of the output."""
    if call.computed_kernel is not None:
        return backward_in_chunks(call, grad_y, wanted, PASSES)
    names = [name for name, asked in zip(Wanted._fields, wanted, strict=True) if asked]
    results = dict(zip(names, new_gradients(call, wanted), strict=True))
    if not grad_y.numel():
        return [result.zero_() for result in results.values()]
    if call.has_dense_kernel:
        dense_backward(call, grad_y, results, _write_output, _write_gradients)
    else:
        _write_gradients(call, grad_y, results)
    return list(results.values())


def new_output(call: Call) -> Tensor:
    """Return the memory of :func:`run_forward`'s result, not written; channels lie as those of x do."""
    y = call.x.new_empty(call.output_shape())
    if call.aggregation != "unfold" and is_channels_last(call.x):
        return torch.empty_like(y, memory_format=torch.channels_last)
    return y


def new_gradients(call: Call, wanted: Wanted) -> list[Tensor]:
    """Return the memory of :func:`run_backward`' results, not written."""
    similarity = call.aggregation == "similarity"
    dynamic = call.x.new_empty(call.kernel_shape()) if similarity else call.stored_kernel
    tensors = (call.x, call.static_kernel, dynamic, call.offsets)
    direct = [torch.empty_like(t) for t, asked in zip(tensors, wanted[:4], strict=True) if asked and t is not None]
    return [*direct, *new_kernel_gradients(call, wanted)]


class _Pass:
    """A call with its plan, and what the kernels of both passes share."""

    def __init__(self, call: Call, output: Tensor, *, is_backward: bool) -> None:
        self.call = call
        self.batch = call.x.shape[0]
        self.positions = call.geometry.output[0] * call.geometry.output[1]
        self.plan: Plan = plan_for(call, output, is_backward=is_backward, interpreted=knobs.runtime.interpret)
        self.is_banded, self.is_banded_fold = is_banded(call), is_banded_fold(call)
        # [K, 1, C]: neighboring channels of a depthwise kernel next to each other
        self.static_kernel = None if call.static_kernel is None else call.static_kernel.detach().permute(2, 3, 1, 0).contiguous()
        self.dynamic_kernel = dynamic_kernel_record(call.stored_kernel, call.aggregation == "fold")

    def inputs(self) -> dict[str, Any]:
        """Return the arguments of a kernel that reads all tensors of the call."""
        return {
            "x": image_record(self.call.x),
            "static_kernel": self.static_kernel,
            "dynamic_kernel": self.dynamic_kernel,
            "offsets": offsets_record(self.call.offsets),
        }

    def start(self, kernel: Any, grid: Any, **arguments: Any) -> None:
        """Run a kernel."""
        geometry = self.call.geometry
        pixels = geometry.image[0] * geometry.image[1]
        start(kernel, grid, self.call.x.device, self.plan, pixels, sizes=sizes_record(geometry), **arguments)

    def tiles(self, positions: int, scale: int = 1) -> int:
        """Return the number of tiles that positions need; ``scale`` multiplies the positions of a tile."""
        return -(-positions // (self.plan.tile_positions * scale))

    def grid(self, positions: int, meta: dict[str, Any], classes: int = 1) -> tuple[int]:
        """Return the number of programs, one a tile of positions and channels, for each of several classes of positions."""
        return (self.tiles(positions, meta.get("SCALE", 1)) * classes * self.plan.blocks * self.batch,)

    def slice_grid(self, meta: dict[str, Any]) -> tuple[int]:
        """Return the number of programs, a thread for each slice of each window."""
        slices = self.call.channels // self.plan.slice_channels
        return (-(-self.positions * slices // meta["THREADS"]) * self.batch,)

    def fold(self, source: Tensor, y: Tensor, gradient: bool) -> None:
        """Run the kernel of that name, whose programs have pixels of one residue class by the stride."""
        (height, width), (stride_y, stride_x) = self.call.geometry.image, self.call.geometry.stride
        positions = -(-height // stride_y) * -(-width // stride_x)
        arguments = self.inputs() | {"source": image_record(source), "y": image_record(y), "GRADIENT": gradient}
        arguments.pop("x")
        self.start(fold, partial(self.grid, positions, classes=stride_y * stride_x), **arguments)


class _Forward(_Pass):
    """The output of a call."""

    def __init__(self, call: Call, y: Tensor) -> None:
        super().__init__(call, y, is_backward=False)
        self.y = y

    def run(self) -> None:
        """Write the output."""
        plan, y, arguments = self.plan, self.y, self.inputs() | {"y": image_record(self.y)}
        if self.is_banded:
            run_gather(self.start, self.call, y, interpreted=plan.interpreted)
        elif self.is_banded_fold:
            run_fold(self.start, self.call, self.call.x, y, gradient=False, interpreted=plan.interpreted)
        elif plan.aggregation == "fold":
            self.fold(self.call.x, y, gradient=False)
        elif plan.slice_channels:
            self.start(slice_gather, self.slice_grid, **arguments)
        else:
            self.start(gather, partial(self.grid, self.positions), **arguments)


class _Backward(_Pass):
    """The gradients of a call."""

    def __init__(self, call: Call, grad_y: Tensor, results: dict[str, Tensor]) -> None:
        super().__init__(call, grad_y, is_backward=True)
        self.grad_y, self.results = grad_y, results

    def run(self) -> None:
        """Write the results."""
        results, plan = self.results, self.plan
        if "x" in results and self.is_banded:
            run_image_gradient(self.start, self.call, self.grad_y, results["x"], interpreted=plan.interpreted)
        elif "x" in results and self.is_banded_fold:
            run_fold(self.start, self.call, self.grad_y, results["x"], gradient=True, interpreted=plan.interpreted)
        elif "x" in results and not plan.has_offsets:
            self.fold(self.grad_y, results["x"], gradient=True)
        depthwise = "static_kernel" in results
        if "dynamic_kernel" in results and self.is_banded and self._has_kernel_a_window():
            kernel = results["dynamic_kernel"]
            run_kernel_gradient(self.start, self.call, self.grad_y, kernel, interpreted=plan.interpreted)
        elif "dynamic_kernel" in results and self.is_banded_fold and self._has_kernel_a_window():
            kernel = results["dynamic_kernel"]
            run_fold_kernel_gradient(self.start, self.call, self.grad_y, kernel, interpreted=plan.interpreted)
        elif "dynamic_kernel" in results and self._is_product():
            self._dynamic_kernel()
        elif depthwise or "dynamic_kernel" in results or "offsets" in results or ("x" in results and plan.has_offsets):
            self._windows(depthwise)

    def _is_product(self) -> bool:
        """Return whether the dynamic kernel's gradient is nothing but products, and no sum goes beyond a tile."""
        plan = self.plan
        simple = plan.aggregation == "gather" and plan.static_kernel == "none" and not plan.has_offsets
        return simple and plan.kernel_channel_groups == plan.kernel_blocks == 1 and self._has_kernel_a_window()

    def _has_kernel_a_window(self) -> bool:
        """Return whether every window has a dynamic kernel of its own."""
        return tuple(self.results["dynamic_kernel"].shape[-2:]) == self.call.geometry.output

    def _dynamic_kernel(self) -> None:
        """Write the gradient of a dynamic kernel that is nothing but products."""
        self.start(
            dynamic_kernel_backward,
            partial(self.grid, self.positions),
            grad_y=image_record(self.grad_y),
            x=image_record(self.call.x),
            grad_dynamic_kernel=dynamic_kernel_record(self.results["dynamic_kernel"], fold=False),
        )

    def _windows(self, depthwise: bool) -> None:
        """Write all other gradients in one pass over the windows; ``depthwise``: that of the static kernel is among them."""
        call, plan, results = self.call, self.plan, self.results
        image_wanted = plan.has_offsets and "x" in results
        ordered = image_wanted and torch.are_deterministic_algorithms_enabled()
        grad_x = self._new_image_sums() if image_wanted and not ordered else None
        grad_columns = self._new_columns() if ordered else None
        kernel_blocks, offset_blocks = (1, 1) if plan.slice_channels else (plan.kernel_blocks, plan.offset_blocks)
        grad_dynamic_kernel = self._new_partial_sums("dynamic_kernel", kernel_blocks, plan.one_kernel)
        grad_offsets = self._new_partial_sums("offsets", offset_blocks, plan.one_offset)
        arguments = self.inputs() | {
            "grad_y": image_record(self.grad_y),
            "grad_x": image_record(grad_x),
            "grad_columns": image_record(grad_columns),
            "grad_dynamic_kernel": dynamic_kernel_record(*_first_of(grad_dynamic_kernel, call.aggregation == "fold")),
            "grad_offsets": offsets_record(*_first_of(grad_offsets)),
            "GRAD_X": grad_x is not None,
        }
        if not plan.slice_channels:
            steps = self._steps() if depthwise else 1
            programs = -(-self.tiles(self.positions) // steps)
            sums = self._new_static_sums(programs) if depthwise else None
            grid = (programs * plan.blocks * self.batch,)
            self.start(backward, grid, **arguments, grad_static_kernel=sums, STEPS=steps)
            self._add_up_static(sums)
        elif image_wanted or "dynamic_kernel" in results or "offsets" in results:
            self.start(slice_backward, self.slice_grid, **arguments)
        if plan.slice_channels and depthwise:
            self._slice_static_kernel()
        if grad_x is not None and grad_x is not results["x"]:
            results["x"].copy_(grad_x)
        if grad_columns is not None:
            gradient_from_columns(grad_columns, call, plan, results["x"])
        self._add_up("dynamic_kernel", grad_dynamic_kernel)
        self._add_up("offsets", grad_offsets)

    def _slice_static_kernel(self) -> None:
        """Write the gradient of a depthwise static kernel where a thread has a slice of channels."""
        windows = _LEAST_WINDOWS
        while self._most_static_sums() * windows < self.positions:
            windows *= 2
        sums = self._new_static_sums(-(-self.positions // windows))
        arguments = self.inputs() | {"grad_y": image_record(self.grad_y), "sums": sums, "WINDOWS": windows}
        arguments.pop("static_kernel")
        self.start(slice_static_kernel, self._static_grid, **arguments)
        self._add_up_static(sums)

    def _static_grid(self, meta: dict[str, Any]) -> tuple[int]:
        """Return the number of programs, one for the windows that are added up, a tap and slices side by side."""
        slices = self.call.channels // self.plan.slice_channels
        blocks = slices // min(slices & -slices, SLICES_TOGETHER.value)
        return (-(-self.positions // meta["WINDOWS"]) * blocks * self.plan.taps * self.batch,)

    def _new_static_sums(self, programs: int) -> Tensor:
        """Return memory for the partial sums of a depthwise kernel's gradient, those of each image in so many programs."""
        x = self.call.x
        return x.new_empty((self.batch * programs, self.plan.taps, x.shape[1]), dtype=precision(x))

    def _add_up_static(self, sums: Tensor | None) -> None:
        """Write the sum of the partial sums of a depthwise kernel's gradient, if there are some."""
        if sums is not None:
            result = self.results["static_kernel"]
            result.copy_(sums.sum(0).t().reshape(result.shape))

    def _most_static_sums(self) -> int:
        """Return the partial sums of a depthwise kernel's gradient that take no more memory than the image."""
        pixels = self.call.geometry.image[0] * self.call.geometry.image[1]
        return max(pixels * self.call.x.element_size() // (self.plan.taps * precision(self.call.x).itemsize), 1)

    def _new_image_sums(self) -> Tensor:
        """Return zeros to add the image's gradient to: the gradient itself where it is precise enough."""
        result = self.results["x"]
        if result.dtype == precision(result):
            return result.zero_()
        return torch.zeros_like(result, dtype=precision(result))

    def _new_columns(self) -> Tensor:
        """Return memory for the gradient of all samples, ``[B, C, K, Ho, Wo]``, channels next to each other where those of x are."""
        x, geometry = self.call.x, self.call.geometry
        if not self.plan.channels_last:
            return x.new_empty((*x.shape[:2], geometry.taps, *geometry.output), dtype=precision(x))
        columns = x.new_empty((x.shape[0], geometry.taps, *geometry.output, x.shape[1]), dtype=precision(x))
        return columns.permute(0, 4, 1, 2, 3)

    def _steps(self) -> int:
        """Return the tiles of a program with which a depthwise kernel's partial sums take no more memory than the image."""
        return -(-self.tiles(self.positions) // self._most_static_sums())

    def _new_partial_sums(self, name: str, blocks: int, one: bool) -> Tensor | None:
        """Return memory for the partial sums of a gradient at windows, ``[sums, ...]``; the gradient itself where there is one sum.

        ``blocks``: those of a group's channels; ``one``: the values are the same at every position.
        """
        if name not in self.results:
            return None
        result, geometry = self.results[name], self.call.geometry
        count = blocks * (self.tiles(self.positions) if one else 1)
        size = (1, 1) if one else geometry.output
        if count == 1 and tuple(result.shape[-2:]) == size:
            return result.unsqueeze(0)
        return result.new_empty((count, *result.shape[:-2], *size), dtype=precision(result))

    def _add_up(self, name: str, partial_sums: Tensor | None) -> None:
        """Write the sum of partial sums, unless there was only the gradient itself."""
        if partial_sums is not None and partial_sums.data_ptr() != self.results[name].data_ptr():
            self.results[name].copy_(partial_sums.sum(0).sum_to_size(self.results[name].shape))


def _write_output(call: Call, y: Tensor) -> None:
    """Write the output of a call without a dense static kernel."""
    _Forward(call, y).run()


def _write_gradients(call: Call, grad_y: Tensor, results: dict[str, Tensor]) -> None:
    """Write the wanted gradients of a call without a dense static kernel."""
    _Backward(call, grad_y, results).run()


def _first_of(partial_sums: Tensor | None, *more: Any) -> tuple[Any, ...]:
    """Return the arguments of a record: the first partial sum, others, and the stride to the next partial sum."""
    return (None, *more) if partial_sums is None else (partial_sums[0], *more, partial_sums.stride(0))


PASSES = Passes(run_forward, run_backward, new_output, new_gradients, prepared)
OPERATORS = registered("triton", PASSES)
