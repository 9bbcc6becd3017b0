"""Weights loaded into a module by a table of rules: strictly, but for what belongs to other classes, image sizes or extractors."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unified_extractor.interop.files import find_state_dict, read_file
from unified_extractor.interop.official.rules import Rule, by_halves, without_constants
from unified_extractor.layers.extractor import UnifiedExtractor2d

Weights = Mapping[str, Any] | str | Path
"""Names and values, a checkpoint that has them, or a file or folder of either."""
_GENERATES = ("feature", "offsets", "kernel", "center_gate")
"""Children of an extractor that generate kernels and offsets."""
_LEFT_OUT = "left out"
"""First words of the reason for a value that is not loaded at all."""


def read_weights(weights: Weights, which: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights in a file or mapping, and the entries of the checkpoint that were passed over, with the reason.

    Raises:
        TypeError: ``weights`` is neither a path nor a mapping.
        FileNotFoundError, ValueError: there is no such file, or no state dict in it.
    """
    if not isinstance(weights, str | Path | Mapping):
        raise TypeError(f"state_dict must be a file or map names to tensors, got {type(weights).__name__}")
    content = weights if isinstance(weights, Mapping) else read_file(weights)
    return find_state_dict(content, _called(weights), which)


def apply_rules(
    module: nn.Module, values: Mapping[str, Tensor], rules: Mapping[str, Rule], *, weights: Weights, called: str
) -> dict[str, str]:
    """Load values into a module by a table of rules, in place, and return those that were not loaded as they are, with the reason.

    Args:
        module: module with parameters under the names that the rules give as ours.
        values: values under the rules' keys.
        rules: table of the rules.
        weights: origin of the values, for messages.
        called: name of what the rules describe, for messages.

    Raises:
        ValueError: the module is on the meta device, or a key is missing, unexpected or of another shape. Nothing is loaded then.
    """
    values, rules = by_halves(*without_constants(values, rules))
    own = module.state_dict()
    if any(value.is_meta for value in own.values()):
        raise ValueError("module is on the meta device, which holds no values: call module.to_empty(device=...) first")
    staying = _missing(values, rules, own, _generated_names(module))
    left = {rules[key].ours if key in rules else key for key in staying}
    _check_keys(values, rules, own, left, _called(weights), called)
    notes = dict.fromkeys(staying, "not there, the module's own value stays")
    loaded, first = {}, _first_kernel(module)
    for key, rule in rules.items():
        if key not in values:
            continue
        note = _difference(values[key], rule, own.get(rule.ours), of_image=rule.ours == first)
        if note:
            notes[key] = note
        if not note.startswith(_LEFT_OUT):
            loaded[rule.ours] = _converted(key, values[key], own[rule.ours], rule)
    module.load_state_dict(own | loaded)
    return notes


