"""Random numbers of a training step that depend on seed, epoch and batch alone."""

import hashlib
from typing import Any

import lightning as L
import torch
from typing_extensions import override


class ReseedEachStep(L.Callback):
    """Seeds torch's generators by (seed, epoch, batch, rank) before every step.

    Checkpoints hold no random state: without this, dropout and mixing would differ after a resume.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        place = f"{self.seed} {trainer.current_epoch} {batch_idx} {trainer.global_rank}"
        seed = int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest())
        # torch.manual_seed would do both, and where CUDA is not used write down a traceback each time
        torch.default_generator.manual_seed(seed)
        if (device := trainer.strategy.root_device).type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
