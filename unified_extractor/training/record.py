"""One finished run as one record: the only source of numbers for tables and figures."""

import json
import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

import lightning as L
import torch

from unified_extractor.analysis.cost import cost
from unified_extractor.data import ImageDataModule
from unified_extractor.training.architecture import network_specs
from unified_extractor.training.classifier import ImageClassifier

SCHEMA = 1
"""Raised whenever a field changes its meaning."""


def make_record(
    *,
    name: str,
    seed: int,
    classifier: ImageClassifier,
    data: ImageDataModule,
    trainer: L.Trainer,
    epoch_seconds: list[float],
    val_accuracy: float,
    test_accuracy: float,
) -> dict[str, Any]:
    """The record of a run that has been trained and tested. Accuracies are fractions, ``seconds_per_epoch`` is the median."""
    network = classifier.network
    return {
        "schema": SCHEMA,
        "name": name,
        "network": f"{type(network).__module__}.{type(network).__qualname__}",
        "specs": network_specs(network),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_adds": cost(network, (data.in_chans, data.image_size, data.image_size)).multiply_adds,
        "data": type(data).__name__,
        "train_images": len(data.images("train")),  # type: ignore[arg-type]
        "seed": seed,
        "epochs": trainer.current_epoch,
        "val_accuracy": val_accuracy,
        "test_accuracy": test_accuracy,
        "seconds_per_epoch": statistics.median(epoch_seconds),
        "device": device_name(trainer.strategy.root_device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        **commit(),
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes the record whole or not at all. Raises ``FileExistsError`` rather than overwrite one."""
    if path.exists():
        raise FileExistsError(f"{path} exists: records are never overwritten")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w") as file:
            json.dump(record, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Versions of what a number depends on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "lightning": L.__version__}


def device_name(device: torch.device) -> str:
    """The device in words: the accelerator's name, or the processor's architecture."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def commit() -> dict[str, Any]:
    """``commit`` of the checkout this package lies in and whether it is ``dirty``; both ``None`` without one."""
    here = Path(__file__).parent
    try:
        top = _git("rev-parse", "--show-toplevel", at=here)
        if Path(top) != here.parents[1].resolve():  # installed into somebody else's checkout
            return {"commit": None, "dirty": None}
        return {"commit": _git("rev-parse", "HEAD", at=here), "dirty": bool(_git("status", "--porcelain", "-uno", at=here))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(*arguments: str, at: Path) -> str:
    return subprocess.run(["git", "-C", str(at), *arguments], capture_output=True, text=True, check=True).stdout.strip()
