"""Official names and conventions, translated to ours."""

from unified_extractor.interop.official import load_official

__all__ = ["load_official"]
