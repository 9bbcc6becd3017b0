"""Convolutions of networks of torchvision and timm replaced by extractors: the same sizes, the same values where weights are kept."""

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

import unified_extractor as ux
from unified_extractor import ExtractorConv2d, presets

NETWORKS = {
    name: (lambda name=name: getattr(torchvision.models, name)(num_classes=3))
    for name in ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "convnext_tiny", "mnasnet0_5")
} | {
    name: (lambda name=name: timm.create_model(name, pretrained=False, num_classes=3))
    for name in (
        "resnet10t",
        "hrnet_w18_small",
        "lcnet_050",
        "ghostnet_100",
        "tf_efficientnet_lite0",
        "res2net50_26w_4s",
        "rexnet_100",
    )
}
TINY = "involution(kernel_size=3, channels_per_group=1)"


def plain(convolution):
    return presets.convolution(convolution.kernel_size, convolution.groups, convolution.dilation)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_the_same_with_its_convolutions_as_extractors(name):
    network, x = NETWORKS[name]().eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(x)
        done = ux.replace_convolutions(network, plain)
        assert set(done.replaced.values()) == {"weights kept"}
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    names = {name for name, part in network.named_modules() if isinstance(part, ExtractorConv2d)}
    assert names == set(done.replaced)
    left = {n for n, part in network.named_modules() if isinstance(part, nn.Conv2d) and max(part.kernel_size) > 1}
    assert {n for n in left if not n.startswith(tuple(f"{one}." for one in names))} == set(done.skipped)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_trains_with_other_extractors(name):
    network, x = NETWORKS[name](), torch.randn(2, 3, 64, 64)
    done = ux.replace_convolutions(network, TINY)
    assert len(done.replaced) >= 8
    assert "fresh weights, the spec has no static kernel" in done.replaced.values()
    y = network(x)
    assert y.shape == (2, 3)
    y.sum().backward()
    new = [part for part in network.modules() if isinstance(part, ExtractorConv2d)]
    assert all(parameter.grad is not None for part in new for parameter in part.parameters())


