"""Layers of ours for the constructor arguments of official classes: what :func:`load_official` fills then."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from torch import nn

import unified_extractor.presets as presets
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.layers.large_kernel_attention import LargeKernelAttention
from unified_extractor.names import did_you_mean, suggesting_arguments
from unified_extractor.ops import checks
from unified_extractor.spec import Pair, Projection, as_pair

NOT_EXPRESSED = {
    "mambaout_gated_conv": "the block has a norm and a skip, and some of its hidden channels pass by the convolution",
    "conv2former_modulation": "a GELU stands between the 1x1 convolution before the window and the window",
}
"""Operators with official values that no layer here equals, and why."""


def official_layer(operator: str, **arguments: Any) -> UnifiedExtractor2d | LargeKernelAttention:
    """Return our layer for an official operator, built from the constructor arguments of its class; images are ``[B, C, H, W]``.

    Args:
        operator: "involution" (d-li14), "outlook_attention" (sail-sg VOLO), "dcnv3" (OpenGVLab InternImage), "condconv" (timm's CondConv2d,
            with the routing of its CondConvResidual), "gnconv" (HorNet), "idconv" (TransXNet's DynamicConv2d), "carafe"
            (CARAFEPack), "dysample", "atconv" (AttNet), "ddf" (DDFPack), "qna" (FusedKQnA, whose class infers ``in_channels``),
            "contmix" (the part of OverLoCK's ContMixBlock from its normalized input to the input of ``fusion_proj``) or
            "large_kernel_attention" (VAN's ``LKA`` for ``dim``, ``Attention`` for ``d_model``), which is a module of two layers.
        arguments: of "involution", "outlook_attention" and "dcnv3" ``channels``, ``kernel_size`` and so on; of the others those of the
            official class.

    Raises:
        NotImplementedError: an operator, or arguments of one, that the formula does not reach; the message says why.
        ValueError, TypeError: an operator or arguments that are unknown.

    Example::

        layer = official_layer("condconv", in_channels=16, out_channels=32, kernel_size=3, num_experts=4)
        load_official(layer, state_dict, "condconv")
    """
    if isinstance(operator, str) and operator in NOT_EXPRESSED:
        raise NotImplementedError(f"operator={operator!r} has no equal layer here: {NOT_EXPRESSED[operator]}")
    if not isinstance(operator, str) or operator not in _BUILDERS:
        nearest = did_you_mean(operator, [*_BUILDERS, *NOT_EXPRESSED])
        raise ValueError(f"operator must be one of {tuple(_BUILDERS)}, got {operator!r}{nearest}")
    return _BUILDERS[operator](**arguments)


@suggesting_arguments
def involution(
    *, channels: int, kernel_size: Pair, stride: Pair = 1, reduction: int = 4, group_channels: int = 16
) -> UnifiedExtractor2d:
    """Return the layer of d-li14's ``involution``."""
    return UnifiedExtractor2d(channels, channels, presets.involution(kernel_size, group_channels, reduction), stride)


@suggesting_arguments
def outlook_attention(
    *, channels: int, heads: int, kernel_size: int = 3, padding: int = 1, stride: int = 1, qkv_bias: bool = False
) -> UnifiedExtractor2d:
    """Return the layer of VOLO's ``OutlookAttention``."""
    spec = replace(presets.outlook_attention(kernel_size, heads, qkv_bias), padding=padding)
    return UnifiedExtractor2d(channels, channels, spec, stride)


def dcnv3(*, channels: int, kernel_size: int = 3, stride: int = 1, padding: int = 1, **options: Any) -> UnifiedExtractor2d:
    """Return the layer of InternImage's ``DCNv3``."""
    spec = replace(presets.deformable_convolution(3, kernel_size, **options), padding=padding)
    return UnifiedExtractor2d(channels, channels, spec, stride)


@suggesting_arguments
def condconv(
    *,
    in_channels: int,
    out_channels: int,
    kernel_size: Pair = 3,
    stride: Pair = 1,
    padding: Pair | str | None = "",
    dilation: Pair = 1,
    groups: int = 1,
    bias: bool = False,
    num_experts: int = 4,
) -> UnifiedExtractor2d:
    """Return the layer of timm's ``CondConv2d`` with its routing."""
    spec = presets.conditional_convolution(kernel_size, num_experts, groups, dilation, bias)
    steps = checks.pair("stride", stride, 1)
    if padding == "same" and max(steps) > 1:
        raise NotImplementedError(
            f"padding='same' of timm depends on the image's size where stride is not 1, got stride={stride}"
        )
    if padding is None or padding == "":  # timm's symmetric padding
        sizes = zip(steps, as_pair(dilation), as_pair(kernel_size), strict=True)
        rows, columns = (((s - 1) + d * (k - 1)) // 2 for s, d, k in sizes)
        spec = replace(spec, padding=(rows, columns))
    elif not isinstance(padding, str):
        spec = replace(spec, padding=padding)
    elif padding == "valid":
        spec = replace(spec, padding=0)
    elif padding != "same":
        raise ValueError(f"padding must be an int, a pair, '', 'same' or 'valid', got {padding!r}")
    return UnifiedExtractor2d(in_channels, out_channels, spec, stride)


@suggesting_arguments
def gnconv(*, dim: int, order: int = 5, s: float = 1.0) -> UnifiedExtractor2d:
    """Return the layer of HorNet's ``gnconv``, of order one."""
    if order != 1:
        raise NotImplementedError(f"order={order!r} multiplies by gates in turn, a layer here has one modulation: order=1")
    if s != 1:
        raise NotImplementedError(f"s={s!r} scales what the depthwise convolution gives, a layer here has no such constant: s=1")
    return UnifiedExtractor2d(dim, dim, presets.gated_convolution(7, "identity"))


@suggesting_arguments
def idconv(
    *, dim: int, kernel_size: int = 3, reduction_ratio: int = 4, num_groups: int = 1, bias: bool = True
) -> UnifiedExtractor2d:
    """Return the layer of TransXNet's ``DynamicConv2d``."""
    if num_groups < 2:
        raise ValueError(f"num_groups must be more than 1, got {num_groups}")
    spec = replace(presets.idconv(kernel_size, num_groups, reduction_ratio, bias), padding=kernel_size // 2)
    return UnifiedExtractor2d(dim, dim, spec)


@suggesting_arguments
def contmix(*, dim: int, kernel_size: int = 7, smk_size: int = 5, num_heads: int = 2) -> UnifiedExtractor2d:
    """Return the layer of the dynamic branch of OverLoCK's ``ContMixBlock``."""
    return UnifiedExtractor2d(dim, dim, presets.contmix(kernel_size, smk_size, 2 * num_heads))


@suggesting_arguments
def qna(
    *,
    in_channels: int,
    features: int,
    heads: int,
    kernel_size: int,
    stride: int = 1,
    padding: int | None = None,
    use_bias: bool = False,
    pos_embedding_type: str | None = "relative_pos",
    attn_scale: str | None = "normal",
    normalize_q: bool = False,
    n_queries: int = 1,
) -> UnifiedExtractor2d:
    """Return the layer of QnA's ``FusedKQnA``, whose input channels its class infers."""
    if features != in_channels:
        raise NotImplementedError(
            f"features={features!r} differ from in_channels={in_channels!r}, values here have as many channels"
        )
    if padding not in (None, kernel_size // 2) or kernel_size % 2 == 0:
        raise NotImplementedError(
            f"padding={padding!r} with kernel_size={kernel_size!r} changes the map, attention here keeps its size: kernel_size//2, odd"
        )
    if pos_embedding_type not in (None, "relative_pos"):
        raise NotImplementedError(f"pos_embedding_type={pos_embedding_type!r} is no bias of each tap: 'relative_pos' or None")
    spec = presets.qna(kernel_size, heads, n_queries, normalize_q)
    kind: Literal["linear", "affine"] = "affine" if use_bias else "linear"
    dynamic = replace(spec.dynamic_kernel, relative_position=pos_embedding_type is not None, tap_scale=attn_scale is not None)
    spec = replace(spec, dynamic_kernel=dynamic, projection=Projection(input=kind, output=kind))
    return UnifiedExtractor2d(features, features, spec, stride)


@suggesting_arguments
def carafe(
    *,
    channels: int,
    scale_factor: int,
    up_kernel: int = 5,
    up_group: int = 1,
    encoder_kernel: int = 3,
    encoder_dilation: int = 1,
    compressed_channels: int = 64,
) -> UnifiedExtractor2d:
    """Return the layer of CARAFE's ``CARAFEPack``."""
    if encoder_dilation != 1:
        raise NotImplementedError(
            f"encoder_dilation={encoder_dilation!r} spreads the view of the generator, whose taps here are neighbors: encoder_dilation=1"
        )
    for name, value in (("up_kernel", up_kernel), ("encoder_kernel", encoder_kernel)):
        if as_pair(value)[0] % 2 == 0:
            raise ValueError(f"{name} must be odd, as in the official code, got {value!r}")
    spec = presets.carafe(scale_factor, up_kernel, up_group, encoder_kernel, compressed_channels)
    return UnifiedExtractor2d(channels, channels, spec)


@suggesting_arguments
def dysample(
    *, in_channels: int, scale: int = 2, style: Literal["lp", "pl"] = "lp", groups: int = 4, dyscope: bool = False
) -> UnifiedExtractor2d:
    """Return the layer of ``DySample``."""
    return UnifiedExtractor2d(in_channels, in_channels, presets.dysample(scale, groups, style, dyscope))


@suggesting_arguments
def atconv(*, dim: int, act_layer: type[nn.Module] | str, kernel_size: int = 3, bias: bool = True) -> UnifiedExtractor2d:
    """Return the layer of AttNet's ``ATConv``; the activation is a class of torch or its name."""
    name = act_layer if isinstance(act_layer, str) else act_layer.__name__
    activations: dict[str, Literal["relu", "gelu"]] = {"ReLU": "relu", "GELU": "gelu"}
    if name not in activations:
        raise NotImplementedError(f"act_layer={name!r} is no activation of a generator here: ReLU, GELU")
    if not bias:
        raise NotImplementedError("bias=False: the generator's layers have biases here")
    return UnifiedExtractor2d(dim, dim, replace(presets.attconv(kernel_size, activations[name]), padding=kernel_size // 2))


@suggesting_arguments
def ddf(
    *,
    in_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    dilation: int = 1,
    head: int = 1,
    se_ratio: float = 0.2,
    nonlinearity: str = "relu",
    kernel_combine: Literal["mul", "add"] = "mul",
) -> UnifiedExtractor2d:
    """Return the layer of ``DDFPack``; at a stride its images have sizes that are multiples of it."""
    if kernel_combine not in ("mul", "add"):
        raise ValueError(f"kernel_combine must be one of ('mul', 'add'), got {kernel_combine!r}")
    hidden = int(in_channels * se_ratio)
    if hidden < 1:
        raise ValueError(f"se_ratio must leave a channel, got in_channels={in_channels}, se_ratio={se_ratio}")
    spec = presets.ddf(kernel_size, head, "multiply" if kernel_combine == "mul" else "add")
    generator = replace(spec.channel_kernel.generator, reduction=None, hidden_channels=hidden)
    spec = replace(
        spec,
        dilation=dilation,
        dynamic_kernel=replace(spec.dynamic_kernel, gain=nn.init.calculate_gain(nonlinearity) / kernel_size),  # type: ignore[arg-type]
        channel_kernel=replace(spec.channel_kernel, generator=generator),
    )
    return UnifiedExtractor2d(in_channels, in_channels, spec, stride)


@suggesting_arguments
def large_kernel_attention(*, dim: int | None = None, d_model: int | None = None) -> LargeKernelAttention:
    """Return the module of VAN's ``LKA`` or ``Attention``."""
    channels = d_model if dim is None else dim
    if channels is None or (dim is not None and d_model is not None):
        raise TypeError(f"exactly one of dim (LKA) and d_model (Attention) must be given, got dim={dim}, d_model={d_model}")
    return LargeKernelAttention(channels, projected=dim is None)


_BUILDERS: dict[str, Callable[..., UnifiedExtractor2d | LargeKernelAttention]] = {
    builder.__name__: builder
    for builder in (
        involution,
        outlook_attention,
        dcnv3,
        condconv,
        gnconv,
        idconv,
        contmix,
        qna,
        carafe,
        dysample,
        atconv,
        ddf,
        large_kernel_attention,
    )
}
