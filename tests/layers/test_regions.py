"""Kernels from regions of the image equal formulas that are written pixel by pixel from the paper, with every gradient."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import unified_extractor as ux
from tests.support import oracles
from tests.support.backends import COMPARED
from tests.support.preset_formulas import assert_backend_equals_reference, assert_equal, layer_of
from unified_extractor.ops.dynamic_kernels import region_products

REGIONS = ux.DynamicKernel(source="regions", groups=2, regions=(2, 3))


def projected(x, layer, training):
    """The 1x1 convolution before the operator, with its batch norm where it has one."""
    if isinstance(layer, torch.nn.Conv2d):
        return F.conv2d(x, layer.weight, layer.bias)
    norm = (layer.norm.weight, layer.norm.bias, layer.norm.running_mean, layer.norm.running_var)
    return oracles.batch_norm(F.conv2d(x, layer.conv.weight), norm, training)


def logits_of(layer, x, queries):
    """What the layer's parameters make of an image before position biases, for all windows: [B, heads, taps of both, Ho, Wo]."""
    kernel, dynamic = layer.kernel, layer.spec.dynamic_kernel
    query = projected(queries, kernel.query, layer.training)
    if dynamic.scale_by_head_dim:
        query = query * (layer.in_channels // dynamic.groups) ** -0.5
    cells = oracles.means_of_cells(x, *oracles.pair(dynamic.regions))
    return oracles.region_logits(
        query, projected(cells, kernel.key, layer.training), kernel.tap_weight, kernel.tap_bias, dynamic.groups
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kernel_size", "small", "dilation", "size"), [(5, 3, 1, (6, 5)), ((3, 5), (1, 5), 2, (6, 11))])
def test_contmix_is_its_formula(kernel_size, small, dilation, size, training):
    layer = layer_of(replace(ux.presets.contmix(kernel_size, small, heads=2), dilation=dilation), 8).train(training)

    def formula(x):
        value, logits = projected(x, layer.value, training), logits_of(layer, x, x)
        taps = oracles.pair(small)[0] * oracles.pair(small)[1]
        halves = zip(
            value.chunk(2, 1),
            (logits[:, :, :taps], logits[:, :, taps:]),
            (small, kernel_size),
            layer.kernel.positions,
            strict=True,
        )
        return torch.cat([oracles.shifted_windows(*half, dilation=dilation) for half in halves], 1)

    assert_equal(layer, formula, torch.randn(2, 8, *size), tolerance=1e-9)


ZERO_BORDER = {
    "attention over taps": {"dynamic_kernel": {"normalization": "softmax", "relative_position": True}, "projection": {"input": "affine"}},
    "plain": {"kernel_size": (2, 3), "dilation": 2, "padding": "same"},
    "a static kernel": {"static_kernel": {"channels": "depthwise"}, "combine": "residual", "dynamic_kernel": {"normalization": "sigmoid"}},
    "a small window": {"kernel_size": (4, 3), "dynamic_kernel": {"small_kernel_size": (2, 1), "query_reduction": 2}},
    "interleaved": {"dynamic_kernel": {"channel_order": "interleaved", "query_reduction": 4, "scale_by_head_dim": True}},
}  # fmt: skip


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ZERO_BORDER)
def test_windows_on_the_regular_grid_have_kernels_from_regions(name, stride):
    fields = dict(ZERO_BORDER[name])
    spec = ux.ExtractorSpec(**fields | {"dynamic_kernel": replace(REGIONS, **fields.pop("dynamic_kernel", {}))})
    layer = layer_of(spec, 8, stride=stride)
    dynamic = spec.dynamic_kernel

    def formula(x):
        kernel = logits_of(layer, x, F.avg_pool2d(x, stride, ceil_mode=True))
        if dynamic.relative_position:
            kernel = kernel + layer.kernel.positions[0].flatten(1)[:, :, None, None]
        kernel = {"none": lambda: kernel, "softmax": lambda: kernel.softmax(2), "sigmoid": kernel.sigmoid}[
            dynamic.normalization
        ]()
        value = projected(x, layer.value, True) if spec.projection.input != "none" else x
        options = {"padding": "same", "stride": stride, "dilation": spec.dilation, "combine": spec.combine}
        if dynamic.small_kernel_size:
            halves = zip(value.chunk(2, 1), (kernel[:, :, :2], kernel[:, :, 2:]), ((2, 1), (4, 3)), strict=True)
            return torch.cat([oracles.extract(v, size, None, k, **options) for v, k, size in halves], 1)
        if dynamic.channel_order == "interleaved":
            value = torch.cat([value[:, ::2], value[:, 1::2]], 1)
        y = oracles.extract(value, spec.kernel_size, layer.static_kernel, kernel, **options)
        return torch.stack(y.chunk(2, 1), 2).flatten(1, 2) if dynamic.channel_order == "interleaved" else y

    assert_equal(layer, formula, torch.randn(2, 8, 6, 7), tolerance=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["none", "window_shift"])
def test_two_windows_are_one_in_which_the_smaller_has_zeros_around_it(kind, stride):
    spec = replace(ux.presets.contmix(5, (3, 1), heads=2), offsets=ux.Offsets(kind=kind), dilation=(1, 2))
    layer = layer_of(spec, 8, stride=stride)
    x = torch.randn(2, 8, 7, 11, dtype=torch.float64)
    offsets, kernel = layer.generate(x)
    assert kernel.shape[1:3] == (4, 25)
    assert (kernel[:, :2].unflatten(2, (5, 5))[:, :, [0, 4]] == 0).all()
    y = ux.extract(
        layer.value(x), kernel_size=5, dynamic_kernel=kernel, offsets=offsets, stride=stride, padding="same", dilation=(1, 2)
    )
    torch.testing.assert_close(layer(x), y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel_memory", ["store", "recompute"])
def test_attention_may_have_fewer_channels_for_query_and_key_than_for_values(kernel_memory):
    spec = ux.presets.local_attention(3, heads=2)
    layer = layer_of(replace(spec, dynamic_kernel=replace(spec.dynamic_kernel, query_reduction=2)), 8)
    layer.kernel_memory = kernel_memory
    kernel = layer.kernel
    assert kernel.query.out_channels == kernel.key.out_channels == 4

    def formula(x):
        q, k, v, o = ((c.weight.flatten(1), c.bias) for c in (kernel.query, kernel.key, layer.value, layer.projection))
        q = (
            q[0] * 0.5**0.5,
            q[1] * 0.5**0.5,
        )  # the oracle divides by the root of the query's channels, the layer by that of the values'
        return oracles.local_attention(x, q, k, v, o, heads=2, kernel_size=3, relative_bias=kernel.position)

    assert_equal(layer, formula, torch.randn(2, 8, 5, 6))


def test_products_with_regions_have_first_and_second_derivatives():
    shapes = [(2, 4, 2, 3), (2, 4, 5), (6, 5), (6,)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda *given: region_products(*given, heads=2), tensors)


@pytest.mark.parametrize(
    ("channels", "fields", "message"),
    [
        (
            8,
            {"groups": 8, "small_kernel_size": 1},
            r"2 \* dynamic_kernel.groups must divide in_channels, got groups=16, in_channels=8",
        ),
        (
            6,
            {"query_reduction": 2},
            r"dynamic_kernel.groups must divide in_channels // dynamic_kernel.query_reduction, got groups=2",
        ),
        (
            5,
            {"groups": 1, "query_reduction": 2},
            r"query_reduction must divide in_channels, got query_reduction=2, in_channels=5",
        ),
    ],
)
def test_channels_that_heads_do_not_divide_are_refused(channels, fields, message):
    with pytest.raises(ValueError, match=message):
        ux.UnifiedExtractor2d(channels, channels, ux.ExtractorSpec(dynamic_kernel=replace(REGIONS, **fields)))


def test_an_image_smaller_than_the_larger_window_is_refused():
    with pytest.raises(ValueError, match=r"height of at least kernel_size\*dilation, got height=6, kernel_size=7"):
        ux.UnifiedExtractor2d(8, 8, ux.presets.contmix(heads=2))(torch.randn(1, 8, 6, 9))


def test_each_window_is_counted_with_its_own_taps_and_half_of_the_channels():
    layer, (height, width) = ux.UnifiedExtractor2d(16, 16, ux.presets.contmix(3, (1, 3), heads=2, regions=4)), (9, 8)
    parts = ux.analysis.cost(layer, (16, height, width)).multiply_adds_by_part
    positions, queries, taps, regions = height * width, 8, 3 + 9, 16
    assert parts["operator"] == positions * 8 * taps
    assert parts["projection"] == positions * 16 * 16
    projections = (positions + regions) * 16 * queries
    assert parts["generator"] == projections + queries * regions * taps + positions * queries * taps


@pytest.mark.parametrize("backend", COMPARED)
def test_every_backend_has_the_same_output_and_gradients(backend, monkeypatch):
    assert_backend_equals_reference(backend, layer_of(ux.presets.contmix(5, 3, heads=2), 8), monkeypatch)
