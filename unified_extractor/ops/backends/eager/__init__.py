"""Pure torch, runs and exports everywhere. Refuses nothing.

The sums run over taps, so the columns ``[B, C, K, P]`` never exist: a tap on the regular grid is a view of the padded image, a
moved tap is read again in backward. Gradients are written in differentiable torch operations, hence double backward works.
``torch.func.jvp`` and ``vmap`` raise. An exported program has the columns, and few operations.
"""

from torch import Tensor

from unified_extractor.ops.autocast import is_recorded
from unified_extractor.ops.backends.eager import columns
from unified_extractor.ops.backends.eager.sums import Sample, TapProducts, TapSum
from unified_extractor.ops.fold_as_gather import compose_fold, composed_geometry, composing_is_cheaper
from unified_extractor.ops.geometry import Geometry
from unified_extractor.ops.rewrites import decomposed


def _product(
    x: Tensor,
    static_kernel: Tensor | None,
    dynamic_kernel: Tensor | None,
    offsets: Tensor | None,
    geometry: Geometry,
    aggregation: str,
) -> Tensor:
    if is_recorded():
        return columns.product(x, static_kernel, dynamic_kernel, offsets, geometry, aggregation)
    if aggregation == "fold" and static_kernel is None and offsets is None and dynamic_kernel is not None:
        per_position = dynamic_kernel.shape[-2:] == geometry.output  # a kernel of the whole image is never expanded
        if per_position and composing_is_cheaper(geometry, channels=x.shape[1], groups=dynamic_kernel.shape[1]):
            dynamic_kernel = compose_fold(dynamic_kernel, geometry)
            geometry, aggregation = composed_geometry(geometry), "gather"
    return TapSum.apply(x, static_kernel, dynamic_kernel, offsets, geometry, aggregation == "fold")


extract = decomposed(_product)


def generalized_unfold(x: Tensor, offsets: Tensor | None, geometry: Geometry) -> Tensor:
    """See :func:`unified_extractor.generalized_unfold`; the arguments are checked already."""
    if offsets is None or is_recorded():
        return columns.columns(x, offsets, geometry)
    return Sample.apply(x, offsets, geometry)


def similarity(query: Tensor, key: Tensor, offsets: Tensor | None, heads: int, geometry: Geometry) -> Tensor:
    """See :func:`unified_extractor.ops.functional.similarity`; the arguments are checked already."""
    if is_recorded():
        return columns.similarity(query, key, offsets, heads, geometry)
    return TapProducts.apply(query, key, offsets, heads, geometry)
