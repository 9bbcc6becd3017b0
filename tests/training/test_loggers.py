"""Loggers that a configuration names work beside those of every run, and get its settings, metrics and pictures."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from tests.support.tiny_runs import in_this_process, write_config

SAID = []
"""What the loggers were told."""


class WithoutWandb(WandbLogger):
    """Lightning's logger without the package, which keeps what would be sent."""

    def __init__(self):
        self._log_model = False

    name = version = save_dir = experiment = property(lambda self: "x")

    def log_hyperparams(self, params):
        SAID.append(("settings", params))

    def log_metrics(self, metrics, step=None):
        SAID.append(("metrics", metrics | {"step": step}))

    def log_image(self, key, images, step=None):
        SAID.append(("picture", key, images, step))

    def finalize(self, status):
        SAID.append(("end", status))


class WithoutMLflow(MLFlowLogger):
    """Lightning's logger without the package, which keeps what would be sent."""

    def __init__(self):
        self._log_model = False

    name = version = save_dir = run_id = property(lambda self: "x")
    experiment = property(lambda self: SimpleNamespace(log_artifact=lambda *told: SAID.append(("artifact", *told))))

    def log_hyperparams(self, params):
        SAID.append(("settings", params))

    def log_metrics(self, metrics, step=None):
        pass

    def finalize(self, status):
        pass


@pytest.mark.pictures
def test_loggers_of_the_configuration_get_settings_metrics_and_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SAID.clear()
    classes = [f"{__name__}.{one.__name__}" for one in (WithoutWandb, WithoutMLflow)]
    extractor = "involution(kernel_size=3, channels_per_group=4)"
    in_this_process(
        "fit",
        "--config",
        write_config(
            tmp_path,
            trainer__max_epochs=1,
            trainer__limit_train_batches=2,
            trainer__logger=[{"class_path": one} for one in classes],
            model__network__init_args__spec=extractor,
        ),
    )
    folder = Path("runs") / "tiny" / "version_0"
    assert {"metrics.csv", "record.json", "pictures"} <= {path.name for path in folder.iterdir()}
    settings = [said[1] for said in SAID if said[0] == "settings"]
    assert [one["model"]["optimization"]["learning_rate"] for one in settings] == [0.01, 0.01]
    metrics = {name for said in SAID if said[0] == "metrics" for name in said[1]}
    assert {"train/loss", "val/accuracy", "test/accuracy", "lr-AdamW/pg1"} <= metrics
    pictures = [str(folder / "pictures" / f"epoch_0001_image_{index}.png") for index in range(2)]
    assert [said[1:] for said in SAID if said[0] == "picture"] == [
        (f"windows/image_{index}", [picture], 2) for index, picture in enumerate(pictures)
    ]
    assert [said[1:] for said in SAID if said[0] == "artifact"] == [("x", picture, "pictures") for picture in pictures]
    assert ("end", "success") in SAID
