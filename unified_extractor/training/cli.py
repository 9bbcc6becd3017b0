"""The training commands of ``uniex``: fit, validate, test, predict. Lightning's own, with one line for every mistake of a user.

``fit`` trains, selects the epoch by validation accuracy, tests that epoch's checkpoint once, and writes the run's record.
"""

import argparse
import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from jsonargparse import Namespace, set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from typing_extensions import override

from unified_extractor.data import DataError, ImageDataModule
from unified_extractor.training.architecture import check_network, read_weights
from unified_extractor.training.callbacks import EpochTimer, NarrowProgressBar, ReseedEachEpoch
from unified_extractor.training.checkpoints import check_checkpoint_file, run_checkpoints
from unified_extractor.training.classifier import ImageClassifier
from unified_extractor.training.config_objects import check_config_objects
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.loggers import run_loggers
from unified_extractor.training.messages import one_line
from unified_extractor.training.quiet import quiet
from unified_extractor.training.record import make_record, versions, write_record
from unified_extractor.training.refusals import refuse, unreadable_config, users_mistake
from unified_extractor.training.run_folder import CHECKPOINTS, RECORD, RunFolder
from unified_extractor.training.saved_config import SaveRunConfig

Built = TypeVar("Built")
_GROUPS: dict[str, type] = {"model": ImageClassifier, "data": ImageDataModule, "trainer": L.Trainer, "run": RunFolder}
_SINGLE: dict[str, type] = {"seed_everything": int, "threads": int, "ckpt_path": str}


def main(args: Sequence[str] | None = None) -> int:
    """Run ``uniex fit | validate | test | predict`` with these arguments, by default the command line's. Returns the exit code.

    A mistake of the user gives one line on stderr and 2. Anything else that goes wrong keeps its traceback.
    """
    quiet()
    arguments = sys.argv[1:] if args is None else list(args)
    if reason := unreadable_config(arguments):
        return refuse(reason)
    try:
        TrainingCLI(arguments)
    except argparse.ArgumentError as error:
        return refuse(one_line(str(error), _GROUPS | _SINGLE))
    except ValueError as error:
        mistake = users_mistake(error)
        if mistake is None:
            raise
        return refuse(mistake)
    except MisconfigurationException as error:
        return refuse(f"trainer: {' '.join(str(error).split())}")
    except SystemExit as finished:
        if isinstance(finished.__context__, KeyboardInterrupt):
            print("uniex: interrupted; the same command with --ckpt_path last goes on from the last epoch", file=sys.stderr)
            return 130
        return finished.code if isinstance(finished.code, int) else int(finished.code is not None)
    return 0


