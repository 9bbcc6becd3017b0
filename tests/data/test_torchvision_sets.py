"""CIFAR and Fashion-MNIST in the files that torchvision reads."""

from pathlib import Path

import pytest

from tests.support.torchvision_files import write_cifar, write_fashion_mnist
from unified_extractor.data import CIFAR10, CIFAR100, DataError, FashionMNIST


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
