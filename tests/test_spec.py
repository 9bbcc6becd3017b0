"""The spec: immutable, prints as the call that makes it, refuses what has no meaning and says which rule it breaks."""

import dataclasses
import inspect
import itertools
import json
import random
import re
from pathlib import Path

import pytest
import torch

import unified_extractor as ux
from tests.support.presets import PRESETS, UPSAMPLERS
from unified_extractor import ChannelKernel, DynamicKernel, ExtractorSpec, Generator, Offsets, Projection, StaticKernel, presets
from unified_extractor.named_specs import preset_names
from unified_extractor.profiling.cost import operator_multiply_adds
from unified_extractor.spec import asdict_changed

DENSE, DEPTHWISE = StaticKernel(channels="dense"), StaticKernel(channels="depthwise")
GATE = DynamicKernel(source="generated", groups=1, per_tap=False)
GENERATED = DynamicKernel(source="generated", groups=2)
GROUP_NORMED = DynamicKernel(source="generated", groups=2, normalization="group_norm")
OVER_TERMS = DynamicKernel(source="generated", groups=2, normalization="softmax", softmax_over="terms")
STANDARDIZED = DynamicKernel(source="generated", groups=2, normalization="standardized")
MIXED = {"static_kernel": DEPTHWISE, "dynamic_kernel": GATE, "terms": 2}
GAUSSIAN = DynamicKernel(source="gaussian", groups=2)
SIMILARITY = DynamicKernel(source="similarity", groups=2)
REGIONS = DynamicKernel(source="regions", groups=2)
TWO_WINDOWS = DynamicKernel(source="regions", groups=2, small_kernel_size=1)
LEARNED = Offsets(kind="learned")


@pytest.mark.parametrize("name", PRESETS | UPSAMPLERS)
def test_a_spec_is_rebuilt_from_its_repr_its_dict_and_its_changes(name):
    spec = (PRESETS | UPSAMPLERS)[name]
    assert eval(repr(spec)) == spec
    assert ExtractorSpec(**dataclasses.asdict(spec)) == spec
    assert ExtractorSpec(**asdict_changed(spec)) == spec
    assert hash(ExtractorSpec(**asdict_changed(spec))) == hash(spec)


@pytest.mark.parametrize("name", PRESETS)
def test_a_spec_is_written_to_yaml_and_read_from_it(name, tmp_path):
    spec = dataclasses.replace(PRESETS[name], dilation=(1, 2))
    text = spec.to_yaml(tmp_path / "spec.yaml")
    assert (tmp_path / "spec.yaml").read_text() == text
    assert ExtractorSpec.from_yaml(tmp_path / "spec.yaml") == spec
    assert ux.UnifiedExtractor2d(32, 32, str(tmp_path / "spec.yaml")).spec == spec


