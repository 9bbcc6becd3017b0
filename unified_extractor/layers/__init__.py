"""The operator as a layer, with parameters."""

from unified_extractor.layers.drop_in import ExtractorConv2d
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.layers.large_kernel_attention import LargeKernelAttention
from unified_extractor.layers.replacement import Replacements, replace_convolutions

__all__ = ["ExtractorConv2d", "LargeKernelAttention", "Replacements", "UnifiedExtractor2d", "replace_convolutions"]
