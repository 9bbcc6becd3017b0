"""The generalized unfold: convolution, deformable convolution, involution and outlook attention as settings of one operator."""

from unified_extractor import analysis, interop, models, presets
from unified_extractor.layers import ExtractorConv2d, UnifiedExtractor2d, replace_convolutions
from unified_extractor.ops.dispatch import backends
from unified_extractor.ops.dynamic_kernels import AttentionKernel, LinearKernel
from unified_extractor.ops.functional import extract, generalized_unfold
from unified_extractor.spec import DynamicKernel, ExtractorSpec, Generator, Offsets, Projection, StaticKernel
from unified_extractor.task import ImageTask

__version__ = "0.1.0"

__all__ = [
    "AttentionKernel",
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
