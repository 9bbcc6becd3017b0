"""A backend's loops or kernels as registered operators: they trace with fake tensors, compile without a graph break and differentiate.

A backward that is itself to be differentiated runs the eager backend's formula.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from unified_extractor.ops import dispatch
from unified_extractor.ops.counting import multiply_adds
from unified_extractor.ops.geometry import Window

_KEPT = 4
"""The tensors among an operator's arguments: x or the keys first."""


class Wanted(NamedTuple):
    """Which gradients are asked for: 1 or 0."""

    x: int
    static: int
    dynamic: int
    offsets: int


class Call(NamedTuple):
    """The tensors of a call and what becomes of them."""

    x: Tensor
    static: Tensor | None
    dynamic: Tensor | None
    offsets: Tensor | None
    window: Window
    aggregation: str
    """gather, fold or unfold."""
    combine: str = "multiply"
    heads: int = 0
    """Kernel groups, where the dynamic kernel is what is asked for: similarity."""

    def output_shape(self) -> list[Any]:
        """Of the output."""
        channels = self.x.shape[1] if self.static is None else self.static.shape[0]
        if self.aggregation == "fold":
            return [self.x.shape[0], channels, *self.window.image]
        taps = [self.window.size] if self.aggregation == "unfold" else []
        return [self.x.shape[0], channels, *taps, *self.window.output]

    def dynamic_shape(self) -> list[Any]:
        """Of the dynamic kernel."""
        if self.dynamic is not None:
            return list(self.dynamic.shape)
        return [self.x.shape[0], self.heads, self.window.size, *self.window.output]


class Kernels(NamedTuple):
    """What a backend brings."""

    run: Callable[[Call], Tensor]
    """The output: ``[B, O, Ho, Wo]`` for gather, ``[B, C, H, W]`` for fold, ``[B, C, K, Ho, Wo]`` for unfold."""
    gradients: Callable[[Call, Tensor, Wanted], list[Tensor]]
    """The wanted gradients, in the order of :class:`Wanted`, from the output's."""
    new_output: Callable[[Call], Tensor]
    new_gradients: Callable[[Call, Wanted], list[Tensor]]
    """Of the same shapes, dtypes and strides, their values not written."""


class Operators(NamedTuple):
    """A backend's operators; a window comes as :func:`numbers`."""

    aggregate: Callable[..., Tensor]
    """``(x, static, dynamic, offsets, window, aggregation, combine)``: sample, weigh and gather, fold or unfold."""
    similarity: Callable[..., Tensor]
    """``(query, key, offsets, heads, window)``: query-key products, the gradient by the dynamic kernel of a gather of the keys."""


def numbers(window: Window) -> list[int]:
    """A window as an operator's argument."""
    pairs = (
        window.kernel_size,
        window.stride,
        window.padding,
        window.padding_after,
        window.dilation,
        window.image,
        window.output,
    )
    return [size for pair in pairs for size in pair]


def _window(sizes: Sequence[int]) -> Window:
    return Window(*zip(sizes[::2], sizes[1::2], strict=True))


