"""The compiled forward pass.

An image is packed into a *canvas*, channels last with zeros around, one channel block after the other: 64 to 256 KB that stay in the second
cache. A tile of T windows is computed in registers, tap by tap, with T accumulators; taps lie in the canvas or, with offsets, in a small
buffer of bilinear samples. Results leave through a transposition in registers.

A *channel range* holds whole groups of every kind: all channels that share a dynamic kernel, offsets or the outputs of a dense kernel with
any channel of the range. A *work item* adds to no sum of another item: it is a channel range of one image (forward) or of a few (backward,
so that the static kernel's gradient has few partial sums). Where kernels are computed from a feature that several channel ranges share, an
item has a *bundle* of these. Every sum has one order, whatever the number of threads.

b image, p first window of a tile, ``block`` channel block, ``first`` and ``last`` first block of a channel range and of the next.
"""

# mypy: ignore-errors

from typing import NamedTuple

from unified_extractor.ops.backends.compiled.canvas import fill, raster_places, store_block
from unified_extractor.ops.backends.compiled.compilation import inlined, kernel
from unified_extractor.ops.backends.compiled.dynamic_kernel import pack_feature, pack_keys
from unified_extractor.ops.backends.compiled.plan import FOLD, UNFOLD, Numbers, Plan
from unified_extractor.ops.backends.compiled.records import read_record
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.taps import matrix_product, store_weighted_taps, sum_taps
from unified_extractor.ops.backends.compiled.vectors import add_at, as_number, lanes, load_at
from unified_extractor.ops.backends.compiled.workspace import Inputs, begin, pack_range, prepare_taps, unpack_range


class Forward(NamedTuple):
    """The tensors of a forward pass."""

    inputs: Inputs
    y: Numbers


@kernel
def forward(call, plan, like, start, stop):
    """Write the outputs of work items ``start`` to ``stop``.

    Args:
        call: a :class:`Forward`, by ``flat_record``.
        plan: a :class:`Plan`, by ``flat_record``.
        like: a number of the call's dtype.
        start, stop: the range of items.
    """
    forward_items(read_record(call, like, Forward), read_record(plan, like, Plan), start, stop)


@inlined
def forward_items(call, plan, start, stop):
    """Write the outputs of work items ``start`` to ``stop`` of the records."""
    inputs, y = call.inputs, call.y
    workspace = begin(inputs, plan)
    buffers = workspace.buffers
    for item in range(start, stop):
        b, bundle = divmod(item, plan.bundle_count)
        pack_feature(inputs.kernel_tensors.feature, workspace, b)
        for channel_range in range(bundle * plan.bundle, min(plan.range_count, (bundle + 1) * plan.bundle)):
            first, last = plan.channel_ranges[channel_range], plan.channel_ranges[channel_range + 1]
            pack_range(inputs.x, workspace, b, first, last, buffers.image, plan.image)
            pack_keys(inputs.kernel_tensors.weight, workspace, b, plan.blocks.kernel_group[first])
            fill(buffers.fold, plan.range_size * plan.fold.size, as_number(y, 0))
            for p in range(0, plan.positions, T):
                for block in range(first, last):
                    block_forward(y, workspace, b, p, block, first)
            if plan.aggregation == FOLD:
                unpack_range(y, workspace, b, first, last, buffers.fold, plan.fold)


@inlined
def block_forward(y, workspace, b, p, block, first):
    """Write the outputs of a block's channels at T windows."""
    taps = prepare_taps(workspace, b, p, block, first)
    if workspace.plan.dense_groups:
        dense_forward(y, workspace, b, p, block, taps)
    elif workspace.plan.aggregation == UNFOLD:
        unfold_forward(y, workspace, b, p, block, taps)
    else:
        depthwise_forward(y, workspace, b, p, block, first, taps)


@inlined
def unfold_forward(y, workspace, b, p, block, taps):
    """Write the taps of a block as they are: unfold."""
    plan, blocks = workspace.plan, workspace.plan.blocks
    for k in range(plan.taps):
        at = ((b * plan.channels + blocks.channel[block]) * plan.taps + k) * plan.positions + p
        tile = load_at(taps.source, taps.places, taps.shifts[k])
        store_block(y, at, plan.taps * plan.positions, blocks.size[block], plan.positions - p, tile, workspace.buffers.edge)


@inlined
def depthwise_forward(y, workspace, b, p, block, first, taps):
    """Write the weighted sums of a block's taps, channel by channel: gather or fold, with a depthwise static kernel or none."""
    plan, buffers, blocks, K = workspace.plan, workspace.buffers, workspace.plan.blocks, workspace.plan.taps
    on_grid = raster_places(plan.windows, p, (block - first) * plan.fold.size)
    for i in range(plan.results):
        tile = sum_taps(taps, K, buffers.weights, i * K, workspace.inputs.static_kernel, block * K * lanes(y), plan.depthwise)
        if plan.aggregation == FOLD:
            add_at(buffers.fold, on_grid, plan.tap_shifts[i], tile)
        else:
            at = (b * plan.channels + blocks.channel[block]) * plan.positions + p
            store_block(y, at, plan.positions, blocks.size[block], plan.positions - p, tile, buffers.edge)


@inlined
def dense_forward(y, workspace, b, p, block, taps):
    """Weight a block\'s taps by the dynamic kernel and, with a group\'s last block, multiply the group\'s by the static kernel.

    The static kernel is ``[groups, outputs/L, blocks*K*L, L]``.
    """
    plan, buffers, L, depth = workspace.plan, workspace.buffers, lanes(y), workspace.plan.dense_blocks * workspace.plan.taps
    dense_block, group = plan.blocks.dense_block[block], plan.blocks.dense_group[block]
    store_weighted_taps(taps, plan.taps, buffers.weights, buffers.columns, dense_block * plan.taps * T * L)
    if dense_block == plan.dense_blocks - 1:
        for o in range(0, plan.dense_outputs, L):
            start = (group * plan.padded_outputs + o) * depth * L
            tile = matrix_product(buffers.columns, depth, workspace.inputs.static_kernel, start)
            at = (b * plan.outputs + group * plan.dense_outputs + o) * plan.positions + p
            store_block(y, at, plan.positions, min(L, plan.dense_outputs - o), plan.positions - p, tile, buffers.edge)
