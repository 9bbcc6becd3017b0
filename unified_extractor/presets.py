"""Published operators as values of the spec. No code depends on a preset's name: any combination of fields is as good.

``paper_notes.md`` has the equation and the paper of every preset. A preset raises ``TypeError`` or ``ValueError`` for arguments that have
no meaning.
"""

import math
from dataclasses import replace
from typing import Any, Literal, NoReturn, get_args

from unified_extractor.names import did_you_mean, suggesting_arguments
from unified_extractor.spec import (
    ChannelKernel,
    DynamicKernel,
    ExtractorSpec,
    Generator,
    Offsets,
    Pair,
    Projection,
    StaticKernel,
)

MODULES = {
    "visual_attention": "VAN's large kernel attention is two windows in a row, which no spec says: it is the module of two extractors "
    "unified_extractor.layers.LargeKernelAttention(channels)"
}
"""Published operators that are looked for here and are modules of several extractors."""
GateActivation = Literal["identity", "sigmoid", "silu", "gelu"]
RelativePosition = bool | Literal["query"]


@suggesting_arguments
def convolution(kernel_size: Pair = 3, groups: int = 1, dilation: Pair = 1, bias: bool = False) -> ExtractorSpec:
    """Return a convolution: a dense static kernel on the regular grid, in ``groups`` channel groups."""
    return ExtractorSpec(
        kernel_size=kernel_size, dilation=dilation, static_kernel=StaticKernel(channels="dense", groups=groups), bias=bias
    )


@suggesting_arguments
def grouped_convolution(kernel_size: Pair = 3, groups: int = 2, dilation: Pair = 1, bias: bool = False) -> ExtractorSpec:
    """Return a grouped convolution (ResNeXt, Xie et al. 2017): an output reads the input channels of its group only."""
    return convolution(kernel_size, groups, dilation, bias)


@suggesting_arguments
def depthwise_convolution(kernel_size: Pair = 3) -> ExtractorSpec:
    """Return a depthwise convolution: every channel has a static kernel of its own and reads no other channel."""
    return ExtractorSpec(kernel_size=kernel_size, static_kernel=StaticKernel(channels="depthwise"))


@suggesting_arguments
def conditional_convolution(
    kernel_size: Pair = 3, experts: int = 4, groups: int = 1, dilation: Pair = 1, bias: bool = False
) -> ExtractorSpec:
    """Return CondConv (Yang et al. 2019): several dense static kernels, mixed once an image by sigmoids of the image's mean.

    Args:
        kernel_size: taps of the window.
        experts: number of static kernels that are mixed.
        groups: channel groups of each, as in a grouped convolution.
        dilation: distance between taps.
        bias: add a constant to every output channel, mixed like the kernels.
    """
    _argument("experts", experts, int, at_least=2)
    _argument("bias", bias, bool)
    return ExtractorSpec(
        kernel_size=kernel_size,
        dilation=dilation,
        static_kernel=StaticKernel(channels="dense", groups=groups),
        dynamic_kernel=DynamicKernel(source="generated", groups=1, per_tap=False, normalization="sigmoid"),
        generator=Generator(view="global"),
        terms=experts,
        bias="mixed" if bias else False,
    )


@suggesting_arguments
def idconv(kernel_size: Pair = 7, experts: int = 2, reduction: int = 4, bias: bool = True) -> ExtractorSpec:
    """Return IDConv (TransXNet, Lou et al. 2023): several depthwise kernels, mixed once an image, at each tap and channel by a softmax of
    its own.

    Args:
        kernel_size: taps of the window, and cells over which the image is averaged.
        experts: number of static kernels that are mixed.
        reduction: divisor of the channels between the cells' means and the softmax.
        bias: add a constant to every output channel, mixed by what the mean of the image generates.
    """
    _argument("experts", experts, int, at_least=2)
    _argument("bias", bias, bool)
    return ExtractorSpec(
        kernel_size=kernel_size,
        static_kernel=StaticKernel(channels="depthwise"),
        dynamic_kernel=DynamicKernel(source="generated", channels_per_group=1, normalization="softmax", softmax_over="terms"),
        generator=Generator(view="pooled", reduction=reduction, norm="batch", activation="gelu"),
        terms=experts,
        bias="mixed" if bias else False,
    )


