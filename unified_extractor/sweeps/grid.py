"""A grid file, which lists the runs of a sweep.

Example::

    name: digits_pair
    config: digits/involution
    variants:
      involution: {}
      unified: {model.network.init_args.spec: unified}
    settings:
      model.optimization.learning_rate: [0.01, 0.003]
    seeds: [0, 1, 2]

``definitions`` are not read: a place for the anchors of what variants share.
"""

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unified_extractor.names import did_you_mean
from unified_extractor.recipes import as_file

Options = Mapping[str, Any]
_MERGE = "tag:yaml.org,2002:merge"
_NAME = re.compile(r"[\w.+@-]+")
_RESERVED = ("run", "seed_everything", "ckpt_path", "config")


class SweepError(ValueError):
    """A grid, a cell or a cluster that cannot work; the message is a line that begins with the place of the mistake."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Variants x settings x seeds. Options are dotted, as on the command line: ``trainer.max_epochs``.

    Attributes:
        name: the question that the sweep answers; runs lie in ``<root>/<name>``.
        config: the configuration files that every cell starts from, a later one counts more; in the grid file one needs no list, and a
            recipe may stand for a file.
        variants: the variants that are compared, by name: the options in which each differs from ``config``. Variants called
            ``name@size`` are one extractor at several sizes: figures draw a line through them.
        seeds: the seeds of every variant in every setting.
        settings: the values of an option; all combinations are run.
        options: options of every cell; those of a variant count more.
        root: the folder of all runs.
        budget: the class of a run's cost, written into its record.
    """

    name: str
    config: Sequence[str]
    variants: Mapping[str, Options]
    seeds: Sequence[int]
    settings: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    options: Options = field(default_factory=dict)
    root: str = "runs"
    budget: str = ""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place in the grid.

    Attributes:
        variant: the name of the variant.
        label: variant and settings; rows that differ in the seed alone have the same.
        seed: the seed of the run.
        options: the options that turn ``config`` into this run.
    """

    variant: str
    label: str
    seed: int
    options: Options

    def __str__(self) -> str:
        return f"{self.label} seed={self.seed}"


def read_grid(path: Path) -> Grid:
    """Return the grid in a file; names of files in it become relative to the working directory. Raises ``SweepError``."""
    content = _mapping(path)
    content.pop("definitions", None)
    fields = {entry.name: entry for entry in dataclasses.fields(Grid)}
    for key in content:
        if key not in fields:
            more = did_you_mean(key, fields) or f", expected one of {', '.join(fields)}"
            raise SweepError(f"{path}:{key}: unknown key{more}")
    for key, entry in fields.items():
        needed = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if needed and content.get(key) is None:
            raise SweepError(f"{path}:{key}: required, but not given")
    _check(path, content := {key: value for key, value in content.items() if value is not None})
    here = path.parent
    return Grid(
        **{
            **content,
            "config": [str(_config_file(here, file)) for file in _listed(content["config"])],
            "options": _files(here, content.get("options", {})),
            "variants": {name: _files(here, options or {}) for name, options in content["variants"].items()},
            "settings": {
                option: [_from_here(here, value) for value in values] for option, values in content.get("settings", {}).items()
            },
        }
    )


def points(grid: Grid) -> Iterator[Point]:
    """Yield every point of the grid: variant by variant, setting by setting, seed by seed."""
    short = _short_names(list(grid.settings))
    for variant, own in grid.variants.items():
        for values in itertools.product(*grid.settings.values()):
            setting = dict(zip(grid.settings, values, strict=True))
            label = " ".join([variant, *(f"{short[option]}={as_text(value)}" for option, value in setting.items())])
            options = {**grid.options, **own, **setting}
            for seed in grid.seeds:
                yield Point(variant=variant, label=label, seed=seed, options=options)


def as_text(value: Any) -> str:
    """Return an option's value as the command line takes it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str)


