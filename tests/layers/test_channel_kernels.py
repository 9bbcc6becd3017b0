"""Channel kernels of layers: what joins the dynamic kernel, and DDF as the formula of its paper."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

import unified_extractor as ux
from tests.support.backends import COMPARED
from tests.support.preset_formulas import assert_backend_equals_reference, assert_equal, layer_of
from unified_extractor.analysis import cost
from unified_extractor.spec import ChannelKernel, DynamicKernel, ExtractorSpec, Generator, Offsets, StaticKernel


def filter_normalized(values):
    """Values [..., K, P] with mean zero and unbiased deviation one over K."""
    return (values - values.mean(-2, keepdim=True)) / (values.std(-2, keepdim=True) + 1e-10)


def ddf_formula(layer, kernel_size, heads, combine, stride, dilation):
    """Zhou et al. 2021, equations 2 to 5, by unfold."""
    taps = kernel_size**2

    def formula(x):
        batch, channels = x.shape[:2]
        spatial = F.conv2d(x, layer.kernel.head.weight, layer.kernel.head.bias, stride)
        spatial = filter_normalized(spatial.view(batch, heads, taps, -1)) * 2**0.5 / kernel_size
        own = layer.channel_kernel
        hidden = own.feature.reduce.conv(x.mean((2, 3), keepdim=True)).relu()
        of_channels = filter_normalized(own.kernel.head(hidden).view(batch, channels, taps, 1))
        of_channels = of_channels * own.gain.view(channels, taps, 1)
        spatial = spatial.repeat_interleave(channels // heads, 1)
        kernel = spatial * of_channels if combine == "multiply" else spatial + of_channels
        padding = dilation * (kernel_size - 1) // 2
        columns = F.unfold(x, kernel_size, dilation, padding, stride).view(batch, channels, taps, -1)
        return (kernel * columns).sum(2).view(batch, channels, x.shape[2] // stride, x.shape[3] // stride)

    return formula


@pytest.mark.parametrize("combine", ["multiply", "add"])
@pytest.mark.parametrize(
    ("kernel_size", "heads", "stride", "dilation"), [(3, 1, 1, 1), (3, 2, 2, 1), (5, 5, 1, 2), (3, 10, 2, 2)]
)
def test_ddf_is_the_formula_of_its_paper(kernel_size, heads, stride, dilation, combine):
    spec = dataclasses.replace(ux.presets.ddf(kernel_size, heads, combine), dilation=dilation)
    layer = layer_of(spec, 10, stride=stride)
    x = torch.randn(2, 10, 8, 6)
    assert_equal(layer, ddf_formula(layer, kernel_size, heads, combine, stride, dilation), x)


@pytest.mark.parametrize("backend", COMPARED)
@pytest.mark.parametrize("combine", ["multiply", "add"])
def test_every_backend_gives_the_references_values(combine, backend, monkeypatch):
    assert_backend_equals_reference(backend, layer_of(ux.presets.ddf(3, 2, combine), 10), monkeypatch)


SETTINGS = {
    "beside S": {"static_kernel": StaticKernel(channels="depthwise")},
    "S + D": {"static_kernel": StaticKernel(channels="dense"), "combine": "add"},
    "S * (1 + D)": {"static_kernel": StaticKernel(channels="dense", groups=2), "combine": "residual"},
    "with offsets and a bias": {"offsets": Offsets(kind="learned", groups=2), "bias": True},
    "fold": {"aggregation": "fold"},
    "gate": {"dynamic_kernel": DynamicKernel(source="generated", groups=2, per_tap=False)},
    "attention": {"dynamic_kernel": DynamicKernel(source="similarity", groups=2, normalization="softmax")},
    "of cells": {
        "channel_kernel": ChannelKernel(combine="multiply", generator=Generator(view="pooled"), normalization="softmax")
    },
    "upsampled": {"upsample": 2},
    "terms": {"static_kernel": StaticKernel(channels="depthwise"), "terms": 2},
}


@pytest.mark.parametrize("joins", ["multiply", "add"])
@pytest.mark.parametrize("name", SETTINGS)
def test_it_joins_the_dynamic_kernel_whatever_stands_beside_it(name, joins, monkeypatch):
    """The kernels written out for every channel and position, joined, and given to the operator as one."""
    if joins == "add" and name in ("fold", "of cells", "terms"):
        pytest.skip("refused, or the same again")
    fields = {"dynamic_kernel": DynamicKernel(source="generated", groups=2), "kernel_size": 3} | SETTINGS[name]
    fields["channel_kernel"] = SETTINGS[name].get("channel_kernel", ChannelKernel(combine=joins))
    spec = ExtractorSpec(**fields)
    layer = layer_of(spec, 4)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    offsets, dynamic = layer.generate(x)
    y, axis = layer(x), 2 if spec.terms > 1 else 1
    own = layer.channel_kernel(x)[..., None, None]
    if spec.terms > 1:
        own = own.unsqueeze(1)
    elif spec.aggregation == "fold":
        own = own.unsqueeze(2)
    dynamic = dynamic.repeat_interleave(2, axis)
    joined = dynamic * own if joins == "multiply" else dynamic + own
    expected = ux.extract(
        x,
        kernel_size=3,
        static_kernel=layer.static_kernel,
        dynamic_kernel=joined,
        offsets=offsets,
        bias=layer.bias,
        padding="same",
        combine=spec.combine,
        aggregation=spec.aggregation,
        upsample=spec.upsample,
        backend="reference",
    )
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("view_convolution", ["depthwise", "dense"])
def test_a_view_that_skips_is_a_strided_convolution(view_convolution):
    generator = Generator(view=3, view_convolution=view_convolution, downsample="skip")
    layer = layer_of(ExtractorSpec(dynamic_kernel=DynamicKernel(source="generated", groups=2), generator=generator), 4, stride=2)
    x = torch.randn(1, 4, 7, 6, dtype=torch.float64)
    if view_convolution == "dense":
        expected = F.conv2d(x, layer.kernel.head.weight, layer.kernel.head.bias, 2, 1)
    else:
        look = layer.feature.look.conv
        expected = layer.kernel.head(F.conv2d(x, look.weight, look.bias, 2, 1, groups=4))
    torch.testing.assert_close(layer.generate(x)[1], expected.view(1, 2, 9, 4, 3))


def test_it_costs_one_multiply_add_a_tap_more_and_its_generator():
    plain = dataclasses.replace(ux.presets.ddf(), channel_kernel=ChannelKernel())
    counts = [
        cost(ux.UnifiedExtractor2d(10, 10, spec), (10, 6, 7)) for spec in (plain, ux.presets.ddf(), ux.presets.ddf(combine="add"))
    ]
    operator = [count.multiply_adds_by_part["operator"] for count in counts]
    assert operator == [9 * 10 * 42, 2 * 9 * 10 * 42, 2 * 9 * 10 * 42]
    generator = [count.multiply_adds_by_part["generator"] for count in counts]
    assert generator[1] - generator[0] == 10 * 2 + 2 * 90 == generator[2] - generator[0]
    assert counts[1].parameters - counts[0].parameters == (10 * 2 + 2) + (2 * 90 + 90) + 90


def test_the_joined_kernel_is_formed_nowhere():
    """No tensor between the passes has a value for every channel, tap and position."""
    layer, sizes = ux.UnifiedExtractor2d(16, 16, ux.presets.ddf()), {}
    x = torch.randn(2, 16, 12, 12)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.setdefault(t.data_ptr(), t.nbytes) and t, lambda t: t):
        layer(x)
    assert max(sizes.values()) < 9 * x.nbytes / 4


def test_a_view_of_runs_names_the_field_of_the_channel_kernel():
    dynamic = DynamicKernel(source="generated", groups=1)
    own = ChannelKernel(combine="multiply", generator=Generator(view="runs", reduction=2))
    with pytest.raises(ValueError, match=r"^channel_kernel\.generator\.view='runs' .* 2 hidden channels for 4 kernels"):
        ux.UnifiedExtractor2d(4, 4, ExtractorSpec(dynamic_kernel=dynamic, channel_kernel=own))
