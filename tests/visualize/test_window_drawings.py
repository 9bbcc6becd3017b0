"""Drawings of windows hide no tap: those outside the image are counted, those beyond the frame are marked at its edge."""

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

import unified_extractor as ux
from unified_extractor.visualize.window_drawings import WINDOW_COLORS, draw_stages, draw_windows
from unified_extractor.visualize.window_values import kernel_variation, output_size, read_window


class Network(torch.nn.Module):
    def __init__(self, spec, offsets=0.0):
        super().__init__()
        self.layer = ux.UnifiedExtractor2d(16, 16, spec)
        if spec.offsets.kind == "learned":
            torch.nn.init.constant_(self.layer.offsets.head.bias, offsets)

    def forward(self, x):
        return self.layer(x)


def drawn(spec, offsets=0.0, size=8):
    """The axis of sampling points and the kernels, of a picture of one network."""
    figure = draw_windows({"one": Network(spec, offsets)}, torch.rand(1, 16, size, size), shown=torch.ones(size, size))
    figure.canvas.draw()
    return figure.axes


def places(axis):
    """The places of all taps by color, (x, y), and how many are triangles."""
    found, triangles = {color: [] for color in WINDOW_COLORS}, 0
    for collection in axis.collections:
        faces = collection.get_facecolor()
        if len(faces):
            color = next(color for color in WINDOW_COLORS if np.allclose(to_rgb(color), faces[0][:3]))
            found[color] += list(map(tuple, np.asarray(collection.get_offsets())))
            triangles += len(collection.get_offsets()) * (len(collection.get_paths()[0].vertices) == 4)
    return found, triangles


DEFORMABLE_OUTLOOK = dataclasses.replace(ux.presets.outlook_attention(5), offsets=ux.Offsets(kind="learned"))


@pytest.mark.parametrize(
    ("spec", "offsets", "outside", "beyond"),
    [
        (ux.presets.convolution(), 0.0, 0, 0),
        (ux.presets.deformable_convolution(1), 0.0, 0, 0),
        (ux.presets.deformable_convolution(1), -3.0, 8, 0),
        (ux.presets.deformable_convolution(1), 100.0, 27, 27),
        (ux.presets.deformable_convolution(2), float("inf"), 27, 27),
        (DEFORMABLE_OUTLOOK, 0.0, 9, 0),
        (DEFORMABLE_OUTLOOK, 40.0, 75, 75),
    ],
)
def test_every_tap_is_drawn_and_those_outside_are_counted(spec, offsets, outside, beyond):
    axis = drawn(spec, offsets)[0]
    found, triangles = places(axis)
    assert {len(own) for own in found.values()} == {spec.taps}
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    assert all(left < x < right and top < y < bottom for own in found.values() for x, y in own)
    assert triangles == beyond
    text = axis.get_xlabel().replace("\n", " ")
    assert text.startswith(f"{outside} of {3 * spec.taps} taps outside the image")
    assert ("beyond the frame" in text) == bool(beyond)


def test_outside_of_the_image_is_hatched_and_white_pixels_are_not():
    axis = drawn(ux.presets.involution(3, channels_per_group=16))[0]
    assert axis.patch.get_hatch()
    assert axis.get_xlim()[0] < -0.5 < 7.5 < axis.get_xlim()[1]
    assert list(axis.images[0].get_extent()) == [-0.5, 7.5, 7.5, -0.5]
    assert "Hatched: outside" in axis.figure.get_suptitle()


@pytest.mark.parametrize("kernel_size", [(3, 3), (2, 3), (5, 5)])
def test_a_dot_is_found_in_its_kernel(kernel_size):
    """The first tap has a square in both panels, lines join neighbors, and few taps have numbers."""
    sampling, *kernels = drawn(ux.presets.convolution(kernel_size))[:4]
    found, _ = places(sampling)
    squares = [c for c in sampling.collections if not len(c.get_facecolor())]
    assert [tuple(c.get_offsets()[0]) for c in squares] == [found[color][0] for color in WINDOW_COLORS]
    for kernel, color in zip(kernels, WINDOW_COLORS, strict=True):
        (square,) = kernel.collections
        assert tuple(square.get_offsets()[0]) == (0, 0)
        assert np.allclose(square.get_edgecolor()[0][:3], to_rgb(color))
    rows, columns = kernel_size
    assert len(sampling.lines) == 3 * (rows + columns)
    taps, few = rows * columns, rows * columns <= 9
    assert [text.get_text() for text in kernels[0].texts] == [str(n) for n in range(1, taps + 1)] * few
    numbers = [(text.get_text(), text.xy) for text in sampling.texts]
    assert numbers == [(str(n), place) for color in WINDOW_COLORS for n, place in enumerate(found[color], 1)] * few


def test_numbers_are_left_out_where_they_would_cover_each_other():
    sampling, *kernels = drawn(ux.presets.convolution(3), size=64)[:4]
    assert not sampling.texts
    assert len(kernels[0].texts) == 9


def test_a_window_of_one_tap_and_a_color_image_are_drawn():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 1), Network(ux.presets.squeeze_excitation(4)))
    figure = draw_stages(network, torch.rand(1, 3, 9, 7), shown=torch.ones(9, 7, 3))
    figure.canvas.draw()
    assert figure.axes[0].get_xlabel() == "0 of 3 taps outside the image"


def test_kernels_of_a_row_have_one_color_scale_and_the_number_of_their_variation():
    spec = ux.presets.involution(3, channels_per_group=16)
    _, *kernels, scale = drawn(spec)
    ends = {kernel.images[0].get_clim() for kernel in kernels}
    assert len(ends) == 1
    assert scale.get_ylim() == pytest.approx(ends.pop())
    assert kernels[1].get_xlabel().startswith("kernels of all positions differ from their mean by ")


@pytest.mark.parametrize(
    ("spec", "varies"),
    [
        (ux.presets.convolution(), False),
        (ux.presets.involution(3), True),
        (ux.presets.outlook_attention(3), True),
        (DEFORMABLE_OUTLOOK, True),
        (ux.presets.conditional_convolution(4), False),
        (ux.presets.unified(), False),  # D is zero at the start
    ],
)
def test_the_variation_is_that_of_the_windows_one_by_one(spec, varies):
    torch.manual_seed(0)
    layer, x = Network(spec).layer.eval(), torch.randn(1, 16, 5, 4)
    rows, columns = output_size(layer, x)
    windows = [read_window(layer, x, (row, column)).weights.flatten() for row in range(rows) for column in range(columns)]
    kernels = torch.stack(windows)
    expected = (kernels - kernels.mean(0)).square().mean().sqrt() / kernels.square().mean().sqrt()
    assert kernel_variation(layer, x) == pytest.approx(float(expected), abs=1e-5)
    assert (kernel_variation(layer, x) > 0.01) == varies
