"""The order of images: seed and epoch alone decide it, and ranks share it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.epochs import epoch_of
from unified_extractor.data import Augmentation, Digits, Loading
from unified_extractor.data.samplers import EpochSampler, EvaluationSampler


@pytest.mark.parametrize("options", [{}, {"on_device": False}, {"on_device": False, "num_workers": 2}], ids=str)
def test_order_and_augmentation_depend_on_nothing_but_seed_and_epoch(options: dict[str, Any]):
    def drawn(seed: int, epoch: int, **options: Any) -> torch.Tensor:
        augmentation = Augmentation(crop_padding=2, flip=True, erasing=0.5)
        data = Digits(batch_size=256, augmentation=augmentation, loading=Loading(seed=seed, **options))
        return epoch_of(data, epoch)[0]

    without_workers = {**options, "num_workers": 0} if options else {}
    expected = drawn(1, 3, **without_workers)
    torch.manual_seed(torch.seed())
    state = torch.get_rng_state()
    assert torch.equal(expected, drawn(1, 3, **options))
    if "num_workers" not in options:
        assert torch.equal(state, torch.get_rng_state())
        assert not torch.equal(expected, drawn(1, 4, **options))
        assert not torch.equal(expected, drawn(4, 0, **options))


def test_neighboring_seeds_share_no_epoch():
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
