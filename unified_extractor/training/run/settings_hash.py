"""The hash of a run's resolved configuration: of what decides the run's numbers, and of nothing that a refactoring changes."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace

from unified_extractor.options import (
    REQUIRED,
    config_class,
    first_class_name,
    first_default,
    first_name,
    imported,
    options,
    with_present_names,
    with_present_names_of,
)
from unified_extractor.training.tasks import module_for

ASIDE = (
    "run",
    "config",
    "ckpt_path",
    "checkpoint_every_n_steps",
    "data.init_args.root",
    "data.init_args.classes",
    "data.init_args.download",
    "data.init_args.predict_folder",
    "data.init_args.loading.num_workers",
    "trainer.default_root_dir",
    "trainer.logger",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
)
"""Settings that decide no number: places of files, what is shown, where a run starts again."""
_OWN = __name__.split(".")[0]


def config_hash(settings: Namespace | Mapping[str, Any], *, seeded: bool = True) -> str:
    """Return twelve hexadecimal digits of a fit's parsed settings; equal settings, however written, have equal digits.

    Without ``seeded`` the seed is left out: runs that are repetitions of each other have equal digits.
    """
    form = canonical_form(settings)
    if not seeded:
        form.pop("seed_everything", None)
    return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:12]


def saved_config_hash(path: Path) -> str | None:
    """Return the hash of a configuration that a run has saved, perhaps under former names; ``None`` if the file cannot be read."""
    saved = saved_settings(path)
    return None if saved is None else config_hash(saved)


def saved_settings(path: Path) -> dict[str, Any] | None:
    """Return a configuration that a run has saved, with today's names; ``None`` if the file cannot be read."""
    try:
        return with_names_of_today(dict(yaml.safe_load(path.read_text())))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, ValueError):
        return None


def with_names_of_today(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fit's settings with today's names of their options."""
    found, owners = {}, _owners(settings)
    for name, value in settings.items():
        owner = owners.get(name)
        found[name] = with_present_names_of(owner, value) if owner and isinstance(value, dict) else with_present_names(value)
    return found


def plain_settings(settings: Namespace) -> dict[str, Any]:
    """Return a fit's parsed settings in the types of YAML, as a checkpoint keeps them."""
    plain: dict[str, Any] = json.loads(json.dumps(_copied(settings.as_dict()), default=str))
    return plain


def settings_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return ``path: value there, value here`` for every setting that decides a number and differs between two runs."""
    if config_hash(there) == config_hash(here):
        return []
    one, other = (_without(_copied(settings), ASIDE) for settings in (there, here))
    return list(_differences(one, other, ""))


def canonical_form(settings: Namespace | Mapping[str, Any]) -> dict[str, Any]:
    """Return a fit's parsed settings as the values of JSON, in the form that is hashed.

    Values that equal a default are left out, and so are :data:`ASIDE` and the modules of this package's classes; options and classes have
    the first names they were given. A new option with a default, a class that moves, and an option that is renamed in
    ``unified_extractor.options`` therefore leave the form as it was.
    """
    content = _copied(settings.as_dict() if isinstance(settings, Namespace) else settings)
    data = (content.get("data") or {}).get("init_args") or {}
    if data.get("root") and "name" in data:  # a data set without a name is called by its folder's
        data["name"] = data["name"] or Path(data["root"]).resolve().name
    form, owners = {}, _owners(content)
    for name, value in _without(content, ASIDE).items():
        if name in owners:
            form[name] = _arguments(owners[name], value)
        elif value is not None:
            form[name] = _value(value, None)
    return form


def _owners(settings: Mapping[str, Any]) -> dict[str, type]:
    """Return the classes of those groups of settings that stand without a ``class_path``; the data decide the task."""
    data = settings.get("data")
    class_path = data.get("class_path") if isinstance(data, Mapping) else data
    return {"model": module_for(class_path), "trainer": L.Trainer}


def _arguments(owner: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a class or function that differ from their defaults; all where the owner is not known."""
    known, form = options(owner) if owner else {}, {}
    for name, value in given.items():
        annotation, default = known.get(name, (None, REQUIRED))
        default = first_default(owner, name, default)
        content = _value(value, annotation)
        if default is REQUIRED or not _same(content, _default(default, annotation)):
            form[first_name(owner, name)] = content
    return form


def _default(default: Any, annotation: Any) -> Any:
    """Return the form of a default. Of an object that has all of its own class's defaults it is empty, whatever these are today."""
    if (
        dataclasses.is_dataclass(default)
        and not isinstance(default, type)
        and not any(map(_required, dataclasses.fields(default)))
    ):
        if default == type(default)():
            return {}
    return _value(default, annotation)


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _same(one: Any, other: Any) -> bool:
    """Return whether two forms are the same text: ``1``, ``1.0`` and ``True`` are three values."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _value(value: Any, annotation: Any) -> Any:
    """Return a value in the types of JSON: an object as its arguments beside the name of its ``class``."""
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        path = value["class_path"]
        name = first_class_name(path.rpartition(".")[2]) if path.split(".")[0] == _OWN else path
        others = {str(key): _value(item, None) for key, item in value.items() if key not in ("class_path", "init_args")}
        return {"class": name, **_arguments(imported(path), value.get("init_args") or {}), **others}
    if isinstance(value, Mapping):
        return _arguments(config_class(annotation), value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _arguments(type(value), {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, list | tuple):
        return [_value(item, annotation) for item in value]
    if annotation is float and type(value) is int:
        return float(value)
    if isinstance(value, str) and value.isdecimal() and int in typing.get_args(annotation):
        return int(value)  # a command line's 1 where text is allowed too
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _without(settings: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Return settings without some of their dotted paths, which are removed in place."""
    for path in paths:
        *groups, last = path.split(".")
        place = settings
        for name in groups:
            place = place.get(name) or {}
        place.pop(last, None)
    return settings


def _differences(one: Any, other: Any, path: str) -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.get("class_path") == other.get("class_path"):
        for name in one | other:  # type: ignore[operator]
            yield from _differences(one.get(name), other.get(name), f"{path}.{name}" if path else name)
    elif _objects(one) and _objects(other) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differences(left, right, f"{path}[{index}]")
    elif not _same(one, other):
        yield f"{path}: {_in_short(one)} there, {_in_short(other)} here"


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) for one in value)


def _in_short(value: Any) -> str:
    """Return a setting in a few words: an object by the name of its class."""
    if isinstance(value, Mapping):
        return str(value["class_path"]).rpartition(".")[2] if "class_path" in value else "another"
    if isinstance(value, list):
        return f"[{', '.join(map(_in_short, value))}]"
    return "null" if value is None else str(value)


def _copied(value: Any) -> Any:
    """Return a copy of nested mappings without the names of files that parts were read from."""
    if isinstance(value, Mapping):
        return {str(key): _copied(item) for key, item in value.items() if not str(key).startswith("__")}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value
