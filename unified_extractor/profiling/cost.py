"""The cost of a module: parameters, multiply-adds by part and activation memory, all counted on the meta device.

One multiply-add is one multiplication with its addition. Convolutions and matrix products are counted by torch's flop counter, the
operator by the formulas in ``ops/cost.py``, whatever backend or shortcut runs. Norms, activations and biases are counted separately,
because only some papers add them. What softmax and other normalizations over taps take, and pooling, is not counted.
"""

from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from unified_extractor.layers.drop_in import ExtractorConv2d
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.named_specs import as_spec
from unified_extractor.ops import cost as counting
from unified_extractor.ops.geometry import Geometry
from unified_extractor.ops.shapes_only import shapes_only
from unified_extractor.profiling.elementwise import counting_elementwise
from unified_extractor.profiling.extractors import eval_mode, extractors
from unified_extractor.profiling.memory import peak_bytes, saved_bytes
from unified_extractor.spec import ExtractorSpec, as_pair

PARTS = ("operator", "generator", "projection", "rest")
"""The parts of an extractor: aggregation with its static kernel; generators of kernels and offsets; pointwise projections;
and all else."""

TRAINING = 3
"""Multiply-adds of a training step, as multiples of those of its forward pass."""

_PART_OF_CHILD = {"value": "projection", "projection": "projection", "modulation": "projection"}


@dataclass(frozen=True)
class Cost:
    """The cost of a module at one input shape."""

    parameters: int
    multiply_adds: int
    elementwise: int
    """Operations of norms (2 a value), activations and biases (1 a value), which are not part of ``multiply_adds``."""
    peak_activation_bytes: int
    """Largest number of bytes of float32 tensors at one moment of forward and backward, gradients included, without input
    and parameters."""
    parameters_by_part: dict[str, int] = field(default_factory=dict)
    multiply_adds_by_part: dict[str, int] = field(default_factory=dict)


