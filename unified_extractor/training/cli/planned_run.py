"""A dry run of ``uniex fit``: everything is parsed, built and checked, and nothing is trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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


class ParsedRun:
    """A run whose settings are known, and of which nothing is built: no image is read, no device looked for.

    Args:
        arguments: the arguments of ``uniex fit``.

    Raises:
        ConfigurationError: the arguments are refused.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        quiet()
        if reason := unreadable_config(arguments):
            raise ConfigurationError(reason)
        self._mistakes_of = groups(arguments) | SINGLE
        with self._refused_in_words():
            self._cli = _PlanningCLI(["fit", *arguments])

    @property
    def settings(self) -> Namespace:
        """The resolved configuration."""
        settings: Namespace = self._cli.config.fit
        return settings

    def built(self, *, elsewhere: bool = False, after: PlannedRun | None = None) -> PlannedRun:
        """Build the run and return it: see :func:`planned`."""
        with self._refused_in_words():
            self._cli.build(elsewhere=elsewhere, after=after)
        cli, settings = self._cli, self.settings
        run = cli.config_init.fit.run
        return PlannedRun(run, config_hash(settings), settings, cli.model, cli.datamodule, cli.trainer, cli.device_missing)

    @contextmanager
    def _refused_in_words(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if (mistake := users_mistake(error, self._mistakes_of)) is None:
                raise
            raise ConfigurationError(mistake) from error


def planned(arguments: Sequence[str], *, elsewhere: bool = False, after: PlannedRun | None = None) -> PlannedRun:
    """Return the run of ``uniex fit`` with these arguments. Raise ``ConfigurationError`` for whatever ``fit`` would refuse.

    With ``elsewhere`` the run may need devices that only another machine has. ``after`` is the run that was planned before: if both
    have the same data settings, its data are used instead of being read again.
    """
    return ParsedRun(arguments).built(elsewhere=elsewhere, after=after)


class _PlanningCLI(TrainingCLI):
    """A command line that parses when it is made, builds and checks a run when it is asked to, and trains nothing."""

    elsewhere = False
    after: PlannedRun | None = None
    device_missing = ""

    def build(self, *, elsewhere: bool, after: PlannedRun | None) -> None:
        """Build and check everything that was parsed."""
        self.elsewhere, self.after, self.device_missing = elsewhere, after, ""
        self._look_for_devices()
        super().before_instantiate_classes()
        self._set_seed()
        super().instantiate_classes()

    @override
    def before_instantiate_classes(self) -> None:
        """Change nothing of this process."""

    @override
    def instantiate_classes(self) -> None:
        """Leave every class of the configuration unbuilt."""

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """Leave the command itself undone."""

    @override
    def _check_devices(self, given: Namespace) -> None:
        """Accept every device, until the run is built."""

    def _look_for_devices(self) -> None:
        try:
            super()._check_devices(self.config.fit.trainer)
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
