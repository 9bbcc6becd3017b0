"""What random small calls do not reach: long images, autocast around backward, only some gradients, kernels of the whole image."""

import pytest
import torch

import unified_extractor as ux
from unified_extractor.analysis import peak_bytes


def test_pixels_beyond_two_to_the_24_are_addressed_exactly():
    x = torch.zeros(1, 1, 3, 6_000_001)
    x[0, 0, 2, 5_000_000:5_000_100] = torch.arange(100.0)
    y = ux.extract(x, kernel_size=1, offsets=torch.zeros(1, 1, 1, 2, 1, 1))
    torch.testing.assert_close(y, x, rtol=0, atol=0)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("has_offsets", [True, False])
def test_gradients_are_the_same_inside_autocast(static, has_offsets):
    x, kernel = torch.randn(2, 4, 5, 6, requires_grad=True), torch.rand(2, 2, 9, 5, 6, requires_grad=True)
    inputs = {"x": x, "dynamic_kernel": kernel}
    if static:
        inputs["static_kernel"] = torch.randn(6, 4, 3, 3, requires_grad=True)
    if has_offsets:
        inputs["offsets"] = torch.randn(2, 1, 9, 2, 5, 6, requires_grad=True)
    y = ux.extract(**inputs, kernel_size=3, padding=1)
    cotangent = torch.randn_like(y)
    outside = torch.autograd.grad(y, list(inputs.values()), cotangent, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = torch.autograd.grad(y, list(inputs.values()), cotangent)
    for ours, reference in zip(inside, outside, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=0)


def test_a_training_step_wholly_inside_autocast_works():
    layer = ux.UnifiedExtractor2d(4, 4, ux.presets.deformable_convolution(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(torch.randn(1, 4, 5, 5)).float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_the_unfold_accepts_what_extract_accepts_under_autocast():
    x, offsets = torch.randn(1, 2, 4, 4), torch.randn(1, 1, 9, 2, 4, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ux.generalized_unfold(x, 3, offsets=offsets, padding=1).dtype == torch.bfloat16


@pytest.mark.parametrize("only", ["x", "static_kernel", "dynamic_kernel", "offsets"])
def test_one_wanted_gradient_is_the_same_as_among_all(only):
    def call(**wanted):
        torch.manual_seed(0)
        tensors = {
            "x": torch.randn(2, 4, 5, 6),
            "static_kernel": torch.randn(4, 1, 3, 3),
            "dynamic_kernel": torch.randn(2, 2, 9, 5, 6),
            "offsets": torch.randn(2, 2, 9, 2, 5, 6),
        }
        for name, value in tensors.items():
            value.requires_grad_(wanted.get(name, False))
        ux.extract(**tensors, kernel_size=3, padding=1).sin().sum().backward()
        return tensors[only].grad.clone()

    together = call(**dict.fromkeys(("x", "static_kernel", "dynamic_kernel", "offsets"), True))
    torch.testing.assert_close(call(**{only: True}), together, rtol=0, atol=0)


def test_a_fold_kernel_of_the_whole_image_is_never_expanded():
    x, kernel = torch.randn(1, 16, 32, 32), torch.randn(1, 4, 9, 9, 1, 1)
    peak = peak_bytes(lambda: ux.extract(x, kernel_size=3, padding=1, dynamic_kernel=kernel, aggregation="fold"), x, kernel)
    assert peak < 6 * x.numel() * 4
