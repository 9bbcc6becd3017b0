"""Guides: kernels, offsets and similarities of another map than the image that is sampled."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import unified_extractor as ux
from tests.support.preset_formulas import assert_equal, layer_of
from unified_extractor import presets
from unified_extractor.analysis import cost
from unified_extractor.profiling.cost import saved_activation_bytes
from unified_extractor.spec import Generator, Projection

PLAIN = Projection()
SPECS = {
    "involution": presets.involution(3, 4, 2),
    "deformable convolution": presets.deformable_convolution(2),
    "unified": replace(presets.unified(3, 4, view=3), generator=Generator(view=3)),
    "attention": replace(presets.local_attention(3, heads=2), projection=PLAIN),
    "regions": replace(presets.contmix(3, 1, 2, regions=2), projection=PLAIN),
    "ddf": presets.ddf(reduction=2),
    "ddf, added": presets.ddf(combine="add", reduction=2),
    "fold": replace(presets.outlook_attention(3, heads=2), projection=PLAIN),
    "carafe": presets.carafe(hidden_channels=4),
    "condconv": presets.conditional_convolution(bias=True),
}


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", SPECS)
def test_kernels_and_offsets_come_from_the_guide_and_samples_from_the_image(name):
    """The output is linear in the image, with the kernels of the guide: what an image of its own gives, whose guide it is, tells which."""
    torch.manual_seed(0)
    layer = layer_of(SPECS[name], 8).eval()
    x, other, guide = normal(2, 8, 6, 7), normal(2, 8, 6, 7), normal(2, 8, 6, 7)
    with torch.no_grad():
        if layer.bias is not None:
            layer.bias.zero_()
        torch.testing.assert_close(layer(x, x), layer(x))
        torch.testing.assert_close(layer(2 * x - 3 * other, guide), 2 * layer(x, guide) - 3 * layer(other, guide))
        torch.testing.assert_close(layer(guide, guide), layer(guide))
    y = layer(x, guide)
    assert not torch.allclose(y, layer(x))
    gradients = torch.autograd.grad(y.square().sum(), [x, guide, *layer.parameters()], allow_unused=True)
    assert gradients[0].any()
    assert gradients[1].any()


@pytest.mark.parametrize("stride", [1, 2])
def test_an_involution_of_a_guide_with_other_channels_is_its_formula(stride):
    spec = replace(presets.involution(3, 2), generator=Generator())
    torch.manual_seed(0)
    layer = ux.UnifiedExtractor2d(4, 4, spec, stride, guide_channels=3).double()
    guide = normal(2, 3, 6, 4)

    def formula(x):
        pooled = F.avg_pool2d(guide, stride)
        kernel = F.conv2d(pooled, layer.kernel.head.weight, layer.kernel.head.bias).view(2, 2, 1, 9, -1)
        columns = F.unfold(x, 3, padding=1, stride=stride).view(2, 2, 2, 9, -1)
        return (kernel * columns).sum(3).view(2, 4, 6 // stride, 4 // stride)

    class Guided(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer
            self.guide = torch.nn.Parameter(guide)

        def forward(self, x):
            return self.layer(x, self.guide)

    guided = Guided()
    guide = guided.guide
    assert_equal(guided, formula, torch.randn(2, 4, 6, 4))


@pytest.mark.parametrize("factors", [2, (2, 1)])
def test_joint_upsampling_has_a_kernel_of_the_guides_own_pixel_at_every_output(factors):
    spec = replace(presets.carafe(factors, 3), generator=Generator(guide="output"))
    layer = ux.UnifiedExtractor2d(4, 4, spec, guide_channels=3).double()
    rows, columns = (factors, factors) if isinstance(factors, int) else factors
    x, guide = normal(2, 4, 3, 5), normal(2, 3, 3 * rows, 5 * columns)
    kernel = F.conv2d(guide, layer.kernel.head.weight, layer.kernel.head.bias).softmax(1)
    windows = F.unfold(x, 3, padding=1).view(2, 4, 9, 3, 5).repeat_interleave(rows, 3).repeat_interleave(columns, 4)
    torch.testing.assert_close(layer(x, guide), (kernel.unsqueeze(1) * windows).sum(2))
    with pytest.raises(ValueError, match="needs a guide"):
        layer(x)
    with pytest.raises(ValueError, match=r"guide must have shape \[2, 3, "):
        layer(x, guide[:, :, :3, :5])


@pytest.mark.parametrize("guide", ["image", "output"])
def test_the_cost_counts_the_generator_of_the_guide(guide):
    spec = replace(presets.carafe(2, 3), generator=Generator(guide=guide))
    layer = ux.UnifiedExtractor2d(4, 4, spec, guide_channels=6)
    counted = cost(layer, (4, 5, 7))
    outputs = 9 * 140 * 6 if guide == "output" else 4 * 9 * 35 * 6
    assert counted.multiply_adds_by_part["generator"] == outputs
    assert counted.multiply_adds_by_part["operator"] == 9 * 4 * 140
    assert saved_activation_bytes(layer, (4, 5, 7)) > 0
    attention = ux.UnifiedExtractor2d(4, 4, SPECS["attention"], guide_channels=6)
    assert cost(attention, (4, 5, 7)).multiply_adds_by_part["generator"] == 2 * 36 * 35 + 9 * 6 * 35


def test_programs_of_a_layer_with_a_guide_equal_the_layer():
    layer = ux.UnifiedExtractor2d(4, 4, SPECS["involution"], guide_channels=3).double().eval()
    x, guide = (normal(2, channels, 6, 7).detach() for channels in (4, 3))
    expected = layer(x, guide)
    exported = torch.export.export(layer, (x, guide)).module()
    torch.testing.assert_close(exported(x, guide), expected)

    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, guide):
            return self.layer(x, guide)

    torch.testing.assert_close(torch.fx.symbolic_trace(Pair())(x, guide), expected)
    mapped = torch.func.vmap(lambda x, guide: layer(x[None], guide[None])[0])(x, guide)
    torch.testing.assert_close(mapped, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(x.float(), guide.float()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec": presets.convolution(), "guide_channels": 4}, "guide_channels=4 needs something that is computed from a guide"),
        ({"spec": SPECS["involution"], "guide_channels": 0}, "guide_channels must be an int of at least 1, got 0"),
        ({"spec": SPECS["attention"], "guide_channels": 3}, "groups=2, guide_channels // dynamic_kernel.query_reduction=3"),
        ({"spec": SPECS["regions"], "guide_channels": 3}, "query_reduction=2, guide_channels=3"),
    ],
)
def test_a_guide_that_a_layer_cannot_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ux.UnifiedExtractor2d(8, 8, **options)


X = torch.zeros(2, 8, 6, 7)


@pytest.mark.parametrize(
    ("guide", "error", "message"),
    [
        (
            None,
            ValueError,
            "needs a guide in a layer with other guide_channels than in_channels .* guide_channels=3, in_channels=8",
        ),
        (torch.zeros(2, 8, 6, 7), ValueError, r"guide must have shape \[2, 3, 6, 7\], got \[2, 8, 6, 7\]"),
        (torch.zeros(1, 3, 6, 7), ValueError, r"guide must have shape \[2, 3, 6, 7\], got \[1, 3, 6, 7\]"),
        (torch.zeros(3, 6, 7), ValueError, r"guide must be \[B, C, H, W\]"),
        (torch.zeros(2, 3, 6, 7).double(), TypeError, "guide must have the dtype of x, torch.float32, got torch.float64"),
        ([1.0], TypeError, "guide must be a tensor"),
    ],
)
def test_a_guide_that_does_not_fit_is_named(guide, error, message):
    layer = ux.UnifiedExtractor2d(8, 8, SPECS["involution"], guide_channels=3)
    with pytest.raises(error, match=message):
        layer(X, guide)


def test_a_layer_that_computes_nothing_from_a_guide_refuses_one():
    with pytest.raises(ValueError, match=r"guide needs something that is computed from it, got dynamic_kernel\.source='none'"):
        ux.UnifiedExtractor2d(8, 8, presets.convolution())(X, X)


def test_a_layer_with_a_guide_prints_as_the_call_that_makes_it_and_starts_anew():
    layer = ux.UnifiedExtractor2d(8, 8, SPECS["involution"], guide_channels=3)
    assert repr(layer).endswith("guide_channels=3)")
    before = layer.kernel.head.weight.clone()
    layer.reset_parameters()
    assert not torch.equal(layer.kernel.head.weight, before)


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (SPECS["involution"], (9, 10)),
        (SPECS["deformable convolution"], (9, 10)),
        (SPECS["fold"], (9, 10)),
        (presets.neighborhood_attention(5, 2), (3, 7)),
    ],
)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_a_layer_in_a_convolutions_place_has_the_guide_at_the_places_of_the_image(spec, size, padding_mode):
    """Under every border that it puts around an image: a guide that is the image itself changes nothing, another is linear in the image."""
    torch.manual_seed(0)
    options = {"margin": (1, 0), "padding_mode": padding_mode}
    plain = ux.ExtractorConv2d(8, 6, spec, 2, **options).double().eval()
    x, other, guide = normal(2, 8, *size), normal(2, 8, *size), normal(2, 4, *size)
    torch.testing.assert_close(plain(x, x), plain(x))
    layer = ux.ExtractorConv2d(8, 6, replace(spec, projection=PLAIN), 2, **options, guide_channels=4).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(layer(2 * x - other, guide), 2 * layer(x, guide) - layer(other, guide))
    assert "guide_channels=4" in repr(layer)
    assert cost(layer, (8, *size)).multiply_adds > 0
    with pytest.raises(ValueError, match=rf"guide must have shape \[2, 4, {size[0]}, {size[1]}\], got \[2, 4, {size[0] - 1}, "):
        layer(x, guide[:, :, 1:])


def test_no_convolution_is_replaced_by_a_layer_that_needs_a_guide():
    joint = replace(presets.carafe(2, 3), generator=Generator(guide="output"))
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3))
    for refused in (lambda: ux.replace_convolutions(network, joint), lambda: ux.ExtractorConv2d(4, 4, joint)):
        with pytest.raises(ValueError, match=r"generator\.guide='output' and spec\.upsample are .* got upsample=2"):
            refused()
