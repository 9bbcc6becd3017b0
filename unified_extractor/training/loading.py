"""The arguments of a task module, from a checkpoint alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from unified_extractor.interop.saved import network_from
from unified_extractor.options import with_present_names_of
from unified_extractor.training.callbacks.run_settings import SETTINGS
from unified_extractor.training.errors import ConfigurationError

NETWORK = "network"
"""The name of the network's configuration in a checkpoint."""


def saved_arguments(path: str | Path, checkpoint: Mapping[str, Any], module: type) -> dict[str, Any]:
    """Return the arguments with which the task module in a checkpoint was made, its network with random weights.

    Checkpoints of ``uniex fit`` hold the settings of their run; others the configuration of a network of this package.

    Raises:
        ConfigurationError: the checkpoint says neither, or the network cannot be made from it.
    """
    if SETTINGS in checkpoint:
        return _from_settings(path, checkpoint[SETTINGS]["model"], module)
    if checkpoint.get(NETWORK) is not None:
        try:
            return {NETWORK: network_from(checkpoint[NETWORK], path)}
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{path}: its network cannot be made: {error}") from error
    hint = f"{module.__name__}.load_from_checkpoint(..., network=...)"
    raise ConfigurationError(f"{path} does not say which network it holds: give it, {hint}")


def _from_settings(path: str | Path, settings: Mapping[str, Any], module: type) -> dict[str, Any]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(module, sub_configs=True)
    try:
        parsed = parser.parse_object(with_present_names_of(module, settings))
        built: Namespace = parser.instantiate_classes(parsed)
    except (ArgumentError, TypeError, ValueError, ImportError) as error:
        raise ConfigurationError(f"{path}: its network cannot be made: {' '.join(str(error).split())}") from error
    return dict(vars(built))
