"""Training: it learns, it repeats itself, it keeps what it wrote."""

import csv
import io
import json
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tests.support.image_folders import write_images
from tests.support.tiny_runs import final, write_config
from unified_extractor import ExtractorSpec, presets
from unified_extractor.data import Digits
from unified_extractor.models import VOLO, ExtractorNet
from unified_extractor.profiling.extractors import extractors
from unified_extractor.results.choosing import TEST_FIGURES
from unified_extractor.results.record import read_rows
from unified_extractor.training import ConfigurationError, ImageClassifier
from unified_extractor.training.architecture import (
    check_checkpoint,
    check_network,
    generating_parameters,
    layer_specs,
    network_specs,
)
from unified_extractor.training.callbacks.random_state import ReseedEachStep
from unified_extractor.training.cli.training_cli import main
from unified_extractor.training.mixup import Mixup
from unified_extractor.training.optimization import Optimization, parameter_groups

pytestmark = pytest.mark.usefixtures("in_empty_folder")


def network(**changes: Any) -> ExtractorNet:
    return ExtractorNet(
        **{"num_classes": 10, "in_chans": 1, "widths": [8], "depths": [1], "spec": presets.convolution(), **changes}
    )


QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
}


def test_one_epoch_improves_the_loss():
    L.seed_everything(0)
    net = network(widths=[16, 32], depths=[1, 1])
    model, data = ImageClassifier(net, Optimization(learning_rate=0.01, warmup_epochs=0)), Digits(batch_size=32)
    trainer = L.Trainer(max_epochs=1, **QUIET)
    before = trainer.validate(model, data, verbose=False)[0]
    trainer.fit(model, data)
    after = trainer.validate(model, data, verbose=False)[0]
    assert after["val/loss"] < 0.8 * before["val/loss"]
    assert after["val/accuracy"] > 2 * before["val/accuracy"]


def test_a_fit_after_one_that_failed_logs_its_own_metrics():
    class Fail(L.Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            raise RuntimeError("lost")

    model, data = ImageClassifier(network()), Digits(batch_size=256)
    with pytest.raises(RuntimeError, match="lost"):
        L.Trainer(max_epochs=1, callbacks=[Fail()], **QUIET).fit(model, data)
    failed = model.val_metrics  # kept, so that the new ones lie elsewhere in memory
    trainer = L.Trainer(max_epochs=1, **QUIET)
    trainer.fit(model, data)
    assert model.val_metrics is not failed
    validated = trainer.validate(model, data, verbose=False)[0]
    assert {name: float(trainer.callback_metrics[name]) for name in validated} == validated


def test_a_run_that_chooses_looks_at_no_test_image_and_its_row_has_no_test_figure(tmp_path, monkeypatch):
    read = Digits.read

    def without_test(self, split):
        assert split != "test"
        return read(self, split)

    monkeypatch.setattr(Digits, "read", without_test)
    assert main(["fit", f"--config={write_config(tmp_path)}", "--run.budget=gpu_screen"]) == 0
    (row,) = read_rows(sorted(Path("runs").rglob("record.json")))
    assert (row.test_images, row.planned_epochs) == (0, None)
    assert [getattr(row, field) for field in TEST_FIGURES] == [None] * len(TEST_FIGURES)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["auto", "recompute"]),
        ({"kernel_memory": "store"}, ["store"] * 2),
        ({"kernel_memory": "recompute"}, ["recompute"] * 2),
    ],
)
def test_the_memory_of_kernels_is_set_once_for_all_extractors(given: dict[str, Any], expected: list[str]):
    """By default each layer stays as it was."""
    net = network(widths=[16], depths=[2], spec=presets.involution(3))
    layers = list(extractors(net).values())
    layers[1].kernel_memory = "recompute"
    ImageClassifier(net, **given)
    assert [layer.kernel_memory for layer in layers] == expected


