"""Values of the Triton backend, on a GPU or else in Triton's interpreter, which is slow: images and windows are tiny here."""

import pytest
import torch
from torch.library import opcheck

import unified_extractor as ux
from tests.support.comparing import assert_as_exact_as_plain, assert_same, values_and_gradients
from tests.support.double_backward import COMPUTATIONS
from tests.support.made_calls import extract_or_unfold, made_call
from tests.support.plain_torch import KERNEL, MODES, SIZE, tensors_of
from tests.support.random_calls import random_call, relayout
from tests.support.triton_runs import (
    DEVICE,
    GPU,
    STATIC_OPCHECKS,
    TENSORS,
    is_short,
    made_similarity,
    on_device,
    products,
    reference,
    run,
)
from unified_extractor.ops import checks, dispatch
from unified_extractor.ops.call import Call
from unified_extractor.ops.custom_ops import flattened
from unified_extractor.ops.rewrites import is_convolution

if reason := ux.backends()["triton"]:
    pytest.skip(f"Triton does not run here: {reason}", allow_module_level=True)
from unified_extractor.ops.backends.triton import tuning
from unified_extractor.ops.backends.triton.launch import OPERATORS


def both_ways(has_offsets):
    """Parametrize a test: cases, {case: whether it has offsets}, and where it has, both ways."""
    pairs = [(case, way) for case, has in has_offsets.items() for way in ("atomics", "sorted")[: 1 + has]]
    return pytest.mark.parametrize(("case", "poisoned_device_memory"), pairs, indirect=["poisoned_device_memory"])


SEEDS = {
    seed: call["offsets"] is not None and seed % 3 == 0 for seed in range(20_000, 20_120) if is_short(call := random_call(seed))
}


@pytest.mark.sampled(8)
@both_ways(SEEDS)
def test_random_call_equals_the_reference(case, poisoned_device_memory):
    call = random_call(case)
    assert_same(run(call, seed=case), reference(call, seed=case))


