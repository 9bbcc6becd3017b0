"""Gates: dynamic kernels with one value for all taps of a window."""

import pytest
import torch

import unified_extractor as ux
from tests.support.comparing import assert_same, values_and_gradients

STATICS = {
    "none": None,
    "depthwise": (6, 1),
    "two outputs a channel": (12, 1),
    "grouped": (6, 2),
    "dense": (4, 6),
}
LEGAL = [
    (static, combine)
    for static, shape in STATICS.items()
    for combine in ("multiply", "add", "residual")
    if combine == "multiply" or (shape is not None and (combine == "residual" or shape[0] == 6))
]


def written_out(x, dynamic_kernel, **arguments):
    """The gate's value at every tap, as a kernel of its own."""
    kh, kw = 3, 2
    return ux.extract(x, dynamic_kernel=dynamic_kernel.repeat(1, 1, kh * kw, 1, 1), **arguments)


@pytest.mark.parametrize("has_offsets", [False, True], ids=["grid", "offsets"])
@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize(("static", "combine"), LEGAL)
def test_a_gate_is_a_kernel_of_equal_taps(static, groups, has_offsets, combine):
    torch.manual_seed(0)
    call = {
        "x": torch.randn(2, 6, 5, 7, dtype=torch.float64),
        "static_kernel": None if static == "none" else torch.randn(*STATICS[static], 3, 2, dtype=torch.float64),
        "dynamic_kernel": torch.randn(2, groups, 1, 3, 4, dtype=torch.float64),
        "offsets": torch.randn(2, 2, 6, 2, 3, 4, dtype=torch.float64) if has_offsets else None,
        "bias": torch.randn(STATICS[static][0] if static != "none" else 6, dtype=torch.float64),
        "kernel_size": (3, 2),
        "stride": 2,
        "padding": (1, 1),
        "combine": combine,
    }
    assert_same(values_and_gradients(ux.extract, call), values_and_gradients(written_out, call))


def test_a_gate_without_offsets_takes_no_more_memory_than_a_convolution():
    """What autograd saves beside the convolution's own tensors are its result and the gate."""
    x, weight = torch.randn(1, 16, 32, 32), torch.randn(16, 1, 3, 3, requires_grad=True)
    gate = torch.randn(1, 1, 1, 32, 32, requires_grad=True)

    def saved(**kernels):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.setdefault(t.data_ptr(), t.nbytes) and t, lambda t: t):
            ux.extract(x, kernel_size=3, padding=1, static_kernel=weight, **kernels)
        return sum(sizes.values())

    assert saved(dynamic_kernel=gate, combine="residual") <= saved() + x.nbytes + 2 * gate.nbytes
