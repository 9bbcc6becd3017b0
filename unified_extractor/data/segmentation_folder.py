"""A data set for segmentation in a folder: image files, and a label map for each."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch.utils.data import Dataset
from typing_extensions import override

from unified_extractor.data.class_table import FILE, ClassTable, read_class_table
from unified_extractor.data.class_weights import PixelCounts, count_pixels
from unified_extractor.data.copies import LIMIT, CopyFinder, leaks
from unified_extractor.data.data_module import Loading, Split
from unified_extractor.data.device_loader import DeviceLoader, DeviceMapLoader
from unified_extractor.data.errors import DataError
from unified_extractor.data.image_datasets import MEMORY_LIMIT, UNCOUNTED
from unified_extractor.data.image_files import find_images, in_words
from unified_extractor.data.joint_augmentation import JointAugmentation
from unified_extractor.data.measured_normalization import MeasuredNormalization
from unified_extractor.data.samplers import EpochSampler, EvaluationSampler
from unified_extractor.data.segmented_images import MemorySegmentedImages, SegmentedFiles, UnlabeledSizedImages
from unified_extractor.data.split_folders import SplitFolders
from unified_extractor.data.splits import random_split
from unified_extractor.recipes import as_file
from unified_extractor.task import ImageTask

IMAGES, LABELS = "images", "labels"
"""Names of the folders of a split."""


@dataclass
class _Pairs:
    """The files of a split: ``images`` and their label ``maps`` in the same order."""

    images: list[Path]
    maps: list[Path]

    def chosen(self, indices: torch.Tensor) -> "_Pairs":
        return _Pairs([self.images[i] for i in indices], [self.maps[i] for i in indices])


class _SegmentationFolders(SplitFolders):
    content: ClassVar = f"the folders {IMAGES} and {LABELS}"


class SegmentationFolder(MeasuredNormalization):
    """Images in ``root/<split>/images`` and their label maps, of the same names without extension, in ``root/<split>/labels``.

    The splits are ``train``, ``test`` and, if that folder exists, ``val``. A label map is a PNG file whose pixels are indices of classes:
    gray levels, or indices into a palette. Names and colors of the classes stand in ``root/classes.csv``: a header
    ``name,red,green,blue``, then a line for each class. Loaders return ``images`` float32 [B, in_chans, H, W], normalized, and ``labels``
    uint8 [B, H, W], 255 where a pixel counts for nothing.

    Args:
        root: folder that holds ``train``, ``test`` and perhaps ``val``.
        image_size: height and width in pixels, an int if they are equal, to which images and maps are resized, whatever their
            proportions. Predictions have the size of their files.
        ignore_index: value in label maps of the pixels that count for nothing.
        classes: file of the classes, by default ``classes.csv`` in ``root``.
        name: name of the data set in records; by default that of its folder.
        validation_fraction: fraction of the training images that is used for validation if there is no such folder; other training
            images that are copies of these are left out.
        mean: mean of each channel, as a fraction of the full range; by default that of the training images. A trained network is
            always given images as it was trained on.
        std: standard deviation of each channel, as a fraction of the full range; by default that of the training images.
        batch_size: images of a step on each device.
        augmentation: augmentation of the training images together with their maps.
        loading: settings of the loaders.
        predict_folder: image files and folders of images that ``predict`` reads, one or a list.
        in_chans: 3 to read images as RGB, 1 as gray; by default as many as ``mean`` has values, or 3.

    Raises:
        DataError: a folder or a file's partner is missing, sizes do not match, a label is no class, or an image is unreadable.
    """

    def __init__(
        self,
        root: str,
        image_size: int | tuple[int, int],
        ignore_index: int = UNCOUNTED,
        classes: str | None = None,
        name: str | None = None,
        validation_fraction: float = 0.1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        batch_size: int = 16,
        augmentation: JointAugmentation = JointAugmentation(),
        loading: Loading = Loading(),
        predict_folder: list[str] | str | None = None,
        in_chans: Literal[1, 3] | None = None,
    ) -> None:
        super().__init__(batch_size, loading, predict_folder)
        self.root, self.classes = Path(root), as_file(classes) if classes else Path(root) / FILE
        self.name = name or self.root.resolve().name
        self.image_size = image_size if isinstance(image_size, int) else (image_size[0], image_size[1])
        self.set_normalization(mean, std, in_chans)
        if min(self.image_shape) < 1:
            raise ValueError(f"image_size must be at least 1 pixel high and wide, got {image_size}")
        if not 0 < validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie between 0 and 1, got {validation_fraction}")
        self.ignore_index, self.validation_fraction, self.augmentation = ignore_index, validation_fraction, augmentation
        self._folders = _SegmentationFolders(self.root)
        self._pairs: dict[str, _Pairs] = {}
        self._copies, self._left_out = CopyFinder(), 0  # training images that are copies of validation images
        self._counts: list[PixelCounts] = []  # a list, so that copies of the module share it: counting reads all maps

    @property
    @override
    def class_names(self) -> tuple[str, ...]:
        return self._classes.names

    @property
    @override
    def task(self) -> ImageTask:
        return replace(super().task, colors=self._classes.colors)

    def pixel_counts(self) -> PixelCounts:
        """Return how many training pixels each class has. Raise ``DataError`` if no pixel is labeled at all."""
        if not self._counts:
            self._counts.append(count_pixels(self.images("train"), self.num_classes))  # type: ignore[arg-type]
        if not self._counts[0].of_class.any():
            raise DataError(
                f"{self._folders.existing('train') / LABELS}: every pixel is ignore_index, {self.ignore_index}", "ignore_index"
            )
        return self._counts[0]

    @override
    def logits_shape(self, images: Sequence[int], num_classes: int) -> tuple[int, ...]:
        return images[0], num_classes, *images[2:]

    @override
    def label_in_words(self, label: Any) -> str:
        names = [self.class_names[index] for index in label.unique().tolist() if index != UNCOUNTED]
        return f"with {', '.join(names)}" if names else "without labels"

    @override
    def training_transform(self) -> Callable[..., Any]:
        _, *size = self.image_shape
        return self.augmentation.transform((size[0], size[1]), self.mean)

    @override
    def unlabeled(self, files: Sequence[Path]) -> Dataset[Any]:
        channels, height, width = self.image_shape
        return UnlabeledSizedImages(files, channels, (height, width))

    @override
    def read(self, split: Split) -> Dataset[Any]:
        source = self._folders.source(split)
        pairs = self._found(source)
        if source == "train" and self._folders.source("val") == "train":
            try:
                rest, taken = random_split(len(pairs.images), self.validation_fraction)
            except ValueError as error:
                raise DataError(f"{self._folders.folder('train')}: cannot be split for validation: {error}") from error
            pairs = pairs.chosen(taken) if split == "val" else self._without_copies(pairs.chosen(rest), pairs.chosen(taken))
        channels, height, width = self.image_shape
        files = SegmentedFiles(
            pairs.images,
            pairs.maps,
            in_chans=channels,
            size=(height, width),
            num_classes=self.num_classes,
            ignore_index=self.ignore_index,
        )
        return files.in_memory() if files.bytes <= MEMORY_LIMIT else files

    @override
    def described(self, splits: Sequence[Split] = ("train", "val", "test")) -> str:
        parts = [super().described(splits), *self._folders.validation_in_words(splits, self.validation_fraction)]
        sources = {self._folders.source(split) for split in splits}
        own = Counter(
            {"files beside the splits": int(self.classes.resolve().parent == self.root.resolve())}
        )  # the table of classes
        left_out = self._folders.left_out() - own
        if self._left_out:
            left_out["training images that are copies of validation images"] = self._left_out
        parts += filter(None, [in_words(left_out)])
        return "; ".join([*parts, *leaks(self._copies, {source: self._found(source).images for source in sources})])

    @override
    def _augmented(self) -> list[str]:
        return self.augmentation.changed()

    @override
    def _held_on_device(self, split: Split) -> bool:
        return self.loading.on_device is not False and isinstance(self.images(split), MemorySegmentedImages)

    @override
    def _device_loader(self, split: Split, sampler: EpochSampler | EvaluationSampler, device: torch.device) -> DeviceLoader:
        return DeviceMapLoader(
            self.images(split),  # type: ignore[arg-type]
            sampler,
            batch_size=self.batch_size,
            mean=self.mean,
            std=self.std,
            transform=self.training_transform() if split == "train" else None,
            device=device,
        )

    def _without_copies(self, train: _Pairs, val: _Pairs) -> _Pairs:
        """Return the training images that are no copies of validation images, unless there is no other."""
        if len(train.images) + len(val.images) > LIMIT:
            return train
        copies = set(self._copies.find(train.images, val.images))
        kept = [index for index in range(len(train.images)) if index not in copies]
        self._left_out = len(copies) if kept else 0
        return train.chosen(torch.tensor(kept)) if kept else train

    @cached_property
    def _classes(self) -> ClassTable:
        return read_class_table(self.classes)

    def _found(self, split: str) -> _Pairs:
        if split not in self._pairs:
            self._pairs[split] = _paired(self._folders.existing(split))
        return self._pairs[split]


def _paired(folder: Path) -> _Pairs:
    """Return the images and label maps of a split. Raise ``DataError`` for a file without a partner."""
    images, maps = (_by_stem(folder / name) for name in (IMAGES, LABELS))
    for one, other, missing in ((images, maps, LABELS), (maps, images, IMAGES)):
        if unpaired := sorted(one.keys() - other.keys()):
            more = f", nor have {len(unpaired) - 1} other files one" if len(unpaired) > 1 else ""
            raise DataError(
                f"{one[unpaired[0]]}: no file {unpaired[0]}.* in {folder / missing}{more}: names pair without their extensions"
            )
    return _Pairs([images[stem] for stem in sorted(images)], [maps[stem] for stem in sorted(images)])


def _by_stem(folder: Path) -> dict[str, Path]:
    """Return the images in a folder and below by their path inside it, without the extension."""
    found: dict[str, Path] = {}
    for path in find_images(folder).files:
        stem = str(path.relative_to(folder).with_suffix(""))
        if stem in found:
            raise DataError(f"{found[stem]} and {path} have one name without their extensions: one must go")
        found[stem] = path
    return found
