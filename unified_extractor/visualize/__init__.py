"""Figures of layers, networks and runs: matplotlib figures, which a notebook shows and ``savefig`` writes, and an interactive page."""

import importlib
from typing import TYPE_CHECKING, Any

from unified_extractor.extras import require
from unified_extractor.names import no_attribute

if TYPE_CHECKING:
    from unified_extractor.visualize.network_figures import explore, kernels, receptive_fields, windows
    from unified_extractor.visualize.run_figures import accuracy_cost, curves, forest, ranking
    from unified_extractor.visualize.spec_drawings import operator

require("train", __name__)

__all__ = ["accuracy_cost", "curves", "explore", "forest", "kernels", "operator", "ranking", "receptive_fields", "windows"]
_MODULES = {"network_figures": ("explore", "kernels", "receptive_fields", "windows"), "spec_drawings": ("operator",)}
"""Modules to their functions; those of finished runs are in ``run_figures``, which imports statistics."""


def __getattr__(name: str) -> Any:
    """Return a function from its module, which is imported when it is first used."""
    if name in __all__:
        module = next((module for module, names in _MODULES.items() if name in names), "run_figures")
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise no_attribute(__name__, name, __all__)
