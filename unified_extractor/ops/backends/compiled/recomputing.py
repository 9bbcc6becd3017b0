"""The rule by which the loops compute a dynamic kernel themselves. It needs no Numba: the choice is made before it is loaded."""

from unified_extractor.ops.call import Call
from unified_extractor.ops.cost import kernel_multiply_adds, use_multiply_adds
from unified_extractor.ops.dynamic_kernels import AttentionKernel

MOST_WORK = 2
"""Multiply-adds that compute a kernel, for each in which it is used, up to which the loops are faster than a matrix product before them.

Measured in ``benchmarks/kernel_memory.md`` with involution, outlook attention and deformable convolution at the sizes of the
published networks.
"""


def is_possible_in_loops(call: Call) -> bool:
    """Return whether the loops can compute the kernel of this call: attention samples its keys on the regular grid."""
    return call.offsets is None or not isinstance(call.computed_kernel, AttentionKernel)


def pays_in_loops(call: Call) -> bool:
    """Return whether that is faster than computing the kernel first, by a matrix product."""
    kernel = call.computed_kernel
    assert kernel is not None
    return kernel_multiply_adds(kernel, call.geometry) <= MOST_WORK * use_multiply_adds(call)
