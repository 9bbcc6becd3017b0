"""Bands: the weights of windows by their taps, as matrices that a product takes. ``[S, U, R, P]``: see ``pieces.py``."""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.tiles import as_index


@triton.jit
def operand(value, plan):
    """Return values as the matrix units take them.

    Triton's interpreter multiplies a bfloat16 by its bits: there, they are float32 of the same value.
    """
    if plan.dtype == "bfloat16":
        value = value.to(tl.bfloat16)
        if plan.interpreted:
            value = value.to(tl.float32)
    elif plan.dtype == "float16":
        value = value.to(tl.float16)
    return value


@triton.jit
def window_pointers(kernel, start, row, column, group, plan, band):
    """Return the pointers of windows' weights by the first tap: row ``[S]``, group ``[U]``; column and result have the band's axes."""
    by_group = plan.taps if band.packed else kernel.group
    by_column = plan.taps * plan.channel_groups if band.packed else kernel.column
    place = (as_index(row, plan) * kernel.row)[:, None, None, None] + as_index(column, plan) * by_column
    return start + place + (as_index(group, plan) * by_group)[None, :, None, None]


@triton.jit
def tap_place(kernel, tap, plan, band):
    """Return where the weight by a tap lies behind that by the first."""
    return as_index(tap, plan) * (1 if band.packed else kernel.tap)


@triton.jit
def load_weights(kernel, pointers, tap, exist, plan, band):
    """Return the weights of windows by their taps, ``[S, U, R, P]``, 0 where none exist.

    Every weight of a band comes from here: a further factor, or a further term of a kernel that is a sum, belongs into this function.
    """
    return tl.load(pointers + tap_place(kernel, tap, plan, band), mask=exist, other=0.0)


@triton.jit
def as_matrices(weights, plan):
    """Return weights ``[S, U, R, P]`` as operand of a product, ``[S*U, R, P]``."""
    return operand(tl.reshape(weights, [weights.shape[0] * weights.shape[1], weights.shape[2], weights.shape[3]]), plan)
