"""Segmentation from the command line: it trains, tests, predicts and is drawn as classification is, and its mistakes have one line."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import unified_extractor as ux
from tests.support.refusals import refused
from tests.support.segmentation import COUNTS, IGNORED, SIZE, segmentation_folder, write_segmentation_config
from tests.support.tiny_runs import in_this_process
from unified_extractor import interop, models
from unified_extractor.__main__ import main
from unified_extractor.data import SegmentationFolder
from unified_extractor.data.class_weights import weights_of_classes
from unified_extractor.data.image_datasets import UNCOUNTED
from unified_extractor.results import image_overlaps
from unified_extractor.results.image_overlaps import mean_iou
from unified_extractor.training import Segmenter, load_run
from unified_extractor.training.optimization import Optimization
from unified_extractor.training.segmenter import overlaps, pixel_loss, segmentation_metrics

pytestmark = pytest.mark.usefixtures("in_empty_folder")
RUN = Path("runs/scenes/version_0")
BEST = RUN / "checkpoints" / "best.ckpt"
NAMES = ["sky", "road", "car"]
COLORS = [(10, 20, 200), (90, 90, 90), (200, 0, 0)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the data ``scenes``, their configuration, and a finished run with its pictures."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        in_this_process("fit", "--config", write_segmentation_config(folder, segmentation_folder(folder / "scenes")))
    return folder


@pytest.mark.pictures
@pytest.mark.trial
def test_a_run_leaves_a_record_with_the_iou_of_every_class_and_pictures_of_its_predictions(tmp_path, capsys):
    in_this_process(
        "fit", "--config", write_segmentation_config(tmp_path, segmentation_folder(tmp_path / "scenes"), trainer__max_epochs=2)
    )
    printed = capsys.readouterr().out
    assert "scenes: 8 training, 3 validation, 3 test images, 3 classes\n" in printed
    record = json.loads((RUN / "record.json").read_text())
    assert record["test_class_iou"].keys() == set(NAMES)
    assert record["test_miou"] == pytest.approx(np.mean(list(record["test_class_iou"].values())), abs=1e-6)
    overlaps = image_overlaps.unpacked(record["test_overlaps"], 3)
    assert mean_iou(overlaps.sum(0)) == pytest.approx(record["test_miou"], abs=1e-6)
    for index, (intersection, union) in enumerate(overlaps.sum(0)):
        assert intersection / union == pytest.approx(record["test_class_iou"][NAMES[index]], abs=1e-6)
    assert (overlaps[..., 0] <= overlaps[..., 1]).all()
    assert (record["test_images"], record["test_calibration_error"], len(record["curve"])) == (3, None, 2)
    assert record["val_miou"] == max(point["val_miou"] for point in record["curve"])
    assert f"test mIoU {record['test_miou']:.4f} of epoch {record['best_epoch']}" in printed
    assert {path.name for path in (RUN / "pictures").iterdir()} >= {"epoch_0001_predictions.png", "epoch_0002_image_0.png"}
    assert Image.open(RUN / "pictures" / "epoch_0001_predictions.png").size[0] > 500


def test_the_record_is_what_the_checkpoint_does_and_every_command_takes_it(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    config = ("--config", RUN / "config.yaml", "--ckpt_path", BEST)
    record = json.loads((RUN / "record.json").read_text())
    network, data = load_run(RUN)
    assert record["test_miou"] > 0.6, record["curve"]  # it learns: a third is chance
    intersection, union = np.zeros(3), np.zeros(3)
    with torch.no_grad():
        for image, labels in data.images("test"):  # type: ignore[attr-defined]
            predicted, truth = network(data.normalize(image[None])).argmax(1)[0].numpy(), labels.numpy()
            counted = truth != UNCOUNTED
            for label in range(3):
                both = ((predicted == label) & (truth == label) & counted).sum()
                intersection[label] += both
                union[label] += (((predicted == label) | (truth == label)) & counted).sum()
    assert [record["test_class_iou"][name] for name in NAMES] == pytest.approx(intersection / union, abs=1e-6)
    assert main(["test", *map(str, config)]) == 0
    assert f"{record['test_miou']:.4f}"[:5] in capsys.readouterr().out
    assert main(["visualize", str(RUN)]) == 0
    assert "test image 0, with " in capsys.readouterr().out
    assert main(["visualize", str(RUN), "--receptive_fields", "2"]) == 0
    assert main(["report", "runs"]) == 0
    table = Path("runs/report/class_iou.csv").read_text().splitlines()
    assert table[0] == "variant,seeds,class,class_iou"
    assert [line.split(",")[2] for line in table[1:]] == NAMES
    assert f"| road | {100 * record['test_class_iou']['road']:.2f}% |" in Path("runs/report/class_iou.md").read_text()
    assert "test mIoU" in Path("runs/report/results.md").read_text()
    assert "calibration" not in Path("runs/report/results.md").read_text()


def test_predictions_are_label_maps_in_the_colors_of_the_classes_at_the_size_of_their_files(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    photos = trained / "photos"
    (photos / "more").mkdir(parents=True)
    large = Image.open("scenes/test/images/0.png").resize((31, 17))
    for name in ("a.jpg", "more/a.png"):
        large.save(photos / name)
    (photos / "broken.png").write_text("no image")
    capsys.readouterr()
    call = [
        "predict",
        "--config",
        RUN / "config.yaml",
        "--ckpt_path",
        BEST,
        "--data.predict_folder",
        photos,
        "--data.root",
        "nowhere",
    ]
    assert main([*map(str, call), "--output", "maps"]) == 1  # one is broken
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(out.splitlines()))
    assert [(Path(row["file"]).name, row["label_map"], row["error"] != "") for row in rows] == [
        ("a.jpg", "maps/a.png", False),
        ("broken.png", "", True),
        ("a.png", "maps/a_2.png", False),
    ]
    assert "broken.png: not a readable image" in err
    written = Image.open("maps/a.png")
    labels, colors = np.array(written), np.array(written.convert("RGB"))
    assert (written.mode, labels.shape) == ("P", (17, 31))
    assert set(np.unique(labels)) <= {0, 1, 2}
    for label, color in enumerate(COLORS):
        assert (colors[labels == label] == color).all()
    network, data = load_run(RUN)
    loaded, class_names, transform = ux.load(RUN)
    assert list(class_names) == NAMES
    prepared = transform(photos / "more" / "a.png")
    assert torch.equal(prepared, data.normalize(data.unlabeled([photos / "more" / "a.png"])[0][0][None])[0])
    with torch.no_grad():
        logits = network(prepared[None])
        assert torch.equal(loaded(prepared[None]), logits)
    expected = torch.nn.functional.interpolate(logits, (17, 31), mode="bilinear").argmax(1)[0]
    assert torch.equal(torch.from_numpy(np.array(Image.open("maps/a_2.png"))).long(), expected)
    error = refused(capsys, *call[:-4], "--data.predict_folder", "maps", "--output", "maps")
    assert "output: must be another folder than that of the images, got maps" in error
    (trained / "both").mkdir()
    for name in ("a.jpg", "a.png"):  # the label map of the first would be the second
        large.save(f"both/{name}")
    before = Path("both/a.png").read_bytes()
    error = refused(capsys, *call[:-4], "--data.predict_folder", "both", "--output", "both")
    assert "output: must be another folder than that of the images, got both" in error
    assert Path("both/a.png").read_bytes() == before


@pytest.mark.thorough  # the classifier's own test holds what both share
def test_killed_in_the_middle_of_an_epoch_it_ends_as_an_unbroken_run(tmp_path, trained):
    killed = {"class_path": "tests.support.tiny_runs.Interrupt", "init_args": {"step": 3, "marker": "killed"}}
    command = ("fit", "--config", write_segmentation_config(tmp_path, trained / "scenes", trainer__callbacks=[killed]))
    with pytest.raises(SystemExit):
        raise SystemExit(main([*map(str, command), "--ckpt_path", "last"]))
    assert not (RUN / "record.json").exists()
    in_this_process(*command, "--ckpt_path", "last")
    one, two = (torch.load(folder / BEST, weights_only=True) for folder in (trained, Path()))
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())
    records = [json.loads((folder / RUN / "record.json").read_text()) for folder in (trained, Path())]
    assert records[0]["curve"] == records[1]["curve"]
    assert records[0]["test_class_iou"] == records[1]["test_class_iou"]


def test_a_pixel_that_is_ignored_has_no_gradient_and_weights_are_as_torchs():
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[0, :2] = UNCOUNTED
    weights = torch.tensor([0.5, 2.0, 0.1])
    for given in (None, weights):
        loss = pixel_loss(logits, labels, given)
        assert loss.item() == pytest.approx(
            torch.nn.functional.cross_entropy(logits, labels, given, ignore_index=UNCOUNTED).item()
        )
        (gradient,) = torch.autograd.grad(loss, logits)
        assert (gradient[0, :, :2] == 0).all()
        assert (gradient[1] != 0).any()
    nothing = pixel_loss(logits, torch.full_like(labels, UNCOUNTED), weights)
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing == 0
    assert (gradient == 0).all()


def test_miou_is_that_of_a_hand_count():
    metrics = segmentation_metrics(4, "test/")  # the fourth class is nowhere, and not in the mean
    metrics.update(torch.tensor([[[0, 0, 1, 2]]]), torch.tensor([[[0, 1, 1, UNCOUNTED]]]))
    metrics.update(torch.tensor([[[2, 2, 0, 1]]]), torch.tensor([[[2, 0, 0, UNCOUNTED]]]))
    found = metrics.compute()
    assert float(found["test/miou"]) == pytest.approx((2 / 4 + 1 / 2 + 1 / 2) / 3)
    assert float(found["test/accuracy"]) == pytest.approx(4 / 6)


class Batches(L.Callback):
    """A callback that keeps the batches of training."""

    def __init__(self):
        self.of_epoch = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.of_epoch.append(batch)


def test_overlaps_of_each_image_are_those_of_counting_pixels():
    predicted, labels = torch.randint(0, 4, (3, 5, 7)), torch.randint(0, 4, (3, 5, 7))
    labels[0, :2], labels[2] = UNCOUNTED, UNCOUNTED
    found = overlaps(predicted, labels, 4)
    for image in range(3):
        counted = labels[image] != UNCOUNTED
        for one in range(4):
            said, true = (predicted[image] == one) & counted, labels[image] == one
            assert found[image, one].tolist() == [int((said & true).sum()), int((said | true).sum())]


def test_training_weighs_classes_and_validation_only_counts_pixels(tmp_path):
    """The fourth class is nowhere; one image of each split has fewer labels than the others."""
    root = segmentation_folder(tmp_path / "scenes")
    (root / "classes.csv").write_text("name\n" + "\n".join([*NAMES, "boat"]))
    for split in ("train", "val"):
        labels = np.array(Image.open(root / split / "labels" / "0.png"))
        labels[2:] = IGNORED
        Image.fromarray(labels).save(root / split / "labels" / "0.png")
    data = SegmentationFolder(str(root), SIZE, ignore_index=IGNORED, batch_size=2)
    network = torch.nn.Conv2d(3, 4, 1)
    network.bias.data = torch.tensor([1.0, 0.0, 0.0, -100.0])  # a part of the pixels is right, none is a boat
    network.weight.data *= 0.1
    module = Segmenter(network, Optimization(learning_rate=1e-12, warmup_epochs=0), class_weights="inverse_log")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    batches = Batches()
    trainer = L.Trainer(max_epochs=1, callbacks=[batches], accelerator="cpu", num_sanity_val_steps=0, **quiet)
    trainer.fit(module, data)
    found, weights = trainer.callback_metrics, weights_of_classes(data.pixel_counts(), "inverse_log")
    images, labels = (torch.stack(list(parts)) for parts in zip(*data.images("val"), strict=True))  # type: ignore[call-overload]
    with torch.no_grad():
        logits = network(data.normalize(images))
    assert float(found["val/loss"]) == pytest.approx(pixel_loss(logits, labels.long()).item(), rel=1e-5)
    assert {name for name in found if name.startswith("val/iou_")} == {f"val/iou_{name}" for name in NAMES}
    losses, right, counted = [], 0, 0
    for images, labels in batches.of_epoch:
        with torch.no_grad():
            logits = network(images)
        losses.append(F.cross_entropy(logits, labels.long(), weights, ignore_index=UNCOUNTED).item())
        right, counted = right + int((logits.argmax(1) == labels).sum()), counted + int((labels != UNCOUNTED).sum())
    assert (len(losses), 0 < right < counted) == (4, True)
    assert float(found["train/loss"]) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(found["train/accuracy"]) == pytest.approx(right / counted, rel=1e-5)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model__network__init_args__num_classes": 5},
            "model.network.init_args.num_classes: must be 3 for SegmentationFolder, got 5",
        ),
        (
            {
                "model__network": {
                    "class_path": "unified_extractor.models.ExtractorNet",
                    "init_args": {"num_classes": 3, "widths": [8], "depths": [1], "spec": "convolution"},
                }
            },
            "must give logits [1, 3, 10, 12], got [1, 3]; unified_extractor.models.SegmentationNet puts a decoder on a network's stages",
        ),
        (
            {"model__class_weights": "median"},
            "model.class_weights: expected one of 'none', 'median_frequency', 'inverse_log', got 'median'",
        ),
        ({"model__label_smoothing": 0.1}, "model.label_smoothing: unknown key"),
        ({"data__init_args__augmentation": {"scale": [2.0, 1.0]}}, "the smaller one first, got [2.0, 1.0]"),
    ],
)
def test_a_wrong_setting_has_one_line_and_leaves_no_run(changes, message, trained, tmp_path, capsys):
    assert message in refused(capsys, "fit", "--config", write_segmentation_config(tmp_path, trained / "scenes", **changes))
    assert not Path("runs").exists() or not list(Path("runs").rglob("version_*"))


def test_classification_of_a_folder_with_label_maps_and_another_task_than_the_checkpoints_are_refused(trained, tmp_path, capsys):
    config = write_segmentation_config(tmp_path, trained / "scenes")
    (tmp_path / "others.csv").write_text("name\nsky\nroad\nboat\n")
    error = refused(capsys, "test", "--config", config, "--ckpt_path", trained / BEST, "--data.classes", tmp_path / "others.csv")
    assert "was trained on other classes than those of scenes: [sky, road, car] there, [sky, road, boat] here" in error


@pytest.mark.parametrize("make", [models.rednet26, models.volo_d1, models.internimage_t])
@pytest.mark.sampled(3)
def test_every_familys_stages_carry_the_decoder(make):
    network = models.SegmentationNet(make(num_classes=7), 4, channels=8).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 3, 37, 50)).shape == (1, 4, 37, 50)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not list(network.backbone.head.parameters())


def test_the_decoder_is_that_of_its_paper():
    """Project, interpolate to the first map's size, fuse by a convolution, batch norm and ReLU, classify (Xie et al. 2021, section 3.2)."""
    backbone = models.ExtractorNet(5, "convolution", widths=[4, 6, 8], depths=[1, 1, 1], stem_stride=2)
    network = models.SegmentationNet(backbone, 4, channels=8).double()
    decoder, x = network.decoder, torch.randn(2, 3, 21, 30, dtype=torch.float64)
    norm = decoder.fuse[1]
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        torch.nn.init.uniform_(tensor, 0.5, 1.5)
    network.eval()
    with torch.no_grad():
        maps = backbone.forward_intermediates(x, intermediates_only=True)
        at_one_size = [
            F.interpolate(F.conv2d(each, project.weight, project.bias), maps[0].shape[2:], mode="bilinear")
            for each, project in zip(maps, decoder.project, strict=True)
        ]
        fused = F.conv2d(torch.cat(at_one_size, 1), decoder.fuse[0].weight)
        fused = F.batch_norm(fused, norm.running_mean, norm.running_var, norm.weight, norm.bias).relu()
        expected = F.interpolate(F.conv2d(fused, decoder.classify.weight, decoder.classify.bias), (21, 30), mode="bilinear")
        torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("upsampler", ["carafe(hidden_channels=4)", "dysample(groups=2)"])
