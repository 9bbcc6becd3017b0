"""A plain staged network in which every stage may use another extractor."""

from collections.abc import Sequence

from torch import nn

import unified_extractor.presets as presets
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.models.arguments import (
    Specs,
    check_positive,
    check_size,
    check_stage_sizes,
    check_stages,
    drop_path_rates,
    spec_of_stage,
    stage_specs,
)
from unified_extractor.models.blocks import Residual, pointwise_mlp
from unified_extractor.models.staged import PooledHead, Stage, StagedNetwork
from unified_extractor.names import suggesting_arguments
from unified_extractor.spec import ExtractorSpec


def _block(channels: int, spec: ExtractorSpec, mlp_ratio: float, drop_path: float) -> nn.Sequential:
    """Return ``x + extractor(norm(x))``, then ``x + mlp(norm(x))``."""
    extractor, mlp = placed_extractor(channels, channels, spec), pointwise_mlp(channels, mlp_ratio)
    return nn.Sequential(
        Residual({"norm": nn.BatchNorm2d(channels), "extractor": extractor}, drop_path),
        Residual({"norm": nn.BatchNorm2d(channels), "mlp": mlp}, drop_path),
    )


class ExtractorNet(StagedNetwork):
    """An image classifier of stages: two networks of the same widths and depths differ in their extractor only.

    A stage is a 3x3 convolution, which changes width and size, and blocks of an extractor and an MLP.

    Args:
        num_classes: number of outputs; 0: the pooled features.
        spec: one extractor for all stages, or a list of one for each; None: :func:`unified_extractor.presets.unified`.
        in_chans: channels of the image.
        widths: channels of every stage. The first stage has stride ``stem_stride``, every further one 2.
        depths: blocks of every stage.
        stem_stride: stride of the first stage.
        mlp_ratio: hidden channels of the MLP after every extractor, as a multiple of the width; one for all stages, or a list of
            one for each.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block, growing linearly from 0.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``.

    Raises:
        TypeError, ValueError: a wrong argument, lists of different lengths, a spec whose groups do not divide the channels of a stage,
            or an image with other than ``in_chans`` channels.
    """

    @suggesting_arguments
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
            check_size(name, value)
        check_stage_sizes(widths=widths, depths=depths)
        ratios = list(mlp_ratio) if isinstance(mlp_ratio, Sequence) else [mlp_ratio] * len(widths)
        for ratio in ratios:
            check_positive("mlp_ratio", ratio)
        check_stages(widths=widths, mlp_ratio=ratios)
        specs = stage_specs(presets.unified() if spec is None else spec, len(widths))
        stages, rates = [], drop_path_rates(drop_path_rate, depths)
        for i, (width, one, ratio) in enumerate(zip(widths, specs, ratios, strict=True)):
            stride, before = (stem_stride, in_chans) if i == 0 else (2, widths[i - 1])
            entry = nn.Sequential(nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width))
            with spec_of_stage(i + 1, width):
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
            arguments={
                "num_classes": num_classes,
                "spec": spec,
                "in_chans": in_chans,
                "widths": widths,
                "depths": depths,
                "stem_stride": stem_stride,
                "mlp_ratio": mlp_ratio,
                "drop_rate": drop_rate,
                "drop_path_rate": drop_path_rate,
            },
        )


extractor_net = ExtractorNet
"""The name in lower case, as timm and model zoos spell their networks."""
