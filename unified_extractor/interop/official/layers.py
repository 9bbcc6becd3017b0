"""Rules for layers: involution, VOLO's outlook attention and DCNv3 of the released codes, torch's convolution."""

import torch
from torch import Tensor

from unified_extractor.interop.official.rules import Items, Rule, affine, norm
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.spec import as_pair

Values = dict[str, Tensor]
"""Values of an official module by name."""


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
    """Yield the rules of CondConv: routing, and the experts' kernels."""
    yield from affine("routing", "kernel.head")
    yield "conv.weight", Rule("static_kernel")
    if layer.bias is not None:
        yield "conv.bias", Rule("bias")


def gnconv(layer: UnifiedExtractor2d) -> Items:
    """Yield the rules of HorNet's gated convolution of order one, whose projection ``gnconv_halves`` splits."""
    yield from affine("proj_in.gate", "modulation")
    yield from affine("proj_in.value", "value")
    yield from (("dwconv.weight", Rule("static_kernel")), ("dwconv.bias", Rule("bias")))
    yield from affine("proj_out", "projection")


def condconv_kernels(layer: UnifiedExtractor2d, values: Values) -> Values:
    """Return the values with the kernel of every expert in its own shape; they are rows of a matrix."""
    flat, static_kernel = values.get("conv.weight"), layer.static_kernel
    if flat is None or static_kernel is None or flat.shape != static_kernel.flatten(1).shape:
        return values
    return values | {"conv.weight": flat.reshape(static_kernel.shape)}


def gnconv_halves(layer: UnifiedExtractor2d, values: Values) -> Values:
    """Return the values with the two halves of the first projection by themselves: the gate, and what is convolved."""
    split: Values = {}
    for name in ("weight", "bias"):
        if (value := values.get(f"proj_in.{name}")) is not None and value.shape[0] == 2 * layer.in_channels:
            split |= dict(zip((f"proj_in.gate.{name}", f"proj_in.value.{name}"), value.chunk(2), strict=True))
            values = {key: other for key, other in values.items() if key != f"proj_in.{name}"}
    return values | split


def _columnwise_places(layer: UnifiedExtractor2d) -> list[int]:
    """Return the place of every tap, counted row by row, in the order column by column; without the center where it is removed."""
    kh, kw = as_pair(layer.spec.kernel_size)
    order = torch.arange(kh * kw, device="cpu").view(kw, kh).t().flatten().tolist()
    if not layer.spec.dynamic_kernel.remove_center:
        return order
    center = kh * kw // 2
    return [place - (place > center) for place in order if place != center]
