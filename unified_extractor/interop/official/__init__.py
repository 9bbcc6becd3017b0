"""Weights of the released codes, whose names and conventions are converted to ours."""

from unified_extractor.interop.official.building import official_layer
from unified_extractor.interop.official.loading import FAMILIES, load_official

__all__ = ["FAMILIES", "load_official", "official_layer"]
