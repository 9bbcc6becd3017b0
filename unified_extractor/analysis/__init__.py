"""Cost, words, pictures and tables. Returns data or figures; never trains."""

from unified_extractor.analysis.cost import Cost, cost
from unified_extractor.analysis.memory import peak_bytes

__all__ = ["Cost", "cost", "peak_bytes"]
