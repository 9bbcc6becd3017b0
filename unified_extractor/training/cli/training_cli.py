"""The commands fit, validate, test and predict of ``uniex``: Lightning's own, with a one-line message for every mistake of a
user.

``fit`` trains, selects the epoch by validation accuracy or mIoU, tests that epoch's checkpoint once, and writes the run's record.
"""

import inspect
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from unified_extractor.config_files import data_class
from unified_extractor.data import DataError, VisionDataModule
from unified_extractor.data.data_module import Split
from unified_extractor.data.image_files import in_words
from unified_extractor.options import imported, options
from unified_extractor.training.callbacks.prediction_writer import PredictionWriter
from unified_extractor.training.cli.config_checks import check_config_objects
from unified_extractor.training.cli.config_parser import ConfigParser, SaveRunConfig, is_config_object
from unified_extractor.training.cli.quiet_lightning import quiet
from unified_extractor.training.cli.user_errors import lost_a_process, refuse, users_mistake
from unified_extractor.training.errors import ConfigurationError, DivergedError, is_bug, reason_of
from unified_extractor.training.run.checkpoints import read_checkpoint
from unified_extractor.training.run.checks import check_callbacks, check_devices
from unified_extractor.training.run.fit import Fit, first_process, listed
from unified_extractor.training.run.folder import RunFolder, release_locks
from unified_extractor.training.run.trial import configured_parts, refusal_of, silent, try_steps
from unified_extractor.training.tasks import module_for

Built = TypeVar("Built")
SINGLE: dict[str, type] = {"seed_everything": int, "threads": int, "checkpoint_every_n_steps": int, "ckpt_path": str}
_FROM_RUN = {
    "--config runs/NAME/version_0/config.yaml": "the settings of a run",
    "--ckpt_path runs/NAME/version_0/checkpoints/best.ckpt": "its network",
}
FIRST_OPTIONS: dict[str, dict[str, str]] = {
    "fit": {
        "--config digits/unified": "a recipe (uniex recipes lists them) or a file of settings; of several the last counts most",
        "--run.name digits/mine": "the folder of the run below runs, whose last part is its name in reports",
        "--ckpt_path last": "go on where a broken run of this name stopped",
    },
    "validate": {**_FROM_RUN, "--data.batch_size 256": "images at once, on each device"},
    "test": {**_FROM_RUN, "--data.batch_size 256": "images at once, on each device"},
    "predict": {**_FROM_RUN, "--data.predict_folder FOLDER": "the images"},
}
"""The three options of each command that matter first, with an example of their values, and what they mean."""
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
        if lost_a_process(error):
            return refuse(f"another process of this run ended, its own messages say why; {_GO_ON}", code=1)
        mistake = users_mistake(error, groups(arguments) | SINGLE)
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


def groups(arguments: Sequence[str]) -> dict[str, type]:
    """Return the classes of the settings' groups; that of the model follows from the data."""
    return {"model": module_for(data_class(arguments)), "data": VisionDataModule, "trainer": L.Trainer, "run": RunFolder}


