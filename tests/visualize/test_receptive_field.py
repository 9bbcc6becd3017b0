"""Effective receptive fields: the pixels on which an output depends."""

import pytest
import torch
from torch import nn

import unified_extractor as ux
from unified_extractor.models import ExtractorNet
from unified_extractor.visualize.receptive_field import draw_receptive_fields, effective_receptive_field, half_radius


class Stages(nn.Module):
    def __init__(self, *stages):
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x


def test_a_stack_of_linear_convolutions_sees_what_its_windows_cover():
    network = Stages(*(nn.Conv2d(2, 2, 3, padding=1) for _ in range(2)))
    images = torch.randn(4, 2, 9, 11)
    for stage, reach in ((0, 1), (1, 2)):
        field = effective_receptive_field(network, images, stage=stage)
        rows, columns = field.nonzero(as_tuple=True)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4 - reach, 4 + reach, 5 - reach, 5 + reach)
        assert field.sum() == pytest.approx(1)


def test_the_field_is_proportional_to_the_weights():
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    field = effective_receptive_field(Stages(conv), torch.randn(3, 1, 5, 5), stage=0)
    weight = conv.weight.detach()[0, 0].abs()
    torch.testing.assert_close(field[1:4, 1:4], weight / weight.sum())


def test_half_of_a_ring_lies_at_its_radius():
    field = torch.zeros(21, 21)
    field[10, 10], field[10, 3], field[10, 17], field[3, 10], field[17, 10] = 0.2, 1.0, 1.0, 1.0, 1.0
    assert half_radius(field) == pytest.approx(7)
    field[10, 10] = 9.0
    assert half_radius(field) == 0


def test_a_network_is_left_as_it_was_and_every_stage_is_drawn():
    network = ExtractorNet(10, ux.presets.involution(3), widths=(16, 16), depths=(1, 1)).train()
    images = torch.randn(2, 3, 8, 8)
    figure = draw_receptive_fields({"one": network, "two": network}, images)
    assert len(figure.axes) == 4
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    with pytest.raises(ValueError, match="below the number of stages, 2, got 2"):
        effective_receptive_field(network, images, stage=2)
