"""The resolved configuration of a run as plain values, and its hash: what decides the run's numbers."""

import hashlib
import json
from typing import Any

from jsonargparse import Namespace

ASIDE = ("run", "config", "ckpt_path")
"""Where files go and where a run starts again: nothing that decides a number."""


def config_hash(settings: Namespace) -> str:
    """Twelve hexadecimal digits of a fit's parsed settings, seed included; equal settings, however written, have equal digits."""
    content = {name: _plain(value) for name, value in settings.as_dict().items() if name not in ASIDE}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    """Values as JSON can hold them; a nested file's own name is left out, its content counts."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if not str(key).startswith("__")}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
