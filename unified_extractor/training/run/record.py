"""The record of a finished run."""

import datetime
import statistics
import sys

import lightning as L
import torch
from jsonargparse import Namespace

from unified_extractor.data import ImageDataModule
from unified_extractor.profiling.cost import multiply_adds
from unified_extractor.results.record import SCHEMA, EpochMetrics, Record
from unified_extractor.training.architecture import network_specs
from unified_extractor.training.callbacks.history import RunHistory
from unified_extractor.training.classifier import ImageClassifier
from unified_extractor.training.run.environment import commit, device_name, versions
from unified_extractor.training.run.folder import RunFolder
from unified_extractor.training.run.settings_hash import config_hash
from unified_extractor.training.run.step_count import planned_steps, planned_test_images


def make_record(
    *,
    identity: str,
    run: RunFolder,
    parsed: Namespace,
    seed: int,
    classifier: ImageClassifier,
    data: ImageDataModule,
    trainer: L.Trainer,
    history: RunHistory,
    best_epoch: int,
    tested: dict[str, float],
) -> Record:
    """Return the record of a trained and tested run. ``tested`` are the metrics of the best epoch's checkpoint."""
    steps = planned_steps(trainer, data)
    network, device = classifier.network, trainer.strategy.root_device
    best = next(point for point in history.curve if point["epoch"] == best_epoch)
    return Record(
        schema=SCHEMA,  # type: ignore[arg-type]
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
        multiply_adds=multiply_adds(network, (data.in_chans, data.image_size, data.image_size)),
        seed=seed,
        epochs=trainer.current_epoch,
        best_epoch=best_epoch,
        train_images=len(data.images("train")),  # type: ignore[arg-type]
        epoch_images=steps.batches * data.batch_size * trainer.world_size,
        test_images=planned_test_images(trainer, data),
        batch_size=data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
        test_accuracy=tested["test/accuracy"],
        test_top5_accuracy=tested.get("test/top5_accuracy"),
        test_loss=tested["test/loss"],
        test_calibration_error=tested["test/calibration_error"],
        val_accuracy=best["val_accuracy"],
        val_loss=best["val_loss"],
        seconds_per_epoch=statistics.median(history.epoch_seconds),
        seconds_per_step=statistics.median(history.step_seconds),
        peak_memory_bytes=_peak_memory(device),
        device=device_name(device),
        devices=trainer.world_size,
        precision=str(trainer.precision),
        threads=torch.get_num_threads(),
        versions=versions(),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        initial_weights=classifier.started_from or None,
        curve=[EpochMetrics(**point) for point in history.curve],
        **commit(),
    )


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024  # macOS counts bytes, Linux KiB
