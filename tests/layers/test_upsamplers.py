"""Layers whose output is finer than the image: the published ones by their papers, and what holds for all of them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

import unified_extractor as ux
from tests.support.exported import assert_one_program_serves_a_range
from tests.support.preset_formulas import assert_equal, layer_of
from tests.support.presets import UPSAMPLERS
from unified_extractor import *  # noqa: F403  (the names a printed layer uses)
from unified_extractor import UnifiedExtractor2d
from unified_extractor.layers.placed import placed_extractor
from unified_extractor.ops.upsampling import fine_values
from unified_extractor.visualize.window_values import read_window

CHANNELS = 16


def factors_of(spec):
    return spec.upsample if isinstance(spec.upsample, tuple) else (spec.upsample, spec.upsample)


def with_random_parameters(name):
    """A layer that has no parameter at zero."""
    torch.manual_seed(0)
    layer = UnifiedExtractor2d(CHANNELS, CHANNELS, UPSAMPLERS[name])
    for parameter in layer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return layer.eval()


@pytest.fixture(params=UPSAMPLERS)
def name(request):
    return request.param


def test_values_of_sub_positions_are_in_the_order_of_a_pixel_shuffle():
    x = torch.randn(2, 18, 4, 5)
    assert torch.equal(fine_values(x, (3, 3)), F.pixel_shuffle(x, 3))
    assert torch.equal(fine_values(x, (1, 1)), x)
    fine = fine_values(x, (2, 3))
    assert torch.equal(fine[:, 1, 1::2, 2::3], x[:, 6 + 3 * 1 + 2])


@pytest.mark.parametrize(
    ("scale", "kernel_size", "groups", "view", "size"), [(2, 5, 1, 3, (6, 5)), (3, 3, 4, 1, (4, 7)), (4, 3, 2, 5, (1, 1))]
)
def test_carafe_is_the_formula_of_its_paper(scale, kernel_size, groups, view, size):
    """Compress, encode, pixel shuffle, softmax; the window of the nearest pixel, times the kernel (Wang et al. 2019, section 3)."""
    layer = layer_of(ux.presets.carafe(scale, kernel_size, groups, view, hidden_channels=5), 8)
    compress, encode = layer.feature.reduce.conv, layer.kernel.head

    def formula(x):
        hidden = F.conv2d(x, compress.weight, compress.bias)
        kernels = F.pixel_shuffle(F.conv2d(hidden, encode.weight, encode.bias, padding=view // 2), scale)
        kernels = kernels.unflatten(1, (groups, 1, kernel_size**2)).softmax(3)
        windows = F.unfold(x, kernel_size, padding=kernel_size // 2).unflatten(2, x.shape[2:])
        windows = F.interpolate(windows, scale_factor=scale, mode="nearest").unflatten(1, (groups, -1, kernel_size**2))
        return (windows * kernels).sum(3).flatten(1, 2)

    assert_equal(layer, formula, torch.randn(2, 8, *size))


@pytest.mark.parametrize(
    ("scale", "groups", "style", "dyscope", "size"),
    [(2, 4, "lp", False, (5, 6)), (3, 1, "lp", True, (4, 3)), (2, 2, "pl", True, (3, 7)), (2, 8, "pl", False, (1, 2))],
)
def test_dysample_is_the_formula_of_its_paper(scale, groups, style, dyscope, size):
    """A grid of the outputs' places plus offsets, sampled with repeated borders (Liu et al. 2023, section 3)."""
    layer = layer_of(ux.presets.dysample(scale, groups, style, dyscope), 8)

    def field(x, convolution):
        values = F.conv2d(F.pixel_shuffle(x, scale) if style == "pl" else x, convolution.weight, convolution.bias)
        return values if style == "pl" else F.pixel_shuffle(values, scale)

    def formula(x):
        offsets = 0.25 * field(x, layer.offsets.head)
        if dyscope:
            offsets = 2 * offsets * field(x, layer.offsets.gate).sigmoid()
        height, width = x.shape[2:]
        rows, columns = ((torch.arange(n * scale, dtype=x.dtype) + 0.5) / scale - 0.5 for n in (height, width))
        offsets = offsets.unflatten(1, (groups, 2)).flatten(0, 1)
        rows, columns = rows[:, None] + offsets[:, 0], columns + offsets[:, 1]
        grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], -1)
        images = x.unflatten(1, (groups, -1)).flatten(0, 1)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False).unflatten(0, (-1, groups)).flatten(1, 2)

    assert_equal(layer, formula, 2 * torch.randn(2, 8, *size))


