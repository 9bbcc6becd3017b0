"""A backend's loops or kernels as registered operators: they trace with fake tensors, compile without a graph break and differentiate.

A backward that is itself to be differentiated runs the eager backend's formula.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from unified_extractor.ops import dispatch
from unified_extractor.ops.cost import linear_map_multiply_adds, multiply_adds
from unified_extractor.ops.dynamic_kernels import (
    KernelGenerator,
    generated_kernel,
    kernel_shape,
    map_gradients,
    values_gradient,
)
from unified_extractor.ops.geometry import Geometry


class Wanted(NamedTuple):
    """Which gradients are asked for: 1 or 0."""

    x: int
    static: int
    dynamic: int
    offsets: int
    feature: int = 0
    """This and the following are a generator's."""
    weight: int = 0
    bias: int = 0


_OF_KERNEL = Wanted(False, False, True, False)


class Call(NamedTuple):
    """The tensors of a call and what becomes of them."""

    x: Tensor
    static: Tensor | None
    dynamic: Tensor | None
    offsets: Tensor | None
    geometry: Geometry
    aggregation: str
    """gather, fold or unfold."""
    combine: str = "multiply"
    heads: int = 0
    """Kernel groups, where the dynamic kernel is what is asked for: similarity."""
    generator: KernelGenerator | None = None
    """What makes the dynamic kernel, which is then not among the tensors."""

    def output_shape(self) -> list[Any]:
        """Of the output."""
        channels = self.x.shape[1] if self.static is None else self.static.shape[0]
        if self.aggregation == "fold":
            return [self.x.shape[0], channels, *self.geometry.image]
        taps = [self.geometry.taps] if self.aggregation == "unfold" else []
        return [self.x.shape[0], channels, *taps, *self.geometry.output]

    def dynamic_shape(self) -> list[Any]:
        """Of the dynamic kernel."""
        if self.generator is not None:
            return kernel_shape(self.generator, self.geometry, self.aggregation)
        if self.dynamic is not None:
            return list(self.dynamic.shape)
        return [self.x.shape[0], self.heads, self.geometry.taps, *self.geometry.output]


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
    """``(x, static, dynamic, offsets, window, aggregation, combine)``: sample, weigh and gather, fold or unfold. In place of the
    dynamic kernel ``feature, weight, bias, scale, normalization``, behind the rest: what makes it, again in backward."""
    similarity: Callable[..., Tensor]
    """``(query, key, offsets, heads, window)``: query-key products, the gradient by the dynamic kernel of a gather of the keys."""


def numbers(geometry: Geometry) -> list[int]:
    """A window as an operator's argument."""
    pairs = (
        geometry.kernel_size,
        geometry.stride,
        geometry.padding,
        geometry.padding_after,
        geometry.dilation,
        geometry.image,
        geometry.output,
    )
    return [size for pair in pairs for size in pair]


def split_dynamic(dynamic: Tensor | KernelGenerator | None) -> tuple[Tensor | None, tuple[Any, ...]]:
    """A dynamic kernel and an operator's arguments that follow its combine: none, or a generator's."""
    return (None, tuple(dynamic)) if isinstance(dynamic, KernelGenerator) else (dynamic, ())


def _geometry(sizes: Sequence[int]) -> Geometry:
    return Geometry(*zip(sizes[::2], sizes[1::2], strict=True))


_SCHEMA = (
    "Tensor x, Tensor? static, Tensor? dynamic, Tensor? offsets, SymInt[] window, str aggregation, str combine, "
    'Tensor? feature=None, Tensor? weight=None, Tensor? bias=None, float scale=1.0, str normalization="none", SymInt heads=0'
)
_TENSORS = (0, 1, 2, 3, 7, 8, 9)
"""Where they stand among the arguments, in the order of :class:`Wanted`."""


_NO_GENERATOR = (None, None, None, 1.0, "none", 0)


