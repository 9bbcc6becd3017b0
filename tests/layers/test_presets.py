"""Every preset equals an independent formula of the published operator: output, input gradient and every parameter gradient.

Involution, outlook attention and DCNv3 are held to official values in ``test_official_values.py``.
"""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import SqueezeExcitation

import unified_extractor as ux
from tests.support import oracles
from tests.support.preset_formulas import assert_equal, deformable_formula, layer_of

presets = ux.presets
SIZES = [(7, 6), (8, 8), (5, 9)]


def linear(convolution):
    """Weight and bias of a 1x1 convolution as those of a linear layer."""
    return convolution.weight.flatten(1), convolution.bias


def norm(batch_norm):
    return batch_norm.weight, batch_norm.bias, batch_norm.running_mean, batch_norm.running_var


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("groups", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_convolution_is_conv2d(groups, dilation, size, stride):
    layer = layer_of(presets.convolution(3, groups, dilation, bias=True), 4, 6, stride)
    assert_equal(
        layer,
        lambda x: F.conv2d(x, layer.static_kernel, layer.bias, stride, dilation, dilation, groups),
        torch.randn(2, 4, *size),
    )


def test_grouped_and_depthwise_convolution_are_conv2d_with_groups():
    grouped, depthwise = layer_of(presets.grouped_convolution(3, groups=3), 6), layer_of(presets.depthwise_convolution(5), 6)
    x = torch.randn(2, 6, 7, 8)
    assert_equal(grouped, lambda x: F.conv2d(x, grouped.static_kernel, padding=1, groups=3), x)
    assert_equal(depthwise, lambda x: F.conv2d(x, depthwise.static_kernel, padding=2, groups=6), x)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [2, 4, (1, 4)])
def test_an_even_kernel_keeps_the_size_by_padding_one_more_behind(kernel_size, stride):
    layer = layer_of(presets.convolution(kernel_size), 3, 3, stride)
    (top, bottom), (left, right) = oracles.paddings("same", kernel_size, 1)
    x = torch.randn(1, 3, 7, 8)
    assert layer(x.double()).shape[2:] == (-(-7 // stride), -(-8 // stride))
    assert_equal(layer, lambda x: F.conv2d(F.pad(x, (left, right, top, bottom)), layer.static_kernel, stride=stride), x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("groups", "offset_groups", "stride", "dilation"), [(1, 1, 1, 1), (2, 4, 2, 1), (1, 2, 1, 2)])
def test_deformable_convolution_v1_and_v2_are_torchvisions(version, groups, offset_groups, stride, dilation, size):
    spec = presets.deformable_convolution(version, groups=groups, offset_groups=offset_groups, dilation=dilation)
    layer = layer_of(spec, 8, 4, stride)
    formula = deformable_formula(
        layer, offset_groups=offset_groups, groups=groups, masked=version == 2, stride=stride, dilation=dilation
    )
    assert_equal(layer, formula, torch.randn(2, 8, *size))


def test_deformable_convolution_v2_starts_as_half_a_convolution():
    layer = ux.UnifiedExtractor2d(4, 6, presets.deformable_convolution(2))
    x = torch.randn(2, 4, 6, 7)
    torch.testing.assert_close(layer(x), 0.5 * F.conv2d(x, layer.static_kernel, padding=1))


@pytest.mark.parametrize(("dilation", "offset_scale"), [(1, 1.0), (2, 1.0), (1, 2.5)])
def test_deformable_convolution_v4_is_its_formula(dilation, offset_scale):
    layer = layer_of(presets.deformable_convolution(4, groups=2, dilation=dilation, offset_scale=offset_scale), 8)

    def formula(x):
        heads = (linear(layer.value), linear(layer.offsets.head), linear(layer.kernel.head), linear(layer.projection))
        return oracles.dcnv4(x, *heads, groups=2, dilation=dilation, offset_scale=offset_scale)

    assert_equal(layer, formula, torch.randn(2, 8, 6, 7))


def test_squeeze_excitation_is_the_formula_and_torchvisions_module():
    layer = layer_of(presets.squeeze_excitation(reduction=4), 8)
    x = torch.randn(3, 8, 6, 5)
    assert_equal(layer, lambda x: oracles.squeeze_excitation(x, linear(layer.feature.reduce.conv), linear(layer.kernel.head)), x)
    peer = SqueezeExcitation(8, 2).double()
    peer.fc1.load_state_dict(layer.feature.reduce.conv.state_dict())
    peer.fc2.load_state_dict(layer.kernel.head.state_dict())
    torch.testing.assert_close(layer(x.double()), peer(x.double()))


def attention_heads(layer):
    return (linear(layer.kernel.query), linear(layer.kernel.key), linear(layer.value), linear(layer.projection))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(3, 1, 1), (5, 2, 1), (3, 1, 2), ((2, 3), 1, 1)])
