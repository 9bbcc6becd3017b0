"""The workspace of a thread: its arguments and buffers, and what forward and backward both do with them."""

# mypy: ignore-errors

from typing import NamedTuple

from unified_extractor.ops.backends.compiled.bilinear import Corners, find_corners, sample
from unified_extractor.ops.backends.compiled.canvas import fill, pack, raster_places, stage, unpack
from unified_extractor.ops.backends.compiled.compilation import inlined
from unified_extractor.ops.backends.compiled.dynamic_kernel import KernelTensors, attention_kernel, linear_kernel
from unified_extractor.ops.backends.compiled.plan import Buffers, Numbers, Plan
from unified_extractor.ops.backends.compiled.records import lay_out
from unified_extractor.ops.backends.compiled.registers import T
from unified_extractor.ops.backends.compiled.taps import Taps
from unified_extractor.ops.backends.compiled.vectors import as_number, as_table, load_places


class Inputs(NamedTuple):
    """The tensors of a call, laid out for the loops, and a thread's memory."""

    x: Numbers
    static_kernel: Numbers
    """``[blocks, K, L]`` if depthwise, not there if absent; else as ``dense_forward`` or ``dense_backward`` takes it."""
    dynamic_kernel: Numbers
    kernel_tensors: KernelTensors
    """The tensors that the dynamic kernel is computed from."""
    offsets: Numbers
    has_dynamic_kernel: int
    """1 where there is a dynamic kernel, in memory or computed, else 0."""
    memory: Numbers
    """Numbers of the thread's own, laid out as ``Plan.buffers``."""


class Workspace(NamedTuple):
    """The arguments of all steps of a thread."""

    inputs: Inputs
    plan: Plan
    buffers: Buffers
    corners: Corners


@inlined
def begin(inputs, plan):
    """Return the workspace of a thread, with zeros around the images and ones for an absent dynamic kernel."""
    buffers = lay_out(inputs.memory, plan.buffers)
    fill(buffers.image, plan.range_size * plan.image.size, as_number(inputs.memory, 0))
    fill(buffers.keys, plan.computed.range_heads * plan.computed.key_blocks * plan.image.size, as_number(inputs.memory, 0))
    fill(buffers.weights, plan.results * plan.taps * T, as_number(inputs.memory, 1))
    return Workspace(
        inputs, plan, buffers, Corners(as_table(buffers.corners), buffers.corner_weights, buffers.fractions, buffers.windows)
    )


@inlined
def is_first(group, block, first):
    """Return true for the first block of a group in a channel range, which starts at block ``first``."""
    return block == first or group[block] != group[block - 1]


@inlined
def is_last(group, block, last):
    """Return true for the last block of a group in a channel range, which ends before block ``last``."""
    return block == last - 1 or group[block] != group[block + 1]


@inlined
def pack_range(image, workspace, b, first, last, canvas, layout):
    """Copy the channels of a channel range, blocks ``first`` to ``last``, into their canvases."""
    plan = workspace.plan
    for block in range(first, last):
        plane = b * plan.channels + plan.blocks.channel[block]
        shift = (block - first) * layout.size
        pack(image, plane, plan.blocks.size[block], plan.pixels, canvas, layout.pixels, shift, workspace.buffers.edge)


@inlined
def unpack_range(image, workspace, b, first, last, canvas, layout):
    """Copy the canvases of a channel range, blocks ``first`` to ``last``, into its channels."""
    plan = workspace.plan
    for block in range(first, last):
        plane = b * plan.channels + plan.blocks.channel[block]
        shift = (block - first) * layout.size
        unpack(image, plane, plan.blocks.size[block], plan.pixels, canvas, layout.pixels, shift, workspace.buffers.edge)


@inlined
def prepare_taps(workspace, b, p, block, first):
    """Stage or compute the kernel of a block's group, sample bilinearly where there are offsets, and return the block's taps."""
    plan, buffers, blocks = workspace.plan, workspace.buffers, workspace.plan.blocks
    available = plan.positions - p
    if workspace.inputs.has_dynamic_kernel and is_first(blocks.kernel_group, block, first):
        if plan.computed.depth > 0:
            linear_kernel(workspace, blocks.kernel_group[block], p)
        elif plan.computed.heads > 0:
            attention_kernel(workspace, b, p, blocks.kernel_group[block], blocks.kernel_group[first])
        else:
            group = b * plan.dynamic_kernel.groups + blocks.kernel_group[block]
            stage(workspace.inputs.dynamic_kernel, group, plan.dynamic_kernel, p, available, buffers.weights)
    return sampled_taps(workspace, b, p, block, first)


@inlined
def sampled_taps(workspace, b, p, block, first):
    """Sample bilinearly where there are offsets, and return the block's taps."""
    plan, buffers, blocks, available = workspace.plan, workspace.buffers, workspace.plan.blocks, workspace.plan.positions - p
    shift = (block - first) * plan.image.size
    if plan.offsets.groups == 0:
        return Taps(buffers.image, raster_places(plan.windows, p, shift), plan.tap_shifts)
    if is_first(blocks.offset_group, block, first):
        stage(
            workspace.inputs.offsets,
            b * plan.offsets.groups + blocks.offset_group[block],
            plan.offsets,
            p,
            available,
            buffers.offsets,
        )
        find_corners(buffers.offsets, plan, p, workspace.corners)
    sample(buffers.image, shift, plan, workspace.corners, buffers.sampled)
    return Taps(buffers.sampled, load_places(plan.sample_places, 0, 0), plan.sample_shifts)
