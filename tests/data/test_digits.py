"""Digits: splits that never overlap, and normalized batches."""

import torch

from tests.support.epochs import epoch_of
from unified_extractor.data import Digits, Loading


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
