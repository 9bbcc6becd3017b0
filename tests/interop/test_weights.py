"""Weights as other training codes write them: prefixes, averages, objects beside them, no head; all that does not fit is named."""

import argparse
import pathlib
import pickle
import warnings

import numpy as np
import pytest
import torch
import torchvision

import unified_extractor as ux
from tests.support.families import SMALL
from tests.support.official_states import official_state

LINEAR = ("attn.", "mlp.", "dcn.offset.", "dcn.mask.", "dcn.input_proj.", "dcn.output_proj.")


@pytest.fixture(scope="module")
def state():
    """The official weights of a small ResNet."""
    return official_state(SMALL["resnet"](5), "resnet")


def under(prefix, values):
    return {prefix + name: value for name, value in values.items()}


def averaged(values):
    return {name: value + 1 for name, value in values.items()}


def loaded(content, network=None, load=ux.interop.load_weights, **options):
    """A network, a small ResNet by default, with these weights, and the notes of what was done, of which a warning says the same."""
    network = SMALL["resnet"](5) if network is None else network
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        notes = load(network, content, **options)
    assert len(said) == bool(notes)
    assert all(note in str(said[0].message) for note in notes.values())
    return network, notes


WRAPPED = {
    "module.": lambda w: {"state_dict": under("module.", w)},
    "module.model.": lambda w: under("module.model.", w),
    "model.": lambda w: {"state_dict": under("model._orig_mod.", w) | {"train_loss.mean_value": torch.zeros(1)}},
    "network.": lambda w: {"state_dict": under("network.", w), "pytorch-lightning_version": "2.6"},
    "backbone.": lambda w: {"model": under("backbone.", w), "meta": {}},
    "classifier_net.": lambda w: {"model_state_dict": under("classifier_net.", w) | {"criterion.weight": torch.zeros(3)}},
}


@pytest.mark.parametrize("prefix", WRAPPED)
def test_the_prefixes_of_wrappers_are_removed_and_it_is_said(state, prefix):
    network, notes = loaded(WRAPPED[prefix](state))
    assert torch.equal(network.stem[0].weight, state["conv1.weight"])
    assert torch.equal(network.head.fc.bias, state["fc.bias"])
    assert notes[f"{prefix}*"] == f"the prefix {prefix!r} of names was removed"
    assert set(notes) - {f"{prefix}*"} <= {"train_loss.mean_value", "criterion.weight"}


def test_a_wrapper_inside_of_names_is_removed(state):
    network, _ = loaded({name.replace("layer1.", "layer1._orig_mod."): value for name, value in state.items()})
    assert torch.equal(network.stem[0].weight, state["conv1.weight"])


def test_weights_go_before_their_average_and_which_takes_the_other(state, tmp_path):
    both = {"state_dict": state, "state_dict_ema": averaged(state)}
    torch.save(both, tmp_path / "both.pth.tar")
    for content in (both, tmp_path / "both.pth.tar"):
        network, notes = loaded(content)
        assert torch.equal(network.stem[0].weight, state["conv1.weight"])
        assert notes == {"state_dict_ema": "not taken, state_dict was: which='state_dict_ema' takes it"}
        network, _ = loaded(content, which="state_dict_ema")
        assert torch.equal(network.stem[0].weight, state["conv1.weight"] + 1)
    network, notes = loaded({"state_dict_ema": averaged(state)})
    assert torch.equal(network.stem[0].weight, state["conv1.weight"] + 1)
    with pytest.raises(ValueError, match=r"which must be one of \['state_dict', 'state_dict_ema'\].*did you mean state_dict_ema"):
        loaded(both, which="state_dict_em")


