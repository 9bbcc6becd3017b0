"""The floors of the Triton kernels against numbers counted by hand: batch 2, maps of 8x8 pixels."""

import pytest
import torch

from unified_extractor.ops import checks
from unified_extractor.ops.backends.triton.roofline import (
    H200,
    Limits,
    Work,
    backward_bytes,
    forward_bytes,
    kernels,
    limits,
    step_bytes,
    stored_step_bytes,
    traffic,
)
from unified_extractor.ops.call import Call
from unified_extractor.ops.dynamic_kernels import LinearKernel


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype, device="meta")


def involution(dtype=torch.bfloat16):
    x = meta(2, 32, 8, 8, dtype=dtype)
    return Call(x, None, meta(2, 2, 49, 8, 8, dtype=dtype), None, None, checks.geometry(x, 7, 1, 3, 1), "gather")


def banded():
    call = involution()
    return call._replace(x=call.x.to(memory_format=torch.channels_last))


def generated(dtype=torch.bfloat16):
    call = involution(dtype)
    kernel = LinearKernel(meta(2, 8, 8, 8, dtype=dtype), meta(98, 8, dtype=dtype), meta(98, dtype=dtype))
    return call._replace(dynamic_kernel=kernel)


def outlook():
    x = meta(2, 32, 8, 8)
    return Call(x, None, meta(2, 2, 9, 9, 4, 4), None, None, checks.geometry(x, 3, 2, 1, 1), "fold")


def deformable(static=None):
    x, groups = meta(2, 32, 8, 8), 2 if static is None else 1
    return Call(x, static, meta(2, groups, 9, 8, 8), meta(2, groups, 9, 2, 8, 8), None, checks.geometry(x, 3, 1, 1, 1), "gather")


X, KERNEL = 2 * 2 * 32 * 64, 2 * 2 * 2 * 49 * 64  # bytes of an image, of an involution's kernel
FOLDING = 2 * 2 * 2 * 81 * 16
MASKS = 2 * 2 * 2 * 9 * 64
FEATURE, MAP = 2 * 2 * 8 * 64, 2 * (98 * 8 + 98)
MAKING = 2 * 98 * 8 * 64  # multiply-adds of two images' kernels
SAMPLES = 2 * 32 * 9 * 64  # samples of 3x3 taps


