"""One epoch of a data module, read to its end."""

import torch
from torch.utils.data import DistributedSampler

from unified_extractor.data import ImageDataModule


def epoch_of(data: ImageDataModule, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    loader = data.train_dataloader()
    assert isinstance(loader.sampler, DistributedSampler)
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])
