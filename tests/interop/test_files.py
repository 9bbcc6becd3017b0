"""Weights are read without running code; a saved network is built again from its two files."""

import json
import pickle

import pytest
import torch
from safetensors.torch import save_file

import unified_extractor as ux
from tests.support.families import SMALL
from tests.support.official_states import official_state
from unified_extractor.interop.hub import HubNetwork


def test_a_state_dict_is_found_by_itself_or_inside_a_checkpoint(tmp_path):
    values = {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(2)}
    save_file(values, tmp_path / "a.safetensors")
    torch.save(values, tmp_path / "a.pth")
    torch.save({"state_dict": values, "epoch": 3}, tmp_path / "b.pth")
    torch.save({"model": values, "optimizer": {}}, tmp_path / "c.pth")
    for path in tmp_path.iterdir():
        read = ux.interop.read_state_dict(path)
        assert read.keys() == values.keys()
        assert all(torch.equal(read[name], value) for name, value in values.items())


class Runs:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_that_needs_more_than_tensors_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"weight": torch.zeros(1), "extra": Runs()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Runs()))
    for name in ("evil.pth", "plain.pkl"):
        with pytest.raises(ValueError, match=f"{name} is refused"):
            ux.interop.read_state_dict(tmp_path / name)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pth", "empty.pth", "empty.safetensors"])
def test_a_broken_file_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"" if "empty" in name else b"PK\x03\x04 nothing of the kind" * 20)
    with pytest.raises(ValueError, match=name):
        ux.interop.read_state_dict(tmp_path / name)


def test_a_truncated_file_is_refused_by_name(tmp_path):
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    for length in (len(content) // 2, len(content) - 500, 100):
        (tmp_path / "cut.pth").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.pth"):
            ux.interop.read_state_dict(tmp_path / "cut.pth")


def test_a_file_that_is_something_else_is_shown_by_its_first_bytes(tmp_path):
    """A pointer of Git LFS, or the page of a failed download."""
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"pointer\.pth is refused: .* it begins with b'version https://git-lfs"):
        ux.interop.read_state_dict(tmp_path / "pointer.pth")
    (tmp_path / "empty.pth").write_text("")
    with pytest.raises(ValueError, match=r"empty\.pth is empty"):
        ux.interop.read_state_dict(tmp_path / "empty.pth")


@pytest.mark.parametrize("content", [torch.zeros(1), {"epoch": 3}, {}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        ux.interop.read_state_dict(tmp_path / "other.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.pth"):
        ux.interop.read_state_dict(tmp_path / "nowhere.pth")


def test_official_weights_load_from_a_file(tmp_path):
    source, target = SMALL["resnet"](5), SMALL["resnet"](5)
    torch.save({"state_dict": official_state(source, "resnet")}, tmp_path / "resnet.pth")
    assert ux.interop.load_official(target, tmp_path / "resnet.pth", "resnet") == {}
    ux.interop.load_official(source, str(tmp_path / "resnet.pth"), "resnet")
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())


@pytest.mark.parametrize("family", SMALL)
def test_a_saved_network_is_built_again_with_its_extractors(family, tmp_path):
    network = SMALL[family](5, ux.presets.unified(view=(3, 5)), in_chans=1).to(memory_format=torch.channels_last).eval()
    network.reset_classifier(7)
    ux.interop.save(network, tmp_path / "new" / "folder")
    again = ux.interop.load(tmp_path / "new" / "folder")
    assert type(again) is type(network)
    assert not again.training
    assert again.specs == network.specs
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(x), network(x))
    config = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert config["network"] == type(network).__name__
    assert config["num_classes"] == 7


def test_a_saved_network_keeps_its_precision(tmp_path):
    ux.interop.save(SMALL["rednet"](5).bfloat16(), tmp_path)
    assert ux.interop.load(tmp_path).stem[2].weight.dtype == torch.bfloat16


def test_a_network_goes_to_the_hubs_files_and_back(tmp_path):
    network = SMALL["rednet"](5).eval()
    HubNetwork(network).save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in tmp_path.iterdir()}
    again = HubNetwork.from_pretrained(tmp_path)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(x), network(x))
    assert ux.interop.load(tmp_path).config["depths"] == [1, 1, 1, 2]


def test_a_name_that_is_no_folder_is_asked_of_the_hub(tmp_path, monkeypatch):
    ux.interop.save(SMALL["resnet"](5), tmp_path)
    asked = {}

    def snapshot_download(name, **options):
        asked.update(name=name, revision=options["revision"])
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda *_, **__: str(tmp_path / "config.json"))
    assert HubNetwork.from_pretrained("someone/network", revision="v1").model.num_classes == 5
    assert asked == {"name": "someone/network", "revision": "v1"}


@pytest.fixture
def folder(tmp_path):
    ux.interop.save(SMALL["resnet"](5), tmp_path)
    return tmp_path


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_folder_that_does_not_make_a_network_is_refused_with_its_name(folder):
    change(folder, network="Tensor")
    with pytest.raises(ValueError, match=r"config\.json: network must be a class of unified_extractor\.models, got 'Tensor'"):
        ux.interop.load(folder)
    change(folder, network="RedNt")
    with pytest.raises(ValueError, match="got 'RedNt', did you mean RedNet"):
        ux.interop.load(folder)
    change(folder, network="ResNet", num_classes=6)
    with pytest.raises(ValueError, match="configuration and weights do not make a ResNet"):
        ux.interop.load(folder)
    change(folder, num_classes=5, wings=2)
    with pytest.raises(ValueError, match="wings"):
        ux.interop.load(folder)
    change(folder, num_classes=5)
    for spec, said in ((5, "must be a mapping"), ({"color": 1}, "color")):
        change(folder, spec=spec)
        with pytest.raises(ValueError, match=f"configuration and weights do not make a ResNet: .*{said}"):
            ux.interop.load(folder)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ValueError, match="no configuration of a network"):
        ux.interop.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        ux.interop.load(folder)


def test_what_is_no_whole_network_is_not_saved(tmp_path):
    with pytest.raises(TypeError, match=r"must be one of unified_extractor\.models, got Linear"):
        ux.interop.save(torch.nn.Linear(1, 1), tmp_path)
    with pytest.raises(TypeError, match=r"model must be a network of unified_extractor\.models, got Linear"):
        HubNetwork(torch.nn.Linear(1, 1))
    pruned = SMALL["resnet"](5)
    pruned.prune_intermediate_layers([0])
    with pytest.raises(ValueError, match="pruned to features"):
        ux.interop.save(pruned, tmp_path / "pruned")
    shared = SMALL["resnet"](5)
    shared.register_buffer("copy", shared.head.fc.weight)
    with pytest.raises(RuntimeError, match="share memory"):
        ux.interop.save(shared, tmp_path / "shared")
    assert list(tmp_path.iterdir()) == []
