"""Weights in files that others wrote, read without running code in them."""

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unified_extractor.extras import needed
from unified_extractor.names import did_you_mean

_ENTRIES = (
    "state_dict",
    "model",
    "model_state",
    "model_state_dict",
    "network",
    "net",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema",
    "ema_model",
    "params_ema",
    "current_model_state",
)
"""Names under which training codes keep weights in a checkpoint; the first that is there is read, averages after the weights as trained."""
_SAVED_WEIGHTS = "model.safetensors"
"""The file of weights in a folder of a saved network."""


def read_file(path: str | Path) -> Any:
    """Return the content of a file of weights, on the CPU; of a folder that :func:`unified_extractor.interop.save` wrote, its weights.

    Files of torch may have tensors, plain values, ``argparse.Namespace`` and numpy's scalars and arrays in them, and no other class.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, or has an object of another class in it, which could run code.
    """
    given, path = path, Path(path) / _SAVED_WEIGHTS if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path if Path(given).is_dir() else given}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    if path.suffix == ".safetensors":
        load_file, broken = needed("safetensors.torch").load_file, needed("safetensors").SafetensorError
        try:
            return load_file(path)
        except broken as error:
            raise ValueError(f"{path} is no readable safetensors file: {error}") from error
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(f"{path} is refused: {_refused(error, path)}") from error
    except Exception as error:  # a damaged file gives whatever its bytes happen to call
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is a TorchScript archive: torch.save its torch.jit.load(...).state_dict() to a new file"
            ) from error
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{path} is no readable torch file: {type(error).__name__}: {reason}") from error


def find_state_dict(content: Any, about: str, which: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the weights in the content of a file, and what was passed over, by its name, with the reason.

    Args:
        content: a mapping of names to tensors, or a checkpoint with one or several of them.
        about: the name of the file or argument, for messages.
        which: the entry of the checkpoint that has the weights, such as ``state_dict_ema``, or the first part of their names, such as
            ``student``; None: the first of ``state_dict``, ``model`` and other usual entries, weights as trained before their average.

    Raises:
        ValueError: there is no state dict, or none under ``which``; the message says what there is.
    """
    found = {"": content} if _is_state_dict(content) else dict(_entries(content))
    if not found:
        raise ValueError(f"{about} holds no state dict: it is {_in_words(content)}")
    default = next((name for name in _ENTRIES if name in found), next(iter(found)))
    if which is not None and which not in found:
        named = {name: value for name, value in found[default].items() if name.startswith(f"{which}.")}
        if not named:
            entries = list(filter(None, found)) or list(dict.fromkeys(name.split(".")[0] for name in found[default]))
            raise ValueError(f"which must be one of {entries} of {about}, got {which!r}{did_you_mean(which, entries)}")
        return named, {f"{which}.*": f"taken alone, {len(found[default]) - len(named)} other values were not"}
    taken = default if which is None else which
    return dict(found[taken]), {name: f"not taken, {taken} was: which={name!r} takes it" for name in found if name != taken}


def _entries(content: Any) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield the state dicts in a checkpoint by name; one inside of another entry has the names of both, with a dot."""
    if not isinstance(content, Mapping):
        return
    for name, value in content.items():
        if _is_state_dict(value) and (name in _ENTRIES or any("." in key for key in value)):
            yield str(name), value
        elif name in _ENTRIES:
            yield from ((f"{name}.{inner}", state) for inner, state in _entries(value))


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and bool(value) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _in_words(content: Any) -> str:
    """Return the type of a file's content and, of a mapping, its first entries."""
    kind = type(content).__name__
    if not isinstance(content, Mapping):
        return f"a {kind}"
    entries = [f"{name!r} ({type(value).__name__})" for name, value in content.items() if not isinstance(value, Tensor)]
    entries = entries[:6] + [f"{len(entries) - 6} more"] * (len(entries) > 6)
    return f"a {kind} with {', '.join(entries)}" if entries else f"an empty {kind}"


def _refused(error: UnpicklingError, path: Path) -> str:
    """Return why torch did not read a file; its own message advises to switch the protection off."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if not found:
        with path.open("rb") as file:
            beginning = file.read(24)
        return f"it was not written by torch.save, is broken, or holds more than tensors and plain values; it begins with {beginning!r}"
    return (
        f"it holds an object of type {found[1]}, and more than tensors and plain values could run code. If you trust its writer, "
        "load it once with torch.load(..., weights_only=False) and torch.save the weights, a dict of tensors (of a module its "
        "state_dict()), to a new file"
    )


def _numpy_globals() -> list[Any]:
    """Return what pickles of numpy's scalars and arrays name, as numpy 1 and numpy 2 write it."""
    makers = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
    named = [(make, f"numpy.{core}.multiarray.{name}") for name, make in makers.items() for core in ("core", "_core")]
    return [*named, np.dtype, np.ndarray, *(getattr(np.dtypes, name) for name in np.dtypes.__all__)]


_HARMLESS = [argparse.Namespace, *_numpy_globals()]
"""Classes of which objects may be in a file: making one runs no code of the file."""
