"""The parser's indented explanations, turned into one line: the path in the YAML file, and the reason."""

import dataclasses
import importlib
import inspect
import re
import textwrap
import typing
from collections.abc import Mapping

from unified_extractor.names import did_you_mean
from unified_extractor.options import imported

_KEY = re.compile(r'Parser key "(?P<key>[^"]+)"(?: element \d+)?:[ \n]?')
_CLASS = re.compile(r"Problem with given class_path '(?P<path>[^']+)':[ \n]?")
_FILE_OR_CLASS = re.compile(r"- Expected a path but (?P<given>.*?) ?either not accessible or invalid\s*- ")
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes\s*Subtypes: \[(?P<types>.*?)\]\nErrors:\n(?P<errors>.*?)\n"
    r"Given value type: .*?\nGiven value: ?(?P<value>.*)",
    re.DOTALL,
)
_UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[^']+)' does not accept option|Subcommand '[^']+' does not accept option|Option) '(?P<key>[^']+)'"
    r"(?: is not accepted.*)?"
)
_UNKNOWN_OPTION = re.compile(r"unrecognized arguments: --(?P<key>[\w.]+).*", re.DOTALL)
_REQUIRED = re.compile(r"the following arguments are required: (?:(?:fit|validate|test|predict)\.)?(?P<key>[\w.]+).*", re.DOTALL)
_NOT_LOADED = re.compile(r"Unable to load config (?P<value>'[^']*'|\"[^\"]*\")")
_HOMES = {
    "network": "unified_extractor.models",
    "data": "unified_extractor.data",
    "callbacks": "lightning.pytorch.callbacks",
    "logger": "lightning.pytorch.loggers",
}
"""The module in which a setting's classes are looked for where a name has no module."""
_NO_DOTS = re.compile(r"Expected a dot import path string: (?P<given>\w+)")
_NO_REASON = re.compile(r"Expected a (<class|typing\.)|Not a valid subclass")
_EXPECTED = re.compile(r"Expected an? (?P<type>.+?)\. Got value: (?P<value>.*)", re.DOTALL)


def one_line(message: str, roots: Mapping[str, type] | None = None) -> str:
    """Return a parser's message as ``path: reason``. ``roots`` are the classes of the top-level groups, used to suggest the
    right key."""
    path, reason = _explained(message, "", None, dict(roots or {}))
    return re.sub(r"\s+", " ", f"{path}: {reason}" if path else reason)


def _explained(text: str, path: str, owner: type | None, roots: Mapping[str, type]) -> tuple[str, str]:
    """Return the path and the reason in an explanation. ``owner`` is the class whose arguments ``path`` lists."""
    text = textwrap.dedent(text.strip("\n")).strip()  # every explanation indents the one inside it
    if match := _KEY.match(text):
        return _explained(text[match.end() :], _joined(path, match["key"]), owner, roots)
    if match := _FILE_OR_CLASS.match(text):
        if imported(match["given"]) is None:
            return path, _not_found(match["given"], path)
        return _explained(text[match.end() :], path, owner, roots)
    if match := _CLASS.match(text):
        owner = imported(match["path"])
        if owner is None:
            return path, _not_found(match["path"], path)
        inside = path if dataclasses.is_dataclass(owner) else _joined(path, "init_args")
        rest = textwrap.dedent(text[match.end() :])
        if not any(pattern.match(rest) for pattern in (_KEY, _UNKNOWN, _REQUIRED)):
            return path, f"{match['path']}: {rest}"
        return _explained(rest, inside, owner, roots)
    if match := _UNION.match(text):
        branch = _nearest_branch(match["errors"])
        if branch:
            return _explained(branch, path, owner, roots)
        return path, _unexpected(match["types"], match["value"])
    if match := _UNKNOWN.fullmatch(text) or _UNKNOWN_OPTION.fullmatch(text):
        group = match.groupdict().get("group")
        parents = group.split(".") if group else []
        for key in match["key"].split("."):
            accepted = _accepted(owner, parents, roots)
            if key not in accepted:
                break
            parents.append(key)
        return _joined(path, *parents, "" if parents[-1:] == [key] else key), "unknown key" + _suggestion(key, accepted)
    if match := _REQUIRED.fullmatch(text):
        return _joined(path, match["key"]), "required, but not given"
    if match := _EXPECTED.fullmatch(text):
        return path, _unexpected(match["type"], match["value"])
    if match := _NO_DOTS.fullmatch(text):
        return path, _not_found(match["given"], path)
    if match := _NOT_LOADED.match(text):
        return path, f"expected a mapping or the name of a file, got {match['value']}"
    return path, text


def _nearest_branch(errors: str) -> str | None:
    """Return the explanation of that alternative of a union for which the value was probably meant: the one that was parsed
    furthest."""
    branches = re.split(r"^- ", textwrap.dedent(errors), flags=re.MULTILINE)[1:]
    deep = [branch for branch in branches if re.match(r"Problem with given class_path|Parser key|Group|Option", branch)]
    telling = [branch for branch in branches if not _NO_REASON.match(branch)]
    return next(iter(deep + telling), None)


def _accepted(owner: type | None, parts: list[str], roots: Mapping[str, type]) -> list[str]:
    """Return the keys that the class at path ``parts`` inside ``owner`` accepts; without an owner, the path starts at the
    whole file."""
    if owner is None and not parts:
        return list(roots)
    if owner is None:
        owner, parts = roots.get(parts[0]), parts[1:]
    for part in parts:
        hint = {**typing.get_type_hints(owner), **typing.get_type_hints(owner.__init__)}.get(part) if owner else None  # type: ignore[misc]
        owner = hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None
    return list(inspect.signature(owner).parameters) if owner else []


def _suggestion(key: str, accepted: list[str]) -> str:
    if "kwargs" in accepted:
        return f"{did_you_mean(key, accepted)}; what is passed on is given as dict_kwargs.{key}, beside init_args"
    expected = f", expected one of {', '.join(accepted)}" if 0 < len(accepted) <= 12 else ""
    return did_you_mean(key, accepted) or expected


def _unexpected(types: str, value: str) -> str:
    choices = re.findall(r"'([^']*)'", " ".join(re.findall(r"typing\.Literal\[(.*?)\]", types)))
    return f"expected {_types(types)}, got {value!r}{did_you_mean(value, choices)}"


def _not_found(given: str, path: str) -> str:
    """Return what to say of a value that should have been a file's name or a class's path, and is neither."""
    module, _, name = given.rpartition(".")
    if given.isidentifier() and (module := _HOMES.get(re.sub(r"\W.*", "", path.rpartition(".")[2]), "")):
        nearest = did_you_mean(name, _public(module)).replace("did you mean ", f"did you mean {module}.")
        return f"no class or file {given}{nearest or f'; a class is named by its path, such as {module}.{_public(module)[0]}'}"
    if class_path := re.search(r"class_path['\"]?:\s*['\"]?([\w.]+)", given):
        return _not_found(class_path[1], path)
    try:
        return f"{module} has no {name}{did_you_mean(name, _public(module))}"
    except (ImportError, ValueError):
        return f"no such file{' or class' * (module != '' and name not in ('yaml', 'yml', 'json'))}: {given}"


def _public(module: str) -> list[str]:
    """Return the names of the classes and functions of a module. Raise ``ImportError`` or ``ValueError`` if there is no such module."""
    return [name for name, value in vars(importlib.import_module(module)).items() if callable(value) and name[0] != "_"]


def _types(text: str) -> str:
    """Return the names of types as a user writes them."""
    options = re.split(r", (?=<class|typing|list|tuple|dict)", text)
    plain = (re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", option).replace("NoneType", "null") for option in options)
    return " or ".join(re.sub(r"typing\.Literal\[(.*)\]", r"one of \1", option) for option in plain)


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)
