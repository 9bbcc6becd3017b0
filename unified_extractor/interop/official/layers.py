"""Rules for layers of the released codes, from involution and DCNv3 to ContMix and ATConv, and for torch's convolution."""

import torch
from torch import Tensor

from unified_extractor.interop.official.rules import Items, Rule, affine, norm
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.layers.large_kernel_attention import LargeKernelAttention
from unified_extractor.spec import as_pair


def convolution(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of torch's own convolution without bias."""
    yield "weight", Rule("static_kernel")


def involution(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of involution: conv1 (conv, bn) reduces, conv2 spans ``[G*K]`` with taps row by row, as ours."""
    yield from affine("conv1.conv", "feature.reduce.conv", bias=False)
    yield from norm("conv1.bn", "feature.reduce.norm")
    yield from affine("conv2.conv", "kernel.head")


def outlook_attention(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of outlook attention: v, attn ``[heads*K*K]`` (output tap, source tap) as ours, proj."""
    yield from affine("v", "value", bias=layer.spec.projection.input == "affine")
    yield from affine("attn", "kernel.head")
    yield from affine("proj", "projection")


def dcnv3(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of DCNv3, which has offsets (x, y) and taps column by column; a removed center is the middle of both orders."""
    groups = layer.kernel_groups
    order = _columnwise_places(layer)

    def taps(value: Tensor) -> Tensor:
        return value.unflatten(0, (groups, len(order)))[:, order].flatten(0, 1)

    def offsets(value: Tensor) -> Tensor:
        return value.unflatten(0, (groups, len(order), 2))[:, order].flip(2).flatten(0, 2)

    yield from affine("dw_conv.0", "feature.look.conv")
    yield from affine("dw_conv.1.1", "feature.look.norm")
    yield from affine("offset", "offsets.head", offsets)
    yield from affine("mask", "kernel.head", taps)
    yield from affine("input_proj", "value")
    yield from affine("output_proj", "projection")
    if layer.spec.center_feature_scale:
        for name in ("weight", "bias"):
            yield f"center_feature_scale_proj_{name}", Rule(f"center_gate.{name}")


def condconv(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of CondConv: routing, and the experts' kernels, rows of a matrix there."""
    yield from affine("routing", "kernel.head")
    yield "conv.weight", Rule("static_kernel")
    if layer.bias is not None:
        yield "conv.bias", Rule("bias")


def gnconv(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of HorNet's gated convolution of order one: the first projection makes the gate and what is convolved."""
    for name in ("weight", "bias"):
        yield f"proj_in.{name}", Rule(f"modulation.{name}", second_half=f"value.{name}")
    yield from (("dwconv.weight", Rule("static_kernel")), ("dwconv.bias", Rule("bias")))
    yield from affine("proj_out", "projection")


def idconv(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of TransXNet's IDConv: proj (conv, bn) and proj make the mixing weights, weight the kernels that are mixed."""
    yield from affine("proj.0.conv", "feature.reduce.conv", bias=False)
    yield from norm("proj.0.bn", "feature.reduce.norm")
    yield from affine("proj.1", "kernel.head")
    yield "weight", Rule("static_kernel")
    if layer.bias is not None:
        yield "bias", Rule("bias")


def contmix(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of ContMix: query, key (after its pooling) and value (conv, bn), the map from regions to taps, position biases."""
    for name, ours, first in (("query", "kernel.query", 0), ("key", "kernel.key", 1), ("value", "value", 0)):
        yield from affine(f"weight_{name}.{first}", f"{ours}.conv", bias=False)
        yield from norm(f"weight_{name}.{first + 1}", f"{ours}.norm")
    for name in ("weight", "bias"):
        yield f"weight_proj.{name}", Rule(f"kernel.tap_{name}")
    for i in (0, 1):
        yield f"rpb{i + 1}", Rule(f"kernel.positions.{i}")


def qna(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of QnA: flax's matrices are transposed, and its queries come before heads, which come before ours."""
    spec, heads = layer.spec, layer.kernel_groups
    queries, taps = spec.dynamic_kernel.learned_queries, spec.taps

    def by_head(value: Tensor) -> Tensor:
        return value.reshape(taps, queries, heads).permute(2, 1, 0).contiguous()

    yield "query", Rule("kernel.query")
    yield "Wk", Rule("kernel.key.weight", _transposed)
    if spec.projection.input == "affine":
        yield "Wk_b", Rule("kernel.key.bias", torch.flatten, shape=(heads, layer.in_channels // heads))
    if spec.dynamic_kernel.relative_position:
        yield "rpe_bias", Rule("kernel.position", by_head, shape=(taps, queries * heads))
    if spec.dynamic_kernel.tap_scale:
        yield "attn_scale_weights", Rule("kernel.tap_scale", by_head, shape=(1, 1, taps, queries * heads))
    for name, ours in (("to_v", "value"), ("to_out", "projection")):
        yield f"{name}.kernel", Rule(f"{ours}.weight", _transposed)
        if spec.projection.input == "affine":
            yield f"{name}.bias", Rule(f"{ours}.bias")


def _transposed(matrix: Tensor) -> Tensor:
    return matrix.t().contiguous()


def carafe(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of CARAFE, whose values of a pixel's outputs are those of a pixel shuffle, as ours."""
    yield from affine("channel_compressor", "feature.reduce.conv")
    yield from affine("content_encoder", "kernel.head")


def dysample(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of DySample, whose offsets are (x, y) before groups before outputs of a pixel; their places are a constant there."""
    groups, (rows, columns) = layer.spec.offsets.groups, layer.spec.sub_positions

    def offsets(value: Tensor) -> Tensor:
        return value.unflatten(0, (2, groups, rows * columns)).flip(0).transpose(0, 1).flatten(0, 2)

    yield from affine("offset", "offsets.head", offsets)
    if layer.spec.offsets.gated:
        yield "scope.weight", Rule("offsets.gate.weight", offsets)
    y, x = ((torch.arange(s, device="cpu") - (s - 1) / 2) / s for s in as_pair(layer.spec.upsample))
    places = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))])
    yield "init_pos", Rule("", constant=places.repeat(1, groups, 1).reshape(1, -1, 1, 1))


def atconv(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of ATConv: kernel_proj and kernel_gen make the kernel, difference_control the share of its mean."""
    yield from affine("kernel_proj", "feature.reduce.conv")
    yield from affine("kernel_gen", "kernel.head")
    yield "difference_control", Rule("kernel.mean_share")
    yield from affine("x_proj", "value")
    yield from affine("proj", "projection")


def ddf(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of DDF: the spatial branch makes the kernel of each position, the channel branch that of each channel."""
    yield from affine("spatial_branch.0", "kernel.head")
    yield from affine("channel_branch.1", "channel_kernel.feature.reduce.conv")
    yield from affine("channel_branch.3", "channel_kernel.kernel.head")
    yield "channel_branch.4.std", Rule("channel_kernel.gain")


def large_kernel_attention(module: LargeKernelAttention) -> Items:
    """Yield the rules of VAN's LKA: conv0, conv_spatial, conv1; of its Attention, with projections and that inside."""
    prefix = "spatial_gating_unit." if module.projected else ""
    for name, ours in (("conv0", "near"), ("conv_spatial", "far")):
        yield f"{prefix}{name}.weight", Rule(f"{ours}.static_kernel")
        yield f"{prefix}{name}.bias", Rule(f"{ours}.bias")
    yield from affine(f"{prefix}conv1", "far.projection")
    if module.projected:
        yield from affine("proj_1", "value")
        yield from affine("proj_2", "projection")


def _columnwise_places(layer: UnifiedExtractor2d) -> list[int]:
    """Return the place of every tap, counted row by row, in the order column by column; without the center where it is removed."""
    kh, kw = as_pair(layer.spec.kernel_size)
    order = torch.arange(kh * kw, device="cpu").view(kw, kh).t().flatten().tolist()
    if not layer.spec.dynamic_kernel.remove_center:
        return order
    center = kh * kw // 2
    return [place - (place > center) for place in order if place != center]
