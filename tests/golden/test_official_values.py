"""The presets equal the official implementations: output, input gradient and every parameter gradient, in float64.

The files hold values computed by the released code of involution, VOLO and DCNv3. DCNv3 builds its sampling grid in float32, which
limits the agreement to 1e-5.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import unified_extractor as ux
from unified_extractor.interop.official import FAMILIES

FILES = sorted((Path(__file__).parent).glob("*.safetensors"))


def read(path):
    with safe_open(path, "pt") as file:
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return values, json.loads(file.metadata()["spec"])


def build(official, fused=None):
    k = official["kernel_size"]
    if official["operator"] == "involution":
        spec = ux.presets.involution(k, official["group_channels"], official["reduction"])
    elif official["operator"] == "outlook_attention":
        spec = ux.presets.outlook_attention(k, official["heads"], official["qkv_bias"])
    else:
        options = {
            name: official[name] for name in ("groups", "dilation", "offset_scale", "center_feature_scale", "remove_center")
        }
        spec = ux.presets.deformable_convolution(3, k, **options)
    layer = ux.UnifiedExtractor2d(official["channels"], official["channels"], spec, official["stride"], fused=fused).double()
    return layer.train(official["mode"] == "train")


def part(values, prefix):
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def as_ours(layer, official, values):
    """Official gradients have the names and conventions of official parameters, so they convert by the same rules."""
    rules = FAMILIES[official["operator"]].rules(layer)
    return {rule.ours: rule.convert(values[key]) for key, rule in rules if key in values}


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "stored"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_output_and_every_gradient_equal_the_official_values(path, fused):
    values, official = read(path)
    layer = build(official, fused)
    ux.interop.load_official(layer, part(values, "state."), official["operator"])
    nchw = (0, 3, 1, 2) if official["layout"] == "NHWC" else (0, 1, 2, 3)
    tolerance = dict.fromkeys(("rtol", "atol"), 1e-5 if official["operator"] == "dcnv3" else 1e-10)
    x = values["input"].permute(nchw).requires_grad_()
    y = layer(x)
    y.backward(values["grad_output"].permute(nchw))
    torch.testing.assert_close(y, values["output"].permute(nchw), **tolerance)
    torch.testing.assert_close(x.grad, values["grad_input"].permute(nchw), **tolerance)
    gradients = as_ours(layer, official, part(values, "grad."))
    assert gradients.keys() == dict(layer.named_parameters()).keys()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].view_as(parameter), **tolerance)


def test_there_are_official_values_for_every_layer():
    of_layers = {name for name, family in FAMILIES.items() if family.module is ux.UnifiedExtractor2d}
    assert {read(path)[1]["operator"] for path in FILES} == of_layers


@pytest.fixture
def involution():
    values, official = read(next(path for path in FILES if "involution" in path.stem))
    return build(official), part(values, "state.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv2.conv.bias"), r"has no 'conv2\.conv\.bias'"),
        (lambda s: s.update(extra=torch.zeros(1)), r"has 'extra'"),
        (lambda s: s.update({"conv1.conv.weight": torch.zeros(3, 3)}), r"state_dict\['conv1\.conv\.weight'\] must have shape"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_a_key_that_does_not_fit_is_named_and_nothing_is_loaded(involution, change, message):
    layer, state = involution
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        ux.interop.load_official(layer, state, "involution")
    for name, value in layer.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_family_or_module_that_does_not_fit_is_refused(involution):
    layer, state = involution
    with pytest.raises(ValueError, match="family must be one of"):
        ux.interop.load_official(layer, state, "convolution")
    with pytest.raises(TypeError, match="UnifiedExtractor2d"):
        ux.interop.load_official(torch.nn.Linear(1, 1), state, "involution")
    with pytest.raises(ValueError, match="spec is not that of an official involution"):
        ux.interop.load_official(ux.UnifiedExtractor2d(32, 32, ux.presets.convolution()), state, "involution")
