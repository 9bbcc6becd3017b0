"""A slice a thread: which calls it serves, its values, and foreign memory. On a GPU or in Triton's interpreter."""

import pytest
import torch

import unified_extractor as ux
from tests.support import oracles
from tests.support.comparing import assert_as_exact_as_plain, assert_same, values_and_gradients
from tests.support.guarded_memory import guarded
from tests.support.made_calls import extract_or_unfold, made_call
from tests.support.random_calls import relayout
from tests.support.triton_runs import on_device, reference, run
from tests.support.wild_offsets import wild_offsets
from unified_extractor.ops.backends.triton import launch, tuning

if reason := ux.backends()["triton"]:
    pytest.skip(f"Triton does not run here: {reason}", allow_module_level=True)

SLICED = ["slice_gather", "slice_backward"]
CASES = {
    "groups of a slice": {"channels": 32, "kernels": 2, "offset_groups": 2, "size": (3, 3)},
    "groups of several slices": {"channels": 64, "kernels": 1, "offset_groups": 1, "size": (5, 3), "stride": 2, "batch": 2},
    "no dynamic kernel, dilation 2": {"channels": 32, "offset_groups": 4, "size": (2, 3), "dilation": 2, "kernel_size": (1, 3)},
    "values a row and a column": {"channels": 32, "kernels": 4, "offset_groups": 2, "shared": (1,), "shared_offsets": (0,)},
    "groups of half a slice": {"channels": 16, "kernels": 4, "offset_groups": 2, "size": (2, 3)},
    "residual": {"channels": 32, "kernels": 2, "offset_groups": 1, "static": (32, 1), "combine": "residual", "batch": 2},
    "residual on the grid": {"channels": 48, "kernels": 3, "static": (48, 1), "combine": "residual", "stride": 2},
    "a product, many windows": {
        "channels": 16,
        "kernels": 1,
        "static": (16, 1),
        "size": (30, 40),
        "kernel_size": 1,
        "padding": 0,
    },
    "offsets of a static kernel": {"channels": 64, "offset_groups": 2, "static": (64, 1), "size": (2, 3)},
    "many taps": {"channels": 16, "kernels": 1, "offset_groups": 1, "size": (1, 2), "kernel_size": (3, 6), "padding": (1, 3)},
}


def channels_last(backend, **call):
    """Return the output with the axis of channels last, so that its gradient lies as x does."""
    return extract_or_unfold(backend, **call).permute(0, 2, 3, 1)


def made(case, dtype=torch.float64):
    call = made_call(**{"kernel_size": (1, 2)} | CASES[case], dtype=dtype)
    return call | {"x": relayout(call["x"], "channels_last")}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("poisoned_device_memory", ["atomics", "sorted"], indirect=True)
@pytest.mark.parametrize("case", CASES)
def test_a_slice_a_thread_equals_the_reference(case, poisoned_device_memory, started):
    call = made(case)
    assert_same(run(call, channels_last), reference(call, channels_last))
    assert started == kernels_of(call)


def test_a_repeated_call_keeps_its_configuration(poisoned_device_memory, monkeypatch):
    """A call of a kind is recorded and then repeated: with other threads the programs of its grid would not reach every window."""
    suitable = tuning.suitable
    monkeypatch.setattr(tuning, "suitable", lambda configs, plan: suitable(configs, plan)[1:])
    call = made_call(16, (13, 12), 1, kernels=1, offset_groups=1, padding=0)
    call["x"] = relayout(call["x"], "channels_last")
    for _ in range(3):
        assert_same(run(call, channels_last), reference(call, channels_last))


@pytest.mark.thorough
def test_partial_sums_of_a_static_kernel_take_no_more_memory_than_the_image(monkeypatch):
    memory, new = [], launch._Backward._new_static_sums

    def made_sums(backward, programs):
        memory.append(new(backward, programs))
        return memory[-1]

    monkeypatch.setattr(launch._Backward, "_new_static_sums", made_sums)
    monkeypatch.setattr(launch, "_LEAST_WINDOWS", 128)
    call = made_call(16, (20, 20), 9, kernels=1, static=(16, 1), dtype=torch.bfloat16, padding=4)
    call["x"] = relayout(call["x"], "channels_last")
    run(call, channels_last)
    assert memory[0].nbytes <= call["x"].nbytes
    assert memory[0].shape[0] == 2, "as many as there is memory for"


