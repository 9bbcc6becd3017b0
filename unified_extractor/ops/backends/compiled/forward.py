"""The compiled forward pass.

An image is packed into a *canvas*, channels last with zeros around, one block of L channels after the other: 64 to 256 KB that stay in
the second cache. A tile of T windows is worked off in registers, tap by tap, with T accumulators; what a tap reads comes from the
canvas or, where offsets move it, from a small buffer of sampled values. Results leave through a transposition in registers.

An *item* is work that shares no sum with any other: the channels of a *unit*, of one image (forward) or of a few (backward, so that
the static kernel's gradient has few partial sums). Where kernels are generated from a feature that several units share, an item has a
*bundle* of these. Every sum has one order, whatever the number of threads.
"""

# mypy: ignore-errors

from typing import NamedTuple

from unified_extractor.ops.backends.compiled.compilation import inlined, kernel
from unified_extractor.ops.backends.compiled.generating import pack_feature, pack_keys
from unified_extractor.ops.backends.compiled.loops import contract, fill, matrix_product, modulate, store_block
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.tables import FOLD, UNFOLD, Numbers, Plan
from unified_extractor.ops.backends.compiled.vectors import gather, lanes, number, places, scatter_add, unpacked
from unified_extractor.ops.backends.compiled.work import Inputs, begin, pack_unit, read, unpack_unit


class Forward(NamedTuple):
    """A call's tensors."""

    inputs: Inputs
    y: Numbers


@kernel
def forward(call, plan, like, start, stop):
    """Write the outputs of items ``start .. stop``; ``call`` and ``plan`` as ``numbers_of`` wrote them, ``like`` a number of the dtype."""
    run_forward(unpacked(call, like, Forward), unpacked(plan, like, Plan), start, stop)


@inlined
def run_forward(call, plan, start, stop):
    """The same with memories instead of addresses."""
    inputs, y = call.inputs, call.y
    work = begin(inputs, plan)
    space = work.space
    for item in range(start, stop):
        b, bundle = divmod(item, plan.bundle_count)
        pack_feature(inputs.map.feature, work, b)
        for unit in range(bundle * plan.bundle, min(plan.unit_count, (bundle + 1) * plan.bundle)):
            first, last = plan.units[unit], plan.units[unit + 1]
            pack_unit(inputs.x, work, b, first, last, space.image, plan.image)
            pack_keys(inputs.map.weight, work, b, plan.blocks.kernel[first])
            fill(space.fold, plan.unit_size * plan.fold.size, number(y, 0))
            for p in range(0, plan.positions, T):
                for block in range(first, last):
                    write_block(y, work, b, p, block, first)
            if plan.mode == FOLD:
                unpack_unit(y, work, b, first, last, space.fold, plan.fold)


@inlined
def write_block(y, work, b, p, block, first):
    """What a block's channels give at T windows."""
    taps = read(work, b, p, block, first)
    if work.plan.mixes:
        mix(y, work, b, p, block, taps)
    elif work.plan.mode == UNFOLD:
        write_taps(y, work, b, p, block, taps)
    else:
        write_sums(y, work, b, p, block, first, taps)


@inlined
def write_taps(y, work, b, p, block, taps):
    """Unfold: write what a block's taps read."""
    plan, blocks = work.plan, work.plan.blocks
    for k in range(plan.taps):
        at = ((b * plan.channels + blocks.channel[block]) * plan.taps + k) * plan.positions + p
        tile = gather(taps.source, taps.places, taps.at[k])
        store_block(y, at, plan.taps * plan.positions, blocks.size[block], plan.positions - p, tile, work.space.edge)


@inlined
def write_sums(y, work, b, p, block, first, taps):
    """Gather or fold: weigh and add a block's taps, each channel alone."""
    plan, space, blocks, K = work.plan, work.space, work.plan.blocks, work.plan.taps
    on_grid = places(plan.windows, p, (block - first) * plan.fold.size)
    for i in range(plan.results):
        tile = contract(taps, K, space.weights, i * K, work.inputs.static, block * K * lanes(y), plan.alone)
        if plan.mode == FOLD:
            scatter_add(space.fold, on_grid, plan.taps_at[i], tile)
        else:
            at = (b * plan.channels + blocks.channel[block]) * plan.positions + p
            store_block(y, at, plan.positions, blocks.size[block], plan.positions - p, tile, space.edge)


@inlined
def mix(y, work, b, p, block, taps):
    """Weigh a block's taps and, once a group's are complete, multiply by the static kernel ``[groups, outputs/L, blocks*K*L, L]``."""
    plan, space, L, depth = work.plan, work.space, lanes(y), work.plan.mix_blocks * work.plan.taps
    member, group = plan.blocks.member[block], plan.blocks.mix[block]
    modulate(taps, plan.taps, space.weights, space.columns, member * plan.taps * T * L)
    if member == plan.mix_blocks - 1:
        for o in range(0, plan.mix_outputs, L):
            start = (group * plan.mix_width + o) * depth * L
            tile = matrix_product(space.columns, depth, work.inputs.static, start)
            at = (b * plan.outputs + group * plan.mix_outputs + o) * plan.positions + p
            store_block(y, at, plan.positions, min(L, plan.mix_outputs - o), plan.positions - p, tile, space.edge)