def test_a_spec_is_read_from_the_files_of_the_configurations(tmp_path):
    folder = Path(__file__).parents[1] / "configs"
    assert ExtractorSpec.from_yaml(folder / "extractor" / "involution.yaml") == presets.involution()
    assert ExtractorSpec.from_yaml(folder / "digits" / "unified.yaml") == presets.unified()
    assert ExtractorSpec.from_yaml(folder / "image_folder" / "unified.yaml") == presets.unified()  # names the file of its spec
    (tmp_path / "run.yaml").write_text("model: {network: {init_args: {spec: involution(kernel_size=3)}}}")
    assert ExtractorSpec.from_yaml(tmp_path / "run.yaml") == presets.involution(3)
    for text, error, message in (
        ("kernal_size: 3", TypeError, r"bad\.yaml: ExtractorSpec has no field 'kernal_size', did you mean kernel_size"),
        ("combine: add", ValueError, r"bad\.yaml: static_kernel"),
        ("[1, 2]", ValueError, r"bad\.yaml must hold the fields of one spec, got list"),
        ("model: 3", ValueError, r"bad\.yaml must hold the fields of one spec, got NoneType"),
        ("a: [1", ValueError, r"bad\.yaml is no YAML"),
        ("model: {network: {init_args: {spec: bad.yaml}}}", ValueError, r"bad\.yaml names itself"),
        (
            "model: {network: {init_args: {spec: involutoin}}}",
            ValueError,
            r"bad\.yaml: spec: no preset .* did you mean involution",
        ),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(error, match=message):
            ExtractorSpec.from_yaml(tmp_path / "bad.yaml")


def test_mappings_and_files_of_fields_stand_for_a_spec_and_near_misses_are_suggested(tmp_path):
    fields = {"kernel_size": [3, 5], "static_kernel": {"channels": "dense"}}
    (tmp_path / "spec.json").write_text(json.dumps(fields))
    (tmp_path / "SPEC.YAML").write_text("involution(kernel_size=3)")
    for given in (fields, tmp_path / "spec.json", str(tmp_path / "spec.json")):
        assert ux.UnifiedExtractor2d(32, 32, given).spec == presets.convolution((3, 5))
    assert ux.UnifiedExtractor2d(32, 32, tmp_path / "SPEC.YAML").spec == presets.involution(3)
    for wrong, error, message in (
        (presets.involution, TypeError, r"got the preset involution itself: call it, involution\(\.\.\.\)"),
        ("ux.presets.involution(3)", ValueError, "did you mean involution"),
        ("outlook-attention", ValueError, "did you mean outlook_attention"),
        ("involution(**{'kernel_size': 3})", ValueError, "must be the name of a preset, or its call"),
    ):
        with pytest.raises(error, match=message):
            ux.ExtractorConv2d(32, 32, wrong)


@pytest.mark.parametrize("text", ["involution", "involution(kernel_size=3)", "deformable_convolution(2)"])
def test_the_name_or_call_of_a_preset_stands_for_its_spec(text):
    spec = eval(f"presets.{text}" + "()" * (not text.endswith(")")))
    assert ux.UnifiedExtractor2d(32, 32, text).spec == spec
    assert ux.ExtractorConv2d(32, 64, text).layer.spec == spec
    assert ux.models.ExtractorNet(3, [text, spec], widths=(16, 32), depths=(1, 1)).specs == [spec, spec]
    geometry = ux.UnifiedExtractor2d(32, 32, spec).geometry(torch.zeros(1, 32, 8, 8))
    assert operator_multiply_adds(text, geometry, 32, 32) == operator_multiply_adds(spec, geometry, 32, 32)


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        presets.involution().kernel_size = 3


def test_preset_options_are_the_documented_ones():
    options = {name: list(inspect.signature(getattr(presets, name)).parameters) for name in preset_names()}
    assert options["convolution"] == ["kernel_size", "groups", "dilation", "bias"]
    assert options["involution"] == ["kernel_size", "channels_per_group", "reduction"]
    assert options["outlook_attention"] == ["kernel_size", "heads", "qkv_bias"]
    assert options["ls_convolution"] == ["kernel_size", "view", "channels_per_group"]
    assert options["deformable_convolution"] == [
        "version",
        "kernel_size",
        "groups",
        "offset_groups",
        "dilation",
        "offset_scale",
        "center_feature_scale",
        "remove_center",
    ]


CHANNELS = ChannelKernel(combine="multiply")
CONTRADICTIONS = [
    ({"static_kernel": DENSE, "channel_kernel": CHANNELS}, "channel_kernel.combine='multiply' needs a dynamic kernel beside it"),
    (
        {"dynamic_kernel": TWO_WINDOWS, "channel_kernel": CHANNELS},
        "channel_kernel.combine='multiply' needs dynamic_kernel.small_kernel_size None, got 1",
    ),
    (
        {"dynamic_kernel": dataclasses.replace(GENERATED, channel_order="interleaved"), "channel_kernel": CHANNELS},
        "channel_kernel.combine='multiply' needs dynamic_kernel.channel_order 'contiguous', got 'interleaved'",
    ),
    (
        {"dynamic_kernel": GENERATED, "aggregation": "fold", "channel_kernel": ChannelKernel(combine="add")},
        "channel_kernel.combine='add' needs aggregation 'gather', got 'fold'",
    ),
    (MIXED | {"channel_kernel": ChannelKernel(combine="add")}, "channel_kernel.combine='add' needs terms 1, got 2"),
    (
        {
            "dynamic_kernel": GENERATED,
            "kernel_size": 1,
            "channel_kernel": ChannelKernel(combine="add", normalization="standardized"),
        },
        "channel_kernel.normalization='standardized' needs a kernel_size of more than one tap, got kernel_size=1",
    ),
    ({}, "static_kernel.channels and dynamic_kernel.source"),
    ({"static_kernel": DENSE, "aggregation": "fold"}, "aggregation='fold' needs static_kernel.channels"),
    ({"static_kernel": DEPTHWISE, "dynamic_kernel": GENERATED, "combine": "add", "aggregation": "fold"}, "combine='add'"),
    ({"static_kernel": DENSE, "combine": "residual"}, "combine='residual' needs both kernels"),
    ({"dynamic_kernel": GENERATED, "combine": "add"}, "combine='add' needs both kernels"),
    ({"dynamic_kernel": GENERATED, "overlap_normalize": True}, "overlap_normalize needs aggregation='fold'"),
    ({"dynamic_kernel": SIMILARITY, "aggregation": "fold"}, "aggregation='fold' needs a kernel of K"),
    (
        {"dynamic_kernel": REGIONS, "aggregation": "fold"},
        "aggregation='fold' needs a kernel of K*K values, dynamic_kernel.source='regions'",
    ),
    ({"dynamic_kernel": REGIONS, "padding": 0}, "dynamic_kernel.source='regions' needs padding='same', got padding=0"),
    ({"dynamic_kernel": TWO_WINDOWS, "static_kernel": DENSE}, "small_kernel_size needs static_kernel.channels 'none'"),
    ({"dynamic_kernel": TWO_WINDOWS, "offsets": LEARNED}, "small_kernel_size needs offsets.kind 'none' or 'window_shift'"),
    ({"dynamic_kernel": SIMILARITY, "generator": Generator(reduction=4)}, "has nothing to generate"),
    (
        {"dynamic_kernel": GAUSSIAN, "offsets": LEARNED},
        "source='gaussian' needs offsets.kind 'none' or 'window_shift' or 'block'",
    ),
    ({"dynamic_kernel": GAUSSIAN, "padding": 0}, "dynamic_kernel.source='gaussian' needs padding='same', got padding=0"),
    ({"dynamic_kernel": GAUSSIAN, "upsample": 2}, "upsample=2 needs dynamic_kernel.source"),
    ({"dynamic_kernel": SIMILARITY, "padding": 0}, "dynamic_kernel.source='similarity' needs padding='same'"),
    (
        {"dynamic_kernel": SIMILARITY, "offsets": Offsets(kind="learned", groups=3)},
        "offsets.groups must divide dynamic_kernel.groups",
    ),
    ({"static_kernel": DENSE, "offsets": Offsets(kind="window_shift"), "kernel_size": 4}, "needs an odd kernel_size"),
    ({"static_kernel": DENSE, "offsets": Offsets(kind="window_shift"), "padding": 0}, "needs padding='same'"),
    (
        {"static_kernel": DENSE, "offsets": Offsets(kind="parameter", origin="center"), "padding": 0},
        "offsets.origin='center' needs padding='same', got padding=0",
    ),
    (
        {
            "dynamic_kernel": dataclasses.replace(GENERATED, channel_order="interleaved"),
            "offsets": Offsets(kind="learned", channels_per_group=1),
        },
        "'interleaved' contradicts static_kernel.channels='none', offsets.groups=1 or offsets.channels_per_group=1",
    ),
    ({"static_kernel": DENSE, "offsets": Offsets(kind="block"), "padding": 0}, "offsets.kind='block' needs padding='same'"),
    ({"dynamic_kernel": GENERATED, "padding": 0}, "padding=0 contradicts generator.view=1"),
    ({"dynamic_kernel": GATE, "aggregation": "fold"}, "dynamic_kernel.per_tap=False contradicts aggregation='fold'"),
    ({"static_kernel": DENSE, "terms": 2}, "terms=2 needs dynamic_kernel.source 'generated', got 'none'"),
    ({"dynamic_kernel": GATE, "terms": 2}, "terms=2 needs static_kernel.channels 'dense' or 'depthwise', got 'none'"),
    (MIXED | {"aggregation": "fold", "dynamic_kernel": GENERATED}, "terms=2 needs aggregation 'gather', got 'fold'"),
    (MIXED | {"combine": "residual"}, "terms=2 needs combine 'multiply', got 'residual'"),
    (MIXED | {"dynamic_kernel": GROUP_NORMED}, "terms=2 needs dynamic_kernel.normalization"),
    (MIXED | {"terms": 1, "bias": "mixed"}, "bias='mixed' needs terms of more than 1, got terms=1"),
    (MIXED | {"dynamic_kernel": GENERATED, "bias": "mixed"}, "bias='mixed' needs dynamic_kernel.per_tap=False or generator.view"),
    (
        MIXED | {"dynamic_kernel": STANDARDIZED, "bias": "mixed", "generator": Generator(view="pooled")},
        "bias='mixed' has one value for all taps, dynamic_kernel.normalization='standardized'",
    ),
    (
        {"dynamic_kernel": GENERATED, "generator": Generator(view="pooled"), "aggregation": "fold"},
        "generator.view='pooled', of one value for each tap, needs aggregation 'gather', got 'fold'",
    ),
    (
        {"dynamic_kernel": GENERATED, "generator": Generator(view="pooled"), "offsets": LEARNED},
        "of one value for each tap, needs offsets.kind 'none' or 'parameter' or 'window_shift' or 'block', got 'learned'",
    ),
    (
        MIXED | {"dynamic_kernel": GENERATED, "generator": Generator(view="runs")},
        "generator.view='runs', of one value for each tap, needs terms 1, got 2",
    ),
    ({"dynamic_kernel": STANDARDIZED, "kernel_size": 1}, "normalization='standardized' needs a kernel_size of more than one tap"),
    ({"dynamic_kernel": OVER_TERMS}, "dynamic_kernel.softmax_over='terms' needs terms of more than 1, got terms=1"),
    ({"static_kernel": DENSE, "modulation": "gelu", "padding": 0}, "modulation='gelu' contradicts padding=0"),
    (
        {"dynamic_kernel": GENERATED, "center_feature_scale": True, "aggregation": "fold"},
        "center_feature_scale needs aggregation",
    ),
    (
        {"upsample": 2, "dynamic_kernel": GENERATED, "aggregation": "fold"},
        "upsample=2 needs aggregation 'gather', got 'fold'",
    ),
    ({"upsample": (1, 2), "dynamic_kernel": SIMILARITY}, "upsample=(1, 2) needs dynamic_kernel.source 'none' or 'generated'"),
    (
        {"upsample": 2, "dynamic_kernel": GENERATED, "center_feature_scale": True},
        "upsample=2 needs center_feature_scale False, got True",
    ),
    ({"upsample": 2, "static_kernel": DENSE, "modulation": "silu"}, "upsample=2 needs modulation 'none', got 'silu'"),
    ({"dynamic_kernel": GENERATED, "generator": Generator(pixel_shuffle=True)}, "generator.pixel_shuffle=True needs upsample"),
    ({"dynamic_kernel": GENERATED, "generator": Generator(guide="output")}, "generator.guide='output' needs upsample of more"),
    (
        {"dynamic_kernel": dataclasses.replace(GATE, normalization="group_norm"), "generator": Generator(view="global")},
        "dynamic_kernel.normalization='group_norm' contradicts generator.view='global'",
    ),
    ({"upsample": (2, 0), "static_kernel": DENSE}, "upsample must be at least 1, got (2, 0)"),
    ({"static_kernel": DENSE, "center_feature_scale": True}, "center_feature_scale needs static_kernel.channels"),
    ({"dynamic_kernel": SIMILARITY, "center_feature_scale": True}, "center_feature_scale needs dynamic_kernel.source"),
    (
        {"dynamic_kernel": GENERATED, "center_feature_scale": True, "kernel_size": 2},
        "center_feature_scale needs an odd kernel_size",
    ),
]


@pytest.mark.parametrize(("fields", "message"), CONTRADICTIONS, ids=[m for _, m in CONTRADICTIONS])
def test_fields_that_contradict_each_other_are_named(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ExtractorSpec(**fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Offsets(groups=2), "offsets.groups=2 needs offsets.kind 'learned' or 'parameter', got 'none'"),
        (lambda: Offsets(kind="parameter", scale=2.0), "offsets.scale=2.0 needs offsets.kind 'learned', got 'parameter'"),
        (lambda: Offsets(gated=True), "offsets.gated=True needs offsets.kind 'learned', got 'none'"),
        (lambda: Offsets(kind="window_shift", bound="image"), "offsets.bound='image' needs offsets.kind 'learned' or 'par"),
        (lambda: Offsets(origin="center"), "offsets.origin='center' needs offsets.kind 'learned' or 'parameter', got 'none'"),
        (lambda: Offsets(kind="learned", groups=2, channels_per_group=2), "one of offsets.groups and offsets.channels_per_group"),
        (lambda: Offsets(kind="learned", channels_per_group=0), "offsets.channels_per_group must be at least 1, got 0"),
        (lambda: Offsets(kind="parameter", bound="tanh"), "'tanh' need offsets.reach, .* got bound='tanh', reach=None"),
        (lambda: Offsets(kind="parameter", bound="image", reach=1), "others have none, got bound='image', reach=1"),
        (lambda: Offsets(kind="parameter", bound="clamp", reach=(1, -1)), r"offsets.reach must be at least 0, got \(1, -1\)"),
        (lambda: presets.dcls(extent=(3, 4)), r"^extent must be odd, .* got \(3, 4\)"),
        (lambda: Offsets(halo=1), "offsets.halo=1 needs offsets.kind 'block', got 'none'"),
        (lambda: Offsets(kind="block", groups=2), "offsets.groups=2 needs offsets.kind 'learned' or 'parameter', got 'block'"),
        (lambda: Offsets(kind="block", block_start=-1), "offsets.block_start must be at least 0, got -1"),
        (lambda: presets.window_attention(4, halo=2), r"2\*offsets.halo \+ offsets.block_start, .* got kernel_size=4, halo=2"),
        (lambda: presets.window_attention(5, halo=(0, 1), block_start=(0, 3)), r"got kernel_size=5, .* block_start=\(0, 3\)"),
        (lambda: presets.window_attention(heads=0), "^heads must be at least 1, got 0"),
        (lambda: presets.dcls(taps=0), "^taps must be at least 1, got 0"),
        (lambda: presets.dcls(extent=(3, 0)), r"^extent must be at least 1, got \(3, 0\)"),
        (lambda: presets.ddf(kernel_size=(0, 3)), r"^kernel_size must be at least 1, got \(0, 3\)"),
        (lambda: Generator(view="window", pixel_shuffle=True), "generator.pixel_shuffle=True needs generator.view in output"),
        (lambda: presets.dysample(style="lq"), "^style must be one of"),
        (lambda: Offsets(kind="learned", scale=float("nan")), "offsets.scale must be finite"),
        (lambda: StaticKernel(channels="depthwise", groups=2), "static_kernel.groups needs static_kernel.channels='dense'"),
        (lambda: DynamicKernel(source="generated"), "exactly one of dynamic_kernel.groups and dynamic_kernel.channels_per_group"),
        (lambda: DynamicKernel(source="generated", groups=1, channels_per_group=1), "exactly one of"),
        (
            lambda: DynamicKernel(normalization="softmax"),
            "dynamic_kernel.normalization='softmax' contradicts dynamic_kernel.source",
        ),
        (lambda: DynamicKernel(source="generated", groups=1, relative_position=True), "relative_position=True needs"),
        (
            lambda: dataclasses.replace(GENERATED, query_reduction=2),
            "query_reduction=2 needs dynamic_kernel.source 'similarity' or 'reg",
        ),
        (lambda: dataclasses.replace(SIMILARITY, regions=3), "regions=3 needs dynamic_kernel.source 'regions', got 'similarity'"),
        (
            lambda: dataclasses.replace(SIMILARITY, small_kernel_size=3),
            "small_kernel_size=3 needs dynamic_kernel.source 'regions'",
        ),
        (lambda: dataclasses.replace(REGIONS, regions=0), "dynamic_kernel.regions must be at least 1, got 0"),
        (lambda: dataclasses.replace(REGIONS, initial="zero"), "initial='zero' contradicts dynamic_kernel.source='regions'"),
        (
            lambda: dataclasses.replace(REGIONS, learned_queries=2),
            "learned_queries=2 needs dynamic_kernel.source 'similarity', got 'regions'",
        ),
        (lambda: dataclasses.replace(SIMILARITY, tap_scale=True), "tap_scale=True needs dynamic_kernel.learned_queries of at"),
        (
            lambda: dataclasses.replace(SIMILARITY, normalize_query=True),
            "normalize_query=True needs dynamic_kernel.learned_queries",
        ),
        (lambda: dataclasses.replace(SIMILARITY, learned_queries=-1), "learned_queries must be at least 0, got -1"),
        (lambda: dataclasses.replace(REGIONS, relative_position="query"), "relative_position='query' needs .*'similarity', got"),
        (
            lambda: dataclasses.replace(SIMILARITY, relative_position="query", learned_queries=1),
            "relative_position='query' needs dynamic_kernel.learned_queries=0, .* got 1",
        ),
        (lambda: presets.qna(queries=0), "^queries must be at least 1, got 0"),
        (lambda: presets.contmix(5, 7), "small_kernel_size must be kernel_size or an even number of taps less"),
        (lambda: presets.contmix(5, 2), "small_kernel_size=2, kernel_size=5"),
        (lambda: dataclasses.replace(GENERATED, gain=0), "dynamic_kernel.gain must be finite and not 0, got 0"),
        (lambda: dataclasses.replace(SIMILARITY, gain=2), "dynamic_kernel.gain=2.0 needs dynamic_kernel.source 'generated'"),
        (lambda: Generator(guide="output", pixel_shuffle=True), "pixel_shuffle=True contradicts generator.guide='output'"),
        (lambda: Generator(view="global", guide="output"), "generator.guide='output' needs generator.view in output positions"),
        (lambda: Generator(view="window", downsample="skip"), "generator.downsample='skip' needs generator.view in output"),
        (lambda: ChannelKernel(learned_gain=True), "channel_kernel.learned_gain=True contradicts channel_kernel.combine='none'"),
        (
            lambda: ChannelKernel(combine="add", generator=Generator()),
            "channel_kernel.combine='add' needs channel_kernel.generator.view 'global', 'pooled' or 'runs', got 1",
        ),
        (lambda: presets.ddf(combine="mul"), "^combine must be one of"),
        (lambda: presets.contmix(heads=0), "^heads must be at least 1, got 0"),
        (
            lambda: dataclasses.replace(GAUSSIAN, normalization="sigmoid"),
            "'sigmoid' contradicts dynamic_kernel.source='gaussian'",
        ),
        (lambda: dataclasses.replace(GAUSSIAN, query_reduction=2), "query_reduction=2 needs dynamic_kernel.source"),
        (lambda: DynamicKernel(source="similarity", groups=1, remove_center=True), "remove_center=True contradicts"),
        (lambda: DynamicKernel(source="similarity", groups=1, per_tap=False), "per_tap=False contradicts dynamic_kernel.source"),
        (lambda: dataclasses.replace(GATE, normalization="softmax"), "'softmax' is of several taps, it contradicts"),
        (lambda: dataclasses.replace(GENERATED, softmax_over="terms"), "softmax_over='terms' needs dynamic_kernel.normalization"),
        (lambda: dataclasses.replace(STANDARDIZED, initial="zero"), "initial='zero' contradicts dynamic_kernel.normalization"),
        (lambda: dataclasses.replace(SIMILARITY, normalization="centered"), "'centered' contradicts dynamic_kernel.source='sim"),
        (lambda: dataclasses.replace(GATE, normalization="centered"), "'centered' is of several taps, it contradicts"),
        (lambda: dataclasses.replace(OVER_TERMS, initial="one"), "initial='one' contradicts dynamic_kernel.normalization"),
        (lambda: presets.conditional_convolution(experts=1), "^experts must be at least 2"),
        (lambda: presets.gated_convolution(activation="none"), "^activation must be one of"),
        (lambda: dataclasses.replace(GATE, remove_center=True), "remove_center=True is of several taps, it contradicts"),
        (
            lambda: Generator(reduction=2, hidden_channels=8),
            "one of generator.reduction and generator.hidden_channels may be set",
        ),
        (lambda: Generator(hidden_channels=0), "generator.hidden_channels must be at least 1, got 0"),
        (lambda: presets.carafe(groups=0), "^groups must be at least 1, got 0"),
        (lambda: Generator(norm="batch"), "generator.norm='batch' has nothing to act on"),
        (lambda: Generator(view_convolution="dense"), "needs a neighborhood as generator.view"),
        (lambda: Generator(view=3, view_convolution="dense", pointwise=True), "generator.pointwise=True contradicts"),
        (lambda: presets.outlook_attention(heads=0), "^heads must be at least 1, got 0"),
        (lambda: presets.neighborhood_attention(heads=-1), "^heads must be at least 1, got -1"),
        (lambda: presets.unified(offset_groups=0), "^offset_groups must be at least 1, got 0"),
        (lambda: presets.deformable_convolution(4, groups=0), "^groups must be at least 1, got 0"),
        (lambda: presets.deformable_convolution(1, offset_scale=float("inf")), "^offset_scale must be finite, got inf"),
        (lambda: presets.deformable_convolution(5), "version must be 1, 2, 3 or 4, got 5"),
        (lambda: presets.deformable_convolution(2, remove_center=True), "need version 3 or 4"),
        (lambda: presets.deformable_convolution(3, offset_groups=2), "offset_groups needs version 1 or 2"),
    ],
)
def test_a_part_refuses_what_it_cannot_mean(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: presets.local_attention(heads="2"), "^heads must be int, got '2'"),
        (lambda: presets.outlook_attention(qkv_bias="yes"), "^qkv_bias must be bool, got 'yes'"),
        (lambda: presets.unified(offsets=1), "^offsets must be bool, got 1"),
        (lambda: presets.ddf("3"), "^kernel_size must be an int or a pair .* got '3'"),
        (lambda: presets.ddf((3,)), r"^kernel_size must be an int or a pair .* got \(3,\)"),
        (lambda: presets.ddf(None), "^kernel_size must be an int or a pair .* got None"),
        (lambda: presets.dcls(extent=(3, 5, 7)), r"^extent must be an int or a pair .* got \(3, 5, 7\)"),
        (lambda: presets.dcls(extent=()), r"^extent must be an int or a pair .* got \(\)"),
        (lambda: presets.deformable_convolution(2, offset_scale="2"), "^offset_scale must be float, got '2'"),
    ],
)
def test_a_preset_names_the_argument_of_a_wrong_type(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"kernel_size": "3"}, TypeError, "kernel_size must be int or tuple"),
        ({"kernel_size": 0}, ValueError, "kernel_size must be at least 1, got 0"),
        ({"kernel_size": (3, 3, 3)}, TypeError, "kernel_size"),
        ({"kernel_size": True}, TypeError, "kernel_size"),
        ({"dilation": 0}, ValueError, "dilation must be at least 1"),
        ({"padding": -1}, ValueError, "padding must be at least 0"),
        ({"padding": "valid"}, (TypeError, ValueError), "padding"),
        ({"combine": "mul"}, ValueError, r"combine must be one of \('multiply', 'add', 'residual'\), got 'mul'"),
        ({"bias": 1}, TypeError, "bias must be bool"),
        ({"static_kernel": {"chanels": "dense"}}, ValueError, "static_kernel has no field 'chanels'"),
        ({"static_kernel": "dense"}, TypeError, "static_kernel must be StaticKernel"),
    ],
)
def test_a_wrong_type_or_name_is_an_error_that_names_the_field(fields, error, message):
    with pytest.raises(error, match=message):
        ExtractorSpec(**({"static_kernel": DENSE} | fields))


