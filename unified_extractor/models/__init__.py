"""Networks, one file for each family. Every network takes any extractor in the place of the published one."""

from typing import TYPE_CHECKING, NoReturn

from unified_extractor.models.cifar_resnet import CIFARResNet, resnet20, resnet32, resnet56
from unified_extractor.models.extractor_net import ExtractorNet, extractor_net
from unified_extractor.models.fast_net import FastNet, fast_net_b, fast_net_s
from unified_extractor.models.internimage import (
    InternImage,
    flash_internimage_b,
    flash_internimage_s,
    flash_internimage_t,
    internimage_b,
    internimage_s,
    internimage_t,
)
from unified_extractor.models.matched_net import MatchedNet
from unified_extractor.models.rednet import RedNet, rednet26, rednet38, rednet50, rednet101, rednet152
from unified_extractor.models.resnet import ResNet, resnet26, resnet38, resnet50
from unified_extractor.models.segmentation import SegmentationNet
from unified_extractor.models.staged import StagedNetwork
from unified_extractor.models.volo import VOLO, volo_d1, volo_d2, volo_d3, volo_d4, volo_d5
from unified_extractor.names import no_attribute

__all__ = [
    "VOLO",
    "CIFARResNet",
    "ExtractorNet",
    "FastNet",
    "InternImage",
    "MatchedNet",
    "RedNet",
    "ResNet",
    "SegmentationNet",
    "StagedNetwork",
    "extractor_net",
    "fast_net_b",
    "fast_net_s",
    "flash_internimage_b",
    "flash_internimage_s",
    "flash_internimage_t",
    "internimage_b",
    "internimage_s",
    "internimage_t",
    "rednet26",
    "rednet38",
    "rednet50",
    "rednet101",
    "rednet152",
    "resnet20",
    "resnet26",
    "resnet32",
    "resnet38",
    "resnet50",
    "resnet56",
    "volo_d1",
    "volo_d2",
    "volo_d3",
    "volo_d4",
    "volo_d5",
]


if not TYPE_CHECKING:  # a type checker shall go on to see that a name is unknown

    def __getattr__(name: str) -> NoReturn:
        """Raise ``AttributeError`` with the nearest name for one that there is not."""
        raise no_attribute(__name__, name, __all__)
