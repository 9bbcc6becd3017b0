"""Model cards: what somebody who finds a network's files must know, as the Hub's ``README.md`` with metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import unified_extractor.models as models
from unified_extractor.extras import needed
from unified_extractor.interop.saved import Network

_TEMPLATE = Path(__file__).parent / "card.md"


def network_card(
    network: Network, *, license: str | None = None, limits: str = "", run: Mapping[str, Any] | None = None, **metadata: Any
) -> Any:
    """Return the ``huggingface_hub.ModelCard`` of a network.

    Args:
        network: the network; what its ``task`` says of classes and images is in the card.
        license: the license of the weights by the Hub's name, such as ``apache-2.0``.
        limits: sentences about what the network cannot do, or was not tested on.
        run: texts about the network's training; ``unified_extractor.training.model_card`` makes them.
        metadata: further arguments of ``huggingface_hub.ModelCardData``.
    """
    hub = needed("huggingface_hub")
    task = network.task
    labels_pixels = isinstance(network, models.SegmentationNet)
    size = "" if task is None else task.image_size
    data = hub.ModelCardData(
        license=license,
        library_name="unified_extractor",
        pipeline_tag="image-segmentation" if labels_pixels else "image-classification",
        tags=["unified_extractor", "pytorch"],
        **metadata,
    )
    card = hub.ModelCard.from_template(
        data,
        template_str=_TEMPLATE.read_text(),
        title=metadata.get("model_name", type(network).__name__),
        network=type(network).__name__,
        parameters=f"{sum(parameter.numel() for parameter in network.parameters()):,}",
        task=task,
        size=f"{size}x{size}" if isinstance(size, int) else "x".join(map(str, size)),
        license=license,
        limits=limits,
        run=run,
    )
    return hub.ModelCard(_without_holes(str(card)))


def _without_holes(text: str) -> str:
    """Return a text in which at most one line in a row is empty."""
    lines = text.splitlines()
    kept = [line for line, before in zip(lines, ["", *lines], strict=False) if line.strip() or before.strip()]
    return "\n".join(kept) + "\n"
