"""The passes of kernels that are sums of M terms, ``W = sum_m S_m * D_m``, with depthwise static kernels: a gather.

They are kernels of their own, compiled when such a call is first made. A window's kernel is formed in registers, and no image of a term
is stored. Where a term has one value for all taps, its window sum ``sum_k S_m[k] * x_k`` is multiplied by that, so a kernel is not
formed at all; backward computes the window sums again.

The dynamic kernel is ``[B, M, G, K or 1, P]``, its values for a tile of windows ``[M, K or 1, T]``; the static kernels
are ``[blocks, M*K, L]``. Letters and words are those of ``forward.py`` and ``backward.py``.
"""

# mypy: ignore-errors

from unified_extractor.ops.backends.compiled.backward import Backward, sampled_taps_backward, taps_for_gradients
from unified_extractor.ops.backends.compiled.canvas import fill, load_block, stage, stage_backward, store_block
from unified_extractor.ops.backends.compiled.compilation import inlined, kernel
from unified_extractor.ops.backends.compiled.forward import Forward
from unified_extractor.ops.backends.compiled.plan import Plan
from unified_extractor.ops.backends.compiled.records import read_record
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.vectors import (
    add_at,
    add_channels,
    add_positions,
    add_products,
    as_number,
    lanes,
    load_at,
    load_tile,
    memory_from,
    multiply,
    multiply_add,
    per_channel,
    per_position,
    store_tile,
    zeros,
)
from unified_extractor.ops.backends.compiled.workspace import (
    begin,
    is_first,
    is_last,
    pack_range,
    sampled_taps,
    unpack_range,
)


@kernel
def terms_forward(call, plan, like, start, stop):
    """Write the outputs of work items ``start`` to ``stop``; the arguments are those of ``forward``."""
    forward_items(read_record(call, like, Forward), read_record(plan, like, Plan), start, stop)


@kernel
def terms_backward(call, plan, like, start, stop):
    """Write the wanted gradients of work items ``start`` to ``stop``; the arguments are those of ``backward``."""
    backward_items(read_record(call, like, Backward), read_record(plan, like, Plan), start, stop)


@inlined
def forward_items(call, plan, start, stop):
    """Write the outputs of work items ``start`` to ``stop`` of the records."""
    inputs = call.inputs
    workspace = begin(inputs, plan)
    for item in range(start, stop):
        b, channel_range = divmod(item, plan.range_count)
        first, last = plan.channel_ranges[channel_range], plan.channel_ranges[channel_range + 1]
        pack_range(inputs.x, workspace, b, first, last, workspace.buffers.image, plan.image)
        for p in range(0, plan.positions, T):
            for block in range(first, last):
                stage_terms(workspace, b, p, block, first)
                taps = sampled_taps(workspace, b, p, block, first)
                at = (b * plan.channels + plan.blocks.channel[block]) * plan.positions + p
                tile = sum_of_terms(workspace, block, taps)
                edge = workspace.buffers.edge
                store_block(call.y, at, plan.positions, plan.blocks.size[block], plan.positions - p, tile, edge)


@inlined
def stage_terms(workspace, b, p, block, first):
    """Copy the dynamic kernels of a block's group at T windows to ``weights[m, row, t]``, with the group's first block."""
    plan, layout = workspace.plan, workspace.plan.dynamic_kernel
    if is_first(plan.blocks.kernel_group, block, first):
        for m in range(plan.terms):
            rows = memory_from(workspace.buffers.weights, m * layout.rows * T)
            group = (b * plan.terms + m) * layout.groups + plan.blocks.kernel_group[block]
            stage(workspace.inputs.dynamic_kernel, group, layout, p, plan.positions - p, rows)


@inlined
def sum_of_terms(workspace, block, taps):
    """Return the tile ``sum_m sum_k weights[m, k] * static_kernel[m, k] * tap_k``."""
    plan, weights, static_kernel = workspace.plan, workspace.buffers.weights, workspace.inputs.static_kernel
    total, lane = zeros(weights), block * plan.terms * plan.taps * lanes(weights)
    if plan.dynamic_kernel.rows < plan.taps:
        for m in range(plan.terms):
            value = window_sum(taps, plan.taps, static_kernel, lane + m * plan.taps * lanes(weights))
            total = multiply_add(per_position(weights, m * T, 1), value, total)
        return total
    for k in range(plan.taps):
        weight = formed_weight(workspace, lane, k)
        total = multiply_add(weight, load_at(taps.source, taps.places, taps.shifts[k]), total)
    return total


@inlined
def window_sum(taps, count, static_kernel, lane):
    """Return the tile ``sum_k static_kernel[k] * tap_k`` of one term."""
    total = zeros(static_kernel)
    for k in range(count):
        tap = load_at(taps.source, taps.places, taps.shifts[k])
        total = multiply_add(per_channel(static_kernel, lane + k * lanes(static_kernel)), tap, total)
    return total


@inlined
def formed_weight(workspace, lane, k):
    """Return the windows' kernel at tap k, the tile ``sum_m weights[m, k] * static_kernel[m, k]``."""
    plan, weights, static_kernel = workspace.plan, workspace.buffers.weights, workspace.inputs.static_kernel
    total = zeros(weights)
    for m in range(plan.terms):
        row = m * plan.taps + k
        total = multiply_add(per_position(weights, row * T, 1), per_channel(static_kernel, lane + row * lanes(weights)), total)
    return total