def cost(module: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """Count parameters, multiply-adds and activation memory of a layer or network in eval mode, without computing anything.

    Args:
        module: a network or a :class:`unified_extractor.UnifiedExtractor2d`; it is not changed.
        input_shape: ``(C, H, W)`` for one image or ``(B, C, H, W)``; the counts are for the whole batch.

    Raises:
        ValueError, TypeError: the input shape has another rank, or the module refuses it.
    """
    shape = _batched(module, input_shape)
    parameters = _parameters_by_part(module)
    with eval_mode(module):
        with counting_elementwise(module) as elementwise:
            products = _multiply_adds_by_part(module, shape)
        peak = _peak_activation_bytes(module, shape)
    return Cost(sum(parameters.values()), sum(products.values()), elementwise.total, peak, parameters, products)


def multiply_adds(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of :func:`cost` alone, in a fraction of its time. Arguments and errors are the same."""
    shape = _batched(module, input_shape)
    with eval_mode(module):
        return sum(_multiply_adds_by_part(module, shape).values())


def saved_activation_bytes(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the bytes that a float32 forward pass on the CPU saves for backward, without input, parameters and buffers.

    The module runs in its own mode, train or eval, on tensors without storage.

    Args:
        module: a network or layer; it is not changed.
        input_shape: ``(C, H, W)`` for one image or ``(B, C, H, W)``.

    Raises:
        ValueError, TypeError: as :func:`cost`.
    """
    shape = _batched(module, input_shape)
    with FakeTensorMode(allow_non_fake_inputs=True):
        state, inputs = _state(module, "cpu"), _inputs(module, shape, "cpu")
        return saved_bytes(lambda: torch.func.functional_call(module, state, inputs), *inputs, *state.values())


def operator_multiply_adds(spec: ExtractorSpec | str, geometry: Geometry, channels: int, out_channels: int) -> int:
    """Return the multiply-adds of the operator on one image.

    For each tap of each window this is: 4 for each channel for a bilinear sample at an offset that is trained; 1 for each channel (fold: K)
    for a dynamic kernel; 1 for each pair of input and output channels within a group for a static kernel. A gate is 1 for each output
    of a window. Each of several terms is counted like that; where they have one dynamic kernel for all windows, static kernels are mixed
    once an image, 1 for each of their numbers. A channel kernel is 1 for each channel; where it is added to the dynamic kernel, it is a
    kernel of its own. A fold is counted by its own formula of K*K products, even if it runs as a gather.

    Args:
        spec: spec of the extractor, or a preset's name or call.
        geometry: sizes of its call on the image.
        channels: C, the input channels of the operator.
        out_channels: output channels of the operator, before an output projection.
    """
    spec = as_spec(spec)
    static, dynamic = spec.static_kernel, spec.dynamic_kernel
    if dynamic.small_kernel_size is not None:  # each window has half of the channels, and no other kernel than the dynamic one
        windows = (geometry.narrowed(as_pair(dynamic.small_kernel_size)), geometry)
        return sum(counting.multiply_adds(window, channels // 2, results=1) for window in windows)
    static_outputs = {"none": 0, "depthwise": 1, "dense": out_channels // static.groups}[static.channels]
    results = 0 if dynamic.source == "none" or not dynamic.per_tap else geometry.taps if spec.aggregation == "fold" else 1
    has_offsets, channel_kernel = spec.offsets.are_trained, spec.channel_kernel.combine
    added = 0
    if channel_kernel == "add":
        beside = 0 if spec.combine == "add" else static_outputs
        added = counting.multiply_adds(geometry, channels, static_outputs=beside, results=1, has_offsets=has_offsets)
    return added + counting.multiply_adds(
        geometry,
        channels,
        static_outputs=static_outputs,
        results=results,
        has_offsets=has_offsets,
        gates=0 if dynamic.per_tap else out_channels,
        terms=spec.terms,
        of_image=spec.generator.is_one_for_all_positions,
        channel_kernel=channel_kernel == "multiply",
    )


def _batched(module: Any, input_shape: Any) -> tuple[int, ...]:
    """Return the input's shape with a batch axis, after checking both arguments."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch module, got {type(module).__name__}")
    if (
        not isinstance(input_shape, tuple | list)
        or len(input_shape) not in (3, 4)
        or any(not isinstance(size, int) or size < 1 for size in input_shape)
    ):
        raise ValueError(f"input_shape must be (C, H, W) or (B, C, H, W), positive ints, got {_shown(input_shape)}")
    return (1, *input_shape) if len(input_shape) == 3 else tuple(input_shape)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, tuple | list | int | str) else f"a {type(value).__name__}"


def _part(name: str, layers: list[str]) -> str:
    """Return the part to which a parameter or module of this name belongs."""
    for layer in layers:
        prefix = f"{layer}." if layer else ""
        if name == layer or name.startswith(prefix):
            child = name.removeprefix(prefix).split(".")[0]
            return "operator" if name == layer or child in ("static_kernel", "bias") else _PART_OF_CHILD.get(child, "generator")
    return "rest"


def _parameters_by_part(module: nn.Module) -> dict[str, int]:
    names = list(extractors(module))
    counts: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    for name, parameter in module.named_parameters():
        counts[_part(name, names)] += parameter.numel()
    return dict(counts)


def _multiply_adds_by_part(module: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Return the multiply-adds of each part: convolutions and products by torch's counter, the operator's own calls by
    formula."""
    layers = extractors(module)
    counts: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    handles = [layer.register_forward_hook(_operator_hook(counts)) for layer in layers.values()]
    for layer in layers.values():  # whose calls are counted by formula, so they need not run whole
        context = ExitStack()
        handles.append(layer.register_forward_pre_hook(lambda *_, context=context: _entered(context)))
        handles.append(layer.register_forward_hook(lambda *_, context=context: context.close(), always_call=True))
    # A kernel module that has a hook is called, so that its multiply-adds are counted as its own.
    handles += [layer.kernel.register_forward_hook(_nothing) for layer in layers.values() if hasattr(layer, "kernel")]
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            _run_on_meta(module, shape)
    finally:
        for handle in handles:
            handle.remove()
    root = type(module).__name__
    totals = {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name != "Global"
    }
    own = Counter(totals)
    for name, total in totals.items():
        if name:
            own[_nearest_ancestor(name, totals)] -= total
    for name, count in own.items():
        part = _part(name, list(layers))
        if part != "operator":
            counts[part] += count
    return dict(counts)


def _nearest_ancestor(name: str, names: Collection[str]) -> str:
    """Return the nearest module around one that was called itself: a network may call another one's stages without calling it."""
    while (name := name.rpartition(".")[0]) and name not in names:
        pass
    return name


def _operator_hook(counts: "Counter[str]") -> Any:
    def count(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        spec, x = layer.spec, inputs[0]
        geometry = layer.geometry(x)
        out_channels = layer.out_channels if spec.static_kernel.channels == "dense" else layer.in_channels
        counts["operator"] += x.shape[0] * operator_multiply_adds(spec, geometry, layer.in_channels, out_channels)
        if (
            spec.dynamic_kernel.learned_queries
        ):  # one value a tap, head and query, of which the keys' map has been made by convolutions
            values = layer.kernel_groups * spec.dynamic_kernel.learned_queries
            weighted = int(spec.dynamic_kernel.tap_scale)
            sampled = counting.multiply_adds(geometry, values, results=weighted, has_offsets=spec.offsets.are_trained)
            counts["generator"] += x.shape[0] * sampled
        elif spec.dynamic_kernel.source in ("similarity", "gaussian"):
            has_offsets = spec.offsets.are_trained
            queries = layer.guide_channels // spec.dynamic_kernel.query_reduction
            if spec.dynamic_kernel.source == "gaussian":
                queries += layer.kernel_groups  # half the square at the tap, of each head
            products = counting.multiply_adds(geometry, queries, results=1, has_offsets=has_offsets)
            counts["generator"] += x.shape[0] * products

    return count


def _entered(context: ExitStack) -> None:
    """Ask for shapes alone until the context is closed."""
    context.enter_context(shapes_only())


def _nothing(*_: Any) -> None:
    """Do nothing: a hook whose presence is enough."""


def _peak_activation_bytes(module: nn.Module, shape: tuple[int, ...]) -> int:
    state, inputs = _state(module, "meta"), [x.requires_grad_() for x in _inputs(module, shape, "meta")]

    def forward_and_backward() -> None:
        torch.func.functional_call(module, state, tuple(inputs)).sum().backward()

    return peak_bytes(forward_and_backward, *inputs, *state.values())


def on_meta(module: nn.Module, shape: tuple[int, ...]) -> Any:
    """Return a module's output for an input of this shape on the meta device, where nothing is computed or compiled.

    It has the shape and dtype of every output; operations that shape nothing may be left out.
    """
    with shapes_only():
        return _run_on_meta(module, shape)


def _run_on_meta(module: nn.Module, shape: tuple[int, ...]) -> Any:
    return torch.func.functional_call(module, _state(module, "meta"), _inputs(module, shape, "meta"))


def _inputs(module: nn.Module, shape: tuple[int, ...], device: str) -> tuple[Tensor, ...]:
    """Return an image of this shape, and the guide that the module needs beside it, without values."""
    guide_shape = module.guide_shape(shape) if isinstance(module, ExtractorConv2d | UnifiedExtractor2d) else None
    return tuple(torch.empty(one, device=device) for one in (shape, guide_shape) if one is not None)


def _state(module: nn.Module, device: str) -> dict[str, Tensor]:
    """Return parameters and buffers of the module as tensors without storage."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        name: torch.empty(
            value.shape, device=device, dtype=torch.float32 if value.is_floating_point() else value.dtype
        ).requires_grad_(value.requires_grad)
        for name, value in state.items()
    }
