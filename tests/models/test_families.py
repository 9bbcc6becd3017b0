"""Laws of every family: any extractor fits in the published one's place, the interface is timm's and torchvision's."""

import copy
import dataclasses
import inspect
import pickle
import re

import pytest
import timm.optim
import torch
import torchvision
from timm.models import group_parameters
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import MultiScaleRoIAlign

import unified_extractor as ux
from tests.support.families import REDUCTIONS, SMALL, UNPUBLISHED, VARIANTS, WITH_STOCHASTIC_DEPTH
from tests.support.presets import PRESETS
from unified_extractor.models.arguments import drop_path_rates
from unified_extractor.models.blocks import StochasticDepth
from unified_extractor.models.staged import Stage
from unified_extractor.models.volo import resized_embedding

families = pytest.mark.parametrize("family", SMALL)


def image(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ceil_sizes(size, reductions):
    return [-(-size // reduction) for reduction in reductions]


@pytest.mark.sampled(8)
@families
@pytest.mark.parametrize("size", [64, 63])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_in_every_family(family, preset, size):
    network = SMALL[family](5, PRESETS[preset])
    logits = network(image(2, 3, size, size))
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.sampled(3)
@families
@pytest.mark.parametrize("size", [(64, 64), (63, 63), (96, 64)])
@pytest.mark.parametrize("preset", ["unified", "outlook_attention", "neighborhood_attention"])
def test_maps_have_the_sizes_that_feature_info_says_whatever_the_extractor(family, preset, size):
    network = SMALL[family](5, PRESETS[preset]).eval()
    with torch.no_grad():
        maps = network.forward_intermediates(image(1, 3, *size), intermediates_only=True)
    assert [info["reduction"] for info in network.feature_info] == REDUCTIONS[family]
    for feature_map, info in zip(maps, network.feature_info, strict=True):
        assert feature_map.shape == (1, info["num_chs"], *(ceil_sizes(n, [info["reduction"]])[0] for n in size))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_constructs_on_the_meta_device(name):
    with torch.device("meta"):
        network = getattr(ux.models, name)()
    assert all(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])
    assert network.num_classes == (10 if network.usual_image_size == 32 else 1000)


@pytest.mark.parametrize("name", ["rednet26", "resnet50", "volo_d1", "internimage_t", "internimage_s", "flash_internimage_t"])
def test_a_new_network_gives_finite_logits_in_eval_mode(name):
    with torch.no_grad():
        assert getattr(ux.models, name)(5).eval()(image(1, 3, 64, 64)).isfinite().all()


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - UNPUBLISHED))
def test_a_variant_states_its_parameters_and_its_published_accuracy(name):
    variant = getattr(ux.models, name)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in variant().parameters())
    assert re.fullmatch(rf"Return .*: {parameters:,} parameters, published top-1 \d\d\.\d % \(.*\)\.", variant.__doc__)


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - {"extractor_net"}))
def test_a_variant_passes_on_every_argument_with_the_default_of_its_network(name):
    variant = getattr(ux.models, name)
    options = inspect.signature(variant).parameters
    network = inspect.signature(variant).return_annotation
    defaults = {key: parameter.default for key, parameter in inspect.signature(network).parameters.items()}
    assert {key: parameter.default for key, parameter in options.items()}.items() <= defaults.items()
    other = {
        "num_classes": 7,
        "spec": ux.presets.convolution(),
        "published": PRESETS["unified"],
        "mlp_ratio": 2.5,
        "img_size": 64,
        "layer_scale": 0.5,
        "post_norm": True,
        "mlp_bias": False,
        "drop_rate": 0.25,
        "drop_path_rate": 0.125,
        "logit_scale": 0.5,
        "stem_width": 16,
        "stem_kernel_size": 5,
        "in_chans": 1,
    }
    with torch.device("meta"):
        config = variant(**{key: other[key] for key in options}).config
    assert all(config[key] == other[key] for key in options.keys() - {"spec"})
    assert set(config["spec"]) == {other["spec"]}


def test_a_variant_explains_itself():
    signature = inspect.signature(ux.models.volo_d1)
    assert list(signature.parameters) == [
        "num_classes",
        "spec",
        "mlp_ratio",
        "stem_width",
        "img_size",
        "in_chans",
        "drop_rate",
        "drop_path_rate",
    ]
    assert signature.return_annotation is ux.models.VOLO
    assert pickle.loads(pickle.dumps(ux.models.volo_d1)) is ux.models.volo_d1
    with pytest.raises(TypeError, match="depths"):
        ux.models.rednet50(depths=(1, 1, 1, 1))