class TrainingCLI(LightningCLI):
    """Lightning's command line for a ``VisionDataModule`` and the task module of its data. Each ``fit`` has a folder of its own.

    Attributes:
        exit_code: 1 if some images of ``predict`` could not be read, else 0.
    """

    exit_code = 0
    _refusal: ConfigurationError | None = None

    def __init__(self, args: ArgsType = None) -> None:
        every = super().subcommands()
        given = args[0] if isinstance(args, list) and args else None
        self._commands = {given: every[given]} if given in every else every  # a parser takes time to make
        words = args if isinstance(args, list) else []
        self._groups, self._module = groups(words), module_for(data_class(words))
        set_parsing_settings(subclasses_disabled=[is_config_object], omegaconf_absolute_to_relative_paths=True)
        super().__init__(
            self._module,
            VisionDataModule,
            subclass_mode_data=True,
            save_config_callback=SaveRunConfig,
            parser_class=ConfigParser,
            trainer_defaults={"enable_model_summary": False},  # it cannot count the operator's multiply-adds
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,
            args=args,
        )

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        return self._commands

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
        first = "\n".join(f"  {option}\n      {meaning}" for option, meaning in FIRST_OPTIONS[subcommand].items())
        parser.usage = f"uniex {subcommand} --config FILE [--OPTION VALUE ...]\n\nthe options that matter first:\n{first}"
        parser.description = None  # Lightning's is of its trainer's method
        if subcommand == "predict":
            for name, (kind, default, explained) in self._module.prediction_writer.options.items():
                parser.add_argument(f"--{name}", type=kind, default=default, help=explained)
        return parser

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        command = self.config.subcommand
        settings: Namespace = self.config[command]
        check_config_objects(settings, self._groups)
        for name in ("threads", "checkpoint_every_n_steps"):
            if settings[name] is not None and settings[name] < 1:
                raise ConfigurationError(f"{name}: must be at least 1, got {settings[name]}")
        if command == "predict":
            self._writer = self._prediction_writer(settings)
        if not 0 <= settings.seed_everything < 2**32:
            raise ConfigurationError(f"seed_everything: must lie in 0..{2**32 - 1}, got {settings.seed_everything}")
        self._check_devices(settings.trainer)
        if command != "fit" and settings.ckpt_path in (None, "last", "best"):
            given = settings.ckpt_path or "none"
            raise ConfigurationError(f"ckpt_path: {command} needs the checkpoint file of a trained network, got {given}")
        if settings.ckpt_path is not None and (command, settings.ckpt_path) != ("fit", "last"):
            read_checkpoint(Path(settings.ckpt_path))

    @override
    def _parse_ckpt_path(self) -> None:
        """Take no setting from a checkpoint, where Lightning would take its hyperparameters without a word."""

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
        """Print a row of CSV for every image, batch by batch."""
        listing = self.datamodule.predict_images()
        if left_out := in_words(listing.left_out):
            print(f"{len(listing.files):,} images; {left_out}", file=sys.stderr)
        self.trainer.callbacks.append(self._writer)  # type: ignore[attr-defined]
        self.trainer.predict(**{**arguments, "return_predictions": False})
        self.exit_code = int(self._writer.unreadable > 0)

    def _prediction_writer(self, settings: Namespace) -> PredictionWriter:
        kind = self._module.prediction_writer
        return kind.from_options(sys.stdout, **{name: settings[name] for name in kind.options})

    def _describe(self, split: Split) -> None:
        self.datamodule.prepare_data()
        print(self.datamodule.described([split]))

    def _check_devices(self, given: Namespace) -> None:
        check_devices(given.accelerator, given.devices)

    def _fit_trainer(self, given: Namespace, settings: dict[str, Any]) -> L.Trainer:
        """Check everything with a trainer that writes nothing, claim the run's folder, then return the trainer that trains."""
        fit = self.config_init.fit
        self.run = Fit(fit.run, self.model, self.datamodule, fit, self.config.fit)
        trial = self._trial_trainer(given, settings)
        self.run.check(trial)
        self.run.start(self.config.fit.ckpt_path)
        if not given.fast_dev_run:
            if not self.run.goes_on(self.config.fit.ckpt_path):
                self._try_steps(trial, given, settings)
            self.run.claim(self.config.fit.ckpt_path)
            fit.ckpt_path = self.run.checkpoint
        with self._starting():
            return self._trainer(**settings, **self.run.trainer_settings())

    def _try_steps(self, trial: L.Trainer, given: Namespace, settings: dict[str, Any]) -> None:
        if first_process() and isinstance(trial.strategy, SingleDeviceStrategy):
            try_steps(self.model, self.datamodule, given, lambda **changes: self._trainer(**{**settings, **changes}))

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        if subcommand != "fit":
            return super()._run_subcommand(subcommand)
        with self._starting():
            return super()._run_subcommand(subcommand)

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """Leave no folder of a run that fails before its first step, and name the part of the configuration that failed."""
        try:
            yield
        except Exception as error:
            trainer = getattr(self, "trainer", None)
            if trainer is not None and (trainer.global_step or isinstance(error, DivergedError)):
                raise
            self.run.give_up()
            if isinstance(error, ConfigurationError | DataError):
                raise
            parts = configured_parts(self.model, self.datamodule, self.config_init.fit.trainer)
            if (refusal := refusal_of(error, parts)) is None:
                raise
            raise refusal from error

    def _trial_trainer(self, given: Namespace, settings: dict[str, Any]) -> L.Trainer:
        callbacks = listed(given.callbacks)
        check_callbacks(callbacks)
        with silent(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the trainer that trains repeats them
            return self._trainer(**settings, callbacks=callbacks, logger=False, enable_checkpointing=False)

    def _trainer(self, **settings: Any) -> L.Trainer:
        try:
            return super().instantiate_trainer(**settings)
        except Exception as error:
            named = [name for name in re.findall(r"`(?:Trainer\()?(\w+)", str(error)) if name in options(L.Trainer)]
            raise ConfigurationError(f"{'.'.join(['trainer', *named[:1]])}: {reason_of(error)}") from error

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ConfigurationError, DataError):
            raise
        except Exception as error:
            # jsonargparse keeps the reason to itself where a type has alternatives, and calls functions by itself
            if (refusal := self._refusal or self._refusal_of_function(error)) is None:
                raise
            raise refusal from error

    def _refusal_of_function(self, error: Exception) -> ConfigurationError | None:
        """Return an error that names the function of the configuration in which ``error`` was raised, or ``None``."""
        codes = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
        for path, class_path in _class_paths(self.config[self.subcommand]):
            function = inspect.unwrap(made) if inspect.isfunction(made := imported(class_path)) else None
            if function is not None and function.__code__ in codes and not is_bug(error, function):
                return ConfigurationError(f"{path}: {reason_of(error)}")
        return None

    def _built(self, kind: type[Built], /, *args: Any, **kwargs: Any) -> Built:
        """Return an object of the configuration. If its class refuses the arguments, the error names their path in the file."""
        try:
            return kind(*args, **kwargs)
        except (ConfigurationError, DataError):
            raise
        except Exception as error:
            if is_bug(error, kind):
                raise
            self._refusal = ConfigurationError(f"{self._path_of(kind)}: {reason_of(error)}")
            raise self._refusal from error

    def _path_of(self, kind: type) -> str:
        for path, group in self._groups.items():
            if kind is group:
                return path
        paths = _class_paths(self.config[self.subcommand])
        found = (path for path, class_path in paths if class_path.rpartition(".")[2] == kind.__name__)
        return next(found, kind.__name__)


def _class_paths(settings: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path of every object in a configuration with the class or function that makes it."""
    if isinstance(settings, Namespace):
        if isinstance(class_path := vars(settings).get("class_path"), str):
            yield path, class_path
        for name, value in vars(settings).items():
            yield from _class_paths(value, f"{path}.{name}" if path else name)
    elif isinstance(settings, list):
        for index, value in enumerate(settings):
            yield from _class_paths(value, f"{path}[{index}]")
