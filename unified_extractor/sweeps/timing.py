"""An estimate of how long a run would take on this machine, by timing a few of its training steps."""

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unified_extractor.data.image_datasets import UNCOUNTED
from unified_extractor.profiling.cost import TRAINING
from unified_extractor.training.cli.planned_run import PlannedRun
from unified_extractor.training.run.step_count import planned_batches, planned_steps

_SECONDS = 1.0
_MULTIPLY_ADDS_PER_SECOND = 5e9
"""The speed of a slow processor: on a CPU a step is timed with as many images as it should do in a second, at least two."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The work of a run: ``epochs``, batches a split, and ``images`` a training epoch, on all devices together."""

    epochs: int
    train_batches: int
    val_batches: int
    test_batches: int
    images: int


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a batch: ``train`` with backward and optimizer, data included if no other process loads them; ``evaluate``."""

    train: float
    evaluate: float

    def run(self, schedule: Schedule) -> float:
        """Return the seconds of all epochs and the test."""
        validated = schedule.epochs * schedule.val_batches + schedule.test_batches
        return schedule.epochs * schedule.train_batches * self.train + validated * self.evaluate


def schedule(plan: PlannedRun) -> Schedule:
    """Return the work of a planned run."""
    trainer, data = plan.trainer, plan.data
    steps = planned_steps(trainer, data)
    return Schedule(
        epochs=steps.epochs,
        train_batches=steps.batches,
        val_batches=planned_batches(trainer, data, "val"),
        test_batches=planned_batches(trainer, data, "test") if plan.run.tests else 0,
        images=steps.batches * data.batch_size * trainer.world_size,
    )


def work_key(plan: PlannedRun) -> str:
    """Return a key that runs share if their steps take equally long: such runs differ in seed, optimization or length."""
    model, trainer = plan.settings.model, plan.settings.trainer
    relevant = [
        model.network,
        model.channels_last,
        plan.settings.data,
        plan.settings.threads,
        trainer.precision,
        trainer.accelerator,
        trainer.devices,
    ]
    return json.dumps([value.as_dict() if hasattr(value, "as_dict") else value for value in relevant], default=str)


def step_time(plan: PlannedRun, multiply_adds: int) -> StepTime:
    """Return the seconds of a batch, timed for about a second each on the run's own device. ``multiply_adds`` are those of an image.

    ``torch.compile`` is left out. Changes the planned network's weights.
    """
    device = plan.trainer.strategy.root_device
    count = plan.data.batch_size
    if device.type == "cpu":
        count = max(min(2, count), min(count, int(_MULTIPLY_ADDS_PER_SECOND / max(1, TRAINING * multiply_adds))))
    scale = plan.data.batch_size / count
    module = plan.module.to(device)
    optimizer = module.optimization.build(module.network)
    batches = _batches(plan, count, device)

    def train() -> None:
        images, labels = next(batches)
        optimizer.zero_grad()
        with plan.trainer.precision_plugin.train_step_context():
            loss = F.cross_entropy(module(images), labels, ignore_index=UNCOUNTED)
        loss.backward()
        optimizer.step()

    def evaluate() -> None:
        images, _ = next(batches)
        with torch.no_grad(), plan.trainer.precision_plugin.val_step_context():
            module(images)

    module.train()
    training = _median_seconds(train, device)
    module.eval()
    return StepTime(train=scale * training, evaluate=scale * _median_seconds(evaluate, device))


def _batches(plan: PlannedRun, count: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    data: Any = plan.data
    if data.loading.num_workers == 0 and count == data.batch_size:
        while True:
            for images, labels in data.train_dataloader():
                yield images.to(device), labels.to(device).long()
    images = torch.randn(count, *data.image_shape, device=device)
    _, classes, *places = data.logits_shape(images.shape, data.num_classes)
    labels = torch.randint(classes, (count, *places), device=device)
    while True:
        yield images, labels


def _median_seconds(step: Any, device: torch.device) -> float:
    """Return the median seconds of a step. The first one compiles and allocates and never counts; after a long one a single other does."""
    if _seconds(step, device) > 2 * _SECONDS:
        return _seconds(step, device)
    times: list[float] = []
    while len(times) < 3 or (sum(times) < _SECONDS and len(times) < 30):
        times.append(_seconds(step, device))
        if sum(times) > _SECONDS:
            break
    return statistics.median(times)


def _seconds(step: Any, device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
