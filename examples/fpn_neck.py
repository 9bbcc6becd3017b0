"""A feature pyramid (FPN) for detectors whose maps are upsampled by CARAFE or DySample in place of nearest neighbors.

Command: python examples/fpn_neck.py [image size]

It prints the maps of the pyramid and what the upsamplers of its neck cost. The backbone that it builds goes into any detector of
torchvision, for example ``torchvision.models.detection.FasterRCNN(pyramid(ux.presets.carafe()), num_classes=91)``.
"""

import sys
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork

import unified_extractor as ux

UPSAMPLERS = {"nearest neighbors": None, "CARAFE": ux.presets.carafe(), "DySample": ux.presets.dysample()}


class UpsamplingPyramid(FeaturePyramidNetwork):
    """A feature pyramid network whose top-down maps are upsampled by an extractor.

    Args:
        in_channels_list: channels of the backbone's maps, the finest first; each map is half as large as the one before, rounded up.
        out_channels: channels of the pyramid's maps.
        spec: the extractor, with ``upsample=2``.
        options: further arguments of torchvision's ``FeaturePyramidNetwork``.
    """

    def __init__(self, in_channels_list: list[int], out_channels: int, spec: ux.ExtractorSpec, **options: nn.Module) -> None:
        super().__init__(in_channels_list, out_channels, **options)
        steps = range(len(in_channels_list) - 1)
        self.upsamplers = nn.ModuleList(ux.UnifiedExtractor2d(out_channels, out_channels, spec) for _ in steps)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the pyramid's maps, the finest first, of those of the backbone."""
        names, maps = list(x), list(x.values())
        laterals = [block(one) for block, one in zip(self.inner_blocks, maps, strict=True)]
        sums = [laterals[-1]]
        for lateral, upsample in zip(laterals[-2::-1], reversed(self.upsamplers), strict=True):
            rows, columns = lateral.shape[2:]  # of an odd size where the map above was rounded up
            sums.append(lateral + upsample(sums[-1])[:, :, :rows, :columns])
        results = [block(one) for block, one in zip(self.layer_blocks, reversed(sums), strict=True)]
        if self.extra_blocks is not None:
            results, names = self.extra_blocks(results, maps, names)
        return OrderedDict(zip(names, results, strict=True))


def pyramid(spec: ux.ExtractorSpec | None, network: nn.Module | None = None, channels: int = 256) -> BackboneWithFPN:
    """Return a backbone with a feature pyramid: of the network's stages, with the extractor as upsampler, or None for nearest neighbors."""
    network = ux.models.resnet50() if network is None else network
    stages, widths = zip(*((stage["module"], stage["num_chs"]) for stage in network.feature_info), strict=True)
    backbone = BackboneWithFPN(network, {name: str(i) for i, name in enumerate(stages)}, list(widths), channels)
    if spec is not None:
        backbone.fpn = UpsamplingPyramid(list(widths), channels, spec, extra_blocks=backbone.fpn.extra_blocks)
    return backbone


def upsampling_cost(backbone: BackboneWithFPN, maps: dict[str, Tensor]) -> tuple[int, int]:
    """Return the parameters and the multiply-adds of the upsamplers, for maps of these sizes, the finest first."""
    upsamplers = getattr(backbone.fpn, "upsamplers", [])
    sizes = [one.shape[1:] for one in list(maps.values())[1 : len(upsamplers) + 1]]
    costs = [ux.analysis.cost(layer, tuple(size)) for layer, size in zip(upsamplers, sizes, strict=True)]
    return sum(cost.parameters for cost in costs), sum(cost.multiply_adds for cost in costs)


def main(size: int = 224, network: nn.Module | None = None) -> None:
    """Print the maps of a pyramid, and a line for each upsampler."""
    for name, spec in UPSAMPLERS.items():
        backbone = pyramid(spec, network).eval()
        with torch.no_grad():
            maps = backbone(torch.randn(1, 3, size, size))
        if spec is None:
            print("maps:", ", ".join(f"{key} {'x'.join(map(str, one.shape[1:]))}" for key, one in maps.items()))
        parameters, multiply_adds = upsampling_cost(backbone, maps)
        print(f"{name:<20}{parameters:>12,} parameters{multiply_adds:>16,} multiply-adds to upsample")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