def random_spec(rng):
    """Return any combination of switches, legal or not."""
    source = rng.choice(["none", "generated", "generated", "similarity", "gaussian", "regions"])
    dynamic = {"source": source}
    if source == "regions":
        dynamic |= {"regions": rng.choice([1, 7, (2, 3)]), "small_kernel_size": rng.choice([None, None, 1, (1, 3)])}
    if source in ("regions", "similarity"):
        dynamic |= {"query_reduction": rng.choice([1, 2])}
        dynamic |= {"learned_queries": rng.choice([0, 0, 1, 2])} if source == "similarity" else {}
        dynamic |= (
            {"normalize_query": rng.random() < 0.5, "tap_scale": rng.random() < 0.5} if dynamic.get("learned_queries") else {}
        )
    if source != "none":
        dynamic |= {rng.choice(["groups", "channels_per_group"]): rng.choice([1, 2, 4])}
        dynamic |= {
            "normalization": rng.choice(["none", "softmax", "sigmoid", "group_norm", "centered", "standardized"]),
        }
        dynamic |= {"channel_order": rng.choice(["contiguous", "interleaved"]), "scale_by_head_dim": rng.random() < 0.5}
        dynamic |= {"remove_center": rng.random() < 0.2, "relative_position": rng.choice([False, False, True, "query"])}
        dynamic |= {"per_tap": rng.random() < 0.7, "softmax_over": rng.choice(["taps", "taps", "terms"])}
        dynamic |= {"initial": rng.choice(["random", "random", "random", "one"])}
        dynamic |= {"gain": rng.choice([1.0, 1.0, 0.5])} if source == "generated" else {}
    generator = {}
    if source == "generated" or rng.random() < 0.3:
        generator = {
            "view": rng.choice([1, 3, (2, 5), "window", "global", "pooled", "runs"]),
            "view_convolution": rng.choice(["depthwise", "depthwise", "dense"]),
            rng.choice(["reduction", "reduction", "hidden_channels"]): rng.choice([None, 1, 2, 64]),
            "pointwise": rng.random() < 0.3,
            "norm": rng.choice(["none", "batch", "layer"]),
            "activation": rng.choice(["none", "relu", "gelu"]),
            "pixel_shuffle": rng.random() < 0.15,
            "downsample": rng.choice(["average", "average", "skip"]),
        }
    offsets = {"kind": rng.choice(["none", "learned", "parameter", "window_shift", "block"])}
    if offsets["kind"] == "block":
        offsets |= {"halo": rng.choice([0, 0, 1, (0, 1)]), "block_start": rng.choice([0, 0, 1, (1, 2)])}
    if offsets["kind"] in ("learned", "parameter") or rng.random() < 0.1:
        offsets |= {rng.choice(["groups", "groups", "channels_per_group"]): rng.choice([1, 1, 2])}
    if offsets["kind"] in ("learned", "parameter"):
        offsets |= {"bound": rng.choice(["none", "image", "clamp", "tanh"]), "origin": rng.choice(["grid", "center"])}
        offsets |= {
            "reach": rng.choice([1, (2, 3)]) if offsets["bound"] in ("clamp", "tanh") else None,
            "gated": rng.random() < 0.2,
        }
    return {
        "kernel_size": rng.choice([1, 2, 3, (3, 5)]),
        "dilation": rng.choice([1, 1, 2]),
        "padding": rng.choice(["same", "same", "same", 1, (0, 2)]),
        "offsets": offsets,
        "static_kernel": {"channels": rng.choice(["none", "dense", "depthwise"]), "groups": rng.choice([1, 1, 2])},
        "dynamic_kernel": dynamic,
        "generator": generator,
        "channel_kernel": random_channel_kernel(rng),
        "terms": rng.choice([1, 1, 2, 3]),
        "combine": rng.choice(["multiply", "multiply", "add", "residual"]),
        "aggregation": rng.choice(["gather", "gather", "fold"]),
        "upsample": rng.choice([1, 1, 1, 2, (1, 2)]),
        "overlap_normalize": rng.random() < 0.2,
        "center_feature_scale": rng.random() < 0.2,
        "projection": {
            "input": rng.choice(["none", "linear", "affine", "batch_norm"]),
            "output": rng.choice(["none", "linear", "affine"]),
        },
        "bias": rng.choice([False, False, True, "mixed"]),
        "modulation": rng.choice(["none", "none", "identity", "sigmoid", "silu", "gelu"]),
    }


