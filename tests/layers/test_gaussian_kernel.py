"""Kernels of distances: pixel-adaptive convolution and the joint bilateral filter, as formulas on unfolded windows."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import unified_extractor as ux
from tests.support.backends import COMPARED, skip_refused_calls
from tests.support.preset_formulas import assert_backend_equals_reference, layer_of
from unified_extractor import presets
from unified_extractor.analysis import cost
from unified_extractor.ops import dispatch
from unified_extractor.ops.gaussian import gaussian_exponents
from unified_extractor.spec import DynamicKernel, ExtractorSpec, Offsets


def windows(x, kernel_size, stride, dilation):
    """[B, C, K, Ho, Wo], zeros outside."""
    padding = dilation * (kernel_size - 1) // 2
    height, width = (-(-size // stride) for size in x.shape[2:])
    return F.unfold(x, kernel_size, dilation, padding, stride).view(*x.shape[:2], -1, height, width)


def gaussians(guide, kernel_size, stride, dilation):
    """Su et al. 2019, equation 3, for one group: differences written out."""
    differences = windows(guide, kernel_size, stride, dilation) - guide[:, :, None, ::stride, ::stride]
    return (-differences.square().sum(1, keepdim=True) / 2).exp()


@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(5, 1, 1), (3, 2, 1), (3, 1, 2), (3, 2, 2)])
def test_pac_is_the_formula_of_its_paper(kernel_size, stride, dilation):
    torch.manual_seed(0)
    layer = ux.UnifiedExtractor2d(4, 6, presets.pac(kernel_size, dilation), stride, guide_channels=3).double()
    torch.nn.init.normal_(layer.bias)
    x, guide = (torch.randn(2, channels, 7, 6, dtype=torch.float64, requires_grad=True) for channels in (4, 3))

    def formula(x, guide):
        columns = windows(x, kernel_size, stride, dilation) * gaussians(guide, kernel_size, stride, dilation)
        return torch.einsum("ock,bckhw->bohw", layer.static_kernel.flatten(2), columns) + layer.bias[:, None, None]

    inputs = (x, guide, *layer.parameters())
    y, expected = layer(x, guide), formula(x, guide)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(y)
    for ours, theirs in zip(*(torch.autograd.grad(z, inputs, cotangent) for z in (y, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offsets_have_the_precision_of_the_image(dtype):
    feature, columns = torch.randn(1, 4, 5, 6).to(dtype), torch.zeros(1, 1, 9, 2, 5, 6)
    columns[:, :, :, 1] = 1.0
    sizes = {"kernel_size": 3, "heads": 2, "stride": (1, 1), "dilation": 1}
    displaced = gaussian_exponents(feature, offsets=columns, **sizes).unflatten(2, (3, 3))
    on_the_grid = gaussian_exponents(feature, offsets=None, **sizes).unflatten(2, (3, 3))
    torch.testing.assert_close(displaced[:, :, :, :2, :, :-2], on_the_grid[:, :, :, 1:, :, :-2])


@pytest.mark.parametrize("factor", [2, 3])
def test_pacs_transposed_form_is_the_layer_of_an_image_with_zeros_between_its_pixels(factor):
    """Su et al. 2019, section 3.3: every pixel adds its window to a finer map, each product times the fine guide's Gaussian."""
    torch.manual_seed(0)
    layer = ux.UnifiedExtractor2d(4, 6, presets.pac(5), guide_channels=3).double()
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    guide = torch.randn(2, 3, 3 * factor, 4 * factor, dtype=torch.float64)
    expected = layer.bias.detach()[:, None, None].expand(2, 6, *guide.shape[2:]).clone()
    for row, column, i, j in itertools.product(range(3), range(4), range(-2, 3), range(-2, 3)):
        place = (row * factor + i, column * factor + j)
        if 0 <= place[0] < guide.shape[2] and 0 <= place[1] < guide.shape[3]:
            distance = (guide[:, :, row * factor, column * factor] - guide[:, :, *place]).square().sum(1, keepdim=True)
            product = x[:, :, row, column] @ layer.static_kernel[:, :, 2 - i, 2 - j].t()
            expected[:, :, *place] += (-distance / 2).exp() * product
    stuffed = torch.zeros(2, 4, *guide.shape[2:], dtype=torch.float64)
    stuffed[:, :, ::factor, ::factor] = x
    torch.testing.assert_close(layer(stuffed, guide), expected)


