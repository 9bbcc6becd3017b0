"""The generalized unfold: convolution, deformable convolution, involution and outlook attention as settings of one operator."""

from unified_extractor import analysis, interop, models, presets
from unified_extractor.layers import UnifiedExtractor2d
from unified_extractor.ops.dispatch import backends
from unified_extractor.ops.functional import attend, extract, generalized_unfold, generate_and_extract
from unified_extractor.spec import DynamicKernel, ExtractorSpec, Generator, Offsets, Projection, StaticKernel

__version__ = "0.1.0"

__all__ = [
    "DynamicKernel",
    "ExtractorSpec",
    "Generator",
    "Offsets",
    "Projection",
    "StaticKernel",
    "UnifiedExtractor2d",
    "analysis",
    "attend",
    "backends",
    "extract",
    "generalized_unfold",
    "generate_and_extract",
    "interop",
    "models",
    "presets",
]
