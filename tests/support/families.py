"""Every family at small sizes: the same places for extractors, few channels and blocks."""

from functools import partial

import unified_extractor as ux

_GROUPS = (2, 4, 8, 16)
_INTERNIMAGE = {"width": 32, "depths": (1, 1, 1, 2)}

# oneDNN's bfloat16 convolution of 4x4 pixels at stride 4 is wrong for 16 input channels (torch 2.14, AMX): VOLO's stem has 32.
SMALL = {
    "rednet": partial(ux.models.RedNet, depths=(1, 1, 1, 2)),
    "resnet": partial(ux.models.ResNet, depths=(1, 1, 1, 2)),
    "volo": partial(ux.models.VOLO, depths=(2, 1, 1, 1), widths=(32, 64), heads=(2, 4), stem_width=32, img_size=64),
    "internimage": partial(
        ux.models.InternImage, **_INTERNIMAGE, published=[ux.presets.deformable_convolution(3, groups=g) for g in _GROUPS]
    ),
    "flash_internimage": partial(
        ux.models.InternImage,
        **_INTERNIMAGE,
        published=[ux.presets.deformable_convolution(4, groups=g) for g in _GROUPS],
        post_norm=True,
        layer_scale=1e-5,
        mlp_bias=False,
    ),
    "cifar_resnet": partial(ux.models.CIFARResNet, depths=(1, 1, 2)),
    "fast_net": partial(ux.models.FastNet, widths=(16, 32, 48), depths=(1, 1, 2)),
    "extractor_net": partial(ux.models.ExtractorNet, widths=(16, 32, 48), depths=(1, 1, 2)),
}
"""Called with num_classes and spec."""

REDUCTIONS = {
    "rednet": [4, 8, 16, 32],
    "resnet": [4, 8, 16, 32],
    "volo": [8, 16, 16, 16],
    "internimage": [4, 8, 16, 32],
    "flash_internimage": [4, 8, 16, 32],
    "cifar_resnet": [1, 2, 4],
    "fast_net": [2, 4, 8],
    "extractor_net": [1, 2, 4],
}

WITH_STOCHASTIC_DEPTH = [family for family in SMALL if family != "fast_net"]
"""Families with residual branches."""

UNPUBLISHED = {"extractor_net", "fast_net_s", "fast_net_b"}
"""Names of the networks that are this package's own."""

VARIANTS = [name for name in ux.models.__all__ if name.islower()]
"""Names of all functions that build a published network."""
