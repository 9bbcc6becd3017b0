"""The command ``uniex describe``: the formula of an extractor in words, its cost and its drawing."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unified_extractor.description import describe
from unified_extractor.layers import UnifiedExtractor2d
from unified_extractor.named_specs import as_spec, instead_of, preset_names, preset_spec
from unified_extractor.names import did_you_mean
from unified_extractor.profiling.cost import cost
from unified_extractor.recipes import as_file
from unified_extractor.spec import ExtractorSpec


def main(arguments: Sequence[str]) -> int:
    """Describe a preset or a YAML file of spec fields. Return the exit code."""
    parser = argparse.ArgumentParser("uniex describe", description="Say in words and numbers what an extractor is, and draw it.")
    parser.add_argument(
        "extractor", help=f"a YAML file of spec fields or a recipe, or a preset or its call: {', '.join(preset_names())}"
    )
    parser.add_argument(
        "options", nargs="*", metavar="option=value", help="options of the preset or fields of the file, such as kernel_size=5"
    )
    parser.add_argument("--channels", type=int, default=64, help="channels in and out (default 64)")
    parser.add_argument("--size", type=int, default=56, help="height and width of the image in pixels (default 56)")
    parser.add_argument("--stride", type=int, default=1, help="stride of the windows (default 1)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="where to draw it (default: it is not drawn)")
    parser.add_argument("--yaml", action="store_true", help="print the spec as YAML for a config, and nothing else")
    given = parser.parse_args(arguments)
    try:
        spec = read_spec(given.extractor, given.options)
        if given.yaml:
            print(spec.to_yaml(), end="")
            return 0
        layer = UnifiedExtractor2d(given.channels, given.channels, spec, given.stride)
        shape = (given.channels, given.size, given.size)
        title = Path(given.extractor).stem
        if given.picture:
            from unified_extractor.visualize.spec_drawings import operator  # here: the extra "train" alone can draw

            operator(title, spec).savefig(given.picture, dpi=130)
        print(describe(title, spec, cost(layer, shape), shape))
        if given.picture:
            print(f"\n  drawn in {given.picture}")
    except (ValueError, TypeError, OSError) as error:
        message = " ".join(str(error).split()).removeprefix(f"{given.extractor}: ")  # an error of the file names it
        parser.exit(2, f"uniex: error: {given.extractor}: {message}\n")
    return 0


def read_spec(extractor: str, options: Sequence[str] = ()) -> ExtractorSpec:
    """Return the spec of a preset, of its call, of a YAML file or of a recipe.

    ``options`` are options of the preset and fields of the spec, such as ``generator.view=5``.

    Raises:
        OSError, TypeError, ValueError: the file, a name or a value is wrong.
    """
    changes, extractor = dict(_option(text) for text in options), str(as_file(extractor))
    if Path(extractor).suffix in (".yaml", ".yml") or "(" in extractor:
        return _with_fields(as_spec(extractor), changes)
    if extractor not in preset_names():
        raise ValueError(f"neither a YAML file nor a preset{instead_of(extractor)}")
    fields = {name: changes.pop(name) for name in list(changes) if "." in name}
    return _with_fields(preset_spec(extractor, **changes), fields)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"an option is written name=value, got {text!r}")
    try:
        parsed = json.loads(value)  # a number, true, null or a list
    except ValueError:
        return name, value
    return name, tuple(parsed) if isinstance(parsed, list) else parsed


def _with_fields(spec: ExtractorSpec, changes: Mapping[str, Any]) -> ExtractorSpec:
    """Return the spec with other values of some fields, named with dots, such as ``generator.view``."""
    values = asdict(spec)
    for name, value in changes.items():
        place = values
        *path, last = name.split(".")
        for step in path:
            place = _known(place, step, name)[step]
        _known(place, last, name)[last] = value
    return ExtractorSpec(**values)


def _known(fields: Any, step: str, name: str) -> dict[str, Any]:
    """Return the fields if they hold one of this name. Raise ``ValueError`` otherwise; ``name`` is the whole name, with dots."""
    if not isinstance(fields, dict):
        raise ValueError(f"{name} names a field of a value that has none")
    if step not in fields:
        raise ValueError(f"a spec has no field {name!r}{did_you_mean(step, list(fields)) or ', there are ' + ', '.join(fields)}")
    return fields
