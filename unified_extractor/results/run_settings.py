"""The settings of runs for people: those that all runs of a group share, those in which variants differ, and each extractor whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from unified_extractor.results.groups import by_variant
from unified_extractor.results.record import Record
from unified_extractor.results.tables import in_words
from unified_extractor.spec import ExtractorSpec, asdict_changed

_FIELDS = (
    "network",
    "epochs",
    "learning_rate",
    "batch_size",
    "train_images",
    "test_images",
    "seeds",
    "precision",
    "device",
    "devices",
    "threads",
    "initial_weights",
    "versions",
    "commit",
)
_CONFIG = "config.yaml"
"""The file of a run's resolved configuration, in its folder."""


class Extractor(NamedTuple):
    """A variant, what its specs change as YAML, and its first run's configuration with the name of the file, where there is one."""

    variant: str
    specs: str
    config: str
    file: str


def settings(rows: Sequence[Record]) -> tuple[dict[str, str], pd.DataFrame]:
    """Return the settings that all runs share, by name, and a table of the others, a line for each variant, as text."""
    columns = {"variant": list(variants := by_variant(rows))}
    for field in _FIELDS:
        columns[field] = [", ".join(dict.fromkeys(_value(row, field) for row in own)) for own in variants.values()]
    alike = {in_words(name): own[0] for name, own in columns.items() if name != "variant" and len(set(own)) == 1}
    unlike = {in_words(name): own for name, own in columns.items() if in_words(name) not in alike}
    return {name: value for name, value in alike.items() if value != "-"}, pd.DataFrame(unlike)


def extractors(rows: Sequence[Record]) -> list[Extractor]:
    """Return the extractor of every variant: what its specs change, once where those of all stages are alike."""
    found = []
    for variant, own in by_variant(rows).items():
        specs, file = own[0].specs, Path(own[0].source) / _CONFIG
        alike = all(spec == specs[0] for spec in specs)
        text = yaml.safe_dump(_changed(specs[0]) if specs and alike else [_changed(spec) for spec in specs], sort_keys=False)
        found.append(Extractor(variant, text, file.read_text() if file.is_file() else "", str(file)))
    return found


def _changed(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a spec that differ from their defaults."""
    try:
        return asdict_changed(ExtractorSpec(**spec))
    except (TypeError, ValueError):  # the spec of somebody else's network
        return spec


def _value(row: Record, field: str) -> str:
    if field == "seeds":
        return str(row.seed)
    value = getattr(row, field)
    if value is None:
        return "-"
    if field == "network":
        return str(value).rpartition(".")[2]
    if field == "versions":
        return " ".join(f"{package} {version}" for package, version in row.versions.items())
    if field == "commit":
        return row.commit[:10] + " with changes" * bool(row.dirty) if row.commit else "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
