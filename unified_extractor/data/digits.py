"""The handwritten digits of scikit-learn: real data that need no download."""

from functools import cache

import torch
from torch import Tensor
from typing_extensions import override

from unified_extractor.data.data_module import Split
from unified_extractor.data.image_data_module import ImageDataModule
from unified_extractor.data.image_datasets import MemoryImages
from unified_extractor.data.splits import stratified_split

_FRACTION = 0.2


class Digits(ImageDataModule):
    """1,797 gray images of 8x8 pixels in ten classes, part of scikit-learn (Alpaydin and Kaynak 1998, UCI).

    The split is fixed and stratified: 1,151 images for training, 287 for validation, 359 for the test.

    Args:
        batch_size: images of a step on each device.
        augmentation: augmentation of the training images.
        loading: settings of the loaders.
        predict_folder: image files and folders of images that ``predict`` reads, one or a list.
    """

    name = "digits"
    in_chans = 1
    image_size = 8
    mean = (0.305,)
    std = (0.376,)

    @property
    @override
    def class_names(self) -> tuple[str, ...]:
        return tuple("0123456789")

    @override
    def read(self, split: Split) -> MemoryImages:
        images, labels = _digits()
        learning, test = stratified_split(labels, _FRACTION)
        train, val = (learning[part] for part in stratified_split(labels[learning], _FRACTION))
        chosen = {"train": train, "val": val, "test": test}[split]
        return MemoryImages(images[chosen], labels[chosen])


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Return images uint8 [N, 1, 8, 8], scaled from gray levels 0..16 to 0..255, and labels int64 [N]."""
    from sklearn.datasets import load_digits  # a slow import, and only this data set needs it

    digits = load_digits()
    images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    return images, torch.from_numpy(digits.target).long()
