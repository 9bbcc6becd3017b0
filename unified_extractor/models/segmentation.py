"""Segmentation: the stages of any family under the all-MLP decoder of SegFormer.

Source: Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers (NeurIPS 2021), section 3.2.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.models.arguments import check_rate, check_size
from unified_extractor.models.blocks import convolution_norm
from unified_extractor.models.staged import Stage, StagedNetwork
from unified_extractor.named_specs import as_spec
from unified_extractor.names import suggesting_arguments
from unified_extractor.spec import ExtractorSpec, as_pair
from unified_extractor.task import ImageTask


class MLPDecoder(nn.Module):
    """SegFormer's decoder: every map is brought to the same channels and to the size of the first, all are fused, then classified.

    Args:
        in_channels: channels of the maps.
        doublings: how often the size of each map is doubled.
        channels: channels to which every map is brought, and of the fused map.
        num_classes: classes of a pixel.
        drop_rate: dropout of whole channels before the classifier.
        upsampler: extractor that doubles the size of a map, one for each doubling; None: bilinear interpolation. With
            ``generator.guide="output"`` its guide is the map of the doubled size.

    Raises:
        ValueError: no map has the size of a guide.

    Shape:
        Maps ``[B, C_i, h_i, w_i]`` to logits ``[B, num_classes, h, w]``, where ``h`` and ``w`` are those of the first map.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        doublings: Sequence[int],
        channels: int,
        num_classes: int,
        drop_rate: float,
        upsampler: ExtractorSpec | None,
    ) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(each, channels, 1) for each in in_channels)
        self.upsample = nn.ModuleList(_doublings(count, channels, upsampler) for count in doublings)
        self.doublings = list(doublings)
        self.is_guided = upsampler is not None and upsampler.generator.guide == "output"
        missing = set(range(max(doublings))) - set(doublings)
        if self.is_guided and missing:
            raise ValueError(
                "upsampler with generator.guide='output' needs a map of every size, each half of the one before, got maps whose sizes are "
                f"doubled {', '.join(map(str, doublings))} times"
            )
        self.fuse = convolution_norm(channels * len(in_channels), channels)
        self.dropout = nn.Dropout2d(drop_rate)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return logits ``[B, num_classes, h, w]``."""
        size = maps[0].shape[2:]
        projected = [project(each) for project, each in zip(self.project, maps, strict=True)]
        finest = [resized(self._upsampled(place, projected), size) for place in range(len(maps))]
        return self.classify(self.dropout(self.fuse(torch.cat(finest, 1))))

    def _upsampled(self, place: int, projected: list[Tensor]) -> Tensor:
        """Return a map whose size is doubled as often as its place asks for; a guide is the map of the doubled size."""
        x = projected[place]
        extractors: Iterable[nn.Module] = self.upsample[place].children()
        for step, extractor in enumerate(extractors, 1):
            guide = None
            if self.is_guided:
                finer = projected[self.doublings.index(self.doublings[place] - step)]
                guide = resized(finer, (2 * x.shape[2], 2 * x.shape[3]))  # an odd size is one less than the double
            x = extractor(x, guide)
        return x


class SegmentationNet(nn.Module):
    """A network that gives every pixel a class: the stages of an image classifier, a light decoder, and interpolation to the image's size.

    Args:
        backbone: network whose stages are used; its head and its last norm are removed.
        num_classes: classes of a pixel.
        channels: channels of the decoder; 256 in SegFormer-B0 and B1, 768 in the larger ones.
        drop_rate: dropout of whole channels before the classifier of pixels.
        upsampler: extractor with ``upsample=2``, such as :func:`unified_extractor.presets.carafe`, that brings maps to the size of the
            first stage's; None: bilinear interpolation, as published. From there to the image's size it is always interpolation. With
            ``generator.guide="output"`` the map of the doubled size is its guide.

    Attributes:
        in_chans: channels of the image.
        config: the name of the class as ``network``, and the arguments that build this network again, the backbone's among them.
        task: classes and normalization of the images that the network was trained on, where they are known.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes, H, W]``.

    Raises:
        TypeError, ValueError: a wrong argument, or an image that the backbone does not take.
    """

    task: ImageTask | None = None

    @suggesting_arguments
    def __init__(
        self,
        backbone: StagedNetwork,
        num_classes: int,
        *,
        channels: int = 256,
        drop_rate: float = 0.1,
        upsampler: ExtractorSpec | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, StagedNetwork):
            raise TypeError(f"backbone must be one of unified_extractor.models with stages, got {type(backbone).__name__}")
        check_size("num_classes", num_classes)
        check_size("channels", channels)
        check_rate("drop_rate", drop_rate)
        if upsampler is not None:
            upsampler = as_spec(upsampler, "upsampler")
            if as_pair(upsampler.upsample) != (2, 2):
                raise ValueError(f"upsampler must double the size of a map, got upsample={upsampler.upsample}")
        stages = range(len(backbone.stages))
        backbone.prune_intermediate_layers(list(stages), prune_norm=True, prune_head=True)
        self.backbone, self.num_classes, self.in_chans = backbone, num_classes, backbone.in_chans
        self.config: dict[str, Any] = {
            "network": type(self).__name__,
            "backbone": backbone.config,
            "num_classes": num_classes,
            "channels": channels,
            "drop_rate": drop_rate,
            "upsampler": upsampler,
        }
        widths, reductions = ([info[key] for info in backbone.feature_info] for key in ("num_chs", "reduction"))
        doublings = [(reduction // reductions[0]).bit_length() - 1 for reduction in reductions]
        self.decoder = MLPDecoder(widths, doublings, channels, num_classes, drop_rate, upsampler)

    @property
    def stages(self) -> list[Stage]:
        """Return the stages of the backbone in order."""
        return self.backbone.stages

    @property
    def specs(self) -> list[ExtractorSpec]:
        """Return the extractor of every stage that has one."""
        return self.backbone.specs

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[B, num_classes, H, W]`` of images ``[B, in_chans, H, W]``."""
        maps = self.backbone.forward_intermediates(x, intermediates_only=True)
        return resized(self.decoder(maps), x.shape[2:])

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters of several axes that are not weights: optimizers should not let them decay."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: recompute the activations inside the backbone's blocks in backward."""
        self.backbone.set_grad_checkpointing(enable)


def _doublings(count: int, channels: int, spec: ExtractorSpec | None) -> nn.Sequential:
    """Return the extractors that double the size of a map so often; without a spec, nothing."""
    return nn.Sequential(*(UnifiedExtractor2d(channels, channels, spec) for _ in range(count))) if spec else nn.Sequential()


def resized(x: Tensor, size: Any) -> Tensor:
    """Return a map ``[B, C, h, w]`` at the size ``(H, W)``, by bilinear interpolation between the centers of pixels."""
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
