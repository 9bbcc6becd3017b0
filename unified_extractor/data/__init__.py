"""Lightning data modules: labeled square images in three splits."""

from unified_extractor.data.augmentation import Augmentation
from unified_extractor.data.data_module import ImageDataModule, Loading
from unified_extractor.data.digits import Digits
from unified_extractor.data.errors import DataError
from unified_extractor.data.image_folder import ImageFolder
from unified_extractor.data.torchvision_sets import CIFAR10, CIFAR100, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "Augmentation",
    "DataError",
    "Digits",
    "FashionMNIST",
    "ImageDataModule",
    "ImageFolder",
    "Loading",
]
