"""One run of ``fit``, from its checks to its record."""

import copy
import shutil
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ProgressBar, WeightAveraging
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich import box
from rich.console import Console
from rich.table import Table

from unified_extractor.data import VisionDataModule
from unified_extractor.results.record import PROGRESS, Record, write_rows
from unified_extractor.results.tables import formatted, in_words, results_table
from unified_extractor.training.architecture import check_network, extractor_line, read_weights
from unified_extractor.training.callbacks.divergence import StopWhenDiverged
from unified_extractor.training.callbacks.epoch_lines import EpochLines
from unified_extractor.training.callbacks.history import RunHistory
from unified_extractor.training.callbacks.progress_bar import NarrowProgressBar
from unified_extractor.training.callbacks.progress_record import ProgressRecord
from unified_extractor.training.callbacks.random_state import ReseedEachStep
from unified_extractor.training.callbacks.run_settings import KeepSettings
from unified_extractor.training.callbacks.window_pictures import WindowPictures
from unified_extractor.training.errors import ConfigurationError
from unified_extractor.training.network_module import NetworkModule
from unified_extractor.training.run.checkpoints import CHECKPOINTS, read_checkpoint, remove_old, run_checkpoints
from unified_extractor.training.run.checks import check_batch_norm, check_precision, check_room, check_trainer_settings
from unified_extractor.training.run.environment import write_environment
from unified_extractor.training.run.folder import RECORD, Claim, RunFolder, release_locks
from unified_extractor.training.run.loggers import run_loggers
from unified_extractor.training.run.record import describe_run, make_record
from unified_extractor.training.run.resuming import check_resumable, check_settings_of_folder
from unified_extractor.training.run.settings_hash import config_hash, plain_settings
from unified_extractor.training.run.step_count import planned_steps, planned_test_images
from unified_extractor.visualize.result_figures import draw_curves

PICTURES = "pictures"