def random_channel_kernel(rng):
    combine = rng.choice(["none", "none", "multiply", "add"])
    if combine == "none":
        return {}
    return {
        "combine": combine,
        "generator": {"view": rng.choice(["global", "pooled", "runs"]), "reduction": rng.choice([None, 1, 2]), "norm": "batch"},
        "normalization": rng.choice(["none", "softmax", "sigmoid", "centered", "standardized"]),
        "learned_gain": rng.random() < 0.5,
    }


FOCUS = {
    "a channel kernel": lambda fields, rng: fields | {
        "dynamic_kernel": {"source": "generated", "groups": 2, "normalization": rng.choice(["none", "standardized"])},
        "channel_kernel": {
            "combine": rng.choice(["multiply", "add"]),
            "generator": {"view": rng.choice(["global", "pooled"]), "reduction": 2},
            "learned_gain": rng.random() < 0.5,
        },
    },
    "anything": lambda fields, rng: fields,
    "a pooled view": lambda fields, rng: fields | {
        "dynamic_kernel": fields["dynamic_kernel"] | {"source": "generated", "groups": None, "channels_per_group": rng.choice([1, 2])},
        "generator": {"view": rng.choice(["pooled", "runs"]), "reduction": rng.choice([1, 2]), "activation": "relu"},
        "offsets": {"kind": rng.choice(["none", "window_shift"])},
    },
    "sampling points": lambda fields, rng: fields | {
        "offsets": rng.choice([
            {"kind": "block", "halo": rng.choice([0, (0, 1)]), "block_start": rng.choice([0, (1, 0)])},
            {"kind": rng.choice(["learned", "parameter"]), rng.choice(["groups", "channels_per_group"]): rng.choice([1, 2]),
             "origin": rng.choice(["grid", "center"])} | rng.choice([{}, {"bound": "image"}, {"bound": "tanh", "reach": 2}]),
        ]),
        "kernel_size": rng.choice([3, (2, 5)]), "padding": "same",
    },
    "learned queries": lambda fields, rng: fields | {
        "dynamic_kernel": {"source": "similarity", "groups": 2, "learned_queries": rng.choice([1, 3]), "tap_scale": rng.random() < 0.5,
                           "relative_position": rng.random() < 0.5, "normalization": rng.choice(["none", "softmax", "sigmoid"])},
        "generator": {}, "terms": 1,
    },
    "regions": lambda fields, rng: fields | {
        "dynamic_kernel": fields["dynamic_kernel"] | {"source": "regions", "groups": 2, "channels_per_group": None},
        "offsets": {"kind": rng.choice(["none", "window_shift", "learned"])},
        "terms": 1,
    },
}  # fmt: skip
"""Changes of a random spec that more often make it legal."""


