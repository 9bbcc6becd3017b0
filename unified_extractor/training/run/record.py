"""The record of a run."""

import datetime
import statistics
import sys
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace

from unified_extractor.data import VisionDataModule
from unified_extractor.profiling.cost import multiply_adds
from unified_extractor.results.choosing import TEST_FIGURES
from unified_extractor.results.record import SCHEMA, EpochMetrics, Record
from unified_extractor.training.architecture import network_specs
from unified_extractor.training.callbacks.history import RunHistory
from unified_extractor.training.network_module import NetworkModule
from unified_extractor.training.run.environment import commit, device_name, versions
from unified_extractor.training.run.folder import RunFolder
from unified_extractor.training.run.settings_hash import config_hash
from unified_extractor.training.run.step_count import planned_steps, planned_test_images


def describe_run(
    *,
    identity: str,
    run: RunFolder,
    parsed: Namespace,
    seed: int,
    module: NetworkModule,
    data: VisionDataModule,
    trainer: L.Trainer,
) -> dict[str, Any]:
    """Return the fields of a run's record that are known before it is trained."""
    steps, network = planned_steps(trainer, data), module.network
    return dict(
        schema=SCHEMA,
        run=identity,
        name=run.name,
        question=run.question,
        variant=run.variant,
        budget=run.budget,
        dataset=data.name,
        config_hash=config_hash(parsed),
        settings_hash=config_hash(parsed, seeded=False),
        network=f"{type(network).__module__}.{type(network).__qualname__}",
        specs=network_specs(network),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiply_adds=multiply_adds(network, data.image_shape),
        seed=seed,
        learning_rate=module.optimization.learning_rate,
        train_images=len(data.images("train")),  # type: ignore[arg-type]
        epoch_images=steps.batches * data.batch_size * trainer.world_size,
        test_images=planned_test_images(trainer, data) if run.tests else 0,
        batch_size=data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
        device=device_name(trainer.strategy.root_device),
        devices=trainer.world_size,
        precision=str(trainer.precision),
        threads=torch.get_num_threads(),
        versions=versions(),
        **commit(),
    )


def make_record(
    described: Mapping[str, Any],
    *,
    module: NetworkModule,
    history: RunHistory,
    device: torch.device,
    epochs: int,
    best_epoch: int,
    tested: Mapping[str, float] | None = None,
    planned_epochs: int | None = None,
) -> Record:
    """Return the record of a run.

    Args:
        described: fields that :func:`describe_run` returns.
        module: task module, which knows its initial weights once a resumed run has read its checkpoint.
        history: course of the run.
        device: device that it was trained on.
        epochs: number of epochs that were trained.
        best_epoch: epoch of the highest score in validation, counted from 1.
        tested: metrics of that epoch's checkpoint, empty or ``None`` if it was not tested.
        planned_epochs: number of epochs of the whole run, ``None`` if it is finished.
    """
    best = next(point for point in history.curve if point["epoch"] == best_epoch)
    return Record(
        **described,
        epochs=epochs,
        planned_epochs=planned_epochs,
        best_epoch=best_epoch,
        **_test_fields(module, tested or {}),
        val_accuracy=best["val_accuracy"],
        val_loss=best["val_loss"],
        val_miou=best.get("val_miou"),
        seconds_per_epoch=statistics.median(history.epoch_seconds),
        seconds_per_step=statistics.median(history.step_seconds),
        peak_memory_bytes=_peak_memory(device),
        initial_weights=module.started_from or None,
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        curve=[EpochMetrics(**point) for point in history.curve],
    )


def _test_fields(module: NetworkModule, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return all fields of a record that come from a test, null where there was none."""
    fields: dict[str, Any] = dict.fromkeys(TEST_FIGURES)
    if metrics:
        fields |= {"test_accuracy": metrics["test/accuracy"], "test_loss": metrics["test/loss"]} | module.tested_fields(metrics)
    return fields


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # macOS counts bytes, Linux KiB
