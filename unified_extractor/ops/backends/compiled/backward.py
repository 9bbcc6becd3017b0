"""The compiled backward pass: the adjoint of ``forward.py``, step by step. It samples again instead of keeping what was sampled."""

# mypy: ignore-errors

from typing import NamedTuple

from unified_extractor.ops.backends.compiled.compilation import inlined, kernel
from unified_extractor.ops.backends.compiled.generating import (
    MapGradients,
    pack_feature,
    pack_keys,
    pull_kernel,
    pull_products,
    unpack_feature,
    unpack_keys,
)
from unified_extractor.ops.backends.compiled.loops import (
    accumulate_outer,
    accumulate_static,
    correlate,
    correlate_corners,
    fill,
    load_block,
    matrix_product,
    offset_gradient,
    spread,
    unsample,
    unstage,
)
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.tables import FOLD, UNFOLD, Numbers, Plan
from unified_extractor.ops.backends.compiled.vectors import (
    add_channels,
    each_position,
    gather,
    lanes,
    multiply,
    number,
    places,
    scatter_add,
    scatter_multiply_add,
    store_tile,
    unpacked,
)
from unified_extractor.ops.backends.compiled.work import Inputs, Taps, begin, is_first, is_last, pack_unit, read, unpack_unit
from unified_extractor.ops.custom_ops import Wanted


class Gradients(NamedTuple):
    """Where they go; of the static kernel partial sums, laid out as forward takes it."""

    x: Numbers
    static: Numbers
    dynamic: Numbers
    offsets: Numbers
    map: MapGradients


class Backward(NamedTuple):
    """A call's tensors."""

    inputs: Inputs
    gradient: Numbers
    gradients: Gradients
    wanted: Wanted
    """``dynamic`` also where it is generated and anything it is generated from is wanted."""
    images: int
    """Of an item."""


@kernel
def backward(call, plan, like, start, stop):
    """Write the wanted gradients of items ``start .. stop``, each a unit of a few images and a partial sum of the static kernel's."""
    run_backward(unpacked(call, like, Backward), unpacked(plan, like, Plan), start, stop)


@inlined
def run_backward(call, plan, start, stop):
    """The same with memories instead of addresses."""
    inputs, gradient, gradients, wanted, images = call.inputs, call.gradient, call.gradients, call.wanted, call.images
    work = begin(inputs, plan)
    space = work.space
    for item in range(start, stop):
        partial, bundle = divmod(item, plan.bundle_count)
        for b in range(partial * images, min(plan.batch, (partial + 1) * images)):
            pack_feature(inputs.map.feature, work, b)
            fill(space.feature_gradient, plan.generated.size, number(gradient, 0))
            for unit in range(bundle * plan.bundle, min(plan.unit_count, (bundle + 1) * plan.bundle)):
                pull_unit(gradient, gradients, wanted, work, partial, b, unit)
            if wanted.feature:
                unpack_feature(gradients.map.feature, work, bundle * plan.batch + b)


@inlined
def pull_unit(gradient, gradients, wanted, work, partial, b, unit):
    """All gradients of a unit of an image."""
    plan, space = work.plan, work.space
    first, last = plan.units[unit], plan.units[unit + 1]
    pack_unit(work.inputs.x, work, b, first, last, space.image, plan.image)
    pack_keys(work.inputs.map.weight, work, b, plan.blocks.kernel[first])
    fill(space.keys_gradient, plan.generated.unit_heads * plan.generated.key_blocks * plan.image.size, number(gradient, 0))
    fill(space.image_gradient, plan.unit_size * plan.image.size, number(gradient, 0))
    if plan.mode == FOLD:
        fill(space.fold, plan.unit_size * plan.fold.size, number(gradient, 0))
        pack_unit(gradient, work, b, first, last, space.fold, plan.fold)
    for p in range(0, plan.positions, T):
        for block in range(first, last):
            pull_block(gradient, gradients, wanted, work, partial, b, p, block, first, last)
    if wanted.x:
        unpack_unit(gradients.x, work, b, first, last, space.image_gradient, plan.image)
    if wanted.weight:
        unpack_keys(gradients.map.weight, work, b, plan.blocks.kernel[first])