@pytest.mark.parametrize(
    ("focus", "number"),
    [
        ("anything", 30),
        ("a pooled view", 10),
        ("regions", 10),
        ("sampling points", 15),
        ("learned queries", 10),
        ("a channel kernel", 12),
        *(pytest.param(name, 300, marks=pytest.mark.thorough) for name in FOCUS),
    ],
)
def test_every_combination_of_switches_trains_or_is_refused_with_a_value_error(focus, number):
    rng, built, refusals = random.Random(0), 0, set()
    for _ in itertools.count():
        try:
            spec = ExtractorSpec(**FOCUS[focus](random_spec(rng), rng))
            layer = ux.UnifiedExtractor2d(8, 8, spec, rng.choice([1, 2]))
        except ValueError as error:
            refusals.add(str(error))
            continue
        built += 1
        x = torch.randn(2, 8, 11, 12, requires_grad=True)
        y = layer(x)
        assert y.isfinite().all()
        y.square().sum().backward()
        assert x.grad.isfinite().all(), spec
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, f"{name} of {spec} has no part in the output"
            assert parameter.grad.isfinite().all()
        if built == number:
            break
    assert len(refusals) > 20


def test_projection_is_part_of_the_printed_call():
    assert "Projection(input='linear'" in repr(presets.outlook_attention())
    assert Projection().changed() == {}
    assert LEARNED.changed() == {"kind": "learned"}
