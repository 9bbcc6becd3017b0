"""Specs by the names of presets: a spec from a text such as ``involution(kernel_size=3)``, and the nearest preset of a spec."""

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import unified_extractor.presets as presets
from unified_extractor.names import did_you_mean
from unified_extractor.spec import ExtractorSpec


def preset_names() -> list[str]:
    """Return the names of the published operators in ``presets``."""
    functions = {name: value for name, value in vars(presets).items() if inspect.isfunction(value) and not name.startswith("_")}
    return [name for name, function in functions.items() if function.__module__ == presets.__name__]


def instead_of(name: str) -> str:
    """Return the end of a message about a name that is no preset: the module that has the operator, or the nearest preset, or all."""
    if name in presets.MODULES:
        return f": {presets.MODULES[name]}"
    return did_you_mean(name, preset_names()) or f"; the presets are {', '.join(preset_names())}"


def preset_spec(name: str, *arguments: Any, **options: Any) -> ExtractorSpec:
    """Return the spec of a preset with these options.

    Raises:
        ValueError: no such preset or option, one that is needed and not given, or a value without a meaning.
        TypeError: a value of the wrong type.
    """
    if name not in preset_names():
        raise ValueError(f"no preset {name!r}{instead_of(name)}")
    preset: Callable[..., ExtractorSpec] = getattr(presets, name)
    parameters = inspect.signature(preset).parameters
    if unknown := [option for option in options if option not in parameters]:
        nearest = did_you_mean(unknown[0], parameters) or f", it has {', '.join(parameters)}"
        raise ValueError(f"{name} has no option {unknown[0]!r}{nearest}")
    open_ones = list(parameters.values())[len(arguments) :]
    if needed := [p.name for p in open_ones if p.default is p.empty and p.name not in options]:
        raise ValueError(f"{name} needs {needed[0]}, for example {name}({needed[0]}=2)")
    return preset(*arguments, **options)


def spec_from_text(text: str) -> ExtractorSpec:
    """Return the spec of a preset's name, such as ``involution``, or of its call, such as ``involution(kernel_size=3)``.

    Raises:
        ValueError: the text is neither, or see :func:`preset_spec`.
        TypeError: see :func:`preset_spec`.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if isinstance(call, ast.Name):
            call = ast.Call(call, [], [])
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or None in [k.arg for k in call.keywords]:
            raise ValueError
        arguments = [ast.literal_eval(value) for value in call.args]
        options = {str(option.arg): ast.literal_eval(option.value) for option in call.keywords}
    except (SyntaxError, ValueError):
        nearest = did_you_mean(text.partition("(")[0].rpartition(".")[2].strip(), preset_names())
        raise ValueError(
            f"must be the name of a preset, or its call such as involution(kernel_size=3), got {text!r}{nearest}"
        ) from None
    return preset_spec(call.func.id, *arguments, **options)


def spec_line(spec: ExtractorSpec) -> str:
    """Return the nearest preset of a spec and the fields that differ from it: ``involution with kernel_size=3 (preset: 7)``."""
    own = dict(_leaves(spec))
    differences = {}
    for name, candidate in _candidates().items():
        there = dict(_leaves(candidate))
        differences[name] = [f"{field}={value} (preset: {there[field]})" for field, value in own.items() if value != there[field]]
    name = min(differences, key=lambda name: len(differences[name]))
    return f"{name} with {', '.join(differences[name])}" if differences[name] else name


def specs_line(specs: Sequence[ExtractorSpec]) -> str:
    """Return the line of one spec, or of several with their places: ``1: convolution; 2-4: involution``."""
    runs, place = [], 1
    for line, members in groupby(map(spec_line, specs)):
        last = place + len(list(members)) - 1
        runs.append((f"{place}-{last}" if last > place else str(place), line))
        place = last + 1
    return runs[0][1] if len(runs) == 1 else "; ".join(f"{places}: {line}" for places, line in runs)


def _candidates() -> dict[str, ExtractorSpec]:
    """Return every preset with its default options by name, and those that need a version with each of them."""
    found = {}
    for name in preset_names():
        needs_version = "version" in inspect.signature(getattr(presets, name)).parameters
        for version in (1, 2, 3, 4) if needs_version else (None,):
            options = {} if version is None else {"version": version}
            found[f"{name}(version={version})" if version else name] = preset_spec(name, **options)
    return found


def _leaves(spec: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field of a spec that is no object itself, by dotted name."""
    for name, value in vars(spec).items():
        if hasattr(value, "changed"):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def as_spec(value: ExtractorSpec | str | Path | Mapping[str, Any], name: str = "spec") -> ExtractorSpec:
    """Return the spec that an argument gives: a spec, a preset's name or call, a YAML or JSON file of its fields, or a mapping of them.

    Args:
        value: the argument.
        name: its name, for messages.

    Raises:
        ValueError: see :func:`spec_from_text` and :meth:`ExtractorSpec.from_yaml`.
        TypeError: the value is none of these.
    """
    if isinstance(value, ExtractorSpec):
        return value
    if isinstance(value, Mapping):
        return ExtractorSpec(**value)
    if is_preset(value):
        called = getattr(value, "__name__", "")
        raise TypeError(f"{name} must be what a preset returns, got the preset {called} itself: call it, {called}(...)")
    if not isinstance(value, str | Path):
        raise TypeError(f"{name} must be an ExtractorSpec or a preset's name, got {value!r} of type {type(value).__name__}")
    if Path(value).suffix.lower() in (".yaml", ".yml", ".json"):
        return ExtractorSpec.from_yaml(value)
    return _named(str(value), name)


def _named(text: str, name: str) -> ExtractorSpec:
    """Return the spec of a preset's name or call; ``name`` is that of the argument or file that has it, for messages."""
    try:
        return spec_from_text(text)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


ExtractorSpec._from_text = staticmethod(_named)  # type: ignore[method-assign]


def is_preset(value: Any) -> bool:
    """Return whether a value is a function of ``presets``, not what it returns."""
    return inspect.isfunction(value) and value is getattr(presets, value.__name__, None)