@pytest.mark.parametrize(
    ("kernel", "call", "expected"),
    [
        ("gather", involution(), Work(X + KERNEL + X, 2 * 32 * 49 * 64)),
        ("fold gradient", involution(), Work(X + KERNEL + X, 2 * 32 * 49 * 64)),
        ("dynamic_kernel_backward", involution(), Work(X + X + KERNEL, 2 * 32 * 49 * 64)),
        ("gather", involution(torch.float32), Work(2 * (X + KERNEL + X), 2 * 32 * 49 * 64)),
        ("banded_gather", banded(), Work(X + KERNEL + X, 0, 2 * 32 * 49 * 64)),
        ("banded_image_gradient", banded(), Work(X + KERNEL + X, 0, 2 * 32 * 49 * 64)),
        ("banded_kernel_gradient", banded(), Work(X + X + KERNEL, 0, 2 * 32 * 49 * 64)),
        ("gather", generated(), Work(X + FEATURE + MAP + X, 2 * 32 * 49 * 64, MAKING)),
        ("fold gradient", generated(), Work(X + FEATURE + MAP + X, 2 * 32 * 49 * 64)),
        ("dynamic_kernel_backward", generated(), Work(X + X + 2 * (FEATURE + MAP), 2 * 32 * 49 * 64, 3 * MAKING)),
        ("fold", outlook(), Work(X + FOLDING + X, 2 * 32 * 81 * 16)),
        ("fold gradient", outlook(), Work(X + FOLDING + X, 2 * 32 * 81 * 16)),
        ("backward", outlook(), Work(X + X + FOLDING, 2 * 32 * 81 * 16)),
        ("gather", deformable(), Work(X + 3 * MASKS + X, 5 * SAMPLES)),
        # gradients of x (float32), kernel and offsets: sampling 4, kernel 1, values 1, offsets 4, corners 4
        ("backward", deformable(), Work(X + 3 * MASKS + X + 2 * X + 3 * MASKS, 14 * SAMPLES)),
        # columns, then for four corners a sample float32 weights and 64-bit places, beginnings of 64 pixels and one behind, x
        ("collect", deformable(), Work(4 * SAMPLES + 12 * 4 * 2 * 2 * 9 * 64 + 8 * 2 * 2 * 65 + X, 4 * SAMPLES)),
        ("gather", deformable(meta(48, 32, 3, 3)), Work(X + 27 * 1024 + 3 * MASKS // 2 + 3 * X // 2, 5 * SAMPLES, 48 * SAMPLES)),
        (
            "dense kernel gradient",
            deformable(meta(48, 32, 3, 3)),
            Work(X + 27 * 1024 + 3 * MASKS // 2 + 3 * X // 2, 5 * SAMPLES, 48 * SAMPLES),
        ),
        (
            "backward",
            deformable(meta(48, 32, 3, 3)),
            Work(X + 27 * 1024 + 3 * MASKS // 2 + 3 * X // 2 + 2 * X + 3 * MASKS // 2, 14 * SAMPLES, 48 * SAMPLES),
        ),
        ("gather", deformable(meta(32, 1, 3, 3)), Work(X + 576 + 3 * MASKS // 2 + X, 6 * SAMPLES)),
        ("backward", deformable(meta(32, 1, 3, 3)), Work(2 * X + 2 * 576 + 3 * MASKS + 2 * X, (4 + 1 + 2 + 2 + 8) * SAMPLES)),
    ],
)
def test_traffic_is_what_a_hand_counts(kernel, call, expected):
    assert traffic(kernel, call) == expected


def test_the_kernels_of_a_call_are_those_that_run():
    assert kernels(involution()) == ["gather", "fold gradient", "dynamic_kernel_backward"]
    assert kernels(banded()) == ["banded_gather", "banded_image_gradient", "banded_kernel_gradient"]
    assert kernels(generated()) == kernels(involution())
    assert kernels(outlook()) == ["fold", "fold gradient", "backward"]
    channels_last = outlook()._replace(x=outlook().x.to(memory_format=torch.channels_last))
    assert kernels(channels_last) == ["banded_fold", "banded_fold gradient", "banded_fold_kernel_gradient"]
    assert traffic("banded_fold", channels_last) == Work(X + FOLDING + X, 0, 2 * 32 * 81 * 16)
    assert kernels(deformable()) == ["gather", "backward", "collect"]
    assert kernels(deformable(meta(48, 32, 3, 3))) == ["gather", "dense kernel gradient", "backward", "collect"]


def test_a_slice_a_thread_has_a_kernel_for_the_static_kernels_gradient():
    x = meta(2, 32, 8, 8).to(memory_format=torch.channels_last)
    call = deformable()._replace(x=x, static_kernel=meta(32, 1, 3, 3), combine="residual")
    assert kernels(call) == ["slice_gather", "slice_backward", "slice_static_kernel", "collect"]
    on_the_grid = ["slice_gather", "fold gradient", "slice_backward", "slice_static_kernel"]
    assert kernels(call._replace(offsets=None)) == on_the_grid
    static, offsets = 2 * 32 * 9, 2 * MASKS
    inputs = X + static + MASKS + offsets
    assert traffic("slice_static_kernel", call) == Work(inputs + X, 6 * SAMPLES)  # a sample is 4, its two factors 2
    # sampled 4, times S 1, for D 1, for the offsets and into the corners 8, with both weights 2
    assert traffic("slice_backward", call) == Work(inputs + X + 2 * X + MASKS + offsets, 16 * SAMPLES)


def test_a_stored_kernel_is_written_once_and_its_gradient_read_twice():
    made = (X + FEATURE + MAP + X) * 2 + X + X + 2 * (FEATURE + MAP)
    assert step_bytes(generated()) == made
    operator = 3 * (X + KERNEL + X)
    products = (FEATURE + MAP + KERNEL) + (KERNEL + 2 * 98 * 8 + FEATURE) + (KERNEL + FEATURE + MAP)
    assert stored_step_bytes(generated()) == operator + products


def test_a_limit_is_the_slower_of_bandwidth_and_arithmetic():
    assert limits(Work(4_800_000, 0), torch.bfloat16) == Limits(1.0, 0.0)
    assert limits(Work(4_800_000, 0), torch.bfloat16).larger == "bandwidth"
    half = limits(Work(0, 33_500_000, 990_000_000), torch.bfloat16)  # matrix units work beside the others
    assert half == pytest.approx((0.0, 2.0))
    assert half.larger == "arithmetic"
    assert limits(Work(0, 33_500_000, 67_000_000), torch.float32).arithmetic == pytest.approx(3.0)
    assert H200.multiply_adds == 67e12 / 2


def test_a_pass_reads_its_inputs_once_and_writes_its_results_once():
    x, kernel, y = meta(2, 8, 4, 4), meta(2, 1, 9, 4, 4), meta(2, 8, 4, 4, dtype=torch.float32)
    assert forward_bytes([x, kernel, None], y) == 2 * 256 + 2 * 288 + 4 * 256
    assert backward_bytes([x, kernel], y, [x, kernel]) == 2 * (2 * 256 + 2 * 288) + 4 * 256
