"""The normalization of data sets in folders: by a mean and standard deviation that are given, or those of the training images."""

from collections.abc import Sequence

from typing_extensions import override

from unified_extractor.data.data_module import VisionDataModule
from unified_extractor.data.statistics import Images, mean_and_std
from unified_extractor.task import ImageTask


class MeasuredNormalization(VisionDataModule):
    """A data module whose ``mean`` and ``std`` are given, or else measured on its training images when they are first needed."""

    def set_normalization(self, mean: Sequence[float] | None, std: Sequence[float] | None, in_chans: int | None) -> None:
        """Set the channels and, if they are given, mean and standard deviation. Raise ``ValueError`` if these contradict each other."""
        self.in_chans = _channels(mean, std, in_chans)
        self._normalization = None if mean is None or std is None else (tuple(mean), tuple(std))
        self._measured = self._normalization is None

    @property
    @override
    def mean(self) -> Sequence[float]:  # type: ignore[override]
        return self._mean_and_std()[0]

    @property
    @override
    def std(self) -> Sequence[float]:  # type: ignore[override]
        return self._mean_and_std()[1]

    @override
    def normalize_as(self, task: ImageTask) -> None:
        if self._measured:
            self._normalization = (tuple(task.mean), tuple(task.std))
        super().normalize_as(task)

    def measured_images(self) -> Images:
        """Return the images that are measured, all of one size: a whole image would count for more, the larger it is."""
        return self.images("train")  # type: ignore[return-value]

    def _mean_and_std(self) -> tuple[Sequence[float], Sequence[float]]:
        if self._normalization is None:
            self._normalization = mean_and_std(self.measured_images())
        return self._normalization


def _channels(mean: Sequence[float] | None, std: Sequence[float] | None, in_chans: int | None) -> int:
    """Return the channels in which images are read."""
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must be given together, got mean={mean}, std={std}")
    if mean is None or std is None:
        return in_chans or 3
    if len(mean) not in (1, 3) or len(std) != len(mean):
        raise ValueError(f"mean and std must both have one value (gray) or three (RGB), got mean={mean}, std={std}")
    if in_chans not in (None, len(mean)):
        raise ValueError(f"in_chans must be the number of values in mean, got in_chans={in_chans}, mean={mean}")
    return len(mean)
