"""Whatever name a user misspells, the error suggests the right one."""

import re
from dataclasses import replace
from inspect import signature

import pytest
import torch

import unified_extractor as ux
from tests.support.rows import row
from unified_extractor.__main__ import main
from unified_extractor.commands.report import chosen
from unified_extractor.names import did_you_mean, suggesting_arguments
from unified_extractor.results.comparison import compare
from unified_extractor.results.statistics import values_of

PUBLIC = [
    *(getattr(room, name) for room in (ux, ux.layers, ux.models, ux.interop) for name in room.__all__),
    *(
        value
        for name, value in vars(ux.presets).items()
        if getattr(value, "__module__", "") == ux.presets.__name__ and name[0] != "_"
    ),
]
"""What users call with named arguments."""
TAKE_NONE = {
    "backends",
    "deform_conv_nodes",
    "official_layer",
    "StagedNetwork",
    "Replacements",
    "ImageTask",
    "AttentionKernel",
    "LinearKernel",
}
"""Functions without arguments of their own, bases, and results; tuples, whose constructors are Python's."""
PUBLIC = sorted({one for one in PUBLIC if callable(one) and one.__name__ not in TAKE_NONE}, key=lambda one: one.__qualname__)


def test_the_nearest_name_is_suggested_and_none_where_none_is_near():
    assert did_you_mean("softmx", ("none", "softmax")) == ", did you mean softmax?"
    assert did_you_mean("Group-Norm", ("none", "group_norm")) == ", did you mean group_norm?"
    assert did_you_mean("layer", ("none", "softmax")) == ""
    assert did_you_mean(None, (1, 2)) == ""
    assert did_you_mean("x", ()) == ""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ux.DynamicKernel(source="generatd", groups=1),
            "DynamicKernel.source must be one of ('none', 'generated', 'similarity', 'gaussian', 'regions'), got 'generatd', "
            "did you mean generated?",
        ),
        (lambda: ux.ExtractorSpec(padding="smae"), "must be int or tuple[int, int] or 'same', got 'smae', did you mean same?"),
        (lambda: ux.Generator(view="windw"), "'pooled' or 'runs', got 'windw', did you mean window?"),
        (lambda: ux.ExtractorSpec(generator={"vew": 3}), "ExtractorSpec.generator has no field 'vew', did you mean view?"),
        (lambda: ux.UnifiedExtractor2d(16, 16, "involutoin"), "spec: no preset 'involutoin', did you mean involution?"),
        (lambda: ux.models.resnet26(10, "unifed"), "spec: no preset 'unifed', did you mean unified?"),
        (lambda: ux.interop.load_official(torch.nn.Linear(1, 1), {}, "rednt"), "got 'rednt', did you mean rednet?"),
        (lambda: ux.extract(torch.zeros(1, 1, 3, 3), kernel_size=3, backend="eagr"), "got 'eagr', did you mean eager?"),
        (lambda: ux.extract(torch.zeros(1, 1, 3, 3), kernel_size=3, aggregation="gathr"), "got 'gathr', did you mean gather?"),
        (lambda: ux.extract(torch.zeros(1, 1, 3, 3), kernel_size=3, padding="smae"), "got 'smae', did you mean same?"),
        (lambda: values_of([row("a")], "test_acuracy"), "got 'test_acuracy', did you mean test_accuracy?"),
        (lambda: compare([row("static"), row("plain")], baseline="statc"), "static, plain, did you mean static?"),
        (lambda: chosen([row("static")], ["sttic"]), "no row of variant 'sttic', there are static, did you mean static?"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_an_operator_that_is_a_module_of_several_extractors_is_pointed_to(capsys):
    pointer = "VAN's large kernel attention is two windows in a row, .* unified_extractor.layers.LargeKernelAttention"
    with pytest.raises(AttributeError, match=f"no attribute 'visual_attention': {pointer}"):
        _ = ux.presets.visual_attention
    with pytest.raises(ValueError, match=f"no preset 'visual_attention': {pointer}"):
        ux.UnifiedExtractor2d(8, 8, "visual_attention")
    with pytest.raises(SystemExit):
        main(["describe", "visual_attention"])
    assert "unified_extractor.layers.LargeKernelAttention" in capsys.readouterr().err
    with pytest.raises(AttributeError, match="no attribute 'involutoin', did you mean involution"):
        _ = ux.presets.involutoin


def test_an_unknown_field_of_a_spec_is_refused_with_the_nearest_one():
    for call, message in (
        (lambda: ux.ExtractorSpec(kernal_size=3), "ExtractorSpec has no field 'kernal_size', did you mean kernel_size?"),
        (lambda: ux.Generator(vew=7), "Generator has no field 'vew', did you mean view?"),
        (lambda: replace(ux.presets.involution(), dilaton=2), "ExtractorSpec has no field 'dilaton', did you mean dilation?"),
        (lambda: ux.presets.involution(kernal_size=3), "involution has no argument 'kernal_size', did you mean kernel_size?"),
        (lambda: ux.presets.unified(ofsets=False), "unified has no argument 'ofsets', did you mean offsets?"),
        (lambda: ux.extract(kernal_memory=1), "extract has no argument 'kernal_memory', did you mean kernel_memory?"),
        (lambda: ux.generalized_unfold(offset=None), "generalized_unfold has no argument 'offset', did you mean offsets?"),
        (
            lambda: ux.UnifiedExtractor2d(kernel_memry="store"),
            "UnifiedExtractor2d has no argument 'kernel_memry', did you mean kernel_memory?",
        ),
        (
            lambda: ux.ExtractorConv2d(8, 8, "involution", strid=2),
            "ExtractorConv2d has no argument 'strid', did you mean stride?",
        ),
        (
            lambda: ux.ExtractorConv2d(kernel_sze=3),
            "ExtractorConv2d has no argument 'kernel_sze', it has in_channels, out_channels, spec,",
        ),
        (lambda: ux.models.rednet26(sepc=None), "rednet26 has no argument 'sepc', did you mean spec?"),
        (lambda: ux.models.RedNet(dephts=(1, 1, 1, 1)), "RedNet has no argument 'dephts', did you mean depths?"),
        (
            lambda: ux.replace_convolutions(torch.nn.Identity(), wher=None),
            "replace_convolutions has no argument 'wher', did you mean where?",
        ),
        (lambda: ux.Projection("linear"), "Projection takes its fields by name, got 'linear' without one"),
    ):
        with pytest.raises(TypeError, match=re.escape(message)):
            call()
    assert "kernel_size" in signature(ux.ExtractorSpec).parameters
    assert list(signature(ux.presets.involution).parameters) == ["kernel_size", "channels_per_group", "reduction"]
    assert list(signature(ux.UnifiedExtractor2d).parameters)[:3] == ["in_channels", "out_channels", "spec"]


@pytest.mark.parametrize("function", PUBLIC)
def test_every_public_function_and_class_suggests_arguments(function):
    with pytest.raises(TypeError, match=f"{function.__name__} has no (argument|field) 'misspeled', it has"):
        function(misspeled=1)


def test_an_error_inside_of_a_function_that_suggests_arguments_stays_as_it_is():
    @suggesting_arguments
    def adds_text(number=1):
        return number + "text"

    with pytest.raises(TypeError, match="unsupported operand"):
        adds_text(number=2)


@pytest.mark.parametrize(
    ("module", "name", "nearest"),
    [
        (ux, "extrct", "extract"),
        (ux, "introp", "interop"),
        (ux.models, "resnet51", "resnet50"),
        (ux.layers, "ExtractorConv", "ExtractorConv2d"),
        (ux.interop, "load_oficial", "load_official"),
        (ux.data, "ImageFoldr", "ImageFolder"),
        (ux.training, "Segmentr", "Segmenter"),
        (ux.visualize, "curvs", "curves"),
    ],
)
def test_an_unknown_name_of_a_module_is_refused_with_the_nearest_one(module, name, nearest):
    with pytest.raises(AttributeError, match=f"no attribute '{name}', did you mean {nearest}?"):
        getattr(module, name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describ", "involution"], "no command 'describ', did you mean describe?"),
        (["describe", "involutoin"], "involutoin: neither a YAML file nor a preset, did you mean involution?"),
        (["describe", "involution", "kernal_size=5"], "involution has no option 'kernal_size', did you mean kernel_size?"),
        (["describe", "unified", "normalization=sotmax"], "got 'sotmax', did you mean softmax?"),
    ],
)
def test_an_unknown_word_on_the_command_line_is_refused_with_the_nearest_one(arguments, message, capsys):
    try:
        assert main(arguments) == 2
    except SystemExit as end:
        assert end.code == 2  # noqa: PT017
    assert message in capsys.readouterr().err
