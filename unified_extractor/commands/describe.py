"""The command ``uniex describe``: the formula of an extractor in words, its cost and its drawing."""

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from unified_extractor.layers import UnifiedExtractor2d
from unified_extractor.named_specs import preset_names, preset_spec
from unified_extractor.names import did_you_mean
from unified_extractor.profiling.cost import cost
from unified_extractor.spec import ExtractorSpec, asdict_changed
from unified_extractor.visualize.description import describe
from unified_extractor.visualize.spec_drawings import draw_operator


def main(arguments: Sequence[str]) -> int:
    """Describe a preset or a YAML file of spec fields. Return the exit code."""
    parser = argparse.ArgumentParser("uniex describe", description="Say in words and numbers what an extractor is, and draw it.")
    parser.add_argument("extractor", help=f"a YAML file of spec fields, or a preset: {', '.join(preset_names())}")
    parser.add_argument(
        "options", nargs="*", metavar="option=value", help="options of the preset or fields of the file, such as kernel_size=5"
    )
    parser.add_argument("--channels", type=int, default=64, help="channels in and out (default 64)")
    parser.add_argument("--size", type=int, default=56, help="height and width of the image in pixels (default 56)")
    parser.add_argument("--stride", type=int, default=1, help="stride of the windows (default 1)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="where to draw it (default describe-NAME-OPTIONS.png)")
    parser.add_argument("--yaml", action="store_true", help="print the spec as YAML for a config, and nothing else")
    given = parser.parse_args(arguments)
    try:
        spec = read_spec(given.extractor, given.options)
        if given.yaml:
            print(yaml.safe_dump(asdict_changed(spec), sort_keys=False), end="")
            return 0
        layer = UnifiedExtractor2d(given.channels, given.channels, spec, given.stride)
        shape = (given.channels, given.size, given.size)
        title = Path(given.extractor).stem
        print(describe(title, spec, cost(layer, shape), shape))
        picture = given.picture or Path("-".join(["describe", title, *given.options]).replace("/", "-") + ".png")
        draw_operator(title, spec).savefig(picture, dpi=130)
        print(f"\n  drawn in {picture}")
    except (ValueError, TypeError, OSError, yaml.YAMLError) as error:
        parser.exit(2, f"uniex: error: {given.extractor}: {' '.join(str(error).split())}\n")
    return 0


def read_spec(extractor: str, options: Sequence[str] = ()) -> ExtractorSpec:
    """Return the spec of a preset with its options, or of a YAML file with changed fields. Raise ``ValueError`` or
    ``TypeError``."""
    changes = dict(_option(text) for text in options)
    if Path(extractor).suffix in (".yaml", ".yml"):
        fields = yaml.safe_load(Path(extractor).read_text())
        if isinstance(fields, dict) and "model" in fields:  # the config of a run
            fields = fields["model"].get("network", {}).get("init_args", {}).get("spec")
            if isinstance(fields, str):  # the name of another file
                return read_spec(str(Path(extractor).parent / fields), options)
        if not isinstance(fields, dict):
            raise ValueError("the file must hold the fields of one spec, or of a run whose network has one")
        return ExtractorSpec(**_known(fields | changes, ExtractorSpec, "ExtractorSpec"))
    if extractor not in preset_names():
        presets_are = did_you_mean(extractor, preset_names()) or f"; the presets are {', '.join(preset_names())}"
        raise ValueError(f"neither a YAML file nor a preset{presets_are}")
    return preset_spec(extractor, **changes)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"an option is written name=value, got {text!r}")
    parsed = yaml.safe_load(value)
    return name, tuple(parsed) if isinstance(parsed, list) else parsed


def _known(values: dict[str, Any], target: Any, title: str) -> dict[str, Any]:
    names = list(inspect.signature(target).parameters)
    if unknown := [name for name in values if name not in names]:
        they_are = did_you_mean(unknown[0], names) or f", it has {', '.join(names)}"
        raise ValueError(f"{title} has no option {unknown[0]!r}{they_are}")
    return values
