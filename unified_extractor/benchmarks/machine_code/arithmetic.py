"""Results of the instructions that compute addresses, loop counters and predicates, for the 32 threads of a warp.

Values are arrays ``[32]`` of 64-bit unsigned integers that hold 32 bits each; predicates are arrays ``[32]`` of bool.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.uint64]
Predicate = NDArray[np.bool_]
THREADS = 32
_MASK = np.uint64(0xFFFFFFFF)


def filled(number: int) -> Values:
    """Return the same 32-bit number for all threads."""
    return np.full(THREADS, number & 0xFFFFFFFF, np.uint64)


def low(values: Values) -> Values:
    """Return the lower 32 bits."""
    return values & _MASK


def high(values: Values) -> Values:
    """Return the upper 32 bits."""
    return values >> np.uint64(32)


def pair(lower: Values, upper: Values) -> Values:
    """Return 64-bit numbers from their halves."""
    return lower | upper << np.uint64(32)


def signed(values: Values) -> NDArray[np.int64]:
    """Return 32-bit numbers as signed."""
    return values.astype(np.uint32).view(np.int32).astype(np.int64)


def extended(values: Values) -> Values:
    """Return signed 32-bit numbers as 64-bit numbers."""
    return signed(values).view(np.uint64)


def floats(values: Values) -> NDArray[np.float32]:
    """Return the float32 numbers that have these bits."""
    return values.astype(np.uint32).view(np.float32)


def bits(numbers: NDArray[Any]) -> Values:
    """Return the bits of float32 numbers."""
    return numbers.astype(np.float32).view(np.uint32).astype(np.uint64)


def shifted(values: Values, by: Values, *, left: bool, arithmetic: bool = False) -> Values:
    """Return 64-bit numbers shifted, by 64 at most."""
    step = np.minimum(by, np.uint64(63))
    if left:
        return values << step
    return (values.view(np.int64) >> step.astype(np.int64)).view(np.uint64) if arithmetic else values >> step


def looked_up(table: int, *inputs: Values) -> Values:
    """Return the bitwise function of three inputs whose table of truth has these eight bits."""
    a, b, c = inputs
    result = np.zeros_like(a)
    for entry in range(8):
        if table >> entry & 1:
            chosen = [value if entry >> place & 1 else ~value for place, value in ((2, a), (1, b), (0, c))]
            result |= chosen[0] & chosen[1] & chosen[2]
    return low(result)


def permuted(a: Values, selector: Values, b: Values) -> Values:
    """Return four bytes, each chosen among the eight of a and b by four bits."""
    both, result = pair(a, b), np.zeros_like(a)
    for place in range(4):
        nibble = selector >> np.uint64(4 * place) & np.uint64(0xF)
        byte = both >> (nibble & np.uint64(7)) * np.uint64(8) & np.uint64(0xFF)
        sign = np.where(byte >> np.uint64(7), np.uint64(0xFF), np.uint64(0))
        result |= np.where(nibble & np.uint64(8), sign, byte) << np.uint64(8 * place)
    return result


_COMPARISONS: dict[str, Callable[..., Predicate]] = {
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
}


def compared(modifiers: Sequence[str], a: NDArray, b: NDArray) -> Predicate:
    """Return a comparison, named by the first modifier."""
    return _COMPARISONS[modifiers[0].removesuffix("U")](a, b)


def joined(modifiers: Sequence[str], a: Predicate, b: Predicate) -> Predicate:
    """Return two predicates joined as the modifiers say."""
    return a | b if "OR" in modifiers else a ^ b if "XOR" in modifiers else a & b
