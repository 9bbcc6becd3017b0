"""Options whose values replace what was there: an object that is given as a whole never keeps fields of an earlier one.

jsonargparse merges every mapping and file into what was given before, so that the spec of an involution on top of another spec would
train a mixture of both. Here a spec is one value, wherever it is given; every other object is one where it is given by the name of a
file or as a mapping on the command line. Mappings of several ``--config`` files are merged key by key, as everywhere.
"""

import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse._actions import _ActionConfigLoad
from jsonargparse._common import lenient_check
from jsonargparse._typehints import ActionTypeHint
from jsonargparse._util import NestedArg

from unified_extractor.named_specs import instead_of, preset_names, spec_from_text
from unified_extractor.options import config_class
from unified_extractor.spec import ExtractorSpec, asdict_changed

_NAME = re.compile(r"\w+\s*(\(.*\))?")
"""The form of a preset's name or call, which no name of a YAML file has."""

_CHECKED: dict[Any, Any] = {}
"""Specs that were checked, by what was given for them."""

_AS_TEXT: ContextVar[bool] = ContextVar("as_text", default=False)
"""Mark of the time in which a mapping from the command line is parsed that is the value of an object's field."""


def take_whole(parser: ArgumentParser) -> None:
    """Make every option of a parser that takes an object one whose value replaces what was there."""
    for action in parser._actions:
        if type(action) is ActionTypeHint:
            action.__class__ = _Spec if config_class(action._typehint) is ExtractorSpec else _Object
        elif type(action) is _ActionConfigLoad:
            action.__class__ = _Group


def with_defaults(parser: ArgumentParser, action: Any, value: Any) -> Any:
    """Return a mapping for a field of an object, such as ``--data.augmentation '{flip: true}'``, with the defaults of what is not in it;
    any other value as it is."""
    whole = isinstance(action, _Group) and isinstance(value, dict) and _AS_TEXT.get()
    return action.check_type(value, parser) if whole else value


class _Object(ActionTypeHint):
    """An option that takes objects among other values: a file or a mapping as text replaces, a mapping in a config is merged."""

    def _check_type(self, value: Any, append: bool = False, cfg: Namespace | None = None, mode: str | None = None) -> Any:
        if isinstance(value, NestedArg):
            token = _AS_TEXT.set(str(value.val).lstrip().startswith("{"))
            try:
                return super()._check_type(value, append=append, cfg=cfg, mode=mode)
            finally:
                _AS_TEXT.reset(token)
        if append or not self._is_whole(value):
            return super()._check_type(value, append=append, cfg=cfg, mode=mode)
        with ActionTypeHint.sub_defaults_context():  # with every default: what is merged afterwards leaves nothing of before
            return super()._check_type(value, cfg=None, mode=mode)

    def _is_whole(self, value: Any) -> bool:
        return isinstance(value, str) and (value.lstrip().startswith("{") or Path(value).is_file())


class _Spec(_Object):
    """An option that takes a spec, a list of specs, or names of presets."""

    def _check_type(self, value: Any, append: bool = False, cfg: Namespace | None = None, mode: str | None = None) -> Any:
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = yaml.safe_load(value)
        try:
            value = [self._named(one) for one in value] if isinstance(value, list) else self._named(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f'Parser key "{self.dest}":\n{error}') from error
        if append or isinstance(value, NestedArg) or any(os.path.exists(text) for text in _texts(value)):
            return super()._check_type(value, append=append, cfg=cfg, mode=mode)
        # depends on nothing else; checking its specs again and again was half of the time of parsing a run
        key = (self._typehint, mode, lenient_check.get(), repr(value))
        if key not in _CHECKED:
            _CHECKED[key] = super()._check_type(value, mode=mode)
        return deepcopy(_CHECKED[key])

    def _is_whole(self, value: Any) -> bool:
        return True

    def _named(self, value: Any) -> Any:
        """Return the fields of a preset's spec for its name or call, and any other value as it is."""
        if not isinstance(value, str) or not _NAME.fullmatch(value) or value == "null" or Path(value).exists():
            return value
        name = value.partition("(")[0].strip()
        if name not in preset_names():
            raise ValueError(f"neither a file nor a preset: {value}{instead_of(name)}")
        return asdict_changed(spec_from_text(value))


class _Group(_ActionConfigLoad):
    """An option that takes all fields of an object from a file or from a mapping as text; fields that are not in it are defaults."""

    def _load_config(self, value: Any, parser: ArgumentParser) -> Namespace:
        given = super()._load_config(value, parser)
        whole = parser.get_defaults().get(self.dest)
        if not isinstance(whole, Namespace):
            return given
        whole.update(given if isinstance(given, Namespace) else Namespace(given))
        return whole


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value, each of which could be the name of a file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | Namespace):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
