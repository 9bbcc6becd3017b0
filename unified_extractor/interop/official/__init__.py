"""Official weights: names and conventions of the released codes, converted to ours."""

from unified_extractor.interop.official.loading import FAMILIES, load_official

__all__ = ["FAMILIES", "load_official"]
