"""Libraries that only this room uses."""

import importlib
from typing import Any


def needed(name: str) -> Any:
    """The module of this name. Raises ``ImportError`` that says which extra brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ImportError(f"this needs {package}: pip install 'unified-extractor[interop]' ({error})") from error