def test_each_stage_may_have_an_extractor_of_its_own():
    specs = [ux.presets.convolution(), *[ux.presets.deformable_convolution(2)] * 3]
    network = SMALL["resnet"](5, specs)
    kinds = [{m.spec for m in stage.modules() if isinstance(m, ux.UnifiedExtractor2d)} for stage in network.stages]
    assert kinds == [{spec} for spec in specs]
    assert network.specs == specs


@families
def test_parts_make_the_whole(family):
    network = SMALL[family](5).eval()
    x = image(2, 3, 64, 64)
    with torch.no_grad():
        features = network.forward_features(x)
        assert features.shape[:2] == (2, network.num_features)
        torch.testing.assert_close(network.forward_head(features), network(x), rtol=0, atol=0)
        hidden = network.forward_head(features, pre_logits=True)
        final, maps = network.forward_intermediates(x, norm=True)
        torch.testing.assert_close(final, features, rtol=0, atol=0)
        torch.testing.assert_close(maps[-1], features, rtol=0, atol=0)
        network.reset_classifier(0)
        torch.testing.assert_close(network(x), hidden, rtol=0, atol=0)
        network.reset_classifier(7)
    assert network.num_classes == 7
    assert network(x).shape == (2, 7)
    assert network.get_classifier().out_features == 7
    assert SMALL[family](0)(x).shape == hidden.shape


@families
def test_pruning_keeps_the_chosen_maps(family):
    network = SMALL[family](5).eval()
    x = image(1, 3, 64, 64)
    with torch.no_grad():
        expected = network.forward_intermediates(x, [0, 1], intermediates_only=True)
        early = network.forward_intermediates(x, [1], stop_early=True)
        before = sum(p.numel() for p in network.parameters())
        assert network.prune_intermediate_layers([0, -len(network.stages) + 1], prune_norm=True) == [0, 1]
        pruned = network.forward_intermediates(x, [0, 1], intermediates_only=True)
    for one, other in zip(expected, pruned, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.testing.assert_close(early[1][0], expected[1], rtol=0, atol=0)
    assert len(network.stages) == 2
    assert sum(p.numel() for p in network.parameters()) < before


@families
def test_checkpointing_changes_no_gradient_and_no_statistic(family):
    torch.manual_seed(0)
    network = SMALL[family](5, **({"drop_path_rate": 0.3} if family in WITH_STOCHASTIC_DEPTH else {}))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    x, found = image(2, 3, 64, 64), []
    for enable in (False, True):
        network.load_state_dict(state)
        network.zero_grad()
        network.set_grad_checkpointing(enable)
        torch.manual_seed(3)
        network(x).square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in network.parameters()]
        found.append(gradients + [value.clone() for value in network.buffers()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("family", ["resnet", "volo"])
def test_checkpointing_compiles_and_counts_a_batch_once(family):
    torch._dynamo.reset()
    network, x = SMALL[family](5), image(2, 3, 64, 64)
    network.set_grad_checkpointing()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    found = []
    for call in (network, torch.compile(network, backend="aot_eager")):
        network.load_state_dict(state)
        network.zero_grad()
        call(x).square().sum().backward()
        found.append([*(p.grad.clone() for p in network.parameters()), *(b.clone() for b in network.buffers())])
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-4)


def test_checkpointing_keeps_only_the_borders_of_blocks():
    network = SMALL["rednet"](5)

    def saved_bytes(enable):
        network.set_grad_checkpointing(enable)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            network(image(2, 3, 64, 64))
        return sum(sizes)

    assert saved_bytes(True) < 0.5 * saved_bytes(False)


@pytest.mark.parametrize("family", WITH_STOCHASTIC_DEPTH)
def test_stochastic_depth_drops_branches_in_training_only(family):
    network = SMALL[family](5, drop_path_rate=0.9)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    x = image(4, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))
        network.eval()
        assert torch.equal(network(x), network(x))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_stochastic_depth_is_torchvisions_in_training_and_evaluation(p):
    ours, theirs, x = StochasticDepth(p), torchvision.ops.StochasticDepth(p, "row"), image(32, 2, 3, 4)
    for training in (True, False):
        found = [module.train(training)(x) for module in (ours, theirs) if torch.manual_seed(0)]
        assert torch.equal(*found)
    assert repr(ours) == f"StochasticDepth(p={p})"
    with pytest.raises(ValueError, match=r"p must lie in 0 to 1, got 1\.5"):
        StochasticDepth(1.5)


