"""Weights from anywhere into a network: of this package's runs and saved networks, of official codes, of torchvision and timm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unified_extractor.interop.official.applying import Weights, apply_rules, read_weights, warn_of
from unified_extractor.interop.official.loading import FAMILIES
from unified_extractor.interop.official.networks import resized_to
from unified_extractor.interop.official.rules import Items, Rule
from unified_extractor.interop.saved import network_config, network_from
from unified_extractor.interop.weight_names import fitted_names, without_prefixes
from unified_extractor.models.segmentation import SegmentationNet
from unified_extractor.models.staged import StagedNetwork
from unified_extractor.models.volo import PositionEmbedding
from unified_extractor.names import suggesting_arguments


@suggesting_arguments
def read_state_dict(path: str | Path, which: str | None = None) -> dict[str, Tensor]:
    """Return the weights in a file, on the CPU, under names without the prefixes of wrappers that all of them have.

    Args:
        path: a ``.safetensors`` file; a file of ``torch.save`` with a state dict or a checkpoint that contains one; or a folder of
            :func:`unified_extractor.interop.save`.
        which: the entry of a checkpoint that has the weights, such as ``state_dict_ema``; None: the weights as trained, not their
            average, where both are there. A warning names the other entries, and removed prefixes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, has no state dict, or has more in it than tensors, plain values, numpy's scalars and arrays and
            ``argparse.Namespace``, which could run code.
    """
    values, notes = read_weights(path, which)
    values, removed = without_prefixes(values)
    warn_of(notes | ({f"{removed}*": f"the prefix {removed!r} of all names was removed"} if removed else {}))
    return values


@suggesting_arguments
def load_weights(network: nn.Module, weights: Weights, *, which: str | None = None) -> dict[str, str]:
    """Load weights into a network from which training shall start, in place: its own, or those of the official code it equals.

    What belongs to other classes, image sizes or extractors is left at its start or interpolated, and named; all else is strict.

    Args:
        network: a network of this package, or any other module for weights under its own names. Weights of a classifier go into the
            backbone of a segmentation network.
        weights: a state dict or checkpoint, or a file of one, see :func:`read_state_dict`: of a run (``best.ckpt``), of
            :func:`unified_extractor.interop.save` (the folder), of an official code (see :func:`load_official`).
        which: the entry of a checkpoint that has the weights, such as ``state_dict_ema``; None: the weights as trained, not their
            average, where both are there.

    Returns:
        The values that were not loaded as they are, each with the reason; a warning says the same.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a broken file, a network on the meta device, or a key that is missing, unexpected or of another shape; the message
            names it. Nothing is loaded then.
        TypeError: ``weights`` is neither a file nor a mapping.
    """
    values, notes = read_weights(weights, which)
    if isinstance(network, SegmentationNet) and not any("decoder." in name for name in values):
        return notes | _load_backbone(network, weights, which)
    fitted: dict[str, Any] = {called: (rules, *fitted_names(values, rules)) for called, rules in _tables(network).items()}
    called = max(fitted, key=lambda name: len(fitted[name][0].keys() & fitted[name][1].keys()))
    rules, values, renamed = fitted[called]
    notes |= renamed | apply_rules(network, values, rules, weights=weights, called=called)
    warn_of(notes)
    return notes


def _load_backbone(network: SegmentationNet, weights: Weights, which: str | None) -> dict[str, str]:
    """Load a classifier's weights into the backbone of a segmentation network, in place, and return what was left out."""
    backbone = network.backbone
    classifier = network_from(network_config(backbone) or {}, "backbone")  # whole, as the weights are
    own = backbone.state_dict()
    notes = {
        name: reason for name, reason in load_weights(classifier, weights, which=which).items() if name in own or "*" in name
    }
    whole = classifier.state_dict()
    backbone.load_state_dict({name: whole[name] for name in own})
    left = dict.fromkeys(whole.keys() - own.keys(), "left out, a backbone has no head and no last norm")
    decoder = {name: "not there, the module's own value stays" for name in network.state_dict() if name.startswith("decoder.")}
    return notes | dict(sorted(left.items())) | decoder


def _tables(network: nn.Module) -> dict[str, Mapping[str, Rule]]:
    """Return the tables of rules by which weights may fit the network: its own names, and those of official codes."""
    tables: dict[str, Mapping[str, Rule]] = {type(network).__name__: dict(_own_rules(network))}
    for name, family in FAMILIES.items():
        if isinstance(network, family.module):
            try:
                tables[name] = dict(family.rules(network))
            except ValueError:  # a spec that no official weights fit
                continue
    return tables


def _own_rules(network: nn.Module) -> Items:
    """Yield the rules of a network's own names: classifiers depend on classes, position embeddings on the image's size."""
    embeddings = {f"{name}.embedding" for name, part in network.named_modules() if isinstance(part, PositionEmbedding)}
    by_class = {f"{name}.{kind}" for name in _classifiers(network) for kind in ("weight", "bias")}
    for name in dict.fromkeys([*network.state_dict(), *sorted(by_class)]):
        yield name, Rule(name, by_class=name in by_class, resize=resized_to if name in embeddings else None)


def _classifiers(network: nn.Module) -> tuple[str, ...]:
    """Return the names of a network's classifiers: as it says itself, else its last linear layer, or convolution, and those as wide."""
    if isinstance(network, StagedNetwork):
        return network.classifiers
    named = (getattr(network, "default_cfg", None) or {}).get("classifier")
    if named:
        return (named,) if isinstance(named, str) else tuple(named)
    for kind, width in ((nn.Linear, "out_features"), (nn.Conv2d, "out_channels")):
        layers = {name: getattr(part, width) for name, part in network.named_modules() if isinstance(part, kind)}
        if layers:
            *_, last = layers.values()
            return tuple(name for name, outputs in layers.items() if outputs == last)
    return ()
