"""Gradients of gradients where kernel and offsets come from the image itself, as in every layer."""

import pytest
import torch

from tests.support.double_backward import COMPUTATIONS, own_kernel


@pytest.fixture
def x():
    return torch.randn(1, 16, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("compute", COMPUTATIONS)
def test_a_gradient_kept_for_differentiation_is_the_same_gradient(compute, x, backend):
    loss = compute(x, backend).pow(3).sum()
    (plain,) = torch.autograd.grad(loss, x, retain_graph=True)
    (kept,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.testing.assert_close(kept.detach(), plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("compute", COMPUTATIONS)
def test_second_derivatives_equal_those_of_the_reference(compute, x, backend):
    def second(backend):
        (first,) = torch.autograd.grad(compute(x, backend).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), x)[0]

    expected = second("reference")
    torch.testing.assert_close(second(backend), expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


def test_a_hook_on_the_image_runs_once(x, backend):
    calls = []
    x.register_hook(lambda gradient: calls.append(1))
    torch.autograd.grad(own_kernel(x, backend).sum(), x, create_graph=True)
    assert len(calls) == 1