def test_dysample_starts_as_bilinear_interpolation():
    layer, x = UnifiedExtractor2d(8, 8, ux.presets.dysample((3, 2), dyscope=True)), torch.randn(2, 8, 5, 4)
    torch.testing.assert_close(layer(x), F.interpolate(x, scale_factor=(3, 2), mode="bilinear"))
    assert not layer.offsets.gate.weight.any()  # as published: every offset is halved at first


def test_bounded_offsets_repeat_the_border_around_the_image():
    """With random offsets far beyond it: every tap reads the nearest pixel of the image."""
    spec = ux.ExtractorSpec(
        static_kernel=ux.StaticKernel(channels="depthwise"), offsets=ux.Offsets(kind="learned", bound="image"), dilation=2
    )
    layer, x = layer_of(spec, 4), torch.randn(2, 4, 6, 5, dtype=torch.float64)
    torch.nn.init.zeros_(layer.offsets.head.weight)
    torch.nn.init.zeros_(layer.offsets.head.bias)
    expected = F.conv2d(F.pad(x, (2, 2, 2, 2), mode="replicate"), layer.static_kernel, dilation=2, groups=4)
    torch.testing.assert_close(layer(x), expected)
    of_image = UnifiedExtractor2d(4, 4, dataclasses.replace(spec, generator=Generator(view="global"))).double()  # noqa: F405
    of_image.load_state_dict(layer.state_dict())
    torch.testing.assert_close(of_image(x), expected)
    torch.nn.init.constant_(layer.offsets.head.bias, 1e4)
    expected = layer.static_kernel.sum((2, 3)).view(4, 1, 1) * x[:, :, -1:, -1:].expand_as(x)
    torch.testing.assert_close(layer(x), expected)


def test_a_constant_of_the_official_state_is_checked_and_not_needed():
    layer = ux.interop.official_layer("dysample", in_channels=8, groups=2)
    weight, bias = torch.randn(16, 8, 1, 1), torch.randn(16)
    state = {"offset.weight": weight, "offset.bias": bias}
    places = torch.tensor([-0.25, 0.25])
    x_first = torch.stack([places.expand(2, 2, 2), places[:, None].expand(2, 2, 2)])
    ux.interop.load_official(layer, state, "dysample")
    ux.interop.load_official(layer, state | {"init_pos": x_first.reshape(1, 16, 1, 1)}, "dysample")
    torch.testing.assert_close(layer.offsets.head.bias, bias.view(2, 2, 4).flip(0).transpose(0, 1).flatten())
    with pytest.raises(ValueError, match=r"state_dict\['init_pos'\] is a constant that is not that of a module with this spec"):
        ux.interop.load_official(layer, state | {"init_pos": -x_first.reshape(1, 16, 1, 1)}, "dysample")


@pytest.mark.parametrize("factors", [2, (1, 3), (4, 2)])
def test_learned_offsets_start_at_bilinear_upsampling(factors):
    """Inside the image: at the border interpolation repeats pixels, and samples meet zeros."""
    spec = ux.ExtractorSpec(
        kernel_size=1, static_kernel=ux.StaticKernel(channels="depthwise"), offsets=ux.Offsets(kind="learned"), upsample=factors
    )
    layer = UnifiedExtractor2d(4, 4, spec).double()
    torch.nn.init.ones_(layer.static_kernel)
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    inside = (..., slice(4, -4), slice(3, -3))
    expected = F.interpolate(x, scale_factor=factors_of(spec), mode="bilinear")
    torch.testing.assert_close(layer(x)[inside], expected[inside], rtol=0, atol=1e-12)


def test_the_map_grows_also_from_one_pixel_and_for_an_empty_batch(name):
    layer = with_random_parameters(name)
    factors = factors_of(layer.spec)
    assert (layer.downsampling, layer.upsampling) == (1, layer.spec.upsample)
    for batch, *size in ((2, 5, 6), (1, 1, 1), (0, 4, 3)):
        y = layer(torch.randn(batch, CHANNELS, *size))
        assert y.shape == (batch, CHANNELS, *(n * s for n, s in zip(size, factors, strict=True)))
    assert repr(eval(repr(layer))) == repr(layer)


