"""The model card of a finished run: data, recipe and figures from the files of its folder."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from unified_extractor.extras import needed
from unified_extractor.interop.cards import network_card
from unified_extractor.interop.saved import Network
from unified_extractor.named_specs import specs_line
from unified_extractor.options import imported
from unified_extractor.results.class_iou import class_iou
from unified_extractor.results.markdown import as_markdown
from unified_extractor.results.record import RECORD, Record
from unified_extractor.results.sources import read_run
from unified_extractor.results.tables import formatted, results_table
from unified_extractor.spec import ExtractorSpec
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.trained import checkpoint_of, load

_RECIPE = {
    "model": ("optimization", "label_smoothing", "mixup", "initial_weights"),
    "trainer": ("max_epochs", "precision", "gradient_clip_val", "accumulate_grad_batches"),
}
"""The settings of a run that its card shows, with the batch size and the augmentation of the data."""


def model_card(run: str | Path, *, license: str | None = None, limits: str = "") -> Any:
    """Return the model card of a finished run, a ``huggingface_hub.ModelCard``: ``card.save("folder/README.md")`` writes it.

    Args:
        run: the folder of a run (``version_<N>``, or the one above, whose newest run with a checkpoint is meant).
        license: the license of the weights by the Hub's name, such as ``apache-2.0``.
        limits: sentences about what the network cannot do, or was not tested on.

    Raises:
        ConfigurationError: the run is not finished, or its network is none of this package.
    """
    folder = checkpoint_of(Path(run)).parent.parent
    if not (folder / RECORD).is_file():
        raise ConfigurationError(f"{folder} has no {RECORD}: only a finished run has figures for a card")
    record, settings = read_run(folder), yaml.safe_load((folder / "config.yaml").read_text())
    network = load(folder).network
    if not isinstance(network, Network):
        raise ConfigurationError(f"{folder}: a card is of a network of unified_extractor.models, got {type(network).__name__}")
    environment = json.loads((folder / "environment.json").read_text())
    table = as_markdown(formatted(results_table([record])))
    if (per_class := class_iou([record])) is not None:
        table += "\n" + as_markdown(formatted(per_class))
    texts = {
        "extractor": specs_line([ExtractorSpec(**spec) for spec in record.specs]),
        "figures": table,
        "tested": _tested(record),
        "command": _command(environment.get("command", [])),
        "device": f"{record.device}, precision {record.precision}, {record.seconds_per_epoch:.1f} s an epoch",
        "commit": record.commit,
        "versions": ", ".join(f"{package} {version}" for package, version in record.versions.items()),
        "data": _data(record, settings["data"]),
        "recipe": _recipe(settings),
    }
    return network_card(network, license=license, limits=limits, run=texts, model_name=record.variant, **_metadata(record))


def _tested(record: Record) -> str:
    """Return how the figures of a run came about."""
    text = f"Epoch {record.best_epoch} of {record.epochs}, the best by validation {record.score}"
    tested = f", tested once on {record.test_images:,} images" if record.test_images else "; no test image was looked at"
    return f"{text}{tested}. It is one run, with seed {record.seed}: how much seeds differ is not known from it."


def _command(words: list[str]) -> str:
    if words and Path(words[0]).name in ("__main__.py", "uniex"):
        words = ["uniex", *words[1:]]
    return shlex.join(words)


def _data(record: Record, settings: Mapping[str, Any]) -> str:
    """Return the sentence of the data's class, and how many images were used."""
    sentence = " ".join((getattr(imported(settings["class_path"]), "__doc__", None) or "").partition("\n\n")[0].split())
    return f"`{record.dataset}`: {sentence} Training images: {record.train_images:,}. Test images: {record.test_images:,}."


def _recipe(settings: Mapping[str, Any]) -> str:
    shown = {part: {name: settings[part].get(name) for name in names} for part, names in _RECIPE.items()}
    data = {name: settings["data"]["init_args"].get(name) for name in ("batch_size", "augmentation")}
    shown = {
        part: {name: value for name, value in values.items() if value is not None}
        for part, values in {**shown, "data": data}.items()
    }
    return str(yaml.safe_dump(shown, sort_keys=False)).strip()


def _metadata(record: Record) -> dict[str, Any]:
    """Return the run's main figure in the form of the Hub's metadata."""
    split = "test" if record.test_images else "val"
    metric, task = ("mean_iou", "image-segmentation") if record.score == "miou" else ("accuracy", "image-classification")
    result = needed("huggingface_hub").EvalResult(
        task_type=task,
        dataset_type=record.dataset,
        dataset_name=record.dataset,
        dataset_split={"val": "validation"}.get(split, split),
        metric_type=metric,
        metric_value=getattr(record, f"{split}_{record.score}"),
    )
    return {"metrics": [metric], "eval_results": [result]}
