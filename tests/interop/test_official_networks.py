"""Official state dicts of whole networks give the official outputs: live peers (timm, torchvision) or independent formulas."""

import pytest
import timm
import torch
import torchvision

import unified_extractor as ux
from tests.support import network_oracles
from tests.support.official_states import official_state, randomized

INTERNIMAGE_LINEAR = ("dcn.offset.", "dcn.mask.", "dcn.input_proj.", "dcn.output_proj.", "mlp.")


def outputs(network, peer, size, in_chans=3):
    x = torch.randn(2, in_chans, *size, dtype=next(network.parameters()).dtype)
    with torch.no_grad():
        return network(x), peer(x)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["volo_d1", "volo_d2"])
def test_volo_equals_timms_with_the_same_weights(name):
    peer = timm.create_model(f"{name}_224", img_size=64).double().eval()
    peer.load_state_dict(randomized(peer.state_dict()))
    network = getattr(ux.models, name)(img_size=64).double().eval()
    assert ux.interop.load_official(network, peer.state_dict(), "volo") == {}
    torch.testing.assert_close(*outputs(network, peer, (64, 64)), rtol=1e-9, atol=1e-9)


def test_volos_token_logits_are_those_timm_takes_the_largest_of():
    peer = timm.create_model("volo_d1_224", img_size=(48, 64), num_classes=10).double().eval()
    peer.load_state_dict(randomized(peer.state_dict()))
    network = ux.models.volo_d1(10, img_size=(48, 64)).double().eval()
    ux.interop.load_official(network, peer.state_dict(), "volo")
    x = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    with torch.no_grad():
        logits, token_logits = network.forward_dense(x)
        tokens = peer.forward_features(x)
        torch.testing.assert_close(logits, peer.head(tokens[:, 0]))
        torch.testing.assert_close(token_logits.flatten(2).transpose(1, 2), peer.aux_head(tokens[:, 1:]))
        torch.testing.assert_close(network(x), logits + 0.5 * token_logits.amax((2, 3)))


