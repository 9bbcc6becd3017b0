"""The compiled backward pass: the gradients of every step of ``forward.py``. Bilinear samples are recomputed, not saved for it.

Letters and words are those of ``forward.py``; ``partial`` is the number of a partial sum.
"""

# mypy: ignore-errors

from typing import NamedTuple

from unified_extractor.ops.backends.compiled.bilinear import add_corner_products, offsets_backward, sample_backward
from unified_extractor.ops.backends.compiled.canvas import fill, load_block, raster_places, stage_backward
from unified_extractor.ops.backends.compiled.compilation import inlined, kernel
from unified_extractor.ops.backends.compiled.dynamic_kernel import (
    KernelGradients,
    attention_kernel_backward,
    linear_kernel_backward,
    pack_feature,
    pack_keys,
    unpack_feature,
    unpack_keys,
)
from unified_extractor.ops.backends.compiled.plan import FOLD, UNFOLD, Numbers, Plan
from unified_extractor.ops.backends.compiled.records import read_record
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.taps import (
    Taps,
    add_grad_static_kernel,
    add_outer_products,
    add_tap_products,
    matrix_product,
    scatter_taps,
)
from unified_extractor.ops.backends.compiled.vectors import (
    add_at,
    add_channels,
    as_number,
    lanes,
    load_at,
    multiply,
    multiply_add_at,
    per_position,
    store_tile,
)
from unified_extractor.ops.backends.compiled.workspace import (
    Inputs,
    begin,
    is_first,
    is_last,
    pack_range,
    prepare_taps,
    unpack_range,
)
from unified_extractor.ops.call import Wanted


class Gradients(NamedTuple):
    """The gradients of a call; that of the static kernel in partial sums, laid out as in forward."""

    x: Numbers
    static_kernel: Numbers
    dynamic_kernel: Numbers
    offsets: Numbers
    kernel_tensors: KernelGradients


class Backward(NamedTuple):
    """The tensors of a backward pass, and the gradients that are wanted."""

    inputs: Inputs
    grad_y: Numbers
    gradients: Gradients
    wanted: Wanted
    """``dynamic`` is also set where the kernel is computed and the gradient of anything that it is computed from is wanted."""
    images: int
    """Images of a work item."""


@kernel
def backward(call, plan, like, start, stop):
    """Write the wanted gradients of work items ``start`` to ``stop``, each a bundle of a few images.

    Args:
        call: a :class:`Backward`, by ``flat_record``.
        plan: a :class:`Plan`, by ``flat_record``.
        like: a number of the call's dtype.
        start, stop: the range of items.
    """
    backward_items(read_record(call, like, Backward), read_record(plan, like, Plan), start, stop)


@inlined
def backward_items(call, plan, start, stop):
    """Write the wanted gradients of work items ``start`` to ``stop`` of the records."""
    inputs, grad_y, gradients, wanted, images = call.inputs, call.grad_y, call.gradients, call.wanted, call.images
    workspace = begin(inputs, plan)
    buffers = workspace.buffers
    for item in range(start, stop):
        partial, bundle = divmod(item, plan.bundle_count)
        for b in range(partial * images, min(plan.batch, (partial + 1) * images)):
            pack_feature(inputs.kernel_tensors.feature, workspace, b)
            fill(buffers.grad_feature, plan.computed.size, as_number(grad_y, 0))
            for channel_range in range(bundle * plan.bundle, min(plan.range_count, (bundle + 1) * plan.bundle)):
                range_backward(grad_y, gradients, wanted, workspace, partial, b, channel_range)
            if wanted.feature:
                unpack_feature(gradients.kernel_tensors.feature, workspace, bundle * plan.batch + b)


