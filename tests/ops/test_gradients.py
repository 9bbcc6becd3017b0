"""First and second derivatives of every mode against finite differences, in float64."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import unified_extractor as ux

SHAPES = {
    "x": (1, 2, 3, 4),
    "dense": (3, 2, 2, 2),
    "square": (2, 2, 2, 2),
    "depthwise": (2, 1, 2, 2),
    "depthwise_terms": (2, 2, 1, 2, 2),
    "dense_terms": (2, 3, 2, 2, 2),
    "gates": (1, 2, 1, 1, 2, 3),
    "kernels": (1, 2, 2, 4, 2, 3),
    "gates_per_image": (1, 2, 1, 1, 1, 1),
    "shared": (1, 1, 4, 2, 3),
    "per_channel": (1, 2, 4, 2, 3),
    "per_image": (1, 2, 4, 1, 1),
    "fold": (1, 2, 4, 4, 2, 3),
    "offsets": (1, 2, 4, 2, 2, 3),
    "shared_offsets": (1, 1, 4, 2, 1, 1),
    "fine": (1, 2, 4, 4, 3),
    "fine_row": (1, 1, 4, 1, 6),
    "fine_offsets": (1, 1, 4, 2, 4, 3),
    "bias": (2,),
    "per_channel_and_image": (1, 2, 4),
}
MODES = {
    "window sum": ({}, {}),
    "gather": ({"dynamic_kernel": "shared", "bias": "bias"}, {}),
    "gather per image": ({"dynamic_kernel": "per_image"}, {}),
    "dense": ({"static_kernel": "dense"}, {}),
    "depthwise": ({"static_kernel": "depthwise", "bias": "bias"}, {}),
    "dense times generated": ({"static_kernel": "dense", "dynamic_kernel": "per_channel"}, {}),
    "depthwise times generated": ({"static_kernel": "depthwise", "dynamic_kernel": "shared"}, {}),
    "add": ({"static_kernel": "depthwise", "dynamic_kernel": "shared"}, {"combine": "add"}),
    "add dense": ({"static_kernel": "square", "dynamic_kernel": "shared"}, {"combine": "add"}),
    "residual": ({"static_kernel": "depthwise", "dynamic_kernel": "per_channel"}, {"combine": "residual"}),
    "residual dense": ({"static_kernel": "dense", "dynamic_kernel": "shared"}, {"combine": "residual"}),
    "terms": ({"static_kernel": "depthwise_terms", "dynamic_kernel": "gates", "bias": "bias"}, {}),
    "terms, a value a tap, offsets": (
        {"static_kernel": "depthwise_terms", "dynamic_kernel": "kernels", "offsets": "offsets"},
        {},
    ),
    "terms, dense": ({"static_kernel": "dense_terms", "dynamic_kernel": "gates"}, {}),
    "terms, dense, per image": ({"static_kernel": "dense_terms", "dynamic_kernel": "gates_per_image"}, {}),
    "channel kernel": ({"dynamic_kernel": "shared", "channel_kernel": "per_channel_and_image", "bias": "bias"}, {}),
    "channel kernel, dense, residual": (
        {"static_kernel": "dense", "dynamic_kernel": "shared", "channel_kernel": "per_channel_and_image"},
        {"combine": "residual"},
    ),
    "channel kernel, fold": ({"dynamic_kernel": "fold", "channel_kernel": "per_channel_and_image"}, {"aggregation": "fold"}),
    "offsets": ({"offsets": "offsets"}, {}),
    "offsets, dense": ({"offsets": "offsets", "static_kernel": "dense"}, {}),
    "offsets, generated": ({"offsets": "shared_offsets", "dynamic_kernel": "per_channel"}, {}),
    "offsets, depthwise, add": (
        {"offsets": "offsets", "static_kernel": "depthwise", "dynamic_kernel": "shared"},
        {"combine": "add"},
    ),
    "upsample": ({"dynamic_kernel": "fine", "offsets": "fine_offsets", "bias": "bias"}, {"upsample": (2, 1)}),
    "upsample, a kernel a column": ({"dynamic_kernel": "fine_row", "static_kernel": "depthwise"}, {"upsample": 2}),
    "fold": ({"dynamic_kernel": "fold", "bias": "bias"}, {"aggregation": "fold"}),
    "fold without kernels": ({}, {"aggregation": "fold"}),
    "fold, depthwise": ({"dynamic_kernel": "fold", "static_kernel": "depthwise"}, {"aggregation": "fold"}),
    "fold, offsets": ({"dynamic_kernel": "fold", "offsets": "offsets"}, {"aggregation": "fold"}),
}


def leaf(name, generator):
    shape = SHAPES[name]
    if "offsets" in name:
        # A quarter to three quarters of a pixel away from any whole number: no kink within a finite difference.
        whole = torch.randint(-2, 3, shape, generator=generator)
        return (whole + 0.25 + 0.5 * torch.rand(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def call_of(mode, backend):
    """A function of positional leaves, and the leaves."""
    tensors, options = MODES[mode]
    generator = torch.Generator().manual_seed(0)
    names = ["x", *tensors]
    leaves = [leaf(name, generator) for name in ("x", *tensors.values())]

    def function(*values):
        return ux.extract(**dict(zip(names, values, strict=True)), **options, kernel_size=2, backend=backend)

    return function, leaves


@pytest.mark.sampled(4)
@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_finite_differences(mode, backend):
    function, leaves = call_of(mode, backend)
    assert gradcheck(function, leaves)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_second_gradients_equal_finite_differences(mode, backend):
    function, leaves = call_of(mode, backend)
    assert gradgradcheck(function, leaves)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("geometry", [{"padding": 1}, {"padding": 2, "dilation": 2}, {"stride": 2, "padding": "same"}])
@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_composed_fold_has_both_gradients(geometry, backend):
    """Fixed grid, no static kernel, several channels a head: where the composed form is the cheaper one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    windows = ux.extract(x.detach(), kernel_size=2, **geometry).shape[2:]
    dynamic_kernel = torch.randn(1, 1, 4, 4, *windows, generator=generator, dtype=torch.float64).requires_grad_()

    def fold(x, dynamic_kernel):
        return ux.extract(x, kernel_size=2, dynamic_kernel=dynamic_kernel, aggregation="fold", backend=backend, **geometry)

    assert gradcheck(fold, (x, dynamic_kernel))
    assert gradgradcheck(fold, (x, dynamic_kernel))


@pytest.mark.parametrize("offsets", [None, "offsets", "shared_offsets"])
def test_generalized_unfold_has_both_gradients(offsets):
    generator = torch.Generator().manual_seed(0)
    leaves = [leaf(name, generator) for name in ("x", offsets) if name]

    def function(x, offsets=None):
        return ux.generalized_unfold(x, 2, offsets=offsets)

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


def test_position_gradient_at_a_whole_number_is_the_difference_to_the_next_pixel(backend):
    """The convention of torchvision, also at exactly -1, where the value is zero and the slope is not."""
    x = torch.tensor([[[[1.0], [4.0], [9.0]]]], dtype=torch.float64)
    slopes = {-2.0: 0.0, -1.0: 1.0, 0.0: 3.0, 1.0: 5.0, 2.0: -9.0, 3.0: 0.0}
    for position, slope in slopes.items():
        offsets = torch.tensor([position, 0.0], dtype=torch.float64).reshape(1, 1, 1, 2, 1, 1).requires_grad_()
        y = ux.extract(x, kernel_size=1, offsets=offsets, stride=3, backend=backend)
        assert torch.autograd.grad(y.sum(), offsets)[0][0, 0, 0, 0].item() == slope
