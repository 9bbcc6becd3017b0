"""The pooled view: the kernel's value at a tap comes from the mean of the image in the tap's cell."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import unified_extractor as ux
from tests.support import oracles
from tests.support.backends import COMPARED
from tests.support.oracles import means_of_cells
from tests.support.preset_formulas import assert_backend_equals_reference, assert_equal, layer_of
from unified_extractor.layers import blocks
from unified_extractor.layers.blocks import cell_means

DEPTHWISE = ux.StaticKernel(channels="depthwise")
POOLED = ux.Generator(view="pooled")


@pytest.mark.parametrize("size", [(9, 7), (3, 5), (2, 1), (1, 1)])
@pytest.mark.parametrize("recorded", [False, True])
def test_cells_are_those_of_adaptive_pooling(size, recorded, monkeypatch):
    monkeypatch.setattr(blocks, "is_recorded", lambda: recorded)
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(cell_means(x, (3, 2)), means_of_cells(x, 3, 2), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: cell_means(x, (3, 2)), (x,))


@pytest.mark.parametrize(("kernel_size", "stride", "bias"), [(3, 1, True), ((2, 3), 2, True), (3, (1, 2), False)])
def test_idconv_is_a_sum_of_kernels_tap_by_tap_and_of_biases_by_the_mean(kernel_size, stride, bias):
    """Independent of the layer's own steps; training runs the batch norm of the mean's feature by itself."""
    layer = layer_of(ux.presets.idconv(kernel_size, 3, 2, bias), 8, stride=stride)
    static, reduce, head = layer.static_kernel, layer.feature.reduce, layer.kernel.head
    kh, kw = static.shape[-2:]

    def mixing(cells):
        hidden = F.batch_norm(
            F.conv2d(cells, reduce.conv.weight), None, None, reduce.norm.weight, reduce.norm.bias, training=True
        )
        logits = F.conv2d(F.gelu(hidden), head.weight, head.bias)
        return logits.unflatten(1, (3, 8)).softmax(1)

    def formula(x):
        kernels = (mixing(means_of_cells(x, kh, kw)) * static.squeeze(2)).sum(1)
        biases = (mixing(x.mean((2, 3), keepdim=True))[..., 0, 0] * layer.bias).sum(1) if bias else [None] * len(x)
        padded = F.pad(x, ((kw - 1) // 2, kw // 2, (kh - 1) // 2, kh // 2))
        images = zip(padded, kernels, biases, strict=True)
        return torch.stack([F.conv2d(image, kernel[:, None], b, stride, groups=8) for image, kernel, b in images])

    assert_equal(layer, formula, torch.randn(3, 8, 7, 6))


def test_a_batch_norm_sees_cells_and_mean_one_after_the_other():
    layer, x = ux.UnifiedExtractor2d(8, 8, ux.presets.idconv(3)), torch.randn(4, 8, 9, 7)
    layer(x)
    reduce = layer.feature.reduce
    expected = torch.zeros(2)
    for cells in (means_of_cells(x, 3, 3), x.mean((2, 3), keepdim=True)):
        expected = 0.9 * expected + 0.1 * F.conv2d(cells, reduce.conv.weight).mean((0, 2, 3))
    assert reduce.norm.num_batches_tracked == 2
    torch.testing.assert_close(reduce.norm.running_mean, expected)


@pytest.mark.parametrize("normalization", ["none", "softmax", "sigmoid", "group_norm", "centered", "standardized"])
@pytest.mark.parametrize("combine", ["multiply", "residual", "add"])
def test_a_pooled_kernel_is_one_for_the_image_with_its_cells_for_taps(normalization, combine):
    dynamic = ux.DynamicKernel(source="generated", groups=2, normalization=normalization)
    layer = layer_of(ux.ExtractorSpec(static_kernel=DEPTHWISE, dynamic_kernel=dynamic, generator=POOLED, combine=combine), 4)

    def formula(x):
        values = F.conv2d(means_of_cells(x, 3, 3), layer.kernel.head.weight, layer.kernel.head.bias).flatten(2)
        deviation, mean = torch.std_mean(values, 2, keepdim=True)
        kernel = {
            "none": lambda: values,
            "softmax": lambda: values.softmax(2),
            "sigmoid": lambda: values.sigmoid(),
            "centered": lambda: values - layer.kernel.mean_share.sigmoid()[:, None] * mean,
            "standardized": lambda: (values - mean) / (deviation + 1e-10),
            "group_norm": lambda: (
                (values - mean)
                / (values.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
                * layer.kernel.norm.weight.view(2, 9)
                + layer.kernel.norm.bias.view(2, 9)
            ),
        }[normalization]()
        kernel = kernel.repeat_interleave(2, 1).view(-1, 4, 3, 3)
        static = layer.static_kernel[:, 0]
        whole = {"multiply": static * kernel, "residual": static * (1 + kernel), "add": static + kernel}[combine]
        return torch.stack([F.conv2d(image, k[:, None], padding=1, groups=4) for image, k in zip(x, whole, strict=True)])

    assert_equal(layer, formula, torch.randn(2, 4, 6, 7))


def test_a_pooled_view_of_the_windows_own_size_is_no_map_of_positions():
    """An image of the window's size has as many cells as positions: values of cells must not be taken for those of positions."""
    spec = ux.ExtractorSpec(dynamic_kernel=ux.DynamicKernel(source="generated", groups=1), generator=POOLED)
    layer, x = ux.UnifiedExtractor2d(4, 4, spec).double(), torch.randn(1, 4, 3, 3, dtype=torch.float64)
    _, kernel = layer.generate(x)
    assert kernel.shape == (1, 1, 9, 1, 1)
    expected = F.conv2d(x.transpose(0, 1), kernel.view(1, 1, 3, 3), padding=1).transpose(0, 1)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("kernel_size", "size"), [(3, (5, 4)), ((1, 3), (2, 1)), (2, (3, 3))])
