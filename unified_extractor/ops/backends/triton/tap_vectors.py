"""Eight taps of a kernel at once, where the taps of a window are neighbors in memory, as behind a convolution with channels last.

A tile that is read or written tap by tap touches a line of the cache for every window and tap; eight taps share it. A vector of taps is a
group tile with a last axis of eight, which registers split into eight group tiles or join from them.
"""

# mypy: ignore-errors

import triton
import triton.language as tl

from unified_extractor.ops.backends.triton.tiles import group_addresses, precise


@triton.jit
def load_eight_taps(values, start, component, first, windows, channels, groups_sharing, plan):
    """Return the values of taps ``first .. first + 7``, a group tile each."""
    place, exist = group_addresses(values, component, first, windows, channels, groups_sharing, plan)
    place = tl.expand_dims(place, 2) + tl.arange(0, 8)[None, None, :] * values.tap
    return split_eight(precise(tl.load(start + place, mask=tl.expand_dims(exist, 2), other=0.0)))


@triton.jit
def split_eight(vector):
    """Return the eight group tiles of a vector of taps."""
    even, odd = tl.split(tl.reshape(vector, [vector.shape[0], vector.shape[1], 2, 2, 2]))
    even_low, even_high = tl.split(even)
    odd_low, odd_high = tl.split(odd)
    v0, v4 = tl.split(even_low)
    v2, v6 = tl.split(even_high)
    v1, v5 = tl.split(odd_low)
    v3, v7 = tl.split(odd_high)
    return v0, v1, v2, v3, v4, v5, v6, v7


@triton.jit
def join_eight(group_tiles):
    """Return the vector of taps that :func:`split_eight` splits into these group tiles."""
    v0, v1, v2, v3, v4, v5, v6, v7 = group_tiles
    even = tl.join(tl.join(v0, v4), tl.join(v2, v6))
    odd = tl.join(tl.join(v1, v5), tl.join(v3, v7))
    return tl.reshape(tl.join(even, odd), [v0.shape[0], v0.shape[1], 8])


@triton.jit
def store_eight_taps(values, start, component, first, windows, channels, groups_sharing, group_tiles, plan):
    """Write eight group tiles where :func:`load_eight_taps` would read them."""
    joined = join_eight(group_tiles)
    place, exist = group_addresses(values, component, first, windows, channels, groups_sharing, plan)
    place = tl.expand_dims(place, 2) + tl.arange(0, 8)[None, None, :] * values.tap
    tl.store(start + place, joined, mask=tl.expand_dims(exist, 2) & (tl.arange(0, 8) < 8)[None, None, :])
