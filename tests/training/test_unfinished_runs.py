"""A run that was broken is reported and drawn with what it has; once it is finished its record counts alone."""

from pathlib import Path

import lightning as L
import pandas as pd
import pytest

from tests.support.tiny_runs import write_config
from unified_extractor.__main__ import main
from unified_extractor.results.record import read_rows

pytestmark = pytest.mark.usefixtures("in_empty_folder")


class Broken(L.Callback):
    """Breaks the run in its second epoch."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1 and not Path("mended").exists():
            raise RuntimeError("broken")


def test_a_broken_run_is_reported_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_config(tmp_path, trainer__callbacks=[{"class_path": f"{__name__}.Broken"}])
    command = ["fit", "--config", str(file), "--ckpt_path=last"]
    with pytest.raises(RuntimeError, match="broken"):
        main(command)
    run = Path("runs/tiny/version_0")
    (so_far,) = read_rows([run / "progress.json"])
    assert (so_far.epochs, so_far.planned_epochs, so_far.test_accuracy, so_far.learning_rate) == (1, 2, None, 0.01)
    assert main(["report", "runs", "--unfinished"]) == 0
    assert pd.read_csv("runs/report/results.csv")["variant"].tolist() == ["tiny (unfinished, 1 of 2 epochs)"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["visualize", "runs"])
    assert "runs/tiny/version_0: not finished, 1 of 2 epochs; --unfinished takes it" in capsys.readouterr().err
    assert main(["visualize", "runs", "--unfinished"]) == 0
    assert Path("runs/windows.png").is_file()
    Path("mended").touch()
    assert main(command) == 0
    (record,) = read_rows([run / "record.json"])
    assert (record.run, record.epochs, record.planned_epochs, record.curve[0]) == (so_far.run, 2, None, so_far.curve[0])
    assert record.source == str(run)
    assert main(["report", "runs", "--unfinished"]) == 0
    assert pd.read_csv("runs/report/results.csv")["variant"].tolist() == ["tiny"]
    (run / "record.json").unlink()
    assert main(["report", "runs", "--unfinished"]) == 0
    assert pd.read_csv("runs/report/results.csv")["variant"].tolist() == ["tiny (unfinished, 2 of 2 epochs)"]
