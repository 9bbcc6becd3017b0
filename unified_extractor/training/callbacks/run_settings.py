"""A callback that keeps the settings of a run in its checkpoints, and tells them to the loggers that a user adds."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from typing_extensions import override

SETTINGS = "settings"
"""The name of the settings in a checkpoint."""


class KeepSettings(L.Callback):
    """A callback that writes the resolved settings of a run into its checkpoints, wherever these are copied to.

    Loggers beside those of every run get them too, as their hyperparameters; ``config.yaml`` has them beside the others.

    Args:
        settings: settings in the types of YAML.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger | TensorBoardLogger):
                logger.log_hyperparams(dict(self.settings))

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[SETTINGS] = self.settings
