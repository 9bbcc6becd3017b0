"""The published presets, one spec a name."""

import pytest

from unified_extractor import presets
from unified_extractor.commands.describe import preset_names


def all_presets():
    for name in preset_names():
        if name == "deformable_convolution":
            yield from ((f"{name}_v{v}", presets.deformable_convolution(v)) for v in (1, 2, 3, 4))
        else:
            yield name, getattr(presets, name)()
    yield "unified_fold", presets.unified(aggregation="fold")


PRESETS = dict(all_presets())

COUNTED = [pytest.param(name, marks=pytest.mark.thorough) if name == "neighborhood_attention" else name for name in PRESETS]
"""Names for tests that count operations: where windows are shifted at the border, there are very many."""
