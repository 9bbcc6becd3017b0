"""The presets equal the official implementations: output, input gradient and every parameter gradient, in float64.

The files hold values computed by the released codes, some of them of timm. DCNv3 builds its sampling grid
in float32, which limits the agreement to 1e-5.
"""

import pytest
import torch

import unified_extractor as ux
from tests.support.official_files import FILES, assert_official_values, build, part, read
from unified_extractor.interop.official import FAMILIES


@pytest.mark.parametrize("kernel_memory", ["recompute", "store"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_output_and_every_gradient_equal_the_official_values(path, kernel_memory):
    assert_official_values(path, kernel_memory)


def test_there_are_official_values_for_every_layer():
    of_layers = {name for name, family in FAMILIES.items() if family.module.__module__.startswith("unified_extractor.layers")}
    assert {read(path)[1]["operator"] for path in FILES} == of_layers


@pytest.mark.parametrize(("operator", "arguments"), [("idconv", {"num_groups": 2}), ("atconv", {"act_layer": "GELU"})])
def test_even_windows_have_the_official_padding(operator, arguments):
    layer = ux.interop.official_layer(operator, dim=8, kernel_size=4, **arguments)
    assert layer(torch.randn(2, 8, 6, 7)).shape == (2, 8, 7, 8)


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


QNA = {"in_channels": 8, "features": 8, "heads": 2, "kernel_size": 3}


@pytest.mark.parametrize(
    ("operator", "arguments", "error", "message"),
    [
        ("gnconv", {"dim": 8, "order": 3}, NotImplementedError, "order=3"),
        ("gnconv", {"dim": 8, "order": 1, "s": 0.5}, NotImplementedError, "s=0.5"),
        ("mambaout_gated_conv", {"dim": 8}, NotImplementedError, "a norm and a skip"),
        (
            "condconv",
            {"in_channels": 8, "out_channels": 8, "padding": "same", "stride": 2},
            NotImplementedError,
            "padding='same'",
        ),
        ("condconv", {"in_channels": 8, "out_channels": 8, "padding": "full"}, ValueError, "padding must be"),
        ("condconv", {"in_channels": 8, "out_channels": 8, "experts": 3}, TypeError, "no argument 'experts', did you mean num_"),
        ("condconv", {"in_channels": 8, "out_channels": 8, "stride": "a"}, TypeError, "stride must be an int or a pair"),
        ("atconv", {"dim": 8, "act_layer": "Tanh"}, NotImplementedError, "act_layer='Tanh'"),
        ("atconv", {"dim": 8, "act_layer": torch.nn.GELU, "bias": False}, NotImplementedError, "bias=False"),
        ("idconv", {"dim": 8, "num_groups": 1}, ValueError, "num_groups must be more than 1, got 1"),
        ("ddf", {"in_channels": 16, "kernel_combine": "sum"}, ValueError, "kernel_combine must be one of"),
        ("ddf", {"in_channels": 4}, ValueError, "se_ratio must leave a channel, got in_channels=4, se_ratio=0.2"),
        ("contmix", {"dim": 8, "kernel_size": 4}, ValueError, "needs an odd kernel_size, got kernel_size=4"),
        ("large_kernel_attention", {"dim": 8, "d_model": 8}, TypeError, "exactly one of dim"),
        ("qna", QNA | {"features": 12}, NotImplementedError, "features=12 differ from in_channels=8"),
        ("qna", QNA | {"padding": 2}, NotImplementedError, "padding=2 with kernel_size=3 changes the map"),
        ("qna", QNA | {"pos_embedding_type": "sine"}, NotImplementedError, "pos_embedding_type='sine'"),
        ("involutoin", {}, ValueError, "did you mean involution"),
        (["involution"], {}, ValueError, "operator must be one of"),
    ],
)
def test_an_operator_that_no_layer_equals_is_refused_with_the_reason(operator, arguments, error, message):
    with pytest.raises(error, match=message):
        ux.interop.official_layer(operator, **arguments)


@pytest.mark.parametrize("name", ["gnconv_c12_o1", "condconv_c8_o12_k3_s1_dense"])
def test_values_that_are_split_or_reshaped_load_under_prefixes_and_by_both_doors(name):
    values, official = read(next(path for path in FILES if path.stem == name))
    state = part(values, "state.")
    expected, wrapped, own = (build(official) for _ in range(3))
    ux.interop.load_official(expected, state, official["operator"])
    ux.interop.load_official(wrapped, {f"module.{key}": value for key, value in state.items()}, official["operator"])
    ux.interop.load_weights(own, state)
    for layer in (wrapped, own):
        torch.testing.assert_close(layer.state_dict(), expected.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("rows", [0, 5])
def test_a_projection_without_two_fitting_halves_is_named(rows):
    values, official = read(next(path for path in FILES if path.stem == "gnconv_c12_o1"))
    state = part(values, "state.")
    state["proj_in.bias"] = state["proj_in.bias"][:rows]
    with pytest.raises(ValueError, match=r"proj_in.bias \(first half\)'\] must have shape \[12\]"):
        ux.interop.load_official(build(official), state, "gnconv")


def test_a_family_or_module_that_does_not_fit_is_refused(involution):
    layer, state = involution
    with pytest.raises(ValueError, match="family must be one of"):
        ux.interop.load_official(layer, state, "convolution")
    with pytest.raises(TypeError, match="UnifiedExtractor2d"):
        ux.interop.load_official(torch.nn.Linear(1, 1), state, "involution")
    with pytest.raises(ValueError, match="spec is not that of an official involution"):
        ux.interop.load_official(ux.UnifiedExtractor2d(32, 32, ux.presets.convolution()), state, "involution")