def test_the_decoder_upsamples_by_an_extractor(upsampler):
    backbone = models.ExtractorNet(5, "convolution", widths=[4, 6, 8], depths=[1, 1, 1], stem_stride=2)
    network = models.SegmentationNet(backbone, 4, channels=8, upsampler=upsampler)
    assert [len(steps) for steps in network.decoder.upsample] == [0, 1, 2]
    network(torch.randn(2, 3, 21, 30)).sum().backward()
    steps = network.decoder.upsample[2]
    assert all(parameter.grad is not None for parameter in steps.parameters())
    with torch.no_grad():
        maps = backbone.forward_intermediates(torch.randn(1, 3, 16, 24), intermediates_only=True)
        expected = steps(network.decoder.project[2](maps[2]))
    assert expected.shape[2:] == maps[0].shape[2:]
    with pytest.raises(ValueError, match="upsampler must double the size of a map, got upsample=1"):
        models.SegmentationNet(models.rednet26(), 4, upsampler="involution")


def test_a_joint_upsampler_of_the_decoder_has_the_map_of_the_doubled_size_as_its_guide():
    joint = replace(ux.presets.carafe(2, 3), generator=ux.Generator(guide="output"))
    backbone = models.ExtractorNet(5, "convolution", widths=[4, 6, 8], depths=[1, 1, 1], stem_stride=2)
    decoder = models.SegmentationNet(backbone, 4, channels=8, upsampler=joint).eval().decoder
    maps = [torch.randn(1, channels, *size) for channels, size in ((4, (11, 15)), (6, (6, 8)), (8, (3, 4)))]
    fine, middle, coarse = (project(each) for project, each in zip(decoder.project, maps, strict=True))
    fine = F.interpolate(fine, (12, 16), mode="bilinear")
    finest = [fine, decoder.upsample[1][0](middle, fine)]
    finest.append(decoder.upsample[2][1](decoder.upsample[2][0](coarse, middle), fine))
    at_one_size = [F.interpolate(each, (11, 15), mode="bilinear") for each in finest]
    at_one_size[0] = decoder.project[0](maps[0])
    torch.testing.assert_close(decoder(maps), decoder.classify(decoder.fuse(torch.cat(at_one_size, 1))))
    with pytest.raises(ValueError, match=r"upsampler with generator\.guide='output' needs a map of every size, .* 0, 2 times"):
        models.segmentation.MLPDecoder([4, 8], [0, 2], 8, 4, 0.0, joint)


