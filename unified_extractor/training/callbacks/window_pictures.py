"""Pictures of sampling points and kernels, drawn during training."""

import copy
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from typing_extensions import override

from unified_extractor.data import ImageDataModule
from unified_extractor.profiling.extractors import extractors
from unified_extractor.visualize.window_drawings import draw_stages

IMAGES = 2


class WindowPictures(L.Callback):
    """A callback that draws sampling points and kernels on the same validation images after the epochs 1, 2, 4, 8, ...

    The pictures are written as files and to TensorBoard.

    Args:
        folder: folder of the files ``epoch_<N>_image_<I>.png``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch, network, data = trainer.current_epoch + 1, pl_module.network, trainer.datamodule  # type: ignore[attr-defined]
        due = epoch & (epoch - 1) == 0 and trainer.is_global_zero and not trainer.sanity_checking
        if not due or not isinstance(network, nn.Module) or not extractors(network) or not isinstance(data, ImageDataModule):
            return
        network, images = copy.deepcopy(network).float().eval(), data.images("val")
        self.folder.mkdir(exist_ok=True)
        for index in range(min(IMAGES, len(images))):  # type: ignore[arg-type]
            place = index * (len(images) // IMAGES)  # type: ignore[arg-type]
            pixels = images[place][0]
            shown = (pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels[0]) / 255
            figure = draw_stages(network, data.normalize(pixels[None]), shown=shown)
            figure.savefig(self.folder / f"epoch_{epoch:04d}_image_{index}.png", dpi=100)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_figure(f"windows/image_{index}", figure, epoch)
