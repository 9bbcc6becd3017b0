"""A dry run of ``uniex fit``: everything is parsed, built and checked, and nothing is trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import lightning as L
from jsonargparse import Namespace
from typing_extensions import override

from unified_extractor.config_files import unreadable_config
from unified_extractor.data import VisionDataModule
from unified_extractor.training.cli.quiet_lightning import quiet
from unified_extractor.training.cli.training_cli import SINGLE, TrainingCLI, groups
from unified_extractor.training.cli.user_errors import users_mistake
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.network_module import NetworkModule
from unified_extractor.training.run.fit import Fit
from unified_extractor.training.run.folder import RunFolder
from unified_extractor.training.run.settings_hash import config_hash

CLI = TypeVar("CLI", bound=TrainingCLI)


@dataclass(frozen=True)
class PlannedRun:
    """A run that could start: it has passed all checks that ``fit`` makes before training.

    Attributes:
        run: folders of the runs of this name.
        config_hash: hash of the resolved configuration.
        settings: resolved configuration.
        module: task module with the network.
        data: data module, set up.
        trainer: trainer of the configuration; it writes nothing.
        device_missing: reason that the trainer is one on the CPU instead; empty if its device exists here.
    """

    run: RunFolder
    config_hash: str
    settings: Namespace
    module: NetworkModule
    data: VisionDataModule
    trainer: L.Trainer
    device_missing: str = ""


def planned(arguments: Sequence[str], *, elsewhere: bool = False, after: PlannedRun | None = None) -> PlannedRun:
    """Return the run of ``uniex fit`` with these arguments. Raise ``ConfigurationError`` for whatever ``fit`` would refuse.

    With ``elsewhere`` the run may need devices that only another machine has. ``after`` is the run that was planned before: if both
    have the same data settings, its data are used instead of being read again.
    """
    cli = _checked(partial(_PlanningCLI, elsewhere=elsewhere, after=after), arguments)
    settings: Namespace = cli.config.fit
    return PlannedRun(
        cli.config_init.fit.run, config_hash(settings), settings, cli.model, cli.datamodule, cli.trainer, cli.device_missing
    )


def resolved(arguments: Sequence[str]) -> Namespace:
    """Return the resolved configuration of ``uniex fit`` with these arguments. Nothing is built, no image is read, no device looked for.

    Raises:
        ConfigurationError: the arguments are refused.
    """
    settings: Namespace = _checked(_ParsingCLI, arguments).config.fit
    return settings


def _checked(cli: Callable[[list[str]], CLI], arguments: Sequence[str]) -> CLI:
    quiet()
    if reason := unreadable_config(arguments):
        raise ConfigurationError(reason)
    try:
        return cli(["fit", *arguments])
    except Exception as error:
        if (mistake := users_mistake(error, groups(arguments) | SINGLE)) is None:
            raise
        raise ConfigurationError(mistake) from error


class _ParsingCLI(TrainingCLI):
    """Parses, and checks what can be checked without building anything."""

    @override
    def _check_devices(self, given: Namespace) -> None:
        """Accept every combination of options, since nothing runs."""

    @override
    def before_instantiate_classes(self) -> None:
        """Change nothing of this process."""

    @override
    def instantiate_classes(self) -> None:
        """Leave every class of the configuration unbuilt."""

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """Leave the command itself undone."""


class _PlanningCLI(TrainingCLI):
    """A command line that parses, builds and checks a run, and trains nothing."""

    def __init__(self, args: list[str], *, elsewhere: bool, after: PlannedRun | None) -> None:
        self.elsewhere, self.after, self.device_missing = elsewhere, after, ""
        super().__init__(args)

    @override
    def _check_devices(self, given: Namespace) -> None:
        try:
            super()._check_devices(given)
        except ConfigurationError as error:
            if not self.elsewhere:
                raise
            self.device_missing = str(error)

    @override
    def _fit_trainer(self, given: Namespace, settings: dict[str, Any]) -> L.Trainer:
        if self.device_missing:
            given.sync_batchnorm = False
            settings |= {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": False}
        if self.after and self.after.settings.data == self.config.fit.data:
            self.datamodule.adopt(self.after.data)
        trial = self._trial_trainer(given, settings)
        Fit(self.config_init.fit.run, self.model, self.datamodule, self.config_init.fit, self.config.fit).check(trial)
        if self.after is None and not self.device_missing:  # what fails in a step fails in the first run of several
            self._try_steps(trial, given, settings)
        return trial

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing, where ``fit`` would train."""
