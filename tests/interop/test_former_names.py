"""A network that was saved when options had other names loads under today's."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import unified_extractor as ux
from unified_extractor.options import with_present_names

SAVED = Path(__file__).parent / "network_of_former_names"
"""A network with options ``normalisation`` and ``overlap_normalise``, written by the version that called them so."""


def test_a_network_saved_under_former_names_gives_its_former_logits():
    network = ux.interop.load(SAVED)
    fold, involution = network.specs
    assert fold.dynamic_kernel.normalization == "softmax"
    assert fold.overlap_normalize
    assert involution == ux.presets.involution(3, channels_per_group=4)
    x = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(1, 1, 8, 8)
    logits = torch.tensor([[-6961.591125990598, 4841.612390167446, 6996.8487513695045]], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), logits, rtol=1e-9, atol=0)


def test_a_name_that_no_option_ever_had_is_refused(tmp_path):
    folder = shutil.copytree(SAVED, tmp_path / "network")
    config = json.loads((folder / "config.json").read_text())
    config["spec"][0]["dynamic_kernel"]["normalizatoin"] = "softmax"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="dynamic_kernel has no field 'normalizatoin', did you mean normalization"):
        ux.interop.load(folder)


def test_former_names_are_of_their_class_only():
    saved = {"normalisation": "none", "dynamic_kernel": {"normalisation": "softmax"}, "overlap_normalise": True}
    present = {"normalisation": "none", "dynamic_kernel": {"normalization": "softmax"}, "overlap_normalize": True}
    assert with_present_names(saved, ux.ExtractorSpec) == present
    assert with_present_names([saved], ux.ExtractorSpec | list[ux.ExtractorSpec] | None) == [present]
    assert with_present_names(saved) == saved, "whose fields they are is not known"
    network = {"class_path": "unified_extractor.models.MatchedNet", "init_args": {"spec": saved}}
    assert with_present_names({"network": network})["network"]["init_args"]["spec"] == present
