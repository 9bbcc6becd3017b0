"""The cost of a layer or network: parameters, multiply-adds and memory. The code is in ``profiling``."""

from unified_extractor.profiling.cost import Cost, cost, saved_activation_bytes
from unified_extractor.profiling.memory import peak_bytes, saved_bytes

__all__ = ["Cost", "cost", "peak_bytes", "saved_activation_bytes", "saved_bytes"]