ONE_ROW = {"kernel_size": (1, 2), "size": (2, 3), "batch": 1}
CASES = {
    "a group of several tiles": {"channels": 80, "kernels": 1, "kernel_size": (1, 2)},
    "groups of a tile": {"channels": 96, "kernels": 6, "kernel_size": (2, 1)},
    "groups of several tiles, offsets": {"channels": 160, "kernels": 2, "offset_groups": 1, **ONE_ROW},
    "a kernel a channel": {"channels": 3, "kernels": 3, "offset_groups": 1, **ONE_ROW},
    "F does not divide G, nor G F": {"channels": 12, "kernels": 4, "offset_groups": 3, **ONE_ROW},
    "F does not divide G, static kernel": {"channels": 12, "static": (8, 3), "kernels": 6, "offset_groups": 4, **ONE_ROW},
    "one pixel": {"channels": 3, "kernels": 1, "offset_groups": 3, "size": (1, 1), "kernel_size": (1, 3), "batch": 1},
    "a row": {"channels": 2, "kernels": 2, "size": (1, 7), "kernel_size": (3, 2)},
    "a kernel larger than the image": {"channels": 2, "kernels": 1, "size": (2, 3), "kernel_size": (4, 5), "padding": (2, 3)},
    "several tiles of positions": {
        "channels": 33,
        "kernels": 1,
        "offset_groups": 1,
        "size": (5, 7),
        "kernel_size": (1, 2),
        "batch": 1,
    },
    "several tiles of pixels": {"channels": 33, "kernels": 1, "size": (9, 11), "stride": 2, "kernel_size": (1, 2), "batch": 1},
    "stride 2": {"channels": 4, "kernels": 2, "stride": 2, "kernel_size": 3, "size": (5, 6)},
    "stride 2 by 3": {"channels": 2, "kernels": 1, "stride": (2, 3), "kernel_size": (3, 2), "size": (5, 7)},
    "stride 3 by 2, kernel 2": {"channels": 4, "kernels": 2, "offset_groups": 2, "stride": (3, 2), "size": (7, 5)},
    "dilation 2 by 3": {"channels": 4, "kernels": 1, "dilation": (2, 3), "padding": (2, 1), "size": (5, 4)},
    "same padding": {"channels": 4, "kernels": 1, "kernel_size": (2, 4), "padding": "same", "stride": (1, 2), "dilation": (2, 1)},
    "stride 2 beside dilation 2": {"channels": 2, "static": (6, 2), "kernels": 1, "stride": 2, "dilation": 2, "size": (6, 7)},
    "a kernel an image": {"channels": 4, "kernels": 2, "offset_groups": 2, "shared": (0, 1)},
    "a kernel a row": {"channels": 4, "kernels": 1, "offset_groups": 1, "shared": (1,)},
    "a kernel a column": {"channels": 4, "kernels": 4, "shared": (0,)},
    "a kernel an image, tiles": {"channels": 80, "kernels": 1, "shared": (0, 1), "kernel_size": 1, "size": (5, 9), "padding": 0},
    "an offset an image": {"channels": 4, "kernels": 2, "offset_groups": 2, "shared_offsets": (0, 1)},
    "an offset an image, tiles": {
        "channels": 80,
        "offset_groups": 1,
        "shared_offsets": (0, 1),
        "kernel_size": 1,
        "size": (3, 7),
        "batch": 1,
    },
    "an offset a row": {"channels": 4, "offset_groups": 1, "shared_offsets": (1,)},
    "an offset a column": {"channels": 4, "kernels": 2, "offset_groups": 4, "shared_offsets": (0,)},
    "depthwise": {"channels": 33, "static": (33, 1), "kernels": 3, "stride": 2},
    "depthwise, offsets": {"channels": 6, "static": (6, 1), "offset_groups": 2},
    "depthwise of one channel": {"channels": 1, "static": (1, 1), "kernels": 1, "offset_groups": 1},
    "dense of one channel": {"channels": 1, "static": (3, 1), "kernels": 1, "offset_groups": 1},
    "multiplier": {"channels": 6, "static": (18, 1), "kernels": 2, "offset_groups": 3, **ONE_ROW},
    "dense": {"channels": 20, "static": (33, 20), "kernels": 1, "size": (5, 8)},
    "dense, several tiles of channels": {"channels": 80, "static": (33, 80), "kernels": 1, "kernel_size": (1, 2), "batch": 1},
    "dense, offsets": {"channels": 12, "static": (5, 12), "offset_groups": 3, **ONE_ROW},
    "grouped": {"channels": 12, "static": (99, 4), "kernels": 2, "offset_groups": 1, **ONE_ROW},
    "grouped, a kernel a channel": {"channels": 6, "static": (4, 3), "kernels": 6, **ONE_ROW},
    "add, dense": {"channels": 6, "static": (6, 6), "kernels": 2, "offset_groups": 1, "combine": "add", **ONE_ROW},
    "add, depthwise": {"channels": 6, "static": (6, 1), "kernels": 2, "offset_groups": 3, "combine": "add", **ONE_ROW},
    "residual, dense": {"channels": 6, "static": (33, 6), "kernels": 3, "combine": "residual"},
    "residual, depthwise": {"channels": 6, "static": (6, 1), "kernels": 1, "offset_groups": 1, "combine": "residual"},
    "fold": {"channels": 12, "kernels": 2, "aggregation": "fold", "kernel_size": (2, 3), "batch": 1},
    "fold, several tiles of channels": {"channels": 80, "kernels": 1, "aggregation": "fold", "kernel_size": (1, 2)},
    "fold, depthwise": {"channels": 3, "static": (3, 1), "kernels": 1, "aggregation": "fold", "stride": 2, "size": (4, 5)},
    "fold, static only": {"channels": 3, "static": (3, 1), "aggregation": "fold", "dilation": 2},
    "fold of nothing but windows": {"channels": 3, "aggregation": "fold", "stride": (1, 2)},
    "fold, gaps": {"channels": 2, "kernels": 2, "aggregation": "fold", "kernel_size": (1, 2), "stride": 3, "size": (5, 8)},
    "fold, stride 2 by 1": {"channels": 2, "kernels": 1, "aggregation": "fold", "stride": (2, 1), "size": (5, 3)},
    "fold, offsets": {"channels": 6, "kernels": 3, "offset_groups": 2, "aggregation": "fold", **ONE_ROW},
    "fold, offsets, an image": {
        "channels": 4,
        "kernels": 2,
        "offset_groups": 1,
        "shared": (0, 1),
        "aggregation": "fold",
        "batch": 1,
    },
    "unfold": {"channels": 33, "aggregation": "unfold", "kernel_size": (2, 3), "stride": 2, "size": (4, 5)},
    "unfold, offsets": {"channels": 12, "offset_groups": 3, "aggregation": "unfold", "shared_offsets": (0,), "dilation": 2},
}
ORDERED = (
    "groups of several tiles, offsets",
    "unfold, offsets",
    "dense, offsets",
    "F does not divide G, nor G F",
    "an offset an image, tiles",
    "one pixel",
    "fold, offsets",
)
CHANNELS_LAST = (
    "groups of several tiles, offsets",
    "unfold, offsets",
    "F does not divide G, nor G F",
    "several tiles of pixels",
    "depthwise",
    "dense",
    "fold, offsets",
)


