"""FastNet equals a network of plain torch modules, and states its parameters."""

import pytest
import torch
from torch import nn

import unified_extractor as ux
from tests.support.official_states import randomized


class Scaled(nn.Module):
    def forward(self, x):
        return x / 9


def plain_fast_net(widths, classes=10):
    layers, before = [nn.Conv2d(3, 32, 2, padding=1), nn.GELU()], 32
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.MaxPool2d(2, ceil_mode=True), nn.BatchNorm2d(width)]
        layers += [nn.GELU(), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(before, classes, bias=False), Scaled())


@pytest.mark.parametrize("size", [(32, 32), (17, 13)])
def test_fast_net_equals_a_network_of_plain_modules(size):
    plain = plain_fast_net((16, 24, 40)).double().eval()
    plain.load_state_dict(randomized(plain.state_dict()))
    network = ux.models.FastNet(widths=(16, 24, 40)).double().eval()
    network.load_state_dict(dict(zip(network.state_dict(), plain.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    stem = plain[1](plain[0](x))[:, :, 1:, 1:]  # pixels below and to the right alone are padded
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain[2:](stem), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["fast_net_s", "fast_net_b"])
def test_a_variant_states_its_parameters(name):
    variant = getattr(ux.models, name)
    parameters = sum(parameter.numel() for parameter in variant().parameters())
    assert 1.9e6 < parameters < 5e6
    assert f"{parameters:,} parameters, no published accuracy" in variant.__doc__


def test_a_new_classifier_keeps_the_scale_of_the_logits():
    network = ux.models.FastNet(10, logit_scale=0.5).eval()
    network.reset_classifier(3)
    x = torch.randn(1, 3, 32, 32)
    features = network.forward_head(network.forward_features(x), pre_logits=True)
    torch.testing.assert_close(network(x), 0.5 * features @ network.get_classifier().weight.T)
