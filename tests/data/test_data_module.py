"""Errors of every data module, reading for predict, and sharing images with another module."""

from pathlib import Path

import pytest

from tests.support.image_folders import image_folder, write_images
from unified_extractor.data import DataError, Digits, ImageFolder, Loading


def test_what_one_module_has_read_another_may_adopt(tmp_path: Path):
    first, second = (ImageFolder(str(image_folder(tmp_path / name)), image_size=8) for name in ("a", "b"))
    images = first.images("train")
    second.adopt(first)
    assert second.images("train") is images


def test_predict_reads_every_image_below_a_folder(tmp_path: Path):
    write_images(tmp_path / "a", 2)
    write_images(tmp_path / "b", 1, size=(20, 12))
    images, files = next(iter(Digits(predict_folder=str(tmp_path)).predict_dataloader()))
    assert images.shape == (3, 1, 8, 8)
    assert files == [str(tmp_path / name) for name in ("a/0.png", "a/1.png", "b/0.png")]
    with pytest.raises(DataError, match="predict needs the folder"):
        Digits().predict_dataloader()
    with pytest.raises(DataError, match=f"{tmp_path}/none: no such folder"):
        Digits(predict_folder=str(tmp_path / "none")).predict_dataloader()


def test_batch_larger_than_the_training_images_is_refused():
    with pytest.raises(DataError, match="must not exceed the training images, got 1152, 1151 images"):
        Digits(batch_size=1152).setup("fit")


def test_wrong_options_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match="batch_size"):
        Digits(batch_size=0)
    with pytest.raises(ValueError, match="num_workers"):
        Loading(num_workers=-1)
    with pytest.raises(ValueError, match="resize must be at least image_size, got resize=7, image_size=8"):
        ImageFolder(str(tmp_path), image_size=8, resize=7)
