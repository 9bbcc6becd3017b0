"""The task module of semantic segmentation: its loss, its metrics and its predictions."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from typing_extensions import override

from unified_extractor.data.class_table import voc_color
from unified_extractor.data.class_weights import WeightRule, weights_of_classes
from unified_extractor.data.image_datasets import UNCOUNTED
from unified_extractor.results.image_overlaps import packed
from unified_extractor.training.callbacks.label_map_pictures import LabelMapPictures
from unified_extractor.training.callbacks.label_map_writer import LabelMapWriter
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.network_module import Compilation, KernelMemory, NetworkModule
from unified_extractor.training.optimization import Optimization

Batch = tuple[Tensor, Tensor]
_LEAST = 1e-6
"""Smallest divisor of a loss: a batch without a labeled pixel has the loss 0 and no gradient."""


class Segmenter(NetworkModule):
    """A Lightning module that trains a network from images [B, C, H, W] to logits [B, num_classes, H, W].

    Pixels with the label 255 count for nothing. It logs the ``loss`` and the ``accuracy`` of pixels under ``train/``, ``val/`` and
    ``test/``; under the last two also ``miou``, the mean over classes of intersection over union in all images together, and
    ``iou_<class>`` of every class that images or predictions have. Checkpoints hold the network's specs and its task, which is names and
    colors of classes and normalization. After a test ``test_overlaps`` [images, num_classes, 2] has the pixels of intersection and union of
    every class in each image, in the order of the data set.

    Args:
        network: network from images to logits of pixels, such as ``unified_extractor.models.SegmentationNet``.
        optimization: settings of optimizer and learning rate.
        class_weights: rule of the weights of classes in the training loss: ``none``; ``median_frequency``, the median of the classes'
            frequencies divided by the class's own; ``inverse_log``, 1 / ln(1.02 + share of pixels). Frequencies are those of the
            training images, see :func:`unified_extractor.data.class_weights.weights_of_classes`.
        channels_last: keep weights and images in that memory format.
        compile: run the network through ``torch.compile``; "reduce-overhead" also replays forward and backward as CUDA graphs, and
            "max-autotune" tries several implementations of each product, see the modes of ``torch.compile``.
        kernel_memory: "store" dynamic kernels for backward, "recompute" them in backward to save memory, or "auto", the faster of
            both; "auto" leaves each layer as it is. See :class:`unified_extractor.UnifiedExtractor2d`.
        initial_weights: file of the weights from which training starts, with a new optimizer and schedule: the folder of a run or its
            ``best.ckpt``. A resumed run reads none.

    Raises:
        ConfigurationError: the network does not fit the data, or the checkpoint is of another architecture.
    """

    score: ClassVar = "miou"
    prediction_writer: ClassVar = LabelMapWriter

    def __init__(
        self,
        network: nn.Module,
        optimization: Optimization = Optimization(),
        class_weights: WeightRule = "none",
        channels_last: bool = False,
        compile: Compilation = False,
        kernel_memory: KernelMemory = "auto",
        initial_weights: str | None = None,
    ) -> None:
        super().__init__(network, optimization, channels_last, compile, kernel_memory, initial_weights)
        self.class_weights = class_weights

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.register_buffer("loss_weights", self._loss_weights(), persistent=False)

    @override
    def make_metrics(self) -> None:
        self.val_metrics = segmentation_metrics(self.num_classes, "val/")
        self.test_metrics = segmentation_metrics(self.num_classes, "test/")
        # nan tells a class that is nowhere from one that is never found
        self.class_iou = MulticlassJaccardIndex(
            self.num_classes, average="none", ignore_index=UNCOUNTED, validate_args=False, zero_division=math.nan
        )

    @override
    def tested_fields(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        return {
            "test_miou": metrics["test/miou"],
            "test_class_iou": self.tested_iou,
            "test_overlaps": packed(self.test_overlaps.numpy()),
        }

    @override
    def pictures(self, folder: Path) -> list[L.Callback]:
        return [LabelMapPictures(folder)]

    @property
    def predicted_colors(self) -> Sequence[Sequence[int]]:
        """Colors of the classes of the logits: those of the checkpoint that was loaded, or else those of the data."""
        task = self.task or getattr(self.trainer.datamodule, "task", None)  # type: ignore[attr-defined]
        return (task and task.colors) or [voc_color(index) for index in range(len(self.predicted_classes))]

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch[0], batch[1].long()
        logits = self(images)
        loss = pixel_loss(logits, labels, self.loss_weights)  # type: ignore[arg-type]
        with torch.no_grad():
            counted = (labels != UNCOUNTED).sum()
            correct = (logits.argmax(dim=1) == labels).sum() / counted.clamp(min=1)
        self.train_loss.update(loss.detach())
        self.train_accuracy.update(correct, counted)
        self.log_training(len(labels))
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_class_iou("val")

    @override
    def on_test_start(self) -> None:
        super().on_test_start()
        self._tested: list[Tensor] = []

    @override
    def on_test_epoch_end(self) -> None:
        own = torch.cat(self._tested)
        every = self.all_gather(own)
        assert isinstance(every, Tensor)
        # ranks take turns, see EvaluationSampler
        every = every.reshape(-1, len(own), *own.shape[1:]).transpose(0, 1).flatten(0, 1)
        images = getattr(self.trainer.datamodule, "images", None)  # type: ignore[attr-defined]
        # what fills up the last batches stands behind
        self.test_overlaps = every[: len(images("test")) if images else None].cpu()
        self.tested_iou = self._log_class_iou("test")

    @override
    def predict_step(self, batch: tuple[Tensor, list[str], list[str], Tensor], batch_idx: int) -> dict[str, Any]:
        """Return ``file``, ``error`` and ``maps`` of each image in a batch: its label map, uint8 [H, W], at the size of the file, which
        means nothing where the error is not an empty text."""
        images, files, errors, sizes = batch
        logits = self(images).float()
        maps = [
            F.interpolate(one[None], size=size, mode="bilinear", align_corners=False)[0].argmax(0).to(torch.uint8)
            for one, size in zip(logits, sizes.tolist(), strict=True)
        ]
        return {"file": files, "error": errors, "maps": maps}

    def _evaluate(self, split: str, batch: Batch) -> None:
        """Log the loss, without class weights, and the metrics of the pixels that count."""
        images, labels = batch[0], batch[1].long()
        logits = self(images).float()
        predicted, counted = logits.argmax(dim=1), int((labels != UNCOUNTED).sum())
        if split == "test":
            self._tested.append(overlaps(predicted, labels, self.num_classes))
        metrics = self.val_metrics if split == "val" else self.test_metrics
        if counted:
            metrics.update(predicted, labels)
            self.class_iou.update(predicted, labels)
        self.log_evaluation(split, pixel_loss(logits, labels), counted)

    def _log_class_iou(self, split: str) -> dict[str, float | None]:
        """Log the intersection over union of every class, and return it by name, ``None`` for a class that is nowhere."""
        values = self.class_iou.compute().tolist()
        self.class_iou.reset()
        found = {name: None if math.isnan(value) else value for name, value in zip(self.predicted_classes, values, strict=True)}
        self.log_dict({f"{split}/iou_{name}": value for name, value in found.items() if value is not None}, sync_dist=True)
        return found

    def _loss_weights(self) -> Tensor | None:
        if self.class_weights == "none":
            return None
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "pixel_counts"):
            raise ConfigurationError(
                f"model.class_weights: {self.class_weights} needs data that count pixels, got {type(data).__name__}"
            )
        return weights_of_classes(data.pixel_counts(), self.class_weights)


def pixel_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross entropy of the pixels that count, each with the weight of its class; 0 if none counts.

    Args:
        logits: [B, num_classes, H, W].
        labels: int64 [B, H, W], ``UNCOUNTED`` where a pixel counts for nothing.
        weights: weight of each class, [num_classes]; ``None`` for equal ones.
    """
    total = F.cross_entropy(logits, labels, weights, ignore_index=UNCOUNTED, reduction="sum")
    counted = labels != UNCOUNTED
    if weights is None:
        return total / counted.sum().clamp(min=1)
    return total / weights[labels.where(counted, 0)].where(counted, 0.0).sum().clamp(min=_LEAST)


