"""Lightning data modules: labeled images in three splits."""

from typing import TYPE_CHECKING, NoReturn

from unified_extractor.extras import require

require("train", __name__, "lightning", "torchvision", "PIL")

from unified_extractor.data.augmentation import Augmentation
from unified_extractor.data.data_module import Loading, VisionDataModule
from unified_extractor.data.digits import Digits
from unified_extractor.data.errors import DataError
from unified_extractor.data.image_data_module import ImageDataModule
from unified_extractor.data.image_folder import ImageFolder
from unified_extractor.data.image_transform import ImageTransform
from unified_extractor.data.joint_augmentation import JointAugmentation
from unified_extractor.data.segmentation_folder import SegmentationFolder
from unified_extractor.data.torchvision_sets import CIFAR10, CIFAR100, FashionMNIST
from unified_extractor.names import no_attribute

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Augmentation",
    "DataError",
    "Digits",
    "FashionMNIST",
    "ImageDataModule",
    "ImageFolder",
    "ImageTransform",
    "JointAugmentation",
    "Loading",
    "SegmentationFolder",
    "VisionDataModule",
]


if not TYPE_CHECKING:  # a type checker shall go on to see that a name is unknown

    def __getattr__(name: str) -> NoReturn:
        """Raise ``AttributeError`` with the nearest name for one that there is not."""
        raise no_attribute(__name__, name, __all__)
