"""The examples run, and do what they say."""

import importlib.util
import json
import re
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


QUICK = {"EPOCHS, SEEDS = 8, 3": "EPOCHS, SEEDS = 1, 1", "STEPS = 150": "STEPS = 2", "for _ in range(8):": "for _ in range(1):"}
"""Lines of notebooks that say how long they train, and what the tests put in their place."""
NOTEBOOKS = {"compare_extractors": 1, "first_steps": 1, "what_an_extractor_sees": 1, "write_a_new_extractor": 0}
"""Notebooks, and how many of these lines each has."""


def test_every_example_is_known_to_these_tests():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"fpn_neck"}
    assert {path.stem for path in EXAMPLES.glob("*.ipynb")} == NOTEBOOKS.keys()


@pytest.mark.parametrize(("name", "long_lines"), NOTEBOOKS.items())
def test_a_notebook_runs_and_was_saved_as_it_ran(name, long_lines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads((EXAMPLES / f"{name}.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    code = re.sub(r"(?m)^%.*$", "", "\n".join("".join(cell["source"]) for cell in cells))
    assert sum(code.count(line) for line in QUICK) == long_lines
    for line, quick in QUICK.items():
        code = code.replace(line, quick)
    exec(code, {})


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
