"""timm makes our networks and uses them as its own."""

import pytest
import timm
import torch

import unified_extractor as ux
import unified_extractor.interop.timm
from tests.support.families import VARIANTS


def test_every_variant_is_registered():
    assert set(timm.list_models("uniex_*")) == {f"uniex_{name}" for name in VARIANTS}
    assert timm.list_pretrained("uniex_*") == []


def test_create_model_passes_on_what_users_set():
    spec = ux.presets.outlook_attention(heads=2)
    network = timm.create_model("uniex_rednet50", spec=spec, num_classes=7, in_chans=1, drop_path_rate=0.1)
    assert isinstance(network, ux.models.RedNet)
    assert (network.num_classes, network.in_chans, network.specs) == (7, 1, [spec] * 4)
    assert network.eval()(torch.randn(1, 1, 64, 64)).shape == (1, 7)
    assert network.default_cfg["classifier"] == "head.fc"
    assert network.default_cfg["architecture"] == "uniex_rednet50"


def test_the_default_configuration_serves_timms_data_pipeline():
    network = timm.create_model("uniex_resnet26")
    assert timm.data.resolve_model_data_config(network)["input_size"] == (3, 224, 224)
    assert network.get_submodule(network.default_cfg["classifier"]) is network.get_classifier()


def test_what_timms_training_script_passes_is_taken():
    network = timm.create_model("uniex_resnet26", drop_rate=0.2, drop_path_rate=0.1, global_pool="avg")
    assert network.head.dropout.p == 0.2
    with pytest.raises(ValueError, match="global_pool must be None or 'avg' in ResNet, got 'max'"):
        timm.create_model("uniex_resnet26", global_pool="max")


@pytest.mark.parametrize("name", ["uniex_volo_d1", "uniex_resnet26"])
def test_weights_for_other_classes_load_without_the_classifiers(name, tmp_path):
    options = {"img_size": 64} if "volo" in name else {}
    source = timm.create_model(name, num_classes=5, **options)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 5}
    network = timm.create_model(name, num_classes=3, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    for part in ("stem", "stage4"):
        ours, theirs = getattr(network, part).state_dict(), getattr(source, part).state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert network.get_classifier().out_features == 3


def test_volo_takes_timms_name_for_the_image_size():
    network = timm.create_model("uniex_volo_d1", img_size=64, num_classes=3)
    assert network.stage2[0][1].embedding.shape == (1, 384, 4, 4)


def test_features_only_gives_the_chosen_maps():
    features = timm.create_model("uniex_internimage_t", features_only=True, out_indices=(1, -1)).eval()
    maps = features(torch.randn(1, 3, 64, 64))
    assert features.feature_info.channels() == [one.shape[1] for one in maps] == [128, 512]
    assert features.feature_info.reduction() == [64 // one.shape[2] for one in maps] == [8, 32]
    assert len(timm.create_model("uniex_extractor_net", features_only=True)(torch.randn(1, 3, 32, 32))) == 3
    assert len(timm.create_model("uniex_resnet26", features_only=True)(torch.randn(1, 3, 64, 64))) == 4


def test_a_pruned_feature_network_has_no_head_and_trains_all_of_its_parameters():
    features = timm.create_model("uniex_rednet26", features_only=True, out_indices=(0, 2))
    sum(one.sum() for one in features(torch.randn(2, 3, 64, 64))).backward()
    assert all(parameter.grad is not None for parameter in features.parameters())


def test_a_network_without_classes_gives_features():
    network = timm.create_model("uniex_volo_d1", num_classes=0, img_size=64).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, 64, 64)).shape == (2, network.num_features)
    assert unified_extractor.interop.timm.default_cfgs.keys() == {f"uniex_{name}" for name in VARIANTS}
