"""The rate at which a GPU adds float32 numbers to its memory, the limit of the image's gradient at offsets."""

# mypy: ignore-errors

import torch
import triton
import triton.language as tl

_ROWS, _PIXELS = 128, 2**20
"""Rows of a program, and all rows: 64 MB of 16 numbers each, more than a cache holds."""


@triton.jit
def add_rows(target, pixels, spread: tl.constexpr, rows: tl.constexpr):
    """Add one to 16 neighbors at each of ``rows`` rows: to those of the program, or spread over all memory."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    row = (row * 40503) % pixels if spread else row // 4  # four rows meet at a place, as corners of neighbors do
    pointers = target + row[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.atomic_add(pointers, tl.full([rows, 16], 1.0, tl.float32), sem="relaxed")


def additions() -> dict[str, float]:
    """Return the additions a second, to neighbors and spread over 64 MB."""
    from unified_extractor.profiling.meters import GpuMeter

    meter, target = GpuMeter(), torch.zeros(_PIXELS * 16, device="cuda")
    found = {}
    for name, spread in (("neighbors", False), ("spread", True)):

        def add(spread=spread):
            add_rows[(_PIXELS // _ROWS,)](target, _PIXELS, spread, _ROWS)

        add()
        milliseconds = min(meter.milliseconds(add) for _ in range(10))
        found[name] = round(_PIXELS * 16 / milliseconds * 1000)
    return found
