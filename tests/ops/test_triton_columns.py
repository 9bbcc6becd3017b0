"""Dense static kernels by matrix products of columns, in chunks of the batch. On a GPU or in Triton's interpreter."""

import pytest

import unified_extractor as ux
from tests.support.comparing import assert_same
from tests.support.made_calls import extract_or_unfold, made_call
from tests.support.random_calls import relayout
from tests.support.triton_runs import reference, run

if reason := ux.backends()["triton"]:
    pytest.skip(f"Triton does not run here: {reason}", allow_module_level=True)
from unified_extractor.ops.backends.triton import chunks

CASES = {
    "a slice a thread": {"channels": 32, "static": (6, 32), "kernels": 2, "offset_groups": 2},
    "a slice a thread, convolution groups": {"channels": 32, "static": (6, 16), "offset_groups": 1},
    "a tile a program": {"channels": 4, "static": (5, 4), "kernels": 2, "offset_groups": 1},
    "the regular grid": {"channels": 6, "static": (4, 3), "kernels": 3, "stride": 2},
    "a kernel for all positions": {"channels": 4, "static": (3, 4), "kernels": 1, "shared": (0, 1), "offset_groups": 2},
}


def made(case, layout):
    call = made_call(**{"kernel_size": (1, 2), "size": (2, 3), "batch": 3} | CASES[case])
    return call | {"x": relayout(call["x"], layout)} if layout == "channels_last" else call


def laid_as_the_image(backend, **call):
    """Return the output so that its gradient lies in memory as the image does."""
    y = extract_or_unfold(backend, **call)
    return y.permute(0, 2, 3, 1) if call["x"].stride(1) == 1 else y


@pytest.mark.sampled(4)
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("poisoned_device_memory", ["atomics", "sorted"], indirect=True)
@pytest.mark.parametrize("case", CASES)
def test_chunks_of_columns_equal_the_reference(case, layout, poisoned_device_memory, started, monkeypatch):
    """Three images in chunks of one and two."""
    call = made(case, layout)
    positions = ux.extract(**call, backend="eager").shape[2:].numel()
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * call["x"].shape[1] * 2 * positions * call["x"].element_size())
    assert_same(run(call, laid_as_the_image), reference(call, laid_as_the_image))
    forward = "slice_gather" if "slice" in case and layout == "channels_last" else "gather"
    assert started.count(forward) == 4, "in two chunks for the output, and again for the static kernel's gradient"