def test_a_seed_decides_the_run(tmp_path: Path):
    def end(seed: int, name: str) -> torch.Tensor:
        file = write_config(tmp_path, seed_everything=seed, trainer__max_epochs=1)
        assert main(["fit", "--config", str(file), f"--run.name={name}"]) == 0
        state = final(tmp_path / "runs" / name / "version_0")["state_dict"]
        return torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])

    first = end(1, "a")
    assert torch.equal(first, end(1, "b"))
    assert not torch.equal(first, end(2, "c"))


@pytest.mark.pictures
def test_a_run_leaves_config_versions_curves_pictures_checkpoints_and_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = write_config(tmp_path, seed_everything=3, run__budget="smoke", run__question="q", trainer__max_epochs=3)
    assert main(["fit", "--config", str(file)]) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "runs" / "tiny" / "version_0"
    names = {"config.yaml", "environment.json", "metrics.csv", "record.json", "checkpoints", "curves.png", "pictures"}
    assert names <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("events.out.tfevents.*"))
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "epoch_0001.ckpt", "epoch_0002.ckpt"}
    assert len(list((folder / "pictures").glob("epoch_000[12]_image_[01].png"))) == 4
    shown = EventAccumulator(str(folder)).Reload()
    for tag in shown.Tags()["images"]:
        for event in shown.Images(tag):
            with Image.open(io.BytesIO(event.encoded_image_string)) as seen:
                pixels = np.asarray(seen)
            (file,) = (folder / "pictures").glob(f"epoch_{event.step:04d}_{tag.rpartition('/')[2]}.png")
            with Image.open(file) as drawn:
                assert np.array_equal(pixels, np.asarray(drawn.convert("RGB")))
    environment = json.loads((folder / "environment.json").read_text())
    assert {"python", "torch", "torchvision", "lightning", "unified-extractor"} <= environment["versions"].keys()

    (record,) = read_rows([folder / "record.json"])
    curve = [float(row["val/accuracy"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row["val/accuracy"]]
    assert [point.val_accuracy for point in record.curve] == pytest.approx(curve)
    assert record.epochs == 3
    assert record.val_accuracy == max(point.val_accuracy for point in record.curve)
    assert record.curve[record.best_epoch - 1].val_accuracy == record.val_accuracy
    assert (record.run, record.seed, record.batch_size, record.precision) == (environment["run"], 3, 128, "32-true")
    assert record.specs == network_specs(network())
    assert record.specs[0]["static_kernel"] == {"channels": "dense", "groups": 1}
    assert record.parameters == sum(p.numel() for p in network().parameters())
    assert (record.dataset, record.name, record.train_images) == ("digits", "tiny", 1151)
    assert (record.question, record.variant, record.budget) == ("q", "tiny", "smoke")
    assert 0 < record.seconds_per_step < record.seconds_per_epoch < 60
    assert record.peak_memory_bytes > 10**8
    assert f"{record.test_accuracy:.4f}" in printed
    lines = [line for line in printed.splitlines() if line.startswith("epoch ")]
    reached = [
        f"epoch {point.epoch}/3: train loss {point.train_loss:.4f}, val loss {point.val_loss:.4f}" for point in record.curve
    ]
    assert [line[: len(start)] for line, start in zip(lines, reached, strict=True)] == reached
    assert [" left" in line for line in lines] == [True, True, False]

    assert main(["test", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "checkpoints" / "best.ckpt")]) == 0
    assert f"{record.test_accuracy:.6f}"[:6] in capsys.readouterr().out


def test_validation_measures_what_torch_says_of_the_same_logits(tmp_path: Path):
    L.seed_everything(0)
    model, data = ImageClassifier(network()), Digits(batch_size=100)
    found = L.Trainer(**QUIET).validate(model, data, verbose=False)[0]
    split = data.images("val")
    with torch.no_grad():
        logits = model.eval()(data.normalize(split.images))
    shares, labels = logits.softmax(1), split.labels
    top = logits.topk(5).indices == labels[:, None]
    assert found["val/accuracy"] == pytest.approx(float(top[:, 0].float().mean()))
    assert found["val/top5_accuracy"] == pytest.approx(float(top.any(1).float().mean()))
    assert found["val/loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    confidence, right = shares.max(1).values, top[:, 0].float()
    bins = (confidence * 15).ceil().long()
    gaps = [abs(float((confidence[bins == i] - right[bins == i]).sum())) / len(labels) for i in range(1, 16)]
    assert found["val/calibration_error"] == pytest.approx(sum(gaps), abs=1e-4)


def test_no_run_touches_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_config(tmp_path, trainer__max_epochs=1)
    assert main(["fit", "--config", str(file)]) == 0
    first = tmp_path / "runs" / "tiny" / "version_0"
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert main(["fit", "--config", str(file)]) == 0
    capsys.readouterr()
    assert main(["fit", "--config", str(file), "--ckpt_path=last"]) == 0
    assert "version_1: finished" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert sorted(path.name for path in first.parent.glob("version_*")) == ["version_0", "version_1"]


def test_a_run_killed_after_its_last_epoch_is_tested_and_recorded(tmp_path: Path):
    file = write_config(tmp_path, trainer__max_epochs=1)
    command = ["fit", "--config", str(file), "--ckpt_path=last"]
    assert main(command) == 0
    path = tmp_path / "runs" / "tiny" / "version_0" / "record.json"
    (one,) = read_rows([path])
    path.unlink()
    assert main(command) == 0
    (two,) = read_rows([path])
    assert (one.test_accuracy, one.curve, one.epochs, one.run) == (two.test_accuracy, two.curve, two.epochs, two.run)


def test_a_step_draws_the_same_whatever_was_drawn_before_it(tmp_path: Path):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)

    def drawn(seed: int, batch: int, noise: int = 0) -> torch.Tensor:
        torch.rand(noise)
        ReseedEachStep(seed).on_train_batch_start(trainer, None, None, batch)  # type: ignore[arg-type]
        return torch.rand(3)

    assert torch.equal(drawn(7, 0), drawn(7, 0, 5))
    assert not torch.equal(drawn(7, 0), drawn(7, 1))
    assert not torch.equal(drawn(7, 0), drawn(8, 0))


def test_predict_prints_class_and_probability_of_every_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_config(tmp_path, trainer__max_epochs=1)
    assert main(["fit", "--config", str(file)]) == 0
    write_images(tmp_path / "photos", 3, size=(9, 12))
    capsys.readouterr()
    best = "runs/tiny/version_0/checkpoints/best.ckpt"
    assert main(["predict", "--config", str(file), f"--ckpt_path={best}", "--data.predict_folder=photos"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["file"] for row in rows] == [f"photos/{index}.png" for index in range(3)]
    assert all(row["class"] in "0123456789" and 0.1 <= float(row["probability"]) <= 1 for row in rows)


def test_norms_and_biases_do_not_decay_and_generators_learn_at_their_own_rate():
    net = network(spec=presets.unified(channels_per_group=4))
    groups = parameter_groups(net, Optimization(weight_decay=0.1, learning_rate=0.5, generator_learning_rate_scale=0.1))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = {names[id(p)]: (group["weight_decay"], group["lr"]) for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(names)
    norms = {id(p) for module in net.modules() if isinstance(module, nn.BatchNorm2d) for p in module.parameters()}
    plain = {name for key, name in names.items() if name.endswith("bias") or key in norms}
    assert {name for name, (decay, _) in found.items() if decay == 0} == plain
    extractor = "stage1.1.0.extractor"
    assert {name for name, (_, rate) in found.items() if rate == pytest.approx(0.05)} == {
        name for name in found if name.startswith((f"{extractor}.feature", f"{extractor}.offsets", f"{extractor}.kernel"))
    }
    assert generating_parameters(network()) == set()
    groups = parameter_groups(
        net, Optimization(learning_rate=0.5, generator_learning_rate_scale=0.1, offset_learning_rate_scale=0.2)
    )
    slow = {names[id(p)] for group in groups if group["lr"] == pytest.approx(0.01) for p in group["params"]}
    assert slow == {name for name in found if name.startswith(f"{extractor}.offsets")} != set()


def test_parameters_that_a_network_exempts_do_not_decay():
    net = VOLO(10, depths=(1, 1, 1, 1), widths=(16, 16), heads=(1, 1), stem_width=8)
    kept = net.no_weight_decay()
    assert kept
    decayed = {id(p) for group in parameter_groups(net, Optimization()) if group["weight_decay"] for p in group["params"]}
    assert decayed
    assert not decayed & {id(parameter) for name, parameter in net.named_parameters() if name in kept}


def test_learning_rate_rises_linearly_and_falls_by_a_cosine():
    def rates(final: float, warmup: int) -> list[float]:
        settings = Optimization(optimizer="sgd", learning_rate=2.0, final_learning_rate=final)
        optimizer = settings.build(nn.Conv2d(1, 1, 1))
        schedule = settings.schedule(optimizer, steps=20, warmup_steps=warmup)
        found = []
        for _ in range(21):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    found = rates(0.0, 4)
    torch.testing.assert_close(found[:5], [0.4, 0.8, 1.2, 1.6, 2.0])
    assert found[12] == pytest.approx(1.0)
    assert all(one > two for one, two in pairwise(found[4:]))
    assert found[20] == pytest.approx(0, abs=1e-8)
    assert rates(0.5, 4)[20] == pytest.approx(0.5)
    assert rates(0.0, 0)[0] == 2.0


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"generator_learning_rate_scale": -1.0}, "generator_learning_rate_scale"),
        ({"offset_learning_rate_scale": 0.0}, "offset_learning_rate_scale"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"warmup_epochs": -1.0}, "warmup_epochs"),
        ({"optimizer": "sgd", "momentum": 1.0}, "momentum"),
        ({"final_learning_rate": 1.0}, "final_learning_rate"),
    ],
)
def test_impossible_optimization_is_named(wrong: dict[str, Any], name: str):
    with pytest.raises(ValueError, match=name):
        Optimization(**wrong)