@inlined
def pull_block(gradient, gradients, wanted, work, partial, b, p, block, first, last):
    """All gradients of a block at T windows; those it shares with its group leave with the group's last block."""
    plan, space, blocks = work.plan, work.space, work.plan.blocks
    taps = read(work, b, p, block, first)
    target = taps_gradient(work, taps)
    zero = number(gradient, 0)
    if is_first(blocks.kernel, block, first):
        fill(space.weights_gradient, plan.results * plan.taps * T, zero)
    if is_first(blocks.offsets, block, first):
        fill(space.products, 4 * plan.taps * T, zero)
    if plan.mixes:
        unmix(gradient, gradients, wanted, work, partial, b, p, block, first, taps, target)
    elif plan.mode == UNFOLD:
        pull_taps(gradient, work, b, p, block, target)
    else:
        pull_sums(gradient, gradients, wanted, work, partial, b, p, block, first, taps, target)
    if plan.offsets.groups:
        shift = (block - first) * plan.image.size
        if wanted.x:
            unsample(space.image_gradient, shift, plan, work.corners, space.sampled_gradient)
        if wanted.offsets:
            correlate_corners(space.image, shift, plan, work.corners, space.sampled_gradient, space.products)
            if is_last(blocks.offsets, block, last):
                offset_gradient(plan, work.corners, space.products, space.moves_gradient)
                group = b * plan.offsets.groups + blocks.offsets[block]
                unstage(gradients.offsets, group, plan.offsets, p, plan.positions - p, space.moves_gradient)
    if wanted.dynamic and is_last(blocks.kernel, block, last):
        if plan.generated.depth > 0:
            pull_kernel(work, gradients.map, wanted, partial, blocks.kernel[block], p)
        elif plan.generated.heads > 0:
            pull_products(work, gradients.map, wanted, partial, b, p, blocks.kernel[block], blocks.kernel[first])
        else:
            group = b * plan.dynamic.groups + blocks.kernel[block]
            unstage(gradients.dynamic, group, plan.dynamic, p, plan.positions - p, space.weights_gradient)


@inlined
def taps_gradient(work, taps):
    """Where gradients of what the taps read are added: in the image itself, or in a buffer of zeros."""
    plan, space = work.plan, work.space
    if plan.offsets.groups == 0:
        return Taps(space.image_gradient, taps.places, taps.at)
    fill(space.sampled_gradient, plan.taps * T * lanes(space.sampled_gradient), number(space.sampled_gradient, 0))
    return Taps(space.sampled_gradient, taps.places, taps.at)


@inlined
def pull_taps(gradient, work, b, p, block, target):
    """The adjoint of ``write_taps``."""
    plan, blocks = work.plan, work.plan.blocks
    for k in range(plan.taps):
        at = ((b * plan.channels + blocks.channel[block]) * plan.taps + k) * plan.positions + p
        tile = load_block(gradient, at, plan.taps * plan.positions, blocks.size[block], plan.positions - p, work.space.edge)
        scatter_add(target.source, target.places, target.at[k], tile)


@inlined
def pull_sums(gradient, gradients, wanted, work, partial, b, p, block, first, taps, target):
    """The adjoint of ``write_sums``."""
    plan, space, blocks, K = work.plan, work.space, work.plan.blocks, work.plan.taps
    static, lane = work.inputs.static, block * K * lanes(gradient)
    on_grid = places(plan.windows, p, (block - first) * plan.fold.size)
    for i in range(plan.results):
        if plan.mode == FOLD:
            tile = gather(space.fold, on_grid, plan.taps_at[i])
        else:
            at = (b * plan.channels + blocks.channel[block]) * plan.positions + p
            tile = load_block(gradient, at, plan.positions, blocks.size[block], plan.positions - p, space.edge)
        if wanted.dynamic:
            correlate(taps, K, tile, static, lane, plan.alone, space.weights_gradient, i * K)
        if wanted.x or wanted.offsets:
            spread(target, K, space.weights, i * K, tile, static, lane, plan.alone)
        if wanted.static:
            at = partial * plan.block_count * K * lanes(gradient) + lane
            accumulate_static(taps, K, space.weights, i * K, tile, gradients.static, at)


@inlined
def unmix(gradient, gradients, wanted, work, partial, b, p, block, first, taps, target):
    """The adjoint of ``mix``, with the static kernel as ``[groups, blocks*K, outputs, L]``."""
    plan, space, L, K = work.plan, work.space, lanes(gradient), work.plan.taps
    depth, group, width = plan.mix_blocks * K * L, plan.blocks.mix[block], plan.mix_width
    if is_first(plan.blocks.mix, block, first):
        for o in range(0, plan.mix_outputs, L):
            at = (b * plan.outputs + group * plan.mix_outputs + o) * plan.positions + p
            count = min(L, plan.mix_outputs - o)
            store_tile(space.outputs, o * T, load_block(gradient, at, plan.positions, count, plan.positions - p, space.edge))
    for k in range(K):
        row = (plan.blocks.member[block] * K + k) * L
        value, weight = gather(taps.source, taps.places, taps.at[k]), each_position(space.weights, k * T, 1)
        if wanted.static:
            store_tile(space.outer, 0, multiply(weight, value))
            at = ((partial * plan.mixes + group) * depth + row) * width
            accumulate_outer(space.outer, space.outputs, width // L, gradients.static, at, width)
        if wanted.x or wanted.dynamic or wanted.offsets:
            pulled = matrix_product(space.outputs, width // L, work.inputs.static, (group * depth + row) * width)
            if wanted.dynamic:
                add_channels(space.weights_gradient, k * T, multiply(pulled, value))
            scatter_multiply_add(target.source, target.places, target.at[k], weight, pulled)
