"""Pictures of sampling points and kernels, drawn during training."""

from collections.abc import Iterator

from torch import nn
from typing_extensions import override

from unified_extractor.data import VisionDataModule
from unified_extractor.profiling.extractors import extractors
from unified_extractor.training.callbacks.epoch_pictures import EpochPictures, Picture, chosen
from unified_extractor.visualize.window_drawings import draw_stages

IMAGES = 2


class WindowPictures(EpochPictures):
    """A callback that draws sampling points and kernels on the same validation images after the epochs 1, 2, 4, 8, ..."""

    @override
    def draw(self, network: nn.Module, data: VisionDataModule) -> Iterator[Picture]:
        if not extractors(network):
            return
        for index, (pixels, _) in enumerate(chosen(data, IMAGES)):
            shown = (pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels[0]) / 255
            figure = draw_stages(network, data.normalize(pixels[None]), shown=shown)
            yield Picture(figure, f"windows/image_{index}", f"image_{index}")
