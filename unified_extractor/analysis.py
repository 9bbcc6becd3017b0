"""Cost, words, pictures and tables. Returns data or figures; never trains."""

from unified_extractor.profiling.cost import Cost, cost, kept_activation_bytes
from unified_extractor.profiling.memory import kept_bytes, peak_bytes

__all__ = ["Cost", "cost", "kept_activation_bytes", "kept_bytes", "peak_bytes"]
