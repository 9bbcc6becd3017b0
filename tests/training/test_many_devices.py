"""Two gloo processes on the CPU are one run: the losses, the metrics and the record of one process at the same global batch."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.support.presets import PRESETS, UPSAMPLERS
from tests.support.tiny_runs import in_its_own_process, in_this_process, write_config
from unified_extractor import UnifiedExtractor2d, models, presets
from unified_extractor.training.cli.training_cli import main

WITHOUT_BATCH_NORM: dict[str, Any] = {
    "model__network": {"class_path": "tests.support.tiny_runs.WithoutBatchNorm"},
    # Adam would blow up the rounding of gradients that are zero but for it
    "model__optimization": {"optimizer": "sgd", "learning_rate": 0.05},
    "trainer__max_epochs": 2,
}


GO_ON = "the same command with --ckpt_path last goes on from the last checkpoint"

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def run(tmp_path: Path, name: str, batch: int, *options: str, prefix: tuple[str, ...] = ()) -> tuple[list[float], dict[str, Any]]:
    losses = {"class_path": "tests.support.tiny_runs.LossFile", "init_args": {"path": f"{name}.losses"}}
    changes = {**WITHOUT_BATCH_NORM, "data__init_args__batch_size": batch, "trainer__callbacks": [losses], "run__name": name}
    file = write_config(tmp_path, **changes)
    if options:
        done = in_its_own_process("fit", "--config", file, *options, prefix=prefix)
        assert done.returncode == 0, done.stderr
    else:
        in_this_process("fit", "--config", file)
    record = json.loads(Path(f"runs/{name}/version_0/record.json").read_text())
    assert [path.name for path in Path(f"runs/{name}").glob("version_*")] == ["version_0"]
    return [float(line) for line in Path(f"{name}.losses").read_text().split()], record


def torchrun() -> tuple[str, ...]:
    """Return the command that starts two processes, by torch's launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = (sys.executable, "-m", "torch.distributed.run")
    return (*launcher, "--nproc-per-node=2", f"--master-port={port}", "-m", "unified_extractor")


@pytest.mark.parametrize(
    "launchers",
    [["torchrun"], pytest.param(["torchrun", "Lightning"], marks=pytest.mark.thorough)],
    ids=["torch's launcher", "both launchers"],
)
def test_two_processes_get_the_losses_and_metrics_of_one(tmp_path: Path, launchers: list[str]):
    one, record = run(tmp_path, "one", 64)
    ddp = ("--trainer.strategy=ddp", "--trainer.devices=2")
    runs = [run(tmp_path, name, 32, *ddp, prefix=torchrun() if name == "torchrun" else ()) for name in launchers]
    for two, both in runs:
        assert len(one) == len(two) == 2 * (1151 // 64)
        torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.tensor(two), torch.tensor(runs[0][0]), rtol=0, atol=0)
        assert (both["devices"], both["batch_size"]) == (2, 64)
        for name in ("test_accuracy", "test_top5_accuracy", "val_accuracy"):
            assert both[name] == pytest.approx(record[name], abs=0.006), name  # two images of 359
        for name in ("test_loss", "val_loss", "test_calibration_error"):
            assert both[name] == pytest.approx(record[name], rel=1e-2), name


@pytest.mark.thorough
@pytest.mark.parametrize("rank", [0, 1])
def test_a_loss_that_is_not_finite_on_one_rank_stops_all(tmp_path: Path, rank: int):
    poison = {"class_path": "tests.support.tiny_runs.Poison", "init_args": {"layer": "stem", "step": 3, "rank": rank}}
    file = write_config(tmp_path, **{**WITHOUT_BATCH_NORM, "trainer__callbacks": [poison]})
    done = in_its_own_process("fit", "--config", file, "--trainer.strategy=ddp", "--trainer.devices=2")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("uniex: error: ")]
    assert any("the first layer whose output is not finite is stem (Conv2d)" in line for line in lines)
    assert any("the loss of another process is not finite at epoch 1, step 4 of the run" in line for line in lines)


@pytest.mark.thorough
def test_a_process_that_is_killed_ends_the_others_in_one_line(tmp_path: Path):
    killed = {"class_path": "tests.support.tiny_runs.KillRank", "init_args": {"step": 3, "rank": 1}}
    file = write_config(tmp_path, **{**WITHOUT_BATCH_NORM, "trainer__callbacks": [killed]})
    done = in_its_own_process("fit", "--config", file, "--trainer.strategy=ddp", "--trainer.devices=2")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("uniex: error: ")]
    assert lines == [f"uniex: error: another process of this run ended, its own messages say why; {GO_ON}"]


def without_gradient(module: nn.Module, images: torch.Tensor) -> list[str]:
    module.train()(images).square().sum().backward()
    return [name for name, parameter in module.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", PRESETS | UPSAMPLERS)
def test_every_parameter_of_an_extractor_gets_a_gradient(name: str):
    assert without_gradient(UnifiedExtractor2d(16, 16, (PRESETS | UPSAMPLERS)[name]), torch.randn(2, 16, 9, 8)) == []


@pytest.mark.parametrize(("name", "size"), [("rednet26", 32), ("resnet26", 32), ("volo_d1", 224), ("internimage_t", 32)])
def test_every_parameter_of_a_network_gets_a_gradient(name: str, size: int):
    network = getattr(models, name)(num_classes=10)
    assert without_gradient(network, torch.randn(1 if size > 32 else 2, 3, size, size)) == []


def test_batch_norm_of_a_generator_is_synchronized_on_gpus_and_refused_on_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(UnifiedExtractor2d(16, 16, presets.involution()))
    assert [type(module) for name, module in layer.named_modules() if name.endswith("reduce.norm")] == [nn.SyncBatchNorm]
    file = write_config(tmp_path)
    options = ["--trainer.sync_batchnorm=true", "--trainer.strategy=ddp", "--trainer.devices=2"]
    assert main(["fit", "--config", str(file), *options]) == 2
    assert "trainer.sync_batchnorm: torch synchronizes batch norm on GPUs only" in capsys.readouterr().err
    assert not Path("runs").exists()
