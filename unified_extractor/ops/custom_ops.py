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
from unified_extractor.ops.cost import attention_kernel_multiply_adds, linear_kernel_multiply_adds, multiply_adds
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
    "Tensor x, Tensor? static_kernel, Tensor? dynamic_kernel, Tensor? offsets, Tensor? feature, Tensor? weight, Tensor? bias, "
    "SymInt[] geometry, str aggregation, str combine, float scale, str normalization, SymInt heads"
)
"""The flat arguments of a call. ``feature, weight, bias`` and the last three are a computed kernel's: of attention, ``heads`` of them,
query, keys and position."""
_SCHEMA_BACKWARD = _SCHEMA.replace("SymInt[] geometry", "bool[] wanted, SymInt[] geometry")
_TENSORS = 7
"""The number of tensors among the arguments, which come first, in the order of :class:`Wanted`."""
_NO_KERNEL = (1.0, "none", 0)

Tensors = tuple[Tensor | None, ...]
Rest = tuple[Any, ...]
"""The arguments that are no tensors, the geometry as such. They can be hashed."""


def flattened(call: Call) -> tuple[Any, ...]:
    """Return a call as an operator's arguments; a bias and queries of a similarity are not among them."""
    tensors, rest = _parts(call)
    return (*tensors, *_numbers(rest))


def _parts(call: Call) -> tuple[Tensors, Rest]:
    """Return the tensors of a call, and its rest."""
    assert call.channel_kernel is None, "backends leave it to calls without one"
    kernel, stored = call.dynamic_kernel, None
    sources: Tensors = (None, None, None)
    computed: Rest = _NO_KERNEL
    if isinstance(kernel, LinearKernel):
        sources, computed = kernel[:3], (kernel.scale, kernel.normalization, 0)
    elif isinstance(kernel, AttentionKernel):
        sources, computed = (kernel.query, kernel.key, kernel.position), (1.0, kernel.normalization, kernel.heads)
    else:
        stored = kernel
    tensors = (call.x, call.static_kernel, stored, call.offsets, *sources)
    return tensors, (call.geometry, call.aggregation, call.combine, *computed)


def _numbers(rest: Rest) -> tuple[Any, ...]:
    """Return the rest of a call for torch's dispatcher: its geometry becomes sizes."""
    return tuple([size for pair in value for size in pair] if type(value) is Geometry else value for value in rest)


def _built(tensors: Tensors, rest: Rest) -> Call:
    """Build a call from its parts."""
    (x, static_kernel, kernel, offsets, feature, weight, bias) = tensors
    geometry, aggregation, combine, scale, normalization, heads = rest
    assert x is not None
    dynamic: Any = kernel
    if feature is not None:
        assert weight is not None
        dynamic = (
            AttentionKernel(feature, weight, heads, bias, normalization)
            if heads
            else LinearKernel(feature, weight, bias, scale, normalization)
        )
    return Call(x, static_kernel, dynamic, offsets, None, geometry, aggregation, combine)


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
    direct_aggregate: Callable[[Tensors, Rest], Any]
    """``aggregate`` past torch's dispatcher, which takes longer for so many arguments than a small call computes."""
    direct_similarity: Callable[[Tensors, Rest], Any]
    """``similarity`` past torch's dispatcher."""

    def run(self, call: Call) -> Tensor:
        """Run a call by them, differentiably; it has no bias."""
        if call.aggregation == "similarity":
            kernel = call.dynamic_kernel
            assert isinstance(kernel, AttentionKernel)
            tensors: Tensors = (kernel.query, call.x, call.offsets)
            rest: Rest = (kernel.heads, call.geometry)
            operator, direct = self.similarity, self.direct_similarity
        else:
            tensors, rest = _parts(call)
            operator, direct = self.aggregate, self.direct_aggregate
        result: Tensor = operator(*tensors, *_numbers(rest)) if is_watched(tensors) else direct(tensors, rest)
        return result