def test_local_attention_is_its_formula(kernel_size, stride, dilation, size):
    spec = presets.local_attention(kernel_size, heads=2)
    spec = ux.ExtractorSpec(**{**vars(spec), "dilation": dilation})
    layer = layer_of(spec, 8, stride=stride)

    def formula(x):
        options = {"heads": 2, "kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        return oracles.local_attention(x, *attention_heads(layer), **options, relative_bias=layer.kernel.position)

    assert_equal(layer, formula, torch.randn(2, 8, *size))


def test_local_attention_with_a_window_that_covers_the_map_is_global_self_attention():
    layer = layer_of(presets.local_attention(2 * 6 - 1, heads=2, relative_position=False), 8)
    assert_equal(layer, lambda x: oracles.global_self_attention(x, *attention_heads(layer), heads=2), torch.randn(2, 8, 5, 6))


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "size"), [(3, 1, (7, 6)), (5, 1, (5, 9)), (3, 2, (7, 8)), ((3, 1), 1, (4, 3))]
)
@pytest.mark.parametrize("relative_position", [True, False])
def test_neighborhood_attention_is_its_formula(kernel_size, dilation, size, relative_position):
    spec = presets.neighborhood_attention(kernel_size, heads=2, relative_position=relative_position)
    layer = layer_of(ux.ExtractorSpec(**{**vars(spec), "dilation": dilation}), 8)

    def formula(x):
        options = {"heads": 2, "kernel_size": kernel_size, "dilation": dilation, "relative_bias": layer.kernel.position}
        return oracles.neighborhood_attention(x, *attention_heads(layer), **options)

    assert_equal(layer, formula, torch.randn(2, 8, *size))


def test_neighborhood_attention_refuses_a_map_smaller_than_its_window():
    layer = ux.UnifiedExtractor2d(8, 8, presets.neighborhood_attention(5, heads=2))
    with pytest.raises(ValueError, match=r"height of at least kernel_size\*dilation, got height=4, kernel_size=5"):
        layer(torch.randn(1, 8, 4, 9))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_ls_convolution_is_its_formula(size, training):
    layer = layer_of(presets.ls_convolution(), 16).train(training)
    feature = layer.feature

    def formula(x):
        return oracles.ls_convolution(
            x,
            linear(feature.reduce.conv),
            norm(feature.reduce.norm),
            feature.look.conv.weight,
            norm(feature.look.norm),
            linear(feature.mix.conv),
            norm(feature.mix.norm),
            linear(layer.kernel.head),
            (layer.kernel.norm.weight, layer.kernel.norm.bias),
            training=training,
        )

    assert_equal(layer, formula, torch.randn(2, 16, *size), tolerance=1e-9)


@pytest.mark.parametrize("offsets", [True, False])
def test_unified_gather_starts_as_a_plain_depthwise_convolution(offsets):
    layer = ux.UnifiedExtractor2d(32, 32, presets.unified(offsets=offsets))
    assert hasattr(layer, "offsets") == offsets
    x = torch.randn(2, 32, 7, 6)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.static_kernel, padding=1, groups=32))


@pytest.mark.parametrize("aggregation", ["gather", "fold"])
@pytest.mark.parametrize("normalization", ["none", "softmax", "sigmoid"])
def test_unified_is_the_operator_on_what_its_parts_generate(aggregation, normalization):
    layer = layer_of(
        presets.unified(channels_per_group=4, offset_groups=2, aggregation=aggregation, normalization=normalization), 8
    )

    def formula(x):
        feature = layer.feature(x)
        offsets = layer.offsets.head(feature).unflatten(1, (2, 9, 2))
        values = layer.kernel.head(feature).unflatten(1, (2, 9) if aggregation == "gather" else (2, 9, 9))
        values = {"none": lambda v: v, "softmax": lambda v: v.softmax(-3), "sigmoid": torch.sigmoid}[normalization](values)
        combine = "residual" if aggregation == "gather" else "multiply"
        options = {"padding": 1, "combine": combine, "aggregation": aggregation}
        return oracles.extract(x, 3, layer.static_kernel, values, offsets, **options)

    assert_equal(layer, formula, torch.randn(2, 8, 5, 6), tolerance=1e-9)
