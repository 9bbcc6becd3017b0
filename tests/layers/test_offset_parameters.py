"""Offsets that are parameters, of each channel, from the center or bounded equal formulas from the papers, with every gradient."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

import unified_extractor as ux
from tests.support.backends import COMPARED
from tests.support.counting import Counted
from tests.support.exported import assert_one_program_serves_a_range
from tests.support.preset_formulas import assert_backend_equals_reference, assert_equal, layer_of
from unified_extractor.layers import extractor
from unified_extractor.ops import checks, spread_kernels
from unified_extractor.training.optimization import Optimization, parameter_groups

SHIFT = ux.ExtractorSpec(kernel_size=1, offsets=ux.Offsets(kind="parameter", channels_per_group=1))


def spread_kernel(weights, points, reach):
    """Khalfaoui-Hassani et al. 2023, section 2: the dense kernel [C, 1, 2*r_y+1, 2*r_x+1] of elements at positions between its pixels.

    weights [C, K]; points [C, K, 2], (y, x) from the center. Every element spreads to the four pixels around it, bilinearly.
    """
    points = [points[:, :, axis].clamp(-limit, limit) for axis, limit in enumerate(reach)]
    shares = [
        (1 - (p[..., None] - torch.arange(-limit, limit + 1, dtype=p.dtype)).abs()).relu()
        for p, limit in zip(points, reach, strict=True)
    ]
    return torch.einsum("ck,cky,ckx->cyx", weights, *shares)[:, None]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("taps", "extent"), [(5, (5, 7)), (12, 3), (4, (1, 9))])
def test_dcls_is_the_convolution_with_the_kernel_spread_over_its_extent(taps, extent, stride):
    """At the border too: what the spread kernel multiplies with a zero outside is what a bilinear sample leaves out."""
    layer = layer_of(ux.presets.dcls(taps, extent), 4, stride=stride)
    torch.nn.init.normal_(layer.offsets.points, std=2)  # some of them beyond the reach
    rows, columns = layer.spec.offsets.reach

    def formula(x):
        kernel = spread_kernel(layer.static_kernel.flatten(1), layer.offsets.points, (rows, columns))
        return F.conv2d(x, kernel, None, stride, (rows, columns), groups=4)

    assert_equal(layer, formula, torch.randn(2, 4, 7, 6))


def sampled(layer, x, monkeypatch):
    """Output and every gradient by bilinear samples."""
    with monkeypatch.context() as patch:
        patch.setattr(extractor, "spreading_pays", lambda *_: False)
        y = layer(x)
    return y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])


@pytest.mark.parametrize(
    ("changes", "stride"),
    [
        ({}, 1),
        ({"dilation": (2, 1), "kernel_size": (2, 3)}, (2, 1)),
        ({"kernel_size": 3, "offsets": ux.Offsets(kind="parameter", groups=2, bound="tanh", reach=(1, 2)), "bias": True}, 1),
        ({"static_kernel": ux.StaticKernel(), "upsample": (1, 2)}, 1),
        ({"kernel_size": (1, 2), "modulation": "gelu", "projection": ux.Projection(input="affine")}, 2),
    ],
)
def test_taps_at_bounded_places_are_one_convolution_with_the_values_and_gradients_of_samples(changes, stride, monkeypatch):
    """At whole pixels too, where the derivative jumps: half of the places are whole, and some beyond the bound."""
    layer = layer_of(replace(ux.presets.dcls(5, 5), **changes), 4, stride=stride)
    with torch.no_grad():
        points = layer.offsets.points.normal_(std=1.5)
        points[:, ::2] = points[:, ::2].round().clamp(-1, 0)
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    together = (y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]))
    for ours, expected in zip(together, sampled(layer, x, monkeypatch), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    with Counted("convolution") as counted:
        layer(x)
    assert counted.shapes
    assert layer(x[:0]).shape == (0, *y.shape[1:])
    assert not any(name.startswith("unified_extractor::") for name in counted.names)


def test_dcls_is_exported_as_a_convolution():
    layer = ux.UnifiedExtractor2d(4, 4, ux.presets.dcls(5, 5)).eval()
    graph = str(torch.export.export(layer, (torch.randn(1, 4, 7, 8),)).graph)
    assert "conv2d" in graph
    assert "gather" not in graph
    assert "index" not in graph


def test_dcls_starts_scattered_around_the_center_and_its_taps_stay_within_the_extent():
    layer, x = ux.UnifiedExtractor2d(64, 64, ux.presets.dcls(34, 5)), torch.randn(1, 64, 3, 3)
    assert 0.45 < layer.offsets.points.std() < 0.55
    torch.nn.init.normal_(layer.offsets.points, std=4)
    offsets, _ = layer.generate(x)
    assert offsets.shape == (1, 64, 34, 2, 1, 1)
    from_center = offsets + torch.stack([torch.zeros(34), torch.arange(34.0) - 16], 1)[:, :, None, None]
    assert from_center.abs().max() == 2


def test_an_active_shift_is_a_bilinear_sample_of_each_channel():
    """Jeon and Kim, Constructing Fast Network through Deconstruction of Convolution (2018): one tap, without a kernel."""
    layer = layer_of(SHIFT, 4)
    torch.nn.init.normal_(layer.offsets.points, std=2)

    def formula(x):
        height, width = x.shape[2:]
        rows, columns = (torch.arange(n, dtype=x.dtype) for n in (height, width))
        shifted = []
        for channel, (y, x_shift) in zip(x.unbind(1), layer.offsets.points[:, 0], strict=True):
            places = torch.stack(
                [
                    ((2 * (columns + x_shift) + 1) / width - 1).expand(height, -1),
                    ((2 * (rows + y) + 1) / height - 1)[:, None].expand(-1, width),
                ],
                -1,
            )
            shifted.append(F.grid_sample(channel[:, None], places.expand(len(x), -1, -1, -1), align_corners=False))
        return torch.cat(shifted, 1)

    assert_equal(layer, formula, torch.randn(2, 4, 5, 7))


@pytest.mark.parametrize("bound", ["tanh", "clamp"])
@pytest.mark.parametrize("kind", ["learned", "parameter"])
def test_bounded_offsets_are_those_of_torchvisions_deformable_convolution(kind, bound):
    """BasicVSR++ (Chan et al. 2022): ``max_residue_magnitude * tanh(offset)``, around every tap of the grid."""
    spec = ux.presets.deformable_convolution(1, offset_groups=2)
    offsets = ux.Offsets(kind=kind, groups=2, bound=bound, reach=(1, 2))
    spec = replace(spec, offsets=offsets, generator=spec.generator if kind == "learned" else ux.Generator())
    layer = layer_of(spec, 4, 6)

    def formula(x):
        if kind == "learned":
            offsets = F.conv2d(x, layer.offsets.head.weight, layer.offsets.head.bias, padding=1)
        else:
            offsets = layer.offsets.points.reshape(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])
        limits = torch.tensor([1.0, 2.0], dtype=x.dtype).repeat(18)[:, None, None]
        offsets = limits * offsets.tanh() if bound == "tanh" else torch.maximum(-limits, torch.minimum(offsets, limits))
        return deform_conv2d(x, offsets, layer.static_kernel, padding=1)

    assert_equal(layer, formula, torch.randn(2, 4, 6, 5))


@pytest.mark.parametrize(("heads", "points", "stride"), [(2, 4, 1), (4, 3, 2), (1, 1, 1)])
def test_deformable_attention_is_the_formula_of_its_paper_on_one_level(heads, points, stride):
    """Zhu et al. 2021, equation 2: reference points are the centers of the pixels, in [0, 1]; offsets are divided by the map's size."""
    layer = layer_of(ux.presets.deformable_attention(heads, points), 8, stride=stride)

    def linear(module, image):
        return F.conv2d(image, module.weight, module.bias).permute(0, 2, 3, 1)

    def formula(x):
        height, width = x.shape[2:]
        query = F.avg_pool2d(x, stride, ceil_mode=True)
        rows, columns = ((stride * torch.arange(n, dtype=x.dtype) + 0.5) for n in query.shape[2:])
        reference = torch.stack([(columns / width).expand(len(rows), -1), (rows / height)[:, None].expand(-1, len(columns))], -1)
        offsets = linear(layer.offsets.head, query).unflatten(3, (heads, points, 2)).flip(5)  # (x, y)
        places = reference[None, :, :, None, None] + offsets / torch.tensor([width, height], dtype=x.dtype)
        weights = linear(layer.kernel.head, query).unflatten(3, (heads, points)).softmax(4)
        values, attended = linear(layer.value, x).permute(0, 3, 1, 2).unflatten(1, (heads, -1)), []
        for h in range(heads):
            grid = 2 * places[:, :, :, h].flatten(1, 2) - 1
            sampled = F.grid_sample(values[:, h], grid, align_corners=False)
            attended.append((sampled * weights[:, :, :, h].flatten(1, 2)[:, None]).sum(3))
        return layer.projection(torch.cat(attended, 1).unflatten(2, query.shape[2:]))

    assert_equal(layer, formula, torch.randn(2, 8, 5, 7))


