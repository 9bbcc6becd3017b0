"""The published presets, one spec a name."""

from dataclasses import replace

import pytest

from unified_extractor import presets
from unified_extractor.commands.describe import preset_names
from unified_extractor.spec import Generator


def all_presets():
    for name in preset_names():
        if name == "deformable_convolution":
            yield from ((f"{name}_v{v}", presets.deformable_convolution(v)) for v in (1, 2, 3, 4))
        elif name == "contmix":
            yield name, presets.contmix(3, (1, 3))  # the default's taps at shifted windows take many operations
        elif name == "window_attention":
            yield name, presets.window_attention((4, 6), heads=2, block_start=(2, 1), halo=(0, 1))
        elif name == "dcls":
            yield name, presets.dcls(6, (5, 3))  # the default's 34 bilinear taps take many operations
        elif name not in UPSAMPLERS:
            yield name, getattr(presets, name)()
    yield "unified_fold", presets.unified(aggregation="fold")
    unified = presets.unified()
    yield "unified_gate", replace(unified, dynamic_kernel=replace(unified.dynamic_kernel, per_tap=False))
    mixing = replace(unified.dynamic_kernel, per_tap=False, normalization="softmax", softmax_over="terms")
    yield "mixture", replace(unified, dynamic_kernel=mixing, terms=3, combine="multiply", bias="mixed", modulation="silu")


UPSAMPLERS = {
    "carafe": presets.carafe(groups=2, hidden_channels=8),
    "dysample": presets.dysample(),
    "dysample pl": presets.dysample((2, 1), 2, "pl", dyscope=True),
    "carafe of other factors": presets.carafe((3, 2), (3, 5), view=1, hidden_channels=4),
    "offsets": replace(presets.unified(channels_per_group=4, offset_groups=2), upsample=(1, 2)),
    "pixel shuffle": replace(presets.unified(channels_per_group=4), upsample=2, generator=Generator(view=3, pixel_shuffle=True)),
    "pixel shuffle, a linear map": replace(
        presets.involution(3), upsample=2, generator=Generator(reduction=2, pixel_shuffle=True)
    ),
    "group norm": replace(presets.ls_convolution(), upsample=2),
    "terms": replace(presets.conditional_convolution(experts=2), generator=Generator(), bias="mixed", upsample=(2, 1)),
    "all alike": replace(presets.idconv(3), upsample=2),
}
"""Specs whose output is finer than the image; the first ones are presets."""
PRESETS = dict(all_presets())
"""Specs whose output at stride 1 has the size of the image."""

COUNTED = [
    pytest.param(name, marks=pytest.mark.thorough) if spec.offsets.shifts_windows else name for name, spec in PRESETS.items()
]
"""Names for tests that count operations: where windows are shifted, there are very many."""
