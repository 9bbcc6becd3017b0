"""Published operators as values of the spec. Nothing in the package asks for a preset's name.

The equations each preset stands for, and the papers, are listed in ``paper_notes.md``.
"""

from typing import Literal

from unified_extractor.spec import (
    DynamicKernel,
    ExtractorSpec,
    Generator,
    Offsets,
    Pair,
    Projection,
    StaticKernel,
)


def convolution(kernel_size: Pair = 3, groups: int = 1, dilation: Pair = 1, bias: bool = False) -> ExtractorSpec:
    """Convolution: a dense static kernel on the regular grid, in ``groups`` channel groups."""
    return ExtractorSpec(
        kernel_size=kernel_size, dilation=dilation, static_kernel=StaticKernel(channels="dense", groups=groups), bias=bias
    )


def grouped_convolution(kernel_size: Pair = 3, groups: int = 2, dilation: Pair = 1, bias: bool = False) -> ExtractorSpec:
    """Grouped convolution (ResNeXt, Xie et al. 2017): channels mix inside ``groups`` only."""
    return convolution(kernel_size, groups, dilation, bias)


def depthwise_convolution(kernel_size: Pair = 3) -> ExtractorSpec:
    """Depthwise convolution: each channel has a static kernel of its own and mixes with no other."""
    return ExtractorSpec(kernel_size=kernel_size, static_kernel=StaticKernel(channels="depthwise"))


def squeeze_excitation(reduction: int = 16) -> ExtractorSpec:
    """Squeeze-and-excitation (Hu et al. 2018): a 1x1 window, one sigmoid weight a channel, generated from the whole image."""
    return ExtractorSpec(
        kernel_size=1,
        dynamic_kernel=DynamicKernel(source="generated", channels_per_group=1, normalization="sigmoid"),
        generator=Generator(view="global", reduction=reduction, activation="relu"),
    )


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
    """Deformable convolution: v1 (Dai et al. 2017), v2 (Zhu et al. 2019), v3 (Wang et al. 2023), v4 (Xiong et al. 2024).

    ``groups`` is convolution groups in v1 and v2, kernel and offset groups in v3 and v4. Versions 1 and 2 have ``offset_groups``;
    ``center_feature_scale`` and ``remove_center`` belong to versions 3 and 4. Raises ``ValueError`` for options a version lacks.
    """
    if isinstance(version, bool) or not isinstance(version, int) or version not in (1, 2, 3, 4):
        raise ValueError(f"version must be 1, 2, 3 or 4, got {version!r}")
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
            f"offset_groups needs version 1 or 2, version {version} has one per group, got offset_groups={offset_groups}"
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


def involution(kernel_size: Pair = 7, channels_per_group: int = 16, reduction: int = 4) -> ExtractorSpec:
    """Involution (Li et al., CVPR 2021): a kernel a position, generated from its centre pixel, shared by a group's channels."""
    return ExtractorSpec(
        kernel_size=kernel_size,
        dynamic_kernel=DynamicKernel(source="generated", channels_per_group=channels_per_group),
        generator=Generator(reduction=reduction, norm="batch", activation="relu"),
    )


def outlook_attention(kernel_size: Pair = 3, heads: int = 1, qkv_bias: bool = False) -> ExtractorSpec:
    """Outlook attention (VOLO, Yuan et al. 2021): the centre pixel generates K x K attention values, folded back."""
    return ExtractorSpec(
        kernel_size=kernel_size,
        dynamic_kernel=DynamicKernel(source="generated", groups=heads, normalization="softmax", scale_by_head_dim=True),
        aggregation="fold",
        projection=Projection(input="affine" if qkv_bias else "linear", output="affine"),
    )


def local_attention(kernel_size: Pair = 7, heads: int = 1, relative_position: bool = True) -> ExtractorSpec:
    """Local self-attention (Ramachandran et al. 2019): query-key softmax inside the window, taps outside the image masked."""
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


def neighborhood_attention(kernel_size: Pair = 7, heads: int = 1, relative_position: bool = True) -> ExtractorSpec:
    """Neighborhood attention (Hassani et al. 2023): local attention whose windows shift to stay inside the image."""
    return ExtractorSpec(
        kernel_size=kernel_size,
        offsets=Offsets(kind="window_shift"),
        dynamic_kernel=local_attention(kernel_size, heads, relative_position).dynamic_kernel,
        projection=Projection(input="affine", output="affine"),
    )


def ls_convolution(kernel_size: Pair = 3, view: Pair = 7, channels_per_group: int = 8) -> ExtractorSpec:
    """LS convolution (LSNet, Wang et al. 2025): a wide view generates small kernels. Its block's outer norm and skip are not here."""
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


def unified(
    kernel_size: Pair = 3,
    channels_per_group: int = 16,
    offset_groups: int = 1,
    view: Pair = 7,
    reduction: int = 4,
    normalization: Literal["none", "softmax", "sigmoid", "group_norm"] = "none",
    aggregation: Literal["gather", "fold"] = "gather",
    offsets: bool = True,
) -> ExtractorSpec:
    """The unified extractor: learned offsets, a static depthwise kernel and a generated one, both from a wide view.

    Gather starts as a plain depthwise convolution: offsets are zero and S*(1 + D) has D zero. Fold only multiplies. Without offsets it
    was as accurate where the two were compared (``experiments/01_unified``).
    """
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
