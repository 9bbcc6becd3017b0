"""What a ``fit`` command would do, without doing it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
from jsonargparse import Namespace
from typing_extensions import override

from unified_extractor.data import ImageDataModule
from unified_extractor.training.classifier import ImageClassifier
from unified_extractor.training.cli import GROUPS, SINGLE, TrainingCLI
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.fitting import Fit
from unified_extractor.training.quiet import quiet
from unified_extractor.training.refusals import unreadable_config, users_mistake
from unified_extractor.training.resolved import config_hash
from unified_extractor.training.run_folder import RunFolder


@dataclass(frozen=True)
class PlannedRun:
    """A run that could start: everything that ``fit`` checks before its work has been checked.

    Attributes:
        run: where its files would go.
        config_hash: of the resolved configuration.
        settings: the resolved configuration.
        classifier: what would be trained.
        data: what it would be trained on, set up.
        trainer: as configured; it writes nothing.
    """

    run: RunFolder
    config_hash: str
    settings: Namespace
    classifier: ImageClassifier
    data: ImageDataModule
    trainer: L.Trainer


def planned(arguments: Sequence[str]) -> PlannedRun:
    """The run of ``uniex fit`` with these arguments. Raises ``ConfigurationError`` for whatever ``fit`` would refuse."""
    quiet()
    if reason := unreadable_config(arguments):
        raise ConfigurationError(reason)
    try:
        cli = _PlanningCLI(["fit", *arguments])
    except Exception as error:
        if (mistake := users_mistake(error, GROUPS | SINGLE)) is None:
            raise
        raise ConfigurationError(mistake) from error
    settings: Namespace = cli.config.fit
    return PlannedRun(cli.config_init.fit.run, config_hash(settings), settings, cli.model, cli.datamodule, cli.trainer)


class _PlanningCLI(TrainingCLI):
    """Parses, builds and checks."""

    @override
    def _fit_trainer(self, given: Namespace, settings: dict[str, Any]) -> L.Trainer:
        trial = self._trial_trainer(given, settings)
        Fit(self.config_init.fit.run, self.model, self.datamodule, self.config_init.fit, "").check(trial)
        return trial

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing is trained."""