def overlaps(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the pixels of intersection and union of every class in each image, int32 [B, num_classes, 2].

    Args:
        predicted: int64 [B, H, W].
        labels: int64 [B, H, W], ``UNCOUNTED`` where a pixel counts for nothing.
        num_classes: number of classes.
    """

    def pixels(classes: Tensor, counted: Tensor) -> Tensor:
        there = classes.where(counted, num_classes).flatten(1)
        empty = there.new_zeros((len(there), num_classes + 1), dtype=torch.int32)
        return empty.scatter_add_(1, there, torch.ones_like(there, dtype=torch.int32))[:, :num_classes]

    counted = labels != UNCOUNTED
    intersection = pixels(labels, counted & (predicted == labels))
    union = pixels(labels, counted) + pixels(predicted, counted) - intersection
    return torch.stack([intersection, union], dim=-1)


def segmentation_metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Return ``miou`` and the ``accuracy`` of pixels. A class that neither labels nor predictions have is left out of the mean."""
    counted: dict[str, Any] = {"ignore_index": UNCOUNTED, "validate_args": False}  # checks of values would wait for the device
    metrics = {
        "miou": MulticlassJaccardIndex(num_classes, **counted),
        "accuracy": MulticlassAccuracy(num_classes, average="micro", **counted),
    }
    return MetricCollection(metrics, prefix=prefix, compute_groups=False)  # type: ignore[arg-type]