def warn_of(notes: Mapping[str, str], stacklevel: int = 3) -> None:
    """Warn of what was not loaded as it is: one example for each reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in notes.items():
        by_reason.setdefault(reason, []).append(name)
    said = [f"{names[0]}: {reason}{f' (and {len(names) - 1} more)' * (len(names) > 1)}" for reason, names in by_reason.items()]
    if said:
        warnings.warn("; ".join(said), stacklevel=stacklevel)


def _called(weights: Weights) -> str:
    return str(weights) if isinstance(weights, str | Path) else "state_dict"


def _generated_names(module: nn.Module) -> set[str]:
    """Return the parameters beside dense static kernels that plain weights of convolutions lack: generators, and biases."""
    names = {name: layer for name, layer in module.named_modules() if isinstance(layer, UnifiedExtractor2d)}
    return {
        f"{name}.{own}" if name else own
        for name, layer in names.items()
        if layer.spec.static_kernel.channels == "dense"
        for own in layer.state_dict()
        if own.split(".")[0] in _GENERATES or own == "bias"
    }


def _missing(
    values: Mapping[str, Tensor], rules: Mapping[str, Rule], own: Mapping[str, Tensor], generated: set[str]
) -> list[str]:
    """Return what may be missing and is: keys of the classifier, of the whole head, of the generators; names without a rule too."""
    there = {key: rule.ours for key, rule in rules.items() if rule.ours in own}
    groups = [
        {key for key in there if rules[key].by_class},
        {key for key, ours in there.items() if ours.startswith("head.")},
        {key for key, ours in there.items() if ours in generated},
    ]
    missing = {key for group in groups if not group & set(values) for key in group}  # half a classifier is an error
    return [key for key in rules if key in missing] + sorted(generated - set(there.values()))


def _check_keys(
    values: Mapping[str, Tensor],
    rules: Mapping[str, Rule],
    own: Mapping[str, Tensor],
    staying: set[str],
    about: str,
    called: str,
) -> None:
    """Raise ``ValueError`` for the first key without a counterpart on the other side, but for our names in ``staying``."""
    needed = {key for key, rule in rules.items() if rule.ours in own and rule.ours not in staying}
    if not set(values) & set(rules):
        raise ValueError(f"no name of {about} fits: it has {min(values)!r}, {called} has {min(rules)!r}")
    if missing := sorted(key for key in needed - set(values) if not key.endswith("num_batches_tracked")):
        raise ValueError(f"{about} has no {missing[0]!r}, which {called} with this spec needs ({len(missing)} missing)")
    if unexpected := sorted(set(values) - set(rules)):
        raise ValueError(
            f"{about} has {unexpected[0]!r}, which {called} with this spec does not have ({len(unexpected)} unexpected)"
        )
    targets = {rule.ours for rule in rules.values() if not rule.by_class or rule.ours in own}
    if unmatched := sorted((set(own) ^ targets) - staying):
        raise ValueError(f"module's spec is not that of an official {called}: {unmatched[0]!r} has no counterpart")


def _first_kernel(module: nn.Module) -> str:
    """Return the name of the weights that see the image: those of the first convolution; empty without one."""
    return next((f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Conv2d)), "")


def _difference(value: Tensor, rule: Rule, own: Tensor | None, *, of_image: bool) -> str:
    """Return why a value that depends on classes, channels or size of the images cannot be loaded as it is; empty for all others."""
    if rule.by_class and own is None:
        return f"{_LEFT_OUT}, the module has no classifier"
    assert own is not None
    if rule.by_class and value.shape[:1] != own.shape[:1] and value.shape[1:] == own.shape[1:]:
        return f"{_LEFT_OUT}, it is for {value.shape[0]} classes, the module for {own.shape[0]}"
    if of_image and value.dim() == 4 and value.shape[1] != own.shape[1] and value[:, :1].shape == own[:, :1].shape:
        return f"{_LEFT_OUT}, it is for {value.shape[1]}-channel images, the module for {own.shape[1]}-channel ones"
    if rule.resize and value.dim() == own.dim():
        converted = rule.convert(value).shape
        if converted != own.shape and converted[:2] == own.shape[:2]:
            return f"interpolated from {list(converted[2:])} to {list(own.shape[2:])} positions"
    return ""


def _converted(key: str, value: Tensor, own: Tensor, rule: Rule) -> Tensor:
    """Return the official value in our convention and shape; a linear layer's weight becomes a 1x1 convolution's."""
    if rule.resize and value.dim() == own.dim():
        converted = rule.convert(value)
        if converted.shape[:2] == own.shape[:2]:
            return rule.resize(converted, own)
    is_matrix = value.dim() == 2 and (own.dim() == 5 or (own.dim() == 4 and own.shape[2:] == (1, 1)))
    flat = (own.shape[0], own.shape[1:].numel()) if is_matrix else own.shape
    if value.dim() == 4 and own.dim() == 5 and own.shape[2] == 1:
        flat = (*own.shape[:2], *own.shape[3:])
    if value.dim() == 4 and own.dim() == 2:
        flat = (*own.shape, 1, 1)
    if rule.shape is not None:
        flat = torch.Size(rule.shape)
    if value.shape != flat:
        raise ValueError(f"state_dict[{key!r}] must have shape {list(flat)}, got {list(value.shape)}")
    return rule.convert(value).reshape(own.shape)