@suggesting_arguments
def dwnet(kernel_size: Pair = 7, reduction: int = 4) -> ExtractorSpec:
    """Return the dynamic depthwise convolution of DWNet (Han et al. 2022): one kernel a channel and image, from the image's mean.

    The 1x1 convolutions, norms and activations around it are not part.
    """
    return ExtractorSpec(
        kernel_size=kernel_size,
        dynamic_kernel=DynamicKernel(source="generated", channels_per_group=1),
        generator=Generator(view="global", reduction=reduction, norm="batch", activation="relu"),
        bias=True,
    )


@suggesting_arguments
def attconv(kernel_size: Pair = 3, activation: Literal["relu", "gelu"] = "gelu") -> ExtractorSpec:
    """Return ATConv (attentive convolution, arXiv 2510.20092): one kernel a channel and image, from means of runs of the flattened
    image, minus a learned share of its mean; between 1x1 convolutions.
    """
    return ExtractorSpec(
        kernel_size=kernel_size,
        dynamic_kernel=DynamicKernel(source="generated", channels_per_group=1, normalization="centered"),
        generator=Generator(view="runs", reduction=1, activation=activation),
        projection=Projection(input="affine", output="affine"),
    )


@suggesting_arguments
def ddf(
    kernel_size: Pair = 3, heads: int = 1, combine: Literal["multiply", "add"] = "multiply", reduction: int = 5
) -> ExtractorSpec:
    """Return the decoupled dynamic filter DDF (Zhou et al. 2021): a kernel a position, from its pixel, joined by a kernel a channel and
    image; both with zero mean and unit deviation over the taps.

    Args:
        kernel_size: taps of the window.
        heads: groups of channels that each have a kernel a position.
        combine: "multiply" the two kernels, or "add" them.
        reduction: divisor of the channels between the mean of the image and the kernels of the channels.
    """
    _argument("heads", heads, int)
    _argument("reduction", reduction, int)
    if combine not in ("multiply", "add"):
        raise ValueError(f"combine must be one of ('multiply', 'add'), got {combine!r}")
    return ExtractorSpec(
        kernel_size=kernel_size,
        dynamic_kernel=DynamicKernel(
            source="generated",
            groups=heads,
            normalization="standardized",
            gain=math.sqrt(2 / math.prod(_pair("kernel_size", kernel_size))),
        ),
        generator=Generator(downsample="skip"),
        channel_kernel=ChannelKernel(
            combine=combine,
            generator=Generator(view="global", reduction=reduction, activation="relu"),
            normalization="standardized",
            learned_gain=True,
        ),
    )


@suggesting_arguments
def pac(kernel_size: Pair = 5, dilation: Pair = 1, bias: bool = True) -> ExtractorSpec:
    """Return pixel-adaptive convolution, PAC (Su et al. 2019): a dense static kernel times a Gaussian of the distance of a guide's values.

    The guide is what the layer is given as one, ``layer(x, guide)``; without it the image. Its scale is that of the Gaussian.
    """
    _argument("bias", bias, bool)
    return ExtractorSpec(
        kernel_size=kernel_size,
        dilation=dilation,
        static_kernel=StaticKernel(channels="dense"),
        dynamic_kernel=DynamicKernel(source="gaussian", groups=1),
        bias=bias,
    )


@suggesting_arguments
def gated_convolution(kernel_size: Pair = 7, activation: GateActivation = "gelu") -> ExtractorSpec:
    """Return a gated convolution: a depthwise convolution between 1x1 convolutions, times a pointwise gate.

    With "gelu" it is the block of MambaOut without its norm and skip, whose width is that of the image and all of it convolved; with
    "identity" the gated convolution of order one of HorNet.

    Args:
        kernel_size: taps of the window.
        activation: activation of the gate.
    """
    if activation not in (known := get_args(GateActivation)):
        raise ValueError(f"activation must be one of {known}, got {activation!r}{did_you_mean(activation, known)}")
    return ExtractorSpec(
        kernel_size=kernel_size,
        static_kernel=StaticKernel(channels="depthwise"),
        projection=Projection(input="affine", output="affine"),
        bias=True,
        modulation=activation,
    )


