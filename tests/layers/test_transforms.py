"""Layers under function transforms: per-sample gradients, ensembles, Jacobians and forward mode, for every preset."""

import copy

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vmap

import unified_extractor as ux
from tests.support.families import SMALL
from tests.support.presets import PRESETS

CHANNELS = 16


def layer_of(name, stride=1, seed=0):
    """Return a layer in double precision with no parameter at zero, and images."""
    torch.manual_seed(seed)
    layer = ux.UnifiedExtractor2d(CHANNELS, CHANNELS, PRESETS[name], stride).double().eval()
    for parameter in layer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return layer, torch.randn(3, CHANNELS, 8, 9, dtype=torch.float64)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", PRESETS)
def test_per_sample_gradients_equal_those_of_single_images(name, stride):
    layer, x = layer_of(name, stride)
    state = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    parameters = {key: value.detach() for key, value in layer.named_parameters()}

    def loss(parameters, image):
        return functional_call(layer, {**state, **parameters}, image[None]).square().sum()

    close(vmap(lambda image: layer(image[None])[0])(x), layer(x))
    found = vmap(grad(loss), (None, 0))(parameters, x)
    for i, image in enumerate(x):
        expected = torch.autograd.grad(layer(image[None]).square().sum(), list(layer.parameters()))
        close([found[key][i] for key in parameters], list(expected))


@pytest.mark.parametrize("name", PRESETS)
def test_an_ensemble_of_stacked_parameters_equals_its_members(name):
    members = [layer_of(name, seed=seed)[0] for seed in range(3)]
    _, x = layer_of(name)
    parameters, buffers = stack_module_state(members)
    skeleton = copy.deepcopy(members[0]).to("meta")

    def member(parameters, buffers, x):
        return functional_call(skeleton, (parameters, buffers), (x,))

    expected = [layer(x) for layer in members]
    close(vmap(member, (0, 0, None))(parameters, buffers, x), torch.stack(expected))
    images = torch.stack([x, 2 * x, -x])
    close(vmap(member)(parameters, buffers, images)[2], members[2](images[2]))


@pytest.mark.parametrize("name", PRESETS)
def test_jacobians_and_forward_mode_equal_reverse_mode(name):
    layer, x = layer_of(name)
    x, v = x[:1, :, :3, :4].contiguous(), torch.randn(1, CHANNELS, 3, 4, dtype=torch.float64)
    if layer.spec.offsets.kind == "window_shift":
        x, v = (torch.nn.functional.pad(t, (0, 3, 0, 4)) for t in (x, v))
    y, expected = torch.autograd.functional.jvp(layer, x, v)
    close(jvp(layer, (x,), (v,)), (y, expected))
    with forward_ad.dual_level():
        close(forward_ad.unpack_dual(layer(forward_ad.make_dual(x, v))).tangent, expected)
    few = slice(0, 5)  # of the outputs; of the inputs a line through x
    rows = torch.stack([torch.autograd.functional.vjp(lambda x, i=i: layer(x).flatten()[i], x)[1] for i in range(5)])
    close(jacrev(lambda x: layer(x).flatten()[few])(x), rows)
    close(torch.autograd.functional.jacobian(lambda x: layer(x).flatten()[few], x, vectorize=True), rows)
    close(jacfwd(lambda t: layer(x + t * v).flatten())(torch.zeros((), dtype=x.dtype)), expected.flatten())


@pytest.mark.sampled(3)
@pytest.mark.parametrize("family", SMALL)
def test_networks_map_over_images_and_differentiate_forward(family):
    network, x = SMALL[family](10).double().eval(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        close(vmap(lambda image: network(image[None])[0])(x), network(x))
        slope = (network(x + 1e-6 * x) - network(x - 1e-6 * x)) / 2e-6
    _, tangent = jvp(network, (x,), (x,))
    torch.testing.assert_close(tangent, slope, rtol=1e-5, atol=1e-7)