@inlined
def range_backward(grad_y, gradients, wanted, workspace, partial, b, channel_range):
    """Write the wanted gradients of a channel range of an image."""
    plan, buffers = workspace.plan, workspace.buffers
    first, last = plan.channel_ranges[channel_range], plan.channel_ranges[channel_range + 1]
    pack_range(workspace.inputs.x, workspace, b, first, last, buffers.image, plan.image)
    pack_keys(workspace.inputs.kernel_tensors.weight, workspace, b, plan.blocks.kernel_group[first])
    fill(buffers.grad_keys, plan.computed.range_heads * plan.computed.key_blocks * plan.image.size, as_number(grad_y, 0))
    fill(buffers.grad_image, plan.range_size * plan.image.size, as_number(grad_y, 0))
    if plan.aggregation == FOLD:
        fill(buffers.fold, plan.range_size * plan.fold.size, as_number(grad_y, 0))
        pack_range(grad_y, workspace, b, first, last, buffers.fold, plan.fold)
    for p in range(0, plan.positions, T):
        for block in range(first, last):
            block_backward(grad_y, gradients, wanted, workspace, partial, b, p, block, first, last)
    if wanted.x:
        unpack_range(gradients.x, workspace, b, first, last, buffers.grad_image, plan.image)
    if wanted.weight:
        unpack_keys(gradients.kernel_tensors.weight, workspace, b, plan.blocks.kernel_group[first])


@inlined
def block_backward(grad_y, gradients, wanted, workspace, partial, b, p, block, first, last):
    """Add the wanted gradients of a block at T windows; those of a group's kernel and offsets are written with its last block."""
    plan, buffers, blocks = workspace.plan, workspace.buffers, workspace.plan.blocks
    taps = prepare_taps(workspace, b, p, block, first)
    grad_taps = taps_for_gradients(workspace, taps)
    zero = as_number(grad_y, 0)
    if is_first(blocks.kernel_group, block, first):
        fill(buffers.grad_weights, plan.results * plan.taps * T, zero)
    if is_first(blocks.offset_group, block, first):
        fill(buffers.corner_products, 4 * plan.taps * T, zero)
    if plan.dense_groups:
        dense_backward(grad_y, gradients, wanted, workspace, partial, b, p, block, first, taps, grad_taps)
    elif plan.aggregation == UNFOLD:
        unfold_backward(grad_y, workspace, b, p, block, grad_taps)
    else:
        depthwise_backward(grad_y, gradients, wanted, workspace, partial, b, p, block, first, taps, grad_taps)
    sampled_taps_backward(gradients, wanted, workspace, b, p, block, first, last)
    if wanted.dynamic_kernel and is_last(blocks.kernel_group, block, last):
        if plan.computed.depth > 0:
            linear_kernel_backward(workspace, gradients.kernel_tensors, wanted, partial, blocks.kernel_group[block], p)
        elif plan.computed.heads > 0:
            head, first_head = blocks.kernel_group[block], blocks.kernel_group[first]
            attention_kernel_backward(workspace, gradients.kernel_tensors, wanted, partial, b, p, head, first_head)
        else:
            group = b * plan.dynamic_kernel.groups + blocks.kernel_group[block]
            stage_backward(gradients.dynamic_kernel, group, plan.dynamic_kernel, p, plan.positions - p, buffers.grad_weights)


@inlined
def taps_for_gradients(workspace, taps):
    """Return where the gradients of the taps are added: in the image's, or with offsets in a buffer of zeros for the samples'."""
    plan, buffers = workspace.plan, workspace.buffers
    if plan.offsets.groups == 0:
        return Taps(buffers.grad_image, taps.places, taps.shifts)
    fill(buffers.grad_sampled, plan.taps * T * lanes(buffers.grad_sampled), as_number(buffers.grad_sampled, 0))
    return Taps(buffers.grad_sampled, taps.places, taps.shifts)


@inlined
def sampled_taps_backward(gradients, wanted, workspace, b, p, block, first, last):
    """Add the gradients of the image and the offsets from that of a block's bilinear samples, where there are offsets."""
    plan, buffers, blocks = workspace.plan, workspace.buffers, workspace.plan.blocks
    if plan.offsets.groups:
        shift = (block - first) * plan.image.size
        if wanted.x:
            sample_backward(buffers.grad_image, shift, plan, workspace.corners, buffers.grad_sampled)
        if wanted.offsets:
            add_corner_products(buffers.image, shift, plan, workspace.corners, buffers.grad_sampled, buffers.corner_products)
            if is_last(blocks.offset_group, block, last):
                offsets_backward(plan, workspace.corners, buffers.corner_products, buffers.grad_offsets)
                group = b * plan.offsets.groups + blocks.offset_group[block]
                stage_backward(gradients.offsets, group, plan.offsets, p, plan.positions - p, buffers.grad_offsets)


