"""A training and a validation step before a run begins: what they raise becomes a line that names the part of the configuration."""

import copy
import gc
import logging
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from unified_extractor.data import DataError, VisionDataModule
from unified_extractor.names import did_you_mean
from unified_extractor.profiling.cost import on_meta
from unified_extractor.training.architecture import check_logits
from unified_extractor.training.errors import ConfigurationError, is_bug, reason_of
from unified_extractor.training.network_module import NetworkModule

Part = tuple[str, Any]
"""A path in the configuration, and the object that was made of it."""
_ONE_STEP = {
    "max_epochs": 1,
    "min_epochs": None,
    "max_steps": -1,
    "min_steps": None,
    "limit_train_batches": 1,
    "limit_val_batches": 1,
    "num_sanity_val_steps": 0,
    "overfit_batches": 0.0,
    "check_val_every_n_epoch": 1,
    "accumulate_grad_batches": 1,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "profiler": None,
}


def try_steps(module: NetworkModule, data: VisionDataModule, given: Namespace, make_trainer: Callable[..., L.Trainer]) -> None:
    """Train and validate a copy of the network on one batch each, with copies of Lightning's callbacks, in a folder that is removed.

    Callbacks of other packages are left out, since they may do more than they would do to a copy.

    Args:
        module: task module, which stays as it is.
        data: data module, set up.
        given: settings of the trainer, with built objects.
        make_trainer: function that returns a trainer with the settings of the run and these changes.

    Raises:
        ConfigurationError: a part of the configuration that fails, by its path.
        DataError: images that cannot be read.
    """
    listed = given.callbacks if isinstance(given.callbacks, list | tuple) else [given.callbacks] if given.callbacks else []
    callbacks = {f"trainer.callbacks[{i}]": copy.deepcopy(one) for i, one in enumerate(listed) if _is_lightnings(one)}
    trial, images = copy.deepcopy(module), copy.copy(data)
    trial.compiled = False
    trial.network.register_forward_hook(
        lambda _, inputs, output: check_logits(output, data.logits_shape(inputs[0].shape, data.num_classes))
    )
    images.loading = replace(data.loading, num_workers=0)
    shape = (data.batch_size, *data.image_shape)
    place = f"a step on images {list(shape)} fails: "
    try:
        with torch.no_grad(), suppress(RuntimeError, TypeError, AttributeError):  # what has no values is told by the step itself
            on_meta(trial.network.train(), shape)  # in a moment, where the step may compile
    except ConfigurationError:
        raise
    except ValueError as error:
        raise ConfigurationError(f"model.network: {place}{reason_of(error)}") from error
    with tempfile.TemporaryDirectory() as folder, isolate_rng(), silent():
        logger = False if given.logger is False else CSVLogger(folder)
        trainer = make_trainer(**_ONE_STEP, callbacks=list(callbacks.values()), logger=logger, default_root_dir=folder)
        try:
            trainer.fit(trial, images)
            for callback in callbacks.values():
                callback.load_state_dict(copy.deepcopy(callback.state_dict()))  # as the test of a checkpoint does
        except (ConfigurationError, DataError):
            raise
        except Exception as error:
            check_monitors(callbacks.items(), trainer.callback_metrics)
            parts = [("model.network", trial.network), ("data", images), *callbacks.items()]
            if (refusal := refusal_of(error, parts, network_on=place)) is None:
                raise
            raise refusal from error
        check_monitors(((f"trainer.callbacks[{i}]", one) for i, one in enumerate(listed)), trainer.callback_metrics)
    if torch.cuda.is_initialized():  # what the record says is of the run
        del trial, images, trainer
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def silent() -> Iterator[None]:
    """Keep Lightning's remarks about the limits of a trial away from the user."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_monitors(callbacks: Iterable[Part], metrics: Iterable[str]) -> None:
    """Raise ``ConfigurationError`` if a callback watches a metric that the run does not have."""
    for path, callback in callbacks:
        name = getattr(callback, "monitor", None)
        if isinstance(name, str) and getattr(callback, "strict", True) and name not in set(metrics):
            there = f"{did_you_mean(name, metrics)}; the run has {', '.join(sorted(metrics))}"
            raise ConfigurationError(f"{path}.init_args.monitor: there is no metric {name}{there}")


def configured_parts(module: NetworkModule, data: VisionDataModule, given: Namespace) -> list[Part]:
    """Return the objects of a configuration that act during a run, with their paths."""
    parts: list[Part] = [("model.network", module.network), ("data", data)]
    for name in ("callbacks", "logger", "plugins", "strategy", "profiler"):
        value = given.get(name)
        if isinstance(value, list | tuple):
            parts += [(f"trainer.{name}[{index}]", one) for index, one in enumerate(value)]
        else:
            parts.append((f"trainer.{name}", value))
    return parts


def refusal_of(error: Exception, parts: Iterable[Part], network_on: str = "") -> ConfigurationError | None:
    """Return an error that names the outermost part in whose method ``error`` was raised; ``None`` for a bug of this package.

    ``network_on`` says what the network was given.
    """
    parts = list(parts)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owners = [
            frame.f_locals.get(name) for name in ("self", "callback", "logger")
        ]  # the last two: of Lightning's calls of hooks
        for path, part in parts:
            if part is not None and any(owner is part for owner in owners):
                if is_bug(error, part):
                    return None
                place = network_on if isinstance(part, nn.Module) else ""
                return ConfigurationError(f"{path}: {place}{reason_of(error)}")
    return None


def _is_lightnings(callback: Callback) -> bool:
    return type(callback).__module__.partition(".")[0] in ("lightning", "pytorch_lightning") and not isinstance(
        callback, ProgressBar
    )