def registered(backend: str, passes: Passes) -> Operators:
    """Register a backend's passes as operators under its name."""

    @passes.prepared
    def run_aggregate(tensors: Tensors, rest: Rest) -> Any:
        return passes.forward(_built(tensors, rest))

    @passes.prepared
    def run_backward(tensors: Tensors, rest: Rest) -> Any:
        (gradient, *others), (wanted, *more) = tensors, rest
        assert gradient is not None
        return passes.backward(_built(tuple(others), tuple(more)), gradient, Wanted(*wanted))

    def products(tensors: Tensors, rest: Rest) -> Call:
        (query, key, offsets), (heads, geometry) = tensors, rest
        assert query is not None
        assert key is not None
        return similarity_call(query, key, heads, offsets, geometry)

    @passes.prepared
    def run_similarity(tensors: Tensors, rest: Rest) -> Any:
        query = tensors[0]
        assert query is not None
        return passes.backward(products(tensors, rest), query, _ONLY_DYNAMIC)[0]

    def new_gradients(tensors: Tensors, rest: Rest) -> list[Tensor]:
        return passes.new_gradients(_built(tensors[1:], rest[1:]), Wanted(*rest[0]))

    aggregate = _defined(
        f"{backend}_aggregate",
        f"({_SCHEMA}) -> Tensor",
        run_aggregate,
        lambda tensors, rest: passes.new_output(_built(tensors, rest)),
    )
    aggregate_backward = _defined(
        f"{backend}_aggregate_backward", f"(Tensor gradient, {_SCHEMA_BACKWARD}) -> Tensor[]", run_backward, new_gradients
    )
    similarity = _defined(
        f"{backend}_similarity",
        "(Tensor query, Tensor key, Tensor? offsets, SymInt heads, SymInt[] geometry) -> Tensor",
        run_similarity,
        lambda tensors, rest: passes.new_gradients(products(tensors, rest), _ONLY_DYNAMIC)[0],
    )

    def gradients(
        tensors: Tensors, rest: Rest, wanted: tuple[bool, ...], gradient: Tensor, batched: bool
    ) -> Sequence[Tensor | None]:
        if True not in wanted:
            return [None] * len(wanted)
        if torch.is_grad_enabled():
            return _differentiable_gradients(tensors, rest, wanted, gradient)
        everything = (gradient, *tensors)
        if batched or is_watched(everything):
            found = aggregate_backward(*everything, list(wanted), *_numbers(rest))
        else:
            found = run_backward(everything, (wanted, *rest))
        if False not in wanted:
            return found
        results = iter(found)
        return [next(results) if asked else None for asked in wanted]

    def aggregate_gradients(tensors: Tensors, rest: Rest, asked: tuple[bool, ...], gradient: Tensor) -> Sequence[Tensor | None]:
        return gradients(tensors, rest, asked, gradient, is_batched(gradient))

    def similarity_gradients(tensors: Tensors, rest: Rest, asked: tuple[bool, ...], gradient: Tensor) -> Sequence[Tensor | None]:
        (query, key, offsets), (_, geometry) = tensors, rest
        assert query is not None
        gathered = (key, None, gradient, offsets, None, None, None)
        others = (geometry, "gather", "multiply", *_NO_KERNEL)
        grad_query = aggregate(*gathered, *_numbers(others)) if asked[0] else None
        found = gradients(gathered, others, (asked[1], False, False, asked[2], False, False, False), query, is_batched(gradient))
        return grad_query, found[0], found[3]

    def refused(*_: Any) -> Any:
        raise NotImplementedError(f"{backend}_aggregate_backward has no gradient: its caller differentiates by the eager formula")

    direct_aggregate = _differentiate(aggregate, run_aggregate, aggregate_gradients)
    _differentiate(aggregate_backward, run_backward, refused)
    direct_similarity = _differentiate(similarity, run_similarity, similarity_gradients)
    register_flop_formula(aggregate.overloadpacket)(_aggregate_flops)
    register_flop_formula(aggregate_backward.overloadpacket)(_backward_flops)
    register_flop_formula(similarity.overloadpacket)(_similarity_flops)
    return Operators(aggregate, similarity, direct_aggregate, direct_similarity)


def _defined(name: str, schema: str, run: Callable[[Tensors, Rest], Any], fake: Callable[[Tensors, Rest], Any]) -> Any:
    """Define an operator that runs on every device, and what it returns for fake tensors."""
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    count = _count_of_tensors(getattr(torch.ops.unified_extractor, name).default)
    _LIBRARY.impl(name, lambda *arguments: run(*_apart(arguments, count)), "CompositeExplicitAutograd")
    torch.library.register_fake(f"unified_extractor::{name}", lambda *arguments: fake(*_apart(arguments, count)), lib=_LIBRARY)
    operator = getattr(torch.ops.unified_extractor, name).default
    register_loops(operator, _LIBRARY)
    return operator


def _count_of_tensors(operator: Any) -> int:
    """Return the number of an operator's arguments that are tensors; they come first."""
    return sum("Tensor" in str(argument.type) for argument in operator._schema.arguments)


def _apart(arguments: Sequence[Any], count: int) -> tuple[Tensors, Rest]:
    """Return the tensors among an operator's arguments, and the rest, with sizes made into the geometry."""
    rest = (
        value if not isinstance(value, list | tuple) else tuple(value) if _is_wanted(value) else _geometry(value)
        for value in arguments[count:]
    )
    return tuple(arguments[:count]), tuple(rest)


