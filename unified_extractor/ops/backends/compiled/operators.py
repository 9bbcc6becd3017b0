"""The compiled loops as registered operators: they trace with fake tensors, compile without a graph break and differentiate.

A backward that is itself to be differentiated runs the eager backend's formula.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unified_extractor.ops import dispatch
from unified_extractor.ops.backends.compiled import launch
from unified_extractor.ops.backends.compiled.backward import Wanted
from unified_extractor.ops.backends.compiled.launch import Call
from unified_extractor.ops.geometry import Window

_NAME = "unified_extractor::"


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


@torch.library.custom_op(_NAME + "aggregate", mutates_args=())
def aggregate(
    x: Tensor, static: Tensor | None, dynamic: Tensor | None, offsets: Tensor | None, window: Sequence[int], aggregation: str
) -> Tensor:
    """Sample, weigh and gather, fold or unfold."""
    return launch.run(Call(x, static, dynamic, offsets, _window(window), aggregation))


@aggregate.register_fake
def _(x: Tensor, static: Any, dynamic: Any, offsets: Any, window: Sequence[int], aggregation: str) -> Tensor:
    return x.new_empty(Call(x, static, dynamic, offsets, _window(window), aggregation).output_shape())


@torch.library.custom_op(_NAME + "aggregate_backward", mutates_args=())
def aggregate_backward(
    gradient: Tensor,
    x: Tensor,
    static: Tensor | None,
    dynamic: Tensor | None,
    offsets: Tensor | None,
    window: Sequence[int],
    aggregation: str,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """The wanted gradients of :func:`aggregate`."""
    return launch.gradients(Call(x, static, dynamic, offsets, _window(window), aggregation), gradient, Wanted(*wanted))


@aggregate_backward.register_fake
def _(
    gradient: Tensor,
    x: Tensor,
    static: Any,
    dynamic: Any,
    offsets: Any,
    window: Sequence[int],
    aggregation: str,
    wanted: Sequence[bool],
) -> list[Tensor]:
    return [x.new_empty(tensor.shape) for tensor, asked in zip((x, static, dynamic, offsets), wanted, strict=True) if asked]


@torch.library.custom_op(_NAME + "similarity", mutates_args=())
def similarity(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, window: Sequence[int]) -> Tensor:
    """Query-key products in every window: the gradient by the dynamic kernel of a gather of the keys."""
    call = Call(key, None, None, offsets, _window(window), "gather", heads)
    return launch.gradients(call, query, Wanted(False, False, True, False))[0]


@similarity.register_fake
def _(query: Tensor, key: Tensor, offsets: Any, heads: int, window: Sequence[int]) -> Tensor:
    return key.new_empty(Call(key, None, None, offsets, _window(window), "gather", heads).dynamic_shape())


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.window, ctx.aggregation = inputs[4:]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[:4]
    if torch.is_grad_enabled():
        results = _differentiable_gradients(tensors, wanted, gradient, ctx.window, ctx.aggregation)
    else:
        results = aggregate_backward(gradient, *tensors, ctx.window, ctx.aggregation, list(wanted))
    return *_placed(results, wanted), None, None


aggregate.register_autograd(_backward, setup_context=_keep)


def _keep_similarity(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.heads, ctx.window = inputs[3:]


def _similarity_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    (query, key, offsets), wanted = ctx.saved_tensors, ctx.needs_input_grad[:3]
    of_query = aggregate(key, None, gradient, offsets, ctx.window, "gather") if wanted[0] else None
    others = (wanted[1], False, False, wanted[2])
    if torch.is_grad_enabled():
        results = _differentiable_gradients((key, None, gradient, offsets), others, query, ctx.window, "gather")
    else:
        results = aggregate_backward(query, key, None, gradient, offsets, ctx.window, "gather", list(others))
    of_key, _, _, of_offsets = _placed(results, others)
    return of_query, of_key, of_offsets, None, None


similarity.register_autograd(_similarity_backward, setup_context=_keep_similarity)


def _placed(results: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """The results where they were wanted, None elsewhere."""
    remaining = iter(results)
    return [next(remaining) if asked else None for asked in wanted]


def _differentiable_gradients(
    tensors: Sequence[Any], wanted: Sequence[bool], gradient: Tensor, sizes: Sequence[int], aggregation: str
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
            y = eager.extract(x, static, dynamic, offsets, None, window, "multiply", aggregation)
        asked = [tensor for tensor, wish in zip(tensors, wanted, strict=True) if wish and tensor is not None]
        return torch.autograd.grad(y, asked, gradient, create_graph=True) if asked else []