class Fit:
    """A run that is about to be trained.

    Args:
        run: folders of the runs of this name.
        module: task module with the network.
        data: data module.
        settings: settings of ``fit`` with built objects.
        parsed: settings of ``fit`` as they were parsed.

    Attributes:
        folder: folder of the run, once claimed; None for a trial.
        checkpoint: checkpoint from which the run is resumed, or None.
    """

    def __init__(
        self, run: RunFolder, module: NetworkModule, data: VisionDataModule, settings: Namespace, parsed: Namespace
    ) -> None:
        self.run, self.module, self.data, self.settings, self.parsed = run, module, data, settings, parsed
        self.folder: Path | None = None
        self.checkpoint: Path | None = None
        self._history = RunHistory()
        self._checkpoints: list[ModelCheckpoint] = []
        self._identity = ""
        self._plain = plain_settings(parsed)
        self._notes: list[str] = []
        self._best: Path | None = None

    def check(self, trial: L.Trainer) -> None:
        """Raise ``ConfigurationError`` or ``DataError`` for what would fail later; ``trial`` is a trainer with the run's
        settings."""
        check_trainer_settings(self.settings.trainer)
        check_precision(trial, self.settings.trainer.precision)
        check_batch_norm(trial, self.settings.trainer.sync_batchnorm)
        if not first_process():
            return
        self.data.trainer = trial
        self.data.prepare_data()
        self.data.setup("fit")
        if self.run.tests:
            self.data.setup("test")
        if self.data.num_classes < 2:
            names = ", ".join(self.data.class_names)
            raise ConfigurationError(f"data: a network needs at least two classes, {self.data.name} has {names or 'none'}")
        steps = planned_steps(trial, self.data)
        if trial.max_steps != -1 and steps.total % steps.per_epoch and not trial.fast_dev_run:  # type: ignore[attr-defined]
            raise ConfigurationError(
                f"trainer.max_steps: must end with an epoch, which has {steps.per_epoch} steps here, got {trial.max_steps}"
            )
        if self.run.tests and planned_test_images(trial, self.data) == 0:
            raise ConfigurationError(f"trainer.limit_test_batches: leaves no batch to test, got {trial.limit_test_batches}")
        check_network(self.module.network, self.data)
        check_room(self.run.path, self.module.network, trial)

    def start(self, go_on_from: str | None) -> None:
        """Load the initial weights of a new run. Raise ``ConfigurationError`` unless a run that is resumed has these settings.

        ``go_on_from`` is ``last``, a checkpoint, or None.
        """
        if go_on_from == "last" and (earlier := self.run.current()) is not None:
            check_settings_of_folder(earlier, self._plain)
        elif go_on_from in (None, "last"):
            self._notes = self.module.start(self.data.class_names if first_process() else None)
        elif first_process():
            self._best = check_resumable(Path(go_on_from), self._plain)
            read_weights(go_on_from, self.module.network)

    def goes_on(self, go_on_from: str | None) -> bool:
        """Return True if this is no new run: it took its first step before."""
        return go_on_from is not None and (go_on_from != "last" or self.run.current() is not None)

    def give_up(self) -> None:
        """Remove the folder of a run that failed before its first step."""
        if first_process() and self.folder is not None and self.checkpoint is None:
            release_locks()
            shutil.rmtree(self.folder, ignore_errors=True)

    def claim(self, go_on_from: str | None) -> None:
        """Claim the folder of the run, see :meth:`start`. Raise ``SystemExit`` with code 0 if ``last`` is a finished run."""
        go_on = go_on_from == "last"
        if go_on and (finished := self.run.finished()):
            if first_process():
                print(f"{finished}: finished, its record is there. Without --ckpt_path last, the same command starts another run")
            raise SystemExit(0)
        claim: Claim = self.run.claim(go_on=go_on) if first_process() else self.run.found(go_on=go_on)
        self.folder = claim.folder
        self.checkpoint = claim.checkpoint if go_on else Path(go_on_from) if go_on_from else None
        if not first_process():
            return
        if go_on and self.checkpoint is None:
            print(f"{self.run.path}: no unfinished run to go on with, starting anew")
        if go_on and self.checkpoint is not None:
            remove_old(self.checkpoint.parent, self.checkpoint)
        try:
            self._identity = write_environment(self.folder, config_hash(self.parsed))
            if self._best is not None:
                (self.folder / CHECKPOINTS).mkdir()
                shutil.copy2(self._best, self.folder / CHECKPOINTS / self._best.name)
        except OSError as error:
            raise ConfigurationError(f"run: cannot write into {self.folder}: {error.strerror}") from error

    def trainer_settings(self) -> dict[str, Any]:
        """Return loggers, checkpoints and callbacks for the trainer; without a folder, those of a trial."""
        given = self.settings.trainer
        callbacks: list[L.Callback] = [*listed(given.callbacks), ReseedEachStep(self.settings.seed_everything)]
        callbacks += [StopWhenDiverged(), KeepSettings(self._plain), self._history, EpochLines()]
        settings: dict[str, Any] = {"callbacks": callbacks}
        if any(isinstance(one, ProgressBar) for one in callbacks):
            pass  # a bar of the configuration's
        elif given.enable_progress_bar is not False and Console().is_terminal:
            callbacks.append(NarrowProgressBar())
        else:  # a file would get the bar's last state, at the end
            settings["enable_progress_bar"] = False
        if self.folder is None:
            return settings
        settings["default_root_dir"] = self.folder
        callbacks += [WindowPictures(self.folder / PICTURES), *self.module.pictures(self.folder / PICTURES)]
        if given.enable_checkpointing is not False:
            self._checkpoints = run_checkpoints(
                self.folder,
                self.module.score,
                self.settings.checkpoint_every_n_steps,
                validated_every=given.check_val_every_n_epoch,
            )
            self._progress = ProgressRecord(self.folder / PROGRESS, self._history, self._describe)
            callbacks.extend([self._progress, *self._checkpoints])
        if given.logger is not False:
            step = read_checkpoint(self.checkpoint)["global_step"] if self.checkpoint else 0
            settings["logger"] = [*run_loggers(self.folder, step), *(() if given.logger is True else listed(given.logger))]
            callbacks.append(LearningRateMonitor("epoch"))
        return settings

    def announce(self) -> None:
        """Print what is trained, and the folder of its files."""
        if first_process() and self.folder:
            network = self.module.network
            count = sum(parameter.numel() for parameter in network.parameters())
            print(f"{self.folder}: {type(network).__name__} with {count:,} parameters on {self.data.name}")
            if line := extractor_line(network):
                print(f"extractor: {line}")
            print(self.data.described(("train", "val", "test") if self.run.tests else ("train", "val")))
            print(self.data.preprocessing())
            if self.module.started_from and not self.checkpoint:
                print("\n  ".join([f"initial weights: {self.module.started_from}", *self._notes]))

    def finish(self, trainer: L.Trainer) -> Record | None:
        """Test the best epoch, unless the run is one that chooses, and write the record. Return None if the run has no checkpoints."""
        if not self._checkpoints or self.folder is None:
            return None
        best = self._checkpoints[0]
        if best.best_model_score is None:
            raise ConfigurationError(
                "trainer: no epoch was validated, so there is no best checkpoint to test and no record; see max_epochs, max_steps, "
                "check_val_every_n_epoch"
            )
        path = Path(best.best_model_path)
        history = copy.deepcopy(self._history)  # a test loads the callbacks' states of its checkpoint
        # averaging callbacks would replace the average that the checkpoint holds by the weights of the last step
        trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
        tested = trainer.test(self.module, self.data, ckpt_path=path, verbose=False)[0] if self.run.tests else {}
        if not trainer.is_global_zero:
            return None
        record = make_record(
            self._progress.described,
            module=self.module,
            history=history,
            device=trainer.strategy.root_device,
            epochs=trainer.current_epoch,
            best_epoch=read_checkpoint(path)["epoch"] + 1,
            tested=tested,
        )
        write_rows(self.folder / RECORD, [record])
        return record

    def _describe(self, trainer: L.Trainer) -> dict[str, Any]:
        return describe_run(
            identity=self._identity,
            run=self.run,
            parsed=self.parsed,
            seed=self.settings.seed_everything,
            module=self.module,
            data=self.data,
            trainer=trainer,
        )

    def summarize(self, record: Record) -> None:
        """Print the record, a line a field, and draw ``curves.png`` into the run's folder."""
        assert self.folder is not None
        table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
        for name, (value,) in formatted(results_table([record])).items():
            table.add_row(str(name), str(value))
        Console().print(table)
        draw_curves([record]).savefig(self.folder / "curves.png", dpi=130)
        metric = f"{'val' if record.test_accuracy is None else 'test'}_{record.score}"
        name = in_words(metric).replace("val ", "validation ")
        print(f"{name} {getattr(record, metric):.4f} of epoch {record.best_epoch}\n{self.folder / RECORD}, curves.png")


def first_process() -> bool:
    """Return True in the process that prints and writes for the run."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    return rank == 0


def listed(value: Any) -> list[Any]:
    """Return the callbacks or loggers of a configuration, which may hold none, one or several, as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
