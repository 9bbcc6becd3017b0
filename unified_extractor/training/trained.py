"""A trained network with what is needed to use it: its classes, and the transform of its images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from unified_extractor.data.image_transform import ImageTransform
from unified_extractor.interop.saved import CONFIG
from unified_extractor.interop.saved import load as load_saved
from unified_extractor.task import ImageTask
from unified_extractor.training.callbacks.run_settings import SETTINGS
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.run.checkpoints import CHECKPOINTS, read_checkpoint
from unified_extractor.training.run.folder import RunFolder
from unified_extractor.training.tasks import module_for


class Trained(NamedTuple):
    """A trained network, ready to use.

    Attributes:
        network: the network, on the CPU in eval mode; ``network.task`` has everything about its classes and images.
        class_names: the names of the classes in the order of the logits.
        transform: a function from an image (a file, an image of Pillow, or a uint8 tensor) to the network's input ``[C, H, W]``.
    """

    network: nn.Module
    class_names: Sequence[str]
    transform: ImageTransform


def load(source: str | Path) -> Trained:
    """Return a trained network with its class names and the transform of its images.

    Example::

        network, class_names, transform = ux.load("runs/digits/unified")
        logits = network(transform("photo.png")[None])
        print(class_names[logits.argmax()])

    Args:
        source: the folder of a run (``version_<N>``, or the one above, whose newest run with a checkpoint is meant), of which the
            best epoch is loaded; a checkpoint of a run; or the folder of a network that ``ux.interop.save`` wrote.

    Raises:
        ConfigurationError: ``source`` is none of these, its network cannot be made, or it does not say its classes.
    """
    path = Path(source)
    network = load_saved(path) if (path / CONFIG).is_file() else _of_checkpoint(checkpoint_of(path))
    task = getattr(network, "task", None)
    if not isinstance(task, ImageTask):
        raise ConfigurationError(f"{source} does not say the classes of its network: nothing of this package trained it")
    return Trained(network, task.class_names, ImageTransform(task))


def is_without_run(path: Path) -> bool:
    """Return True for a network that lies there without its run: a checkpoint, or the folder of a saved network."""
    return path.is_file() or (path / CONFIG).is_file()


def checkpoint_of(path: Path) -> Path:
    """Return the checkpoint that a path names, by itself or as that of a run's best epoch.

    Raises:
        ConfigurationError: there is none.
    """
    if path.is_file():
        return path
    newest = RunFolder(path.name, str(path.parent)).current() if path.name else None
    for folder in (path, newest):
        if folder is not None and (best := folder / CHECKPOINTS / "best.ckpt").is_file():
            return best
    raise ConfigurationError(f"{path} is no folder of a run, no checkpoint, and no folder of a saved network")


def _of_checkpoint(path: Path) -> nn.Module:
    """Return the network of a checkpoint. Its task module follows from the data of its run."""
    data = read_checkpoint(path).get(SETTINGS, {}).get("data")
    module = module_for(data.get("class_path") if isinstance(data, dict) else data)
    return module.load_from_checkpoint(path, map_location="cpu").network.eval()