def test_stochastic_depth_grows_linearly_over_all_blocks():
    assert drop_path_rates(0.3, (1, 2, 1)) == [[0.0], pytest.approx([0.1, 0.2]), [pytest.approx(0.3)]]
    assert drop_path_rates(0.3, (1,)) == [[0.0]]
    network = SMALL["internimage"](5, drop_path_rate=0.4)
    found = [module.p for module in network.modules() if isinstance(module, StochasticDepth)]
    assert found == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4])


@families
def test_a_new_classifier_is_where_the_network_is(family):
    network = SMALL[family](5).to("meta", torch.float64)
    network.reset_classifier(7)
    assert {(tensor.device.type, tensor.dtype) for tensor in network.parameters()} == {("meta", torch.float64)}


def test_a_position_embedding_is_interpolated_smoothly():
    ramp = torch.arange(8.0).expand(1, 1, 5, 8)
    wide = resized_embedding(ramp, (5, 16))
    expected = (torch.arange(4.0, 12) / 2 - 0.25).expand(5, 8)
    torch.testing.assert_close(wide[0, 0, :, 4:12], expected, rtol=0, atol=0.05)  # the nearest would be 0.25 away
    assert resized_embedding(ramp, (5, 8)) is ramp


@pytest.mark.parametrize(
    ("family", "name"), [*((family, "drop_rate") for family in SMALL), *((f, "drop_path_rate") for f in WITH_STOCHASTIC_DEPTH)]
)
@pytest.mark.parametrize("rate", [-0.1, 1.0, True, "0.1"])
def test_a_rate_outside_its_range_is_refused(family, name, rate):
    with pytest.raises(ValueError, match=f"{name} must lie in"):
        SMALL[family](5, **{name: rate})


@families
def test_dropout_acts_before_the_classifier_in_training_only(family):
    network = SMALL[family](5, drop_rate=0.5).eval()
    with torch.no_grad():
        features = network.forward_features(image(2, 3, 64, 64))
        logits, hidden = network.forward_head(features), network.forward_head(features, pre_logits=True)
        network.head.dropout.train()
        assert not torch.equal(network.forward_head(features), logits)
        assert torch.equal(network.forward_head(features, pre_logits=True), hidden)


@families
def test_channels_last_changes_no_value(family):
    network = SMALL[family](5).double().eval()
    x = image(2, 3, 64, 64).double()
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(
            network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), expected
        )


@families
def test_bfloat16_autocast_trains_near_full_precision(family):
    network = SMALL[family](5)
    x = image(2, 3, 64, 64)
    network.eval()
    expected = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(x)
    assert (logits.float() - expected).norm() < 0.1 * expected.norm() + 0.02
    logits.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.sampled(4)
@families
def test_networks_compile_without_graph_breaks(family):
    torch._dynamo.reset()
    network = SMALL[family](5).eval()
    x = image(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(network, fullgraph=True, backend="aot_eager")(x), network(x), rtol=1e-4, atol=1e-5
        )


@families
def test_maps_feed_torchvisions_detector(family):
    network = SMALL[family](0)
    names = [info["module"] for info in network.feature_info]
    backbone = BackboneWithFPN(
        network, {name: str(i) for i, name in enumerate(names)}, [info["num_chs"] for info in network.feature_info], 16
    )
    detector = FasterRCNN(backbone, num_classes=3, min_size=64, max_size=64, **_anchors(len(names) + 1))
    boxes = torch.tensor([[5.0, 6.0, 40.0, 50.0], [20.0, 10.0, 60.0, 30.0]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])}] * 2
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    losses = detector(list(image(2, 3, 64, 64)), targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    before = network.stem.state_dict() if family != "extractor_net" else network.stage1.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    optimizer.step()
    after = network.stem.state_dict() if family != "extractor_net" else network.stage1.state_dict()
    assert any(not torch.equal(after[name], value) for name, value in before.items())


def _anchors(levels):
    sizes = tuple((8 * 2**i,) for i in range(levels))
    return {
        "rpn_anchor_generator": AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * levels),
        "box_roi_pool": MultiScaleRoIAlign([str(i) for i in range(levels - 1)], 7, 2),
    }


