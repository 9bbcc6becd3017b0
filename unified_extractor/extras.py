"""The extras of the package: the packages that each installs, and the one line that names the extra where a package is missing."""

import importlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

EXTRAS: Mapping[str, Sequence[str]] = {
    "train": (
        "lightning",
        "torchvision",
        "jsonargparse",
        "omegaconf",
        "tensorboard",
        "torchdata",
        "torchmetrics",
        "rich",
        "pydantic",
        "filelock",
        "submitit",
        "scipy",
        "statsmodels",
        "jinja2",
        "pandas",
        "matplotlib",
        "sklearn",
        "PIL",
        "yaml",
    ),
    "compiled": ("numba", "filelock"),
    "interop": ("timm", "safetensors", "huggingface_hub", "onnx", "onnxscript"),
}
"""An extra to the packages that it installs, by the names under which Python imports them."""


class MissingExtraError(ImportError):
    """An optional package that is not installed; the message is a line with the command that installs it."""


def install_command(extra: str) -> str:
    """Return the command that installs an extra."""
    return f'pip install "unified-extractor[{extra}]"'


def needed(module: str) -> Any:
    """Return a module of an optional package. Raise ``MissingExtraError`` if the package is not installed."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise  # the package is there, and lacks something itself
        extra = next(extra for extra, packages in EXTRAS.items() if package in packages)
        raise MissingExtraError(f"this needs {package}: {install_command(extra)}", name=package) from error


def require(extra: str, user: str, *packages: str) -> None:
    """Raise ``MissingExtraError`` unless packages of an extra are installed. They are looked for, not imported.

    Args:
        extra: the name of the extra.
        user: the module that needs it, for the message.
        packages: those of the extra that are needed, by the names under which Python imports them; all by default.
    """
    for package in packages or EXTRAS[extra]:
        if find_spec(package) is None:
            raise MissingExtraError(f"{user} needs {package}: {install_command(extra)}", name=package)
