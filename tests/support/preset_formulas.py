"""The comparison of a layer with a formula of the published operator, by output and every gradient."""

import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

import unified_extractor as ux
from tests.support.backends import skip_refused_calls
from unified_extractor.ops import dispatch


def layer_of(spec, in_channels, out_channels=None, stride=1):
    """A float64 layer whose every parameter is random, also those that start at zero."""
    torch.manual_seed(0)
    layer = ux.UnifiedExtractor2d(in_channels, out_channels or in_channels, spec, stride).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return layer


def assert_equal(layer, formula, x, tolerance=1e-10):
    """Output and every gradient of the layer and of a formula that uses the layer's own parameters."""
    x = x.double().requires_grad_()
    inputs = [x, *layer.parameters()]
    y, expected = layer(x), formula(x)
    cotangent = torch.randn_like(y)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    actual = [g.clone() for g in torch.autograd.grad(y, inputs, cotangent)]
    wanted = [g.clone() for g in torch.autograd.grad(expected, inputs, cotangent)]
    for gradient, reference in zip(actual, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=tolerance, atol=tolerance)


def assert_backend_equals_reference(backend, layer, monkeypatch):
    """Output and every gradient of a layer, run by one backend and by the reference."""
    skip_refused_calls(backend, monkeypatch)
    x, choose = torch.randn(2, layer.in_channels, 6, 7, dtype=torch.float64, requires_grad=True), dispatch._choose

    def results(name):
        monkeypatch.setattr(dispatch, "_choose", lambda call, _, memory: choose(call, name, memory))
        y = layer(x)
        return y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])

    for ours, reference in zip(results(backend), results("reference"), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


def deformable_formula(layer, *, offset_groups, groups, masked, stride=1, dilation=1):
    """torchvision's operator behind offset and mask convolutions, as in its documentation."""

    def formula(x):
        def head(module):
            return F.conv2d(x, module.head.weight, module.head.bias, stride, dilation, dilation)

        mask = head(layer.kernel).sigmoid() if masked else None
        options = {"stride": stride, "padding": dilation, "dilation": dilation, "mask": mask}
        return deform_conv2d(x, head(layer.offsets), layer.static_kernel, **options)

    return formula
