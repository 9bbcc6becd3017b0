"""What forward and backward share: a thread's buffers, channels into and out of canvases, reading a block's taps."""

# mypy: ignore-errors

from typing import NamedTuple

from unified_extractor.ops.backends.compiled.compilation import inlined
from unified_extractor.ops.backends.compiled.generating import Map, compare, generate
from unified_extractor.ops.backends.compiled.loops import Corners, Taps, fill, find_corners, pack, sample, stage, unpack
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.tables import Numbers, Plan, Space, Table
from unified_extractor.ops.backends.compiled.vectors import laid_out, number, places


class Inputs(NamedTuple):
    """The operator's arguments, and a thread's memory."""

    x: Numbers
    static: Numbers
    """``[blocks, K, L]``; where it mixes channels, as ``mix`` or ``unmix`` take it."""
    dynamic: Numbers
    map: Map
    """What generates the dynamic kernel."""
    offsets: Numbers
    weighed: int
    """1: there is a dynamic kernel, in memory or generated."""
    memory: Numbers
    """As large as ``Plan.space`` says."""
    corners: Table
    """``[K, T]``."""


class Work(NamedTuple):
    """What all steps of a thread need."""

    inputs: Inputs
    plan: Plan
    space: Space
    corners: Corners


@inlined
def begin(inputs, plan):
    """Lay out a thread's buffers."""
    space = laid_out(inputs.memory, plan.space)
    fill(space.image, plan.unit_size * plan.image.size, number(inputs.memory, 0))
    fill(space.keys, plan.generated.unit_heads * plan.generated.key_blocks * plan.image.size, number(inputs.memory, 0))
    fill(space.weights, plan.results * plan.taps * T, number(inputs.memory, 1))
    return Work(inputs, plan, space, Corners(inputs.corners, space.corner_weights, space.beyond))


@inlined
def is_first(group, block, first):
    """Whether the block is the first of its group in a unit."""
    return block == first or group[block] != group[block - 1]


@inlined
def is_last(group, block, last):
    """Whether the block is the last of its group in a unit."""
    return block == last - 1 or group[block] != group[block + 1]


@inlined
def pack_unit(image, work, b, first, last, canvas, layout):
    """Bring the channels of a unit into their canvases."""
    plan = work.plan
    for block in range(first, last):
        plane = b * plan.channels + plan.blocks.channel[block]
        shift = (block - first) * layout.size
        pack(image, plane, plan.blocks.size[block], plan.pixels, canvas, layout.pixels, shift, work.space.edge)


@inlined
def unpack_unit(image, work, b, first, last, canvas, layout):
    """The inverse of ``pack_unit``."""
    plan = work.plan
    for block in range(first, last):
        plane = b * plan.channels + plan.blocks.channel[block]
        shift = (block - first) * layout.size
        unpack(image, plane, plan.blocks.size[block], plan.pixels, canvas, layout.pixels, shift, work.space.edge)


@inlined
def read(work, b, p, block, first):
    """Stage what a block shares with its group, sample if offsets move the taps, and return where the taps are read."""
    plan, space, blocks = work.plan, work.space, work.plan.blocks
    available = plan.positions - p
    if work.inputs.weighed and is_first(blocks.kernel, block, first):
        if plan.generated.depth > 0:
            generate(work, blocks.kernel[block], p)
        elif plan.generated.heads > 0:
            compare(work, b, p, blocks.kernel[block], blocks.kernel[first])
        else:
            group = b * plan.dynamic.groups + blocks.kernel[block]
            stage(work.inputs.dynamic, group, plan.dynamic, p, available, space.weights)
    shift = (block - first) * plan.image.size
    if plan.offsets.groups == 0:
        return Taps(space.image, places(plan.windows, p, shift), plan.taps_at)
    if is_first(blocks.offsets, block, first):
        stage(work.inputs.offsets, b * plan.offsets.groups + blocks.offsets[block], plan.offsets, p, available, space.moves)
        find_corners(space.moves, plan, p, work.corners)
    sample(space.image, shift, plan, work.corners, space.sampled)
    return Taps(space.sampled, places(plan.tile, 0, 0), plan.tile_taps)
