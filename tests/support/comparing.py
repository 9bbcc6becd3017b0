"""Outputs and every gradient of a call, and their comparison."""

import torch


def values_and_gradients(function, call, seed=0):
    """{"output": y, argument: its gradient} for a random cotangent of y; gradients are fresh tensors, layouts are kept."""
    call = dict(call)
    leaves = {}
    for name, value in call.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            leaves[name] = call[name] = value.detach().requires_grad_()
    output = function(**call)
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(output.dtype)
    gradients = torch.autograd.grad(output, list(leaves.values()), cotangent)
    results = {name: gradient.detach().clone() for name, gradient in zip(leaves, gradients, strict=True)}
    return {"output": output.detach().clone()} | results


def assert_same(actual, expected, tolerance=1e-10):
    """Every result of two `values_and_gradients`, error relative to the largest magnitude or 1."""
    assert actual.keys() == expected.keys()
    for name, reference in expected.items():
        assert actual[name].shape == reference.shape, f"{name}: shape {tuple(actual[name].shape)}, not {tuple(reference.shape)}"
        assert actual[name].dtype == reference.dtype, f"{name}: {actual[name].dtype}, not {reference.dtype}"
        assert actual[name].isfinite().all(), f"{name} is not finite"
        if reference.numel():
            error = (actual[name] - reference).abs().max().item()
            assert error <= tolerance * max(1.0, reference.abs().max().item()), f"{name}: largest error {error:.3g}"


def assert_as_exact_as_plain(actual, plain, exact, dtype):
    """Largest error at most twice the plain one's, with a floor of one unit in the last place of the largest value."""
    assert actual.keys() == plain.keys() == exact.keys()
    for name, reference in exact.items():
        if not reference.numel():
            continue
        unit = torch.finfo(dtype).eps * reference.abs().max()
        allowed = 2 * (plain[name].double() - reference).abs().max() + unit
        error = (actual[name].double() - reference).abs().max()
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"
