"""Pictures of predicted label maps beside the true ones, drawn during training."""

from collections.abc import Iterator

import torch
from torch import nn
from typing_extensions import override

from unified_extractor.data import VisionDataModule
from unified_extractor.training.callbacks.epoch_pictures import EpochPictures, Picture, chosen
from unified_extractor.visualize.label_map_drawings import draw_label_maps

IMAGES = 3


class LabelMapPictures(EpochPictures):
    """A callback that draws predictions beside the truth on the same validation images after the epochs 1, 2, 4, 8, ..."""

    @override
    def draw(self, network: nn.Module, data: VisionDataModule) -> Iterator[Picture]:
        if samples := chosen(data, IMAGES):
            images, maps = (torch.stack(list(parts)) for parts in zip(*samples, strict=True))
            task = data.task
            figure = draw_label_maps(
                network, data.normalize(images), shown=images, truth=maps, names=task.class_names, colors=task.colors or ()
            )
            yield Picture(figure, "predictions", "predictions")
