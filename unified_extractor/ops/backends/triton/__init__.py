"""Triton kernels for NVIDIA GPUs, fused forward and backward: neither columns nor moved images nor composed kernels are written to memory.

Runs every legal call in float32, bfloat16, float16 and float64, with sums in at least float32, in any memory layout; fastest where the
channels of images are neighbours (``torch.channels_last``). Refuses
- tensors that are not on a GPU, except in Triton's interpreter (``TRITON_INTERPRET=1``), which runs the kernels slowly on the CPU,
- PyTorch built for AMD's GPUs, since the kernels' options are those of NVIDIA's compiler and nothing else was tried,
- ``torch.export``, since an exported program must run without this package,
- ``torch.func`` transforms and forward-mode differentiation, for which the operator has no rule.

A convolution without dynamic kernel and offsets is torch's own. A double backward runs the eager backend's formula. The gradient of an
image that offsets read is added up by atomics in float32 or, under ``torch.use_deterministic_algorithms``, sorted by pixel. A fold
whose taps offsets move reads every tap once for each output it has a part in: K times as often as it must.

The first call of every kind compiles its kernels and measures a few configurations (``tuning.py``), kept on disk by Triton. Before a CUDA
graph is captured one call should have run, as torch asks anyway.
"""

from torch import Tensor

from unified_extractor.ops.backends.triton import launch
from unified_extractor.ops.backends.triton.planning import generates
from unified_extractor.ops.custom_ops import Kernels, numbers, registered, split_dynamic
from unified_extractor.ops.geometry import Geometry
from unified_extractor.ops.rewrites import Dynamic, decomposed

__all__ = ["OPERATORS", "extract", "generalized_unfold", "generates", "similarity"]

OPERATORS = registered("triton", Kernels(launch.run, launch.gradients, launch.new_output, launch.new_gradients))


def _product(
    x: Tensor,
    static_kernel: Tensor | None,
    dynamic_kernel: Dynamic,
    offsets: Tensor | None,
    geometry: Geometry,
    aggregation: str,
) -> Tensor:
    dynamic, generator = split_dynamic(dynamic_kernel)
    return OPERATORS.aggregate(x, static_kernel, dynamic, offsets, numbers(geometry), aggregation, "multiply", *generator)


def _combined(
    x: Tensor, static_kernel: Tensor, dynamic_kernel: Dynamic, offsets: Tensor | None, geometry: Geometry, combine: str
) -> Tensor:
    dynamic, generator = split_dynamic(dynamic_kernel)
    return OPERATORS.aggregate(x, static_kernel, dynamic, offsets, numbers(geometry), "gather", combine, *generator)


extract = decomposed(_product, _combined)


def generalized_unfold(x: Tensor, offsets: Tensor | None, geometry: Geometry) -> Tensor:
    """See :func:`unified_extractor.generalized_unfold`; the arguments are checked already."""
    return _product(x, None, None, offsets, geometry, "unfold")


def similarity(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, geometry: Geometry) -> Tensor:
    """See :func:`unified_extractor.ops.functional.similarity`; the arguments are checked already."""
    return OPERATORS.similarity(query, key, offsets, heads, numbers(geometry))