@families
def test_the_configuration_makes_the_network_again(family):
    network = SMALL[family](5, PRESETS["unified"], in_chans=1)
    config = dict(network.config)
    again = getattr(ux.models, config.pop("network"))(**config)
    again.load_state_dict(network.state_dict())
    x = image(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), network.eval()(x))
    assert set(config) == set(inspect.signature(type(network)).parameters)


@families
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_classes": -1}, ValueError, "num_classes must be at least 0, got -1"),
        ({"num_classes": 2.5}, TypeError, "num_classes must be an int, got 2.5"),
        ({"in_chans": 0}, ValueError, "in_chans must be at least 1, got 0"),
        ({"depths": (1, 1, 0, 1)}, ValueError, "depths must be at least 1"),
        ({"spec": 3}, TypeError, "spec must be an ExtractorSpec or a preset's name, got 3"),
        ({"spec": "involutoin"}, ValueError, "spec: no preset 'involutoin', did you mean involution"),
        ({"spec": [ux.presets.convolution()] * 9}, ValueError, "spec must be one ExtractorSpec or a list of"),
        (
            {"spec": ux.presets.involution(channels_per_group=7)},
            ValueError,
            "spec does not fit into stage 1 .*channels_per_group must divide",
        ),
        ({"spec": dataclasses.replace(ux.presets.convolution(), padding=0)}, ValueError, r"spec\.padding must be 'same'"),
    ],
    ids=["classes", "float", "channels", "depths", "spec", "name", "specs", "groups", "padding"],
)
def test_arguments_that_make_no_network_are_refused_by_name(family, options, error, message):
    with pytest.raises(error, match=message):
        SMALL[family](**options)


@pytest.mark.parametrize(
    ("family", "options", "error", "message"),
    [
        ("volo", {"img_size": None}, TypeError, r"img_size must be an int or \(y, x\), got None"),
        ("volo", {"img_size": "64"}, TypeError, r"img_size must be an int or \(y, x\), got '64'"),
        ("volo", {"heads": (2,)}, ValueError, r"heads must be 2 ints, got \(2,\)"),
        ("rednet", {"depths": (1, 1)}, ValueError, r"depths must be 4 ints, got \(1, 1\)"),
        ("resnet", {"depths": 4}, TypeError, "depths must be a list of ints, got 4"),
        ("rednet", {"stem_kernel_size": "3"}, TypeError, "stem_kernel_size must be an int, got '3'"),
        ("internimage", {"published": [PRESETS["unified"]]}, ValueError, "published must be one ExtractorSpec or a list of 4"),
        ("internimage", {"published": "dcnv3"}, ValueError, "published: no preset 'dcnv3'"),
        ("cifar_resnet", {"depths": (1, 1)}, ValueError, "widths and depths must have one value for each stage"),
        ("cifar_resnet", {"widths": (32, 16, 16)}, ValueError, "widths must not decrease, got 32 before 16"),
        ("fast_net", {"depths": (1, 1)}, ValueError, "widths and depths must have one value for each stage"),
        ("fast_net", {"logit_scale": 0}, ValueError, "logit_scale must be positive"),
        ("internimage", {"width": 2.0}, TypeError, "width must be an int, got 2.0"),
        ("extractor_net", {"depths": (1,)}, ValueError, "widths and depths must have one value for each stage"),
        ("extractor_net", {"mlp_ratio": (1.0,)}, ValueError, "widths and mlp_ratio must have one value for each stage"),
        (
            "resnet",
            {"spec": [ux.presets.convolution(), *[ux.presets.outlook_attention(heads=5)] * 3]},
            ValueError,
            "spec does not fit into stage 2 with its 128 channels: dynamic_kernel.groups must divide in_channels",
        ),
        ("volo", {"mlp_ratio": -1.0}, ValueError, "mlp_ratio must be positive"),
        ("extractor_net", {"mlp_ratio": "2"}, TypeError, "mlp_ratio must be a number"),
        ("internimage", {"layer_scale": "a"}, TypeError, "layer_scale must be a number"),
    ],
)
def test_a_family_refuses_its_own_arguments_by_name(family, options, error, message):
    with pytest.raises(error, match=message):
        SMALL[family](5, **options)


def test_internimages_own_extractors_need_no_naming():
    network = ux.models.InternImage(5, width=32, depths=(1, 1, 1, 1))
    assert network.specs == [ux.presets.deformable_convolution(3, groups=g) for g in (2, 4, 8, 16)]
    assert ux.models.InternImage(5, published=PRESETS["unified"], width=32, depths=(1, 1)).specs == [PRESETS["unified"]] * 2


