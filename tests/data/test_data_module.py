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
    images, files, errors = next(iter(Digits(predict_folder=str(tmp_path)).predict_dataloader()))
    assert images.shape == (3, 1, 8, 8)
    assert files == [str(tmp_path / name) for name in ("a/0.png", "a/1.png", "b/0.png")]
    assert errors == ["", "", ""]
    with pytest.raises(DataError, match="predict needs images or folders of images, got none"):
        Digits().predict_dataloader()
    with pytest.raises(DataError, match=f"{tmp_path}/none: no such file or folder"):
        Digits(predict_folder=str(tmp_path / "none")).predict_dataloader()


def test_predict_reads_named_files_whatever_they_are_called_and_goes_on_past_unreadable_ones(tmp_path: Path):
    write_images(tmp_path / "a", 2)
    named = [tmp_path / "photo", tmp_path / "a", tmp_path / "broken.png", tmp_path / "note.txt"]
    (tmp_path / "a" / "0.png").rename(named[0])
    good = named[0].read_bytes()
    named[2].write_bytes(good[:60])
    named[3].write_text("not an image")
    data = Digits(predict_folder=[str(path) for path in named], batch_size=2)
    (images, files, errors), (_, more, others) = data.predict_dataloader()
    assert images.shape == (2, 1, 8, 8)
    assert files + more == [str(named[0]), str(tmp_path / "a" / "1.png"), str(named[2]), str(named[3])]
    assert errors == ["", ""]
    assert all(error.startswith("not a readable image (") for error in others)


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