class TrainingCLI(LightningCLI):
    """LightningCLI for an ``ImageClassifier`` and an ``ImageDataModule``. Each ``fit`` has a folder of its own."""

    def __init__(self, args: ArgsType = None) -> None:
        set_parsing_settings(subclasses_disabled=[_is_config_object], omegaconf_absolute_to_relative_paths=True)
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig,
            parser_class=_Parser,
            trainer_defaults={"enable_model_summary": False},  # its count of operations does not know ours
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,
            args=args,
        )

    @override
    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of initial weights, data order and augmentation."
        )
        parser.add_argument(
            "--threads", type=PositiveInt | None, default=None, help="Processor threads of torch, by default all."
        )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunFolder, "run")

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        command = self.config.subcommand
        settings: Namespace = self.config[command]
        check_config_objects(settings)
        if command != "fit" and settings.ckpt_path is None:
            raise ConfigurationError(f"ckpt_path: {command} needs the checkpoint of a trained network, got none")
        if settings.ckpt_path is not None and (command, settings.ckpt_path) != ("fit", "last"):
            check_checkpoint_file(Path(settings.ckpt_path))

    @override
    def before_instantiate_classes(self) -> None:
        self.parser.add_instantiator(self._built, object)
        if (threads := self.config[self.subcommand].threads) is not None:
            torch.set_num_threads(threads)
        if self.subcommand != "fit":
            self.save_config_callback = None

    @override
    def instantiate_trainer(self, **settings: Any) -> L.Trainer:
        given = self.config_init[self.subcommand].trainer
        if self.subcommand != "fit":
            settings.update(logger=given.logger or False, enable_checkpointing=False)
            if self.subcommand == "predict" and given.enable_progress_bar is None:
                settings["enable_progress_bar"] = False  # the table goes to stdout
            return self._trainer(**settings)
        for name in ("max_epochs", "limit_train_batches", "limit_val_batches", "limit_test_batches"):
            if given[name] == 0:
                raise ConfigurationError(f"trainer.{name}: must not be 0, fit trains, validates and tests")
        if _first_process():  # before anything is written
            self.datamodule.prepare_data()
            self.datamodule.setup("fit")
            self.datamodule.setup("test")
            check_network(self.model.network, self.datamodule)
            if self.config.fit.ckpt_path not in (None, "last"):
                read_weights(self.config.fit.ckpt_path, self.model.network)
        self.run: RunFolder = self.config_init.fit.run
        unfinished = None
        if self.config.fit.ckpt_path == "last":
            unfinished = self.run.unfinished()
            self.config_init.fit.ckpt_path = unfinished and unfinished / CHECKPOINTS / "last.ckpt"
            if unfinished is None and _first_process():
                print(f"{self.run.path}: no unfinished run to go on with, starting anew")
        while True:
            self.folder = None if given.fast_dev_run else unfinished or self.run.next()
            trainer = self._trainer(**settings, **self._fit_settings(given))
            if self.folder in (None, unfinished) or not _first_process() or self.run.claim(self.folder):
                return trainer

    def before_fit(self) -> None:
        """Say what runs and where its files go."""
        if self.trainer.is_global_zero and self.folder:
            count = sum(parameter.numel() for parameter in self.model.network.parameters())
            print(
                f"{self.folder}: {type(self.model.network).__name__} with {count:,} parameters on {type(self.datamodule).__name__}"
            )

    def after_fit(self) -> None:
        """Test the best epoch and write the record. Without checkpoints there is neither."""
        if not self.checkpoints or self.folder is None:
            return
        best = self.checkpoints[0]
        if best.best_model_score is None:
            raise ConfigurationError(
                "trainer: no epoch was validated, so there is no best checkpoint to test and no record; see max_epochs, max_steps, "
                "check_val_every_n_epoch"
            )
        tested = self.trainer.test(self.model, self.datamodule, ckpt_path=best.best_model_path, verbose=False)[0]
        record = make_record(
            name=self.run.name,
            seed=self.config.fit.seed_everything,
            classifier=self.model,
            data=self.datamodule,
            trainer=self.trainer,
            epoch_seconds=self.timer.seconds,
            val_accuracy=float(best.best_model_score),
            test_accuracy=tested["test/accuracy"],
        )
        if self.trainer.is_global_zero:
            path = self.folder / RECORD
            write_record(path, record)
            print(
                f"{record['name']}: test accuracy {record['test_accuracy']:.4f}, best validation {record['val_accuracy']:.4f}, "
                f"{record['parameters']:,} parameters, {record['seconds_per_epoch']:.1f} s/epoch\n{path}"
            )

    def predict(self, **arguments: Any) -> None:
        """Print file, class and probability of every image as CSV."""
        batches: Any = self.trainer.predict(**arguments) or ()
        table = csv.writer(sys.stdout)
        table.writerow(["file", "class", "probability"])
        names = self.datamodule.class_names
        for batch in batches:
            for file, label, probability in zip(batch["file"], batch["label"], batch["probability"], strict=True):
                table.writerow([file, names[label], f"{probability:.4f}"])

    def _trainer(self, **settings: Any) -> L.Trainer:
        try:
            return super().instantiate_trainer(**settings)
        except (ValueError, MisconfigurationException) as error:
            raise ConfigurationError(f"trainer: {' '.join(str(error).split())}") from error

    def _fit_settings(self, given: Namespace) -> dict[str, Any]:
        """Loggers, checkpoints and callbacks of a run whose files lie in ``self.folder``, in none for a trial."""
        self.timer = EpochTimer()
        self.checkpoints: list[ModelCheckpoint] = []
        callbacks: list[L.Callback] = [*_as_list(given.callbacks), ReseedEachEpoch(self.config.fit.seed_everything), self.timer]
        if given.enable_progress_bar is not False:
            callbacks.append(NarrowProgressBar())
        if self.folder is None:
            return {"callbacks": callbacks}
        settings: dict[str, Any] = {"default_root_dir": self.folder, "callbacks": callbacks}
        if given.enable_checkpointing is not False:
            self.checkpoints = run_checkpoints(self.folder)
            callbacks.extend(self.checkpoints)
        if given.logger in (None, True):
            settings["logger"] = run_loggers(self.folder)
            callbacks.append(LearningRateMonitor("epoch"))
        return settings

    def _built(self, kind: type[Built], /, *args: Any, **kwargs: Any) -> Built:
        """An object of the configuration. Its own complaint about its arguments gets the path that they have in the file."""
        try:
            return kind(*args, **kwargs)
        except (ConfigurationError, DataError):
            raise
        except ValueError as error:
            raise ConfigurationError(f"{self._path_of(kind)}: {error}") from error

    def _path_of(self, kind: type) -> str:
        for path, group in _GROUPS.items():
            if kind is group:
                return path
        settings = self.config[self.subcommand]
        for key in settings.keys(branches=True):
            if key.endswith(".class_path") and settings[key].rsplit(".", 1)[-1] == kind.__name__:
                return str(key.removesuffix(".class_path"))
        return kind.__name__


class _Parser(LightningArgumentParser):
    """Raises instead of printing pages of usage. Files may use ``${...}`` and name further files."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("prog", "uniex")
        kwargs.update(exit_on_error=False, allow_abbrev=False, parser_mode="omegaconf+")
        kwargs["dump_header"] = [f"{name}=={version}" for name, version in versions().items()]
        super().__init__(*args, **kwargs)


def _is_config_object(kind: type) -> bool:
    """Config objects are written as plain mappings: their class is known, no ``class_path`` needed."""
    return dataclasses.is_dataclass(kind)


def _first_process() -> bool:
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    return rank == 0


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
