"""The layer with any spec: shapes, printing, precision, layouts, compilation, export."""

import dataclasses

import pytest
import torch

import unified_extractor as ux
from tests.support.presets import PRESETS
from unified_extractor import *  # noqa: F403  (the names a printed layer uses)
from unified_extractor import UnifiedExtractor2d
from unified_extractor.ops import checks
from unified_extractor.ops.offsets import samples_nothing

CHANNELS = 32


def small(name):
    """The preset's layer; windows that must fit into the image get a small kernel."""
    spec = ux.presets.neighborhood_attention(3, heads=2) if name == "neighborhood_attention" else PRESETS[name]
    torch.manual_seed(0)
    return lambda stride=1: UnifiedExtractor2d(CHANNELS, CHANNELS, spec, stride)


@pytest.fixture(params=PRESETS)
def make(request):
    return small(request.param)


@pytest.mark.parametrize("stride", [1, 2, (2, 3)])
def test_stride_divides_the_size_rounded_up_after_gather_and_keeps_it_after_fold(make, stride):
    layer = make(stride)
    y = layer(torch.randn(2, CHANNELS, 9, 10))
    steps = (stride, stride) if isinstance(stride, int) else stride
    gather = layer.spec.aggregation == "gather"
    assert layer.downsampling == (stride if gather else 1)
    assert y.shape == (2, CHANNELS, *((-(-n // s) if gather else n) for n, s in zip((9, 10), steps, strict=True)))


def test_a_layer_prints_as_the_call_that_makes_it(make):
    layer = make(2)
    again = eval(repr(layer))
    assert repr(again) == repr(layer)
    shapes = {name: value.shape for name, value in layer.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == shapes
    assert "stride" not in repr(make(1))


def test_one_pixel_and_an_empty_batch_pass(make):
    layer = make().eval()
    if layer.spec.offsets.kind != "window_shift":
        assert layer(torch.randn(1, CHANNELS, 1, 1)).shape == (1, CHANNELS, 1, 1)
    assert layer(torch.randn(0, CHANNELS, 8, 8)).shape == (0, CHANNELS, 8, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_in_half_precision(make, dtype):
    layer = make()
    x = torch.randn(2, CHANNELS, 8, 9)
    expected = layer(x)
    with torch.autocast("cpu", dtype):
        y = layer(x)
    assert y.dtype == dtype or layer.spec.center_feature_scale
    error = (y.float() - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    assert error < 20 * torch.finfo(dtype).eps
    y.float().square().mean().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_channels_last_and_sliced_images_give_the_same(make):
    layer = make().eval()
    x = torch.randn(2, 2 * CHANNELS, 8, 9)[:, ::2]
    expected = layer(x.contiguous())
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "name", ["deformable_convolution_v3", "involution", "outlook_attention", "neighborhood_attention", "unified"]
)
def test_a_layer_compiles_without_graph_breaks_and_exports(name):
    layer = small(name)().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, CHANNELS, 8, 9)
    expected = layer(x)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), expected)


def test_a_network_exports_with_a_dynamic_batch_and_its_gradients():
    net = ux.models.extractor_net(5, ux.presets.outlook_attention(heads=2), widths=(8,), depths=(1,)).eval()
    x = torch.randn(4, 3, 8, 8)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},)).module()
    torch.testing.assert_close(exported(x[:3]), net(x[:3]))
    gradients = [torch.autograd.grad(f(x).square().sum(), list(f.parameters())) for f in (net, exported)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: UnifiedExtractor2d(40, 40, ux.presets.involution()), ValueError, "channels_per_group must divide in_channels"),
        (lambda: UnifiedExtractor2d(8, 8, ux.presets.outlook_attention(heads=3)), ValueError, "groups must divide in_channels"),
        (
            lambda: UnifiedExtractor2d(8, 6, ux.presets.convolution(groups=4)),
            ValueError,
            "static_kernel.groups must divide out_channels",
        ),
        (lambda: UnifiedExtractor2d(16, 8, ux.presets.involution()), ValueError, "out_channels must equal in_channels"),
        (
            lambda: UnifiedExtractor2d(0, 8, ux.presets.convolution()),
            ValueError,
            "in_channels must be an int of at least 1, got 0",
        ),
        (lambda: UnifiedExtractor2d(8, 8, 3), TypeError, "spec must be an ExtractorSpec or a preset's name, got 3 of type int"),
        (lambda: UnifiedExtractor2d(8, 8, ux.presets.convolution(), 0), ValueError, "stride must be at least 1, got 0"),
    ],
)
def test_channels_that_do_not_fit_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_image_that_does_not_fit_is_refused():
    layer = UnifiedExtractor2d(16, 16, ux.presets.involution())
    with pytest.raises(ValueError, match=r"x must have in_channels=16 channels, got shape \[1, 8, 9, 9\]"):
        layer(torch.randn(1, 8, 9, 9))
    with pytest.raises(ValueError, match=r"x must be \[B, C, H, W\]"):
        layer(torch.randn(16, 9, 9))
    with pytest.raises(TypeError, match="x must have one of the floating point dtypes"):
        layer(torch.zeros(1, 16, 9, 9, dtype=torch.long))


