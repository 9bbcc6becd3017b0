"""The commands fit, validate, test and predict of ``uniex``: Lightning's own, with a one-line message for every mistake of a
user.

``fit`` trains, selects the epoch by validation accuracy, tests that epoch's checkpoint once, and writes the run's record.
"""

import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from typing_extensions import override

from unified_extractor.data import DataError, ImageDataModule
from unified_extractor.data.data_module import Split
from unified_extractor.data.image_files import in_words
from unified_extractor.training.callbacks.prediction_table import PredictionTable
from unified_extractor.training.classifier import ImageClassifier
from unified_extractor.training.cli.config_checks import check_config_objects
from unified_extractor.training.cli.quiet_lightning import quiet
from unified_extractor.training.cli.user_errors import refuse, users_mistake
from unified_extractor.training.cli.whole_values import take_whole, with_defaults
from unified_extractor.training.errors import ConfigurationError, DivergedError
from unified_extractor.training.run.checkpoints import read_checkpoint
from unified_extractor.training.run.checks import check_devices
from unified_extractor.training.run.environment import versions
from unified_extractor.training.run.fit import Fit, callback_list
from unified_extractor.training.run.folder import RunFolder, release_locks

Built = TypeVar("Built")
GROUPS: dict[str, type] = {"model": ImageClassifier, "data": ImageDataModule, "trainer": L.Trainer, "run": RunFolder}
SINGLE: dict[str, type] = {"seed_everything": int, "threads": int, "checkpoint_every_n_steps": int, "ckpt_path": str}
_GO_ON = "the same command with --ckpt_path last goes on from the last checkpoint"


def main(args: Sequence[str] | None = None) -> int:
    """Run ``uniex fit | validate | test | predict`` with ``args``, by default those of the command line. Return the exit code.

    A mistake of the user is reported in one line on stderr, with exit code 2. Any other error keeps its traceback.
    """
    quiet()
    arguments = sys.argv[1:] if args is None else list(args)
    try:
        return TrainingCLI(arguments).exit_code
    except Exception as error:
        mistake = users_mistake(error, GROUPS | SINGLE)
        if mistake is None:
            raise
        return refuse(mistake, code=1 if isinstance(error, DivergedError) else 2)
    except SIGTERMException:
        print(f"uniex: stopped by SIGTERM; {_GO_ON}", file=sys.stderr)
        return 128 + signal.SIGTERM
    except SystemExit as finished:
        if isinstance(finished.__context__, KeyboardInterrupt):
            print(f"uniex: interrupted; {_GO_ON}", file=sys.stderr)
            return 130
        return finished.code if isinstance(finished.code, int) else int(finished.code is not None)
    finally:
        release_locks()


