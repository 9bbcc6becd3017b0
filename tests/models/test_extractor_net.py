"""The staged network takes any extractor in any stage, at even and odd sizes."""

import pytest
import torch

import unified_extractor as ux
from tests.support.presets import PRESETS


@pytest.mark.parametrize("size", [(32, 32), (31, 29)])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_in_every_stage(name, size):
    net = ux.models.extractor_net(7, PRESETS[name], widths=(16, 32, 48), depths=(1, 2, 1))
    logits = net(torch.randn(2, 3, *size))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_it_constructs_on_the_meta_device(name):
    with torch.device("meta"):
        net = ux.models.extractor_net(10, PRESETS[name])
    assert all(parameter.is_meta for parameter in net.parameters())


def test_stages_may_use_different_extractors():
    specs = [ux.presets.convolution(), ux.presets.involution(3), ux.presets.outlook_attention(heads=4)]
    net = ux.models.extractor_net(10, specs, widths=(16, 16, 16), in_chans=1)
    used = [m.spec for m in net.modules() if isinstance(m, ux.UnifiedExtractor2d)]
    assert used == specs
    assert net(torch.randn(2, 1, 16, 16)).shape == (2, 10)


@pytest.mark.parametrize(("widths", "depths"), [((16,), (1, 1)), ((), ())])
def test_lists_of_different_lengths_are_refused(widths, depths):
    with pytest.raises(ValueError, match="widths and depths must have one value for each stage"):
        ux.models.extractor_net(10, widths=widths, depths=depths)


def test_stages_may_have_mlps_of_different_widths():
    net = ux.models.extractor_net(10, ux.presets.convolution(), widths=(16, 32), depths=(1, 2), mlp_ratio=[0.5, 3])
    assert [module.out_channels for name, module in net.named_modules() if name.endswith("fc1")] == [8, 96, 96]
    with pytest.raises(ValueError, match="mlp_ratio must be positive"):
        ux.models.extractor_net(10, widths=(16, 32), depths=(1, 2), mlp_ratio=[1, 0])
