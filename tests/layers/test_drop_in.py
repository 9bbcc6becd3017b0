"""The layer in a convolution's place: its channels, stride and sizes for every spec, and its values where the spec is one."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.export import Dim, export

import unified_extractor as ux
from tests.support.presets import PRESETS
from unified_extractor import *  # noqa: F403  (the names a printed layer uses)
from unified_extractor import ExtractorConv2d, UnifiedExtractor2d, presets

CONVOLUTIONS = [
    {"kernel_size": k, "stride": s, "padding": p, "dilation": d}
    for k, s, p, d in itertools.product([1, 3, (3, 5)], [1, 2, (1, 2)], [0, 1, 3], [1, 2])
]


def margin(kernel_size, padding, dilation, **_):
    kernel = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    return tuple(dilation * (k - 1) - 2 * padding for k in kernel)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.sampled(2)
def test_every_spec_keeps_channels_stride_and_sizes_of_a_convolution(name):
    x = torch.randn(1, 32, 15, 16)
    for options in CONVOLUTIONS[:: 1 + len(name) % 3]:
        layer = ExtractorConv2d(32, 48, PRESETS[name], options["stride"], margin=margin(**options)).eval()
        with torch.no_grad():
            assert layer(x).shape == nn.Conv2d(32, 48, **options)(x).shape


@pytest.mark.parametrize("stride", [1, 2, (2, 3)])
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.sampled(3)
def test_without_a_margin_the_stride_divides_the_size_rounded_up(name, stride):
    layer = ExtractorConv2d(32, 24, PRESETS[name], stride)
    y = layer(torch.randn(2, 32, 9, 10))
    steps = (stride, stride) if isinstance(stride, int) else stride
    assert y.shape == (2, 24, -(-9 // steps[0]), -(-10 // steps[1]))
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, (3, 5)])
@pytest.mark.sampled(2)
def test_a_dense_spec_equals_the_convolution_with_every_padding(kernel_size, padding_mode):
    for stride, padding, dilation in itertools.product([1, 2, (1, 3)], [0, 1, 2], [1, 2]):
        options = {"stride": stride, "padding": padding, "dilation": dilation, "padding_mode": padding_mode}
        convolution = nn.Conv2d(4, 6, kernel_size, groups=2, **options)
        net = nn.Sequential(copy.deepcopy(convolution))
        done = ux.replace_convolutions(net, presets.convolution(kernel_size, groups=2), where="0" if kernel_size == 1 else "*")
        assert done.replaced == {"0": "weights kept"}
        x = torch.randn(2, 4, 13, 14)
        torch.testing.assert_close(net(x), convolution(x))


@pytest.mark.parametrize(("padding_mode", "smallest"), [("reflect", 3), ("circular", 2)])
def test_an_image_too_small_to_be_reflected_or_repeated_around_itself_is_refused_in_one_line(padding_mode, smallest):
    layer = ExtractorConv2d(4, 4, presets.depthwise_convolution(5), padding_mode=padding_mode)
    assert layer(torch.randn(1, 4, smallest, 7)).shape == (1, 4, smallest, 7)
    with pytest.raises(
        ValueError, match=rf"padding_mode='{padding_mode}' of a kernel_size=5 needs .* at least {smallest} x {smallest} "
    ):
        layer(torch.randn(1, 4, smallest - 1, 7))


def test_a_padding_of_the_spec_is_the_convolutions():
    x = torch.randn(1, 4, 9, 9)
    convolution = nn.Conv2d(4, 6, 3, 2, padding=0, bias=False)
    layer = ExtractorConv2d(4, 6, ux.ExtractorSpec(static_kernel=ux.StaticKernel(channels="dense"), padding=0), 2)
    layer.layer.static_kernel.data.copy_(convolution.weight)
    torch.testing.assert_close(layer(x), convolution(x))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_a_margin_exports_with_ranges_of_sizes(padding_mode):
    layer = ExtractorConv2d(4, 6, "deformable_convolution(1)", 2, margin=(2, -1), padding_mode=padding_mode).eval()
    ranges = {2: Dim("height", min=8, max=256), 3: Dim("width", min=8, max=256)}
    program = export(layer, (torch.randn(2, 4, 21, 22),), dynamic_shapes=(ranges,))
    for size in ((30, 17), (9, 256)):
        x = torch.randn(2, 4, *size)
        torch.testing.assert_close(program.module()(x), layer(x))


def test_only_what_is_missing_is_added():
    parts = lambda layer: {name for name, part in layer.named_modules() if isinstance(part, nn.Conv2d | nn.AvgPool2d)}  # noqa: E731
    assert "projection" in parts(ExtractorConv2d(32, 64, "involution"))
    assert "projection" not in parts(ExtractorConv2d(32, 32, "involution"))
    assert "projection" not in parts(ExtractorConv2d(32, 64, "outlook_attention"))  # has one of its own
    assert "projection" not in parts(ExtractorConv2d(32, 64, "deformable_convolution(2)"))
    assert "extractor.1" in parts(ExtractorConv2d(32, 64, "outlook_attention", 2))
    add = ux.ExtractorSpec(
        static_kernel={"channels": "dense"}, dynamic_kernel={"source": "generated", "groups": 1}, combine="add"
    )
    assert ExtractorConv2d(32, 64, add)(torch.randn(1, 32, 4, 4)).shape == (1, 64, 4, 4)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.sampled(3)
def test_it_prints_pickles_and_is_saved_as_every_layer(name):
    layer = ExtractorConv2d(32, 48, PRESETS[name], (2, 1), margin=(1, 0), padding_mode="reflect").eval()
    again = eval(repr(layer)).eval()
    assert repr(again) == repr(layer)
    again.load_state_dict(layer.state_dict())
    x = torch.randn(1, 32, 9, 9)
    with torch.no_grad():
        assert torch.equal(again(x), layer(x))
        assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))


@pytest.mark.parametrize("name", PRESETS)
def test_reset_parameters_draws_what_the_constructor_does(name):
    torch.manual_seed(3)
    layer = ExtractorConv2d(32, 48, PRESETS[name])
    start = copy.deepcopy(layer.state_dict())
    for value in layer.state_dict().values():
        value.fill_(3)
    layer.layer.reset_parameters()
    zero = [key for key, value in start.items() if not value.any()]
    assert all(not layer.state_dict()[key].any() for key in zero)  # offsets and masks start at zero again
    for module in (layer, nn.Sequential(layer)):
        torch.manual_seed(3)
        module.apply(lambda part: part.reset_parameters() if isinstance(part, ExtractorConv2d) else None)
        assert all(torch.equal(value, start[key]) for key, value in layer.state_dict().items())


def test_the_refusal_of_other_channels_names_the_remedy():
    for spec in ("unified", "involution"):
        with pytest.raises(ValueError, match=r"projection=Projection\(output='linear'\), or take ExtractorConv2d"):
            UnifiedExtractor2d(32, 64, spec)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ExtractorConv2d(32, 64, "involutoin"), ValueError, "spec: no preset 'involutoin', did you mean involution?"),
        (lambda: ExtractorConv2d(30, 64, "involution"), ValueError, "channels_per_group must divide in_channels"),
        (lambda: ExtractorConv2d(32, 64, 3), TypeError, "spec must be an ExtractorSpec or a preset's name, got 3"),
        (lambda: ExtractorConv2d(32, 64, "involution", 0), ValueError, "stride must be at least 1"),
        (lambda: ExtractorConv2d(32, 64, "involution", padding_mode="zero"), ValueError, "did you mean zeros"),
        (
            lambda: ExtractorConv2d(32, 64, "involution", margin=9)(torch.zeros(1, 32, 9, 9)),
            ValueError,
            r"must be larger than margin=\(9, 9\)",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
