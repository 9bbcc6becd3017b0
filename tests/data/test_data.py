"""Data modules: splits that never overlap, an order that seed and epoch alone decide, and errors that name the path."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DistributedSampler

from tests.support.image_folders import image_folder, write_images
from tests.support.torchvision_files import write_cifar, write_fashion_mnist
from unified_extractor.data import (
    CIFAR10,
    CIFAR100,
    Augmentation,
    DataError,
    Digits,
    FashionMNIST,
    ImageDataModule,
    ImageFolder,
    Loading,
)
from unified_extractor.data.augmentation import DRAWS, augmented
from unified_extractor.data.device_loader import ResidentLoader
from unified_extractor.data.image_datasets import Form, read_image
from unified_extractor.data.samplers import EpochSampler, EvaluationSampler
from unified_extractor.data.splits import balanced_subset, stratified_split


def epoch_of(data: ImageDataModule, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, DistributedSampler)
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_digits_splits_are_disjoint_complete_and_stratified():
    data = Digits()
    data.setup()
    splits = {name: data.images(name) for name in ("train", "val", "test")}
    assert [len(split) for split in splits.values()] == [1151, 287, 359]
    rows = torch.cat([split.images.flatten(1) for split in splits.values()])
    assert len(torch.unique(rows, dim=0)) == len(rows) == 1797
    for split in splits.values():
        share = split.labels.bincount(minlength=10) / len(split)
        assert (share - 0.1).abs().max() < 0.01


def test_batches_are_normalized_images_and_labels():
    data = Digits(batch_size=64)
    data.setup("fit")
    images, labels = epoch_of(data, 0)
    assert images.shape == (17 * 64, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05
    raw = data.images("train").images
    torch.testing.assert_close(data.normalize(raw), (raw / 255 - 0.305) / 0.376)


def test_split_is_the_same_for_every_seed():
    one, two = (Digits(loading=Loading(seed=seed)) for seed in (1, 2))
    for split in ("train", "val", "test"):
        assert torch.equal(one.images(split).images, two.images(split).images)


@pytest.mark.parametrize("options", [{}, {"on_device": False}, {"on_device": False, "num_workers": 2}], ids=str)
def test_order_and_augmentation_depend_on_seed_and_epoch_alone(options: dict[str, Any]):
    def drawn(seed: int, epoch: int, **options: Any) -> torch.Tensor:
        augmentation = Augmentation(crop_padding=2, flip=True, erasing=0.5)
        data = Digits(batch_size=256, augmentation=augmentation, loading=Loading(seed=seed, **options))
        return epoch_of(data, epoch)[0]

    alone = {**options, "num_workers": 0} if options else {}
    expected = drawn(1, 3, **alone)
    torch.manual_seed(torch.seed())
    state = torch.get_rng_state()
    assert torch.equal(expected, drawn(1, 3, **options))
    if "num_workers" not in options:
        assert torch.equal(state, torch.get_rng_state())
        assert not torch.equal(expected, drawn(1, 4, **options))
        assert not torch.equal(expected, drawn(4, 0, **options))


def test_neighbouring_seeds_share_no_epoch():
    data = [Digits(loading=Loading(seed=seed), batch_size=256) for seed in (0, 1)]
    orders = [tuple(epoch_of(one, epoch)[1].tolist()) for one in data for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_two_ranks_share_the_images_and_their_augmentation():
    images = Digits().images("train")
    whole, *parts = (EpochSampler(images, seed=3, num_replicas=n, rank=rank) for n, rank in ((1, 0), (2, 0), (2, 1)))
    assert dict(parts[0]).items() | dict(parts[1]).items() <= dict(whole).items()
    assert len(parts[0]) == len(parts[1]) == len(whole) // 2
    together = torch.stack([part.order() for part in parts], 1).flatten()
    assert torch.equal(together, whole.order()[:1150])  # step by step the ranks together see what one would


def test_every_image_is_evaluated_once_over_all_ranks():
    images = Digits().images("val")
    orders = [EvaluationSampler(images, num_replicas=4, rank=rank).order() for rank in range(4)]
    assert {len(order) for order in orders} == {72}
    assert sorted(torch.cat(orders).tolist()) == [-1, *range(287)]
    for resident in (True, False):
        data = Digits(loading=Loading(on_device=resident))
        data.trainer = SimpleNamespace(world_size=4, global_rank=3, strategy=SimpleNamespace(root_device=torch.device("cpu")))
        labels = torch.cat([labels for _, labels in data.val_dataloader()])
        assert labels[:-1].tolist() == images.labels[3::4].tolist()
        assert labels[-1] == -1


@pytest.mark.parametrize("on_device", [None, False])
def test_augmentation_crops_and_flips_the_training_images_only(on_device: bool | None):
    loading = Loading(seed=0, on_device=on_device)
    plain, moved = (Digits(512, Augmentation(crop_padding=padding), loading) for padding in (0, 1))
    torch.testing.assert_close(epoch_of(plain, 0)[1], epoch_of(moved, 0)[1])
    assert not torch.equal(epoch_of(plain, 0)[0], epoch_of(moved, 0)[0])
    for loader in ("val_dataloader", "test_dataloader"):
        one, two = (next(iter(getattr(data, loader)()))[0] for data in (plain, moved))
        assert torch.equal(one, two)


def test_images_on_the_device_and_from_a_loader_are_the_same():
    resident, loaded = (Digits(loading=Loading(seed=5, on_device=where)) for where in (True, False))
    assert isinstance(resident.train_dataloader(), ResidentLoader)
    for one, two in zip(epoch_of(resident, 2), epoch_of(loaded, 2), strict=True):
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
    crops, erased = augmented(padded, torch.tensor([0, 1, 1]), draws, settings)
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
    crops, erased = augmented(images, torch.zeros(4000, dtype=torch.long), draws, settings)
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


def test_a_position_within_an_epoch_is_part_of_a_checkpoint():
    def batches(loader: ResidentLoader, epoch: int) -> list[torch.Tensor]:
        loader.sampler.set_epoch(epoch)
        return [images for images, _ in loader]

    data = Digits(128, Augmentation(crop_padding=1))
    unbroken = [batches(data.train_dataloader(), epoch) for epoch in (3, 4)]
    first = data.train_dataloader()
    first.sampler.set_epoch(3)
    some = [images for _, (images, _) in zip(range(4), first, strict=False)]
    state = first.state_dict()
    again = data.train_dataloader()
    again.load_state_dict(state)
    rest = batches(again, 3)
    for one, two in zip(unbroken[0], some + rest, strict=True):
        assert torch.equal(one, two)
    for one, two in zip(unbroken[1], batches(again, 4), strict=True):
        assert torch.equal(one, two)
    ended = data.train_dataloader()
    batches(ended, 3)
    later = data.train_dataloader()
    later.load_state_dict(ended.state_dict())
    assert len(batches(later, 4)) == 8


def test_images_that_do_not_fit_the_device_path_are_refused_there():
    data = Digits(augmentation=Augmentation(randaugment_magnitude=9), loading=Loading(on_device=True))
    with pytest.raises(DataError, match="true needs images that fit into memory"):
        data.setup("fit")


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
    for path in (folder / "train").rglob("*.png"):  # left half black, right half white: a square centre crop has both
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


def test_stratified_split_takes_the_fraction_of_every_class():
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 2)
    rest, taken = stratified_split(labels, 0.2)
    assert labels[taken].bincount().tolist() == [2, 4, 1]
    assert sorted(torch.cat([rest, taken]).tolist()) == list(range(32))
    with pytest.raises(ValueError, match="two images"):
        stratified_split(torch.tensor([0, 0, 1]), 0.5)
    with pytest.raises(ValueError, match="fraction"):
        stratified_split(labels, 1.0)


def test_balanced_subsets_are_nested():
    labels = torch.tensor([0] * 10 + [1] * 3)
    small, large = (set(balanced_subset(labels, count).tolist()) for count in (2, 5))
    assert small < large
    assert labels[list(large)].bincount().tolist() == [5, 3]
    with pytest.raises(ValueError, match="per_class"):
        balanced_subset(labels, 0)


def test_what_one_module_has_read_another_may_adopt(tmp_path: Path):
    first, second = (ImageFolder(str(image_folder(tmp_path / name)), image_size=8) for name in ("a", "b"))
    images = first.images("train")
    second.adopt(first)
    assert second.images("train") is images


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


@pytest.mark.parametrize(("size", "wanted"), [((8, 8), 8), ((20, 9), 8), ((9, 20), 7), ((5, 6), 8)])
def test_images_of_any_size_become_square(tmp_path: Path, size: tuple[int, int], wanted: int):
    write_images(tmp_path, 1, size=size)
    assert read_image(tmp_path / "0.png", Form(3, wanted)).shape == (3, wanted, wanted)
    assert read_image(tmp_path / "0.png", Form(3, wanted, resize=wanted + 3)).shape == (3, wanted, wanted)
    assert read_image(tmp_path / "0.png", Form(3, wanted, whole=True)).shape[1:] == size
    grey = read_image(tmp_path / "0.png", Form(1, wanted))
    assert grey.shape == (1, wanted, wanted)
    assert grey.dtype == torch.uint8


def test_sixteen_bit_grey_levels_are_scaled_not_cut(tmp_path: Path):
    levels = (np.arange(64, dtype=np.uint32) * 65535 // 63).astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    for chans in (1, 3):
        image = read_image(tmp_path / "deep.png", Form(chans, 8))
        assert torch.equal(image, torch.from_numpy((levels // 257).astype(np.uint8)).expand(chans, 8, 8))
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(DataError, match="F images have no range of grey levels"):
        read_image(tmp_path / "float.tiff", Form(1, 8))


def test_one_mean_reads_grey(tmp_path: Path):
    data = ImageFolder(str(image_folder(tmp_path)), image_size=8, mean=[0.5], std=[0.5], batch_size=4)
    assert data.in_chans == 1
    assert next(iter(data.test_dataloader()))[0].shape == (4, 1, 8, 8)
    with pytest.raises(ValueError, match="mean and std"):
        ImageFolder(str(tmp_path), image_size=8, mean=[0.5])


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


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100, FashionMNIST])
def test_nothing_is_downloaded_unasked(tmp_path: Path, kind: type[CIFAR10]):
    data = kind(root=str(tmp_path / "none"))
    data.prepare_data()
    with pytest.raises(DataError, match=r"none: .*download=true"):
        data.setup("fit")
    assert not (tmp_path / "none").exists()


def test_fashion_mnist_reads_torchvision_files(tmp_path: Path):
    write_fashion_mnist(tmp_path, train=40, test=20)
    data = FashionMNIST(root=str(tmp_path), validation_fraction=0.25, batch_size=10)
    data.setup()
    assert [len(data.images(split)) for split in ("train", "val", "test")] == [30, 10, 20]
    assert next(iter(data.test_dataloader()))[0].shape == (10, 1, 28, 28)
    assert data.num_classes == 10


@pytest.mark.parametrize(("kind", "sizes"), [(CIFAR10, [90, 10, 20]), (CIFAR100, [100, 100, 200])])
def test_cifar_reads_torchvision_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[CIFAR10], sizes: list[int]):
    write_cifar(tmp_path, kind, monkeypatch)
    data = kind(root=str(tmp_path), batch_size=8)
    data.setup()
    assert [len(data.images(split)) for split in ("train", "val", "test")] == sizes
    assert next(iter(data.train_dataloader()))[0].shape == (8, 3, 32, 32)
    assert data.class_names == tuple(data.source(tmp_path).classes)


def test_cifar100_has_a_hundred_names():
    assert len(set(CIFAR100().class_names)) == CIFAR100().num_classes == 100
