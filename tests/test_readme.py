"""Every piece of Python in the README runs, in the order in which a newcomer reads."""

import re
from pathlib import Path

import torch

import unified_extractor as ux
from tests.support.official_states import official_state

README = Path(__file__).parents[1] / "README.md"
PIECES = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_python_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    volo = ux.models.volo_d1()
    linear = ("attn.", "mlp.")
    torch.save({"state_dict": _with_official_positions(official_state(volo, "volo", linear))}, "d1_224_84.2.pth.tar")
    assert len(PIECES) >= 5
    names: dict[str, object] = {}
    for piece in PIECES:
        exec(piece, names)
    assert (tmp_path / "net.onnx").is_file()


def _with_official_positions(state):
    return state | {"pos_embed": state["pos_embed"].permute(0, 2, 3, 1).contiguous()}
