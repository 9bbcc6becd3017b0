"""Every picture that the command line makes is a matplotlib figure in Python."""

import re
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import unified_extractor as ux

ROWS = Path(__file__).parents[2] / "experiments/01_unified/results/parents-gpu-cifar10_jpeg_all.jsonl"


def network(spec="involution(kernel_size=3)"):
    return ux.models.extractor_net(10, spec, widths=(16, 16), depths=(1, 1))


def texts(figure):
    return [label.get_text() for axis in figure.axes for label in (*axis.get_yticklabels(), axis.title, axis.xaxis.label)]


def test_windows_of_a_layer_a_network_and_several():
    image = torch.rand(3, 16, 16)
    layer = ux.UnifiedExtractor2d(3, 3, ux.presets.unified(channels_per_group=1, reduction=1))
    assert len(ux.visualize.windows(layer, image).axes) == 5  # the image, three kernels, a color scale
    figure = ux.visualize.windows({"one": network(), "other": network("unified")}, image[None], layer=1)
    assert [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()] == ["one", "other"]
    assert figure.axes[0].images[0].get_array().shape == (16, 16, 3)


def test_kernels_stand_where_their_windows_lie():
    layer = ux.UnifiedExtractor2d(4, 4, "depthwise_convolution(kernel_size=3)")
    figure = ux.visualize.kernels(layer, torch.rand(4, 9, 5), across=3)
    mosaic = figure.axes[1].images[0].get_array()
    assert mosaic.shape == (15, 15)
    torch.testing.assert_close(torch.tensor(mosaic.data[6:9, 11:14]), layer.static_kernel[0, 0].detach())
    assert "differ from their mean by 0%" in figure.axes[1].get_xlabel()
    assert ux.visualize.kernels(layer, torch.rand(4, 2, 2)).axes[1].images[0].get_array().shape == (10, 10)


def test_receptive_fields_of_one_network():
    assert len(ux.visualize.receptive_fields(network(), torch.rand(2, 3, 16, 16)).axes) == 2


def test_an_operator_is_drawn():
    assert ux.visualize.operator("mine", ux.presets.involution()).axes[0].get_title() == "where"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ux.visualize.windows(network(), torch.rand(3, 16, 16), layer=2),
            "number of extractors of ExtractorNet, 2, got 2",
        ),
        (lambda: ux.visualize.windows(torch.nn.Linear(2, 2), torch.rand(3, 4, 4)), "number of extractors of Linear, 0, got 0"),
        (
            lambda: ux.visualize.windows(network(), torch.rand(2, 3, 16, 16)),
            "[C, H, W] or [1, C, H, W], got shape [2, 3, 16, 16]",
        ),
        (lambda: ux.visualize.kernels(network(), torch.rand(3, 16, 16), across=0), "across must be at least 1, got 0"),
        (lambda: ux.visualize.curves("nowhere"), "nowhere: no such file or folder"),
        (lambda: ux.visualize.forest(ROWS, variants=["involution"]), "no difference has an interval: there is one variant"),
        (lambda: ux.visualize.forest(ROWS, baseline="involutoin"), "did you mean involution?"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_figures_of_runs_are_those_of_the_report():
    drawn = ux.visualize.forest(ROWS, baseline="unified-without_offsets")
    assert "-0.73  (-1.33 to -0.13)" in texts(drawn) + [
        label.get_text() for child in drawn.axes[0].child_axes for label in child.get_yticklabels()
    ]
    two = ["involution", "convolution"]
    for draw in (ux.visualize.curves, ux.visualize.ranking, ux.visualize.accuracy_cost):
        assert isinstance(draw([ROWS], variants=two), Figure)
