"""The task module of image classification: a network, its loss, its metrics and its optimizer."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError
from typing_extensions import override

from unified_extractor.data import ImageDataModule
from unified_extractor.interop.saved import network_config
from unified_extractor.profiling.extractors import extractors
from unified_extractor.task import ImageTask
from unified_extractor.training.architecture import check_checkpoint, check_network, layer_specs, network_weights
from unified_extractor.training.initial_weights import InitialWeights
from unified_extractor.training.loading import NETWORK, saved_arguments
from unified_extractor.training.mixup import Mixup
from unified_extractor.training.optimization import Optimization
from unified_extractor.training.run.checkpoint_task import check_classes, give_task, normalize_as, read_task, write_task
from unified_extractor.training.run.step_count import planned_steps

Batch = tuple[Tensor, Tensor]
TOP = 5
"""Number of most likely classes among which the right one must be for the top-5 accuracy."""


class ImageClassifier(L.LightningModule):
    """A Lightning module that trains a network from images [B, C, H, W] to logits [B, num_classes].

    It logs ``loss`` and ``accuracy`` under ``train/`` once an epoch, and under ``val/`` and ``test/`` also the calibration error and
    the top-5 accuracy. Checkpoints hold the network's specs and its task, which is names of classes and normalization, but no
    hyperparameters: the run's config lies beside them. After a test ``test_correct`` says for every image, in the order of the data
    set, whether it was classified rightly.

    Args:
        network: network from images to logits.
        optimization: settings of optimizer and learning rate.
        label_smoothing: label smoothing of the training loss, 0 to below 1.
        mixup: mixup and CutMix of the training images.
        channels_last: keep weights and images in that memory format.
        compile: run the network through ``torch.compile``.
        kernel_memory: "store" dynamic kernels for backward, "recompute" them in backward to save memory, or "auto", the faster of
            both; "auto" leaves each layer as it is. See :class:`unified_extractor.UnifiedExtractor2d`.
        initial_weights: file of the weights from which training starts, with a new optimizer and schedule: the folder of a run or its
            ``best.ckpt``, a folder of ``interop.save``, or a file of an official code. What belongs to other classes, channels or image
            sizes is left out and named. ``FILE#state_dict_ema`` takes that entry of a file with several. A resumed run reads none.

    Raises:
        ConfigurationError: the network does not fit the data, or the checkpoint is of another architecture.
    """

    def __init__(
        self,
        network: nn.Module,
        optimization: Optimization = Optimization(),
        label_smoothing: float = 0.0,
        mixup: Mixup = Mixup(),
        channels_last: bool = False,
        compile: bool = False,
        kernel_memory: Literal["auto", "store", "recompute"] = "auto",
        initial_weights: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.network = network.to(memory_format=torch.channels_last) if channels_last else network
        self.optimization, self.label_smoothing, self.mixup = optimization, label_smoothing, mixup
        self.task: ImageTask | None = None
        self.image_format = torch.channels_last if channels_last else torch.contiguous_format
        self.compiled = compile
        if kernel_memory != "auto":
            for layer in extractors(network).values():
                layer.kernel_memory = kernel_memory
        # what torchmetrics does about nan waits for the device at every step; a loss that is not finite ends the run anyway
        self.train_loss, self.train_accuracy = MeanMetric(nan_strategy="disable"), MeanMetric(nan_strategy="disable")
        self.initial_weights, self.started_from = initial_weights, ""
        self._logged_epoch = -1
        for metric in (self.train_loss, self.train_accuracy):
            metric.persistent(True)  # a checkpoint within an epoch keeps its means

    @classmethod
    @override
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **arguments: Any,
    ) -> Self:
        """Return the classifier in a checkpoint, as Lightning's method of this name does, in training mode.

        Args:
            checkpoint_path: checkpoint of ``uniex fit`` (``best.ckpt``), or of a ``Trainer`` that fitted an ``ImageClassifier``.
            map_location: see ``torch.load``.
            hparams_file: file of further arguments.
            strict: refuse other names of weights.
            weights_only: read tensors and plain values alone, which runs no code in the file.
            arguments: arguments of the class that replace those of the checkpoint. A network of another package that was not trained
                by ``uniex fit`` must be given as ``network``.

        Raises:
            ConfigurationError: the checkpoint does not say which network it holds, or the network is of another architecture.
        """
        if "network" not in arguments:
            content = torch.load(checkpoint_path, map_location="cpu", weights_only=True, mmap=True)
            arguments = saved_arguments(checkpoint_path, content, cls) | arguments
        return super().load_from_checkpoint(checkpoint_path, map_location, hparams_file, strict, weights_only, **arguments)

    def start(self, class_names: Sequence[str] | None = None) -> list[str]:
        """Load the initial weights, unless it was done before. Return what was left out or left at its start, a line for each reason,
        and whether the classifier is one of other classes than ``class_names``."""
        if self.initial_weights is None or self.started_from:
            return []
        start = InitialWeights(self.network, self.initial_weights, class_names)
        self.started_from = start.name
        return start.notes

    @override
    def setup(self, stage: str) -> None:
        if stage == "fit" and self.trainer.ckpt_path is None:
            for note in self.start():
                rank_zero_info(f"{self.initial_weights}: {note}")
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ImageDataModule) and stage == "fit":
            check_network(self.network, data)  # other stages read a checkpoint first, whose classes count
        if stage == "predict":
            return
        self.num_classes = getattr(data, "num_classes", None) or self.network.num_classes
        self.val_metrics = classification_metrics(self.num_classes, "val/")  # type: ignore[arg-type]
        self.test_metrics = classification_metrics(self.num_classes, "test/")  # type: ignore[arg-type]
        if self.compiled:
            self.network.compile()

    @property
    def predicted_classes(self) -> Sequence[str]:
        """Names of the classes of the logits: those of the checkpoint that was loaded, or else those of the data."""
        return self.task.class_names if self.task else self.trainer.datamodule.class_names  # type: ignore[attr-defined]

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [B, num_classes] of images [B, C, H, W]."""
        logits: Tensor = self.network(images.contiguous(memory_format=self.image_format))
        return logits

    @override
    def on_train_start(self) -> None:
        self._logged_epoch = -1
        if isinstance(data := self.trainer.datamodule, ImageDataModule):  # type: ignore[attr-defined]
            self._set_task(data.task)

    @override
    def on_train_epoch_start(self) -> None:
        self.train_loss.reset()
        self.train_accuracy.reset()

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = self.mixup(*batch, self.num_classes)  # type: ignore[arg-type]
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        likeliest = labels if labels.ndim == 1 else labels.argmax(dim=1)
        self.train_loss.update(loss.detach())
        self.train_accuracy.update(logits.argmax(dim=1) == likeliest)
        # once: each log takes a millisecond, and Lightning asks the metrics themselves when the epoch ends, however early
        if self._logged_epoch != self.current_epoch:
            self._logged_epoch = self.current_epoch
            log = partial(self.log, on_step=False, on_epoch=True, batch_size=len(labels))
            log("train/loss", self.train_loss, prog_bar=True)
            log("train/accuracy", self.train_accuracy)
        return loss

    @override
    def on_validation_start(self) -> None:
        if self.trainer.validating:
            self._check_network()

    @override
    def on_test_start(self) -> None:
        self._check_network()
        self._tested: list[Tensor] = []

    @override
    def on_test_epoch_end(self) -> None:
        own = torch.cat(self._tested)
        every = self.all_gather(own)
        assert isinstance(every, Tensor)
        every = every.reshape(-1, len(own)).T.flatten()  # ranks take turns, see EvaluationSampler
        self.test_correct = every[every >= 0].bool().cpu()

    @override
    def on_predict_start(self) -> None:
        self._check_network()

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    @override
    def predict_step(self, batch: tuple[Tensor, list[str], list[str]], batch_idx: int) -> dict[str, Any]:
        """Return ``file``, ``error`` and ``probabilities`` [B, num_classes] of each image in a batch, and ``label`` [B] and
        ``probability`` [B] of its most likely class; they mean nothing where the error is not an empty text."""
        images, files, errors = batch
        probabilities = self(images).float().softmax(dim=1)
        probability, label = probabilities.max(dim=1)
        return {"file": files, "error": errors, "probabilities": probabilities, "label": label, "probability": probability}

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = planned_steps(self.trainer, self.trainer.datamodule)  # type: ignore[attr-defined]
        optimizer = self.optimization.build(self.network)
        warmup_steps = min(round(steps.per_epoch * self.optimization.warmup_epochs), steps.total - 1)
        schedule = self.optimization.schedule(optimizer, steps=steps.total, warmup_steps=warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["layer_specs"] = layer_specs(self.network)
        checkpoint["started_from"] = self.started_from
        checkpoint[NETWORK] = network_config(self.network)
        if isinstance(data := self.trainer.datamodule, ImageDataModule):  # type: ignore[attr-defined]
            write_task(checkpoint, data.task)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.started_from = checkpoint.get("started_from", "")
        if self._trainer is None:  # load_from_checkpoint
            self.network.task = read_task(checkpoint)  # type: ignore[assignment]
            check_checkpoint(
                "the checkpoint", self.network, checkpoint.get("layer_specs", {}), network_weights(checkpoint["state_dict"])
            )
            return
        path = self.trainer.ckpt_path or "ckpt_path"
        self._fit_data(path, read_task(checkpoint))
        if isinstance(self.trainer.strategy, FSDPStrategy):
            return  # this process holds a shard of the weights, whose shapes say nothing
        check_checkpoint(path, self.network, checkpoint.get("layer_specs", {}), network_weights(checkpoint["state_dict"]))

    def _fit_data(self, path: str | Path, task: ImageTask | None) -> None:
        """Refuse data of other classes than a checkpoint's, and let images be normalized as the checkpoint's were."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ImageDataModule):
            return
        self._set_task(task)
        if task is not None:
            if not self.trainer.predicting:
                check_classes(path, task, data)
            normalize_as(path, task, data)

    def _set_task(self, task: ImageTask | None) -> None:
        self.task = task
        give_task(self.network, task)

    def _check_network(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, ImageDataModule) and not isinstance(self.trainer.strategy, FSDPStrategy):
            check_network(self.network, data, len(self.predicted_classes))

    def _evaluate(self, split: str, batch: Batch) -> None:
        """Log the loss and the metrics of the images that count; images with the label -1 only fill up a rank's last batch."""
        images, labels = batch
        logits, counted = self(images).float(), labels >= 0
        if split == "test":
            correct = logits.softmax(dim=1).argmax(dim=1) == labels
            self._tested.append(correct.to(torch.int8).where(counted, torch.tensor(-1, dtype=torch.int8, device=labels.device)))
        logits, labels = logits[counted], labels[counted]
        loss = F.cross_entropy(logits, labels) if len(labels) else logits.new_zeros(())
        log = partial(self.log, on_step=False, on_epoch=True, batch_size=len(labels))
        log(f"{split}/loss", loss, sync_dist=True)
        metrics = self.val_metrics if split == "val" else self.test_metrics
        if len(labels):
            metrics.update(logits.softmax(dim=1), labels)
        for name, metric in metrics.items():
            log(name, metric, prog_bar=name == "val/accuracy")


def classification_metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Return ``accuracy``, ``calibration_error`` (expected, 15 bins) and, where there are more than five classes,
    ``top5_accuracy``."""
    metrics = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro"),
        "calibration_error": MulticlassCalibrationError(num_classes, n_bins=15),
    }
    if num_classes > TOP:
        metrics["top5_accuracy"] = MulticlassAccuracy(num_classes, top_k=TOP, average="micro")
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)  # type: ignore[arg-type]
