"""Loops for the CPU, compiled by Numba on first use and kept on disk. No compiler, no build.

Runs everything, float32 and float64; half precision is computed in float32. Refuses
- tensors that are not on the CPU,
- ``torch.func`` transforms and forward-mode differentiation, for which the operator has no rule.

A double backward runs the eager backend's formula. Channels of a group are worked off in blocks of 16 (float32, AVX-512; 8 with AVX2),
so groups of fewer channels leave lanes idle; where that makes it slower than the eager backend, it is not chosen by itself.
"""

from torch import Tensor

from unified_extractor.ops.backends.compiled import launch
from unified_extractor.ops.backends.compiled.maps import generates
from unified_extractor.ops.custom_ops import Kernels, numbers, registered, split_dynamic
from unified_extractor.ops.geometry import Geometry, precision
from unified_extractor.ops.rewrites import Dynamic, decomposed

__all__ = ["OPERATORS", "extract", "generalized_unfold", "generates", "similarity"]

OPERATORS = registered("compiled", Kernels(launch.run, launch.gradients, launch.new_output, launch.new_gradients))


def _product(
    x: Tensor,
    static_kernel: Tensor | None,
    dynamic_kernel: Dynamic,
    offsets: Tensor | None,
    geometry: Geometry,
    aggregation: str,
) -> Tensor:
    dynamic, generator = split_dynamic(dynamic_kernel)
    tensors = (_full(tensor, x) for tensor in (x, static_kernel, dynamic, offsets))
    made_from = (_full(value, x) if isinstance(value, Tensor) else value for value in generator)
    return OPERATORS.aggregate(*tensors, numbers(geometry), aggregation, "multiply", *made_from).to(x.dtype)


extract = decomposed(_product)


def generalized_unfold(x: Tensor, offsets: Tensor | None, geometry: Geometry) -> Tensor:
    """See :func:`unified_extractor.generalized_unfold`; the arguments are checked already."""
    return _product(x, None, None, offsets, geometry, "unfold")


def similarity(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, geometry: Geometry) -> Tensor:
    """See :func:`unified_extractor.ops.functional.similarity`; the arguments are checked already."""
    query_, key_, offsets_ = (_full(tensor, key) for tensor in (query, key, offsets))
    return OPERATORS.similarity(query_, key_, offsets_, heads, numbers(geometry)).to(key.dtype)


def _full(tensor: Tensor | None, x: Tensor) -> Tensor | None:
    """In at least float32."""
    return None if tensor is None else tensor.to(precision(x))
