"""From tensors to kernels and back: what a call runs, on how many programs, and what it allocates.

B batch, C input channels, O output channels, K taps, Ho, Wo output positions.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton import knobs

from unified_extractor.ops.backends.triton.backward import backward
from unified_extractor.ops.backends.triton.dense import dense, dense_backward
from unified_extractor.ops.backends.triton.deterministic import gradient_from_columns
from unified_extractor.ops.backends.triton.dynamic_kernel_backward import dynamic_kernel_backward, linear_map_backward
from unified_extractor.ops.backends.triton.fold import fold
from unified_extractor.ops.backends.triton.forward import gather
from unified_extractor.ops.backends.triton.planning import (
    computes_backward,
    computes_forward,
    dynamic_of,
    image_of,
    is_channels_last,
    map_of,
    offsets_of,
    plan_for,
    sizes_of,
)
from unified_extractor.ops.backends.triton.records import LinearMap, Plan, WindowValues
from unified_extractor.ops.backends.triton.tuning import start
from unified_extractor.ops.call import Call, Wanted
from unified_extractor.ops.custom_ops import Passes, backward_with_stored_kernel, new_kernel_gradients, registered, stored
from unified_extractor.ops.dynamic_kernels import LinearKernel
from unified_extractor.ops.geometry import precision

_MAP_SHARES = 512
"""At most so many programs a block of channels that each add up a share of a generator's gradients: enough for every multiprocessor."""
_STATIC_SUMS = 16
"""At most so many partial sums of a mixing static kernel's gradient: enough programs, times its taps and tiles; few enough to add up."""


def run(call: Call) -> Tensor:
    """The output of a call."""
    if call.computed_kernel is not None and not computes_forward(call):
        call = stored(call, PASSES)
    y = new_output(call)
    if y.numel():
        work = _Work(call)
        positions = call.geometry.output[0] * call.geometry.output[1]
        arguments = work.inputs() | {"y": image_of(y)}
        if call.aggregation == "fold":
            work.fold(call.x, y, gradient=False)
        elif work.plan.static_kernel == "dense":
            work.start(dense, lambda meta: (work.tiles(positions) * work.output_blocks() * call.x.shape[0],), **arguments)
        else:
            work.start(gather, partial(work.grid, positions), **arguments)
    return y


def gradients(call: Call, gradient: Tensor, wanted: Wanted) -> list[Tensor]:
    """The wanted gradients, in the order of :class:`Wanted`, from the output's."""
    if call.computed_kernel is not None and not computes_backward(call):
        return backward_with_stored_kernel(call, gradient, wanted, PASSES)
    names = [name for name, asked in zip(Wanted._fields, wanted, strict=True) if asked]
    results = dict(zip(names, new_gradients(call, wanted), strict=True))
    if not gradient.numel():
        return [result.zero_() for result in results.values()]
    _Backward(call, gradient, results).run()
    return list(results.values())


def new_output(call: Call) -> Tensor:
    """As :func:`run` returns it, not written: channels lie as those of x do."""
    y = call.x.new_empty(call.output_shape())
    if call.aggregation != "unfold" and is_channels_last(call.x):
        return torch.empty_like(y, memory_format=torch.channels_last)
    return y


def new_gradients(call: Call, wanted: Wanted) -> list[Tensor]:
    """As :func:`gradients` returns them, not written."""
    similarity = call.aggregation == "similarity"
    dynamic = call.x.new_empty(call.kernel_shape()) if similarity else call.stored_kernel
    tensors = (call.x, call.static_kernel, dynamic, call.offsets)
    direct = [torch.empty_like(t) for t, asked in zip(tensors, wanted[:4], strict=True) if asked and t is not None]
    return [*direct, *new_kernel_gradients(call, wanted)]