def test_averages_of_torchvision_and_of_lightning_modules_are_found(state):
    average = under("module.", averaged(state)) | {"n_averaged": torch.tensor(3)}
    network, _ = loaded({"model": under("module.", state), "model_ema": average}, which="model_ema")
    assert torch.equal(network.stem[0].weight, state["conv1.weight"] + 1)
    inside = {"state_dict": under("ema_model.", averaged(state)) | under("model.", state)}
    network, notes = loaded(inside)
    assert torch.equal(network.stem[0].weight, state["conv1.weight"])
    assert notes["ema_model.fc.bias"] == "left out, it is not under 'model.'"
    network, _ = loaded(inside, which="ema_model")
    assert torch.equal(network.stem[0].weight, state["conv1.weight"] + 1)


def test_namespaces_and_numpy_values_are_read_and_other_classes_named(state, tmp_path):
    args = argparse.Namespace(lr=np.float64(0.1), seed=np.int64(3), device=torch.device("cpu"), name=np.str_("a"))
    file = tmp_path / "others.pth"
    torch.save({"state_dict": state, "args": args, "best": np.float32(3), "history": np.zeros(3)}, file)
    network, _ = loaded(file)
    assert torch.equal(network.stem[0].weight, state["conv1.weight"])
    for content, kind in (({"state_dict": state, "path": pathlib.PurePosixPath("a")}, r"pathlib[\w.]*\.PurePosixPath"),
                          (torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear")):  # fmt: skip
        torch.save(content, file)
        with pytest.raises(ValueError, match=rf"is refused: it holds an object of type {kind}.*weights_only=False"):
            loaded(file)


def test_values_of_numpy_1_are_read_and_other_files_of_weights_refused_in_words(tmp_path):
    file = tmp_path / "old.pth"
    torch.save({"state_dict": {"a.b": torch.zeros(1)}, "best": np.float64(2)}, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert list(ux.interop.read_state_dict(file)) == ["a.b"]
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "scripted.pt")
    with pytest.raises(ValueError, match=r"scripted\.pt is a TorchScript archive"):
        ux.interop.read_state_dict(tmp_path / "scripted.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a.b": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"plain\.pkl is refused: it was not written by torch\.save"):
        ux.interop.read_state_dict(tmp_path / "plain.pkl")


def test_what_is_no_state_dict_is_named():
    with pytest.raises(ValueError, match=r"it is a dict with 'epoch' \(int\), 'optimizer' \(dict\)"):
        loaded({"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(1)}}}})
    with pytest.raises(TypeError, match="must be a file or map names to tensors, got Linear"):
        loaded(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"no name of state_dict fits: it has 'a\.weight', ResNet has 'head\.fc\.bias'"):
        loaded({"a.weight": torch.zeros(1)})


HEADS = {
    "volo": ("cls_token", "post_network", "norm.", "head", "aux_head"),
    "internimage": ("conv_head", "head"),
    "rednet": ("head",),
}


@pytest.mark.parametrize("family", HEADS)
def test_a_head_that_is_not_there_stays_as_it_is_and_is_named(family):
    source, target = SMALL[family](5), SMALL[family](7)
    head = {name: value.clone() for name, value in target.head.state_dict().items()}
    headless = {key: v for key, v in official_state(source, family, LINEAR).items() if not key.startswith(HEADS[family])}
    prefix = "module." if family == "rednet" else "backbone."
    _, notes = loaded(under(prefix, headless), target)
    assert len([note for note in notes.values() if note.startswith("not there")]) >= len(list(target.head.parameters()))
    assert all(torch.equal(value, head[name]) for name, value in target.head.state_dict().items())
    loaded(headless, source, ux.interop.load_official, family=family)
    name = next(iter(source.stem.state_dict()))
    assert torch.equal(target.stem.state_dict()[name], source.stem.state_dict()[name])
    if family == "rednet":  # the backbone by itself, saved without the classifier's prefix
        _, notes = loaded({key.removeprefix("backbone."): value for key, value in headless.items()}, target)
        assert notes["*"] == "the prefix 'backbone.' was added to names"


@pytest.mark.parametrize("version", [1, 2])
def test_plain_resnet_weights_go_into_deformable_stages_and_the_generators_are_named(state, version):
    plain, stages = SMALL["resnet"](5), [ux.presets.convolution(), *[ux.presets.deformable_convolution(version)] * 3]
    ux.interop.load_official(plain, state, "resnet")
    for weights in (state, plain.state_dict()):
        network, notes = loaded(weights, SMALL["resnet"](5, stages))
        assert {name.split(".")[0] for name in notes} == {"stage2", "stage3", "stage4"}
        assert all(".offsets." in name or ".kernel." in name for name in notes)
        layer = network.stage3[0].extract[0]
        assert torch.equal(layer.static_kernel, state["layer3.0.conv2.weight"])
    if version == 1:  # version 2 starts with half a convolution: its mask is sigmoid(0)
        x = torch.randn(1, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(network.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-4)


def test_half_a_generator_and_kernels_of_another_size_are_refused(state):
    deformable = SMALL["resnet"](5, ux.presets.deformable_convolution(2))
    half = {name: value for name, value in deformable.state_dict().items() if not name.endswith("offsets.head.bias")}
    with pytest.raises(ValueError, match=r"has no 'stage1\.0\.extract\.0\.offsets\.head\.bias'"):
        ux.interop.load_weights(deformable, half)
    with pytest.raises(ValueError, match=r"\['layer1\.0\.conv2\.weight'\] must have shape \[64, 64, 5, 5\]"):
        ux.interop.load_weights(SMALL["resnet"](5, ux.presets.deformable_convolution(2, 5)), state)


def test_a_saved_network_starts_one_of_other_classes_and_image_size(tmp_path):
    source = SMALL["volo"](5)
    ux.interop.save(source, tmp_path)
    target = SMALL["volo"](3, img_size=96)
    _, notes = loaded(tmp_path, target)
    assert notes["stage2.0.1.embedding"] == "interpolated from [4, 4] to [6, 6] positions"
    assert notes["head.fc.weight"] == "left out, it is for 5 classes, the module for 3"
    assert set(notes) == {
        "stage2.0.1.embedding",
        *(f"head.{n}.{kind}" for n in ("fc", "auxiliary") for kind in ("weight", "bias")),
    }
    assert torch.equal(target.stem[0].weight, source.stem[0].weight)
    read = ux.interop.read_state_dict(tmp_path)
    assert read.keys() == source.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "classifiers"),
    [
        ("mobilenet_v3_small", ["classifier.3"]),
        ("squeezenet1_1", ["classifier.1"]),
        ("googlenet", ["aux1.fc2", "aux2.fc2", "fc"]),
    ],
)
def test_a_torchvision_network_takes_its_weights_for_other_classes(name, classifiers):
    options = {"init_weights": False} if name == "googlenet" else {}
    source, target = (getattr(torchvision.models, name)(num_classes=classes, **options) for classes in (4, 3))
    _, notes = loaded({"state_dict": under("module.", source.state_dict())}, target)
    assert set(notes) == {"module.*", *(f"{layer}.{kind}" for layer in classifiers for kind in ("weight", "bias"))}
    kept = [key for key in source.state_dict() if key not in notes]
    assert all(torch.equal(target.state_dict()[key], source.state_dict()[key]) for key in kept)


def test_read_state_dict_removes_prefixes_and_names_what_it_passes_over(tmp_path):
    values = {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(2)}
    torch.save({"model": under("module._orig_mod.", values), "model_ema": averaged(values)}, tmp_path / "a.pth")
    with pytest.warns(UserWarning, match=r"model_ema: not taken.*module\.\*: the prefix 'module\.' of all names was removed"):
        read = ux.interop.read_state_dict(tmp_path / "a.pth")
    assert read.keys() == values.keys()
    with pytest.warns(UserWarning, match="model: not taken"):
        assert torch.equal(ux.interop.read_state_dict(tmp_path / "a.pth", which="model_ema")["a.bias"], values["a.bias"] + 1)
