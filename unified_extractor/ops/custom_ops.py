"""Backends as operators of ``torch.library``: they trace with fake tensors, compile without a graph break and differentiate.

An operator takes flat arguments, since torch's dispatcher knows tensors, numbers and text alone; this file is the one place where a
call is flattened and built again. A backward that is itself to be differentiated runs the eager backend's formula.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from unified_extractor.ops.backends.eager import Eager
from unified_extractor.ops.batching import batched_backward, register_loops
from unified_extractor.ops.call import Call, Wanted, similarity_call
from unified_extractor.ops.cost import linear_map_multiply_adds, multiply_adds
from unified_extractor.ops.dynamic_kernels import (
    AttentionKernel,
    LinearKernel,
    linear_map_backward,
    normalized_backward,
    scaled,
)
from unified_extractor.ops.geometry import Geometry
from unified_extractor.ops.rewrites import with_stored_kernel
from unified_extractor.ops.tracing import is_batched, is_watched

_ONLY_DYNAMIC = Wanted(0, 0, 1, 0)
_ONLY_X = Wanted(1, 0, 0, 0)


class Passes(NamedTuple):
    """The passes that a backend brings to be registered."""

    forward: Callable[[Call], Tensor]
    """The output of a call without bias: gather, fold or unfold."""
    backward: Callable[[Call, Tensor, Wanted], list[Tensor]]
    """The wanted gradients, in the order of :class:`Wanted`, from the output's. Of a similarity ``[B, E, Ho, Wo]`` queries stand in
    the place of the output's gradient, and the kernel's gradient is the result."""
    new_output: Callable[[Call], Tensor]
    """The output's shape, dtype and strides, its values not written."""
    new_gradients: Callable[[Call, Wanted], list[Tensor]]
    """The shapes, dtypes and strides of the wanted gradients, their values not written."""
    prepared: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda run: run
    """A function that makes a function of flat arguments faster when it is called again with tensors of the same kind."""


_SCHEMA = (
    "Tensor x, Tensor? static_kernel, Tensor? dynamic_kernel, Tensor? offsets, SymInt[] geometry, str aggregation, str combine, "
    "Tensor? feature, Tensor? weight, Tensor? bias, float scale, str normalization, SymInt heads"
)
"""The flat arguments of a call. The last six are a computed kernel's: of attention, ``heads`` of them, query, keys and position."""
_TENSORS = (0, 1, 2, 3, 7, 8, 9)
"""The places of the tensors among the arguments, in the order of :class:`Wanted`."""
_NO_KERNEL = (None, None, None, 1.0, "none", 0)


def flattened(call: Call) -> tuple[Any, ...]:
    """Return a call as an operator's arguments; a bias and queries of a similarity are not among them."""
    assert call.channel_kernel is None, "backends leave it to calls without one"
    kernel = call.computed_kernel
    if isinstance(kernel, LinearKernel):
        computed: tuple[Any, ...] = (*kernel, 0)
    elif kernel is not None:
        computed = (kernel.query, kernel.key, kernel.position, 1.0, kernel.normalization, kernel.heads)
    else:
        computed = _NO_KERNEL
    sizes = [size for pair in call.geometry for size in pair]
    return (call.x, call.static_kernel, call.stored_kernel, call.offsets, sizes, call.aggregation, call.combine, *computed)


def _built(*arguments: Any) -> Call:
    """Build a call from an operator's arguments."""
    x, static_kernel, kernel, offsets, sizes, aggregation, combine, feature, weight, bias, scale, normalization, heads = arguments
    if feature is not None:
        kernel = (
            AttentionKernel(feature, weight, heads, bias, normalization)
            if heads
            else LinearKernel(feature, weight, bias, scale, normalization)
        )
    return Call(x, static_kernel, kernel, offsets, None, _geometry(sizes), aggregation, combine)


def _geometry(sizes: Sequence[int]) -> Geometry:
    """Return the geometry of an operator's argument."""
    try:
        return _known_geometry(tuple(sizes))
    except TypeError:  # symbolic sizes have no hash
        return _new_geometry(sizes)


def _new_geometry(sizes: Sequence[int]) -> Geometry:
    return Geometry(*zip(sizes[::2], sizes[1::2], strict=True))


