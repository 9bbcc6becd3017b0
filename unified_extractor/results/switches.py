"""The switches of a factorial: what differs between its extractors, read from a file, and their states in rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from unified_extractor.results.groups import by_variant
from unified_extractor.results.record import Record, RecordError
from unified_extractor.spec import ExtractorSpec

_STAGES = ("first", "last")


@dataclass(frozen=True)
class Switch:
    """Fields of a spec that have one set of values where the switch is off, and another where it is on.

    Attributes:
        name: its name in tables and figures.
        off: values by dotted field, such as ``generator.view``, of every stage's spec; ``first.`` or ``last.`` before it: of that stage.
        on: the same fields with their other values.
    """

    name: str
    off: Mapping[str, Any]
    on: Mapping[str, Any]

    def state(self, specs: Sequence[Mapping[str, Any]]) -> bool | None:
        """Return whether it is on in an extractor's specs, one a stage; None where it is neither on nor off, or there is no spec."""
        for state, values in ((True, self.on), (False, self.off)):
            if specs and all(
                _flat(spec)[field] == value for path, value in values.items() for spec, field in _places(specs, path)
            ):
                return state
        return None


def read_switches(path: Path) -> list[Switch]:
    """Return the switches of a YAML file: ``name: {field: [off, on], ...}``, fields as in :class:`Switch`.

    Raises:
        RecordError: the file is no such mapping, or names a field that a spec does not have; the message names file and switch.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise RecordError(f"{path}: no such file; it names the switches, as in `wide view: {{generator.view: [1, 7]}}`")
    try:
        content = yaml.safe_load(path.read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecordError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or len(content) < 2:
        raise RecordError(f"{path} must name at least two switches, as in `wide view: {{generator.view: [1, 7]}}`")
    return [_switch(path, str(name), fields) for name, fields in content.items()]


def states(rows: Sequence[Record], switches: Sequence[Switch]) -> pd.DataFrame:
    """Return the state of every switch in every variant: the index has the variants, a column each switch.

    True is on, False is off, None neither: another value, stages that differ in it, or a spec that is not known.
    """
    found = {}
    for variant, own in by_variant(rows).items():
        specs = whole_specs(own[0])
        found[variant] = {switch.name: switch.state(specs) for switch in switches}
    return pd.DataFrame.from_dict(found, orient="index", columns=[switch.name for switch in switches], dtype=object)


def whole_specs(row: Record) -> list[dict[str, Any]]:
    """Return the specs of a row, one a stage, with all their fields. Raise ``RecordError`` for one of another version."""
    try:
        return [asdict(ExtractorSpec(**spec)) for spec in row.specs]
    except (TypeError, ValueError) as error:
        raise RecordError(f"{row.place} has a spec of another version: {error}") from error


def rest(specs: Sequence[Mapping[str, Any]], switches: Sequence[Switch]) -> dict[str, Any] | None:
    """Return what a factorial's extractors must have in common: the spec without the switches' fields, as values by dotted field.

    It is that of all stages, and None where they differ; where a switch names a stage, it is that of the last.
    """
    fields = [_split(path) for switch in switches for path in switch.on]
    named = {field for _, field in fields}
    own = [{field: value for field, value in _flat(spec).items() if field not in named} for spec in specs]
    stages_may_differ = any(stage for stage, _ in fields)
    if not own or (not stages_may_differ and any(one != own[-1] for one in own)):
        return None
    return own[-1]


def _switch(path: Path, name: str, fields: Any) -> Switch:
    known = _flat(asdict(ExtractorSpec(static_kernel={"channels": "depthwise"})))  # type: ignore[arg-type]
    if not isinstance(fields, dict) or not fields:
        raise RecordError(f"{path}: {name} must be fields with two values each, as in {{generator.view: [1, 7]}}, got {fields!r}")
    for field, values in fields.items():
        if _split(str(field))[1] not in known:
            raise RecordError(f"{path}: {name}: a spec has no field {field}")
        if not isinstance(values, list) or len(values) != 2 or values[0] == values[1]:
            raise RecordError(f"{path}: {name}: {field} must have two values, off and on, got {values!r}")
    off, on = ({field: _plain(values[index]) for field, values in fields.items()} for index in (0, 1))
    return Switch(name, off, on)


def _places(specs: Sequence[Mapping[str, Any]], path: str) -> list[tuple[Mapping[str, Any], str]]:
    """Return the specs that a path is of, each with its field."""
    stage, field = _split(path)
    own = {"": specs, "first": specs[:1], "last": specs[-1:]}[stage]
    return [(spec, field) for spec in own]


def _split(path: str) -> tuple[str, str]:
    """Return the stage that a path names, "" if none, and the field."""
    stage, _, field = path.partition(".")
    return (stage, field) if stage in _STAGES else ("", path)


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a spec by dotted field."""
    found: dict[str, Any] = {}
    for name, value in spec.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        found |= {f"{name}.{part}" if part else name: _plain(own) for part, own in parts}
    return found


def _plain(value: Any) -> Any:
    """Return a value of YAML or of a spec in one form."""
    return tuple(value) if isinstance(value, list) else value