def _complete(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """With the defaults, which torch leaves out."""
    return (*arguments, *_NO_GENERATOR[len(arguments) - 7 :])


def _call(*arguments: Any) -> Call:
    """From an operator's arguments."""
    x, static, dynamic, offsets, geometry, aggregation, combine, *others = _complete(arguments)
    generator = None if others[0] is None else KernelGenerator(*others)
    return Call(x, static, dynamic, offsets, _geometry(geometry), aggregation, combine, generator=generator)


def registered(backend: str, kernels: Kernels) -> Operators:
    """Register a backend's operators under its name."""
    name = f"unified_extractor::{backend}_"

    def operator(label: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
        made = torch.library.custom_op(name + label, run, mutates_args=(), schema=schema)
        made.register_fake(fake)
        return made

    aggregate = operator(
        "aggregate",
        f"({_SCHEMA}) -> Tensor",
        lambda *arguments: kernels.run(_call(*arguments)),
        lambda *arguments: kernels.new_output(_call(*arguments)),
    )
    aggregate_backward = operator(
        "aggregate_backward",
        f"(Tensor gradient, bool[] wanted, {_SCHEMA}) -> Tensor[]",
        lambda gradient, wanted, *arguments: kernels.gradients(_call(*arguments), gradient, Wanted(*wanted)),
        lambda gradient, wanted, *arguments: kernels.new_gradients(_call(*arguments), Wanted(*wanted)),
    )

    def keys(key: Tensor, offsets: Tensor | None, heads: int, geometry: Sequence[int]) -> Call:
        return Call(key, None, None, offsets, _geometry(geometry), "gather", heads=heads)

    similarity = operator(
        "similarity",
        "(Tensor query, Tensor key, Tensor? offsets, SymInt heads, SymInt[] window) -> Tensor",
        lambda query, *others: kernels.gradients(keys(*others), query, _OF_KERNEL)[0],
        lambda query, *others: kernels.new_gradients(keys(*others), _OF_KERNEL)[0],
    )

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        inputs = _complete(inputs)
        ctx.save_for_backward(*(inputs[place] for place in _TENSORS))
        ctx.arguments = [None if place in _TENSORS else value for place, value in enumerate(inputs)]

    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        arguments, asked = list(ctx.arguments), ctx.needs_input_grad
        for place, tensor in zip(_TENSORS, ctx.saved_tensors, strict=True):
            arguments[place] = tensor
        wanted = [place < len(asked) and asked[place] for place in _TENSORS]
        if torch.is_grad_enabled():
            results = _differentiable_gradients(arguments, wanted, gradient)
        else:
            results = aggregate_backward(gradient, wanted, *arguments)
        placed = dict(zip(_TENSORS, _placed(results, wanted), strict=True))
        return tuple(placed.get(place) for place in range(len(asked)))

    def keep_similarity(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.heads, ctx.geometry = inputs[3:]

    def similarity_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (query, key, offsets), asked = ctx.saved_tensors, ctx.needs_input_grad[:3]
        arguments = (key, None, gradient, offsets, ctx.geometry, "gather", "multiply")
        of_query = aggregate(*arguments) if asked[0] else None
        wanted = [asked[1], False, False, asked[2], False, False, False]
        if torch.is_grad_enabled():
            results = _differentiable_gradients(arguments, wanted, query)
        else:
            results = aggregate_backward(query, wanted, *arguments)
        of_key, _, _, of_offsets, *_ = _placed(results, wanted)
        return of_query, of_key, of_offsets, None, None

    aggregate.register_autograd(backward, setup_context=keep)
    similarity.register_autograd(similarity_backward, setup_context=keep_similarity)
    packets = torch.ops.unified_extractor
    register_flop_formula(getattr(packets, f"{backend}_aggregate"))(_aggregate_flops)
    register_flop_formula(getattr(packets, f"{backend}_aggregate_backward"))(_backward_flops)
    register_flop_formula(getattr(packets, f"{backend}_similarity"))(_similarity_flops)
    return Operators(aggregate, similarity)


Gradients = Callable[[Call, Tensor, Wanted], list[Tensor]]
"""A backend's, as in :class:`Kernels`."""


def with_kernel(call: Call, gradients: Gradients) -> Call:
    """The same call with the kernel itself in place of its generator."""
    assert call.generator is not None

    def similarity(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, geometry: Geometry) -> Tensor:
        return gradients(Call(key, None, None, offsets, geometry, "gather", heads=heads), query, _OF_KERNEL)[0]

    kernel = generated_kernel(call.generator, call.geometry, call.aggregation, similarity)
    return call._replace(dynamic=kernel, generator=None)


def gradients_with_kernel(
    call: Call, gradient: Tensor, wanted: Wanted, run: Callable[[Call], Tensor], gradients: Gradients
) -> list[Tensor]:
    """The wanted gradients of a call with a generator, by a backend's of calls with the kernel itself: that is made again."""
    whole, generator = with_kernel(call, gradients), call.generator
    assert whole.dynamic is not None
    assert generator is not None
    direct = Wanted(wanted.x, wanted.static, any(wanted[4:]), wanted.offsets)
    results = dict(zip(_names(direct), gradients(whole, gradient, direct), strict=True))
    if direct.dynamic:
        values = values_gradient(generator, whole.dynamic, results.pop("dynamic"))
        if generator.heads:
            of_keys = Call(generator.weight, None, values, None, call.geometry, "gather")
            (of_key,) = gradients(of_keys, generator.feature, Wanted(True, False, False, False))
            of_position = values.sum((0, 3, 4)).flatten()
            of_position = of_position if generator.bias is None else of_position.to(generator.bias.dtype)
            made: tuple[Tensor, ...] = run(of_keys).contiguous(), of_key.contiguous(), of_position
        else:
            made = map_gradients(generator, values)
        results |= dict(zip(Wanted._fields[4:], made, strict=True))
    return [results[name] for name in _names(wanted)]


def new_generator_gradients(call: Call, wanted: Wanted) -> list[Tensor]:
    """Of a generator, as a backend returns them behind all others, not written."""
    made_from = (None, None, None) if call.generator is None else call.generator[:3]
    return [t.new_empty(t.shape) for t, asked in zip(made_from, wanted[4:], strict=True) if asked and t is not None]


def _names(wanted: Wanted) -> list[str]:
    return [name for name, asked in zip(Wanted._fields, wanted, strict=True) if asked]


def _aggregate_flops(*arguments: Any, **_: Any) -> int:
    """For torch's flop counter, which gives shapes in place of tensors and counts a multiply-add as two."""
    x, static, dynamic, offsets, geometry, aggregation, _, *generator = arguments
    place, channels = _geometry(geometry), x[1]
    static_outputs = 0 if static is None else static[0] * static[1] // channels
    weight = generator[1] if generator else None
    results = 0 if dynamic is None and weight is None else place.taps if aggregation == "fold" else 1
    one = multiply_adds(place, channels, static_outputs=static_outputs, results=results, has_offsets=offsets is not None)
    if weight is not None:
        rows = weight[0] if len(weight) == 2 else place.taps  # of a linear map; with keys a channel has one product a tap
        one += linear_map_multiply_adds(place, rows, weight[1])
    return 2 * x[0] * one


def _backward_flops(gradient: Any, wanted: Any, *arguments: Any, **_: Any) -> int:
    """As torch counts a convolution's: once for every gradient that is wanted."""
    return sum(wanted) * _aggregate_flops(*arguments)


def _similarity_flops(query: Any, key: Any, offsets: Any, heads: int, geometry: Sequence[int], **_: Any) -> int:
    return 2 * key[0] * multiply_adds(_geometry(geometry), key[1], results=1, has_offsets=offsets is not None)


def _placed(results: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    """The results where they were wanted, None elsewhere."""
    remaining = iter(results)
    return [next(remaining) if asked else None for asked in wanted]


def _differentiable_gradients(arguments: Sequence[Any], wanted: Sequence[bool], gradient: Tensor) -> Sequence[Tensor]:
    """The gradients by the eager backend's formula, which can be differentiated again."""
    eager, arguments = dispatch.choose("eager", gradient, 0), list(_complete(arguments))
    with torch.enable_grad():
        for place in _TENSORS:
            if arguments[place] is not None:
                # An alias: a tensor's own history (a kernel generated from x) must not be walked here, the outer backward does that.
                arguments[place] = arguments[place].view_as(arguments[place])
        call = _call(*arguments)
        dynamic = call.dynamic
        if call.generator is not None:
            dynamic = generated_kernel(call.generator, call.geometry, call.aggregation, eager.similarity)
        if call.aggregation == "unfold":
            y = eager.generalized_unfold(call.x, call.offsets, call.geometry)
        else:
            y = eager.extract(call.x, call.static, dynamic, call.offsets, None, call.geometry, call.combine, call.aggregation)
        asked = [arguments[place] for place, wish in zip(_TENSORS, wanted, strict=True) if wish]
        return torch.autograd.grad(y, asked, gradient, create_graph=True) if asked else []
