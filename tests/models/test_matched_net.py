"""Networks of one cost, whatever their extractor."""

import json

import pytest
import torch

import unified_extractor as ux
from tests.support.presets import COUNTED, PRESETS
from unified_extractor.models.matched_net import NoMatchError

WIDE = {"multiply_adds": 16_500_000, "parameters": 420_000, "widths": (32, 64, 128), "stem_stride": 2}
BUDGET = WIDE | {"max_mlp_ratio": None}
CPU = {"multiply_adds": 8_000_000, "parameters": 220_000, "widths": (16, 48, 96), "stem_stride": 2}
"""The network of the experiments' budget cpu."""


UNMET = {"conditional_convolution", "dwnet", "pac"}
"""Presets with which no widths of the MLPs meet both figures."""


@pytest.mark.parametrize("name", sorted(UNMET))
def test_a_preset_that_cannot_meet_both_figures_is_refused_with_its_cost(name):
    with pytest.raises(NoMatchError, match="with one hidden channel there are"):
        ux.models.MatchedNet(10, PRESETS[name], **BUDGET)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", [one for one in COUNTED if getattr(one, "values", [one])[0] not in UNMET])
def test_every_preset_meets_multiply_adds_and_parameters(name):
    net = ux.models.MatchedNet(10, PRESETS[name], **BUDGET)
    found = ux.analysis.cost(net, (3, 32, 32))
    assert found.multiply_adds == pytest.approx(BUDGET["multiply_adds"], rel=0.001), "more than a rounded channel"
    assert found.parameters == pytest.approx(BUDGET["parameters"], rel=0.001)
    layers = [module for module in net.modules() if isinstance(module, ux.UnifiedExtractor2d)]
    assert [layer.spec for layer in layers] == [PRESETS[name]] * 3, "the extractor was changed"
    assert [module.out_channels for key, module in net.named_modules() if key.endswith("fc1")] == net.hidden


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("depthwise_convolution", [3, 3, 2]),
        ("convolution", [2, 2, 1]),
        pytest.param("unified_gate", [3, 3, 2], marks=pytest.mark.thorough),
    ],
)
def test_depth_meets_the_budget_where_mlps_have_a_largest_ratio(name, depths):
    """The fewest blocks: with one less in the early stages, or in the last, an MLP would be wider or the cost another."""
    net = ux.models.MatchedNet(10, PRESETS[name], **CPU)
    found = ux.analysis.cost(net, (3, 32, 32))
    assert found.multiply_adds == pytest.approx(CPU["multiply_adds"], rel=0.003)
    assert found.parameters == pytest.approx(CPU["parameters"], rel=0.003)
    assert net.depths == depths == [len(stage) - 1 for stage in net.stages], "the first part of a stage is its entry"
    assert max(hidden / width for hidden, width in zip(net.hidden, CPU["widths"], strict=True)) <= 4
    for fewer in ([depths[0] - 1, depths[1] - 1, depths[2]], [*depths[:2], depths[2] - 1]):
        if min(fewer) == 0:
            continue
        try:
            hidden = ux.models.MatchedNet(10, PRESETS[name], **CPU | {"depths": fewer, "max_mlp_ratio": None}).hidden
        except NoMatchError:
            continue
        assert max(one / width for one, width in zip(hidden, CPU["widths"], strict=True)) > 4


@pytest.mark.parametrize("match", ["multiply_adds", "parameters"])
def test_one_figure_is_met_by_depth_too(match):
    net = ux.models.MatchedNet(10, ux.presets.depthwise_convolution(), **WIDE | {"parameters": 900_000}, match=match)
    assert len(set(net.depths)) == 1, "one dial"
    assert vars(ux.analysis.cost(net, (3, 32, 32)))[match] == pytest.approx((WIDE | {"parameters": 900_000})[match], rel=0.003)


def test_a_ratio_that_no_depth_meets_is_refused():
    with pytest.raises(NoMatchError, match=r"no depths give 8,000,000 .* at most 0.01 times the width: with depths \[1, 1, 1\]"):
        ux.models.MatchedNet(10, ux.presets.convolution(), **CPU, max_mlp_ratio=0.01)


def test_a_network_saved_before_there_was_a_largest_ratio_is_the_same_today(tmp_path):
    net = ux.models.MatchedNet(10, ux.presets.depthwise_convolution(), **BUDGET)
    ux.interop.save(net, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("max_mlp_ratio", "absent") is None
    path.write_text(json.dumps(config))
    assert ux.interop.load(tmp_path).hidden == net.hidden


@pytest.mark.sampled(2)
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
    alike = {"widths": (32, 32), "depths": (1, 1), "image_size": 1, "max_mlp_ratio": None}
    with pytest.raises(NoMatchError, match="no MLP widths give 1,000 multiply-adds"):
        ux.models.MatchedNet(10, ux.presets.involution(), multiply_adds=1000, parameters=2000, **alike)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"match": "all"}, "match"),
        ({"multiply_adds": 0}, "multiply_adds"),
        ({"parameters": 1.5}, "parameters"),
        ({"max_mlp_ratio": 0}, "max_mlp_ratio"),
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