@suggesting_arguments
def squeeze_excitation(reduction: int = 16) -> ExtractorSpec:
    """Return squeeze-and-excitation (Hu et al. 2018): a 1x1 window, one sigmoid weight a channel, generated from the whole image."""
    return ExtractorSpec(
        kernel_size=1,
        dynamic_kernel=DynamicKernel(source="generated", channels_per_group=1, normalization="sigmoid"),
        generator=Generator(view="global", reduction=reduction, activation="relu"),
    )


@suggesting_arguments
def deformable_convolution(
    version: int,
    kernel_size: Pair = 3,
    groups: int = 1,
    offset_groups: int = 1,
    dilation: Pair = 1,
    offset_scale: float = 1.0,
    center_feature_scale: bool = False,
    remove_center: bool = False,
) -> ExtractorSpec:
    """Return deformable convolution: v1 (Dai et al. 2017), v2 (Zhu et al. 2019), v3 (Wang et al. 2023), v4 (Xiong et al. 2024).

    Args:
        version: 1, 2, 3 or 4.
        kernel_size: taps of the window.
        groups: groups of the static kernel in versions 1 and 2, groups of dynamic kernels and offsets in versions 3 and 4.
        offset_groups: groups of offsets in versions 1 and 2.
        dilation: distance between taps.
        offset_scale: factor on the offsets and on the regular grid.
        center_feature_scale: blend the value at the window's center into the output, in versions 3 and 4.
        remove_center: set the central tap to zero, in versions 3 and 4.

    Raises:
        ValueError: an option that the version does not have.
    """
    if isinstance(version, bool) or not isinstance(version, int) or version not in (1, 2, 3, 4):
        raise ValueError(f"version must be 1, 2, 3 or 4, got {version!r}")
    _argument("groups", groups, int)
    _argument("offset_groups", offset_groups, int)
    _argument("offset_scale", offset_scale, float)
    if version <= 2:
        if center_feature_scale or remove_center:
            raise ValueError(
                "center_feature_scale and remove_center need version 3 or 4, got "
                f"version={version}, center_feature_scale={center_feature_scale}, remove_center={remove_center}"
            )
        masked = DynamicKernel(source="generated", groups=offset_groups, normalization="sigmoid", initial="zero")
        return ExtractorSpec(
            kernel_size=kernel_size,
            dilation=dilation,
            offsets=Offsets(kind="learned", groups=offset_groups, scale=offset_scale),
            static_kernel=StaticKernel(channels="dense", groups=groups),
            dynamic_kernel=masked if version == 2 else DynamicKernel(),
            generator=Generator(view="window", view_convolution="dense"),
        )
    if offset_groups != 1:
        raise ValueError(
            f"offset_groups needs version 1 or 2, version {version} has offsets for each of its groups, got offset_groups={offset_groups}"
        )
    return ExtractorSpec(
        kernel_size=kernel_size,
        dilation=dilation,
        offsets=Offsets(kind="learned", groups=groups, scale=offset_scale),
        dynamic_kernel=DynamicKernel(
            source="generated",
            groups=groups,
            normalization="softmax" if version == 3 else "none",
            remove_center=remove_center,
            initial="zero",
        ),
        generator=Generator(view=kernel_size, norm="layer", activation="gelu") if version == 3 else Generator(),
        center_feature_scale=center_feature_scale,
        projection=Projection(input="affine", output="affine"),
    )