def test_mixup_blends_images_and_labels_in_one_proportion():
    images, labels = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8).contiguous(), torch.arange(4)
    for kind in ("alpha", "cutmix_alpha"):
        torch.manual_seed(3)
        blended, shares = Mixup(**{kind: 1.0})(images, labels, 4)
        assert shares.shape == (4, 4)
        torch.testing.assert_close(shares.sum(1), torch.ones(4))
        torch.testing.assert_close((shares * torch.arange(4.0)).sum(1), blended.mean((1, 2, 3)), atol=1e-5, rtol=0)
        assert (shares.max(1).values < 1).any()
    assert Mixup()(images, labels, 4)[1] is labels
    kept = sum(Mixup(alpha=1.0, probability=0.5)(images, labels, 4)[1] is labels for _ in range(200))
    assert 60 < kept < 140
    for wrong in ({"alpha": -1.0}, {"cutmix_alpha": -1.0}, {"probability": 2.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Mixup(**wrong)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.precision=bf16-mixed"],
        ["--model.channels_last=true"],
        ["--trainer.accumulate_grad_batches=2", "--trainer.gradient_clip_val=0.1"],
        pytest.param(["--model.compile=true"], marks=pytest.mark.thorough),
    ],
    ids=lambda options: options[0],
)
def test_ingredients_train(tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # Inductor takes a minute
    file = write_config(
        tmp_path,
        trainer__max_epochs=1,
        model__network__init_args__spec={
            "kernel_size": 3,
            "static_kernel": {"channels": "dense"},
            "dynamic_kernel": {"source": "generated", "channels_per_group": 4},
        },
    )
    assert main(["fit", "--config", str(file), *options]) == 0
    (record,) = read_rows([tmp_path / "runs" / "tiny" / "version_0" / "record.json"])
    assert record.curve[0].val_loss < 2.29
    assert record.precision == ("bf16-mixed" if "bf16" in options[0] else "32-true")
    assert record.batch_size == (256 if "accumulate" in options[0] else 128)


def test_network_must_fit_the_data():
    check_network(network(), Digits())
    for wrong, name in (({"num_classes": 7}, "num_classes: must be 10"), ({"in_chans": 3}, "in_chans: must be 1")):
        with pytest.raises(ConfigurationError, match=f"model.network.init_args.{name}"):
            check_network(network(**wrong), Digits())
    too_coarse = VOLO(10, depths=(1, 1, 1, 1), widths=(16, 16), heads=(1, 1), stem_width=8, in_chans=1)
    with pytest.raises(ConfigurationError, match=r"model.network: does not take images \[1, 1, 8, 8\]"):
        check_network(too_coarse, Digits())
    with pytest.raises(ConfigurationError, match=r"must give logits \[1, 10\], got \[1, 1, 8, 8\]"):
        check_network(nn.Conv2d(1, 1, 1), Digits())
    training = network().train()
    check_network(training, Digits())
    assert all(module.training for module in training.modules())


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"widths": [16]}, "another shape of"),
        ({"depths": [2]}, "has the unknown"),
        ({"spec": presets.involution(3, channels_per_group=4)}, "lacks"),
        ({"spec": presets.convolution(dilation=2)}, "dilation of .* is 2 there and 1 here"),
    ],
)
def test_checkpoint_of_another_architecture_is_refused(other: dict[str, Any], reason: str):
    saved = network(**other)
    with pytest.raises(ConfigurationError, match=f"ckpt_path: a.ckpt was written by another architecture: .*{reason}"):
        check_checkpoint("a.ckpt", network(), layer_specs(saved), saved.state_dict())
    check_checkpoint("a.ckpt", network(), layer_specs(network()), network().state_dict())


