"""Reading weights from files that others made, without running code in them."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from unified_extractor.interop.extras import needed

_WRAPPERS = ("state_dict", "model", "model_state")
"""Under which names training codes keep the weights in a checkpoint."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file, on the CPU.

    Args:
        path: a ``.safetensors`` file, or one that ``torch.save`` wrote: a state dict, or a checkpoint with one inside.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, holds more than tensors and plain values (a pickle could run code: it is refused), or no
            state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        load_file, broken = needed("safetensors.torch").load_file, needed("safetensors").SafetensorError
        try:
            return load_file(path)
        except broken as error:
            raise ValueError(f"{path} is no readable safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(f"{path} is refused: it is broken, or holds more than tensors and plain values") from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is no readable torch file: {error}") from error
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} holds no state dict, neither alone nor under one of {_WRAPPERS}")
    return dict(content)
