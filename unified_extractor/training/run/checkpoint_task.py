"""The task in a checkpoint: the classes and the normalization of the network that it holds, and whether data fit them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from unified_extractor.data import DataError, VisionDataModule
from unified_extractor.task import ImageTask
from unified_extractor.training.errors import ConfigurationError

_KEY = "task"
_MOST_NAMES = 30
"""Largest number of class names that an error lists."""


def write_task(checkpoint: dict[str, Any], task: ImageTask) -> None:
    """Write a task into the content of a checkpoint, in plain values."""
    checkpoint[_KEY] = {name: _plain(value) for name, value in vars(task).items()}


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def read_task(checkpoint: Mapping[str, Any]) -> ImageTask | None:
    """Return the task in the content of a checkpoint; ``None`` if an earlier version wrote it, without one."""
    return ImageTask(**checkpoint[_KEY]) if _KEY in checkpoint else None


def give_task(network: nn.Module, task: ImageTask | None) -> None:
    """Let a network know its task, from where ``interop.save`` takes it; networks that call something else so keep that."""
    if isinstance(getattr(network, "task", None), ImageTask | None):
        network.task = task  # type: ignore[assignment]


def check_classes(path: str | Path, task: ImageTask, data: VisionDataModule) -> None:
    """Raise ``ConfigurationError`` unless data have the classes of the network in a checkpoint, in the same order."""
    if difference := class_difference(task, data.class_names):
        raise ConfigurationError(f"ckpt_path: {path} was trained on other classes than those of {data.name}{difference}")


def class_difference(task: ImageTask, given: Sequence[str]) -> str:
    """Return both lists of classes, to follow a noun; empty if the task has the ``given`` classes in their order."""
    trained = tuple(task.class_names)
    if trained == tuple(given):
        return ""
    order = ", in another order" if sorted(trained) == sorted(given) else ""
    return f"{order}: {_listed(trained, given)} there, {_listed(given, trained)} here"


def normalize_as(path: str | Path, task: ImageTask, data: VisionDataModule) -> None:
    """Let data be normalized as the training images of a checkpoint were. Raise ``DataError`` if they are set to another way."""
    try:
        data.normalize_as(task)
    except DataError as error:
        raise DataError(f"{path}: {error}", error.setting) from error


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    """Return the names of classes in brackets; of very many, the first from where they differ from the others."""
    if len(names) <= _MOST_NAMES:
        return f"[{', '.join(names)}]"
    start = next(
        (i for i, pair in enumerate(zip(names, others, strict=False)) if pair[0] != pair[1]), min(len(names), len(others))
    )
    part = names[start : start + _MOST_NAMES]
    return f"{len(names):,} classes, from class {start} on [{', '.join(part)}{', ...' if start + len(part) < len(names) else ''}]"
