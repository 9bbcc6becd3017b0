"""State dicts of official implementations, loaded into this package's modules. Names, order of taps and coordinates are converted.

A family is a table of rules: official key, our name and, where conventions differ, a conversion of the value.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

import unified_extractor.interop.official.layers as layers
import unified_extractor.interop.official.networks as networks
from unified_extractor.interop.files import read_state_dict
from unified_extractor.interop.official.rules import Items, Rule
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.models import VOLO, InternImage, RedNet, ResNet
from unified_extractor.names import did_you_mean


class Family(NamedTuple):
    """An official code whose state dicts can be loaded."""

    module: type[nn.Module]
    """Class of the modules that its state dicts load into."""
    rules: Callable[[Any], Items]
    """Function from such a module to the rules of its parameters."""


FAMILIES = {
    "involution": Family(UnifiedExtractor2d, layers.involution),
    "outlook_attention": Family(UnifiedExtractor2d, layers.outlook_attention),
    "dcnv3": Family(UnifiedExtractor2d, layers.dcnv3),
    "rednet": Family(RedNet, networks.rednet),
    "resnet": Family(ResNet, networks.resnet),
    "volo": Family(VOLO, networks.volo),
    "internimage": Family(InternImage, networks.internimage),
}


def load_official(module: nn.Module, state_dict: Mapping[str, Tensor] | str | Path, family: str) -> dict[str, str]:
    """Load an official state dict into the equivalent module, strictly and in place.

    Args:
        module: the layer or network that equals the official one.
        state_dict: names and values of the official code, or a file of them, see :func:`unified_extractor.interop.read_state_dict`.
        family: the official code. Layers: "involution" (d-li14), "outlook_attention" (sail-sg VOLO), "dcnv3" (OpenGVLab InternImage, its
            pure torch or CUDA module). Networks: "rednet" (d-li14), "resnet" (torchvision), "volo" (sail-sg, timm),
            "internimage" (OpenGVLab, DCNv3).

    Returns:
        The values that were not loaded as they are, by official key, each with the reason: a classifier for other classes, or where
        there is none, is left out; a position embedding for images of another size is interpolated. A warning says the same.

    Raises:
        ValueError: an unknown family, a module on the meta device, or a key that is missing, unexpected or of another shape; the
            message names it. Nothing is loaded then. Counters ``num_batches_tracked`` may be missing: old files have none.
        TypeError: ``module`` is not what the family loads into, or ``state_dict`` is neither a file nor a mapping of names to tensors.
    """
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"family must be one of {tuple(FAMILIES)}, got {family!r}{did_you_mean(family, FAMILIES)}")
    if not isinstance(module, FAMILIES[family].module):
        raise TypeError(f"family={family!r} loads into a {FAMILIES[family].module.__name__}, got {type(module).__name__}")
    values = read_state_dict(state_dict) if isinstance(state_dict, str | Path) else state_dict
    if not isinstance(values, Mapping) or not all(isinstance(value, Tensor) for value in values.values()):
        raise TypeError(
            f"state_dict must map names to tensors, got {type(values).__name__}; read a file with safetensors or torch.load"
        )
    rules = dict(FAMILIES[family].rules(module))
    own = module.state_dict()
    if any(value.is_meta for value in own.values()):
        raise ValueError("module is on the meta device, which holds no values: call module.to_empty(device=...) first")
    _check_keys(values, rules, own, family)
    notes: dict[str, str] = {}
    loaded = {}
    for key, rule in rules.items():
        if key not in values:
            if rule.by_class and rule.ours in own:
                notes[key] = "not there, the module's own stays"
            continue
        if note := _difference(values[key], rule, own.get(rule.ours)):
            notes[key] = note
        if rule.by_class and key in notes:
            continue
        loaded[rule.ours] = _converted(key, values[key], own[rule.ours], rule)
    module.load_state_dict(own | loaded)
    if notes:
        warnings.warn("; ".join(f"{key}: {note}" for key, note in notes.items()), stacklevel=2)
    return notes


def _check_keys(values: Mapping[str, Tensor], rules: dict[str, Rule], own: dict[str, Tensor], family: str) -> None:
    """Raise ``ValueError`` for the first key without a counterpart on the other side."""
    needed = {key for key, rule in rules.items() if not (key.endswith("num_batches_tracked") or rule.by_class)}
    by_class = {key for key, rule in rules.items() if rule.by_class and rule.ours in own}
    needed |= by_class if by_class & set(values) else set()  # weights without a classifier fit, half a classifier does not
    if missing := sorted(needed - set(values)):
        raise ValueError(f"state_dict has no {missing[0]!r}, which {family} with this spec needs ({len(missing)} missing)")
    if unexpected := sorted(set(values) - set(rules)):
        raise ValueError(
            f"state_dict has {unexpected[0]!r}, which {family} with this spec does not have ({len(unexpected)} unexpected)"
        )
    targets = {rule.ours for rule in rules.values() if not rule.by_class or rule.ours in own}
    if unmatched := sorted(set(own) ^ targets):
        raise ValueError(f"module's spec is not that of an official {family}: {unmatched[0]!r} has no counterpart")


def _difference(value: Tensor, rule: Rule, own: Tensor | None) -> str | None:
    """Return why a value that depends on classes or image size cannot be loaded as it is; None for all other values."""
    if rule.by_class and own is None:
        return "left out, the module has no classifier"
    assert own is not None
    if rule.by_class and value.shape[0] != own.shape[0] and value.shape[1:] == own.shape[1:]:
        return f"left out, it is for {value.shape[0]} classes, the module for {own.shape[0]}"
    if rule.resize and value.dim() == own.dim():
        converted = rule.convert(value).shape
        if converted != own.shape and converted[:2] == own.shape[:2]:
            return f"interpolated from {list(converted[2:])} to {list(own.shape[2:])} positions"
    return None


def _converted(key: str, value: Tensor, own: Tensor, rule: Rule) -> Tensor:
    """Return the official value in our convention and shape; a linear layer's weight becomes a 1x1 convolution's."""
    if rule.resize and value.dim() == own.dim():
        converted = rule.convert(value)
        if converted.shape[:2] == own.shape[:2]:
            return rule.resize(converted, own)
    flat = own.shape[:2] if own.dim() == 4 and value.dim() == 2 and own.shape[2:] == (1, 1) else own.shape
    if value.shape != flat:
        raise ValueError(f"state_dict[{key!r}] must have shape {list(flat)}, got {list(value.shape)}")
    return rule.convert(value).reshape(own.shape)
