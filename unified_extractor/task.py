"""The task of a trained network: the classes of its logits, and how its images are made. Standard library only.

Checkpoints and saved networks hold it, so that nothing about a network's numbers is looked up in some folder later.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ImageTask:
    """The classes of a network's logits, and the images that it was trained on.

    Attributes:
        class_names: names of the classes in the order of the logits.
        mean: mean of each channel that is subtracted, as a fraction of the full range.
        std: standard deviation of each channel by which is divided, as a fraction of the full range.
        image_size: height and width of the images, in pixels; an int if they are equal.
        colors: red, green and blue of each class, 0 to 255, in drawings of label maps; ``None`` where an image has one label.
        resize: length of the shorter side before the center is cropped, in pixels; ``None`` for the image size.
    """

    class_names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    image_size: int | Sequence[int]
    resize: int | None = None
    colors: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        for name in ("class_names", "mean", "std"):  # files hold lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.image_size, int):
            object.__setattr__(self, "image_size", tuple(self.image_size))
        if self.colors is not None:
            object.__setattr__(self, "colors", tuple(map(tuple, self.colors)))
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must have one value a channel, got mean={self.mean}, std={self.std}")
