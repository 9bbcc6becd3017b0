"""Drawings of label maps have the colors of the classes, the truth before the prediction."""

import numpy as np
import torch
from matplotlib.colors import to_rgb

from unified_extractor.visualize.label_map_drawings import draw_label_maps

COLORS = ((10, 20, 200), (90, 90, 90), (200, 0, 0))


def test_truth_and_prediction_are_drawn_in_the_colors_of_their_classes():
    network, predicted = torch.nn.Conv2d(3, 3, 1, bias=False), torch.tensor([[[0, 1, 2], [2, 2, 1]]])
    torch.nn.init.dirac_(network.weight)
    images = torch.nn.functional.one_hot(predicted).permute(0, 3, 1, 2).float()
    truth = torch.tensor([[[1, 0, 2], [0, 255, 2]]], dtype=torch.uint8)
    shown = torch.arange(18, dtype=torch.uint8).reshape(1, 3, 2, 3)
    figure = draw_label_maps(network, images, shown=shown, truth=truth, names=["sky", "road", "car"], colors=COLORS)
    image, true, own = (np.asarray(axis.images[0].get_array()) for axis in figure.axes)
    assert (image == shown[0].permute(1, 2, 0).numpy()).all()
    assert (true == np.array([*COLORS, (255, 255, 255)])[[[1, 0, 2], [0, 3, 2]]]).all()
    assert (own == np.array(COLORS)[predicted[0]]).all()
    assert [axis.get_title() for axis in figure.axes] == ["image", "truth (white: no label)", "prediction"]
    (legend,) = figure.legends
    named = {text.get_text(): patch.get_facecolor()[:3] for text, patch in zip(legend.texts, legend.get_patches(), strict=True)}
    assert named == {name: to_rgb(np.array(color) / 255) for name, color in zip(["sky", "road", "car"], COLORS, strict=True)}