def kernels_of(call):
    """Return the kernels of a call in the order of their launches."""
    fold = [] if "offsets" in call else ["fold"]
    return ["slice_gather", *fold, "slice_backward", *(["slice_static_kernel"] if "static_kernel" in call else [])]


@pytest.mark.parametrize("wanted", ["static_kernel", "dynamic_kernel", "offsets"])
def test_a_gradient_that_is_wanted_by_itself_is_the_same(wanted, started):
    call = made("residual")
    whole = reference(call, channels_last)
    call = on_device(call)
    call[wanted].requires_grad_()
    output = channels_last("triton", **call).cpu()
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=output.dtype)
    (found,) = torch.autograd.grad(output, [call[wanted]], cotangent)
    assert_same({wanted: found.cpu()}, {wanted: whole[wanted]})
    assert started[-1] == ("slice_static_kernel" if wanted == "static_kernel" else "slice_backward")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("case", ["groups of a slice", "groups of several slices", "residual"])
def test_errors_are_at_most_twice_those_of_plain_torch(case, dtype, started):
    def plain(x, dynamic_kernel, offsets, static_kernel=None, **options):
        read = oracles.unfold(x, options["kernel_size"], offsets=offsets, stride=options.get("stride", 1), padding=1)
        weights = dynamic_kernel.repeat_interleave(x.shape[1] // dynamic_kernel.shape[1], 1)
        if static_kernel is not None:
            weights = static_kernel.flatten(1)[:, :, None, None] * (1 + weights)
        return (weights * read).sum(2).permute(0, 2, 3, 1)

    call = made(case, dtype)
    exact = reference({name: t.double() if isinstance(t, torch.Tensor) else t for name, t in call.items()}, channels_last)
    assert_as_exact_as_plain(run(call, channels_last), values_and_gradients(plain, call), exact, dtype)
    assert started == kernels_of(call)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float64, marks=pytest.mark.thorough)])
def test_wild_offsets_touch_no_foreign_memory_and_have_no_gradient(dtype, started):
    call = made_call(16, kernels=1, offset_groups=1, dtype=dtype)
    call["offsets"], inside = wild_offsets(call)
    x, memory = guarded(call["x"].permute(0, 2, 3, 1).contiguous())
    call["x"], before = x.permute(0, 3, 1, 2), memory.clone()
    results, expected = run(call, channels_last), reference(call, channels_last)
    assert_same(results, expected, 1e-10 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps)
    assert torch.equal(memory.nan_to_num(7), before.nan_to_num(7))
    assert (results["offsets"][~inside] == 0).all()
    assert started == SLICED


OTHERS = {
    "planar": ({"channels": 16, "offset_groups": 1}, "contiguous"),
    "groups that are no multiples of 16 bytes": ({"channels": 16, "offset_groups": 16}, "channels_last"),
    "a sum of both kernels": (
        {"channels": 16, "kernels": 1, "offset_groups": 1, "static": (16, 1), "combine": "add"},
        "channels_last",
    ),
    "offsets of the whole image": ({"channels": 16, "offset_groups": 1, "shared_offsets": (0, 1)}, "channels_last"),
    "three slices that share a gradient": ({"channels": 48, "offset_groups": 1, "dtype": torch.bfloat16}, "channels_last"),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", OTHERS)
def test_other_calls_run_in_tiles(case, started):
    options, layout = OTHERS[case]
    call = made_call(**{"kernel_size": 1, "padding": 0, "size": (2, 2)} | options)
    run(call | {"x": relayout(call["x"], layout)}, channels_last)
    assert started[-1] == "backward"
