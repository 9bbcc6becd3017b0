"""Callbacks that break a run, named in the grids of these tests."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L


class KillOnce(L.Callback):
    """Kills its process in the second epoch, once for all runs that share ``marker``."""

    def __init__(self, marker: str) -> None:
        self.marker = Path(marker)

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch != 1:
            return
        try:
            self.marker.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class Wait(L.Callback):
    """Says in a file that the second epoch has begun, and waits there until the file ``go`` exists."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch != 1:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / str(os.getpid())).touch()
        end = time.monotonic() + 60  # a test that fails never says so
        while not (self.folder / "go").exists() and not trainer.received_sigterm and time.monotonic() < end:
            time.sleep(0.05)


class Fail(L.Callback):
    """Raises in every run, after its first epoch."""

    def on_train_epoch_end(self, *_: Any) -> None:
        raise RuntimeError("broken on purpose")