class Small(nn.Module):
    """Convolutions of all kinds."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.body = nn.ModuleDict(
            {
                "dense": nn.Conv2d(32, 32, 3, padding=1),
                "depthwise": nn.Conv2d(32, 32, 5, 2, 2, groups=32),
                "dilated": nn.Conv2d(32, 48, 3, padding=2, dilation=2, bias=False),
                "long": nn.Conv2d(48, 48, (1, 7), padding="same", padding_mode="reflect"),
                "pointwise": nn.Conv2d(48, 32, 1),
            }
        )
        self.again = self.body["dense"]

    def forward(self, x):
        x = self.stem(x)
        for part in (*self.body.values(), self.again):
            x = part(x)
        return x


def test_weights_are_kept_where_the_shapes_agree_and_it_is_said_where_not():
    network = Small()
    done = ux.replace_convolutions(network, presets.convolution())
    assert done.replaced == {
        "body.dense": "weights kept",
        "body.depthwise": "fresh weights, the spec has static_kernel.groups=1, the convolution groups=32",
        "body.dilated": "weights kept",
        "body.long": "fresh weights, the spec has kernel_size=3, the convolution (1, 7)",
    }
    assert done.skipped == {"stem": "the stem"}
    assert network.again is network.body["dense"]  # replaced once, still shared
    assert network.body["dilated"].layer.spec.dilation == 2
    assert network.body["dilated"].layer.bias is None
    assert network.body["depthwise"].kernel_size == (5, 5)  # some networks read it, to pad the image before
    assert str(done).splitlines()[:2] == ["4 convolutions replaced, 1 skipped", "  body.dense: weights kept"]


def test_a_depthwise_kernel_is_kept_by_a_depthwise_spec_and_deformable_convolution_starts_as_the_convolution():
    network, x = Small().eval(), torch.randn(1, 3, 12, 13)
    expected = network(x)
    assert (
        ux.replace_convolutions(network, presets.depthwise_convolution(5), "*.depthwise").replaced["body.depthwise"]
        == "weights kept"
    )
    ux.replace_convolutions(network, presets.deformable_convolution(1, (1, 7)), "body.long")
    ux.replace_convolutions(network, presets.deformable_convolution(1), ["body.dense", "body.dil*"])
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, {"body.dense", "body.depthwise", "body.dilated", "body.long"}),
        ("body", {"body.dense", "body.depthwise", "body.dilated", "body.long"}),
        ("body.d*", {"body.dense", "body.depthwise", "body.dilated"}),
        ("*long", {"body.long"}),
        ("body.pointwise", {"body.pointwise"}),
        (["stem", "*.long"], {"stem", "body.long"}),
        (lambda name, convolution: convolution.out_channels == 48, {"body.dilated", "body.long"}),
    ],
)
def test_where_chooses_by_name_pattern_or_predicate(where, expected):
    done = ux.replace_convolutions(Small(), "involution(channels_per_group=1)", where)
    assert set(done.replaced) == expected


def test_what_cannot_be_replaced_is_skipped_with_the_reason():
    class Standardized(nn.Conv2d):
        pass

    network = nn.Sequential(
        nn.Conv2d(32, 32, 3),
        Standardized(32, 32, 3),
        parametrizations.weight_norm(nn.Conv2d(32, 32, 3)),
        nn.Conv2d(32, 32, 3),
        nn.Conv2d(24, 32, 3),
        nn.Conv2d(32, 32, 3),
        nn.Conv2d(32, 32, 3),
        ux.UnifiedExtractor2d(32, 32, presets.deformable_convolution(1)),
    )
    network[3].register_forward_hook(lambda *_: None)
    network[6].weight = network[5].weight
    done = ux.replace_convolutions(network, "involution", "*")
    assert set(done.replaced) == {"0"}
    for name, reason in {
        "1": "it is a Standardized",
        "2": "it is a ParametrizedConv2d",
        "3": "it has hooks",
        "4": "dynamic_kernel.channels_per_group must divide in_channels",
        "5": "another module has the same weight",
        "6": "another module has the same weight",
    }.items():
        assert done.skipped[name].startswith(reason)
    with pytest.warns(UserWarning, match="no convolution was replaced: 1: it is a Standardized"):
        ux.replace_convolutions(network, "involution", "1")
    some = ux.replace_convolutions(Small(), lambda conv: "involution" if conv.in_channels == 48 else None)
    assert some.skipped["body.dense"] == "spec is None for it"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda n: ux.replace_convolutions(n, "involution", "body.dence"), ValueError, "did you mean body.dense"),
        (lambda n: ux.replace_convolutions(n, "involution", "nothing*"), ValueError, r"where='nothing\*' matches no convolution"),
        (lambda n: ux.replace_convolutions(n, "involution", lambda name, conv: False), ValueError, "for which where is true"),
        (lambda n: ux.replace_convolutions(n.stem, "involution"), ValueError, "make an ExtractorConv2d"),
        (lambda n: ux.replace_convolutions(nn.Linear(1, 1), "involution"), ValueError, "no convolution of more than one tap"),
        (lambda n: ux.replace_convolutions("resnet18", "involution"), TypeError, "must be a torch module, got str"),
        (lambda n: ux.replace_convolutions(n, "involutoin"), ValueError, "did you mean involution"),
        (lambda n: ux.replace_convolutions(n, presets.involution), TypeError, r"call it, involution\(\.\.\.\)"),
        (lambda n: ux.replace_convolutions(n, nn.Identity()), TypeError, r"spec must be an ExtractorSpec .* got Identity\(\)"),
        (lambda n: ux.replace_convolutions(n, "involution", "head"), ValueError, "where='head' matches no .*; there are stem"),
        (lambda n: ux.replace_convolutions(n, presets.involution(), [3]), TypeError, "where must be a predicate"),
        (lambda n: ux.replace_convolutions(n, presets.involution(), 3), TypeError, "where must be a predicate"),
        (lambda n: ux.replace_convolutions(n, presets.involution(), []), ValueError, "where names none of them"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_replaced(call, error, message):
    network = Small()
    with pytest.raises(error, match=message):
        call(network)
    assert not [part for part in network.modules() if isinstance(part, ExtractorConv2d)]


def test_device_dtype_mode_and_frozen_weights_stay_and_the_seed_decides():
    network = Small().double().eval()
    network.body["dense"].train().weight.requires_grad_(False)
    first, second = copy.deepcopy(network), copy.deepcopy(network)
    for one in (first, second):
        torch.manual_seed(5)
        ux.replace_convolutions(one, lambda conv: presets.convolution() if conv.in_channels == 32 else "involution", "body")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert {value.dtype for value in first.parameters()} == {torch.float64}
    assert first.body["dense"].training
    assert not first.body["long"].training
    assert not first.body["dense"].layer.static_kernel.requires_grad
    assert first.body["dense"].layer.bias.requires_grad
    meta = Small().to("meta")
    ux.replace_convolutions(meta, "unified", "body.dense")
    assert all(value.is_meta for value in meta.state_dict().values())


def test_a_network_with_extractors_pickles_and_is_saved():
    network = Small().eval()
    ux.replace_convolutions(network, "involution", ["body.dense", "body.long"])
    again, x = Small().eval(), torch.randn(1, 3, 12, 13)
    ux.replace_convolutions(again, "involution", ["body.dense", "body.long"])
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), network(x))
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), network(x))
