"""Every preset equals an independent formula of the published operator: output, input gradient and every parameter gradient.

Involution, outlook attention and DCNv3 are held to official values in ``test_official_values.py``.
"""

import itertools
import math
from dataclasses import replace

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


@pytest.mark.parametrize(
    ("groups", "kernel_size", "stride", "bias"), [(1, 3, 1, False), (2, 3, 2, True), (8, 5, 2, True), (4, (1, 3), 1, False)]
)
def test_conditional_convolution_is_timms_module(groups, kernel_size, stride, bias):
    timm_layers = pytest.importorskip("timm.layers")
    layer = layer_of(presets.conditional_convolution(kernel_size, 3, groups, bias=bias), 8, 8, stride)
    peer = timm_layers.CondConv2d(8, 8, kernel_size, stride, groups=groups, bias=bias, num_experts=3).double()
    names = {"weight": layer.static_kernel.flatten(1)} | ({"bias": layer.bias} if bias else {})

    def formula(x):
        gates = F.linear(x.mean((2, 3)), *linear(layer.kernel.head)).sigmoid()
        return torch.func.functional_call(peer, names, (x, gates))

    assert_equal(layer, formula, torch.randn(3, 8, 9, 7))


@pytest.mark.parametrize("stride", [1, 2])
def test_conditional_convolution_with_other_border_and_groups_of_gates_is_a_sum_of_convolutions(stride):
    spec = presets.conditional_convolution(3, 3, groups=4, dilation=2, bias=True)
    spec = replace(spec, padding=1, dynamic_kernel=replace(spec.dynamic_kernel, groups=2))
    layer = layer_of(spec, 8, 12, stride)

    def formula(x):
        gates = F.linear(x.mean((2, 3)), *linear(layer.kernel.head)).sigmoid().view(-1, 3, 2)
        outputs = [F.conv2d(x, s, b, stride, 1, 2, 4) for s, b in zip(layer.static_kernel, layer.bias, strict=True)]
        return sum(y * gate.repeat_interleave(6, 1)[:, :, None, None] for y, gate in zip(outputs, gates.unbind(1), strict=True))

    assert_equal(layer, formula, torch.randn(2, 8, 9, 8))


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_gated_convolution_is_the_block_of_timms_mambaout(kernel_size):
    mambaout = pytest.importorskip("timm.models.mambaout")
    layer = layer_of(presets.gated_convolution(kernel_size), 8)
    peer = mambaout.GatedConvBlock(8, expansion_ratio=1.0, kernel_size=kernel_size, conv_ratio=1.0).double()
    peer.norm = torch.nn.Identity()
    (gate, gate_bias), (value, value_bias) = linear(layer.modulation), linear(layer.value)
    fc2, fc2_bias = linear(layer.projection)

    def formula(x):
        weights = {
            "fc1.weight": torch.cat([gate, value]),
            "fc1.bias": torch.cat([gate_bias, value_bias]),
            "conv.weight": layer.static_kernel,
            "conv.bias": layer.bias,
            "fc2.weight": fc2,
            "fc2.bias": fc2_bias,
        }
        skip = x.permute(0, 2, 3, 1)
        return (torch.func.functional_call(peer, weights, (skip,)) - skip).permute(0, 3, 1, 2)

    assert_equal(layer, formula, torch.randn(2, 8, 9, 7))


@pytest.mark.parametrize(("activation", "act"), [("identity", lambda x: x), ("sigmoid", torch.sigmoid), ("silu", F.silu)])
@pytest.mark.parametrize("aggregation", ["gather", "fold"])
def test_modulation_multiplies_the_output_before_its_projection(activation, act, aggregation):
    spec = replace(presets.unified(aggregation=aggregation, offsets=False, channels_per_group=4), modulation=activation)
    spec = replace(spec, bias=True, projection=ux.Projection(output="affine"))
    layer = layer_of(spec, 8, stride=2).eval()
    plain = ux.UnifiedExtractor2d(8, 8, replace(spec, modulation="none", projection=ux.Projection()), 2).double().eval()
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if name in plain.state_dict()})
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    at_outputs = F.avg_pool2d(x, 2, ceil_mode=True) if aggregation == "gather" else x
    expected = layer.projection(plain(x) * act(layer.modulation(at_outputs)))
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


MIXING = {"source": "generated", "groups": 2}
STARTS = {
    "softmax over terms": ({"normalization": "softmax", "softmax_over": "terms", "initial": "zero"}, 1 / 3),
    "sigmoid": ({"normalization": "sigmoid", "initial": "zero"}, 1 / 2),
    "one": ({"initial": "one"}, 1.0),
    "one, scaled": ({"initial": "one", "scale_by_head_dim": True}, 1.0),
}


