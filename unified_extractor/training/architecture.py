"""The architecture of a network in plain values, and the checks that it fits a data set and a checkpoint.

Networks are known by their attributes alone: a dataclass called ``spec``, or several called ``specs``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unified_extractor.data import VisionDataModule
from unified_extractor.named_specs import specs_line
from unified_extractor.options import with_present_names
from unified_extractor.profiling.cost import on_meta
from unified_extractor.profiling.extractors import extractors
from unified_extractor.spec import ExtractorSpec
from unified_extractor.training.errors import ConfigurationError, is_bug, reason_of
from unified_extractor.training.run.checkpoints import read_checkpoint


def network_specs(network: nn.Module) -> list[dict[str, Any]]:
    """Return the specs of a network as dictionaries: one for every stage, or one for the whole network, as the network
    stores them."""
    return [asdict(spec) for spec in _own_specs(network)]


def extractor_line(network: nn.Module) -> str:
    """Return the extractors of a network in a line: the nearest preset of each, and how it differs; empty without extractors."""
    own = [spec for spec in _own_specs(network) if isinstance(spec, ExtractorSpec)]
    specs = own or [layer.spec for layer in extractors(network).values()]
    return specs_line(specs) if specs else ""


def layer_specs(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the spec of every layer that has one as a dictionary, by the layer's name."""
    return {name: asdict(spec) for name, spec in _layer_specs(network).items()}


def generating_parameters(network: nn.Module) -> set[str]:
    """Return the names of the parameters that generate kernels and offsets; static kernels and projections are not among
    them."""
    return _parameters_of(network, ("feature", "offsets", "kernel", "center_gate"))


def offset_parameters(network: nn.Module) -> set[str]:
    """Return the names of the parameters that generate offsets and nothing else."""
    return _parameters_of(network, ("offsets",))


def _parameters_of(network: nn.Module, parts: Sequence[str]) -> set[str]:
    """Return the names of the parameters of these parts of the layers that have a spec."""
    prefixes = tuple(f"{layer}.{part}." if layer else f"{part}." for layer in layer_specs(network) for part in parts)
    return {name for name, _ in network.named_parameters() if name.startswith(prefixes)}


def check_network(network: nn.Module, data: VisionDataModule, num_classes: int | None = None) -> None:
    """Raise ``ConfigurationError`` unless the network accepts the data's images and returns the logits that the data's
    labels need, for as many classes as there are in the data by default."""
    num_classes = data.num_classes if num_classes is None else num_classes
    for name, need in (("num_classes", num_classes), ("in_chans", data.in_chans)):
        have = getattr(network, name, None)
        if have is not None and have != need:
            raise ConfigurationError(f"model.network.init_args.{name}: must be {need} for {type(data).__name__}, got {have}")
    shape = (1, *data.image_shape)
    training = network.training
    try:
        with torch.no_grad():
            logits = on_meta(network.eval(), shape)  # computing would compile CPU code, which a run on a GPU never needs
    except Exception as error:  # of any network that a configuration may name
        if is_bug(error, network):
            raise
        reason = reason_of(error) + _first_channels(network, data)
        raise ConfigurationError(
            f"model.network: does not take images {list(shape)} of {type(data).__name__}: {reason}"
        ) from error
    finally:
        network.train(training)
    check_logits(logits, data.logits_shape(shape, num_classes))


def check_logits(logits: object, shape: tuple[int, ...]) -> None:
    """Raise ``ConfigurationError`` unless a network's output is a tensor of this shape."""
    if not isinstance(logits, Tensor) or logits.shape != shape:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        dense = len(shape) == 4 and isinstance(logits, Tensor) and logits.ndim == 2
        hint = "; unified_extractor.models.SegmentationNet puts a decoder on a network's stages" if dense else ""
        raise ConfigurationError(f"model.network: must give logits {list(shape)}, got {got}{hint}")


def _first_channels(network: nn.Module, data: VisionDataModule) -> str:
    """Return that the first convolution takes other channels than the images have, if it does."""
    first = next((part for part in network.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None or first.in_channels == data.in_chans:
        return ""
    return f"; its first convolution takes {first.in_channels} channels, the images have {data.in_chans}"


def read_weights(path: str | Path, network: nn.Module) -> dict[str, Tensor]:
    """Return the network's weights in a checkpoint of a run. Raise ``ConfigurationError`` if another architecture wrote it."""
    saved = read_checkpoint(Path(path))
    weights = network_weights(saved["state_dict"])
    check_checkpoint(path, network, saved.get("layer_specs", {}), weights)
    return weights


def network_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's part of a task module's state, under the network's own parameter names."""
    prefix = "network."
    return {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}


def check_checkpoint(path: str | Path, network: nn.Module, specs: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raise ``ConfigurationError`` unless ``specs`` and ``weights`` of a checkpoint are those of this network.

    Specs are compared too, because two extractors can have parameters of equal names and shapes and still compute different things.
    """
    prefix = f"ckpt_path: {path} was written by another architecture:"
    own = network.state_dict()
    for rule, names in (
        ("it lacks", own.keys() - weights.keys()),
        ("it has the unknown", weights.keys() - own.keys()),
        ("it has another shape of", {name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape}),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ConfigurationError(f"{prefix} {rule} {min(names)}{more}")
    if differing := differing_fields(network, specs):
        raise ConfigurationError(f"{prefix} {differing[0]}")


def differing_fields(network: nn.Module, specs: Mapping[str, Any]) -> list[str]:
    """Return a line for every field of a layer's spec in which a checkpoint's ``specs`` differ from the network."""
    lines = []
    for name, spec in _layer_specs(network).items():
        try:
            saved = asdict(type(spec)(**with_present_names(specs.get(name), type(spec))))  # newer options have their defaults
        except (TypeError, ValueError) as error:
            lines.append(f"the spec of {name} there is none of {type(spec).__name__} here: {error}")
            continue
        there, here = dict(_leaves(saved)), dict(_leaves(asdict(spec)))
        lines += [
            f"{field} of {name} is {there[field]} there and {value} here"
            for field, value in here.items()
            if there[field] != value
        ]
    return lines


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by their dotted names."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _own_specs(network: nn.Module) -> list[Any]:
    specs = getattr(network, "specs", None) or getattr(network, "spec", None) or ()
    return [spec for spec in (specs if isinstance(specs, list | tuple) else [specs]) if is_dataclass(spec)]


def _layer_specs(network: nn.Module) -> dict[str, Any]:
    """Return the spec of every layer that has one. Parts of an extractor are no layers, whatever they keep of its spec."""
    parts = {part for layer in extractors(network).values() for part in layer.modules() if part is not layer}
    specs = ((name, getattr(module, "spec", None)) for name, module in network.named_modules() if module not in parts)
    return {name: spec for name, spec in specs if is_dataclass(spec) and not isinstance(spec, type)}
