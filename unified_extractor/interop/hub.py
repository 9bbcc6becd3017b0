"""Networks on the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unified_extractor.extras import needed
from unified_extractor.interop.saved import Network, load, save

_hub = needed("huggingface_hub")


class HubNetwork(nn.Module, _hub.ModelHubMixin, library_name="unified_extractor"):  # type: ignore[call-arg, name-defined]
    """A network with ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``; the files are those of ``interop.save``.

    Args:
        model: a network of ``unified_extractor.models``.

    Raises:
        TypeError: ``model`` is another module.
    """

    def __init__(self, model: Network) -> None:
        super().__init__()
        if not isinstance(model, Network):
            raise TypeError(f"model must be a network of unified_extractor.models, got {type(model).__name__}")
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return what the model gives for ``x``."""
        return self.model(x)

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self.model, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "HubNetwork":
        return cls(load(model_id if Path(model_id).is_dir() else _hub.snapshot_download(model_id, **options)))
