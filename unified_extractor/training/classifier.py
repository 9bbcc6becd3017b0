"""Image classification: a network, its loss, its metrics and its optimiser."""

from functools import partial
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from typing_extensions import override

from unified_extractor.data import ImageDataModule
from unified_extractor.training.architecture import check_checkpoint, check_network, layer_specs, network_weights
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.schedule import parameter_groups, warmup_cosine

Batch = tuple[Tensor, Tensor]


class ImageClassifier(L.LightningModule):
    """Trains a network that maps images [B, C, H, W] to logits [B, num_classes].

    Logs ``loss`` and ``accuracy`` under ``train/``, ``val/`` and ``test/``, once an epoch. No hyperparameters are saved in
    checkpoints, the run's config lies beside them; the network's specs are.

    Args:
        network: maps images to logits.
        learning_rate: at its peak, after the warm-up.
        weight_decay: of everything but norms and biases.
        warmup_epochs: length of the linear rise before the cosine.
        label_smoothing: of the training loss.
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum 0.9.

    Raises:
        ConfigurationError: a network that does not fit the data, or a checkpoint of another architecture.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_epochs: float = 1.0,
        label_smoothing: float = 0.0,
        optimizer: Literal["adamw", "sgd"] = "adamw",
    ) -> None:
        super().__init__()
        if learning_rate <= 0:
            raise ValueError(f"learning_rate must be positive, got {learning_rate}")
        for name, value in (("weight_decay", weight_decay), ("warmup_epochs", warmup_epochs)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.network = network
        self.learning_rate, self.weight_decay, self.warmup_epochs = learning_rate, weight_decay, warmup_epochs
        self.label_smoothing, self.optimizer_name = label_smoothing, optimizer
        self.train_accuracy, self.val_accuracy, self.test_accuracy = MeanMetric(), MeanMetric(), MeanMetric()

    @override
    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ImageDataModule):
            check_network(self.network, data)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W]."""
        logits: Tensor = self.network(images)
        return logits

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._step("train", batch, self.label_smoothing)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._step("val", batch)

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._step("test", batch)

    @override
    def predict_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> dict[str, Any]:
        """For a batch of images and their files: ``file`` and, of the likeliest class, ``label`` [B] and ``probability`` [B]."""
        images, files = batch
        probability, label = self(images).softmax(dim=1).max(dim=1)
        return {"file": files, "label": label, "probability": probability}

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ConfigurationError("trainer.max_epochs: must be set, the learning rate falls to zero at the end")
        groups = parameter_groups(self.network, self.weight_decay)
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        else:
            optimizer = torch.optim.SGD(groups, lr=self.learning_rate, momentum=0.9, nesterov=True)
        epochs = self.trainer.max_epochs or 1
        warmup_steps = min(round(steps * self.warmup_epochs / epochs), int(steps) - 1)
        schedule = warmup_cosine(optimizer, steps=int(steps), warmup_steps=warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["layer_specs"] = layer_specs(self.network)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        path = self.trainer.ckpt_path or "ckpt_path"
        check_checkpoint(path, self.network, checkpoint.get("layer_specs", {}), network_weights(checkpoint["state_dict"]))

    def _step(self, split: str, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        accuracy: MeanMetric = getattr(self, f"{split}_accuracy")
        accuracy(logits.argmax(dim=1) == labels)
        log = partial(self.log, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(labels))
        log(f"{split}/loss", loss, prog_bar=split == "train")
        log(f"{split}/accuracy", accuracy, prog_bar=split == "val")
        return loss
