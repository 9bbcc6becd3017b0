"""The parser of the training commands, and how it writes a run's resolved configuration."""

import dataclasses
from enum import Enum
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from typing_extensions import override

from unified_extractor.training.cli.whole_values import take_whole, with_defaults
from unified_extractor.training.run.environment import versions

# an option whose default is a member of an enumeration, such as Timer's, is written as the command line takes it
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_str(value.name))


class ConfigParser(LightningArgumentParser):
    """A parser that raises errors instead of printing pages of usage. Files may use ``${...}`` and may name further files."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("prog", "uniex")
        kwargs.update(exit_on_error=False, allow_abbrev=False, parser_mode="omegaconf+")
        kwargs["dump_header"] = [f"{name}=={version}" for name, version in versions().items()]
        super().__init__(*args, **kwargs)

    @override
    def _check_value_key(self, action: Any, value: Any, *others: Any, **options: Any) -> Any:
        return super()._check_value_key(action, with_defaults(self, action, value), *others, **options)

    @override
    def add_class_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        added: list[str] = super().add_class_arguments(*args, **kwargs)
        take_whole(self)
        return added

    @override
    def add_function_arguments(self, *args: Any, **kwargs: Any) -> list[str]:
        added: list[str] = super().add_function_arguments(*args, **kwargs)
        take_whole(self)
        return added

    @override
    def add_subclass_arguments(self, *args: Any, **kwargs: Any) -> None:
        super().add_subclass_arguments(*args, **kwargs)
        take_whole(self)


class SaveRunConfig(SaveConfigCallback):
    """A callback that saves the resolved configuration before training: as ``config.yaml``, and as ``config.1.yaml`` when
    the run is resumed."""

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.already_saved or stage != "fit":
            return
        self.already_saved = True
        if trainer.is_global_zero:
            folder = Path(trainer.default_root_dir)
            earlier = len(list(folder.glob("config*.yaml")))
            name = f"config.{earlier}.yaml" if earlier else "config.yaml"
            self.parser.save(self.config, folder / name, skip_none=False, multifile=False)


def is_config_object(kind: type) -> bool:
    """Return True for dataclasses: they are written as plain mappings, without a ``class_path``, because their class is
    known."""
    return dataclasses.is_dataclass(kind)
