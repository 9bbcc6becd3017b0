"""The course of a run, epoch by epoch: losses, accuracies, gradient norms and times."""

import statistics
import time
from itertools import pairwise
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from typing_extensions import override


class RunHistory(L.Callback):
    """A callback that collects what a run's record says about its course. A resumed run continues the collection.

    Attributes:
        curve: one point an epoch: ``epoch``, counted from 1; losses in nats and accuracies as fractions, of training and validation, and
            the validation mIoU of segmentation;
            the mean gradient norm of each stage.
        epoch_seconds: wall time of the training steps of each epoch, without validation.
        step_seconds: median time of a step in each epoch, data loading included.
    """

    def __init__(self) -> None:
        self.curve: list[dict[str, Any]] = []
        self.epoch_seconds: list[float] = []
        self.step_seconds: list[float] = []
        self._ends: list[float] = []
        self._validated = self._stopped = False
        self._norms: Tensor | None = None
        self._normed_steps = torch.tensor(0)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self._stopped

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._ends = [time.perf_counter()]

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        stages = getattr(pl_module.network, "stages", None)
        if not stages or isinstance(trainer.strategy, FSDPStrategy):
            return  # no stages, or this process holds a shard of the gradients
        norms = torch.stack([get_total_norm([p.grad for p in stage.parameters() if p.grad is not None]) for stage in stages])
        finite = torch.isfinite(norms)  # float16's are not at a step that its scaler then skips
        norms = norms.where(finite, 0.0)
        # the values of a checkpoint are on the CPU
        self._norms = norms if self._norms is None else self._norms.to(norms.device) + norms
        self._normed_steps = self._normed_steps.to(norms.device) + finite.int()

    @override
    def on_train_batch_end(self, *_: Any) -> None:
        self._ends.append(time.perf_counter())

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        steps = [late - early for early, late in pairwise(self._ends)]
        self.epoch_seconds.append(sum(steps))
        self.step_seconds.append(statistics.median(steps) if steps else 0.0)
        names = [f"{split}/{metric}" for split in ("train", "val") for metric in ("loss", "accuracy")]
        names += [name for name in ("val/miou",) if name in trainer.callback_metrics]
        if self._validated and set(names) <= trainer.callback_metrics.keys():
            point = {name.replace("/", "_"): float(trainer.callback_metrics[name]) for name in names}
            norms = None if self._norms is None else (self._norms / self._normed_steps.clamp(min=1)).tolist()
            self.curve.append({"epoch": trainer.current_epoch + 1, **point, "gradient_norms": norms})
        self._validated, self._norms, self._normed_steps = False, None, torch.tensor(0)

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["stopped_early"] = trainer.should_stop

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._stopped = checkpoint.get("stopped_early", False)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "curve": self.curve,
            "epoch_seconds": self.epoch_seconds,
            "step_seconds": self.step_seconds,
            "norms": self._norms,
            "normed_steps": self._normed_steps,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curve, self.epoch_seconds = list(state_dict["curve"]), list(state_dict["epoch_seconds"])
        self.step_seconds = list(state_dict["step_seconds"])
        self._norms, self._normed_steps = state_dict.get("norms"), torch.as_tensor(state_dict.get("normed_steps", 0))
