"""How images come to the network: by which processes, from which memory, in which order."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Settings of the loaders.

    Attributes:
        num_workers: processes that load, 0 for none; unused where the images lie on the device.
        on_device: keep the images on the device as one tensor and augment whole batches there. By default wherever the images
            fit into memory and the augmentation can be done by the batch.
        stateful: make checkpoints within an epoch exact (extra ``stateful``); checkpoints between epochs always are.
        seed: of the training images' order and augmentation; by default that of ``lightning.seed_everything``.
    """

    num_workers: int = 0
    on_device: bool | None = None
    stateful: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
