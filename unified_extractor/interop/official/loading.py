"""State dicts of official implementations, loaded into this package's modules. Names, order of taps and coordinates are converted.

A family is a table of rules: official key, our name and, where conventions differ, a conversion of the value.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

import unified_extractor.interop.official.layers as layers
import unified_extractor.interop.official.networks as networks
from unified_extractor.interop.official.applying import Weights, apply_rules, read_weights, warn_of
from unified_extractor.interop.official.rules import Items
from unified_extractor.interop.weight_names import fitted_names
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.layers.large_kernel_attention import LargeKernelAttention
from unified_extractor.models import VOLO, InternImage, RedNet, ResNet
from unified_extractor.names import did_you_mean, suggesting_arguments


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
    "condconv": Family(UnifiedExtractor2d, layers.condconv),
    "gnconv": Family(UnifiedExtractor2d, layers.gnconv),
    "idconv": Family(UnifiedExtractor2d, layers.idconv),
    "contmix": Family(UnifiedExtractor2d, layers.contmix),
    "qna": Family(UnifiedExtractor2d, layers.qna),
    "carafe": Family(UnifiedExtractor2d, layers.carafe),
    "dysample": Family(UnifiedExtractor2d, layers.dysample),
    "atconv": Family(UnifiedExtractor2d, layers.atconv),
    "ddf": Family(UnifiedExtractor2d, layers.ddf),
    "large_kernel_attention": Family(LargeKernelAttention, layers.large_kernel_attention),
    "rednet": Family(RedNet, networks.rednet),
    "resnet": Family(ResNet, networks.resnet),
    "volo": Family(VOLO, networks.volo),
    "internimage": Family(InternImage, networks.internimage),
}


@suggesting_arguments
def load_official(module: nn.Module, state_dict: Weights, family: str, *, which: str | None = None) -> dict[str, str]:
    """Load an official state dict into the equivalent module, strictly and in place.

    Args:
        module: the layer or network that equals the official one.
        state_dict: names and values of the official code, a checkpoint that has them, or a file of either, see
            :func:`unified_extractor.interop.read_state_dict`. Prefixes of wrappers such as ``module.`` are removed.
        family: the official code. Layers: "involution" (d-li14), "outlook_attention" (sail-sg VOLO), "dcnv3" (OpenGVLab InternImage, its
            pure torch or CUDA module), "condconv" (timm, with its ``routing``), "gnconv" (HorNet), "idconv" (TransXNet),
            "carafe" (of the authors or mmcv), "dysample", "contmix" (OverLoCK, the dynamic branch of its block), "atconv" (AttNet),
            "qna" (FusedKQnA),
            "large_kernel_attention" (VAN).
            :func:`official_layer` builds modules of all of these. Networks: "rednet" (d-li14), "resnet" (torchvision), "volo" (sail-sg,
            timm), "internimage" (OpenGVLab, DCNv3).
        which: the entry of a checkpoint that has the weights, such as ``state_dict_ema``; None: the weights as trained, not their
            average, where both are there.

    Returns:
        The values that were not loaded as they are, each with the reason; a warning says the same. A classifier for other classes, or
        where there is none, is left out; a position embedding for images of another size is interpolated; a head that is not there
        stays as it is, and so do the generators of deformable stages into which weights of plain convolutions were loaded. Removed
        prefixes, and entries of the checkpoint that were passed over, are named too.

    Raises:
        ValueError: an unknown family, a module on the meta device, or a key that is missing, unexpected or of another shape; the
            message names it. Nothing is loaded then. Counters ``num_batches_tracked`` may be missing: old files have none.
        TypeError: ``module`` is not what the family loads into, or ``state_dict`` is neither a file nor a mapping.
    """
    if not isinstance(family, str) or family not in FAMILIES:
        raise ValueError(f"family must be one of {tuple(FAMILIES)}, got {family!r}{did_you_mean(family, FAMILIES)}")
    if not isinstance(module, FAMILIES[family].module):
        raise TypeError(f"family={family!r} loads into a {FAMILIES[family].module.__name__}, got {type(module).__name__}")
    values, notes = read_weights(state_dict, which)
    rules = dict(FAMILIES[family].rules(module))
    values, renamed = fitted_names(values, rules)
    notes |= renamed | apply_rules(module, values, rules, weights=state_dict, called=family)
    warn_of(notes)
    return notes
