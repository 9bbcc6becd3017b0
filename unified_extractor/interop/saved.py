"""A network in two files: the configuration that builds it again, with its specs, and its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import unified_extractor.models as models
from unified_extractor.extras import needed
from unified_extractor.interop.files import read_file
from unified_extractor.names import did_you_mean, suggesting_arguments
from unified_extractor.options import present_class_path, with_present_names_of
from unified_extractor.spec import ExtractorSpec, asdict_changed
from unified_extractor.task import ImageTask

CONFIG = "config.json"
"""The file of a saved network's configuration."""
_WEIGHTS = "model.safetensors"
_SPECS = ("spec", "published", "upsampler")
"""Arguments of networks that are specs or lists of them."""


Network = models.StagedNetwork | models.SegmentationNet
"""A network of this package."""


@suggesting_arguments
def save(network: Network, folder: str | Path) -> None:
    """Write ``config.json``, with the network's ``task``, and ``model.safetensors`` into a folder; a missing folder is created.

    Raises:
        RuntimeError: two weights share memory, or one has no values.
        TypeError: ``network`` is not a network of this package.
        ValueError: ``network`` was pruned to features, so that its configuration builds another one.
    """
    if not isinstance(network, Network):
        raise TypeError(f"network must be one of unified_extractor.models, got {type(network).__name__}")
    if isinstance(network, models.StagedNetwork) and _is_pruned(network):
        raise ValueError("network must have all of its stages and its head, this one was pruned to features")
    config = network_config(network)
    assert config is not None
    if network.task is not None:
        config["task"] = vars(network.task)
    text = json.dumps(config, indent=2)
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    content = needed("safetensors.torch").save(weights, {"format": "pt"})  # what fails does so before a folder is made
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _WEIGHTS).write_bytes(content)
    (folder / CONFIG).write_text(text + "\n")


@suggesting_arguments
def load(folder: str | Path) -> Network:
    """Return the network that :func:`save` wrote, with its ``task``, in its precision, on the CPU, in eval mode.

    Raises:
        FileNotFoundError: the folder lacks one of the two files.
        ValueError: a file is broken, the network's class is unknown, or weights and configuration do not belong together.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        config = dict(json.loads(path.read_text()))
        name = str(config["network"])
        task = ImageTask(**config.pop("task")) if "task" in config else None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no configuration of a network: {error}") from error
    try:
        network = network_from(config, path)
        weights = read_file(Path(folder) / _WEIGHTS)
        precisions = {value.dtype for value in weights.values() if value.is_floating_point()}
        if len(precisions) == 1:
            network.to(precisions.pop())
        network.load_state_dict(weights)
        network.task = task
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{folder}: configuration and weights do not make a {name}: {error}") from error
    return network.eval()


def network_config(network: nn.Module) -> dict[str, Any] | None:
    """Return the configuration of a network in the types of JSON: the name of its class, and its arguments; ``None`` for a network of
    another package."""
    if not isinstance(network, Network):
        return None
    return {name: _plain(value) for name, value in network.config.items()}


def network_from(config: Mapping[str, Any], place: str | Path) -> Network:
    """Return the network of a configuration, with random weights. ``place`` is the file that has it, for messages.

    Raises:
        ValueError: the network's class is unknown, or its arguments contradict each other.
        TypeError: an argument is unknown or of another type.
    """
    arguments = dict(config)
    name = present_class_path(str(arguments.pop("network")))
    network_class = getattr(models, name, None)
    if not isinstance(network_class, type) or not issubclass(network_class, Network):
        near = did_you_mean(name, [one for one in models.__all__ if isinstance(getattr(models, one), type)])
        raise ValueError(f"{place}: network must be a class of unified_extractor.models, got {name!r}{near}")
    if isinstance(backbone := arguments.get("backbone"), Mapping):
        arguments["backbone"] = network_from(backbone, place)
    arguments = with_present_names_of(network_class, arguments)
    for field in _SPECS:
        saved = arguments.get(field)
        if isinstance(saved, list):
            arguments[field] = [ExtractorSpec(**fields) for fields in saved]
        elif saved is not None:
            arguments[field] = ExtractorSpec(**saved)
    return network_class(**arguments)


def _is_pruned(network: models.StagedNetwork) -> bool:
    return len(network.stages) != len(network.feature_info) or isinstance(network.head, nn.Identity)


def _plain(value: Any) -> Any:
    """Return the value in the types of JSON."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return asdict_changed(value) if isinstance(value, ExtractorSpec) else value