def test_a_module_is_loaded_from_nothing_but_its_checkpoint(trained):
    module = Segmenter.load_from_checkpoint(trained / BEST)
    assert list(module.network.task.class_names) == NAMES  # type: ignore[union-attr]
    assert [tuple(color) for color in module.network.task.colors] == COLORS  # type: ignore[union-attr]


def test_a_classifiers_weights_start_the_backbone(trained, tmp_path):
    backbone = load_run(trained / RUN)[0].backbone
    classifier = models.ExtractorNet(5, backbone.specs, widths=[8, 16], depths=[1, 1], stem_stride=2)
    interop.save(classifier, tmp_path / "classifier")
    other = models.ExtractorNet(1000, backbone.specs, widths=[8, 16], depths=[1, 1], stem_stride=2)
    module = Segmenter(models.SegmentationNet(other, 3, channels=8), initial_weights=str(tmp_path / "classifier"))
    notes = " ".join(module.start(NAMES))
    assert "head.fc.bias, head.fc.weight and 5 more: left out, a backbone has no head and no last norm" in notes
    assert "decoder.project.0.weight" in notes
    started, own = module.network.backbone.state_dict(), classifier.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(value, own[name]) for name, value in started.items())
    again = Segmenter(load_run(trained / RUN)[0], initial_weights=str(trained / RUN))  # of a segmenter: all of it
    assert again.start(NAMES) == []


