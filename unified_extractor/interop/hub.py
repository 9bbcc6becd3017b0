"""Networks on the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from unified_extractor.extras import needed
from unified_extractor.interop.cards import network_card
from unified_extractor.interop.saved import Network, load, save

_hub = needed("huggingface_hub")
CARD = "README.md"
"""The file of a model card, in the folder of a saved network."""


class HubNetwork(nn.Module, _hub.ModelHubMixin, library_name="unified_extractor"):  # type: ignore[call-arg, name-defined]
    """A network with ``save_pretrained``, ``push_to_hub`` and ``from_pretrained``; the files are those of ``interop.save``.

    Args:
        model: a network of ``unified_extractor.models``.
        card: its model card; by default one that says what the network itself knows. That of a run is
            ``unified_extractor.training.model_card(run)``. A network from the Hub keeps its card.

    Raises:
        TypeError: ``model`` is another module.
    """

    def __init__(self, model: Network, card: Any = None) -> None:
        super().__init__()
        if not isinstance(model, Network):
            raise TypeError(f"model must be a network of unified_extractor.models, got {type(model).__name__}")
        self.model = model
        self.card = card

    def forward(self, x: Tensor) -> Tensor:
        """Return what the model gives for ``x``."""
        return self.model(x)

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self.model, save_directory)

    def generate_model_card(self, *_: Any, **options: Any) -> Any:
        """Return the network's model card; ``options`` are those of ``unified_extractor.interop.cards.network_card``."""
        return self.card or network_card(self.model, **options)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "HubNetwork":
        folder = Path(model_id if Path(model_id).is_dir() else _hub.snapshot_download(model_id, **options))
        return cls(load(folder), _hub.ModelCard.load(folder / CARD) if (folder / CARD).is_file() else None)
