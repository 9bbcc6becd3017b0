"""A callback that keeps the settings of a run in its checkpoints."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from typing_extensions import override

SETTINGS = "settings"
"""The name of the settings in a checkpoint."""


class KeepSettings(L.Callback):
    """A callback that writes the resolved settings of a run into its checkpoints, wherever these are copied to.

    Args:
        settings: settings in the types of YAML.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[SETTINGS] = self.settings
