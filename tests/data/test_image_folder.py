"""Folders of images: splits, and errors that name the path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.epochs import epoch_of
from tests.support.image_folders import image_folder
from unified_extractor.data import DataError, ImageFolder, Loading


def test_folder_splits_training_images_for_validation(tmp_path: Path):
    data = ImageFolder(str(image_folder(tmp_path)), image_size=8, validation_fraction=0.2, batch_size=4)
    data.setup()
    assert data.class_names == ("cat", "dog")
    assert data.num_classes == 2
    assert [len(data.images(split)) for split in ("train", "val", "test")] == [16, 4, 4]
    assert data.images("val").labels.tolist() == [0, 0, 1, 1]
    images, labels = next(iter(data.test_dataloader()))
    assert images.shape == (4, 3, 8, 8)
    assert labels.tolist() == [0, 0, 1, 1]
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "test" / "cat" / "0.png"))).permute(2, 0, 1)
    torch.testing.assert_close(images[0], data.normalize(pixels[None])[0])


def test_folder_takes_its_own_validation_images(tmp_path: Path):
    data = ImageFolder(str(image_folder(tmp_path, val=3)), image_size=8)
    assert [len(data.images(split)) for split in ("train", "val", "test")] == [20, 6, 4]


def test_per_class_limits_training_and_validation_but_not_the_test(tmp_path: Path):
    data = ImageFolder(str(image_folder(tmp_path, test=7)), image_size=8, per_class=5, validation_fraction=0.2)
    assert [len(data.images(split)) for split in ("train", "val", "test")] == [8, 2, 14]


def test_images_in_memory_and_from_files_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image_folder(tmp_path)
    memory = ImageFolder(str(tmp_path), image_size=8, loading=Loading(seed=0), batch_size=8)
    kept = epoch_of(memory, 0)[0]
    monkeypatch.setattr("unified_extractor.data.image_folder.MEMORY_LIMIT", 0)
    files = ImageFolder(str(tmp_path), image_size=8, loading=Loading(seed=0), batch_size=8)
    assert type(files.images("train")) is not type(memory.images("train"))
    assert torch.equal(kept, epoch_of(files, 0)[0])


def test_one_mean_reads_gray(tmp_path: Path):
    data = ImageFolder(str(image_folder(tmp_path)), image_size=8, mean=[0.5], std=[0.5], batch_size=4)
    assert data.in_chans == 1
    assert next(iter(data.test_dataloader()))[0].shape == (4, 1, 8, 8)
    with pytest.raises(ValueError, match="mean and std"):
        ImageFolder(str(tmp_path), image_size=8, mean=[0.5])


def test_missing_root_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=f"{tmp_path}/no/train: no such folder"):
        ImageFolder(str(tmp_path / "no"), image_size=8).setup("fit")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        ImageFolder(str(tmp_path), image_size=8).setup("fit")


def test_empty_class_folder_is_named(tmp_path: Path):
    image_folder(tmp_path)
    (tmp_path / "train" / "eel").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}/train/eel: no images"):
        ImageFolder(str(tmp_path), image_size=8).setup("fit")


@pytest.mark.parametrize("content", [b"", b"not an image", None])
@pytest.mark.parametrize("limit", [0, 2**31])
def test_unreadable_image_is_named(tmp_path: Path, content: bytes | None, limit: int, monkeypatch: pytest.MonkeyPatch):
    image_folder(tmp_path)
    monkeypatch.setattr("unified_extractor.data.image_folder.MEMORY_LIMIT", limit)
    bad = tmp_path / "test" / "dog" / "1.png"
    bad.write_bytes(bad.read_bytes()[:60] if content is None else content)
    data = ImageFolder(str(tmp_path), image_size=8)
    with pytest.raises(DataError, match=f"^{bad}: not a readable image") as caught:
        next(iter(data.test_dataloader()))
    assert "\n" not in str(caught.value)


def test_class_with_one_image_cannot_be_split(tmp_path: Path):
    image_folder(tmp_path, train=1)
    with pytest.raises(DataError, match=f"{tmp_path}/train: cannot be split for validation: a class needs two images"):
        ImageFolder(str(tmp_path), image_size=8).setup("fit")


def test_different_classes_in_a_split_are_named(tmp_path: Path):
    image_folder(tmp_path)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "dgo")
    with pytest.raises(DataError, match=r"test: classes differ .*missing \['dog'\], unknown \['dgo'\]"):
        ImageFolder(str(tmp_path), image_size=8).setup("test")
