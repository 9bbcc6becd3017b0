"""Chunks of the batch: a chunk's dynamic kernel, where it is computed, is a tensor that is used while it lies in the second-level cache.

The kernels of this package run on it as on any stored kernel, and its memory serves the next chunk. The dynamic kernel of a whole batch is
never in memory.
"""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from unified_extractor.ops.call import Call, Wanted
from unified_extractor.ops.custom_ops import Passes, backward_with_stored_kernel, stored
from unified_extractor.ops.dynamic_kernels import AttentionKernel
from unified_extractor.ops.geometry import precision

CHUNK_BYTES = 24 * 2**20
"""Bytes of what a chunk keeps in the cache at most, if not that of one image: half of an H100's second-level cache of 50 MB."""


def chunks(call: Call) -> Iterator[slice]:
    """Return the images of each chunk whose dynamic kernels stay in the cache."""
    batch, *of_an_image = call.kernel_shape()
    return chunks_of(batch, prod(of_an_image) * call.x.element_size())


def chunks_of(batch: int, of_an_image: int) -> Iterator[slice]:
    """Yield the images of each chunk of a batch, as equal in number as can be, from the bytes that an image keeps in the cache."""
    most = max(CHUNK_BYTES // max(of_an_image, 1), 1)
    count = -(-batch // most)
    for i in range(count):
        yield slice(batch * i // count, batch * (i + 1) // count)


def chunk_of(call: Call, images: slice) -> Call:
    """Return the call of some images of the batch."""
    kernel, offsets = call.computed_kernel, None if call.offsets is None else call.offsets[images]
    if isinstance(kernel, AttentionKernel):
        kernel = kernel._replace(query=kernel.query[images], key=kernel.key[images])
    elif kernel is not None:
        kernel = kernel._replace(feature=kernel.feature[images])
    elif call.stored_kernel is not None:
        return call._replace(x=call.x[images], dynamic_kernel=call.stored_kernel[images], offsets=offsets)
    return call._replace(x=call.x[images], dynamic_kernel=kernel, offsets=offsets)


def forward_in_chunks(call: Call, passes: Passes) -> Tensor:
    """Return the output of a call with a computed kernel."""
    y = passes.new_output(call)
    for images in chunks(call):
        y[images] = passes.forward(stored(chunk_of(call, images), passes))
    return y


def backward_in_chunks(call: Call, grad_y: Tensor, wanted: Wanted, passes: Passes) -> list[Tensor]:
    """Return the wanted gradients of a call with a computed kernel; those that all images share are added up in float32."""
    parts = list(chunks(call))
    if len(parts) == 1:
        return backward_with_stored_kernel(call, grad_y, wanted, passes)
    shared = {"static_kernel", "bias"} | (set() if isinstance(call.computed_kernel, AttentionKernel) else {"weight"})
    names = [name for name, asked in zip(Wanted._fields, wanted, strict=True) if asked]
    results = dict(zip(names, passes.new_gradients(call, wanted), strict=True))
    sums = {name: torch.zeros_like(results[name], dtype=precision(call.x)) for name in shared & set(names)}
    for images in parts:
        found = backward_with_stored_kernel(chunk_of(call, images), grad_y[images], wanted, passes)
        for name, gradient in zip(names, found, strict=True):
            if name in sums:
                sums[name] += gradient
            else:
                results[name][images] = gradient
    for name, total in sums.items():
        results[name].copy_(total)
    return list(results.values())
