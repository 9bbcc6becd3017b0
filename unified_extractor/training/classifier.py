"""The task module of image classification: its loss, its metrics and its predictions."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError
from typing_extensions import override

from unified_extractor.results.correct_images import packed
from unified_extractor.training.callbacks.prediction_table import PredictionTable
from unified_extractor.training.mixup import Mixup
from unified_extractor.training.network_module import Compilation, KernelMemory, NetworkModule
from unified_extractor.training.optimization import Optimization

Batch = tuple[Tensor, Tensor]
TOP = 5
"""Number of most likely classes among which the right one must be for the top-5 accuracy."""


class ImageClassifier(NetworkModule):
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
        compile: run the network through ``torch.compile``; "reduce-overhead" also replays forward and backward as CUDA graphs, and
            "max-autotune" tries several implementations of each product, see the modes of ``torch.compile``.
        kernel_memory: "store" dynamic kernels for backward, "recompute" them in backward to save memory, or "auto", the faster of
            both; "auto" leaves each layer as it is. See :class:`unified_extractor.UnifiedExtractor2d`.
        initial_weights: file of the weights from which training starts, with a new optimizer and schedule: the folder of a run or its
            ``best.ckpt``, a folder of ``interop.save``, or a file of an official code. What belongs to other classes, channels or image
            sizes is left out and named. ``FILE#state_dict_ema`` takes that entry of a file with several. A resumed run reads none.

    Raises:
        ConfigurationError: the network does not fit the data, or the checkpoint is of another architecture.
    """

    score: ClassVar = "accuracy"
    prediction_writer: ClassVar = PredictionTable

    def __init__(
        self,
        network: nn.Module,
        optimization: Optimization = Optimization(),
        label_smoothing: float = 0.0,
        mixup: Mixup = Mixup(),
        channels_last: bool = False,
        compile: Compilation = False,
        kernel_memory: KernelMemory = "auto",
        initial_weights: str | None = None,
    ) -> None:
        super().__init__(network, optimization, channels_last, compile, kernel_memory, initial_weights)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.label_smoothing, self.mixup = label_smoothing, mixup

    @override
    def make_metrics(self) -> None:
        self.val_metrics = classification_metrics(self.num_classes, "val/")
        self.test_metrics = classification_metrics(self.num_classes, "test/")

    @override
    def tested_fields(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        return {
            "test_top5_accuracy": metrics.get("test/top5_accuracy"),
            "test_calibration_error": metrics["test/calibration_error"],
            "test_correct": packed(self.test_correct.tolist()),
        }

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = self.mixup(*batch, self.num_classes)
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        likeliest = labels if labels.ndim == 1 else labels.argmax(dim=1)
        self.train_loss.update(loss.detach())
        self.train_accuracy.update(logits.argmax(dim=1) == likeliest)
        self.log_training(len(labels))
        return loss

    @override
    def on_test_start(self) -> None:
        super().on_test_start()
        self._tested: list[Tensor] = []

    @override
    def on_test_epoch_end(self) -> None:
        own = torch.cat(self._tested)
        every = self.all_gather(own)
        assert isinstance(every, Tensor)
        every = every.reshape(-1, len(own)).T.flatten()  # ranks take turns, see EvaluationSampler
        self.test_correct = every[every >= 0].bool().cpu()

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

    def _evaluate(self, split: str, batch: Batch) -> None:
        """Log the loss and the metrics of the images that count; images with the label -1 only fill up a rank's last batch."""
        images, labels = batch
        logits, counted = self(images).float(), labels >= 0
        if split == "test":
            correct = logits.softmax(dim=1).argmax(dim=1) == labels
            self._tested.append(correct.to(torch.int8).where(counted, torch.tensor(-1, dtype=torch.int8, device=labels.device)))
        logits, labels = logits[counted], labels[counted]
        metrics = self.val_metrics if split == "val" else self.test_metrics
        if len(labels):
            metrics.update(logits.softmax(dim=1), labels)
        loss = F.cross_entropy(logits, labels) if len(labels) else logits.new_zeros(())
        self.log_evaluation(split, loss, len(labels))


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
