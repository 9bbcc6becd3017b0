"""A callback that makes a step's random numbers depend on the seed, the epoch and the batch alone."""

import hashlib
from typing import Any

import lightning as L
import torch
from typing_extensions import override


class ReseedEachStep(L.Callback):
    """A callback that seeds torch's generators by (seed, epoch, batch, rank) before every step.

    Checkpoints hold no random state: without this callback, dropout and mixup would differ after a resume.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        place = f"{self.seed} {trainer.current_epoch} {batch_idx} {trainer.global_rank}"
        seed = int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest())
        # torch.manual_seed would seed both, but it records a traceback at each call where CUDA is not initialized
        torch.default_generator.manual_seed(seed)
        if (device := trainer.strategy.root_device).type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
