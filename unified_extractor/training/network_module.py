"""The base of all task modules: a network with its optimizer, checkpoints and checks. What a label is, a subclass says."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.enums import GradClipAlgorithmType
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric, Metric
from typing_extensions import override

from unified_extractor.data import VisionDataModule
from unified_extractor.interop.saved import network_config
from unified_extractor.profiling.extractors import extractors
from unified_extractor.task import ImageTask
from unified_extractor.training.architecture import check_checkpoint, check_network, layer_specs, network_weights
from unified_extractor.training.callbacks.prediction_writer import PredictionWriter
from unified_extractor.training.initial_weights import InitialWeights
from unified_extractor.training.loading import NETWORK, saved_arguments
from unified_extractor.training.optimization import Optimization
from unified_extractor.training.run.checkpoint_task import check_classes, give_task, normalize_as, read_task, write_task
from unified_extractor.training.run.step_count import planned_steps

KernelMemory = Literal["auto", "store", "recompute"]
Compilation = bool | Literal["reduce-overhead", "max-autotune"]


class WeightedMean(MeanMetric):
    """A mean whose updates never wait for the device, as torchmetrics does to look for nan at every step.

    Told not to look, torchmetrics 1.9 leaves out the weights too. A loss that is not finite ends a run anyway.
    """

    def __init__(self) -> None:
        super().__init__(nan_strategy="disable")

    @override
    def update(self, value: Tensor, weight: Tensor | None = None) -> None:  # type: ignore[override]
        value = value.to(self.dtype)
        weight = torch.ones_like(value) if weight is None else weight.to(self.dtype)
        self.mean_value += (value * weight).sum()
        self.weight += weight.sum()


class NetworkModule(L.LightningModule):
    """A Lightning module that trains a network from images [B, C, H, W] to logits.

    It logs ``train/loss`` and ``train/accuracy`` once an epoch. Checkpoints hold the network's specs and its task, which is names of
    classes and normalization, but no hyperparameters: the run's config lies beside them.

    Args:
        network: network from images to logits.
        optimization: settings of optimizer and learning rate.
        channels_last: keep weights and images in that memory format.
        compile: run the network through ``torch.compile``; "reduce-overhead" also replays forward and backward as CUDA graphs, and
            "max-autotune" tries several implementations of each product, see the modes of ``torch.compile``.
        kernel_memory: "store" dynamic kernels for backward, "recompute" them in backward to save memory, or "auto", the faster of
            both; "auto" leaves each layer as it is. See :class:`unified_extractor.UnifiedExtractor2d`.
        initial_weights: file of the weights from which training starts, with a new optimizer and schedule.

    Raises:
        ConfigurationError: the network does not fit the data, or the checkpoint is of another architecture.
    """

    score: ClassVar[str]
    """The metric of validation by which the best epoch is chosen; the higher the better."""
    prediction_writer: ClassVar[type[PredictionWriter]]
    """The callback that writes what ``uniex predict`` finds."""

    def __init__(
        self,
        network: nn.Module,
        optimization: Optimization = Optimization(),
        channels_last: bool = False,
        compile: Compilation = False,
        kernel_memory: KernelMemory = "auto",
        initial_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.network = _in_channels_last(network) if channels_last else network
        self.optimization = optimization
        self.task: ImageTask | None = None
        self.image_format = torch.channels_last if channels_last else torch.contiguous_format
        self.compiled: Compilation = compile
        if kernel_memory != "auto":
            for layer in extractors(network).values():
                layer.kernel_memory = kernel_memory
        self.train_loss, self.train_accuracy = WeightedMean(), WeightedMean()
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
        """Return the task module in a checkpoint, as Lightning's method of this name does, in training mode.

        Args:
            checkpoint_path: checkpoint of ``uniex fit`` (``best.ckpt``), or of a ``Trainer`` that fitted a module of this class.
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

    def make_metrics(self) -> None:
        """Make the metrics of validation and test for ``num_classes`` classes."""
        raise NotImplementedError

    def tested_fields(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Return the fields of a run's record that the test has found, beside those that every task has."""
        raise NotImplementedError

    def pictures(self, folder: Path) -> list[L.Callback]:
        """Return callbacks that draw what this task alone has to show during training, into a folder."""
        return []

    @override
    def setup(self, stage: str) -> None:
        if stage == "fit" and self.trainer.ckpt_path is None:
            for note in self.start():
                rank_zero_info(f"{self.initial_weights}: {note}")
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, VisionDataModule) and stage == "fit":
            check_network(self.network, data)  # other stages read a checkpoint first, whose classes count
        if stage == "predict":
            return
        self.num_classes: int = getattr(data, "num_classes", None) or self.network.num_classes  # type: ignore[assignment]
        self.make_metrics()
        if self.compiled:
            self.network.compile(mode=None if self.compiled is True else self.compiled)

    @property
    def predicted_classes(self) -> Sequence[str]:
        """Names of the classes of the logits: those of the checkpoint that was loaded, or else those of the data."""
        return self.task.class_names if self.task else self.trainer.datamodule.class_names  # type: ignore[attr-defined]

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images [B, C, H, W]."""
        logits: Tensor = self.network(images.contiguous(memory_format=self.image_format))
        return logits

    @override
    def on_train_start(self) -> None:
        self._logged_epoch = -1
        if isinstance(data := self.trainer.datamodule, VisionDataModule):  # type: ignore[attr-defined]
            self._set_task(data.task)

    @override
    def on_train_epoch_start(self) -> None:
        self.train_loss.reset()
        self.train_accuracy.reset()

    def log_training(self, batch_size: int) -> None:
        """Log the means of the epoch's training loss and accuracy, after both were updated with a batch."""
        # once: each log takes a millisecond, and Lightning asks the metrics themselves when the epoch ends, however early
        if self._logged_epoch != self.current_epoch:
            self._logged_epoch = self.current_epoch
            log = partial(self._log_metric, batch_size=batch_size)
            log("train/loss", self.train_loss, "train_loss", prog_bar=True)
            log("train/accuracy", self.train_accuracy, "train_accuracy")

    def log_evaluation(self, split: str, loss: Tensor, batch_size: int) -> None:
        """Log the mean of a batch's loss and, after they were updated with it, the metrics of a split, ``val`` or ``test``."""
        self.log(f"{split}/loss", loss, on_step=False, on_epoch=True, batch_size=batch_size, sync_dist=True)
        collection = f"{split}_metrics"
        for name, metric in getattr(self, collection).items(keep_base=True):
            self._log_metric(
                f"{split}/{name}", metric, f"{collection}.{name}", batch_size, prog_bar=(split, name) == ("val", self.score)
            )

    def _log_metric(self, name: str, metric: Metric, attribute: str, batch_size: int, prog_bar: bool = False) -> None:
        # by its attribute: Lightning's own list of metrics is, after a fit that failed, that of the fit before
        self.log(name, metric, on_step=False, on_epoch=True, batch_size=batch_size, prog_bar=prog_bar, metric_attribute=attribute)

    @override
    def on_validation_start(self) -> None:
        if self.trainer.validating:
            self._check_network()

    @override
    def on_test_start(self) -> None:
        self._check_network()

    @override
    def on_predict_start(self) -> None:
        self._check_network()

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        steps = planned_steps(self.trainer, self.trainer.datamodule)  # type: ignore[attr-defined]
        optimizer = self.optimization.build(self.network, fused=self._fuses_optimizer() or None)
        warmup_steps = min(round(steps.per_epoch * self.optimization.warmup_epochs), steps.total - 1)
        schedule = self.optimization.schedule(optimizer, steps=steps.total, warmup_steps=warmup_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @override
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            # nothing is scaled, while MixedPrecision refuses every fused optimizer, for it could unscale by itself
            Precision.clip_gradients(
                plugin, optimizer, gradient_clip_val, GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            )
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _fuses_optimizer(self) -> bool:
        """Return True on one GPU: there it costs fewer launches and can leave out a step by itself, see ``StopWhenDiverged``."""
        return self.device.type == "cuda" and self.trainer.world_size == 1 and self.trainer.precision != "16-mixed"

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["layer_specs"] = layer_specs(self.network)
        checkpoint["started_from"] = self.started_from
        checkpoint[NETWORK] = network_config(self.network)
        if isinstance(data := self.trainer.datamodule, VisionDataModule):  # type: ignore[attr-defined]
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
        if not isinstance(data, VisionDataModule):
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
        if isinstance(data, VisionDataModule) and not isinstance(self.trainer.strategy, FSDPStrategy):
            check_network(self.network, data, len(self.predicted_classes))


def _in_channels_last(network: nn.Module) -> nn.Module:
    """Return the network with its kernels in that memory format. ``Module.to`` refuses the five axes of static kernels in several terms."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return network