@pytest.mark.sampled(8)
@both_ways({name: name in ORDERED for name in CASES})
def test_case_equals_the_reference(case, poisoned_device_memory):
    call = made_call(**CASES[case])
    assert_same(run(call), reference(call))


@pytest.mark.sampled(5)
@both_ways({name: name in ORDERED[:2] for name in CHANNELS_LAST})
def test_channels_last_in_is_channels_last_out_and_equals_the_reference(case, poisoned_device_memory):
    call = made_call(**CASES[case])
    layouts = []

    def seen(backend, **call):
        y = extract_or_unfold(backend, **call)
        layouts.append(y.dim() == 5 or y.is_contiguous(memory_format=torch.channels_last))
        return y.contiguous(memory_format=torch.channels_last) if y.dim() == 4 else y

    channels_last = call | {"x": relayout(call["x"], "channels_last")}
    assert_same(run(channels_last, seen), reference(call))
    assert layouts == [True]


def with_taps_last(t):
    """Return a dynamic kernel whose taps of a window are neighbors in memory, as a generator with channels last makes it."""
    return t.movedim(-3, -1).contiguous().movedim(-1, -3)


NEIGHBORS = {
    "8 taps": {"kernels": 1, "kernel_size": (2, 4), "padding": (1, 2)},
    "9 taps": {"kernels": 2, "kernel_size": 3},
    "17 taps": {"kernels": 1, "kernel_size": (1, 17), "padding": (0, 8), "size": (1, 9)},
    "a row shares": {"kernels": 2, "kernel_size": 3, "shared": (1,)},
    "an image shares": {"kernels": 4, "kernel_size": 3, "shared": (0, 1)},
    "depthwise": {"kernels": 1, "kernel_size": 3, "static": (4, 1), "combine": "residual"},
    "dense": {"kernels": 1, "kernel_size": 3, "static": (6, 4)},
    "offsets": {"kernels": 2, "kernel_size": (1, 8), "offset_groups": 1, "size": (2, 3), "padding": (0, 4)},
    "fold": {"channels": 1, "kernels": 1, "kernel_size": (1, 8), "size": (1, 2), "padding": (0, 4), "aggregation": "fold"},
    "several tiles of channels": {"channels": 80, "kernels": 1, "kernel_size": (1, 9), "size": (1, 5), "padding": (0, 4)},
    "2 taps": {"kernels": 2, "kernel_size": (1, 2)},
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", NEIGHBORS)
def test_taps_that_are_neighbors_in_memory_equal_the_reference(case, layout, poisoned_device_memory):
    call = made_call(**{"batch": 1, "size": (3, 3)} | NEIGHBORS[case])
    other = {"x": relayout(call["x"], layout), "dynamic_kernel": with_taps_last(call["dynamic_kernel"])}
    assert other["dynamic_kernel"].stride(-3) == 1
    assert_same(run(call | other), reference(call))


@pytest.mark.sampled(8)
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("case", [*NEIGHBORS, "several tiles of positions", "several tiles of pixels"])
def test_every_configuration_that_may_be_measured_gives_the_same_values(case, number, poisoned_device_memory, monkeypatch):
    first_of = tuning.suitable
    monkeypatch.setattr(tuning, "suitable", lambda configs, plan: (found := first_of(configs, plan))[number % len(found) :])
    call = made_call(**{"batch": 1, "size": (3, 3)} | (NEIGHBORS | CASES)[case])
    if case in NEIGHBORS:
        call["dynamic_kernel"] = with_taps_last(call["dynamic_kernel"])
    assert_same(run(call), reference(call))


COTANGENTS = {
    "sliced": lambda y: torch.stack([y, y], -1)[..., 0],
    "transposed": lambda y: y.transpose(1, -1),
    "reversed": lambda y: y.permute(*reversed(range(y.dim()))),
    "expanded": lambda y: y.sum((0, -2)),
    "one number": lambda y: y.sum(),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("layout", ["sliced", "transposed", "reversed"])
@pytest.mark.parametrize("case", TENSORS)
def test_memory_layout_does_not_change_values(case, layout):
    def laid_out(t):
        axes = tuple(reversed(range(t.dim())))
        return t.permute(axes).contiguous().permute(axes) if layout == "reversed" else relayout(t, layout)

    call = made_call(**TENSORS[case])
    other = {name: laid_out(t) if isinstance(t, torch.Tensor) else t for name, t in call.items()}
    assert_same(run(other), reference(call))


@pytest.mark.parametrize("case", TENSORS)
def test_expanded_tensors_equal_their_copies(case):
    call = made_call(**TENSORS[case])
    expanded = {"x": call["x"][:1].expand_as(call["x"])}
    expanded |= {n: call[n][..., :1].expand_as(call[n]) for n in ("dynamic_kernel", "offsets") if n in call}
    copies = {name: t.contiguous() for name, t in expanded.items()}
    assert_same(run(call | expanded), reference(call | copies))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("layout", COTANGENTS)
@pytest.mark.parametrize("case", TENSORS)
def test_gradients_may_have_any_memory_layout(case, layout):
    def changed(backend, **call):
        return COTANGENTS[layout](extract_or_unfold(backend, **call))

    call = made_call(**TENSORS[case])
    assert_same(run(call, changed), reference(call, changed))


@pytest.mark.sampled(5)
@both_ways({name: "offset_groups" in case for name, case in TENSORS.items()})
def test_only_the_gradients_asked_for_are_computed_and_they_are_the_same(case, poisoned_device_memory):
    call = on_device(made_call(**TENSORS[case]))
    names = [name for name, t in call.items() if isinstance(t, torch.Tensor)]
    expected = run(made_call(**TENSORS[case]))
    for name in names:
        leaf = call[name].clone().requires_grad_()
        y = extract_or_unfold("triton", **call | {name: leaf})
        cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype).to(DEVICE)
        (gradient,) = torch.autograd.grad(y, leaf, cotangent)
        torch.testing.assert_close(gradient.cpu(), expected[name], rtol=0, atol=1e-12)
    assert not extract_or_unfold("triton", **call).requires_grad


@pytest.mark.parametrize("case", TENSORS)
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(case, poisoned_device_memory):
    call = made_call(**TENSORS[case] | {"batch": 0})
    results = run(call)
    assert results["output"].shape == reference(call)["output"].shape
    assert not any(results[name].any() for name in results)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "upsample"])
