"""Networks of one cost, whatever their extractor."""

import pytest
import torch

import unified_extractor as ux
from tests.support.presets import COUNTED, PRESETS
from unified_extractor.models.matched_net import NoMatchError

BUDGET = {"multiply_adds": 16_500_000, "parameters": 420_000, "widths": (32, 64, 128), "stem_stride": 2}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", COUNTED)
def test_every_preset_meets_multiply_adds_and_parameters(name):
    net = ux.models.MatchedNet(10, PRESETS[name], **BUDGET)
    found = ux.analysis.cost(net, (3, 32, 32))
    assert found.multiply_adds == pytest.approx(BUDGET["multiply_adds"], rel=0.001), "more than a rounded channel"
    assert found.parameters == pytest.approx(BUDGET["parameters"], rel=0.001)
    layers = [module for module in net.modules() if isinstance(module, ux.UnifiedExtractor2d)]
    assert [layer.spec for layer in layers] == [PRESETS[name]] * 3, "the extractor was changed"
    assert [module.out_channels for key, module in net.named_modules() if key.endswith("fc1")] == net.hidden


@pytest.mark.parametrize("match", ["multiply_adds", "parameters"])
def test_one_figure_is_met_by_one_dial(match):
    net = ux.models.MatchedNet(10, ux.presets.deformable_convolution(2), **BUDGET | {"parameters": 600_000}, match=match)
    found = vars(ux.analysis.cost(net, (3, 32, 32)))
    assert found[match] == pytest.approx({"multiply_adds": 16_500_000, "parameters": 600_000}[match], rel=0.001)
    ratios = [hidden / width for hidden, width in zip(net.hidden, (32, 64, 128), strict=True)]
    assert max(ratios) - min(ratios) < 0.05


def test_what_cannot_be_met_is_refused_with_what_the_extractor_costs_by_itself():
    with pytest.raises(
        NoMatchError, match=r"16,500,000 multiply-adds and 4,200 parameters .*with one hidden channel there are 9,"
    ):
        ux.models.MatchedNet(10, ux.presets.convolution(), **BUDGET | {"parameters": 4_200})


def test_where_all_stages_cost_alike_there_is_one_dial():
    alike = {"widths": (32, 32), "depths": (1, 1), "image_size": 1}
    with pytest.raises(NoMatchError, match="no MLP widths give 1,000 multiply-adds"):
        ux.models.MatchedNet(10, ux.presets.involution(), multiply_adds=1000, parameters=2000, **alike)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"match": "all"}, "match"),
        ({"multiply_adds": 0}, "multiply_adds"),
        ({"parameters": 1.5}, "parameters"),
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"match": "parameter"}, "got 'parameter', did you mean parameters?"),
        ({"widths": (32, 64)}, "widths and depths must have one value for each stage"),
        ({"widths": ()}, "widths and depths must have"),
        ({"depths": (1, 2.0, 1)}, "depths must be a list of ints"),
    ],
)
def test_wrong_arguments_are_named(changed, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ux.models.MatchedNet(10, **BUDGET | changed)


def test_it_is_built_again_from_its_config_and_trains():
    net = ux.models.MatchedNet(10, ux.presets.involution(3), **BUDGET)
    config = dict(net.config)
    assert config.pop("network") == "MatchedNet"
    again = ux.models.MatchedNet(**config)
    assert again.hidden == net.hidden
    again(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())
