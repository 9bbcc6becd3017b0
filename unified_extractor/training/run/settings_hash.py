"""The resolved configuration of a run as plain values, and its hash: what decides the run's numbers."""

import hashlib
import json
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

ASIDE = (
    "run",
    "config",
    "ckpt_path",
    "checkpoint_every_n_steps",
    "data.init_args.root",
    "data.init_args.download",
    "data.init_args.predict_folder",
    "data.init_args.loading.num_workers",
    "trainer.logger",
    "trainer.enable_progress_bar",
)
"""Where files lie and go, what is shown, where a run starts again: nothing that decides a number."""


def config_hash(settings: Namespace, *, seeded: bool = True) -> str:
    """Twelve hexadecimal digits of a fit's parsed settings; equal settings, however written, have equal digits.

    Without ``seeded`` the seed is left out: runs that are repetitions of each other have equal digits.
    """
    content = _plain(settings.as_dict())
    data = (content.get("data") or {}).get("init_args") or {}
    if (
        data.get("root") and "name" in data
    ):  # where images lie says nothing, but a data set without a name is called by its folder's
        data["name"] = data["name"] or Path(data["root"]).resolve().name
    for path in ASIDE if seeded else (*ASIDE, "seed_everything"):
        *parents, last = path.split(".")
        place = content
        for name in parents:
            place = place.get(name) or {}
        place.pop(last, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    """Values as JSON can hold them; a nested file's own name is left out, its content counts."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items() if not str(key).startswith("__")}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