def _is_wanted(value: Sequence[Any]) -> bool:
    return isinstance(value[0], bool)


Gradients = Callable[[Tensors, Rest, tuple[bool, ...], Tensor], Sequence[Tensor | None]]
"""``(tensors, rest, which tensors' gradients are asked for, output's gradient)`` to a gradient a tensor."""


def _differentiate(
    operator: Any, run_directly: Callable[[Tensors, Rest], Any], gradients: Gradients
) -> Callable[[Tensors, Rest], Any]:
    """Give an operator its gradient, and return a function that does what the operator does past the dispatcher.

    ``torch.library.register_autograd`` does the former, too, and takes twice as long for so many arguments.

    Args:
        operator: the operator.
        run_directly: what it runs.
        gradients: its gradients.
    """
    name, count = operator._schema.name, _count_of_tensors(operator)

    class Differentiated(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, keyset: Any, rest: Rest, *tensors: Tensor | None) -> Any:
            ctx.save_for_backward(*tensors)
            ctx.rest = rest
            result = below(keyset, tensors, rest)
            return tuple(result) if isinstance(result, list) else result

        @staticmethod
        @batched_backward
        def backward(ctx: Any, *gradient: Tensor) -> Any:
            return (None, None, *gradients(ctx.saved_tensors, ctx.rest, ctx.needs_input_grad[2:], *gradient))

    def below(keyset: Any, tensors: Tensors, rest: Rest) -> Any:
        if keyset is None:
            return run_directly(tensors, rest)
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keyset & torch._C._after_autograd_keyset, *tensors, *_numbers(rest))

    def run(keyset: Any, tensors: Tensors, rest: Rest) -> Any:
        if torch.is_grad_enabled():
            for tensor in tensors:
                if tensor is not None and tensor.requires_grad:
                    result = Differentiated.apply(keyset, rest, *tensors)
                    return list(result) if isinstance(result, tuple) else result
        return below(keyset, tensors, rest)

    Differentiated.__name__ = f"{name.split('::')[1]}_backward"
    _LIBRARY.impl(
        name.split("::")[1], lambda keyset, *arguments: run(keyset, *_apart(arguments, count)), "Autograd", with_keyset=True
    )
    return partial(run, None)


def stored(call: Call, passes: Passes) -> Call:
    """Return the call with its kernel computed, by a backend's own products where it is attention's, without autograd."""

    def products(similarity: Call) -> Tensor:
        assert isinstance(similarity.dynamic_kernel, AttentionKernel)
        return passes.backward(similarity, similarity.dynamic_kernel.query, _ONLY_DYNAMIC)[0]

    return with_stored_kernel(call, products)


def backward_with_stored_kernel(call: Call, gradient: Tensor, wanted: Wanted, passes: Passes) -> list[Tensor]:
    """Return the wanted gradients of a call with a computed kernel, by a backend's of calls with the kernel itself, which is recomputed."""
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
    x, static_kernel, dynamic_kernel, offsets, _, weight, _, sizes, aggregation, _, _, _, heads = arguments
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
        one += attention_kernel_multiply_adds(geometry, weight[1]) if heads else linear_kernel_multiply_adds(geometry, *weight)
    return 2 * x[0] * one


def _backward_flops(gradient: Any, *arguments: Any, **_: Any) -> int:
    """Count as torch counts a convolution's backward: once for every gradient that is wanted."""
    return sum(arguments[_TENSORS]) * _aggregate_flops(*arguments[:_TENSORS], *arguments[_TENSORS + 1 :])


def _similarity_flops(query: Any, key: Any, offsets: Any, heads: int, sizes: Sequence[int], **_: Any) -> int:
    return 2 * key[0] * multiply_adds(_geometry(sizes), key[1], results=1, has_offsets=offsets is not None)


def _differentiable_gradients(tensors: Tensors, rest: Rest, wanted: Sequence[bool], gradient: Tensor) -> list[Tensor | None]:
    """Return the gradients by the eager backend's formula, which can be differentiated again."""
    eager = Eager()
    with torch.enable_grad():
        # Aliases: a tensor's own history (a kernel generated from x) must not be walked here, the outer backward does that.
        aliases = tuple(None if tensor is None else tensor.view_as(tensor) for tensor in tensors)
        call = _built(aliases, rest)
        if call.computed_kernel is not None:
            call = with_stored_kernel(call, eager.run)
        leaves = [alias for alias, asked in zip(aliases, wanted, strict=True) if asked]
        found = iter(torch.autograd.grad(eager.run(call), leaves, gradient, create_graph=True))  # type: ignore[arg-type]
        return [next(found) if asked else None for asked in wanted]
