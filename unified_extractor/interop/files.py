"""Weights in files that others wrote, read without running code in them."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

_WRAPPERS = ("state_dict", "model", "model_state")
"""Names under which training codes keep the weights in a checkpoint."""


def needed(library: str) -> Any:
    """Return the module of an optional library. Raise ``ImportError`` that says which extra installs it."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        package = library.split(".")[0]
        raise ImportError(f"this needs {package}: pip install 'unified-extractor[interop]' ({error})") from error


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Return the weights in a file, on the CPU.

    Args:
        path: a ``.safetensors`` file, or a file of ``torch.save`` with a state dict or a checkpoint that contains one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, has no state dict, or has more in it than tensors and plain values, which could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        load_file, broken = needed("safetensors.torch").load_file, needed("safetensors").SafetensorError
        try:
            return load_file(path)
        except broken as error:
            raise ValueError(f"{path} is no readable safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(f"{path} is refused: it is broken, or holds more than tensors and plain values") from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is no readable torch file: {error}") from error
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict, neither alone nor under one of {_WRAPPERS}")
    return dict(content)
