"""The resolved configuration beside the run it belongs to."""

from pathlib import Path

import lightning as L
from lightning.pytorch.cli import SaveConfigCallback
from typing_extensions import override


class SaveRunConfig(SaveConfigCallback):
    """Saves the resolved configuration before the first step: ``config.yaml``, then ``config.1.yaml`` where the run is resumed."""

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.already_saved or stage != "fit":
            return
        self.already_saved = True
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            earlier = len(list(folder.glob("config*.yaml")))
            name = f"config.{earlier}.yaml" if earlier else "config.yaml"
            self.parser.save(self.config, folder / name, skip_none=False, multifile=False)
