"""Folders of images and label maps: what is read is what the files say, and every mistake is named with its file."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from tests.support.epochs import epoch_of
from tests.support.segmentation import IGNORED, SIZE, segmentation_folder
from unified_extractor.data import DataError, JointAugmentation, Loading, SegmentationFolder
from unified_extractor.data.class_table import read_class_table
from unified_extractor.data.class_weights import PixelCounts, count_pixels, weights_of_classes
from unified_extractor.data.device_loader import DeviceMapLoader
from unified_extractor.data.image_datasets import UNCOUNTED
from unified_extractor.data.joint_augmentation import PadToCrop
from unified_extractor.data.samplers import EvaluationSampler
from unified_extractor.data.segmented_images import MemorySegmentedImages, SegmentedFiles


def folder(root: Path, **options) -> SegmentationFolder:
    return SegmentationFolder(str(root), **{"image_size": SIZE, "ignore_index": IGNORED, "batch_size": 4, **options})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return segmentation_folder(tmp_path / "scenes")


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_and_maps_are_those_of_the_files(root, in_memory, monkeypatch):
    if not in_memory:
        monkeypatch.setattr("unified_extractor.data.segmentation_folder.MEMORY_LIMIT", 0)
    data = folder(root)
    data.setup("fit")
    images = data.images("train")
    assert isinstance(images, MemorySegmentedImages if in_memory else SegmentedFiles)
    image, labels = images[3]
    stored = np.array(Image.open(root / "train" / "labels" / "3.png"))
    assert torch.equal(image, torch.from_numpy(np.array(Image.open(root / "train" / "images" / "3.png"))).permute(2, 0, 1))
    assert torch.equal(labels, torch.from_numpy(np.where(stored == IGNORED, UNCOUNTED, stored)))
    assert (data.class_names, data.task.colors) == (("sky", "road", "car"), ((10, 20, 200), (90, 90, 90), (200, 0, 0)))
    every = torch.stack([images[index][0] for index in range(8)]).double() / 255
    assert data.mean == pytest.approx(every.mean((0, 2, 3)).tolist(), abs=1e-4)


def test_pixels_are_counted_at_the_images_size_wherever_they_are_held(root, monkeypatch):
    counts = []
    for limit in (2**30, 0):
        monkeypatch.setattr("unified_extractor.data.segmentation_folder.MEMORY_LIMIT", limit)
        data = folder(root, image_size=(4, 5))
        data.setup("fit")
        counts.append(count_pixels(data.images("train"), 3))
    assert int(counts[0].of_class.sum()) <= 8 * 4 * 5
    for memory, files in zip(*(vars(one).values() for one in counts), strict=True):
        assert torch.equal(memory, files)


@pytest.mark.parametrize("on_device", [None, False])
def test_batches_are_whole_and_evaluation_fills_up_with_what_counts_for_nothing(root, on_device):
    data = folder(root, batch_size=2, loading=Loading(on_device=on_device))
    images, labels = next(iter(data.val_dataloader()))
    assert (images.shape, images.dtype) == ((2, 3, *SIZE), torch.float32)
    assert (labels.shape, labels.dtype) == ((2, *SIZE), torch.uint8)
    blank = data._ordered_loader(
        "val", EvaluationSampler(data.images("val"), num_replicas=2, rank=1)
    )  # one image less than the other
    _, labels = next(iter(blank))
    assert torch.equal(labels[0], data.images("val")[1][1])  # type: ignore[index]
    assert (labels[1] == UNCOUNTED).all()


def test_images_and_maps_on_the_device_and_from_a_loader_are_the_same(root):
    augmentation = JointAugmentation(scale=(0.5, 2.0), crop=(7, 14), flip=True, color_jitter=0.3)
    resident, loaded = (
        folder(root, batch_size=3, augmentation=augmentation, loading=Loading(seed=5, on_device=where)) for where in (None, False)
    )
    assert isinstance(resident.train_dataloader(), DeviceMapLoader)
    for one, two in zip(epoch_of(resident, 2), epoch_of(loaded, 2), strict=True):
        assert torch.equal(one, two)
    loader = resident.train_dataloader()
    given = next(iter(loader))
    again = resident.train_dataloader()
    again.load_state_dict(loader.state_dict())  # as where a run goes on within an epoch
    (rest,) = again
    loader.load_state_dict({"epoch": -1, "given": 0})
    for one, two in zip(loader, [given, rest], strict=True):
        assert all(map(torch.equal, one, two))


def test_images_that_do_not_fit_into_memory_are_not_held_on_the_device(root, monkeypatch):
    monkeypatch.setattr("unified_extractor.data.segmentation_folder.MEMORY_LIMIT", 0)
    assert not isinstance(folder(root).train_dataloader(), DeviceMapLoader)
    with pytest.raises(DataError, match="true needs images that fit into memory, got SegmentedFiles"):
        folder(root, loading=Loading(on_device=True)).setup("fit")


@pytest.mark.parametrize("size", [(5, 9), (12, 12), (30, 8)])
def test_padding_to_a_crop_is_that_of_torchvision(size):
    image, labels = torch.randint(0, 256, (3, 10, 12), dtype=torch.uint8), torch.randint(0, 9, (10, 12), dtype=torch.uint8)
    fill = {tv_tensors.Image: [1, 2, 3], tv_tensors.Mask: UNCOUNTED}
    found = []
    for transform in (
        v2.Compose([PadToCrop(size, (1, 2, 3)), v2.RandomCrop(size)]),
        v2.RandomCrop(size, pad_if_needed=True, fill=fill),
    ):
        torch.manual_seed(3)
        found.append(transform(tv_tensors.Image(image), tv_tensors.Mask(labels)))
    assert all(map(torch.equal, *found))


def test_copies_do_not_leak_from_training_into_validation_and_those_in_other_folders_are_told(root):
    copy = root / "test" / "images" / "1.png"
    copy.write_bytes((root / "train" / "images" / "5.png").read_bytes())
    assert f"WARNING: 1 test images are copies of training images, one is {copy}" in folder(root).described()
    for kind in ("images", "labels"):
        shutil.rmtree(root / "val" / kind)
        for path in sorted((root / "train" / kind).iterdir()):
            (path.parent / f"z copy of {path.name}").write_bytes(path.read_bytes())
    (root / "val").rmdir()
    data = folder(root, validation_fraction=0.25)
    train, val = (data.images(split).images.flatten(1).tolist() for split in ("train", "val"))  # type: ignore[attr-defined]
    assert (len(val), 0 < len(train) < 12) == (4, True)
    assert not [image for image in val if image in train]
    left_out = f"training images that are copies of validation images ({12 - len(train)})"
    assert left_out in data.described(["train", "val"])


def test_a_palette_and_other_sizes_and_formats_are_read(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / "test" / name / "city").mkdir(parents=True)
    (tmp_path / "classes.csv").write_text("name\na\nb\n")
    labels = np.array([[0, 1], [1, 0]], dtype=np.uint8)
    palette = Image.fromarray(labels)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.save(tmp_path / "test" / "labels" / "city" / "x.y.png")
    Image.fromarray(np.full((2, 2), 200, dtype=np.uint8)).save(tmp_path / "test" / "images" / "city" / "x.y.bmp")
    data = folder(tmp_path, image_size=(4, 6), in_chans=1, mean=[0.5], std=[0.5])
    image, found = data.images("test")[0]  # type: ignore[index]
    assert image.shape == (1, 4, 6)
    assert torch.equal(found, torch.from_numpy(labels).repeat_interleave(2, 0).repeat_interleave(3, 1))
    assert data.task.colors == ((0, 0, 0), (128, 0, 0))  # Pascal VOC's
    without_a = folder(tmp_path, image_size=(2, 2), ignore_index=0, in_chans=1, mean=[0.5], std=[0.5])  # a class may be ignored
    assert without_a.images("test")[0][1].tolist() == [[UNCOUNTED, 1], [1, UNCOUNTED]]  # type: ignore[index]


def test_without_a_folder_of_validation_images_the_same_part_is_held_out(root):
    for path in sorted((root / "val").rglob("*.png")):
        path.unlink()
    (root / "val" / "images").rmdir()
    (root / "val" / "labels").rmdir()
    (root / "val").rmdir()
    data = folder(root, validation_fraction=0.25)
    assert (len(data.images("train")), len(data.images("val"))) == (6, 2)  # type: ignore[arg-type]
    assert "no folder of validation images, so they are 25%" in data.described()


def test_augmentation_keeps_images_and_maps_together_and_follows_seed_and_epoch(root):
    augmentation = JointAugmentation(scale=(0.5, 2.0), flip=True)
    data = folder(root, augmentation=augmentation)
    once, again, later = (epoch_of(data, epoch) for epoch in (0, 0, 1))
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])
    assert not torch.equal(once[1], later[1])
    place = torch.arange(SIZE[0] * SIZE[1], dtype=torch.uint8).reshape(SIZE)
    transform = JointAugmentation(flip=True, crop=(4, 5)).transform(SIZE, [0.5])
    for seed in range(5):
        torch.manual_seed(seed)
        image, labels = transform(tv_tensors.Image(place[None]), tv_tensors.Mask(place))
        assert labels.shape == (4, 5)
        assert torch.equal(image[0], labels)


def test_beyond_a_small_image_is_the_mean_color_and_nothing_that_counts():
    transform = JointAugmentation(scale=(0.5, 0.5)).transform((8, 8), [0.2, 0.4, 0.6])
    image, labels = transform(
        tv_tensors.Image(torch.full((3, 8, 8), 9, dtype=torch.uint8)), tv_tensors.Mask(torch.ones(8, 8).byte())
    )
    outside = labels == UNCOUNTED
    assert (int(outside.sum()), image.shape) == (48, (3, 8, 8))
    assert (torch.tensor([51, 102, 153]) == image[:, outside].T).all()
    assert (image[:, ~outside] == 9).all()


def test_weights_of_classes_are_those_of_the_papers():
    maps = torch.tensor([[[0, 0, 0, 1]], [[0, 0, UNCOUNTED, UNCOUNTED]], [[2, 2, 2, 1]]], dtype=torch.uint8)
    counts = count_pixels(MemorySegmentedImages(torch.zeros(3, 3, 1, 4), maps), 4)
    assert counts.of_class.tolist() == [5, 2, 3, 0]
    assert counts.where_present.tolist() == [6, 8, 4, 0]
    frequencies = torch.tensor([5 / 6, 2 / 8, 3 / 4])
    assert weights_of_classes(counts, "median_frequency").tolist() == pytest.approx([*(0.75 / frequencies).tolist(), 0.0])
    shares = torch.tensor([0.5, 0.2, 0.3, 0.0])
    assert weights_of_classes(counts, "inverse_log").tolist() == pytest.approx((1 / torch.log(1.02 + shares)).tolist(), rel=1e-5)
    assert weights_of_classes(counts, "none").tolist() == [1.0] * 4
    even = PixelCounts(torch.tensor([1, 3]), torch.tensor([4, 4]))  # the median of two lies between them
    assert weights_of_classes(even, "median_frequency").tolist() == pytest.approx([2, 2 / 3])


def spoil(root: Path, what: str) -> None:
    labels = root / "train" / "labels" / "2.png"
    if what == "label":
        values = np.array(Image.open(labels))
        values[3, 4:6] = 3
        Image.fromarray(values).save(labels)
    elif what == "16 bits":
        Image.fromarray(np.full(SIZE, 256, dtype=np.uint16)).save(labels)
    elif what in ("narrow", "low"):
        Image.open(labels).resize((5, 10) if what == "narrow" else (12, 6), Image.Resampling.NEAREST).save(labels)
    elif what == "map":
        labels.unlink()
    elif what == "image":
        (root / "train" / "images" / "2.png").unlink()
    elif what == "empty":
        for path in (root / "train" / "images").iterdir():
            path.unlink()
    elif what == "colors":
        Image.open(labels).convert("RGB").save(labels)
    elif what == "twice":
        Image.open(root / "train" / "images" / "2.png").save(root / "train" / "images" / "2.jpg")
    elif what == "classes":
        (root / "classes.csv").unlink()
    elif what == "damaged":
        labels.write_bytes(b"nothing")
    else:
        for path in (root / "train" / "labels").iterdir():
            Image.fromarray(np.full(SIZE, IGNORED, dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "label",
            "train/labels/2.png: label 3 is neither a class, 0 to 2, nor ignore_index, 7; such values are in 2 of the map's 120",
        ),
        ("16 bits", "train/labels/2.png: label 256 is neither a class, 0 to 2, nor ignore_index, 7; such values are in 120 of"),
        (
            "narrow",
            "train/images/2.png is 10x12 and {root}/train/labels/2.png is 10x5 (height x width): an image and its label map",
        ),
        (
            "low",
            "train/images/2.png is 10x12 and {root}/train/labels/2.png is 6x12 (height x width): an image and its label map must",
        ),
        ("map", "train/images/2.png: no file 2.* in {root}/train/labels: names pair without their extensions"),
        ("image", "train/labels/2.png: no file 2.* in {root}/train/images: names pair"),
        ("empty", "train/images: no images in this folder, looked for"),
        (
            "colors",
            "train/labels/2.png: a label map must have a class's index in each pixel, as gray levels or by a palette, got mode RGB",
        ),
        ("twice", "train/images/2.png have one name without their extensions: one must go"),
        (
            "classes",
            "classes.csv: No such file or directory; it must hold a line `name,red,green,blue`, then one such line for each",
        ),
        ("damaged", "train/labels/2.png: not a readable label map"),
        ("unlabeled", "train/labels: every pixel is ignore_index, 7"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(root, what, message):
    spoil(root, what)
    with pytest.raises(DataError, match=re.escape(message.format(root=root))):
        folder(root).pixel_counts()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,color\na,b\n", "must begin with the columns name,red,green,blue, or name alone, got ['label', 'color']"),
        ("name\na\na\n", "must name 1 to 255 classes, each once, got ['a', 'a']"),
        (
            "name,red,green,blue\na,1,2,300\n",
            "line 2: red, green and blue must be whole numbers from 0 to 255, got ['1', '2', '300']",
        ),
    ],
)
def test_a_wrong_table_of_classes_is_refused(tmp_path, text, message):
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        read_class_table(tmp_path / "classes.csv")


def test_the_columns_r_g_b_of_other_tables_are_taken(tmp_path):
    (tmp_path / "class_dict.csv").write_text("name, r, g, b\nSky,128, 128,128\n")
    assert read_class_table(tmp_path / "class_dict.csv").colors == ((128, 128, 128),)
