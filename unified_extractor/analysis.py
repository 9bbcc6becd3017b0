"""The cost of a layer or network: parameters, multiply-adds and memory. The code is in ``profiling``."""

from unified_extractor.profiling.cost import Cost, cost, kept_activation_bytes
from unified_extractor.profiling.memory import kept_bytes, peak_bytes

__all__ = ["Cost", "cost", "kept_activation_bytes", "kept_bytes", "peak_bytes"]
