"""Layers whose dynamic kernel is recomputed: the switch changes memory and time, not values."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import prune

import unified_extractor as ux
from tests.support.presets import PRESETS
from unified_extractor import presets
from unified_extractor.analysis import saved_activation_bytes, saved_bytes
from unified_extractor.ops import dispatch
from unified_extractor.profiling.extractors import extractors

pytest.importorskip("numba")
CHANNELS = 32
POINTWISE = {
    "involution": presets.involution(7),
    "involution, stride": presets.involution(3),
    "outlook_attention": presets.outlook_attention(3, heads=2),
    "deformable_convolution 3": presets.deformable_convolution(3, groups=2, center_feature_scale=True),
    "deformable_convolution 4": presets.deformable_convolution(4, groups=2),
    "unified": presets.unified(),
    "sigmoid": ux.ExtractorSpec(
        kernel_size=3, dynamic_kernel=ux.DynamicKernel(source="generated", groups=4, normalization="sigmoid")
    ),
    "interleaved": ux.ExtractorSpec(
        kernel_size=3, dynamic_kernel=ux.DynamicKernel(source="generated", groups=4, channel_order="interleaved")
    ),
    "residual": ux.ExtractorSpec(
        kernel_size=3,
        static_kernel=ux.StaticKernel(channels="depthwise"),
        dynamic_kernel=ux.DynamicKernel(source="generated", groups=4),
        combine="residual",
    ),
    "rows to spare": ux.ExtractorSpec(
        kernel_size=3,
        dynamic_kernel=ux.DynamicKernel(source="generated", groups=2),
        generator=ux.Generator(head_multiple=8),
    ),
    "dense": ux.ExtractorSpec(
        kernel_size=3,
        static_kernel=ux.StaticKernel(channels="dense"),
        dynamic_kernel=ux.DynamicKernel(source="generated", groups=4),
        bias=True,
    ),
}


def layer_of(spec, stride=1):
    torch.manual_seed(0)
    layer = ux.UnifiedExtractor2d(CHANNELS, CHANNELS, spec, stride).double()
    for parameter in layer.parameters():  # nothing stays at the zeros where training begins
        nn.init.normal_(parameter, std=0.3)
    return layer


def results(layer, x):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
    y.backward(cotangent)
    return {"y": y.detach(), "x": x.grad} | {name: p.grad.clone() for name, p in layer.named_parameters()}


def test_one_kernel_of_the_whole_image_is_stored():
    spec = ux.ExtractorSpec(
        kernel_size=3,
        dynamic_kernel=ux.DynamicKernel(source="generated", groups=2),
        generator=ux.Generator(view="global"),
    )
    layer, x = layer_of(spec), torch.randn(2, CHANNELS, 9, 10, dtype=torch.float64)
    layer.kernel_memory = "recompute"
    assert layer(x).shape == x.shape


@pytest.mark.parametrize("stride", [1, 2])
def test_attention_is_the_same_recomputed_and_stored_and_saves_no_kernel(stride):
    spec = presets.local_attention(5, heads=2)
    layer, x = layer_of(spec, stride), torch.randn(2, CHANNELS, 9, 10, dtype=torch.float64)
    found, kept = {}, {}
    for memory in ("recompute", "store"):
        layer.kernel_memory = memory
        found[memory] = results(layer, x)
        leaf = x.clone().requires_grad_()
        kept[memory] = saved_bytes(lambda leaf=leaf: layer(leaf), *layer.parameters())
    for key, value in found["store"].items():
        torch.testing.assert_close(found["recompute"][key], value, rtol=1e-10, atol=1e-10)
    assert kept["store"] - kept["recompute"] >= layer.generate(x)[1].nbytes


@pytest.fixture
def stored(monkeypatch):
    """One entry for every kernel that was stored."""
    kernels, original = [], dispatch.with_stored_kernel
    monkeypatch.setattr(dispatch, "with_stored_kernel", lambda *arguments: kernels.append(1) or original(*arguments))
    return kernels


@pytest.mark.parametrize("name", POINTWISE)
def test_recomputed_and_stored_give_the_same_values_and_gradients(name, stored):
    layer, x = layer_of(POINTWISE[name], 2 if "stride" in name else 1), torch.randn(2, CHANNELS, 9, 10, dtype=torch.float64)
    layer.kernel_memory = "store"
    expected = results(layer, x)
    assert len(stored) == 1
    layer.kernel_memory = "recompute"
    recomputed = results(layer, x)
    assert len(stored) == 1, "the kernel was stored"
    assert recomputed.keys() == expected.keys()
    for key, value in expected.items():
        assert value.abs().max() > 0, key
        torch.testing.assert_close(recomputed[key], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_obeys_the_switch_or_does_not_need_it(name):
    """What does not fit is stored by itself: similarity, dense views, group norm, a removed center, one kernel of the whole image."""
    spec = presets.neighborhood_attention(3, heads=2) if name == "neighborhood_attention" else PRESETS[name]
    layer, x = layer_of(spec), torch.randn(2, CHANNELS, 8, 9, dtype=torch.float64)
    gradients = []
    for memory in ("store", "recompute"):
        layer.kernel_memory = memory
        gradients.append(results(layer, x))
    for key, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], value, rtol=1e-10, atol=1e-10)


def test_a_layer_decides_by_what_is_faster(stored):
    """An involution's kernel costs channels/64 multiply-adds for each of the aggregation: worth it up to twice."""
    for channels, recomputed in ((64, True), (128, True), (144, False), (256, False)):
        ux.UnifiedExtractor2d(channels, channels, presets.involution(7))(torch.randn(1, channels, 8, 8))
        assert (not stored) == recomputed
        stored.clear()


