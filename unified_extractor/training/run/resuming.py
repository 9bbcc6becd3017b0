"""Checks before a run is resumed: only with its own settings, so that its record says how it was trained.

A new run that starts from the weights of another is something else: see ``model.initial_weights``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified_extractor.training.callbacks.run_settings import SETTINGS
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.run.checkpoints import CHECKPOINTS, read_checkpoint
from unified_extractor.training.run.settings_hash import saved_settings, settings_differences, with_names_of_today

_SHOWN = 3
"""Number of different settings that a message names."""
_EPOCHS = "trainer.max_epochs"


def check_settings_of_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise ``ConfigurationError`` if the run in a folder has other settings; a folder that does not say which passes."""
    saved = saved_settings(folder / "config.yaml")
    if saved is not None:
        weights = max((folder / CHECKPOINTS).glob("epoch_*.ckpt"), default=folder / CHECKPOINTS / "best.ckpt")
        _check_same(f"last: {folder}", saved, settings, weights)


def check_resumable(file: Path, settings: Mapping[str, Any]) -> Path | None:
    """Return the best checkpoint of the run up to ``file``, or ``None`` if the best epoch comes after it.

    Raises:
        ConfigurationError: a run with these settings cannot be resumed from the file.
    """
    content = read_checkpoint(file)
    saved = content.get(SETTINGS) or saved_settings(file.parent.parent / "config.yaml")
    if saved is None:
        raise ConfigurationError(
            f"ckpt_path: {file} does not say with which settings it was trained, so no run is resumed from it; "
            f"--model.initial_weights {file} starts a new run from its weights"
        )
    _check_same(str(file), with_names_of_today(saved), settings, file)
    epoch, epochs = content["epoch"] + 1, settings["trainer"]["max_epochs"]
    if content.get("stopped_early") or (not file.name.startswith("step") and epoch == epochs):
        raise ConfigurationError(
            f"ckpt_path: {file} is the end of its run, after epoch {epoch} of {epochs}; "
            f"--model.initial_weights {file} starts a new run from its weights"
        )
    return _best_until(file, content)


def _best_until(file: Path, content: Mapping[str, Any]) -> Path | None:
    states = [state for name, state in content["callbacks"].items() if "'monitor': 'val/" in name and "best_model_path" in state]
    if not states or not states[0]["best_model_path"]:
        return None
    best = file.parent / Path(states[0]["best_model_path"]).name
    if not best.is_file():
        raise ConfigurationError(
            f"ckpt_path: {file} is not resumed, because {best} is not there, and the best epoch could not be tested; "
            f"--model.initial_weights {file} starts a new run from its weights"
        )
    return best if read_checkpoint(best)["epoch"] <= content["epoch"] else None  # a later best epoch will come again


def _check_same(place: str, there: Mapping[str, Any], here: Mapping[str, Any], weights: Path) -> None:
    differences = settings_differences(there, here)
    if not differences:
        return
    anew = f"--model.initial_weights {weights} starts a new run from its weights, with an optimizer and schedule of its own"
    if [line.partition(":")[0] for line in differences] == [_EPOCHS]:
        epochs, asked = (settings["trainer"]["max_epochs"] for settings in (there, here))
        raise ConfigurationError(
            f"ckpt_path: {place} is a run of {epochs} epochs, not of {asked}: its learning rate follows {epochs} epochs, so its length "
            f"stays. Without --ckpt_path the same command trains {asked} epochs anew; {anew}"
        )
    more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    raise ConfigurationError(
        f"ckpt_path: {place} has other settings: {'; '.join(differences[:_SHOWN])}{more}. A run is resumed with its own alone; {anew}"
    )