def test_deformable_attention_starts_as_published():
    """The points of a head on a line, the i-th at distance i, heads in all directions; equal weights."""
    layer = ux.UnifiedExtractor2d(16, 16, ux.presets.deformable_attention(8, 2))
    offsets, weights = layer.generate(torch.randn(1, 16, 4, 4))
    from_center = offsets[0, :, :, :, 2, 2] + torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    around = torch.tensor([[0, 1], [1, 1], [1, 0], [1, -1], [0, -1], [-1, -1], [-1, 0], [-1, 1]], dtype=torch.float32)
    torch.testing.assert_close(from_center, torch.stack([around, 2 * around], 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(weights, torch.full_like(weights, 0.5))
    fine = ux.ExtractorSpec(kernel_size=(1, 3), offsets=ux.Offsets(kind="learned", origin="center", groups=2), upsample=2)
    offsets, _ = ux.UnifiedExtractor2d(4, 4, fine).generate(torch.randn(1, 4, 3, 3))
    columns = offsets[0, :, :, 1].mean((2, 3)) + torch.arange(-1.0, 2)
    torch.testing.assert_close(columns, torch.tensor([[1.0, 2, 3], [-1, -2, -3]]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["learned", "parameter"])
def test_offsets_start_at_zero_from_the_grid(kind):
    spec = ux.ExtractorSpec(static_kernel=ux.StaticKernel(channels="depthwise"), offsets=ux.Offsets(kind=kind), dilation=2)
    layer, x = ux.UnifiedExtractor2d(4, 4, spec), torch.randn(2, 4, 6, 7)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.static_kernel, padding=2, dilation=2, groups=4))


def test_channels_in_groups_of_n_have_the_offsets_of_as_many_groups():
    spec = ux.presets.deformable_convolution(3, groups=2)
    by_size = replace(spec, offsets=ux.Offsets(kind="learned", channels_per_group=4))
    one, other = layer_of(spec, 8), layer_of(by_size, 8)
    assert {name: value.shape for name, value in one.state_dict().items()} == {
        name: value.shape for name, value in other.state_dict().items()
    }
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(one(x), other(x), rtol=0, atol=0)


def test_from_the_center_dilation_and_arrangement_of_the_taps_do_not_matter():
    offsets = ux.Offsets(kind="parameter", origin="center", groups=2)
    depthwise = ux.StaticKernel(channels="depthwise")
    row = ux.ExtractorSpec(kernel_size=(1, 6), offsets=offsets, static_kernel=depthwise)
    block = replace(row, kernel_size=(3, 2), dilation=(2, 1))
    one, other, x = layer_of(row, 4), layer_of(block, 4), torch.randn(2, 4, 5, 6, dtype=torch.float64)
    other.load_state_dict(one.state_dict() | {"static_kernel": one.static_kernel.view(4, 1, 3, 2)})
    torch.testing.assert_close(one(x), other(x), rtol=1e-12, atol=1e-12)


def test_scale_multiplies_offsets_from_the_center_after_their_bound():
    spec = replace(
        ux.presets.deformable_convolution(4, (1, 3)),
        offsets=ux.Offsets(kind="learned", origin="center", scale=2.0, bound="clamp", reach=1),
    )
    layer = layer_of(spec, 4)
    torch.nn.init.constant_(layer.offsets.head.bias, 9)
    torch.nn.init.zeros_(layer.offsets.head.weight)
    offsets, _ = layer.generate(torch.zeros(1, 4, 3, 3, dtype=torch.float64))
    assert offsets[0, 0, :, :, 0, 0].tolist() == [[2, 3], [2, 2], [2, 1]]


@pytest.mark.parametrize("backend", COMPARED)
def test_every_backend_has_the_same_output_and_gradients(backend, monkeypatch):
    assert_backend_equals_reference(backend, layer_of(ux.presets.dcls(5, 5), 4), monkeypatch)


def test_the_cost_counts_bilinear_samples_and_points():
    cost = ux.analysis.cost(ux.UnifiedExtractor2d(8, 8, ux.presets.dcls(5, 7)), (8, 6, 7))
    assert cost.parameters == 8 * 5 * 3
    assert cost.multiply_adds == 8 * 5 * 42 * (4 + 1)


def test_sampling_points_do_not_decay():
    network = ux.models.extractor_net(5, ux.presets.dcls(5, 5), widths=(8,), depths=(1,))
    groups = parameter_groups(network, Optimization(weight_decay=0.1))
    points = {id(p) for name, p in network.named_parameters() if name.endswith("points")}
    assert len(points) == 1
    assert points <= {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}


def test_one_exported_layer_serves_named_ranges_of_sizes():
    spec = ux.presets.dcls(4, 5)
    layer = layer_of(replace(spec, offsets=replace(spec.offsets, bound="tanh")), 8).float()
    assert_one_program_serves_a_range(layer, torch.randn(2, 8, 9, 8), 3, [(1, 3, 4), (3, 11, 6)])


def test_at_the_outermost_pixel_the_place_has_the_derivative_of_the_inner_side():
    geometry = checks.geometry(torch.empty(1, 1, 7, 7), 1, 1, 0, 1)  # a tap on its window's pixel
    offsets = torch.tensor([2.0, -2.0], dtype=torch.float64).view(1, 1, 1, 2, 1, 1)  # to row 4, column 0 of 5x5

    def spread(offsets):
        return spread_kernels.spread_kernel(None, offsets, geometry, (2, 2), 1)[0, 0]

    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[4, 0] = 1
    assert torch.equal(spread(offsets), expected)
    by_row, by_column = torch.autograd.functional.jacobian(spread, offsets).flatten(2).unbind(2)
    assert by_row.nonzero().tolist() == [[3, 0], [4, 0]]
    assert by_row[3:, 0].tolist() == [-1, 1]  # a little further up it is shared with row 3
    assert by_column[4].tolist() == [-1, 1, 0, 0, 0]