def test_the_rule_counts_every_use_of_a_kernel(stored):
    """A static kernel that mixes channels uses it once an output, a fold once a result."""
    dense = ux.ExtractorSpec(
        kernel_size=3,
        static_kernel=ux.StaticKernel(channels="dense"),
        dynamic_kernel=ux.DynamicKernel(source="generated", groups=4),
    )
    for spec, recomputed in (
        (dense, True),
        (presets.outlook_attention(3, heads=2), True),
        (presets.outlook_attention(3, heads=4), False),
    ):
        ux.UnifiedExtractor2d(64, 64, spec)(torch.randn(1, 64, 8, 8))
        assert (not stored) == recomputed
        stored.clear()


def lora(head):
    """A wrapper that has a weight of its own."""
    wrapped = nn.Sequential(head, nn.Conv2d(head.out_channels, head.out_channels, 1))
    wrapped.weight, wrapped.bias = head.weight, head.bias
    return wrapped


class Rounded(nn.Conv2d):
    """Another forward."""

    def forward(self, input):
        return super().forward(input).round(decimals=1)


def rounded(head):
    head.__class__ = Rounded
    return head


SURGERY = {
    "pruned": lambda head: prune.l1_unstructured(head, "weight", 0.5),
    "weight norm": nn.utils.weight_norm,
    "spectral norm, parametrized": nn.utils.parametrizations.spectral_norm,
    "wrapped": lora,
    "another forward": rounded,
    "with dropout": lambda head: nn.Sequential(head, nn.Dropout()),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", SURGERY)
def test_a_head_that_was_changed_is_called(name):
    found = []
    for memory in ("auto", "recompute", "store"):
        layer = ux.UnifiedExtractor2d(64, 64, presets.involution(3), kernel_memory=memory)
        layer.load_state_dict({key: torch.full_like(t, 0.02) if t.ndim else t for key, t in layer.state_dict().items()})
        layer.kernel.head = SURGERY[name](layer.kernel.head)
        optimizer, x = torch.optim.SGD(layer.parameters(), lr=0.01), torch.linspace(-1, 1, 64 * 64).view(1, 64, 8, 8)
        for _ in range(3):
            torch.manual_seed(0)
            optimizer.zero_grad()
            loss = layer(x).square().sum()
            loss.backward()
            optimizer.step()
        found.append(loss.item())
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("spec", [presets.involution(3), presets.local_attention(3, heads=2)], ids=["involution", "attention"])
def test_a_kernel_that_was_wrapped_or_observed_is_called(spec):
    layer, x = ux.UnifiedExtractor2d(32, 32, spec, kernel_memory="recompute"), torch.randn(1, 32, 8, 8)
    expected, seen = layer(x), []
    handle = layer.kernel.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    torch.testing.assert_close(layer(x), expected)
    assert len(seen) == 1
    handle.remove()
    layer.kernel = checkpoint_wrapper(layer.kernel)
    torch.testing.assert_close(layer(x), expected)


def test_a_layer_pickled_before_there_was_a_switch_runs():
    layer = ux.UnifiedExtractor2d(32, 32, presets.involution(3))
    del layer.__dict__["kernel_memory"]
    assert layer(torch.randn(1, 32, 8, 8)).shape == (1, 32, 8, 8)


def test_a_layer_that_an_earlier_version_pickled_is_refused_in_one_line_and_its_spec_is_read():
    layer = ux.UnifiedExtractor2d(32, 32, presets.involution(3))
    older = layer.__dict__.copy()
    del older["guide_channels"]
    older["_modules"] = {"kernel": copy.copy(layer.kernel)}
    for state in (older, {name: value for name, value in layer.__dict__.items() if name != "guide_channels"}):
        with pytest.raises(ValueError, match=r"this UnifiedExtractor2d was pickled by an earlier version .* load its state_dict"):
            layer.__class__.__new__(layer.__class__).__setstate__(state)
    assert copy.deepcopy(layer).spec == layer.spec
    fields = {name: value for name, value in vars(layer.spec).items() if name not in ("channel_kernel", "upsample")}
    spec = ux.ExtractorSpec.__new__(ux.ExtractorSpec)
    spec.__setstate__(fields)
    assert spec == layer.spec
    with pytest.raises(ValueError, match="pickled ExtractorSpec has no field 'kernal_size', did you mean kernel_size"):
        spec.__setstate__({"kernal_size": 3})


@pytest.mark.parametrize("value", ["fused", True, 1, None])
def test_a_wrong_switch_is_refused_at_once(value):
    with pytest.raises(ValueError, match="kernel_memory must be one of"):
        ux.UnifiedExtractor2d(32, 32, presets.convolution(), kernel_memory=value)


def test_the_printed_layer_has_the_switch():
    assert repr(ux.UnifiedExtractor2d(32, 32, presets.involution(3), kernel_memory="recompute")).endswith(
        ", kernel_memory='recompute')"
    )


@pytest.mark.parametrize("memory", ["auto", "recompute", "store"])
def test_a_layer_compiles_for_sizes_that_change(memory):
    layer = ux.UnifiedExtractor2d(32, 32, presets.outlook_attention(3, heads=2), kernel_memory=memory)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (8, 11):
        x = torch.randn(1, 32, size, size)
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("name", ["involution", "outlook_attention", "deformable_convolution 3", "deformable_convolution 4"])
def test_a_layer_keeps_the_kernel_only_if_it_is_stored(name):
    layer = layer_of(POINTWISE[name])
    x = torch.randn(2, CHANNELS, 12, 12, dtype=torch.float64, requires_grad=True)
    kernel = layer.generate(x)[1].nbytes
    found = {}
    for memory in ("recompute", "store"):
        layer.kernel_memory = memory
        found[memory] = saved_bytes(lambda: layer(x), *layer.parameters())
    assert found["store"] - found["recompute"] >= kernel


def test_what_an_involution_keeps_is_a_third():
    """By formula: C values a position of the image, C/4 before the norm, C/4 of the feature; stored, C/16 * 49 of the kernel too."""
    channels, positions = 64, 14 * 14
    layer = ux.UnifiedExtractor2d(channels, channels, presets.involution(7))
    x = torch.randn(2, channels, 14, 14, requires_grad=True)
    found = {}
    for memory in ("recompute", "store"):
        layer.kernel_memory = memory
        found[memory] = saved_bytes(lambda: layer(x), *layer.parameters(), *layer.buffers())
    image, kernel = (4 * 2 * positions * values for values in (channels + 2 * channels // 4, channels // 16 * 49))
    statistics = 4 * 2 * channels // 4  # of the batch: mean and deviation
    assert found == {"recompute": image + statistics, "store": image + kernel + statistics}
    assert found["recompute"] < 0.34 * found["store"]


def test_what_a_network_keeps_is_counted_without_computing_it():
    """And the kernels are all that a switch changes: G*K values a position of every involution, 4 bytes each."""
    net = ux.models.rednet26(num_classes=10)
    counted = {}
    for memory in ("recompute", "store"):
        for layer in extractors(net).values():
            layer.kernel_memory = memory
        counted[memory] = saved_activation_bytes(net, (3, 64, 64))
        x = torch.randn(1, 3, 64, 64)
        assert counted[memory] == saved_bytes(lambda x=x: net(x), x, *net.parameters(), *net.buffers())
    stem, stages = (32, 9, 32), [(64, 49, 16), (128, 49, 8), (256, 49, 4), (512, 49, 2)]  # channels, taps, height
    places = [stem, *(place for place, depth in zip(stages, (1, 2, 4, 1), strict=True) for _ in range(depth))]
    assert counted["store"] - counted["recompute"] == sum(
        4 * channels // 16 * taps * height**2 for channels, taps, height in places
    )
