"""The published presets, one spec a name."""

from dataclasses import replace

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
    unified = presets.unified()
    yield "unified_gate", replace(unified, dynamic_kernel=replace(unified.dynamic_kernel, per_tap=False))
    yield "unified_centered", presets.unified(normalization="centered")
    mixing = replace(unified.dynamic_kernel, per_tap=False, normalization="softmax", softmax_over="terms")
    yield "mixture", replace(unified, dynamic_kernel=mixing, terms=3, combine="multiply", bias="mixed", modulation="silu")


PRESETS = dict(all_presets())

COUNTED = [
    pytest.param(name, marks=pytest.mark.thorough) if name in ("neighborhood_attention", "contmix") else name for name in PRESETS
]
"""Names for tests that count operations: where windows are shifted at the border, there are very many."""
