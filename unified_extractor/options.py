"""The options of configurable classes: their defaults, and the names and values that they had before. Standard library only.

Old configurations, checkpoints, saved networks and rows are read by ``FIELDS`` and ``CLASSES``, and the hash of a configuration is made of
the first names and first defaults: renaming an option, or changing a default, takes one entry here and changes no hash.
"""

import dataclasses
import functools
import importlib
import inspect
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

FIELDS: Mapping[str, str] = {
    "DynamicKernel.normalisation": "normalization",
    "ExtractorSpec.overlap_normalise": "overlap_normalize",
    "ImageClassifier.fused": "kernel_memory",
    "ImageClassifier.mixing": "mixup",
    "Mixup.mixup": "alpha",
    "Mixup.cutmix": "cutmix_alpha",
}
"""Today's class and a former name of its option, to today's name of the option; of several former names the first one first."""
VALUES: Mapping[str, Mapping[Any, Any]] = {
    "ImageClassifier.kernel_memory": {None: "auto", True: "recompute", False: "store"},
}
"""Today's class and name of an option, to today's value for each former one."""
CLASSES: Mapping[str, str] = {}
"""A former name of a class of this package, to today's; of several former names the first one first."""
DEFAULTS: Mapping[str, Any] = {
    "ImageFolder.mean": (0.485, 0.456, 0.406),
    "ImageFolder.std": (0.229, 0.224, 0.225),
    "MatchedNet.max_mlp_ratio": None,
}
"""Today's class and name of an option whose default has changed, to its first default: the value that a hash leaves out, and that saved
settings without the option were made with."""

REQUIRED: Any = inspect.Parameter.empty
"""The default of an option that has none."""


class Option(NamedTuple):
    """An argument of a class or function: its annotation, and its default or ``REQUIRED``."""

    annotation: Any
    default: Any


@functools.cache
def options(owner: Any) -> dict[str, Option]:
    """Return the arguments of a class or function by name; of a class those of its base classes too, to which it may hand them on."""
    found: dict[str, Option] = {}
    for part in reversed(getattr(owner, "__mro__", (owner,))):
        function = vars(part).get("__init__") if inspect.isclass(part) else part
        if part is object or not callable(function):
            continue
        try:
            annotations = typing.get_type_hints(function)
        except (NameError, TypeError):  # somebody else's class
            annotations = {}
        for name, parameter in inspect.signature(function).parameters.items():
            found[name] = Option(annotations.get(name), parameter.default)
    for field in dataclasses.fields(owner) if config_class(owner) else ():
        if field.default_factory is not dataclasses.MISSING:  # the signature hides what a factory makes
            found[field.name] = found[field.name]._replace(default=field.default_factory())
    return found


def config_class(annotation: Any) -> type[Any] | None:
    """Return the dataclass in an annotation such as ``Spec | list[Spec] | None``, or ``None``."""
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := config_class(part)) is not None), None)


def imported(class_path: str) -> Any:
    """Return the class or function of a dotted path, today's or a former one, or ``None`` if there is none."""
    module, _, name = present_class_path(class_path).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def present_class_path(class_path: str) -> str:
    """Return a dotted path, or a bare name, with today's name of a class of this package."""
    module, dot, name = class_path.rpartition(".")
    own = not dot or module.split(".")[0] == __name__.split(".")[0]
    return module + dot + (CLASSES.get(name, name) if own else name)


def first_name(owner: Any, name: str) -> str:
    """Return the first name of an option of a class."""
    names = [part.__name__ for part in getattr(owner, "__mro__", ())]
    former = (key.split(".") for key, present in FIELDS.items() if present == name)
    return next((field for class_name, field in former if class_name in names), name)


def first_class_name(name: str) -> str:
    """Return the first name of a class of this package."""
    return next((former for former, present in CLASSES.items() if present == name), name)


def first_default(owner: Any, name: str, default: Any) -> Any:
    """Return the first default of an option of a class, whose ``default`` is today's."""
    keys = (f"{part.__name__}.{name}" for part in getattr(owner, "__mro__", ()))
    return next((DEFAULTS[key] for key in keys if key in DEFAULTS), default)


def with_present_names(saved: Any, annotation: Any = None) -> Any:
    """Return saved settings with today's names of their options. Unknown names stay, for the reader of the settings to refuse.

    Args:
        saved: values of YAML or JSON. A mapping with a ``class_path`` holds the arguments of that class.
        annotation: the type of the settings, which says whose fields a mapping without a ``class_path`` holds.
    """
    if isinstance(saved, list | tuple):
        return type(saved)(with_present_names(one, annotation) for one in saved)
    if not isinstance(saved, Mapping):
        return saved
    if not isinstance(saved.get("class_path"), str):
        return with_present_names_of(config_class(annotation), saved)
    present = {**saved, "class_path": present_class_path(saved["class_path"])}
    if isinstance(saved.get("init_args"), Mapping):
        present["init_args"] = with_present_names_of(imported(saved["class_path"]), saved["init_args"])
    return present


def with_present_names_of(owner: Any, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the saved arguments of a class or function with today's names and values; ``owner`` is ``None`` if it is not known.

    An option whose default is no longer its first one, and that the arguments lack, has its first default.
    """
    known = options(owner) if owner else {}
    classes = [part.__name__ for part in getattr(owner, "__mro__", ())]
    present = {key.split(".")[1]: name for key, name in FIELDS.items() if key.split(".")[0] in classes}
    found = {key.split(".")[1]: default for key, default in DEFAULTS.items() if key.split(".")[0] in classes}
    for former, value in saved.items():
        name = present.get(former, former)
        values = next((VALUES[key] for part in classes if (key := f"{part}.{name}") in VALUES), {})
        if isinstance(value, bool | str | None):
            value = values.get(value, value)
        found[name] = with_present_names(value, known[name].annotation if name in known else None)
    return found