class _Loader(yaml.SafeLoader):
    """The YAML of grid files: a key that is written twice is refused, since the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of a node."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"{key} is there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge as YAML specifies it, own keys first, then those of the mapping named first: releases of PyYAML differ in this."""
        own = [(key, value) for key, value in node.value if key.tag != _MERGE]
        sources = [value for key, value in node.value if key.tag == _MERGE]
        for source in itertools.chain.from_iterable(
            one.value if isinstance(one, yaml.SequenceNode) else [one] for one in sources
        ):
            if not isinstance(source, yaml.MappingNode):
                raise yaml.MarkedYAMLError(problem="<< must name mappings", problem_mark=source.start_mark)
            self.flatten_mapping(source)
            there = {key.value for key, _ in own}
            own += [(key, value) for key, value in source.value if key.value not in there]
        node.value = own


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(), Loader=_Loader)
    except OSError as error:
        raise SweepError(f"{path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise SweepError(f"{path}: line {line}: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise SweepError(f"{path}: not a YAML file") from error
    if not isinstance(content, dict):
        raise SweepError(f"{path}: must hold 'key: value' lines")
    return content


def _check(path: Path, content: Mapping[str, Any]) -> None:
    for key in ("name", "root", "budget"):
        if not isinstance(content.get(key, ""), str):
            raise SweepError(f"{path}:{key}: must be text, got {content[key]!r}")
    if not _NAME.fullmatch(content["name"].replace("/", "")) or Path(content["name"]).is_absolute() or ".." in content["name"]:
        raise SweepError(f"{path}:name: must be letters, digits, _ . + @ - and /, got {content['name']!r}")
    for file in _listed(content["config"]):
        if not isinstance(file, str) or not _config_file(path.parent, file).is_file():
            raise SweepError(f"{path}:config: no such file: {path.parent / str(file)}")
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds) or _repeated(seeds):
        raise SweepError(f"{path}:seeds: must be a list of different whole numbers, got {seeds!r}")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**32]:
        raise SweepError(f"{path}:seeds: must lie in 0..{2**32 - 1}, got {wrong[0]}")
    _check_options(path, "options", content.get("options", {}))
    if not isinstance(content["variants"], dict) or not content["variants"]:
        raise SweepError(f"{path}:variants: must be 'name: options' lines, at least one, got {content['variants']!r}")
    for name, options in content["variants"].items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SweepError(f"{path}:variants.{name}: the name must be letters, digits, _ . + @ and -")
        _check_options(path, f"variants.{name}", options or {})
    settings = content.get("settings", {})
    _check_options(path, "settings", settings)
    for option, values in settings.items():
        if not isinstance(values, list) or not values or _repeated(values):
            raise SweepError(f"{path}:settings.{option}: must be a list of different values, got {values!r}")
        for key, options in (("options", content.get("options", {})), *content["variants"].items()):
            if option in (options or {}):
                place = key if key == "options" else f"variants.{key}"
                raise SweepError(f"{path}:{place}.{option}: is one of the settings too")


def _check_options(path: Path, place: str, options: Any) -> None:
    if not isinstance(options, dict):
        raise SweepError(f"{path}:{place}: must be 'option: value' lines, got {options!r}")
    for option in options:
        if not isinstance(option, str) or not option:
            raise SweepError(f"{path}:{place}.{option}: an option is text such as trainer.max_epochs")
        if option.split(".")[0] in _RESERVED:
            raise SweepError(f"{path}:{place}.{option}: is set by the sweep itself")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _repeated(values: Sequence[Any]) -> bool:
    return len({as_text(value) for value in values}) < len(values)


def _files(folder: Path, options: Options) -> dict[str, Any]:
    return {option: _from_here(folder, value) for option, value in options.items()}


def _config_file(folder: Path, file: str) -> Path:
    """Return a configuration file in ``folder``, relative to the working directory, or a recipe."""
    there = (folder / file).is_file() and not Path(file).is_absolute()
    return Path(os.path.relpath(folder / file)) if there else as_file(file)


def _from_here(folder: Path, value: Any) -> Any:
    """Return the name of a YAML file in ``folder`` relative to the working directory, and any other value as it is."""
    if isinstance(value, str) and value.endswith(".yaml") and (folder / value).is_file():
        return os.path.relpath(folder / value) if not Path(value).is_absolute() else value
    return value


def _short_names(options: Sequence[str]) -> dict[str, str]:
    """Return the last words of every option, as many as tell it from the others."""
    short = {}
    for option in options:
        parts = option.split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        others = [f".{other}" for other in options if other != option]
        short[option] = next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), option)
    return short