def test_channels_last_is_the_format_of_weights_and_images():
    for channels_last in (True, False):
        seen, net = [], network(in_chans=3)
        net.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0].stride(1)))
        ImageClassifier(net, channels_last=channels_last)(torch.randn(2, 3, 8, 8))
        assert seen == [1 if channels_last else 64]
        kernels = [p for p in net.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        assert kernels
        assert all((p.stride(1) == 1) == channels_last for p in kernels)


@pytest.mark.parametrize("mode", [True, "reduce-overhead"])
def test_compile_is_of_the_network(monkeypatch: pytest.MonkeyPatch, mode: Any):
    compile, modes = partial(torch.compile, backend="eager"), []  # it is traced all the same

    def compiled(function: Any, mode: str | None) -> Any:
        modes.append(mode)
        return compile(function)

    monkeypatch.setattr(torch, "compile", compiled)
    net, data = network(), Digits(batch_size=128)
    L.Trainer(limit_val_batches=1, **QUIET).validate(ImageClassifier(net, compile=mode), data, verbose=False)
    assert net._compiled_call_impl is not None
    assert modes == [None if mode is True else mode]


def test_kernels_of_several_terms_train_in_channels_last():
    mixture = {
        "source": "generated",
        "channels_per_group": 4,
        "per_tap": False,
        "normalization": "softmax",
        "softmax_over": "terms",
    }
    spec = ExtractorSpec(static_kernel={"channels": "depthwise"}, dynamic_kernel=mixture, terms=4)
    network = ImageClassifier(ExtractorNet(10, spec, widths=(8,), depths=(1,)), channels_last=True).network
    formats = {one.ndim: one.is_contiguous(memory_format=torch.channels_last) for one in network.parameters() if one.ndim == 4}
    assert formats == {4: True}
    assert {one.ndim for one in network.parameters()} >= {4, 5}