@pytest.mark.parametrize("size", [(64, 64), (75, 61)])
def test_resnet50_equals_torchvisions_with_the_same_weights(size):
    peer = torchvision.models.resnet50(num_classes=20).double().eval()
    peer.load_state_dict(randomized(peer.state_dict()))
    network = ux.models.resnet50(20).double().eval()
    assert ux.interop.load_official(network, peer.state_dict(), "resnet") == {}
    torch.testing.assert_close(*outputs(network, peer, size), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stem_kernel_size", [3, 7])
def test_rednet26_equals_an_independent_formula(stem_kernel_size):
    network = ux.models.rednet26(20, stem_kernel_size=stem_kernel_size).double().eval()
    state = official_state(network, "rednet")
    assert all(key.startswith(("backbone.", "head.fc.")) for key in state)
    assert ux.interop.load_official(network, state, "rednet") == {}
    expected = lambda x: network_oracles.rednet(state, x, (1, 2, 4, 1))  # noqa: E731
    torch.testing.assert_close(*outputs(network, expected, (64, 96)), rtol=1e-9, atol=1e-9)


SMALL = [ux.presets.deformable_convolution(3, groups=groups) for groups in (2, 4, 8, 16)]


@pytest.mark.parametrize(("post_norm", "layer_scale"), [(False, None), (True, 1e-5)])
def test_internimage_equals_an_independent_formula(post_norm, layer_scale):
    depths = (1, 2, 1, 1)
    options = {"published": SMALL, "width": 32, "depths": depths, "post_norm": post_norm, "layer_scale": layer_scale}
    network = ux.models.InternImage(20, **options).double().eval()
    state = official_state(network, "internimage", INTERNIMAGE_LINEAR)
    assert ux.interop.load_official(network, state, "internimage") == {}
    expected = lambda x: network_oracles.internimage(state, x, depths, (2, 4, 8, 16), post_norm=post_norm)  # noqa: E731
    torch.testing.assert_close(*outputs(network, expected, (64, 80)), rtol=1e-9, atol=1e-9)


def test_internimage_t_takes_keys_of_the_released_code():
    with torch.device("meta"):
        network = ux.models.internimage_t()
    keys = set(official_state(network, "internimage", INTERNIMAGE_LINEAR))
    assert {
        "patch_embed.conv1.weight",
        "patch_embed.norm1.1.weight",
        "levels.0.blocks.0.norm1.0.weight",
        "levels.2.blocks.17.dcn.dw_conv.1.1.bias",
        "levels.1.norm.0.bias",
        "levels.2.downsample.norm.1.weight",
        "levels.3.blocks.3.mlp.fc2.bias",
        "conv_head.1.0.running_mean",
        "head.bias",
    } <= keys
    assert "levels.3.downsample.conv.weight" not in keys


@pytest.fixture
def rednet():
    network = ux.models.RedNet(5, depths=(1, 1, 1, 1))
    return network, official_state(network, "rednet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("backbone.layer2.0.conv2.conv2.conv.bias"), r"has no 'backbone\.layer2\.0\.conv2\.conv2\.conv\.bias'"),
        (lambda s: s.pop("head.fc.bias"), r"has no 'head\.fc\.bias'"),
        (lambda s: s.update({"backbone.layer1.7.conv1.weight": torch.zeros(1)}), r"has 'backbone\.layer1\.7\.conv1\.weight'"),
        (
            lambda s: s.update({"head.fc.weight": torch.zeros(5, 7)}),
            r"\['head\.fc\.weight'\] must have shape \[5, 2048\], got \[5, 7\]",
        ),
        (
            lambda s: s.update({"backbone.stem.2.weight": torch.zeros(3)}),
            r"\['backbone\.stem\.2\.weight'\] must have shape \[32\]",
        ),
    ],
    ids=["missing", "half a classifier", "unexpected", "misshapen classifier", "misshapen"],
)
def test_a_key_that_does_not_fit_is_named_and_nothing_is_loaded(rednet, change, message):
    network, state = rednet
    before = {name: value.clone() for name, value in network.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        ux.interop.load_official(network, state, "rednet")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_counters_of_batches_may_be_missing(rednet):
    network, state = rednet
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert ux.interop.load_official(network, old, "rednet") == {}


@pytest.mark.parametrize("num_classes", [7, 0])
def test_a_classifier_of_other_classes_is_left_out_and_said(rednet, num_classes):
    network, state = rednet
    other = ux.models.RedNet(num_classes, depths=(1, 1, 1, 1))
    before = {name: value.clone() for name, value in other.head.state_dict().items()}
    with pytest.warns(UserWarning, match=r"head\.fc\.weight: left out"):
        notes = ux.interop.load_official(other, state, "rednet")
    assert set(notes) == {"head.fc.weight", "head.fc.bias"}
    assert all(torch.equal(value, before[name]) for name, value in other.head.state_dict().items())
    x = torch.randn(1, 3, 64, 64)
    ux.interop.load_official(network, state, "rednet")
    with torch.no_grad():
        torch.testing.assert_close(other.eval().forward_features(x), network.eval().forward_features(x))


def test_volos_position_embedding_is_interpolated_and_said():
    options = {"depths": (1, 1, 1, 1), "widths": (32, 64), "heads": (2, 4), "stem_width": 16}
    small, large = (ux.models.VOLO(5, **options, img_size=size) for size in (64, 96))
    state = official_state(small, "volo", ("attn.", "mlp."))
    state["pos_embed"] = torch.randn(1, 4, 4, 64)
    ux.interop.load_official(small, state, "volo")
    with pytest.warns(UserWarning, match=r"pos_embed: interpolated from \[4, 4\] to \[6, 6\] positions"):
        assert set(ux.interop.load_official(large, state, "volo")) == {"pos_embed"}
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():  # the small one interpolates when it sees a larger image
        torch.testing.assert_close(small.eval()(x), large.eval()(x))


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        ("rednet", ux.presets.unified()),
        ("resnet", ux.presets.involution()),
        ("volo", ux.presets.neighborhood_attention(3)),
        ("internimage", ux.presets.convolution()),
        ("internimage", ux.presets.deformable_convolution(4)),
    ],
)
def test_weights_of_the_published_extractor_fit_no_other(family, spec):
    published = {
        "rednet": lambda spec: ux.models.RedNet(5, spec, depths=(1, 1, 1, 1)),
        "resnet": lambda spec: ux.models.ResNet(5, spec, depths=(1, 1, 1, 1)),
        "volo": lambda spec: ux.models.VOLO(5, spec, depths=(1, 1, 1, 1), widths=(32, 64), heads=(2, 4), stem_width=16),
        "internimage": lambda spec: ux.models.InternImage(5, spec, published=SMALL, width=32, depths=(1, 1, 1, 1)),
    }[family]
    state = official_state(published(None), family, (*INTERNIMAGE_LINEAR, "attn."))
    with pytest.raises(ValueError, match="spec"):
        ux.interop.load_official(published(spec), state, family)


def test_weights_without_a_classifier_fit_and_it_is_said(rednet):
    network, state = rednet
    backbone = {key: value for key, value in state.items() if not key.startswith("head")}
    with pytest.warns(UserWarning, match=r"head\.fc\.weight: not there"):
        assert set(ux.interop.load_official(network, backbone, "rednet")) == {"head.fc.weight", "head.fc.bias"}
    assert torch.equal(network.stem[2].weight, state["backbone.stem.2.weight"])


def test_a_network_on_the_meta_device_is_refused(rednet):
    _, state = rednet
    with torch.device("meta"):
        network = ux.models.RedNet(5, depths=(1, 1, 1, 1))
    with pytest.raises(ValueError, match="module is on the meta device"):
        ux.interop.load_official(network, state, "rednet")


def test_a_network_of_another_family_is_refused(rednet):
    network, state = rednet
    with pytest.raises(TypeError, match="family='volo' loads into a VOLO, got RedNet"):
        ux.interop.load_official(network, state, "volo")
