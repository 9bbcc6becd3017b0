"""Tiny data sets in the files that torchvision reads."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from unified_extractor.data import CIFAR10, CIFAR100


def write_fashion_mnist(root: Path, *, train: int, test: int) -> None:
    """Images of one gray level each, ten classes in turn."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        images = (np.arange(count) % 256).astype(np.uint8).repeat(28 * 28)
        labels = np.arange(count, dtype=np.uint8) % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(_header(0x803, count, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(_header(0x801, count) + labels.tobytes())


def write_cifar(root: Path, kind: type[CIFAR10] | type[CIFAR100], monkeypatch: pytest.MonkeyPatch, *, per_class: int = 2) -> None:
    """Images of one color, so many of every class in every file."""
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    source, names = kind.source, list(kind(str(root)).class_names)
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    count, fine = per_class * len(names), "fine_" if kind is CIFAR100 else ""
    for file, _ in source.train_list + source.test_list:
        content = {"data": np.full((count, 3072), 7, dtype=np.uint8), f"{fine}labels": list(range(len(names))) * per_class}
        (folder / file).write_bytes(pickle.dumps(content))
    (folder / source.meta["filename"]).write_bytes(pickle.dumps({f"{fine}label_names": names}))


def _header(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)