_known_geometry = lru_cache(maxsize=4096)(_new_geometry)
"""Each geometry is built once."""


_LIBRARY = torch.library.Library("unified_extractor", "FRAGMENT")


class Operators(NamedTuple):
    """A backend's registered operators."""

    aggregate: Any
    """Gather, fold and unfold: the arguments of :func:`flattened`."""
    similarity: Any
    """``(query, key, offsets, heads, geometry)``: query-key products, the gradient by the dynamic kernel of a gather of the keys."""
    direct_aggregate: Callable[..., Any]
    """``aggregate`` past torch's dispatcher, which takes longer for so many arguments than a small call computes."""
    direct_similarity: Callable[..., Any]
    """``similarity`` past torch's dispatcher."""

    def run(self, call: Call) -> Tensor:
        """Run a call by them, differentiably; it has no bias."""
        arguments: tuple[Any, ...]
        if call.aggregation == "similarity":
            kernel = call.dynamic_kernel
            assert isinstance(kernel, AttentionKernel)
            sizes = [size for pair in call.geometry for size in pair]
            arguments = (kernel.query, call.x, call.offsets, kernel.heads, sizes)
            run = self.similarity if is_watched(arguments) else self.direct_similarity
        else:
            arguments = flattened(call)
            run = self.aggregate if is_watched(arguments) else self.direct_aggregate
        result: Tensor = run(*arguments)
        return result


def registered(backend: str, passes: Passes) -> Operators:
    """Register a backend's passes as operators under its name."""

    @passes.prepared
    def run_aggregate(*arguments: Any) -> Any:
        return passes.forward(_built(*arguments))

    @passes.prepared
    def run_backward(gradient: Tensor, wanted: Sequence[bool], *arguments: Any) -> Any:
        return passes.backward(_built(*arguments), gradient, Wanted(*wanted))

    def products(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, sizes: Sequence[int]) -> Call:
        return similarity_call(query, key, heads, offsets, _geometry(sizes))

    @passes.prepared
    def run_similarity(query: Tensor, *others: Any) -> Any:
        return passes.backward(products(query, *others), query, _ONLY_DYNAMIC)[0]

    aggregate = _defined(
        f"{backend}_aggregate",
        f"({_SCHEMA}) -> Tensor",
        run_aggregate,
        lambda *arguments: passes.new_output(_built(*arguments)),
    )
    aggregate_backward = _defined(
        f"{backend}_aggregate_backward",
        f"(Tensor gradient, bool[] wanted, {_SCHEMA}) -> Tensor[]",
        run_backward,
        lambda gradient, wanted, *arguments: passes.new_gradients(_built(*arguments), Wanted(*wanted)),
    )
    similarity = _defined(
        f"{backend}_similarity",
        "(Tensor query, Tensor key, Tensor? offsets, SymInt heads, SymInt[] geometry) -> Tensor",
        run_similarity,
        lambda query, *others: passes.new_gradients(products(query, *others), _ONLY_DYNAMIC)[0],
    )

    def gradients(arguments: Sequence[Any], wanted: list[bool], gradient: Tensor, batched: bool) -> list[Tensor | None]:
        if not any(wanted):
            return [None] * len(wanted)
        if torch.is_grad_enabled():
            return _differentiable_gradients(arguments, wanted, gradient)
        run = aggregate_backward if batched or is_watched((gradient, *arguments)) else run_backward
        results = iter(run(gradient, wanted, *arguments))
        return [next(results) if asked else None for asked in wanted]

    def aggregate_gradients(tensors: Sequence[Any], rest: Sequence[Any], asked: Sequence[bool], gradient: Tensor) -> Any:
        arguments = [*tensors[:4], *rest[:3], *tensors[4:], *rest[3:]]
        found = gradients(arguments, [asked[place] for place in _TENSORS], gradient, is_batched(gradient))
        return (*found[:4], None, None, None, *found[4:], None, None, None)

    def similarity_gradients(tensors: Sequence[Any], rest: Sequence[Any], asked: Sequence[bool], gradient: Tensor) -> Any:
        (query, key, offsets), (_, sizes) = tensors, rest
        gathered = (key, None, gradient, offsets, sizes, "gather", "multiply", *_NO_KERNEL)
        grad_query = aggregate(*gathered) if asked[0] else None
        wanted = [asked[1], False, False, asked[2], False, False, False]
        found = gradients(gathered, wanted, query, is_batched(gradient))
        return grad_query, found[0], found[3], None, None

    def refused(*_: Any) -> Any:
        raise NotImplementedError(f"{backend}_aggregate_backward has no gradient: its caller differentiates by the eager formula")

    direct_aggregate = _differentiate(aggregate, run_aggregate, _TENSORS, aggregate_gradients)
    _differentiate(aggregate_backward, run_backward, (0, *(2 + place for place in _TENSORS)), refused)
    direct_similarity = _differentiate(similarity, run_similarity, (0, 1, 2), similarity_gradients)
    register_flop_formula(aggregate.overloadpacket)(_aggregate_flops)
    register_flop_formula(aggregate_backward.overloadpacket)(_backward_flops)
    register_flop_formula(similarity.overloadpacket)(_similarity_flops)
    return Operators(aggregate, similarity, direct_aggregate, direct_similarity)