def test_a_saved_network_is_built_again_with_its_backbone_upsampler_and_task(trained, tmp_path):
    network, _ = load_run(trained / RUN)
    interop.save(network, tmp_path / "saved")  # type: ignore[arg-type]
    loaded, x = interop.load(tmp_path / "saved"), torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))
    assert loaded.task == network.task
    backbone = models.ExtractorNet(5, "convolution", widths=[4, 6], depths=[1, 1])
    upsampling = models.SegmentationNet(backbone, 4, channels=8, upsampler="carafe(hidden_channels=4)").eval()
    interop.save(upsampling, tmp_path / "upsampling")
    assert torch.equal(interop.load(tmp_path / "upsampling")(x), upsampling(x))


def test_a_sweep_plans_and_trains_segmentation(trained, tmp_path, capsys):
    config = write_segmentation_config(tmp_path, trained / "scenes", trainer__max_epochs=1)
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"name: sweep\nconfig: {config.name}\nvariants:\n  involution: {{}}\n  convolution:\n"
        "    model.network.init_args.backbone.init_args.spec: convolution\nseeds: [0]\n"
    )
    assert main(["sweep", str(grid), "--dry_run"]) == 0
    assert "convolution" in capsys.readouterr().out


def test_the_data_are_what_the_other_tests_say(trained):
    data = SegmentationFolder(str(trained / "scenes"), SIZE, ignore_index=IGNORED, batch_size=2)
    assert {split: len(data.images(split)) for split in COUNTS} == COUNTS  # type: ignore[arg-type]
