"""Eight taps at once. Where the taps of a window's kernel are neighbours in memory, as behind a generator with channels last, a tile that
is read or written tap by tap touches a line of the cache for every window and tap; eight taps share it.

Eights are pairs with a last axis of eight, split into pairs and joined from them in registers.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.tiles import of_field, precise


@triton.jit
def eight_of(values, start, part, first, windows, channels, group_units, plan):
    """What a field holds at taps ``first .. first + 7``, a pair each."""
    place, exist = of_field(values, part, first, windows, channels, group_units, plan)
    place = tl.expand_dims(place, 2) + tl.arange(0, 8)[None, None, :] * values.tap
    return split_eight(precise(tl.load(start + place, mask=tl.expand_dims(exist, 2), other=0.0)))


@triton.jit
def split_eight(eight):
    """Its pairs."""
    even, odd = tl.split(tl.reshape(eight, [eight.shape[0], eight.shape[1], 2, 2, 2]))
    even_low, even_high = tl.split(even)
    odd_low, odd_high = tl.split(odd)
    v0, v4 = tl.split(even_low)
    v2, v6 = tl.split(even_high)
    v1, v5 = tl.split(odd_low)
    v3, v7 = tl.split(odd_high)
    return v0, v1, v2, v3, v4, v5, v6, v7


@triton.jit
def join_eight(eight):
    """The inverse of :func:`split_eight`."""
    v0, v1, v2, v3, v4, v5, v6, v7 = eight
    even = tl.join(tl.join(v0, v4), tl.join(v2, v6))
    odd = tl.join(tl.join(v1, v5), tl.join(v3, v7))
    return tl.reshape(tl.join(even, odd), [v0.shape[0], v0.shape[1], 8])


@triton.jit
def split_sixteen(sixteen):
    """Two eights, each with a last axis of its own."""
    return tl.split(tl.permute(tl.reshape(sixteen, [sixteen.shape[0], sixteen.shape[1], 2, 8]), (0, 1, 3, 2)))


@triton.jit
def join_sixteen(low, high):
    """The inverse of :func:`split_sixteen`."""
    return tl.reshape(tl.permute(tl.join(low, high), (0, 1, 3, 2)), [low.shape[0], low.shape[1], 16])


@triton.jit
def write_eight(values, start, part, first, windows, channels, group_units, eight, plan):
    """The inverse of :func:`eight_of`."""
    joined = join_eight(eight)
    place, exist = of_field(values, part, first, windows, channels, group_units, plan)
    place = tl.expand_dims(place, 2) + tl.arange(0, 8)[None, None, :] * values.tap
    tl.store(start + place, joined, mask=tl.expand_dims(exist, 2) & (tl.arange(0, 8) < 8)[None, None, :])