def _defined(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define an operator that runs on every device, and what it returns for fake tensors."""
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"unified_extractor::{name}", fake, lib=_LIBRARY)
    operator = getattr(torch.ops.unified_extractor, name).default
    register_loops(operator, _LIBRARY)
    return operator


Gradients = Callable[..., Any]
"""``(tensors, other arguments, which arguments' gradients are asked for, output's gradient)`` to a gradient an argument."""


def _differentiate(
    operator: Any, run_directly: Callable[..., Any], tensors: Sequence[int], gradients: Gradients
) -> Callable[..., Any]:
    """Give an operator its gradient, and return a function that does what the operator does past the dispatcher.

    ``torch.library.register_autograd`` does the former, too, and takes twice as long for so many arguments.

    Args:
        operator: the operator.
        run_directly: what it runs.
        tensors: the places of the tensors among its arguments.
        gradients: its gradients.
    """
    name = operator._schema.name
    others = [place for place in range(len(operator._schema.arguments)) if place not in tensors]

    class Differentiated(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, keyset: Any, *arguments: Any) -> Any:
            ctx.save_for_backward(*(arguments[place] for place in tensors))
            ctx.rest = [arguments[place] for place in others]
            result = below(keyset, *arguments)
            return tuple(result) if isinstance(result, list) else result

        @staticmethod
        @batched_backward
        def backward(ctx: Any, *gradient: Tensor) -> Any:
            return (None, *gradients(ctx.saved_tensors, ctx.rest, ctx.needs_input_grad[1:], *gradient))

    def below(keyset: Any, *arguments: Any) -> Any:
        if keyset is None:
            return run_directly(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    def run(keyset: Any, *arguments: Any) -> Any:
        differentiates = torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments)
        if not differentiates:
            return below(keyset, *arguments)
        result = Differentiated.apply(keyset, *arguments)
        return list(result) if isinstance(result, tuple) else result

    Differentiated.__name__ = f"{name.split('::')[1]}_backward"
    _LIBRARY.impl(name.split("::")[1], run, "Autograd", with_keyset=True)
    return partial(run, None)


def stored(call: Call, passes: Passes) -> Call:
    """Return the call with its kernel computed, by a backend's own products where it is attention's, without autograd."""

    def products(similarity: Call) -> Tensor:
        assert isinstance(similarity.dynamic_kernel, AttentionKernel)
        return passes.backward(similarity, similarity.dynamic_kernel.query, _ONLY_DYNAMIC)[0]

    return with_stored_kernel(call, products)


def backward_with_stored_kernel(call: Call, gradient: Tensor, wanted: Wanted, passes: Passes) -> list[Tensor]:
    """Return the wanted gradients of a call with a computed kernel, by a backend's of calls with the kernel itself: it is made again."""
    whole, kernel = stored(call, passes), call.computed_kernel
    assert kernel is not None
    assert isinstance(whole.dynamic_kernel, Tensor)
    direct = Wanted(wanted.x, wanted.static_kernel, any(wanted[4:]), wanted.offsets)
    results = dict(zip(_names(direct), passes.backward(whole, gradient, direct), strict=True))
    if direct.dynamic_kernel:
        values = normalized_backward(whole.dynamic_kernel, results.pop("dynamic_kernel"), kernel.normalization)
        if isinstance(kernel, AttentionKernel):
            gathered = Call(kernel.key, None, values, call.offsets, None, call.geometry)
            (grad_key,) = passes.backward(gathered, kernel.query, _ONLY_X)
            grad_position = values.sum((0, 3, 4))
            if kernel.position is not None:
                grad_position = grad_position.to(kernel.position.dtype).view_as(kernel.position)
            computed: tuple[Tensor, ...] = passes.forward(gathered).contiguous(), grad_key.contiguous(), grad_position
        else:
            computed = linear_map_backward(kernel, scaled(values, kernel.scale))
        results |= dict(zip(Wanted._fields[4:], computed, strict=True))
    return [results[name] for name in _names(wanted)]


def new_kernel_gradients(call: Call, wanted: Wanted) -> list[Tensor]:
    """Return the gradients of what a kernel is computed from, as a backend returns them behind all others, not written."""
    tensors = zip(call.kernel_tensors, wanted[4:], strict=True)
    return [t.new_empty(t.shape) for t, asked in tensors if asked and t is not None]


def _names(wanted: Wanted) -> list[str]:
    return [name for name, asked in zip(Wanted._fields, wanted, strict=True) if asked]


def _aggregate_flops(*arguments: Any, **_: Any) -> int:
    """Count for torch's flop counter, which gives shapes in place of tensors and counts a multiply-add as two."""
    x, static_kernel, dynamic_kernel, offsets, sizes, aggregation, _, _, weight, _, _, _, heads = arguments
    geometry, channels = _geometry(sizes), x[1]
    static_outputs = 0 if static_kernel is None else static_kernel[-4] * static_kernel[-3] // channels
    results = 0 if dynamic_kernel is None and weight is None else geometry.taps if aggregation == "fold" else 1
    terms: dict[str, Any] = {}
    if static_kernel is not None and len(static_kernel) == 5:
        is_gate = dynamic_kernel[-3] == 1 < geometry.taps
        results = 0 if is_gate else 1
        terms = {"terms": static_kernel[0], "of_image": dynamic_kernel[-2:] == (1, 1), "gates": channels if is_gate else 0}
    has_offsets = offsets is not None
    one = multiply_adds(geometry, channels, static_outputs=static_outputs, results=results, has_offsets=has_offsets, **terms)
    if weight is not None:
        rows = geometry.taps if heads else weight[0]  # with keys a channel has one product a tap
        one += linear_map_multiply_adds(geometry, rows, weight[1])
    return 2 * x[0] * one


def _backward_flops(gradient: Any, wanted: Any, *arguments: Any, **_: Any) -> int:
    """Count as torch counts a convolution's backward: once for every gradient that is wanted."""
    return sum(wanted) * _aggregate_flops(*arguments)


def _similarity_flops(query: Any, key: Any, offsets: Any, heads: int, sizes: Sequence[int], **_: Any) -> int:
    return 2 * key[0] * multiply_adds(_geometry(sizes), key[1], results=1, has_offsets=offsets is not None)


def _differentiable_gradients(arguments: Sequence[Any], wanted: Sequence[bool], gradient: Tensor) -> list[Tensor | None]:
    """Return the gradients by the eager backend's formula, which can be differentiated again."""
    eager, arguments = Eager(), list(arguments)
    with torch.enable_grad():
        for place in _TENSORS:
            if arguments[place] is not None:
                # An alias: a tensor's own history (a kernel generated from x) must not be walked here, the outer backward does that.
                arguments[place] = arguments[place].view_as(arguments[place])
        call = _built(*arguments)
        if call.computed_kernel is not None:
            call = with_stored_kernel(call, eager.run)
        leaves = [arguments[place] for place, asked in zip(_TENSORS, wanted, strict=True) if asked]
        found = iter(torch.autograd.grad(eager.run(call), leaves, gradient, create_graph=True))
        return [next(found) if asked else None for asked in wanted]
