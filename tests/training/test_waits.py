"""A training step on one GPU gives the host nothing to wait for: the law is checked on the CPU, by counting what would wait."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from tests.support.segmentation import segmentation_folder, write_segmentation_config
from tests.support.tiny_runs import write_config
from tests.support.waits import CountWaits, LateCopy
from unified_extractor import presets
from unified_extractor.data import Digits
from unified_extractor.models import ExtractorNet
from unified_extractor.training import ImageClassifier
from unified_extractor.training.callbacks import divergence
from unified_extractor.training.callbacks.divergence import StopWhenDiverged, skips_on_device
from unified_extractor.training.cli.training_cli import main
from unified_extractor.training.errors import DivergedError
from unified_extractor.training.network_module import NetworkModule
from unified_extractor.training.optimization import Optimization

pytestmark = pytest.mark.usefixtures("in_empty_folder")
COUNT = {"class_path": "tests.support.waits.CountWaits"}
BAR = {"class_path": "unified_extractor.training.callbacks.progress_bar.NarrowProgressBar"}


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the optimizer be fused, and numbers arrive at the host as late as from a GPU."""
    monkeypatch.setattr(NetworkModule, "_fuses_optimizer", lambda _: True)
    monkeypatch.setattr(divergence, "HostCopy", LateCopy)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_of_classification_waits_for_nothing(tmp_path: Path, optimizer: str):
    file = write_config(
        tmp_path,
        trainer__max_epochs=1,
        trainer__callbacks=[COUNT, BAR],
        trainer__enable_progress_bar=True,
        trainer__log_every_n_steps=1,
        trainer__gradient_clip_val=1.0,
        trainer__precision="bf16-mixed",
        model__optimization__optimizer=optimizer,
        model__channels_last=True,
        data__init_args__augmentation={"crop_padding": 1, "flip": True, "erasing": 0.5},
    )
    assert main(["fit", "--config", str(file)]) == 0
    assert CountWaits.steps == 4
    assert not CountWaits.found


def test_a_step_of_segmentation_waits_for_nothing(tmp_path: Path):
    root = segmentation_folder(tmp_path / "scenes", counts={"train": 16, "val": 2, "test": 2})
    count = COUNT | {"init_args": {"first": 2, "last": 7}}
    changed: dict[str, Any] = {"trainer__max_epochs": 1, "trainer__callbacks": [count], "data__init_args__batch_size": 2}
    assert main(["fit", "--config", str(write_segmentation_config(tmp_path, root, **changed))]) == 0
    assert CountWaits.steps == 5
    assert not CountWaits.found


def module() -> ImageClassifier:
    torch.manual_seed(0)
    network = ExtractorNet(10, presets.convolution(), in_chans=1, widths=[8], depths=[1])
    return ImageClassifier(network, Optimization(optimizer="sgd", learning_rate=0.01, warmup_epochs=0))


def quiet_trainer(*callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=list(callbacks),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )


class _Spoils(L.Callback):
    """A callback that spoils the images of one step, and keeps the weights before it."""

    def __init__(self, step: int) -> None:
        self.step, self.weights = step, torch.empty(0)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.step:
            batch[0].fill_(float("inf"))
            self.weights = nn.utils.parameters_to_vector(pl_module.network.parameters()).detach().clone()


@pytest.mark.parametrize("step", [1, 5, 8], ids=["the first", "within", "the last"])
def test_the_weights_stay_as_they_were_before_a_loss_that_is_not_finite_though_it_is_read_later(step: int):
    model, spoils = module(), _Spoils(step)
    trainer = quiet_trainer(spoils, StopWhenDiverged())
    with pytest.raises(
        DivergedError, match=f"the loss is nan at epoch 1, step {step} of the run; the images are not finite already"
    ):
        trainer.fit(model, Digits(128))
    assert trainer.global_step == min(step + 2, 8)  # the host was ahead
    assert torch.equal(nn.utils.parameters_to_vector(model.network.parameters()), spoils.weights)


def test_a_callback_that_stopped_one_fit_leaves_out_no_step_of_the_next():
    stop = StopWhenDiverged()
    with pytest.raises(DivergedError):
        quiet_trainer(_Spoils(1), stop).fit(module(), Digits(128))
    model = module()
    before = nn.utils.parameters_to_vector(model.network.parameters()).detach().clone()
    quiet_trainer(stop).fit(model, Digits(128))
    assert not torch.equal(nn.utils.parameters_to_vector(model.network.parameters()), before)


def test_what_cannot_leave_out_a_step_is_awaited():
    def skips(**changed: Any) -> bool:
        given = {"fused": True, "world_size": 1, "plugin": None} | changed
        optimizers = [torch.optim.SGD([torch.zeros(1, requires_grad=True)], fused=given["fused"])]
        return skips_on_device(
            SimpleNamespace(optimizers=optimizers, world_size=given["world_size"], precision_plugin=given["plugin"])
        )  # type: ignore[arg-type]

    assert skips()
    assert not skips(fused=None)
    assert not skips(world_size=2)
    half = L.pytorch.plugins.MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    assert not skips(plugin=half)
    assert skips(plugin=L.pytorch.plugins.MixedPrecision("bf16-mixed", "cpu"))
