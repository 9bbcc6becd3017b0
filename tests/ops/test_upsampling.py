"""Outputs finer than the image: what the fine grid is, and what it takes."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import unified_extractor as ux
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.counting import Counted
from tests.support.plain_torch import normal


def test_a_window_of_the_fine_grid_sits_where_the_pixel_below_it_sits(backend):
    x = torch.arange(6.0, dtype=torch.float64).reshape(1, 1, 2, 3)
    y = ux.extract(x, kernel_size=1, upsample=(2, 3), backend=backend)
    assert torch.equal(y, x.repeat_interleave(2, 2).repeat_interleave(3, 3))


def test_offsets_to_the_fine_pixels_sample_bilinearly_as_interpolate_does(backend):
    x, factors = normal(2, 4, 5, 3), (2, 3)
    sizes = zip(x.shape[2:], factors, strict=True)
    starts = [((torch.arange(n * s, dtype=torch.float64) % s) - (s - 1) / 2) / s for n, s in sizes]
    offsets = torch.stack(torch.meshgrid(*starts, indexing="ij"))[None, None, None].expand(2, -1, -1, -1, -1, -1)
    y = ux.extract(x, kernel_size=1, offsets=offsets, upsample=factors, backend=backend)
    inside = (..., slice(1, -1), slice(1, -1))  # interpolate repeats the border, where a sample meets zeros
    expected = F.interpolate(x, scale_factor=factors, mode="bilinear")
    torch.testing.assert_close(y[inside], expected[inside], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", ["tensor", "linear", "attention"])
def test_an_upsampled_call_is_that_of_the_repeated_image(kernel, backend):
    """With taps as far apart as the image's pixels are in its repetition: another way to write a fine grid."""
    x, out = normal(2, 4, 3, 4), (6, 8)
    kernels = {
        "tensor": normal(2, 2, 9, *out, seed=1),
        "linear": ux.LinearKernel(normal(2, 3, *out, seed=2), normal(18, 3, seed=3), normal(18, seed=4), 0.5, "softmax"),
        "attention": ux.AttentionKernel(
            normal(2, 6, *out, seed=5), normal(2, 6, 3, 4, seed=6), 2, normal(2, 3, 3, seed=7), "none"
        ),
    }
    options = {"kernel_size": 3, "static_kernel": normal(4, 1, 3, 3, seed=8), "bias": normal(4, seed=9), "backend": backend}
    fine = kernels[kernel]
    if kernel == "attention":
        fine = fine._replace(key=fine.key.repeat_interleave(2, 2).repeat_interleave(2, 3))
    y = ux.extract(x, dynamic_kernel=kernels[kernel], padding=1, upsample=2, **options)
    repeated = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = ux.extract(repeated, dynamic_kernel=fine, padding=2, dilation=2, **options)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


def test_what_is_the_same_at_all_sub_positions_is_computed_once():
    """A convolution costs what it costs on the image; a kernel for each row, one factor of two."""
    x, static_kernel = normal(1, 4, 5, 6), normal(4, 4, 3, 3)

    def flops(**options):
        with FlopCounterMode(display=False) as counter:
            ux.extract(x, kernel_size=3, padding=1, static_kernel=static_kernel, backend="eager", **options)
        return counter.get_total_flops()

    assert flops(upsample=3) == flops()
    by_row, fine = normal(1, 2, 9, 15, 1), normal(1, 2, 9, 15, 18)
    assert flops(upsample=3, dynamic_kernel=by_row) * 3 == flops(upsample=3, dynamic_kernel=fine)


def test_the_compiled_backend_computes_all_windows_that_differ_at_once():
    pytest.importorskip("numba")
    x, options = normal(1, 4, 5, 6), {"kernel_size": 3, "padding": 1, "upsample": 3, "backend": "compiled"}
    for size, shapes in (((15, 18), [[1, 4, 15, 18]]), ((1, 18), [[1, 4, 5, 18]]), ((15, 1), [[1, 4, 15, 6]])):
        with Counted("compiled_aggregate") as counted:
            y = ux.extract(x, dynamic_kernel=normal(1, 2, 9, *size, seed=1), **options)
        assert counted.shapes == shapes
        assert y.shape[2:] == (15, 18)


def test_no_more_is_saved_than_the_arguments(backend):
    x, kernel = normal(1, 16, 8, 8).requires_grad_(), normal(1, 1, 9, 16, 16).requires_grad_()
    memory = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: memory.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) and t, lambda t: t
    ):
        ux.extract(x, kernel_size=3, padding=1, dynamic_kernel=kernel, upsample=2, backend=backend)
    if backend != "reference":
        assert sum(memory.values()) <= x.nbytes + kernel.nbytes


def test_gradients_of_views_and_of_broadcast_axes_are_those_of_the_arguments(backend):
    call = {"x": normal(2, 4, 3, 4), "dynamic_kernel": normal(1, 1, 9, 1, 8, seed=1).expand(2, -1, -1, -1, -1)}
    options = {"kernel_size": 3, "padding": 1, "upsample": 2}
    written_out = call | {"dynamic_kernel": call["dynamic_kernel"].expand(-1, -1, -1, 6, -1).contiguous()}
    actual, expected = (
        values_and_gradients(lambda **tensors: ux.extract(**tensors, **options, backend=backend), tensors)
        for tensors in (call, written_out)
    )
    expected["dynamic_kernel"] = expected["dynamic_kernel"].sum(3, keepdim=True)
    assert_same(actual, expected)