@inlined
def unfold_backward(grad_y, workspace, b, p, block, grad_taps):
    """Add the gradient of the taps that ``unfold_forward`` wrote."""
    plan, blocks = workspace.plan, workspace.plan.blocks
    for k in range(plan.taps):
        at = ((b * plan.channels + blocks.channel[block]) * plan.taps + k) * plan.positions + p
        tile = load_block(grad_y, at, plan.taps * plan.positions, blocks.size[block], plan.positions - p, workspace.buffers.edge)
        add_at(grad_taps.source, grad_taps.places, grad_taps.shifts[k], tile)


@inlined
def depthwise_backward(grad_y, gradients, wanted, workspace, partial, b, p, block, first, taps, grad_taps):
    """Add the gradients of the sums that ``depthwise_forward`` wrote."""
    plan, buffers, blocks, K = workspace.plan, workspace.buffers, workspace.plan.blocks, workspace.plan.taps
    static_kernel, lane = workspace.inputs.static_kernel, block * K * lanes(grad_y)
    on_grid = raster_places(plan.windows, p, (block - first) * plan.fold.size)
    for i in range(plan.results):
        if plan.aggregation == FOLD:
            tile = load_at(buffers.fold, on_grid, plan.tap_shifts[i])
        else:
            at = (b * plan.channels + blocks.channel[block]) * plan.positions + p
            tile = load_block(grad_y, at, plan.positions, blocks.size[block], plan.positions - p, buffers.edge)
        if wanted.dynamic_kernel:
            add_tap_products(taps, K, tile, static_kernel, lane, plan.depthwise, buffers.grad_weights, i * K)
        if wanted.x or wanted.offsets:
            scatter_taps(grad_taps, K, buffers.weights, i * K, tile, static_kernel, lane, plan.depthwise)
        if wanted.static_kernel:
            at = partial * plan.block_count * K * lanes(grad_y) + lane
            add_grad_static_kernel(taps, K, buffers.weights, i * K, tile, gradients.static_kernel, at)


@inlined
def dense_backward(grad_y, gradients, wanted, workspace, partial, b, p, block, first, taps, grad_taps):
    """Add the gradients of the products that ``dense_forward`` wrote; the static kernel is ``[groups, blocks*K, outputs, L]``."""
    plan, buffers, L, K = workspace.plan, workspace.buffers, lanes(grad_y), workspace.plan.taps
    depth, group, width = plan.dense_blocks * K * L, plan.blocks.dense_group[block], plan.padded_outputs
    if is_first(plan.blocks.dense_group, block, first):
        for o in range(0, plan.dense_outputs, L):
            at = (b * plan.outputs + group * plan.dense_outputs + o) * plan.positions + p
            count = min(L, plan.dense_outputs - o)
            store_tile(
                buffers.grad_outputs, o * T, load_block(grad_y, at, plan.positions, count, plan.positions - p, buffers.edge)
            )
    for k in range(K):
        row = (plan.blocks.dense_block[block] * K + k) * L
        tap, weight = load_at(taps.source, taps.places, taps.shifts[k]), per_position(buffers.weights, k * T, 1)
        if wanted.static_kernel:
            store_tile(buffers.weighted, 0, multiply(weight, tap))
            at = ((partial * plan.dense_groups + group) * depth + row) * width
            add_outer_products(buffers.weighted, buffers.grad_outputs, width // L, gradients.static_kernel, at, width)
        if wanted.x or wanted.dynamic_kernel or wanted.offsets:
            grad_weighted = matrix_product(
                buffers.grad_outputs, width // L, workspace.inputs.static_kernel, (group * depth + row) * width
            )
            if wanted.dynamic_kernel:
                add_channels(buffers.grad_weights, k * T, multiply(grad_weighted, tap))
            multiply_add_at(grad_taps.source, grad_taps.places, grad_taps.shifts[k], weight, grad_weighted)