class _Work:
    """A call's plan, and what its kernels share."""

    def __init__(self, call: Call, gradient: Tensor | None = None) -> None:
        self.call = call
        self.plan: Plan = plan_for(call, gradient, interpreted=knobs.runtime.interpret)
        # [K, C/groups, O]: neighboring outputs, or channels of a depthwise kernel, next to each other
        self.static = None if call.static_kernel is None else call.static_kernel.detach().permute(2, 3, 1, 0).contiguous()
        if isinstance(call.computed_kernel, LinearKernel):
            self.dynamic: WindowValues | LinearMap = map_of(call.computed_kernel)
        else:
            self.dynamic = dynamic_of(call.stored_kernel, call.aggregation == "fold")

    def inputs(self) -> dict[str, Any]:
        """What the kernels read."""
        call = self.call
        return {
            "x": image_of(call.x),
            "static_kernel": self.static,
            "dynamic_kernel": self.dynamic,
            "offsets": offsets_of(call.offsets),
        }

    def start(self, kernel: Any, grid: Any, **arguments: Any) -> None:
        """Run a kernel."""
        geometry = self.call.geometry
        start(
            kernel,
            grid,
            self.call.x.device,
            self.plan,
            geometry.image[0] * geometry.image[1],
            sizes=sizes_of(geometry),
            **arguments,
        )

    def tiles(self, positions: int, scale: int = 1) -> int:
        """Tiles of so many positions."""
        return -(-positions // (self.plan.tile_positions * scale))

    def output_blocks(self) -> int:
        """Tiles of a mixing static kernel's outputs."""
        plan = self.plan
        return plan.channel_groups // plan.convolution_channel_groups * -(-plan.convolution_outputs // plan.tile_outputs)

    def grid(self, positions: int, meta: dict[str, Any], times: int = 1) -> tuple[int]:
        """Programs, one a tile of positions and channels."""
        return (self.tiles(positions, meta.get("SCALE", 1)) * times * self.plan.blocks * self.call.x.shape[0],)

    def fold(self, source: Tensor, y: Tensor, gradient: bool) -> None:
        """Run the kernel of that name: a program has pixels of one residue class by the stride."""
        (height, width), (down, right) = self.call.geometry.image, self.call.geometry.stride
        positions = -(-height // down) * -(-width // right)
        arguments = self.inputs() | {"source": image_of(source), "y": image_of(y), "GRADIENT": gradient}
        arguments.pop("x")
        self.start(fold, partial(self.grid, positions, times=down * right), **arguments)


class _Backward(_Work):
    """The gradients of a call."""

    def __init__(self, call: Call, gradient: Tensor, results: dict[str, Tensor]) -> None:
        super().__init__(call, gradient)
        self.gradient, self.results = gradient, results
        self.positions = call.geometry.output[0] * call.geometry.output[1]

    def run(self) -> None:
        """Write the results."""
        results = self.results
        if "static" in results and self.plan.static_kernel == "dense":
            self._mixing_static()
        if "x" in results and not self.plan.has_offsets:
            self.fold(self.gradient, results["x"], gradient=True)
        each = "static" in results and self.plan.static_kernel == "depthwise"
        if "dynamic" in results and self._is_product():
            kernel = dynamic_of(results["dynamic"], fold=False)
            self.start(
                dynamic_kernel_backward,
                partial(self.grid, self.positions),
                grad_output=image_of(self.gradient),
                x=image_of(self.call.x),
                grad_dynamic_kernel=kernel,
            )
        elif self.call.computed_kernel is not None:
            self._map()
        elif each or "dynamic" in results or "offsets" in results or ("x" in results and self.plan.has_offsets):
            self._windows(each)

    def _map(self) -> None:
        """What a generated kernel is made from: shares of programs and of blocks of channels."""
        call, plan, results, generator = self.call, self.plan, self.results, self.call.computed_kernel
        assert isinstance(generator, LinearKernel)
        if not {"feature", "weight", "bias"} & set(results):
            return
        shares = min(_MAP_SHARES, self.tiles(self.positions) * call.x.shape[0])
        rows, dtype = generator.weight.shape[0], precision(call.x)
        of_feature = call.x.new_empty((plan.blocks, call.x.shape[0], *call.geometry.output, plan.feature_channels), dtype=dtype)
        of_weight = call.x.new_zeros((shares, rows, plan.feature_channels), dtype=dtype)
        of_bias = call.x.new_zeros((shares, rows), dtype=dtype)
        self.start(
            linear_map_backward,
            (plan.blocks * shares,),
            grad_output=image_of(self.gradient),
            x=image_of(call.x),
            linear_map=self.dynamic,
            grad_feature=of_feature,
            grad_weight=of_weight,
            grad_bias=of_bias,
            images=call.x.shape[0],
            partial_sums=shares,
        )
        found = {
            "feature": of_feature.sum(0).permute(0, 3, 1, 2),
            "weight": generator.scale * of_weight.sum(0),
            "bias": generator.scale * of_bias.sum(0),
        }
        for name in found.keys() & results.keys():
            results[name].copy_(found[name])

    def _is_product(self) -> bool:
        """Whether the dynamic kernel's gradient is nothing but products, and no sum goes beyond a tile."""
        plan = self.plan
        simple = plan.aggregation == "gather" and plan.static_kernel == "none" and not plan.has_offsets
        return (
            simple
            and plan.kernel_channel_groups == plan.kernel_blocks == 1
            and tuple(self.results["dynamic"].shape[-2:]) == self.call.geometry.output
        )

    def _windows(self, each: bool) -> None:
        """What a pass over the windows gives: all of the rest."""
        call, plan, results = self.call, self.plan, self.results
        moved = plan.has_offsets and "x" in results
        ordered = moved and torch.are_deterministic_algorithms_enabled()
        of_x = self._new_sums() if moved and not ordered else None
        columns = self._new_columns() if ordered else None
        steps = self._steps() if each else 1
        programs = -(-self.tiles(self.positions) // steps)
        sums = (
            call.x.new_empty((call.x.shape[0] * programs, plan.taps, call.x.shape[1]), dtype=precision(call.x)) if each else None
        )
        of_dynamic = self._shares("dynamic", plan.kernel_blocks, plan.one_kernel)
        of_offsets = self._shares("offsets", plan.offset_blocks, plan.one_offset)
        self.start(
            backward,
            (programs * plan.blocks * call.x.shape[0],),
            **self.inputs(),
            grad_output=image_of(self.gradient),
            grad_x=image_of(of_x),
            grad_columns=image_of(columns),
            grad_static_kernel=sums,
            grad_dynamic_kernel=dynamic_of(*self._share(of_dynamic, call.aggregation == "fold")),
            grad_offsets=offsets_of(*self._share(of_offsets)),
            STEPS=steps,
            GRAD_X=of_x is not None,
        )
        if of_x is not None and of_x is not results["x"]:
            results["x"].copy_(of_x)
        if columns is not None:
            gradient_from_columns(columns, call, plan, results["x"])
        if sums is not None:
            results["static"].copy_(sums.sum(0).t().reshape(results["static"].shape))
        self._sum("dynamic", of_dynamic)
        self._sum("offsets", of_offsets)

    def _new_sums(self) -> Tensor:
        """Zeros to add the image's gradient to: the gradient itself where it is precise enough."""
        result = self.results["x"]
        if result.dtype == precision(result):
            return result.zero_()
        return torch.zeros_like(result, dtype=precision(result))

    def _steps(self) -> int:
        """Tiles of a program so that shares of a static kernel, of which each channel has its own, take no more memory than the image."""
        pixels = self.call.geometry.image[0] * self.call.geometry.image[1]
        shares = max(pixels * self.call.x.element_size() // (self.plan.taps * precision(self.call.x).itemsize), 1)
        return -(-self.tiles(self.positions) // shares)

    def _new_columns(self) -> Tensor:
        """``[B, C, K, Ho, Wo]``, channels next to each other where those of x are."""
        x, geometry = self.call.x, self.call.geometry
        if not self.plan.channels_last:
            return x.new_empty((*x.shape[:2], geometry.taps, *geometry.output), dtype=precision(x))
        columns = x.new_empty((x.shape[0], geometry.taps, *geometry.output, x.shape[1]), dtype=precision(x))
        return columns.permute(0, 4, 1, 2, 3)

    def _shares(self, name: str, tiles_of_a_group: int, one: bool) -> Tensor | None:
        """Memory for the shares of a gradient at windows, ``[shares, ...]``; the gradient itself where there is one share."""
        if name not in self.results:
            return None
        result, geometry = self.results[name], self.call.geometry
        shares = tiles_of_a_group * (self.tiles(self.positions) if one else 1)
        size = (1, 1) if one else geometry.output
        if shares == 1 and tuple(result.shape[-2:]) == size:
            return result.unsqueeze(0)
        return result.new_empty((shares, *result.shape[:-2], *size), dtype=precision(result))

    @staticmethod
    def _share(shares: Tensor | None, *more: Any) -> tuple[Any, ...]:
        """A first share and the way to the next."""
        return (None, *more) if shares is None else (shares[0], *more, shares.stride(0))

    def _sum(self, name: str, shares: Tensor | None) -> None:
        """Add up shares, unless there was only the gradient itself."""
        if shares is not None and shares.data_ptr() != self.results[name].data_ptr():
            self.results[name].copy_(shares.sum(0).sum_to_size(self.results[name].shape))

    def _mixing_static(self) -> None:
        """The gradient of a static kernel that mixes channels."""
        call, plan, result = self.call, self.plan, self.results["static"]
        tiles = self.tiles(self.positions)
        all_tiles = tiles * call.x.shape[0]
        tiles_a_sum = -(-all_tiles // _STATIC_SUMS)
        count = -(-all_tiles // tiles_a_sum)
        sums = call.x.new_empty((count, plan.taps, result.shape[1], result.shape[0]), dtype=precision(call.x))
        output_blocks = -(-plan.convolution_outputs // plan.tile_outputs)
        arguments = self.inputs() | {
            "grad_output": image_of(self.gradient),
            "grad_static_kernel": sums,
            "images": call.x.shape[0],
            "tiles": tiles,
            "tiles_a_sum": tiles_a_sum,
        }
        arguments.pop("static_kernel")
        self.start(dense_backward, lambda meta: (output_blocks * plan.blocks * plan.taps * count,), **arguments)
        result.copy_(sums.sum(0).permute(2, 1, 0).reshape(result.shape))


PASSES = Passes(run, gradients, new_output, new_gradients)
OPERATORS = registered("triton", PASSES)
