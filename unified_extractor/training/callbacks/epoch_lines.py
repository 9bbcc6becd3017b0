"""A line an epoch, for terminals and files alike: what was reached, and how long the rest of the run takes."""

import statistics
import sys
import time
from typing import Any

import lightning as L
import torch
from typing_extensions import override

from unified_extractor.training.run.duration import duration
from unified_extractor.training.run.step_count import planned_steps

_SETTLED_SECONDS, _SETTLED_STEPS = 2.0, 3
"""The time and the steps, after the first one that compiles and allocates, that tell how long a step takes."""
_SLOW_SECONDS = 20.0
"""The time after which even one step tells it."""
_LONG_EPOCH = 3600.0


class EpochLines(L.Callback):
    """A callback that prints a line at the end of each epoch, and after the first steps an estimate of an epoch and of the run."""

    def __init__(self) -> None:
        self._epochs: list[float] = []
        self._ends: list[float] = []
        self._last = 0.0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._last = time.perf_counter()

    @override
    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self._epochs or self._settled():
            return  # the lines of epochs say it, or it has been said
        self._ends.append(time.perf_counter())
        if self._settled():
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
                self._ends[-1] = time.perf_counter()
            self._estimate(trainer, (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1))

    def _settled(self) -> bool:
        steps, seconds = len(self._ends) - 1, self._ends[-1] - self._ends[0] if self._ends else 0.0
        return (steps >= _SETTLED_STEPS and seconds > _SETTLED_SECONDS) or seconds > _SLOW_SECONDS

    def _estimate(self, trainer: L.Trainer, step: float) -> None:
        if not trainer.is_global_zero:
            return
        steps = planned_steps(trainer, trainer.datamodule)  # type: ignore[attr-defined]
        epoch, left = steps.batches * step, steps.epochs - trainer.current_epoch
        print(
            f"about {duration(epoch)} an epoch of {steps.batches} steps, {duration(left * epoch)} for {left} of them, "
            "without validation",
            flush=True,
        )
        if epoch > _LONG_EPOCH:
            print(f"uniex: warning: an epoch takes about {duration(epoch)} here", file=sys.stderr, flush=True)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.perf_counter()
        self._epochs.append(now - self._last)
        self._last = now
        if not trainer.is_global_zero:
            return
        total = planned_steps(trainer, trainer.datamodule).epochs  # type: ignore[attr-defined]
        left = (total - trainer.current_epoch - 1) * statistics.median(self._epochs)
        said = [f"{name.replace('/', ' ').replace('miou', 'mIoU')} {_number(name, value)}" for name, value in _metrics(trainer)]
        rest = f"; about {duration(left)} left" if left else ""
        print(f"epoch {trainer.current_epoch + 1}/{total}: {', '.join([*said, duration(self._epochs[-1])])}{rest}", flush=True)


def _metrics(trainer: L.Trainer) -> list[tuple[str, float]]:
    names = ("train/loss", "val/loss", "val/accuracy", "val/miou")
    return [(name, float(trainer.callback_metrics[name])) for name in names if name in trainer.callback_metrics]


def _number(name: str, value: float) -> str:
    return f"{100 * value:.2f}%" if name.endswith(("accuracy", "miou")) else f"{value:.4f}"
