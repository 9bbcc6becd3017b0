"""The operator as a layer, with parameters."""

from typing import TYPE_CHECKING, NoReturn

from unified_extractor.layers.drop_in import ExtractorConv2d
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.layers.large_kernel_attention import LargeKernelAttention
from unified_extractor.layers.replacement import Replacements, replace_convolutions
from unified_extractor.names import no_attribute

__all__ = ["ExtractorConv2d", "LargeKernelAttention", "Replacements", "UnifiedExtractor2d", "replace_convolutions"]


if not TYPE_CHECKING:  # a type checker shall go on to see that a name is unknown

    def __getattr__(name: str) -> NoReturn:
        """Raise ``AttributeError`` with the nearest name for one that there is not."""
        raise no_attribute(__name__, name, __all__)
