"""What a tap is weighed by: both kernels', the dynamic one read from memory or generated."""

# mypy: ignore-errors

import triton
import triton.language as tl  # noqa: F401  # the interpreter looks for it in every module of kernels

from unified_extractor.ops.backends.triton.eights import eight_of, split_eight, split_sixteen
from unified_extractor.ops.backends.triton.generating import as_pairs, feature_at, kernel_at, kernels_at
from unified_extractor.ops.backends.triton.tiles import field, weighed


@triton.jit
def weighted(value, static, dynamic, start, part, tap, static_tap, windows, channels, plan):
    """A tile times the weights of both kernels at a tap."""
    if not plan.dynamic:
        kernel = 1.0
    elif plan.depth > 0:
        kernel = kernel_at(dynamic, start, tap, windows, channels, plan)
    else:
        kernel = field(dynamic, start, part, tap, windows, channels, plan.kernel_units, plan)
    return weighed(value, kernel, static, static_tap, channels, plan)


@triton.jit
def feature_of(dynamic, start, windows, plan):
    """What a tile's kernels are generated from, once for all taps; nothing where they lie in memory."""
    return feature_at(dynamic, start, windows, plan) if plan.depth > 0 else 0


@triton.jit
def eight_weights(dynamic, feature, start, first, windows, channels, plan):
    """The dynamic kernel's at taps ``first .. first + 7``, a pair each."""
    if plan.depth > 0:
        eight = split_eight(as_pairs(kernels_at(dynamic, feature, first, channels, 8, plan), 8, plan))
    else:
        eight = eight_of(dynamic, start, 0, first, windows, channels, plan.kernel_units, plan)
    return eight


@triton.jit
def sixteen_weights(dynamic, feature, channels, plan):
    """A generated kernel of at most sixteen taps: two eights."""
    pairs = as_pairs(kernels_at(dynamic, feature, 0, channels, 16, plan), 16, plan)
    low, high = split_sixteen(pairs)
    return split_eight(low), split_eight(high)
