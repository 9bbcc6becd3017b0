"""Where the formula is a known operator, it equals that operator: F.unfold, F.fold, F.conv2d, pooling, deform_conv2d."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

import unified_extractor as ux
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.oracles import output_size
from tests.support.plain_torch import normal

GEOMETRIES = [
    {"kernel_size": (3, 3), "stride": 1, "padding": 1, "dilation": 1},
    {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2), "dilation": (2, 1)},
    {"kernel_size": (4, 1), "stride": 3, "padding": 2, "dilation": 1},
    {"kernel_size": (3, 3), "stride": 2, "padding": 2, "dilation": 2},
    {"kernel_size": (1, 1), "stride": 2, "padding": 0, "dilation": 3},
]
SIZE = (7, 6)

pytestmark = pytest.mark.parametrize(
    "geometry", GEOMETRIES, ids=lambda g: "k{kernel_size}s{stride}p{padding}d{dilation}".format(**g)
)


def test_unfold_without_offsets_is_torch_unfold(geometry):
    def expected(x):
        out = output_size(x.shape[2:], **geometry)
        return F.unfold(x, **geometry).unflatten(1, (x.shape[1], -1)).unflatten(-1, out)

    call = {"x": normal(2, 3, *SIZE)}
    assert_same(values_and_gradients(lambda x: ux.generalized_unfold(x, **geometry), call), values_and_gradients(expected, call))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("outputs", "groups"), [(5, 1), (4, 2), (12, 4), (4, 4), (8, 4)])
def test_a_static_kernel_and_no_other_is_a_convolution(geometry, outputs, groups, backend):
    call = {
        "x": normal(2, 4, *SIZE),
        "static_kernel": normal(outputs, 4 // groups, *geometry["kernel_size"]),
        "bias": normal(outputs),
    }

    def convolution(x, static_kernel, bias):
        rest = {name: value for name, value in geometry.items() if name != "kernel_size"}
        return F.conv2d(x, static_kernel, bias, groups=groups, **rest)

    def ours(**tensors):
        return ux.extract(**tensors, **geometry, backend=backend)

    assert_same(values_and_gradients(ours, call), values_and_gradients(convolution, call))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("offset_groups", [1, 2, 4])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("spread", [0.0, 1.7, "whole"])
def test_offsets_and_mask_are_torchvision_deform_conv2d(geometry, offset_groups, groups, masked, spread, backend):
    out, taps = output_size(SIZE, **geometry), geometry["kernel_size"][0] * geometry["kernel_size"][1]
    offsets = normal(2, offset_groups, taps, 2, *out, seed=1)
    call = {
        "x": normal(2, 4, *SIZE),
        "static_kernel": normal(6, 4 // groups, *geometry["kernel_size"], seed=2),
        "bias": normal(6, seed=3),
        "offsets": (2 * offsets).round() if spread == "whole" else spread * offsets,
    }
    if masked:
        call["dynamic_kernel"] = normal(2, offset_groups, taps, *out, seed=4)

    def expected(x, static_kernel, bias, offsets, dynamic_kernel=None):
        mask = None if dynamic_kernel is None else dynamic_kernel.flatten(1, 2)
        rest = {name: value for name, value in geometry.items() if name != "kernel_size"}
        return deform_conv2d(x, offsets.flatten(1, 3), static_kernel, bias, mask=mask, **rest)

    def ours(**tensors):
        return ux.extract(**tensors, **geometry, backend=backend)

    assert_same(values_and_gradients(ours, call), values_and_gradients(expected, call))


def test_window_sum_is_average_pooling_times_the_window(geometry, backend):
    if geometry["dilation"] != 1 or geometry["padding"] == 2:
        geometry = geometry | {"dilation": 1, "padding": 0}
    kh, kw = geometry["kernel_size"]
    call = {"x": normal(2, 3, *SIZE)}

    def expected(x):
        return kh * kw * F.avg_pool2d(x, (kh, kw), geometry["stride"], geometry["padding"])

    actual = values_and_gradients(lambda x: ux.extract(x, **geometry, backend=backend), call)
    assert_same(actual, values_and_gradients(expected, call))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kernel", ["identity", "ones", "absent"])
def test_fold_of_the_unfolded_windows_is_torch_fold(geometry, kernel, backend):
    """D the identity returns each tap to its place; D all ones, or absent, puts the window's sum at each of its places."""
    taps = geometry["kernel_size"][0] * geometry["kernel_size"][1]
    matrix = torch.eye(taps, dtype=torch.float64) if kernel == "identity" else torch.ones(taps, taps, dtype=torch.float64)

    def ours(x):
        dynamic_kernel = None if kernel == "absent" else matrix.expand(2, 1, -1, -1)[..., None, None]
        return ux.extract(x, **geometry, dynamic_kernel=dynamic_kernel, aggregation="fold", backend=backend)

    def expected(x):
        columns = F.unfold(x, **geometry).unflatten(1, (x.shape[1], -1))
        columns = torch.einsum("ik,bckp->bcip", matrix, columns)
        return F.fold(columns.flatten(1, 2), x.shape[2:], **geometry)

    call = {"x": normal(2, 3, *SIZE)}
    assert_same(values_and_gradients(ours, call), values_and_gradients(expected, call))


def test_fold_with_a_generated_kernel_is_unfold_matmul_fold(geometry, backend):
    out, taps = output_size(SIZE, **geometry), geometry["kernel_size"][0] * geometry["kernel_size"][1]
    call = {"x": normal(2, 4, *SIZE), "dynamic_kernel": normal(2, 2, taps, taps, *out), "bias": normal(4)}

    def ours(**tensors):
        return ux.extract(**tensors, **geometry, aggregation="fold", backend=backend)

    def expected(x, dynamic_kernel, bias):
        columns = F.unfold(x, **geometry).unflatten(1, (2, 2, taps))
        columns = torch.einsum("bgikp,bgckp->bgcip", dynamic_kernel.flatten(4), columns)
        return F.fold(columns.flatten(1, 3), x.shape[2:], **geometry) + bias[:, None, None]

    assert_same(values_and_gradients(ours, call), values_and_gradients(expected, call))