def registered(backend: str, kernels: Kernels) -> Operators:
    """Register a backend's operators under its name."""
    name = f"unified_extractor::{backend}_"

    @torch.library.custom_op(name + "aggregate", mutates_args=())
    def aggregate(
        x: Tensor,
        static: Tensor | None,
        dynamic: Tensor | None,
        offsets: Tensor | None,
        window: Sequence[int],
        aggregation: str,
        combine: str,
    ) -> Tensor:
        return kernels.run(Call(x, static, dynamic, offsets, _window(window), aggregation, combine))

    @aggregate.register_fake
    def _(x: Tensor, static: Any, dynamic: Any, offsets: Any, window: Sequence[int], aggregation: str, combine: str) -> Tensor:
        return kernels.new_output(Call(x, static, dynamic, offsets, _window(window), aggregation, combine))

    @torch.library.custom_op(name + "aggregate_backward", mutates_args=())
    def aggregate_backward(
        gradient: Tensor,
        x: Tensor,
        static: Tensor | None,
        dynamic: Tensor | None,
        offsets: Tensor | None,
        window: Sequence[int],
        aggregation: str,
        combine: str,
        wanted: Sequence[bool],
    ) -> list[Tensor]:
        call = Call(x, static, dynamic, offsets, _window(window), aggregation, combine)
        return kernels.gradients(call, gradient, Wanted(*wanted))

    @aggregate_backward.register_fake
    def _(
        gradient: Tensor,
        x: Tensor,
        static: Any,
        dynamic: Any,
        offsets: Any,
        window: Sequence[int],
        aggregation: str,
        combine: str,
        wanted: Sequence[bool],
    ) -> list[Tensor]:
        return kernels.new_gradients(Call(x, static, dynamic, offsets, _window(window), aggregation, combine), Wanted(*wanted))

    @torch.library.custom_op(name + "similarity", mutates_args=())
    def similarity(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, window: Sequence[int]) -> Tensor:
        call = Call(key, None, None, offsets, _window(window), "gather", heads=heads)
        return kernels.gradients(call, query, Wanted(False, False, True, False))[0]

    @similarity.register_fake
    def _(query: Tensor, key: Tensor, offsets: Any, heads: int, window: Sequence[int]) -> Tensor:
        call = Call(key, None, None, offsets, _window(window), "gather", heads=heads)
        return kernels.new_gradients(call, Wanted(False, False, True, False))[0]

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:_KEPT])
        ctx.rest = inputs[_KEPT:]

    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[:_KEPT]
        if torch.is_grad_enabled():
            results = _differentiable_gradients(tensors, wanted, gradient, *ctx.rest)
        else:
            results = aggregate_backward(gradient, *tensors, *ctx.rest, list(wanted))
        return *_placed(results, wanted), None, None, None

    def keep_similarity(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.heads, ctx.window = inputs[3:]

    def similarity_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (query, key, offsets), wanted = ctx.saved_tensors, ctx.needs_input_grad[:3]
        rest = (ctx.window, "gather", "multiply")
        of_query = aggregate(key, None, gradient, offsets, *rest) if wanted[0] else None
        others = (wanted[1], False, False, wanted[2])
        if torch.is_grad_enabled():
            results = _differentiable_gradients((key, None, gradient, offsets), others, query, *rest)
        else:
            results = aggregate_backward(query, key, None, gradient, offsets, *rest, list(others))
        of_key, _, _, of_offsets = _placed(results, others)
        return of_query, of_key, of_offsets, None, None

    aggregate.register_autograd(backward, setup_context=keep)
    similarity.register_autograd(similarity_backward, setup_context=keep_similarity)
    packets = torch.ops.unified_extractor
    register_flop_formula(getattr(packets, f"{backend}_aggregate"))(_aggregate_flops)
    register_flop_formula(getattr(packets, f"{backend}_aggregate_backward"))(_backward_flops)
    register_flop_formula(getattr(packets, f"{backend}_similarity"))(_similarity_flops)
    return Operators(aggregate, similarity)


def _aggregate_flops(
    x: Any, static: Any, dynamic: Any, offsets: Any, window: Sequence[int], aggregation: str, *rest: Any, **_: Any
) -> int:
    """For torch's flop counter, which gives shapes in place of tensors and counts a multiply-add as two."""
    place, channels = _window(window), x[1]
    static_outputs = 0 if static is None else static[0] * static[1] // channels
    results = 0 if dynamic is None else place.size if aggregation == "fold" else 1
    one = multiply_adds(place, channels, static_outputs=static_outputs, results=results, moved=offsets is not None)
    return 2 * x[0] * one


def _backward_flops(gradient: Any, *arguments: Any, **_: Any) -> int:
    """As torch counts a convolution's: once for every gradient that is wanted."""
    return sum(arguments[-1]) * _aggregate_flops(*arguments[:-1])


def _similarity_flops(query: Any, key: Any, offsets: Any, heads: int, window: Sequence[int], **_: Any) -> int:
    return 2 * key[0] * multiply_adds(_window(window), key[1], results=1, moved=offsets is not None)


def _placed(results: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """The results where they were wanted, None elsewhere."""
    remaining = iter(results)
    return [next(remaining) if asked else None for asked in wanted]


def _differentiable_gradients(
    tensors: Sequence[Any], wanted: Sequence[bool], gradient: Tensor, sizes: Sequence[int], aggregation: str, combine: str
) -> Sequence[Tensor]:
    """The gradients by the eager backend's formula, which can be differentiated again."""
    eager, window = dispatch.choose("eager", gradient, 0), _window(sizes)
    with torch.enable_grad():
        # Aliases: a tensor's own history (a kernel generated from x) must not be walked here, the outer backward does that.
        tensors = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
        x, static, dynamic, offsets = tensors
        if aggregation == "unfold":
            y = eager.generalized_unfold(x, offsets, window)
        else:
            y = eager.extract(x, static, dynamic, offsets, None, window, combine, aggregation)
        asked = [tensor for tensor, wish in zip(tensors, wanted, strict=True) if wish and tensor is not None]
        return torch.autograd.grad(y, asked, gradient, create_graph=True) if asked else []
