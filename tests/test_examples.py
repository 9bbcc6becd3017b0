"""The examples run, and do what they say."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork

import unified_extractor as ux

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    """The module of an example, which is no part of a package."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_network():
    return ux.models.extractor_net(10, ux.presets.depthwise_convolution(), widths=(8, 12, 16), depths=(1, 1, 1))


def test_every_example_is_known_to_these_tests():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"fpn_neck"}


def test_the_neck_prints_maps_and_costs(capsys):
    example("fpn_neck").main(48, small_network())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("maps: 0 256x")
    assert [line.split("  ")[0] for line in lines[1:]] == ["nearest neighbors", "CARAFE", "DySample"]
    carafe = ux.analysis.cost(ux.UnifiedExtractor2d(256, 256, ux.presets.carafe()), (256, 8, 8)).parameters
    assert f"{2 * carafe:,} parameters" in lines[2]


@pytest.mark.parametrize("upsampler", ["CARAFE", "DySample"])
def test_the_neck_trains_on_images_of_odd_sizes(upsampler):
    neck = example("fpn_neck")
    backbone = neck.pyramid(neck.UPSAMPLERS[upsampler], small_network(), channels=8)
    maps = backbone(torch.randn(2, 3, 36, 52))
    sum(one.square().sum() for one in maps.values()).backward()
    assert list(maps) == ["0", "1", "2", "pool"]
    assert all(parameter.grad is not None for parameter in backbone.fpn.parameters())


def test_the_neck_is_torchvisions_where_the_extractor_repeats_pixels():
    repeat = ux.ExtractorSpec(kernel_size=1, static_kernel=ux.StaticKernel(channels="depthwise"), upsample=2)
    ours, theirs = example("fpn_neck").UpsamplingPyramid([4, 6, 8], 5, repeat), FeaturePyramidNetwork([4, 6, 8], 5)
    for layer in ours.upsamplers:
        torch.nn.init.ones_(layer.static_kernel)
    theirs.load_state_dict({name: value for name, value in ours.state_dict().items() if "upsamplers" not in name})
    maps = {str(i): torch.randn(2, c, *size) for i, (c, size) in enumerate(((4, (12, 20)), (6, (6, 10)), (8, (3, 5))))}
    torch.testing.assert_close(dict(ours(maps)), dict(theirs(maps)))