@inlined
def backward_items(call, plan, start, stop):
    """Write the wanted gradients of work items ``start`` to ``stop`` of the records, each of a few images."""
    workspace = begin(call.inputs, plan)
    for item in range(start, stop):
        partial, channel_range = divmod(item, plan.range_count)
        for b in range(partial * call.images, min(plan.batch, (partial + 1) * call.images)):
            range_backward(call.grad_y, call.gradients, call.wanted, workspace, partial, b, channel_range)


@inlined
def range_backward(grad_y, gradients, wanted, workspace, partial, b, channel_range):
    """Write the wanted gradients of a channel range of an image."""
    plan, buffers = workspace.plan, workspace.buffers
    first, last = plan.channel_ranges[channel_range], plan.channel_ranges[channel_range + 1]
    pack_range(workspace.inputs.x, workspace, b, first, last, buffers.image, plan.image)
    fill(buffers.grad_image, plan.range_size * plan.image.size, as_number(grad_y, 0))
    for p in range(0, plan.positions, T):
        for block in range(first, last):
            block_backward(grad_y, gradients, wanted, workspace, partial, b, p, block, first, last)
    if wanted.x:
        unpack_range(gradients.x, workspace, b, first, last, buffers.grad_image, plan.image)


@inlined
def block_backward(grad_y, gradients, wanted, workspace, partial, b, p, block, first, last):
    """Add the wanted gradients of a block at T windows; those of a group's kernels and offsets are written with its last block."""
    plan, buffers, blocks, layout = workspace.plan, workspace.buffers, workspace.plan.blocks, workspace.plan.dynamic_kernel
    stage_terms(workspace, b, p, block, first)
    taps = sampled_taps(workspace, b, p, block, first)
    grad_taps = taps_for_gradients(workspace, taps)
    if is_first(blocks.kernel_group, block, first):
        fill(buffers.grad_weights, plan.terms * layout.rows * T, as_number(grad_y, 0))
    if is_first(blocks.offset_group, block, first):
        fill(buffers.corner_products, 4 * plan.taps * T, as_number(grad_y, 0))
    at = (b * plan.channels + blocks.channel[block]) * plan.positions + p
    tile = load_block(grad_y, at, plan.positions, blocks.size[block], plan.positions - p, buffers.edge)
    rows = plan.terms * plan.taps
    lane, sums = block * rows * lanes(grad_y), (partial * plan.block_count + block) * rows * lanes(grad_y)
    if layout.rows < plan.taps:
        window_sums_backward(tile, gradients, wanted, workspace, lane, sums, taps, grad_taps)
    else:
        formed_weights_backward(tile, gradients, wanted, workspace, lane, sums, taps, grad_taps)
    sampled_taps_backward(gradients, wanted, workspace, b, p, block, first, last)
    if wanted.dynamic_kernel and is_last(blocks.kernel_group, block, last):
        for m in range(plan.terms):
            group = (b * plan.terms + m) * layout.groups + blocks.kernel_group[block]
            grad_rows = memory_from(buffers.grad_weights, m * layout.rows * T)
            stage_backward(gradients.dynamic_kernel, group, layout, p, plan.positions - p, grad_rows)


@inlined
def window_sums_backward(tile, gradients, wanted, workspace, lane, sums, taps, grad_taps):
    """Add the gradients of terms with one value for all taps, from the output's tile of gradients.

    ``lane`` is the block's start among static kernels, ``sums`` that among the partial sums of their gradient.
    """
    plan, buffers, static_kernel = workspace.plan, workspace.buffers, workspace.inputs.static_kernel
    L = lanes(static_kernel)
    for m in range(plan.terms):
        start = lane + m * plan.taps * L
        if wanted.dynamic_kernel:
            value = window_sum(taps, plan.taps, static_kernel, start)
            add_channels(buffers.grad_weights, m * T, multiply(tile, value))
        weighted = multiply(per_position(buffers.weights, m * T, 1), tile)
        store_tile(buffers.weighted, m * T * L, weighted)
        if wanted.static_kernel:
            for k in range(plan.taps):
                tap = load_at(taps.source, taps.places, taps.shifts[k])
                add_products(gradients.static_kernel, sums + (m * plan.taps + k) * L, weighted, tap)
    if wanted.x or wanted.offsets:
        for k in range(plan.taps):
            total = zeros(static_kernel)
            for m in range(plan.terms):
                weight = per_channel(static_kernel, lane + (m * plan.taps + k) * L)
                total = multiply_add(weight, load_tile(buffers.weighted, m * T * L), total)
            add_at(grad_taps.source, grad_taps.places, grad_taps.shifts[k], total)


@inlined
def formed_weights_backward(tile, gradients, wanted, workspace, lane, sums, taps, grad_taps):
    """Add the gradients of terms with a value a tap, from the output's tile of gradients; the arguments are those above."""
    plan, buffers, static_kernel = workspace.plan, workspace.buffers, workspace.inputs.static_kernel
    L = lanes(static_kernel)
    for k in range(plan.taps):
        product = multiply(tile, load_at(taps.source, taps.places, taps.shifts[k]))
        for m in range(plan.terms):
            row = m * plan.taps + k
            if wanted.dynamic_kernel:
                weight = per_channel(static_kernel, lane + row * L)
                add_channels(buffers.grad_weights, row * T, multiply(weight, product))
            if wanted.static_kernel:
                add_positions(gradients.static_kernel, sums + row * L, buffers.weights, row * T, 1, product)
        if wanted.x or wanted.offsets:
            weighted = multiply(formed_weight(workspace, lane, k), tile)
            add_at(grad_taps.source, grad_taps.places, grad_taps.shifts[k], weighted)
