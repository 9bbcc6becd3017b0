"""Kernels of learned queries equal a formula that is written pixel by pixel from the paper, with every gradient.

QnA itself is held to official values in ``test_official_values.py``.
"""

from dataclasses import replace
from itertools import product

import pytest
import torch

import unified_extractor as ux
from tests.support import oracles
from tests.support.backends import COMPARED
from tests.support.exported import assert_one_program_serves_a_range
from tests.support.preset_formulas import assert_backend_equals_reference, assert_equal, layer_of


def linear(convolution):
    return convolution.weight.flatten(1), convolution.bias


def neighbors(row, column, size, kernel_size, dilation):
    """The taps of a window around a pixel that lie in the image: their numbers and places."""
    middle = [(k - 1) * dilation // 2 for k in kernel_size]
    places = [(row + dilation * i - middle[0], column + dilation * j - middle[1]) for i, j in product(*map(range, kernel_size))]
    return [(k, y, x) for k, (y, x) in enumerate(places) if 0 <= y < size[0] and 0 <= x < size[1]]


@pytest.mark.parametrize(
    ("kernel_size", "queries", "stride", "dilation", "changes"),
    [
        ((3, 3), 2, 1, 1, {}),
        ((1, 4), 3, 1, 1, {"normalize_query": True, "query_reduction": 2}),
        ((3, 2), 1, 2, 2, {"tap_scale": False, "relative_position": False}),
        ((2, 3), 2, 1, 1, {"scale_by_head_dim": False, "normalization": "sigmoid"}),
    ],
)
def test_learned_queries_are_the_formula_of_qna(kernel_size, queries, stride, dilation, changes):
    spec = ux.presets.qna(kernel_size, 2, queries)
    dynamic = replace(spec.dynamic_kernel, **changes)
    layer = layer_of(replace(spec, dilation=dilation, dynamic_kernel=dynamic), 8, stride=stride)

    def formula(x):
        size, kernel = x.shape[2:], layer.kernel
        value = oracles.pixelwise(x, linear(layer.value)).unflatten(1, (2, -1))
        key = oracles.pixelwise(x, linear(kernel.key)).unflatten(1, (2, -1))
        query = kernel.query.unflatten(1, (2, -1))
        if dynamic.normalize_query:
            query = query / (query.square().sum(2, keepdim=True).sqrt() + 1e-6)
        scores = torch.einsum("mge,bgeyx->bgmyx", query, key) * (4**-0.5 if dynamic.scale_by_head_dim else 1)
        outputs = []
        for row, column in product(range(0, size[0], stride), range(0, size[1], stride)):
            taps, rows, columns = zip(*neighbors(row, column, size, kernel_size, dilation), strict=True)
            logits = scores[..., rows, columns]
            if dynamic.relative_position:
                logits = logits + kernel.position.flatten(1).unflatten(0, (2, queries))[:, :, taps]
            weights = logits.softmax(3) if dynamic.normalization == "softmax" else logits.sigmoid()
            if dynamic.tap_scale:
                weights = weights * kernel.tap_scale[:, :, taps]
            outputs.append(torch.einsum("bgmk,bgek->bge", weights, value[..., rows, columns]).flatten(1))
        y = torch.stack(outputs, 2).unflatten(2, [-(-n // stride) for n in size])
        return oracles.pixelwise(y, linear(layer.projection))

    assert_equal(layer, formula, torch.randn(2, 8, 5, 6))


def test_learned_queries_look_at_offsets_too():
    """Whole offsets: the windows of neighborhood attention, and trained ones that are where these are."""
    shifted = replace(ux.presets.qna((3, 3), 2), offsets=ux.Offsets(kind="window_shift"))
    layer = layer_of(shifted, 8)
    trained = replace(shifted, offsets=ux.Offsets(kind="parameter", origin="center", groups=2))
    other = layer_of(replace(trained, kernel_size=(1, 9)), 8)
    x = torch.randn(1, 8, 3, 3, dtype=torch.float64)
    state = layer.state_dict() | {
        "offsets.points": torch.tensor(list(product((-1.0, 0, 1), repeat=2))).double().expand(2, -1, -1)
    }
    state["kernel.position"] = layer.kernel.position[:, 1:4, 1:4].reshape(4, 1, 9)
    other.load_state_dict(state)
    torch.testing.assert_close(layer(x)[..., 1, 1], other(x)[..., 1, 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", COMPARED)
def test_every_backend_has_the_same_output_and_gradients(backend, monkeypatch):
    assert_backend_equals_reference(backend, layer_of(ux.presets.qna(3, 2), 8), monkeypatch)


def test_scores_are_counted_once_a_pixel():
    parts = ux.analysis.cost(ux.UnifiedExtractor2d(16, 16, ux.presets.qna(3, 2, queries=3)), (16, 6, 7)).multiply_adds_by_part
    assert parts["operator"] == 42 * 16 * 9
    assert parts["generator"] == 42 * (16 * 16 + 3 * 16 + 2 * 3 * 9)


def test_one_exported_layer_serves_named_ranges_of_sizes():
    assert_one_program_serves_a_range(
        layer_of(ux.presets.qna(3, 2), 8).float(), torch.randn(2, 8, 9, 8), 3, [(1, 3, 4), (3, 11, 6)]
    )