def test_errors_are_at_most_twice_those_of_plain_torch(mode, dtype):
    plain, _, options = MODES[mode]
    low, high = (smaller(tensors) for tensors in tensors_of(mode, dtype))
    actual = run(low | options | KERNEL)
    assert all(value.dtype == dtype for value in actual.values())
    assert_as_exact_as_plain(actual, values_and_gradients(plain, low), values_and_gradients(plain, high), dtype)


def smaller(tensors):
    """Return the tensors of one image of 4 by 3 pixels."""
    images = {name: t[:1] if name in ("x", "dynamic_kernel", "channel_kernel", "offsets") else t for name, t in tensors.items()}
    return {name: t[..., :4, :3].contiguous() if t.shape[-2:] == SIZE else t for name, t in images.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["gather", "fold"])
def test_float32_offsets_beside_half_images_keep_their_own_gradient_dtype(mode, dtype):
    call = made_call(4, (2, 3), (1, 2), dtype=dtype, kernels=2, aggregation=mode)
    call["offsets"] = made_call(4, (2, 3), (1, 2), offset_groups=2)["offsets"].float()
    exact = reference({name: t.double() if isinstance(t, torch.Tensor) else t for name, t in call.items()})
    actual = run(call)
    assert actual["offsets"].dtype == torch.float32
    assert actual["output"].dtype == actual["x"].dtype == dtype
    assert_as_exact_as_plain(actual, reference(call), exact, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_computed_in_float32(dtype):
    """Column 2049.25 stays 2049.25, though the image's own dtype has no odd numbers above 2048 (256 in bfloat16)."""
    x = torch.arange(2304.0).fmod(7).reshape(1, 1, 1, -1)
    offsets = torch.tensor([0, 0.25]).reshape(1, 1, 1, 2, 1, 1)
    call = {"kernel_size": 1, "offsets": offsets}
    y = ux.extract(**on_device({"x": x.to(dtype)} | call), backend="triton").cpu()
    torch.testing.assert_close(y.float(), ux.extract(x, **call, backend="reference"), rtol=0, atol=7 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("mode", ["generated", "residual", "deformable"])
def test_autocast_is_as_exact_as_plain_torch_in_the_half_dtype(mode):
    """Parameters and image in float32, as a model under autocast has them; gradients come back in float32."""
    dtype = torch.bfloat16
    plain, _, options = MODES[mode]
    low, high = (smaller(tensors) for tensors in tensors_of(mode, dtype))

    def autocast(backend, **call):
        with torch.autocast(DEVICE, dtype):
            return ux.extract(**call, backend=backend)

    actual = run({name: t.float() for name, t in low.items()} | options | KERNEL, autocast)
    assert actual["output"].dtype == dtype
    assert all(value.dtype == torch.float32 for name, value in actual.items() if name != "output")
    assert_as_exact_as_plain(actual, values_and_gradients(plain, low), values_and_gradients(plain, high), dtype)


SUMS = {
    "gather": {},
    "offsets": {"offset_groups": 1},
    "fold": {"aggregation": "fold"},
    "dense": {"channels": 16, "static": (3, 16)},
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("dtype", "large"), [(torch.float16, 2048), (torch.bfloat16, 256)])
@pytest.mark.parametrize(("width", "padding"), [(4, 0), (1, 3)], ids=["a window's taps", "a pixel's windows"])
@pytest.mark.parametrize("case", SUMS)
def test_sums_run_in_float32(case, width, padding, dtype, large):
    """Large + 0.5 + 0.5 - large is 1; in half precision the small ones are lost."""
    call = made_call(
        **{"channels": 1, "kernels": 1, "kernel_size": (1, 4), "size": (1, width), "padding": (0, padding)} | SUMS[case]
    )
    call |= {name: torch.ones_like(call[name]) for name in ("x", "static_kernel") if name in call}
    weights = torch.tensor([large, 0.5, 0.5, -large]).double()
    call["dynamic_kernel"] = weights.view(-1, 1, 1).expand_as(call["dynamic_kernel"])
    if "offsets" in call:
        call["offsets"] = torch.zeros_like(call["offsets"])

    def results(backend, call):
        x = call["x"].requires_grad_()
        y = extract_or_unfold(backend, **call)
        return [t.detach().cpu().to(dtype) for t in (y, *torch.autograd.grad(y, x, torch.ones_like(y)))]

    exact = results("reference", dict(call))
    low = on_device({name: t.detach().to(dtype) if isinstance(t, torch.Tensor) else t for name, t in call.items()})
    assert all(map(torch.equal, results("triton", low), exact))


HEADS = {
    "one head": {"channels": 4, "heads": 1, "batch": 2},
    "a head a channel": {"channels": 4, "heads": 4},
    "heads of several tiles": {"channels": 160, "heads": 2, "size": (2, 3)},
    "heads of a remainder": {"channels": 51, "heads": 3, "size": (2, 2)},
    "offsets": {"channels": 6, "heads": 6, "offset_groups": 3},
    "an offset an image": {"channels": 80, "heads": 2, "offset_groups": 1, "size": (2, 2), "shared": True},
    "one pixel": {"channels": 3, "heads": 1, "size": (1, 1)},
    "stride 2, dilation 2": {"channels": 4, "heads": 2, "size": (5, 6), "stride": 2, "dilation": 2},
    "no image": {"channels": 4, "heads": 2, "batch": 0},
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@both_ways({name: "offset_groups" in case for name, case in HEADS.items()})
def test_similarity_equals_the_reference(case, layout, poisoned_device_memory):
    call = made_similarity(**HEADS[case])
    other = {name: relayout(t, layout) if isinstance(t, torch.Tensor) else t for name, t in call.items()}
    assert_same(run(other, products), reference(call, products))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["heads of several tiles", "offsets"])
def test_similarity_is_at_most_twice_as_wrong_as_plain_torch(case, dtype):
    def plain(query, key, offsets=None, **options):
        read = ux.generalized_unfold(key, options["kernel_size"], offsets=offsets, padding="same")
        heads = [t.unflatten(1, (options["heads"], -1)) for t in (query, read)]
        return torch.einsum("bgcyx,bgckyx->bgkyx", *heads)

    call = made_similarity(**HEADS[case], dtype=dtype)
    exact = reference({name: t.double() if isinstance(t, torch.Tensor) else t for name, t in call.items()}, products)
    assert_as_exact_as_plain(run(call, products), values_and_gradients(plain, call), exact, dtype)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("compute", COMPUTATIONS)
def test_second_derivatives_equal_those_of_the_reference(compute):
    x = torch.randn(1, 16, 5, 5, dtype=torch.float64)

    def derivatives(backend, x):
        x = x.requires_grad_()
        loss = compute(x, backend).pow(3).sum()
        (plain,) = torch.autograd.grad(loss, x, retain_graph=True)
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), x)
        return [t.detach().cpu() for t in (plain, first, second)]

    for actual, expected in zip(derivatives("triton", x.to(DEVICE)), derivatives("reference", x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("case", TENSORS)
def test_second_gradients_equal_those_of_the_reference(case):
    def second(backend, call):
        leaves = {name: t.detach().clone().requires_grad_() for name, t in call.items() if isinstance(t, torch.Tensor)}
        y = extract_or_unfold(backend, **call | leaves)
        first = torch.autograd.grad(y.pow(2).sum(), list(leaves.values()), create_graph=True)
        total = sum(gradient.pow(2).sum() for gradient in first)
        return {name: g.cpu() for name, g in zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True)}

    call = made_call(**TENSORS[case] | {"batch": 1})
    assert_same(second("triton", on_device(call)), second("reference", call))


def operator_call(case):
    """Return a call as the operators take it."""
    call = on_device(made_call(**OPERATOR_CALLS[case], size=(2, 3), kernel_size=(1, 2), batch=1, dtype=torch.float32))
    tensors = [call.get(name) for name in ("x", "static_kernel", "dynamic_kernel", "offsets")]
    geometry = checks.geometry(call["x"], (1, 2), 1, 1, 1)
    return Call(*tensors, None, geometry, call["aggregation"], call.get("combine", "multiply"))


OPERATOR_CALLS = {
    "bare": {},
    "dense": {"static": (6, 2)},
    "depthwise": {"kernels": 2, "static": (4, 1), "combine": "residual"},
    "offsets": {"offset_groups": 2},
    "everything": {"kernels": 2, "offset_groups": 1, "static": (3, 4)},
    "fold": {"kernels": 1, "offset_groups": 2, "aggregation": "fold"},
    "unfold": {"offset_groups": 2, "aggregation": "unfold"},
}


def images_in(layout, tensors):
    """Return the tensors in a layout."""
    if layout == "expanded":
        return [None if t is None else t[..., :1].expand_as(t) for t in tensors]
    return [None if t is None else relayout(t, layout) for t in tensors]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("case", "layout"),
    [(case, "contiguous") for case in OPERATOR_CALLS]
    + [("everything", layout) for layout in ("channels_last", "sliced", "transposed", "expanded")]
    + [("fold", "channels_last")],
)
def test_operators_keep_the_laws_of_torch(case, layout):
    arguments = flattened(operator_call(case))
    tensors, rest = images_in(layout, arguments[:4]), arguments[4:]
    gradient = torch.randn_like(OPERATORS.aggregate(*tensors, *rest))
    wanted = [t is not None for t in tensors]
    of_backward = (gradient, *tensors, *rest[:3], wanted, *rest[3:])
    opcheck(torch.ops.unified_extractor.triton_aggregate_backward, of_backward, test_utils=STATIC_OPCHECKS)
    opcheck(OPERATORS.aggregate, (*tensors, *rest), test_utils=STATIC_OPCHECKS)
    if layout == "contiguous":
        leaves = [None if t is None else t.requires_grad_() for t in tensors]
        opcheck(torch.ops.unified_extractor.triton_aggregate, (*leaves, *rest))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", ["bare", "offsets"])