def test_a_position_embedding_has_the_size_of_the_map_it_is_for():
    for size in (63, 64, 72, 75, 224):
        network = ux.models.VOLO(5, depths=(1, 1, 1, 1), widths=(16, 16), heads=(1, 1), stem_width=32, img_size=size).eval()
        feature_map = network.forward_intermediates(image(1, 3, size, size), [-1], intermediates_only=True)[0]
        assert network.stage2[0][1].embedding.shape == feature_map.shape


@families
def test_timms_optimizer_finds_what_it_asks_for(family):
    network = SMALL[family](5)
    undecayed = {"stage2.0.1.embedding", "head.class_token"} if family == "volo" else set()
    assert network.no_weight_decay() == undecayed <= dict(network.named_parameters()).keys()
    by_stage = group_parameters(network, network.group_matcher(coarse=True))
    assert len(by_stage) == len(network.stages) + 1 + any(True for _ in network.stem.parameters())
    groups = timm.optim.param_groups_layer_decay(network, layer_decay=0.5)
    scale_of = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    scales = {name: scale_of[parameter] for name, parameter in network.named_parameters()}
    assert all(scale == 1.0 for name, scale in scales.items() if name.startswith("head"))
    assert scales["stage2.0." + name_in(network.stage2[0])] < scales["stage3.0." + name_in(network.stage3[0])] < 1.0


def name_in(module):
    return next(name for name, _ in module.named_parameters())


@families
def test_wrong_calls_are_refused_by_name(family):
    network = SMALL[family](5)
    with pytest.raises(ValueError, match=r"x must be \[B, in_chans, H, W\] with in_chans=3, got shape \[1, 1, 64, 64\]"):
        network(image(1, 1, 64, 64))
    with pytest.raises(ValueError, match="indices must name stages 0 to"):
        network.forward_intermediates(image(1, 3, 64, 64), [9])
    with pytest.raises(ValueError, match="got 9"):
        network.forward_intermediates(image(1, 3, 64, 64), 9)
    for indices in (1.5, "12", [0.5]):
        with pytest.raises(TypeError, match="indices must be an int, a list of ints or None"):
            network.forward_intermediates(image(1, 3, 64, 64), indices)
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW'"):
        network.forward_intermediates(image(1, 3, 64, 64), output_fmt="NLC")
    with pytest.raises(ValueError, match="global_pool must be None or"):
        network.reset_classifier(5, "median")
    network.prune_intermediate_layers([0])
    assert isinstance(network.get_classifier(), torch.nn.Identity)
    with pytest.raises(ValueError, match="the network has no head"):
        network.reset_classifier(5)


@pytest.mark.parametrize(
    "sizes",
    [{"depths": (1, 1)}, {"widths": (32,)}, {"heads": (2, 5)}, {"heads": (5, 4)}, {"img_size": 14}, {"img_size": (64,) * 3}],
    ids=str,
)
def test_volo_refuses_sizes_that_do_not_belong_together(sizes):
    with pytest.raises(ValueError, match=next(iter(sizes))):
        SMALL["volo"](5, **sizes)


@pytest.mark.parametrize("size", [(14, 40), (40, 14), (1, 1)])
def test_volo_refuses_images_without_a_coarse_map(size):
    assert SMALL["volo"](5).eval()(image(1, 3, 15, 15)).shape == (1, 5)
    with pytest.raises(ValueError, match="x must be at least 15 pixels high and wide"):
        SMALL["volo"](5)(image(1, 3, *size))


@families
def test_odd_small_and_absent_images_are_taken(family):
    network = SMALL[family](5).eval()
    for shape in ((1, 3, 33, 47), (2, 3, 16, 16), (0, 3, 64, 64)):
        assert network(image(*shape)).shape == (shape[0], 5)


@families
def test_networks_are_copied_pickled_and_filled_after_the_meta_device(family):
    network = SMALL[family](5).eval()
    with torch.device("meta"):
        empty = SMALL[family](5)
    empty.to_empty(device="cpu").load_state_dict(network.state_dict())
    x = image(1, 3, 64, 64)
    with torch.no_grad():
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), empty.eval()):
            assert torch.equal(other(x), network(x))


def test_stages_are_children_in_the_order_of_their_use():
    for make in SMALL.values():
        network = make(5)
        stages = [f"stage{i + 1}" for i in range(len(network.stages))]
        assert [name for name, _ in network.named_children()] == ["stem", *stages, "norm", "head"]
        assert all(isinstance(stage, Stage) for stage in network.stages)
