"""Images that stay on the device: the same batches as a loader's, and a position within an epoch that a checkpoint keeps."""

import pytest
import torch

from tests.support.epochs import epoch_of
from unified_extractor.data import Augmentation, DataError, Digits, Loading
from unified_extractor.data.device_loader import DeviceLoader


def test_images_on_the_device_and_from_a_loader_are_the_same():
    resident, loaded = (Digits(loading=Loading(seed=5, on_device=where)) for where in (True, False))
    assert isinstance(resident.train_dataloader(), DeviceLoader)
    for one, two in zip(epoch_of(resident, 2), epoch_of(loaded, 2), strict=True):
        assert torch.equal(one, two)


def test_a_position_within_an_epoch_is_part_of_a_checkpoint():
    def batches(loader: DeviceLoader, epoch: int) -> list[torch.Tensor]:
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