def test_similarity_keeps_the_laws_of_torch(case, layout):
    call = operator_call(case)
    query = torch.randn(1, 4, 4, 4, device=DEVICE)
    tensors = images_in(layout, [query, call.x, call.offsets])
    tensors = [None if t is None else t.requires_grad_(layout == "contiguous") for t in tensors]
    opcheck(torch.ops.unified_extractor.triton_similarity, (*tensors, 2, flattened(call)[7]))


@pytest.mark.sampled(8)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("case", ["gather", "fold", "similarity"])
def test_compiled_without_graph_breaks_equals_uncompiled(case, dynamic):
    torch._dynamo.reset()
    function = products if case == "similarity" else extract_or_unfold
    traced = torch.compile(lambda **call: 2 * function("triton", **call), fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size, batch in (((3, 4), 2), ((2, 5), 3)) if dynamic else (((3, 4), 2),):
        made = (
            made_similarity(4, 2, size, batch)
            if case == "similarity"
            else made_call(**TENSORS[case] | {"size": size, "batch": batch})
        )
        assert_same(run(made, lambda _, **call: traced(**call)), reference(made, lambda b, **call: 2 * function(b, **call)))


@pytest.mark.thorough
def test_inductor_equals_uncompiled():
    torch._dynamo.reset()
    call = made_call(**TENSORS["gather"])
    traced = torch.compile(lambda **call: extract_or_unfold("triton", **call).sin(), fullgraph=True)
    assert_same(
        run(call, lambda _, **call: traced(**call)), reference(call, lambda b, **call: extract_or_unfold(b, **call).sin())
    )


PRESETS = {
    "ddf": {"reduction": 2, "heads": 2},
    "ddf added": {"reduction": 2, "combine": "add"},
    "pac": {"kernel_size": 3},
    "convolution": {"groups": 2, "bias": True},
    "grouped_convolution": {},
    "depthwise_convolution": {},
    "conditional_convolution": {"experts": 2},
    "idconv": {"kernel_size": 3},
    "squeeze_excitation": {"reduction": 2},
    "deformable_convolution 1": {"version": 1, "kernel_size": (1, 2), "groups": 2, "offset_groups": 4},
    "deformable_convolution 2": {"version": 2, "kernel_size": 2, "offset_groups": 2, "dilation": 2},
    "deformable_convolution 3": {"version": 3, "kernel_size": (1, 3), "groups": 2, "center_feature_scale": True, "remove_center": True},
    "deformable_convolution 4": {"version": 4, "kernel_size": (3, 1), "groups": 4, "offset_scale": 2.0},
    "involution": {"kernel_size": 3, "channels_per_group": 4},
    "outlook_attention": {"kernel_size": 2, "heads": 2},
    "local_attention": {"kernel_size": 3, "heads": 2},
    "neighborhood_attention": {"kernel_size": (1, 3), "heads": 2},
    "window_attention": {"kernel_size": (2, 3), "heads": 2, "block_start": (1, 0), "halo": (0, 1)},
    "qna": {"kernel_size": (1, 3), "heads": 2},
    "attconv": {"kernel_size": (1, 3)},
    "deformable_attention": {"heads": 2, "points": 3},
    "dcls": {"taps": 3, "extent": (1, 5)},
    "dwnet": {"kernel_size": (3, 1)},
    "dynamic_convolution": {"kernel_size": (1, 3), "heads": 2},
    "contmix": {"kernel_size": 3, "small_kernel_size": (1, 3), "heads": 2, "regions": 2},
    "ls_convolution": {"view": 3, "channels_per_group": 4},
    "gated_convolution": {"kernel_size": 3},
    "dysample": {"groups": 2, "dyscope": True},
    "carafe": {"kernel_size": (1, 3), "groups": 2, "hidden_channels": 4},
    "unified": {"kernel_size": (1, 3), "channels_per_group": 4, "view": 3},
    "unified fold": {"kernel_size": (1, 3), "channels_per_group": 4, "view": 3, "aggregation": "fold"},
}  # fmt: skip
PLAIN = ("convolution", "grouped_convolution", "depthwise_convolution", "gated_convolution")


def test_every_preset_is_among_these():
    ours = {name for name, value in vars(ux.presets).items() if callable(value) and value.__module__ == ux.presets.__name__}
    assert {name for name in ours if not name.startswith("_")} == {case.split()[0] for case in PRESETS}


@pytest.fixture
def forced(monkeypatch):
    """Return a function that sets the backend of layers and returns the list of those that run more than a plain convolution."""
    choose, used = dispatch._choose, []

    def force(name):
        def chosen(call, backend, kernel_memory):
            plain = is_convolution(call)
            implementation = choose(call, backend if plain else backend or name, kernel_memory)
            if not plain:
                used.append(implementation.name)
            return implementation

        used.clear()
        monkeypatch.setattr(dispatch, "_choose", chosen)
        return used

    return force


@pytest.mark.sampled(12)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("case", PRESETS)
def test_a_preset_equals_the_reference(case, stride, forced):
    spec = getattr(ux.presets, case.split()[0])(**PRESETS[case])
    if spec.upsample != 1:
        stride = 1
    layer = ux.UnifiedExtractor2d(8, 8, spec, stride).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    x = torch.randn(2, 8, 5, 4, dtype=torch.float64)

    def results(name, device):
        ran = forced(name)
        on_it = layer.to(device)
        leaves = {"x": x.to(device).requires_grad_(), **dict(on_it.named_parameters())}
        y = on_it(leaves["x"])
        gradients = torch.autograd.grad(y, list(leaves.values()), torch.linspace(-1, 1, y.numel()).to(y).view(y.shape))
        assert set(ran) == (set() if case in PLAIN else {name})
        return {name: g.cpu().clone() for name, g in zip(leaves, gradients, strict=True)} | {"output": y.detach().cpu()}

    assert_same(results("triton", DEVICE), results("reference", "cpu"))


@pytest.fixture
def atomics(monkeypatch):
    """Return a list with an entry for each atomic addition of the interpreter."""
    from triton.runtime import interpreter

    added, original = [], interpreter.InterpreterBuilder.create_atomic_rmw
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_atomic_rmw", lambda *rest: added.append(1) or original(*rest))
    return added


DETERMINISTIC = {name: case for name, case in TENSORS.items() if "offset_groups" not in case}
WITH_OFFSETS = {name: case | {"batch": 1} for name, case in TENSORS.items() if "offset_groups" in case} | {
    "dense": CASES["dense, offsets"]
}


@pytest.mark.skipif(GPU, reason="the interpreter counts atomics")
@pytest.mark.parametrize("case", DETERMINISTIC)
def test_nothing_on_a_fixed_grid_is_added_by_atomics(case, atomics):
    run(made_call(**DETERMINISTIC[case]))
    assert not atomics


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", WITH_OFFSETS)
def test_an_image_sampled_at_offsets_has_the_same_gradient_by_atomics_and_sorted(case, atomics):
    call = made_call(**WITH_OFFSETS[case], dtype=torch.float32)
    by_atomics = run(call)
    assert GPU or atomics
    atomics.clear()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = run(call), run(call)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not atomics
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_same(first, by_atomics, 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(30_000, 30_040))
def test_random_call_on_the_gpu_is_at_most_twice_as_wrong_as_eager(seed, dtype):
    low = {name: t.to(dtype) if isinstance(t, torch.Tensor) else t for name, t in random_call(seed).items()}
    exact = reference({name: t.double() if isinstance(t, torch.Tensor) else t for name, t in low.items()}, seed=seed)
    eager = values_and_gradients(lambda **call: ux.extract(**call, backend="eager"), low, seed)
    if dtype == torch.float64:  # the reference adds up in the same order as eager, whose error is none
        assert_same(run(low, seed=seed), exact, 1e-12)
    else:
        assert_as_exact_as_plain(run(low, seed=seed), eager, exact, dtype)