def test_runs_of_the_flattened_image_make_the_taps_by_one_map_of_all_kernels(kernel_size, size):
    layer = layer_of(ux.presets.attconv(kernel_size, "relu"), 4)
    reduce, kernel, taps = layer.feature.reduce.conv, layer.kernel, layer.spec.taps

    def formula(x):
        runs = means_of_cells(F.conv2d(x, reduce.weight, reduce.bias).flatten(2)[:, :, None], 1, taps)[:, :, 0].relu()
        values = torch.stack([sum(w * run for w, run in zip(row, runs.unbind(2), strict=True)) for row in kernel.head.weight], 2)
        values = values + kernel.head.bias
        values = values - kernel.mean_share.sigmoid()[:, None] * (values.sum(2, keepdim=True) / taps)
        y = oracles.extract(layer.value(x), kernel_size, None, values[..., None, None], padding="same")
        return layer.projection(y)

    assert_equal(layer, formula, torch.randn(3, 4, *size))


def test_runs_need_a_hidden_channel_for_each_kernel():
    spec = ux.presets.attconv()
    with pytest.raises(ValueError, match=r"generator\.reduction=2 and 4 hidden channels for 8 kernels"):
        ux.UnifiedExtractor2d(8, 8, replace(spec, generator=replace(spec.generator, reduction=2)))
    fields = {
        "generator": replace(spec.generator, reduction=2),
        "dynamic_kernel": replace(spec.dynamic_kernel, channels_per_group=2),
    }
    assert ux.UnifiedExtractor2d(8, 8, replace(spec, **fields))(torch.randn(1, 8, 4, 5)).shape == (1, 8, 4, 5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_dwnet_convolves_each_image_with_kernels_of_its_mean(stride, training):
    layer = layer_of(ux.presets.dwnet((3, 5)), 8, stride=stride).train(training)
    reduce, head = layer.feature.reduce, layer.kernel.head

    def formula(x):
        norm = (reduce.norm.weight, reduce.norm.bias, reduce.norm.running_mean, reduce.norm.running_var)
        hidden = oracles.batch_norm(x.mean((2, 3)) @ reduce.conv.weight.flatten(1).t(), norm, training).relu()
        kernels = F.linear(hidden, head.weight.flatten(1), head.bias).view(-1, 1, 3, 5)
        y = F.conv2d(x.flatten(0, 1)[None], kernels, layer.bias.repeat(len(x)), stride, (1, 2), groups=len(kernels))
        return y.unflatten(1, (len(x), 8))[0]

    assert_equal(layer, formula, torch.randn(3, 8, 7, 6))


@pytest.mark.parametrize("backend", COMPARED)
def test_every_backend_has_the_same_output_and_gradients(backend, monkeypatch):
    assert_backend_equals_reference(backend, layer_of(replace(ux.presets.idconv(3, bias=True), dilation=2), 8), monkeypatch)
