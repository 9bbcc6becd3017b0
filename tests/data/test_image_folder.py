"""Folders of images: splits, and errors that name the path."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.epochs import epoch_of
from tests.support.image_folders import image_folder, write_images
from unified_extractor.data import DataError, ImageFolder, Loading
from unified_extractor.task import ImageTask


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
    assert ImageFolder(str(tmp_path), image_size=8, in_chans=1).in_chans == 1
    with pytest.raises(ValueError, match="in_chans must be the number of values in mean, got in_chans=3"):
        ImageFolder(str(tmp_path), image_size=8, mean=[0.5], std=[0.5], in_chans=3)


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


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "validation", "testing"),
        ("training", "valid", "test"),
        ("Train", "dev", "Test"),
        ("TRAINING", "Val", "TESTING"),
        ("training_set", "val_set", "test_set"),
    ],
)
def test_the_usual_names_of_splits_are_known(tmp_path: Path, train: str, val: str, test: str):
    image_folder(tmp_path / "set", val=3)
    for split, name in (("train", train), ("val", val), ("test", test)):
        (tmp_path / "set" / split).rename(tmp_path / "set" / f"{name}-")
        (tmp_path / "set" / f"{name}-").rename(tmp_path / "set" / name)
    data = ImageFolder(str(tmp_path / "set"), image_size=8)
    assert data.described() == "set: 20 training, 6 validation, 4 test images, 2 classes"


def test_two_folders_of_one_split_are_refused(tmp_path: Path):
    image_folder(tmp_path, val=2)
    (tmp_path / "dev").mkdir()
    with pytest.raises(DataError, match="dev and val are both val folders, one must go"):
        ImageFolder(str(tmp_path), image_size=8).setup("fit")


def test_a_folder_that_may_be_validation_or_test_images_is_refused_where_one_is_missing(tmp_path: Path):
    image_folder(tmp_path)
    shutil.copytree(tmp_path / "test", tmp_path / "eval")
    with pytest.raises(DataError, match="there is no val folder, and eval may be validation or test images: rename it"):
        ImageFolder(str(tmp_path), image_size=8).setup("fit")


def test_a_line_says_what_was_found_and_what_was_left_out(tmp_path: Path):
    root = image_folder(tmp_path / "set")
    for place in ("train/cat/.ipynb_checkpoints", "train/.hidden", "train/__MACOSX/cat", "__MACOSX/train/cat"):
        write_images(root / place, 1)
    for place in ("train/cat/._0.png", "train/dog/notes.txt", "train/notes.txt", "labels.csv", ".DS_Store"):
        (root / place).write_text("")
    write_images(root / "unlabeled", 3)
    (root / "train" / "itself").symlink_to(root)
    data = ImageFolder(str(root), image_size=8, validation_fraction=0.2, batch_size=4)
    data.setup()
    assert data.class_names == ("cat", "dog")
    assert data.described() == (
        f"set: 16 training, 4 validation, 4 test images, 2 classes; no folder of validation images, so they are 20% of {root}/train; "
        "left out: .txt files (1), files beside the splits (1), files outside the class folders (1), folder unlabeled (1), "
        "hidden files (2), hidden folders (3), links to folders that are listed already (1)"
    )
    assert data.described(["test"]).startswith("set: 4 test images, 2 classes; left out: files beside the splits (1)")


def test_copies_do_not_leak_into_the_validation_that_is_taken_from_training_images(tmp_path: Path):
    root = image_folder(tmp_path / "set", test=0)
    plain = ImageFolder(str(root), image_size=8)
    held_out = plain.images("val").images.flatten(1)
    for path in sorted((root / "train").rglob("*.png")):
        (path.parent / f"z copy of {path.name}").write_bytes(path.read_bytes())
    data = ImageFolder(str(root), image_size=8)
    train, val = (data.images(split).images.flatten(1).tolist() for split in ("train", "val"))
    assert len(train) + len(val) < 40
    assert not [image for image in val if image in train]
    assert f"training images that are copies of validation images ({40 - len(train) - len(val)})" in data.described(
        ["train", "val"]
    )
    assert len(held_out) == 2


def test_copies_between_folders_are_told(tmp_path: Path):
    root = image_folder(tmp_path / "set", val=3)
    assert "WARNING" not in (clean := ImageFolder(str(root), image_size=8)).described()
    assert len(clean.images("train")) == 20
    copy = root / "test" / "dog" / "7.png"
    copy.write_bytes((root / "train" / "cat" / "7.png").read_bytes())
    (root / "val" / "cat" / "9.png").symlink_to(root / "train" / "cat" / "9.png")
    line = ImageFolder(str(root), image_size=8).described()
    assert f"WARNING: 1 test images are copies of training images, one is {copy}" in line
    assert "WARNING: 1 val images are copies of training images" in line


@pytest.mark.parametrize("limit", [0, 2**31])
@pytest.mark.parametrize("chans", [1, 3])
def test_images_are_normalized_by_the_statistics_of_the_training_images(
    tmp_path: Path, limit: int, chans: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("unified_extractor.data.image_folder.MEMORY_LIMIT", limit)
    data = ImageFolder(str(image_folder(tmp_path)), image_size=8, in_chans=chans, batch_size=1)
    pixels = torch.stack([image for image, _ in data.images("train")]).double() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-4)
    assert data.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-4)
    assert len(data.mean) == chans
    shown = " ".join(f"{value:.4g}" for value in data.mean)
    assert data.preprocessing().startswith(f"8x8 {'gray' if chans == 1 else 'RGB'}, mean {shown}, std ")
    assert data.preprocessing().endswith("augmentation: none")


def test_training_images_of_one_color_have_no_statistics(tmp_path: Path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (7, 7, 7)).save(tmp_path / split / name / f"{number}.png")
    with pytest.raises(DataError, match="one value everywhere in a channel: give mean and std"):
        _ = ImageFolder(str(tmp_path), image_size=8).mean


def test_a_test_needs_no_training_images_where_the_normalization_is_known(tmp_path: Path):
    data = ImageFolder(str(image_folder(tmp_path, train=0)), image_size=8, batch_size=4)
    data.setup("test")
    assert data.class_names == ("cat", "dog")
    data.normalize_as(ImageTask(class_names=("cat", "dog"), mean=(0.5,) * 3, std=(0.25,) * 3, image_size=8))
    images, _ = next(iter(data.test_dataloader()))
    torch.testing.assert_close(images, (data.images("test").images / 255 - 0.5) / 0.25)
    fixed = ImageFolder(str(tmp_path), image_size=8, mean=[0.4] * 3, std=[0.2] * 3)
    with pytest.raises(DataError, match=r"trained with mean \[0.5, 0.5, 0.5\], .*, got mean \[0.4, 0.4, 0.4\]"):
        fixed.normalize_as(data.task)


def test_a_class_of_nothing_but_copies_keeps_its_training_images(tmp_path: Path):
    image_folder(tmp_path / "set", classes=("cat", "dog", "eel"), test=0)
    for number in range(10):
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / "train" / "eel" / f"{number}.png")
    data = ImageFolder(str(tmp_path / "set"), image_size=8)
    assert [len(data.images(split)) for split in ("train", "val")] == [27, 3]
    assert "WARNING: 9 training images are copies of validation images" in data.described(["train", "val"])
