"""The base of callbacks that draw pictures of the same validation images during training."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from typing_extensions import override

from unified_extractor.data import VisionDataModule


class Picture(NamedTuple):
    """A figure, its name for loggers, and the end of its file's name."""

    figure: Figure
    tag: str
    file: str


class EpochPictures(L.Callback):
    """A callback that draws pictures after the epochs 1, 2, 4, 8, ..., as files ``epoch_<N>_<name>.png`` and to those loggers
    that take pictures: TensorBoard, Weights & Biases and MLflow.

    Args:
        folder: folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def draw(self, network: nn.Module, data: VisionDataModule) -> Iterator[Picture]:
        """Yield the pictures of a copy of the network, in eval mode."""
        raise NotImplementedError

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch, network, data = trainer.current_epoch + 1, pl_module.network, trainer.datamodule  # type: ignore[attr-defined]
        due = epoch & (epoch - 1) == 0 and trainer.is_global_zero and not trainer.sanity_checking
        if not due or not isinstance(network, nn.Module) or not isinstance(data, VisionDataModule):
            return
        for figure, tag, file in self.draw(copy.deepcopy(network).float().eval(), data):
            self.folder.mkdir(exist_ok=True)
            path = self.folder / f"epoch_{epoch:04d}_{file}.png"
            figure.savefig(path, dpi=100)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    with Image.open(path) as drawn:  # not add_figure, which would draw it a second time
                        logger.experiment.add_image(tag, np.asarray(drawn.convert("RGB")), epoch, dataformats="HWC")
                elif isinstance(logger, WandbLogger):
                    logger.log_image(tag, [str(path)], trainer.global_step)
                elif isinstance(logger, MLFlowLogger):
                    logger.experiment.log_artifact(logger.run_id, str(path), self.folder.name)


def chosen(data: VisionDataModule, count: int) -> list[Any]:
    """Return ``count`` validation images with their labels, spread evenly; fewer if there are no more."""
    images: Any = data.images("val")
    return [images[index * (len(images) // count)] for index in range(min(count, len(images)))]
