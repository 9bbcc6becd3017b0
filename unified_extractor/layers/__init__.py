"""The operator as a layer, with parameters."""

from unified_extractor.layers.extractor import UnifiedExtractor2d

__all__ = ["UnifiedExtractor2d"]
