"""CIFAR's ResNets equal networks of plain torch modules, and have the sizes of their paper."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import unified_extractor as ux
from tests.support.official_states import randomized
from tests.support.presets import PRESETS


class PlainBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut of option A."""

    def __init__(self, before, width):
        super().__init__()
        self.new, self.stride = width - before, 1 if width == before else 2
        self.first = nn.Sequential(nn.Conv2d(before, width, 3, self.stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        kept = x[:, :, :: self.stride, :: self.stride]
        zeros = kept.new_zeros(kept.shape[0], self.new, *kept.shape[2:])
        return (self.second(self.first(x)) + torch.cat([kept, zeros], 1)).relu()


def plain_resnet(pairs, classes=10):
    """Table 6 of He et al. 2016: 32x32 maps of 16 channels, 16x16 of 32, 8x8 of 64, ``2 * pairs`` layers each."""
    widths = [16] * (pairs + 1) + [32] * pairs + [64] * pairs
    blocks = [PlainBlock(*neighbors) for neighbors in pairwise(widths)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


@pytest.mark.parametrize("size", [(32, 32), (17, 13)])
def test_resnet20_equals_a_network_of_plain_modules(size):
    plain = plain_resnet(3).double().eval()
    plain.load_state_dict(randomized(plain.state_dict()))
    network = ux.models.resnet20().double().eval()
    values = plain.state_dict().values()  # in the order of use in both
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("depth", "parameters", "multiply_adds"), [(20, 0.27, 41), (32, 0.46, 69), (56, 0.85, 125)])
def test_sizes_are_those_of_the_paper(depth, parameters, multiply_adds):
    """Parameters of the paper's table 6, and the multiply-adds of its layers: 9 * C * O for each pixel of a map."""
    pairs = (depth - 2) // 6
    stages = ((2 * pairs - 1) * 16 * 16 + 16 * 16) * 32**2 + (16 + (2 * pairs - 1) * 32) * 32 * 16**2
    stages += (32 + (2 * pairs - 1) * 64) * 64 * 8**2
    network = getattr(ux.models, f"resnet{depth}")()
    cost = ux.analysis.cost(network, (3, 32, 32))
    assert cost.multiply_adds == 9 * (3 * 16 * 32**2 + stages) + 64 * 10
    assert (round(cost.parameters / 1e6, 2), round(cost.multiply_adds / 1e6)) == (parameters, multiply_adds)


def test_a_spec_stands_in_place_of_every_convolution_but_the_first():
    network = ux.models.resnet20(spec=PRESETS["involution"])
    assert sum(isinstance(module, ux.UnifiedExtractor2d) for module in network.modules()) == 18
    taps = [module.kernel_size for module in network.modules() if type(module) is nn.Conv2d and max(module.kernel_size) > 1]
    assert taps == [(3, 3)]
    x = torch.randn(2, 16, 9, 9)
    shortcut = network.stage2[0].shortcut(x)
    assert torch.equal(shortcut, F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 16)))
    assert not list(network.stage2[0].shortcut.parameters())