def test_with_a_softmax_it_is_the_joint_bilateral_filter_of_every_head():
    spec = ExtractorSpec(kernel_size=3, dynamic_kernel=DynamicKernel(source="gaussian", groups=2, normalization="softmax"))
    x, guide = torch.randn(1, 4, 5, 6, dtype=torch.float64), torch.randn(1, 6, 5, 6, dtype=torch.float64)
    inside = windows(torch.ones_like(guide[:, :1]), 3, 1, 1)
    parts = []
    for values, own in zip(x.chunk(2, 1), guide.chunk(2, 1), strict=True):
        weights = gaussians(own, 3, 1, 1) * inside
        parts.append((windows(values, 3, 1, 1) * weights).sum(2) / weights.sum(2))
    layer = ux.UnifiedExtractor2d(4, 4, spec, guide_channels=6)
    torch.testing.assert_close(layer(x, guide), torch.cat(parts, 1))
    assert not list(layer.parameters())


@pytest.mark.parametrize("backend", COMPARED)
def test_every_backend_gives_the_references_values(backend, monkeypatch):
    assert_backend_equals_reference(backend, layer_of(presets.pac(3), 4), monkeypatch)


def test_a_shifted_window_compares_the_pixel_with_the_taps_that_it_has():
    spec = ExtractorSpec(
        kernel_size=3, offsets=Offsets(kind="window_shift"), dynamic_kernel=DynamicKernel(source="gaussian", groups=1)
    )
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    kernel = ux.UnifiedExtractor2d(2, 2, spec).generate(x)[1]
    corner = (x[:, :, :3, :3] - x[:, :, :1, :1]).square().sum(1).flatten(1)
    torch.testing.assert_close(kernel[:, 0, :, 0, 0], (-corner / 2).exp())


def test_a_constant_is_no_distance_and_half_precision_compares_in_float32():
    """Values around 100 have no digits left for their squares in half precision."""
    guide = torch.randn(1, 3, 6, 7, dtype=torch.float64)
    layer = ux.UnifiedExtractor2d(3, 3, replace(presets.pac(3), bias=False))
    expected = layer.generate(guide.float())[1]
    torch.testing.assert_close(layer.generate(guide.float() + 1000)[1], expected, rtol=1e-3, atol=1e-3)
    half = layer.half().generate((guide + 100).half())[1]
    assert half.dtype == torch.float16
    of_rounded = layer.double().generate((guide + 100).half().double())[1]
    torch.testing.assert_close(half.double()[..., 1:-1, 1:-1], of_rounded[..., 1:-1, 1:-1], rtol=2e-3, atol=2e-3)


def test_rounding_makes_no_weight_larger_than_that_of_no_distance():
    """Squares of values around 10,000 have no digits left for distances in float32."""
    torch.manual_seed(0)
    x = 1e4 * torch.randn(1, 4, 6, 6)
    kernel = ux.UnifiedExtractor2d(4, 4, presets.pac(3)).generate(x)[1]
    assert kernel.min() >= 0
    assert kernel.max() <= 1


def test_the_cost_counts_a_product_for_each_channel_of_the_guide_and_each_head():
    layer = ux.UnifiedExtractor2d(4, 6, presets.pac(3), guide_channels=5)
    counted = cost(layer, (4, 5, 7)).multiply_adds_by_part
    assert counted["generator"] == 9 * 35 * (5 + 1)
    assert counted["operator"] == 9 * 35 * (4 * 6 + 4)


@pytest.mark.parametrize("backend", [name for name, reason in ux.backends().items() if reason is None])
def test_small_distances_of_large_values_keep_their_digits_in_float32(backend, monkeypatch):
    """Values of a thousand, whose squares leave float32 an error of a tenth: as differences give it in float64, with the gradient."""
    skip_refused_calls(backend, monkeypatch)
    choose = dispatch._choose
    monkeypatch.setattr(dispatch, "_choose", lambda call, _, memory: choose(call, backend, memory))
    torch.manual_seed(0)
    halves = 1000 * torch.tensor([1.0, 1, 1, 1, -1, -1, -1])
    guide = (halves + torch.randn(2, 4, 8, 7)).requires_grad_()
    exact = guide.detach().double().requires_grad_()
    inside = (..., slice(1, -1), slice(1, -1))
    kernel = ux.UnifiedExtractor2d(4, 4, presets.pac(3)).generate(guide)[1][:, 0][inside]
    expected = gaussians(exact, 3, 1, 1)[:, 0][inside]
    torch.testing.assert_close(kernel.double(), expected, rtol=1e-5, atol=1e-7)
    (grad,), (expected_grad,) = (torch.autograd.grad(k.sum(), x) for k, x in ((kernel, guide), (expected, exact)))
    torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-4, atol=1e-4)