def test_generate_returns_what_the_layer_uses():
    layer = UnifiedExtractor2d(16, 16, ux.presets.unified(channels_per_group=4))
    offsets, kernel = layer.generate(torch.randn(2, 16, 5, 6))
    assert offsets.shape == (2, 1, 9, 2, 5, 6)
    assert kernel.shape == (2, 4, 9, 5, 6)
    assert UnifiedExtractor2d(16, 16, ux.presets.convolution()).generate(torch.randn(1, 16, 5, 5)) == (None, None)


def test_a_bias_is_added_last_to_its_own_channel():
    interleaved = ux.DynamicKernel(source="generated", groups=2, channel_order="interleaved", initial="zero")
    spread = ux.DynamicKernel(source="generated", groups=1, initial="zero")
    for spec in (
        ux.ExtractorSpec(dynamic_kernel=interleaved, bias=True),
        ux.ExtractorSpec(dynamic_kernel=spread, aggregation="fold", overlap_normalize=True, bias=True),
    ):
        layer = UnifiedExtractor2d(4, 4, spec)
        torch.nn.init.normal_(layer.bias)
        torch.testing.assert_close(layer(torch.randn(1, 4, 5, 5)), layer.bias[:, None, None].expand(1, 4, 5, 5))


def test_half_precision_offsets_mask_no_tap_inside_the_image():
    """In bfloat16 column 299 rounds to 300, the width."""
    x = torch.empty(1, 1, 2, 300)
    geometry = checks.geometry(x, kernel_size=1, stride=1, padding=0, dilation=1)
    offsets = torch.zeros(1, 1, 1, 2, 2, 300, dtype=torch.bfloat16)
    assert not samples_nothing(geometry, offsets, x.device).any()


def test_an_image_of_another_dtype_is_refused_outside_autocast():
    layer = UnifiedExtractor2d(16, 16, ux.presets.involution())
    with pytest.raises(TypeError, match=r"x must have the dtype of the layer's parameters, torch\.float32, got torch\.float64"):
        layer(torch.randn(1, 16, 9, 9).double())


def test_counting_and_drawing_leave_every_module_in_its_mode():
    net = ux.models.extractor_net(10, ux.presets.involution(3), widths=(16,), depths=(1,))
    net.norm.eval()
    ux.analysis.cost(net, (3, 2, 2))
    assert net.training
    assert not net.norm.training


def test_surplus_values_of_the_heads_change_nothing():
    plain = ux.presets.deformable_convolution(4, groups=4)
    aligned = dataclasses.replace(plain, generator=ux.Generator(head_multiple=8))
    layer, padded = (UnifiedExtractor2d(CHANNELS, CHANNELS, spec) for spec in (plain, aligned))
    rows = layer.kernel.head.weight.shape[0]
    assert padded.offsets.head.weight.shape[0] + padded.kernel.head.weight.shape[0] == 112 == rows + 72 + 4
    state = {name: torch.randn_like(value) for name, value in padded.state_dict().items()}
    padded.load_state_dict(state)
    layer.load_state_dict({name: value[:rows] if name.startswith("kernel.head") else value for name, value in state.items()})
    x = torch.randn(2, CHANNELS, 6, 5)
    torch.testing.assert_close(padded(x), layer(x))


def test_surplus_values_need_a_generated_kernel():
    with pytest.raises(ValueError, match=r"generator\.head_multiple needs dynamic_kernel\.source='generated'"):
        dataclasses.replace(ux.presets.deformable_convolution(1), generator=ux.Generator(head_multiple=8))
    with pytest.raises(ValueError, match=r"generator\.head_multiple must be at least 1, got 0"):
        ux.Generator(head_multiple=0)
