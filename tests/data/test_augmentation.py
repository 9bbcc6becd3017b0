"""Augmentation of training images, by batch or image by image."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.epochs import epoch_of
from tests.support.image_folders import image_folder
from unified_extractor.data import Augmentation, Digits, ImageFolder, Loading
from unified_extractor.data.augmentation import DRAWS, augment_batch


@pytest.mark.parametrize("on_device", [None, False])
def test_augmentation_crops_and_flips_the_training_images_only(on_device: bool | None):
    loading = Loading(seed=0, on_device=on_device)
    plain, cropped = (Digits(512, Augmentation(crop_padding=padding), loading) for padding in (0, 1))
    torch.testing.assert_close(epoch_of(plain, 0)[1], epoch_of(cropped, 0)[1])
    assert not torch.equal(epoch_of(plain, 0)[0], epoch_of(cropped, 0)[0])
    for loader in ("val_dataloader", "test_dataloader"):
        one, two = (next(iter(getattr(data, loader)()))[0] for data in (plain, cropped))
        assert torch.equal(one, two)


def test_a_batch_is_cropped_flipped_and_erased_as_its_draws_say():
    images = torch.arange(1, 2 * 3 * 36 + 1).remainder(251).to(torch.uint8).view(2, 3, 6, 6)
    padded = torch.nn.functional.pad(images, (2,) * 4)
    settings = Augmentation(crop_padding=2, flip=True, erasing=0.5)
    draws = torch.full((3, DRAWS), 0.99)
    draws[0, :3] = torch.tensor([0.5, 0.5, 0.9])  # the middle, not flipped
    draws[1, :3] = torch.tensor([0.5, 0.5, 0.1])  # flipped
    draws[2, :3] = torch.tensor([0.0, 0.99, 0.9])  # up and to the right
    draws[2, 3] = 0.1  # erased
    crops, erased = augment_batch(padded, torch.tensor([0, 1, 1]), draws, settings)
    assert torch.equal(crops[0], images[0])
    assert torch.equal(crops[1], images[1].flip(2))
    assert torch.equal(crops[2, :, 2:, :4], images[1, :, :4, 2:])
    assert not crops[2, :, :2].any()
    assert not crops[2, :, :, 4:].any()
    assert not erased[:2].any()
    assert 0 < int(erased[2].sum()) < 36


def test_draws_are_spread_over_all_shifts_and_box_sizes():
    draws = torch.rand(4000, DRAWS, generator=torch.Generator().manual_seed(0))
    images = torch.zeros(1, 1, 36, 36, dtype=torch.uint8)
    images[0, 0, 10, 20] = 255
    settings = Augmentation(crop_padding=2, flip=True, erasing=0.25)
    crops, erased = augment_batch(images, torch.zeros(4000, dtype=torch.long), draws, settings)
    places = crops[:, 0].flatten(1).argmax(1)
    counts = places.unique(return_counts=True)[1]
    assert len(counts) == 5 * 10  # five rows, five columns, mirrored or not
    assert counts.min() > 40
    boxes = erased[:, 0].flatten(1).sum(1)
    assert 0.22 < (boxes > 0).float().mean() < 0.28
    share = boxes[boxes > 0] / 32**2
    assert share.min() > 0.015
    assert share.max() < 0.36
    assert 0.15 < share.mean() < 0.2


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(resized_crop=0.3, flip=True, randaugment_magnitude=9, erasing=1.0),
        Augmentation(crop_padding=2, color_jitter=0.4),
    ],
)
def test_augmentation_of_single_images_by_torchvision(augmentation: Augmentation, tmp_path: Path):
    data = ImageFolder(str(image_folder(tmp_path)), image_size=16, augmentation=augmentation, batch_size=8)
    one, two = (epoch_of(data, epoch)[0] for epoch in (0, 1))
    assert one.shape == two.shape == (16, 3, 16, 16)
    assert not torch.equal(one, two)
    assert torch.equal(one, epoch_of(data, 0)[0])


def test_a_resized_crop_chooses_from_the_whole_image_file(tmp_path: Path):
    folder = image_folder(tmp_path)
    for path in (folder / "train").rglob("*.png"):  # left half black, right half white: a square center crop has both
        Image.fromarray(np.repeat([[0] * 40 + [255] * 40], 20, 0).astype(np.uint8)).save(path)
    data = ImageFolder(
        str(folder), image_size=8, augmentation=Augmentation(resized_crop=0.1), batch_size=8, mean=[0.5], std=[0.5]
    )
    plain = torch.cat([epoch_of(data, epoch)[0] for epoch in range(4)]).flatten(1)
    assert (plain.std(1) < 0.01).any()


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"crop_padding": -1}, "crop_padding"),
        ({"resized_crop": 0.0}, "resized_crop"),
        ({"resized_crop": 0.5, "crop_padding": 1}, "both crop"),
        ({"randaugment_magnitude": 31}, "randaugment_magnitude"),
        ({"randaugment_operations": 0}, "randaugment_operations"),
        ({"erasing": 1.5}, "erasing"),
        ({"color_jitter": -0.1}, "color_jitter"),
    ],
)
def test_impossible_augmentation_is_named(wrong: dict[str, Any], name: str):
    with pytest.raises(ValueError, match=name):
        Augmentation(**wrong)
