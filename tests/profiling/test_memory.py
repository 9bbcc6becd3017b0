"""Bytes, not seconds: the eager backend stores no columns when the static kernel is depthwise or absent and taps lie on the
grid."""

import pytest
import torch

import unified_extractor as ux
from unified_extractor.analysis import peak_bytes


def call(static, dynamic, aggregation, kernel_size, stride):
    torch.manual_seed(0)
    channels, size, groups, taps = 32, 28, 2, kernel_size**2
    out = -(-size // stride)
    x = torch.randn(2, channels, size, size, requires_grad=True)
    tensors = {"x": x}
    if static:
        tensors["static_kernel"] = torch.randn(channels, 1, kernel_size, kernel_size, requires_grad=True)
    if dynamic:
        per_window = (taps,) if aggregation == "gather" else (taps, taps)
        tensors["dynamic_kernel"] = torch.randn(2, groups, *per_window, out, out, requires_grad=True)
    return tensors, {"kernel_size": kernel_size, "stride": stride, "padding": kernel_size // 2, "aggregation": aggregation}


def size(*tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("static", "dynamic", "aggregation", "kernel_size"),
    [
        (False, True, "gather", 3),
        (False, True, "gather", 7),
        (True, True, "gather", 3),
        (True, True, "gather", 7),
        (True, False, "gather", 7),
        (False, False, "gather", 7),
        (False, True, "fold", 3),
        (True, True, "fold", 3),
    ],
)
def test_forward_and_backward_hold_at_most_three_times_inputs_outputs_and_gradients(
    static, dynamic, aggregation, kernel_size, stride
):
    tensors, options = call(static, dynamic, aggregation, kernel_size, stride)
    y = ux.extract(**tensors, **options)
    unavoidable = 2 * size(*tensors.values(), y)
    cotangent = torch.randn_like(y)
    del y

    def forward_and_backward():
        return torch.autograd.grad(ux.extract(**tensors, **options), list(tensors.values()), cotangent)

    peak = peak_bytes(forward_and_backward, *tensors.values(), cotangent) + size(*tensors.values(), cotangent)
    assert peak <= 3 * unavoidable
    if kernel_size == 7:
        columns = kernel_size**2 * size(tensors["x"]) // stride**2
        assert peak_bytes(lambda: ux.extract(**tensors, **options), *tensors.values()) < columns / 2


def test_the_meter_sees_what_autograd_keeps():
    x = torch.randn(1000, requires_grad=True)
    assert peak_bytes(lambda: x * 2, x) == 4000
    assert peak_bytes(lambda: x.sin().sin().sin(), x) == 3 * 4000  # each sine keeps its input
    with torch.no_grad():
        assert peak_bytes(lambda: x.sin().sin().sin(), x) == 2 * 4000


def test_the_meter_would_notice_columns():
    x = torch.randn(1, 8, 16, 16, requires_grad=True)
    assert peak_bytes(lambda: torch.nn.functional.unfold(x, 5, padding=2), x) >= 25 * size(x)