@pytest.mark.parametrize("per_tap", [True, False])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("channels", ["dense", "depthwise"])
def test_a_mixture_starts_as_a_plain_convolution_and_its_kernels_learn(channels, start, per_tap):
    fields, share = STARTS[start]
    dynamic = ux.DynamicKernel(**MIXING, **fields, per_tap=per_tap)
    spec = ux.ExtractorSpec(static_kernel=ux.StaticKernel(channels=channels), dynamic_kernel=dynamic, terms=3)
    layer = ux.UnifiedExtractor2d(8, 8, spec, 2).double()
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    kernel = share * layer.static_kernel.sum(0)
    y = layer(x)
    torch.testing.assert_close(y, F.conv2d(x, kernel, None, 2, 1, 1, 8 if channels == "depthwise" else 1), rtol=1e-10, atol=1e-10)
    y.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


@pytest.mark.parametrize("normalization", [{"normalization": "softmax"}, {"normalization": "softmax", "softmax_over": "terms"}])
def test_a_softmax_sums_to_one_over_taps_or_terms(normalization):
    dynamic = ux.DynamicKernel(**MIXING, **normalization)
    spec = ux.ExtractorSpec(static_kernel=ux.StaticKernel(channels="depthwise"), dynamic_kernel=dynamic, terms=3)
    _, kernel = ux.UnifiedExtractor2d(8, 8, spec).generate(torch.randn(2, 8, 6, 5))
    assert kernel.shape == (2, 3, 2, 9, 6, 5)
    summed = kernel.sum(1 if "softmax_over" in normalization else 3)
    torch.testing.assert_close(summed, torch.ones_like(summed))


@pytest.mark.parametrize(("kernel_size", "heads", "length"), [(3, 2, 7), (7, 4, 5), (5, 8, 1)])
def test_dynamic_convolution_is_the_formula_of_its_paper(kernel_size, heads, length):
    """Wu et al. 2019, sections 4 and 5: ``O[i,c] = sum_j softmax_j(W X_i)[h,j] X[i + j - ceil((k+1)/2), c]``, j = 1 .. k."""
    layer = layer_of(presets.dynamic_convolution((1, kernel_size), heads), 8)

    def formula(x):
        sequence, outputs = F.pad(x[:, :, 0], (kernel_size, kernel_size)), []
        weights = F.linear(x[:, :, 0].transpose(1, 2), *linear(layer.kernel.head)).unflatten(2, (heads, kernel_size)).softmax(3)
        for i in range(length):
            taps = [sequence[:, :, kernel_size + i + j - math.ceil((kernel_size + 1) / 2)] for j in range(1, kernel_size + 1)]
            by_channel = weights[:, i].repeat_interleave(8 // heads, 1)
            outputs.append((torch.stack(taps, 2) * by_channel).sum(2))
        return torch.stack(outputs, 2)[:, :, None]

    assert_equal(layer, formula, torch.randn(2, 8, 1, length))


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


@pytest.mark.parametrize(("kind", "stride", "dilation"), [("none", 1, 1), ("none", 2, 2), ("window_shift", 1, 1)])
def test_positions_of_the_query_are_the_formula_of_local_attention_with_them(kind, stride, dilation):
    """Ramachandran et al. 2019, equation 2: ``softmax(q . k + q . r)``, r of the relative row and column of every key."""
    spec = presets.local_attention((3, 5), heads=2, relative_position="query")
    layer = layer_of(replace(spec, dilation=dilation, offsets=ux.Offsets(kind=kind)), 8, stride=stride)
    vectors = layer.kernel.position

    def formula(x):
        height, width = x.shape[2:]
        q, k, v, output = attention_heads(layer)
        pooled = F.avg_pool2d(x, stride, ceil_mode=True)
        q = oracles.pixelwise(pooled, q).unflatten(1, (2, -1)) / 2
        k, v = (oracles.pixelwise(x, head).unflatten(1, (2, -1)) for head in (k, v))
        outputs = []
        for row, column in itertools.product(range(0, height, stride), range(0, width, stride)):
            axes = []
            for place, size, kernel in ((row, height, 3), (column, width, 5)):
                centered = [place + dilation * (i - kernel // 2) for i in range(kernel)]
                shifted = oracles.neighbors(place, size, kernel, dilation).tolist() if kind == "window_shift" else centered
                axes.append([i for i in shifted if 0 <= i < size])
            middle = (2, 4) if kind == "window_shift" else (1, 2)
            taps = list(itertools.product(*axes))
            rows, columns = zip(*taps, strict=True)
            r = torch.stack(
                [
                    vectors.rows[(y - row) // dilation + middle[0]] + vectors.columns[(z - column) // dilation + middle[1]]
                    for y, z in taps
                ]
            )
            query = q[..., row // stride, column // stride]
            logits = torch.einsum("bge,bgek->bgk", query, k[..., rows, columns]) + torch.einsum("bge,ke->bgk", query, r)
            outputs.append(torch.einsum("bgk,bgek->bge", logits.softmax(2), v[..., rows, columns]).flatten(1))
        return oracles.pixelwise(torch.stack(outputs, 2).unflatten(2, pooled.shape[2:]), output)

    assert_equal(layer, formula, torch.randn(2, 8, 6, 7))


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
