"""A trained network in Python: by the name that Lightning's users try, and by the folder of its run."""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image
from torch import nn

import unified_extractor as ux
from tests.support.tiny_runs import in_this_process, write_config
from unified_extractor.data import Digits, ImageTransform
from unified_extractor.models import ExtractorNet
from unified_extractor.results.record import read_rows
from unified_extractor.training import ConfigurationError, ImageClassifier, load_run
from unified_extractor.training.architecture import layer_specs
from unified_extractor.training.mixup import Mixup
from unified_extractor.training.optimization import Optimization

pytestmark = pytest.mark.usefixtures("in_empty_folder")
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
QUIET: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run whose weights are averaged."""
    average = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("trained"))
        changes = {"model__label_smoothing": 0.1, "model__mixup": {"alpha": 0.2}, "trainer__callbacks": [average]}
        file = write_config(folder, trainer__max_epochs=1, model__optimization__weight_decay=0.3, **changes)
        in_this_process("fit", "--config", file)
    return folder / "runs" / "tiny" / "version_0"


def fitted(network: nn.Module) -> str:
    """Return a checkpoint of a trainer of one's own."""
    trainer = L.Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1, **QUIET)
    trainer.fit(ImageClassifier(network, label_smoothing=0.2), Digits(batch_size=128))
    trainer.save_checkpoint("mine.ckpt")
    return "mine.ckpt"


def test_a_checkpoint_of_a_run_is_loaded_wherever_it_lies(tmp_path: Path, trained: Path):
    file = shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path)
    model = ImageClassifier.load_from_checkpoint(file)
    network, data = load_run(str(trained))
    assert torch.equal(model.eval()(IMAGES), network(IMAGES))
    assert isinstance(data, Digits)
    assert model.network.task.class_names == data.class_names  # type: ignore[union-attr]
    assert (model.label_smoothing, model.mixup, model.optimization) == (
        0.1,
        Mixup(alpha=0.2),
        Optimization(learning_rate=0.01, weight_decay=0.3),
    )
    faster = ImageClassifier.load_from_checkpoint(file, map_location="cpu", optimization=Optimization(learning_rate=1.0))
    assert faster.optimization.learning_rate == 1.0


def test_a_loaded_classifier_is_validated_and_trained_further(trained: Path):
    model = ImageClassifier.load_from_checkpoint(trained / "checkpoints" / "best.ckpt")
    found = L.Trainer(**QUIET).validate(model, Digits(batch_size=128), verbose=False)[0]
    assert found["val/accuracy"] == pytest.approx(read_rows([trained / "record.json"])[0].val_accuracy)
    before = model.network.state_dict()["stage1.0.0.weight"].clone()
    L.Trainer(max_epochs=1, limit_train_batches=1, enable_checkpointing=False, **QUIET).fit(model, Digits(batch_size=128))
    distance = float((model.network.state_dict()["stage1.0.0.weight"] - before).abs().max())
    assert 0 < distance < 0.1


def test_a_network_of_this_package_that_python_trained_is_built_again():
    network = ExtractorNet(10, ux.presets.unified(channels_per_group=4), in_chans=1, widths=[8], depths=[1])
    file = fitted(network)
    model = ImageClassifier.load_from_checkpoint(file)
    assert model.network.specs == network.specs  # type: ignore[union-attr]
    assert torch.equal(model.eval()(IMAGES), network.eval()(IMAGES))


def test_a_network_of_another_package_is_given():
    def network(width: int = 10) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width))

    file = fitted(trained := network())
    with pytest.raises(ConfigurationError, match=r"mine.ckpt does not say which network it holds: give it"):
        ImageClassifier.load_from_checkpoint(file)
    model = ImageClassifier.load_from_checkpoint(file, network=network())
    assert torch.equal(model.eval()(IMAGES), trained.eval()(IMAGES))
    with pytest.raises(ConfigurationError, match=r"written by another architecture: it has another shape of 1\.bias"):
        ImageClassifier.load_from_checkpoint(file, network=network(7))


@pytest.mark.parametrize("place", ["version_0", "..", "checkpoints/best.ckpt", "saved"])
def test_a_trained_network_is_loaded_with_its_classes_and_transform(place: str, trained: Path):
    expected, data = load_run(trained)
    source = {"version_0": trained, "..": trained.parent, "saved": Path("saved")}.get(place, trained / place)
    if place == "saved":
        ux.interop.save(expected, "saved")  # type: ignore[arg-type]
    network, class_names, transform = ux.load(str(source))
    assert class_names == data.class_names
    assert not network.training
    pixels = data.images("test")[5][0]
    Image.fromarray(pixels[0].numpy()).save("five.png")
    for image in (pixels, "five.png", Path("five.png"), Image.open("five.png")):
        assert torch.equal(transform(image), data.normalize(pixels[None])[0])
    assert torch.equal(network(IMAGES), expected(IMAGES))


def test_what_is_no_trained_network_is_refused(trained: Path):
    with pytest.raises(
        ConfigurationError, match="nowhere is no folder of a run, no checkpoint, and no folder of a saved network"
    ):
        ux.load("nowhere")
    ux.interop.save(ExtractorNet(10, ux.presets.convolution(), widths=[8], depths=[1]), "untrained")
    with pytest.raises(ConfigurationError, match="untrained does not say the classes of its network"):
        ux.load("untrained")
    transform = ux.load(trained).transform
    with pytest.raises(ValueError, match=r"image must be uint8 \[1, h, w\], got torch.float32 \[1, 8, 8\]"):
        transform(IMAGES[0])
    with pytest.raises(TypeError, match="image must be a file, an image of Pillow or a tensor, got int"):
        transform(3)


def test_the_transform_crops_for_classes_and_resizes_for_label_maps():
    pixels = torch.randint(0, 256, (3, 20, 40), dtype=torch.uint8)
    common = {"class_names": ["a", "b"], "mean": [0.5] * 3, "std": [0.25] * 3}
    cropped = ImageTransform(ux.ImageTask(**common, image_size=10, resize=20))(pixels)
    torch.testing.assert_close(cropped, (pixels[:, 5:15, 15:25] / 255 - 0.5) / 0.25)
    colors = [[0, 0, 0], [255, 255, 255]]
    for size, shape in (((20, 40), (3, 20, 40)), ((10, 24), (3, 10, 24)), (16, (3, 16, 16))):
        resized = ImageTransform(ux.ImageTask(**common, image_size=size, colors=colors))(pixels)
        assert resized.shape == shape
    torch.testing.assert_close(
        ImageTransform(ux.ImageTask(**common, image_size=(20, 40), colors=colors))(pixels), (pixels / 255 - 0.5) / 0.25
    )


def test_a_network_that_is_gone_is_named(trained: Path):
    content = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    content["settings"]["model"]["network"]["class_path"] = "nowhere.Network"
    torch.save(content, "gone.ckpt")
    with pytest.raises(ConfigurationError, match=r"gone.ckpt: its network cannot be made: .*nowhere"):
        ImageClassifier.load_from_checkpoint("gone.ckpt")


def test_the_specs_that_a_checkpoint_keeps_are_those_of_layers():
    """A part of a layer that counted would make the checkpoints that were written before it had a spec unreadable."""
    layer = ux.UnifiedExtractor2d(16, 16, ux.presets.deformable_convolution(3))
    for part in list(layer.modules())[1:]:
        part.spec = layer.spec
    assert list(layer_specs(nn.Sequential(nn.Conv2d(3, 16, 1), layer))) == ["1"]
    assert list(layer_specs(layer)) == [""]