def test_it_is_the_operator_on_what_it_generates(name):
    layer = with_random_parameters(name).double()
    x = torch.randn(2, CHANNELS, 5, 4, dtype=torch.float64)
    offsets, kernel = layer.generate(x)
    spec, interleaved = layer.spec, layer.spec.dynamic_kernel.channel_order == "interleaved"
    y = ux.extract(
        F.channel_shuffle(x, CHANNELS // layer.kernel_groups) if interleaved else x, kernel_size=spec.kernel_size, padding="same",
        static_kernel=layer.static_kernel, dynamic_kernel=kernel, offsets=offsets, combine=spec.combine, upsample=spec.upsample,
        backend="reference",
    )  # fmt: skip
    y = F.channel_shuffle(y, layer.kernel_groups) if interleaved else y
    if spec.bias == "mixed":
        gates = kernel if spec.generator.view != "pooled" else layer.kernel(layer.feature.of_mean(x))
        y = y + torch.einsum("bmghw,mgo->bgohw", gates[:, :, :, 0], layer.bias.unflatten(1, (gates.shape[2], -1))).flatten(1, 2)
    torch.testing.assert_close(layer(x), y, rtol=1e-10, atol=1e-10)


@pytest.mark.sampled(5)
def test_one_exported_layer_serves_named_ranges_of_sizes(name):
    assert_one_program_serves_a_range(with_random_parameters(name), torch.randn(2, CHANNELS, 9, 8), 3, [(1, 3, 4), (3, 11, 6)])


def test_layouts_autocast_and_kernel_memory_change_nothing(name):
    layer, x = with_random_parameters(name), torch.randn(2, CHANNELS, 5, 6)
    expected = layer(x)
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), expected)
    layer.kernel_memory = "recompute"
    torch.testing.assert_close(layer(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    if layer.spec.offsets.bound == "image":  # positions in half precision are coarser than values
        return
    assert (y.float() - expected).abs().max() < 20 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


def test_per_sample_gradients_equal_those_of_single_images(name):
    layer, x = with_random_parameters(name).double(), torch.randn(2, CHANNELS, 3, 4, dtype=torch.float64)
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())

    def loss(parameters, image):
        return functional_call(layer, {**buffers, **parameters}, image[None]).square().sum()

    found = vmap(grad(loss), (None, 0))({key: value.detach() for key, value in parameters.items()}, x)
    for i, image in enumerate(x):
        expected = torch.autograd.grad(layer(image[None]).square().sum(), list(parameters.values()))
        for key, value in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[key][i], value, rtol=1e-9, atol=1e-9)


def test_the_cost_is_that_of_the_fine_grid():
    """Of CARAFE's paper, section 3.3: 2(C+1)Cm + 2(Cm*k*k + 1)s*s*K + 2s*s*K*C flops a pixel, without its biases."""
    cost = ux.analysis.cost(UnifiedExtractor2d(32, 32, ux.presets.carafe(2, 5, view=3, hidden_channels=16)), (32, 6, 7))
    assert cost.multiply_adds == 42 * (32 * 16 + 16 * 9 * 4 * 25 + 4 * 25 * 32)
    assert cost.multiply_adds_by_part["operator"] == 42 * 4 * 25 * 32


def test_a_window_is_read_at_the_pixel_at_which_it_sits():
    layer, x = with_random_parameters("carafe"), torch.randn(1, CHANNELS, 6, 7)
    reading = read_window(layer, x, (5, 8))
    assert reading.rows[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert reading.columns[0].tolist() == [2, 3, 4, 5, 6]
    torch.testing.assert_close(reading.weights.flatten(), layer.generate(x)[1][0, 0, :, 5, 8])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UnifiedExtractor2d(8, 8, ux.presets.carafe(), 2), "spec.upsample=2 needs stride=1, got stride=2"),
        (lambda: placed_extractor(8, 8, ux.presets.carafe((1, 2))), r"spec.upsample must be 1 .* got upsample=\(1, 2\)"),
        (lambda: ux.ExtractorConv2d(8, 8, ux.presets.carafe()), "spec.upsample must be 1"),
        (
            lambda: UnifiedExtractor2d(6, 6, ux.presets.dysample(2, 2, "pl")),
            "needs in_channels that the outputs of a pixel divide",
        ),
        (lambda: ux.interop.official_layer("carafe", channels=8, scale_factor=2, up_kernel=4), "up_kernel must be odd"),
    ],
)
def test_a_place_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_dilated_encoder_of_carafe_is_not_expressed():
    with pytest.raises(NotImplementedError, match="encoder_dilation=2"):
        ux.interop.official_layer("carafe", channels=8, scale_factor=2, encoder_dilation=2)


def test_a_gather_without_dynamic_kernel_is_repeated():
    spec = dataclasses.replace(ux.presets.convolution(bias=True), upsample=(2, 3))
    layer = layer_of(spec, 4, 6)
    plain = UnifiedExtractor2d(4, 6, dataclasses.replace(spec, upsample=1)).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.interpolate(plain(x), scale_factor=(2, 3), mode="nearest"))
