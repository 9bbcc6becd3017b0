"""The composed form of a fold is taken where it is cheaper, and only there."""

import pytest
import torch

import unified_extractor as ux
from unified_extractor.ops.backends import eager


@pytest.mark.parametrize(
    ("stride", "channels", "positions", "static", "has_offsets", "composed"),
    [
        (1, 8, None, False, False, True),
        (2, 8, None, False, False, True),
        (3, 8, None, False, False, False),  # few windows: the fold itself is cheaper
        (2, 2, None, False, False, False),  # one channel a group: composing costs more than it saves
        (1, 8, 1, False, False, False),  # a kernel of the whole image would be expanded
        (1, 8, None, True, False, False),  # S belongs to the source tap
        (1, 8, None, False, True, False),  # windows read at places of their own
    ],
)
def test_a_fold_is_composed_where_that_is_cheaper_and_legal(
    monkeypatch, stride, channels, positions, static, has_offsets, composed
):
    calls = []
    compose = eager.compose_fold
    monkeypatch.setattr(eager, "compose_fold", lambda *arguments: calls.append(1) or compose(*arguments))
    size = 12
    out = -(-size // stride)
    kernel = torch.randn(1, 2, 9, 9, positions or out, positions or out)
    ux.extract(
        torch.randn(1, channels, size, size),
        kernel_size=3,
        stride=stride,
        padding=1,
        aggregation="fold",
        dynamic_kernel=kernel,
        static_kernel=torch.randn(channels, 1, 3, 3) if static else None,
        offsets=torch.randn(1, 1, 9, 2, out, out) if has_offsets else None,
        backend="eager",
    )
    assert bool(calls) == composed
