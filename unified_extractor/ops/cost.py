"""What the operator costs, by formula, whatever backend or shortcut runs."""

from unified_extractor.ops.geometry import Geometry


def multiply_adds(geometry: Geometry, channels: int, *, static_outputs: int = 0, results: int = 0, moved: bool = False) -> int:
    """Multiply-adds of the operator on one image: so many for every tap of every window and channel.

    Args:
        window: the geometry.
        channels: C.
        static_outputs: outputs that a channel reaches through the static kernel: O/groups, 1 for a depthwise one, 0 without one.
        results: products with the dynamic kernel: 1 for gather, K for fold, 0 without one.
        moved: offsets move the taps: a bilinear read costs 4.
    """
    reads = channels * geometry.taps * geometry.output[0] * geometry.output[1]
    return reads * (static_outputs + results + 4 * moved)
