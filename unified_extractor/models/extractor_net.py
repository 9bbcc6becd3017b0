"""A generic staged network in which any stage uses any extractor."""

from collections.abc import Sequence

from torch import nn

from unified_extractor import presets
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.models.arguments import Specs, check_positive, check_sizes, check_stages, drop_path_rates, stage_specs
from unified_extractor.models.blocks import Residual, pointwise_mlp
from unified_extractor.models.staged import PooledHead, Stage, StagedNetwork
from unified_extractor.spec import ExtractorSpec


def _block(channels: int, spec: ExtractorSpec, mlp_ratio: float, drop_path: float) -> nn.Sequential:
    """``x + extractor(norm(x))``, then ``x + mlp(norm(x))``; height, width and channels stay."""
    extractor, mlp = placed_extractor(channels, channels, spec), pointwise_mlp(channels, mlp_ratio)
    return nn.Sequential(
        Residual({"norm": nn.BatchNorm2d(channels), "extractor": extractor}, drop_path),
        Residual({"norm": nn.BatchNorm2d(channels), "mlp": mlp}, drop_path),
    )


class ExtractorNet(StagedNetwork):
    """A staged image classifier; the extractor is the only difference between two networks of the same widths and depths.

    A 3x3 convolution at the start of every stage changes width and size.

    Args:
        num_classes: outputs; 0: the pooled features.
        spec: one extractor for all stages, or one each; None: :func:`unified_extractor.presets.unified`.
        in_chans: channels of the image.
        widths: channels of every stage. The first stage has stride ``stem_stride``, every further one 2.
        depths: blocks of every stage.
        stem_stride: stride of the first stage.
        mlp_ratio: hidden channels of the pointwise MLP after every extractor, as a multiple of the width; one for all stages, or
            one each.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``.

    Raises:
        ValueError, TypeError: sizes that are no positive ints, lists of different lengths, widths that a spec's groups do not divide,
            an image with other than ``in_chans`` channels.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        spec: Specs | None = None,
        *,
        in_chans: int = 3,
        widths: Sequence[int] = (32, 64, 128),
        depths: Sequence[int] = (1, 1, 1),
        stem_stride: int = 1,
        mlp_ratio: float | Sequence[float] = 2.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        for name, value in (("in_chans", in_chans), ("stem_stride", stem_stride)):
            check_sizes(name, [value])
        check_sizes("widths", widths)
        check_sizes("depths", depths)
        ratios = [mlp_ratio] * len(widths) if isinstance(mlp_ratio, int | float) else list(mlp_ratio)
        for ratio in ratios:
            check_positive("mlp_ratio", ratio)
        check_stages(widths=widths, depths=depths, mlp_ratio=ratios)
        specs = stage_specs(spec, presets.unified(), len(widths))
        stages, rates = [], drop_path_rates(drop_path_rate, depths)
        for i, (width, one, ratio) in enumerate(zip(widths, specs, ratios, strict=True)):
            stride, before = (stem_stride, in_chans) if i == 0 else (2, widths[i - 1])
            entry = nn.Sequential(nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width))
            blocks = [_block(width, one, ratio, rate) for rate in rates[i]]
            stages.append(Stage(entry, *blocks, out_channels=width, stride=stride))
        super().__init__(
            in_chans=in_chans,
            num_classes=num_classes,
            specs=specs,
            stem=nn.Identity(),
            stem_stride=1,
            stages=stages,
            norm=nn.BatchNorm2d(widths[-1]),
            head=PooledHead(widths[-1], num_classes, drop_rate),
            arguments=locals(),
        )


extractor_net = ExtractorNet
"""The name under which model zoos would look for it."""