@suggesting_arguments
def dcls(taps: int = 34, extent: Pair = 17) -> ExtractorSpec:
    """Return the depthwise DCLS (dilated convolution with learnable spacings, Khalfaoui-Hassani et al. 2023): bilinear taps at learned
    positions.

    Args:
        taps: kernel elements of a channel, each with a position of its own that is a parameter.
        extent: pixels of the window around the output, an odd number, within which the positions stay.
    """
    _argument("taps", taps, int)
    rows, columns = _pair("extent", extent)
    if rows % 2 == 0 or columns % 2 == 0:
        raise ValueError(f"extent must be odd, as it is around the output's pixel, got {extent}")
    return ExtractorSpec(
        kernel_size=(1, taps),
        offsets=Offsets(kind="parameter", channels_per_group=1, origin="center", bound="clamp", reach=(rows // 2, columns // 2)),
        static_kernel=StaticKernel(channels="depthwise"),
    )


@suggesting_arguments
def involution(kernel_size: Pair = 7, channels_per_group: int = 16, reduction: int = 4) -> ExtractorSpec:
    """Return involution (Li et al., CVPR 2021): a kernel a position, generated from its center pixel, shared by a group's channels."""
    return ExtractorSpec(
        kernel_size=kernel_size,
        dynamic_kernel=DynamicKernel(source="generated", channels_per_group=channels_per_group),
        generator=Generator(reduction=reduction, norm="batch", activation="relu"),
    )


@suggesting_arguments
def dynamic_convolution(kernel_size: Pair = (1, 7), heads: int = 4) -> ExtractorSpec:
    """Return dynamic convolution (Wu et al. 2019) of an encoder: a softmax kernel, generated from its center, that a head's channels share.

    A sequence is an image of one row. The linear maps and the gated linear unit around the window are not part.
    """
    _argument("heads", heads, int)
    return ExtractorSpec(
        kernel_size=kernel_size, dynamic_kernel=DynamicKernel(source="generated", groups=heads, normalization="softmax")
    )


@suggesting_arguments
def carafe(
    upsample: Pair = 2, kernel_size: Pair = 5, groups: int = 1, view: Pair = 3, hidden_channels: int = 64
) -> ExtractorSpec:
    """Return the upsampler CARAFE (Wang et al. 2019): every pixel generates the kernels of the outputs that replace it.

    Args:
        upsample: factor between image and output.
        kernel_size: taps of the window.
        groups: channel groups that each have kernels of their own.
        view: pixels that a kernel is generated from.
        hidden_channels: channels of the image's 1x1 compression before that.
    """
    _argument("groups", groups, int)
    _argument("hidden_channels", hidden_channels, int)
    return ExtractorSpec(
        kernel_size=kernel_size,
        upsample=upsample,
        dynamic_kernel=DynamicKernel(source="generated", groups=groups, normalization="softmax"),
        generator=Generator(
            view=view, view_convolution="depthwise" if view in (1, (1, 1)) else "dense", hidden_channels=hidden_channels
        ),
    )


@suggesting_arguments
def dysample(upsample: Pair = 2, groups: int = 4, style: Literal["lp", "pl"] = "lp", dyscope: bool = False) -> ExtractorSpec:
    """Return the upsampler DySample (Liu et al. 2023): one bilinear sample an output, at an offset that its pixel generates.

    Args:
        upsample: factor between image and output.
        groups: channel groups that each have offsets of their own.
        style: "lp": the image's pixels generate the offsets of the outputs that replace them. "pl": the outputs generate their own, from a
            pixel shuffle of the image.
        dyscope: a generated gate on each offset.
    """
    _argument("groups", groups, int)
    _argument("dyscope", dyscope, bool)
    if style not in ("lp", "pl"):
        raise ValueError(f"style must be one of ('lp', 'pl'), got {style!r}")
    return ExtractorSpec(
        kernel_size=1,
        upsample=upsample,
        offsets=Offsets(kind="learned", groups=groups, scale=0.5 if dyscope else 0.25, gated=dyscope, bound="image"),
        generator=Generator(pixel_shuffle=style == "pl"),
    )


@suggesting_arguments
def outlook_attention(kernel_size: Pair = 3, heads: int = 1, qkv_bias: bool = False) -> ExtractorSpec:
    """Return outlook attention (VOLO, Yuan et al. 2021): the center pixel generates K x K attention values, folded back."""
    _argument("heads", heads, int)
    _argument("qkv_bias", qkv_bias, bool)
    return ExtractorSpec(
        kernel_size=kernel_size,
        dynamic_kernel=DynamicKernel(source="generated", groups=heads, normalization="softmax", scale_by_head_dim=True),
        aggregation="fold",
        projection=Projection(input="affine" if qkv_bias else "linear", output="affine"),
    )


@suggesting_arguments
def local_attention(kernel_size: Pair = 7, heads: int = 1, relative_position: RelativePosition = True) -> ExtractorSpec:
    """Return local self-attention (Ramachandran et al. 2019): softmax of query-key products in the window, inside the image."""
    _argument("heads", heads, int)
    return ExtractorSpec(
        kernel_size=kernel_size,
        dynamic_kernel=DynamicKernel(
            source="similarity",
            groups=heads,
            normalization="softmax",
            scale_by_head_dim=True,
            relative_position=relative_position,
        ),
        projection=Projection(input="affine", output="affine"),
    )


@suggesting_arguments
def deformable_attention(heads: int = 8, points: int = 4) -> ExtractorSpec:
    """Return deformable attention (Deformable DETR, Zhu et al. 2021) on one map: a pixel generates where it looks, and the weights there.

    Args:
        heads: channel groups that each have points and weights of their own.
        points: sampling points of a head.
    """
    _argument("heads", heads, int)
    _argument("points", points, int)
    return ExtractorSpec(
        kernel_size=(1, points),
        offsets=Offsets(kind="learned", groups=heads, origin="center"),
        dynamic_kernel=DynamicKernel(source="generated", groups=heads, normalization="softmax", initial="zero"),
        projection=Projection(input="affine", output="affine"),
    )


@suggesting_arguments
def neighborhood_attention(kernel_size: Pair = 7, heads: int = 1, relative_position: RelativePosition = True) -> ExtractorSpec:
    """Return neighborhood attention (Hassani et al. 2023): local attention whose windows are shifted to lie inside the image."""
    return ExtractorSpec(
        kernel_size=kernel_size,
        offsets=Offsets(kind="window_shift"),
        dynamic_kernel=local_attention(kernel_size, heads, relative_position).dynamic_kernel,
        projection=Projection(input="affine", output="affine"),
    )


@suggesting_arguments
def window_attention(
    kernel_size: Pair = 7, heads: int = 1, block_start: Pair = 0, halo: Pair = 0, relative_position: RelativePosition = True
) -> ExtractorSpec:
    """Return window attention: the pixels of a block attend to all of it (Swin, Liu et al. 2021), or beyond it (HaloNet, Vaswani et al.
    2021).

    Args:
        kernel_size: taps of the window, which the pixels of a block have in common.
        heads: channel groups that each have a query, keys and values.
        block_start: place of the first whole block; half of a block for every other layer of Swin, "shifted windows".
        halo: taps of the window beyond its block, on each side.
        relative_position: add a learned bias of the relative position of query and key (Swin); "query": the query's product with a learned
            vector of it (HaloNet).
    """
    _argument("heads", heads, int)
    return ExtractorSpec(
        kernel_size=kernel_size,
        offsets=Offsets(kind="block", halo=halo, block_start=block_start),
        dynamic_kernel=local_attention(kernel_size, heads, relative_position).dynamic_kernel,
        projection=Projection(input="affine", output="affine"),
    )


@suggesting_arguments
def qna(kernel_size: Pair = 3, heads: int = 1, queries: int = 2, normalize_query: bool = False) -> ExtractorSpec:
    """Return QnA (Arar et al. 2022): local attention with learned queries, the same at every pixel, and a learned factor of each tap.

    Args:
        kernel_size: taps of the window.
        heads: channel groups that each have a part of the queries, keys and values.
        queries: number of queries, whose outputs are summed.
        normalize_query: divide each query by its norm in every head.
    """
    _argument("heads", heads, int)
    _argument("queries", queries, int)
    _argument("normalize_query", normalize_query, bool)
    attention = local_attention(kernel_size, heads)
    dynamic = replace(attention.dynamic_kernel, learned_queries=queries, normalize_query=normalize_query, tap_scale=True)
    return replace(attention, dynamic_kernel=dynamic)


@suggesting_arguments
def contmix(kernel_size: Pair = 7, small_kernel_size: Pair = 5, heads: int = 4, regions: Pair = 7) -> ExtractorSpec:
    """Return ContMix (OverLoCK, Lou and Yu 2025): a pixel's likeness to regions of the image makes kernels of two sizes.

    The rest of its block (another depthwise branch, a gate, channel attention) is not part.

    Args:
        kernel_size: taps of the larger window, of the second half of the channels.
        small_kernel_size: taps of the smaller window, of the first half.
        heads: number of kernels of either size; ``2 * num_heads`` of the released code.
        regions: regions of the image.
    """
    _argument("heads", heads, int)
    return ExtractorSpec(
        kernel_size=kernel_size,
        offsets=Offsets(kind="window_shift"),
        dynamic_kernel=DynamicKernel(
            source="regions",
            groups=heads,
            normalization="softmax",
            scale_by_head_dim=True,
            relative_position=True,
            query_reduction=2,
            regions=regions,
            small_kernel_size=small_kernel_size,
        ),
        projection=Projection(input="batch_norm"),
    )


@suggesting_arguments
def ls_convolution(kernel_size: Pair = 3, view: Pair = 7, channels_per_group: int = 8) -> ExtractorSpec:
    """Return LS convolution (LSNet, Wang et al. 2025): a wide view generates small kernels. Its block's norm and skip are not part."""
    return ExtractorSpec(
        kernel_size=kernel_size,
        dynamic_kernel=DynamicKernel(
            source="generated",
            channels_per_group=channels_per_group,
            channel_order="interleaved",
            normalization="group_norm",
        ),
        generator=Generator(view=view, reduction=2, pointwise=True, norm="batch", activation="relu"),
    )


@suggesting_arguments
def unified(
    kernel_size: Pair = 3,
    channels_per_group: int = 16,
    offset_groups: int = 1,
    view: Pair = 7,
    reduction: int = 4,
    normalization: Literal["none", "softmax", "sigmoid", "group_norm", "centered"] = "none",
    aggregation: Literal["gather", "fold"] = "gather",
    offsets: bool = True,
) -> ExtractorSpec:
    """Return the unified extractor: a static depthwise kernel, and learned offsets and a dynamic kernel from a wide view.

    A gather starts as a depthwise convolution: its offsets are zero, and so is D in S*(1 + D). A fold has S*D. Without offsets the
    extractor was as accurate where the two were compared (``experiments/01_unified``).
    """
    _argument("offset_groups", offset_groups, int)
    _argument("offsets", offsets, bool)
    fold = aggregation == "fold"
    return ExtractorSpec(
        kernel_size=kernel_size,
        offsets=Offsets(kind="learned", groups=offset_groups) if offsets else Offsets(),
        static_kernel=StaticKernel(channels="depthwise"),
        dynamic_kernel=DynamicKernel(
            source="generated",
            channels_per_group=channels_per_group,
            normalization=normalization,
            initial="random" if fold else "zero",
        ),
        generator=Generator(view=view, reduction=reduction, pointwise=True, norm="batch", activation="relu"),
        combine="multiply" if fold else "residual",
        aggregation=aggregation,
    )


def _argument(name: str, value: Any, kind: type, at_least: int = 1) -> None:
    """Raise ``TypeError`` or ``ValueError`` for an argument that the spec would refuse under another name."""
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits:
        raise TypeError(f"{name} must be {kind.__name__}, got {value!r}")
    if kind is int and value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def _pair(name: str, value: Any) -> tuple[int, int]:
    """Return an int or (y, x), each at least 1, as (y, x). Raise ``TypeError`` or ``ValueError`` for anything else."""
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(values) != 2 or any(type(size) is not int for size in values):
        raise TypeError(f"{name} must be an int or a pair (y, x) of ints, got {value!r}")
    if min(values) < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return values


def __getattr__(name: str) -> NoReturn:
    """Raise ``AttributeError`` for a preset that there is not; it says where the operator is instead, or the nearest preset."""
    own = [one for one, value in globals().items() if getattr(value, "__module__", "") == __name__ and not one.startswith("_")]
    instead = f": {MODULES[name]}" if name in MODULES else did_you_mean(name, own)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{instead}")
