"""The generalized unfold: convolution, deformable convolution, involution and outlook attention as settings of one operator."""

import importlib
from typing import TYPE_CHECKING, Any

from unified_extractor import presets
from unified_extractor.layers import ExtractorConv2d, UnifiedExtractor2d, replace_convolutions
from unified_extractor.names import no_attribute
from unified_extractor.ops.dispatch import backends
from unified_extractor.ops.dynamic_kernels import AttentionKernel, LinearKernel
from unified_extractor.ops.functional import extract, generalized_unfold
from unified_extractor.spec import ChannelKernel, DynamicKernel, ExtractorSpec, Generator, Offsets, Projection, StaticKernel
from unified_extractor.task import ImageTask

if TYPE_CHECKING:
    from unified_extractor import analysis, interop, models
    from unified_extractor import data as data
    from unified_extractor import training as training
    from unified_extractor import visualize as visualize
    from unified_extractor.training.trained import load as load

__version__ = "0.1.0"

__all__ = [
    "AttentionKernel",
    "ChannelKernel",
    "DynamicKernel",
    "ExtractorConv2d",
    "ExtractorSpec",
    "Generator",
    "ImageTask",
    "LinearKernel",
    "Offsets",
    "Projection",
    "StaticKernel",
    "UnifiedExtractor2d",
    "analysis",
    "backends",
    "extract",
    "generalized_unfold",
    "interop",
    "models",
    "presets",
    "replace_convolutions",
]
_LAZY = ("analysis", "data", "interop", "models", "training", "visualize")
"""Modules that are imported when they are first used. ``import *`` leaves out those that need an extra."""


def __getattr__(name: str) -> Any:
    """Return a module of the package that is not imported yet, or ``load``, which needs one."""
    if name == "load":
        return importlib.import_module(f"{__name__}.training.trained").load
    if name in _LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise no_attribute(__name__, name, [*__all__, *_LAZY, "load"])


def __dir__() -> list[str]:
    """Return all public names, those that are not imported yet among them."""
    return sorted({*globals(), *_LAZY, "load"})
