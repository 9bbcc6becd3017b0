"""Data sets that torchvision reads and, if asked to, downloads."""

from pathlib import Path
from typing import Any

import torch
import torchvision.datasets
from torch import Tensor
from typing_extensions import override

from unified_extractor.data.augmentation import Augmentation
from unified_extractor.data.data_module import Loading, Split
from unified_extractor.data.errors import DataError
from unified_extractor.data.image_data_module import ImageDataModule
from unified_extractor.data.image_datasets import MemoryImages
from unified_extractor.data.splits import balanced_subset, stratified_split


class _TorchvisionImages(ImageDataModule):
    """A data set of torchvision that has ``train=True`` and ``train=False``, held in memory.

    Args:
        root: folder of the data set.
        download: download the data set into ``root`` if it is missing.
        validation_fraction: fraction of each class's training images that is used for validation.
        per_class: largest number of training images of each class, as if there were no more.
        batch_size: images of a step on each device.
        augmentation: augmentation of the training images.
        loading: settings of the loaders.
        predict_folder: image files and folders of images that ``predict`` reads, one or a list.

    Raises:
        DataError: the data set is missing, or cannot be downloaded.
    """

    source: type[Any]

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        validation_fraction: float = 0.1,
        per_class: int | None = None,
        batch_size: int = 64,
        augmentation: Augmentation = Augmentation(),
        loading: Loading = Loading(),
        predict_folder: list[str] | str | None = None,
    ) -> None:
        super().__init__(batch_size, augmentation, loading, predict_folder)
        self.root, self.download = Path(root), download
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie between 0 and 1, got {validation_fraction}")
        if per_class is not None and per_class < 1:
            raise ValueError(f"per_class must be at least 1, got {per_class}")
        self.validation_fraction, self.per_class = validation_fraction, per_class

    @override
    def prepare_data(self) -> None:
        if self.download:
            try:
                self.source(self.root, train=True, download=True)
            except (OSError, RuntimeError) as error:
                raise DataError(f"{self.root}: {self.source.__name__} cannot be downloaded: {error}") from error

    @override
    def read(self, split: Split) -> MemoryImages:
        images, labels = self._stored(train=split != "test")
        if split == "test":
            return MemoryImages(images, labels)
        chosen = torch.arange(len(labels)) if self.per_class is None else balanced_subset(labels, self.per_class)
        train, val = stratified_split(labels[chosen], self.validation_fraction)
        chosen = chosen[val if split == "val" else train]
        return MemoryImages(images[chosen], labels[chosen])

    def _stored(self, *, train: bool) -> tuple[Tensor, Tensor]:
        """Return the stored images uint8 [N, C, S, S] and labels int64 [N]."""
        try:
            stored = self.source(self.root, train=train)
        except RuntimeError as error:
            raise DataError(
                f"{self.root}: {self.source.__name__} is not there or incomplete; pass download=true to fetch it"
            ) from error
        images = torch.as_tensor(stored.data)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(stored.targets)


class CIFAR10(_TorchvisionImages):
    """CIFAR-10 (Krizhevsky 2009): 60,000 RGB images of 32x32 pixels, ten classes."""

    name, source = "cifar10", torchvision.datasets.CIFAR10
    in_chans, image_size = 3, 32
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

    @property
    @override
    def class_names(self) -> tuple[str, ...]:
        return ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CIFAR100(_TorchvisionImages):
    """CIFAR-100 (Krizhevsky 2009): 60,000 RGB images of 32x32 pixels, a hundred classes."""

    name, source = "cifar100", torchvision.datasets.CIFAR100
    in_chans, image_size = 3, 32
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

    @property
    @override
    def class_names(self) -> tuple[str, ...]:
        return tuple(_CIFAR100_NAMES.split())


class FashionMNIST(_TorchvisionImages):
    """Fashion-MNIST (Xiao et al. 2017): 70,000 gray images of 28x28 pixels, ten classes."""

    name, source = "fashion_mnist", torchvision.datasets.FashionMNIST
    in_chans, image_size = 1, 28
    mean, std = (0.2860,), (0.3530,)

    @property
    @override
    def class_names(self) -> tuple[str, ...]:
        return tuple(torchvision.datasets.FashionMNIST.classes)


_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle caterpillar
cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree
orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose
sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