class TrainingCLI(LightningCLI):
    """Lightning's command line for an ``ImageClassifier`` and an ``ImageDataModule``. Each ``fit`` has a folder of its own.

    Attributes:
        exit_code: 1 if some images of ``predict`` could not be read, else 0.
    """

    exit_code = 0

    def __init__(self, args: ArgsType = None) -> None:
        set_parsing_settings(subclasses_disabled=[_is_config_object], omegaconf_absolute_to_relative_paths=True)
        super().__init__(
            ImageClassifier,
            ImageDataModule,
            subclass_mode_data=True,
            save_config_callback=_SaveRunConfig,
            parser_class=_Parser,
            trainer_defaults={"enable_model_summary": False},  # it cannot count the operator's multiply-adds
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,
            args=args,
        )

    @override
    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything", type=int, default=0, help="Seed of initial weights, data order and augmentation."
        )
        parser.add_argument("--threads", type=int | None, default=None, help="Processor threads of torch, by default all.")
        parser.add_argument(
            "--checkpoint_every_n_steps",
            type=int | None,
            default=None,
            help="Checkpoints within epochs, beside those between; exact with --data.loading.stateful or images on the device.",
        )

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunFolder, "run")

    @override
    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--top_k", type=int, default=1, help="Number of most likely classes in each row.")
        return parser

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        command = self.config.subcommand
        settings: Namespace = self.config[command]
        check_config_objects(settings, GROUPS)
        for name in ("threads", "checkpoint_every_n_steps"):
            if settings[name] is not None and settings[name] < 1:
                raise ConfigurationError(f"{name}: must be at least 1, got {settings[name]}")
        if command == "predict" and settings.top_k < 1:
            raise ConfigurationError(f"top_k: must be at least 1, got {settings.top_k}")
        if not 0 <= settings.seed_everything < 2**32:
            raise ConfigurationError(f"seed_everything: must lie in 0..{2**32 - 1}, got {settings.seed_everything}")
        self._check_devices(settings.trainer)
        if command != "fit" and settings.ckpt_path in (None, "last", "best"):
            given = settings.ckpt_path or "none"
            raise ConfigurationError(f"ckpt_path: {command} needs the checkpoint file of a trained network, got {given}")
        if settings.ckpt_path is not None and (command, settings.ckpt_path) != ("fit", "last"):
            read_checkpoint(Path(settings.ckpt_path))

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
        if self.subcommand == "fit":
            return self._fit_trainer(given, settings)
        settings.update(logger=given.logger or False, enable_checkpointing=False)
        if self.subcommand == "predict" and given.enable_progress_bar is None:
            settings["enable_progress_bar"] = False  # the table goes to stdout
        trainer = self._trainer(**settings)
        if self.subcommand == "predict" and trainer.world_size > 1:
            raise ConfigurationError(f"trainer.devices: predict prints one table from one device, got {trainer.world_size}")
        return trainer

    def before_fit(self) -> None:
        """Print what is trained, and the folder of its files."""
        self.run.announce()

    def after_fit(self) -> None:
        """Test the best epoch, write the record, draw the curves and print the table."""
        if (record := self.run.finish(self.trainer)) is not None and self.run.folder is not None:
            self.run.summarize(record)

    def before_validate(self) -> None:
        """Print which images are read."""
        self._describe("val")

    def before_test(self) -> None:
        """Print which images are read."""
        self._describe("test")

    def predict(self, **arguments: Any) -> None:
        """Print file, classes and probabilities of every image as CSV, batch by batch."""
        listing = self.datamodule.predict_images()
        if left_out := in_words(listing.left_out):
            print(f"{len(listing.files):,} images; {left_out}", file=sys.stderr)
        table = PredictionTable(sys.stdout, self.config.predict.top_k)
        self.trainer.callbacks.append(table)  # type: ignore[attr-defined]
        self.trainer.predict(**{**arguments, "return_predictions": False})
        self.exit_code = int(table.unreadable > 0)

    def _describe(self, split: Split) -> None:
        self.datamodule.prepare_data()
        print(self.datamodule.described([split]))

    def _check_devices(self, given: Namespace) -> None:
        check_devices(given.accelerator, given.devices)

    def _fit_trainer(self, given: Namespace, settings: dict[str, Any]) -> L.Trainer:
        """Check everything with a trainer that writes nothing, claim the run's folder, then return the trainer that trains."""
        fit = self.config_init.fit
        self.run = Fit(fit.run, self.model, self.datamodule, fit, self.config.fit)
        self.run.check(self._trial_trainer(given, settings))
        self.run.start(self.config.fit.ckpt_path)
        if not given.fast_dev_run:
            self.run.claim(self.config.fit.ckpt_path)
            fit.ckpt_path = self.run.checkpoint
        return self._trainer(**settings, **self.run.trainer_settings())

    def _trial_trainer(self, given: Namespace, settings: dict[str, Any]) -> L.Trainer:
        callbacks = callback_list(given.callbacks)
        if any(isinstance(callback, Checkpoint) for callback in callbacks):
            raise ConfigurationError(
                "trainer.callbacks: a run keeps its own checkpoints, the best and the last two epochs, so leave ModelCheckpoint out; "
                "checkpoint_every_n_steps writes more"
            )
        return self._trainer(**settings, callbacks=callbacks, logger=False, enable_checkpointing=False)

    def _trainer(self, **settings: Any) -> L.Trainer:
        try:
            return super().instantiate_trainer(**settings)
        except (ValueError, MisconfigurationException) as error:
            raise ConfigurationError(f"trainer: {' '.join(str(error).split())}") from error

    def _built(self, kind: type[Built], /, *args: Any, **kwargs: Any) -> Built:
        """Return an object of the configuration. If its class refuses the arguments, the error names their path in the file."""
        try:
            return kind(*args, **kwargs)
        except (ConfigurationError, DataError):
            raise
        except ValueError as error:
            raise ConfigurationError(f"{self._path_of(kind)}: {error}") from error

    def _path_of(self, kind: type) -> str:
        for path, group in GROUPS.items():
            if kind is group:
                return path
        settings = self.config[self.subcommand]
        for key in settings.keys(branches=True):
            if key.endswith(".class_path") and settings[key].rsplit(".", 1)[-1] == kind.__name__:
                return str(key.removesuffix(".class_path"))
        return kind.__name__


class _Parser(LightningArgumentParser):
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


class _SaveRunConfig(SaveConfigCallback):
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


def _is_config_object(kind: type) -> bool:
    """Return True for dataclasses: they are written as plain mappings, without a ``class_path``, because their class is
    known."""
    return dataclasses.is_dataclass(kind)
