"""Banded matrix products of the Triton backend: values in half precision, in Triton's interpreter where there is no GPU."""

import random

import pytest
import torch

import unified_extractor as ux
from tests.support.comparing import assert_as_exact_as_plain, values_and_gradients
from tests.support.guarded_memory import guarded
from tests.support.made_calls import extract_or_unfold, made_call
from tests.support.oracles import output_size
from tests.support.random_calls import relayout
from tests.support.triton_runs import GPU, made_similarity, output_and_gradients, products, reference, run

if reason := ux.backends()["triton"]:
    pytest.skip(f"Triton does not run here: {reason}", allow_module_level=True)
from unified_extractor.ops import checks
from unified_extractor.ops.backends.triton import tuning
from unified_extractor.ops.backends.triton.banded.fold_rule import is_banded_fold
from unified_extractor.ops.backends.triton.banded.rule import is_banded
from unified_extractor.ops.call import Call

FORWARD, IMAGE, KERNEL = "banded_gather", "banded_image_gradient", "banded_kernel_gradient"
FOLD, FOLD_KERNEL = "banded_fold", "banded_fold_kernel_gradient"
HALF = (torch.bfloat16, torch.float16)


@pytest.fixture
def kernels_run(monkeypatch):
    """Return the names of the kernels that run, in their order."""
    names, start = [], tuning.start

    def spy(kernel, *rest, **arguments):
        names.append(kernel.fn.__name__)
        start(kernel, *rest, **arguments)

    monkeypatch.setattr("unified_extractor.ops.backends.triton.launch.start", spy)
    return names


def with_taps_last(t):
    """Return a dynamic kernel as a generator with channels last makes it."""
    return t.movedim((-2, -1), (1, 2)).contiguous().movedim((1, 2), (-2, -1))


def banded(dtype=torch.bfloat16, taps_last=True, **options):
    """Return a call with channels next to each other."""
    call = made_call(**{"batch": 1, "channels": 16, "kernels": 1, "kernel_size": 3} | options, dtype=dtype)
    call["x"] = relayout(call["x"], "channels_last")
    if taps_last and "dynamic_kernel" in call:
        call["dynamic_kernel"] = with_taps_last(call["dynamic_kernel"])
    return call


def precise(call):
    return {name: t.double() if isinstance(t, torch.Tensor) else t for name, t in call.items()}


def assert_exact(call, function=extract_or_unfold, seed=0):
    """Compare output and all gradients with the reference; the error may be twice that of the formula in plain torch."""
    eager = values_and_gradients(lambda **call: function("eager", **call), call, seed)
    exact = reference(precise(call), function, seed)
    first = next(t for t in call.values() if isinstance(t, torch.Tensor))
    assert_as_exact_as_plain(run(call, function, seed), eager, exact, first.dtype)


def random_banded_call(seed):
    """Return a legal call that runs as banded products."""
    rng = random.Random(seed)
    members, groups = rng.choice(
        ((16, 1), (16, 2), (16, 3), (16, 5), (32, 1), (32, 3), (48, 1), (128, 1))
    )  # channels of a group, groups
    kernel_size = rng.randint(1, 3), rng.randint(2, 6)
    dilation = rng.randint(1, 3), rng.randint(1, 3)
    stride = rng.randint(1, 4), rng.randint(1, min(3, kernel_size[1] - 1))
    size = rng.choice(((3, 19), (rng.randint(1, 7), rng.randint(1, 9))))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
    padding = tuple(rng.randint(-(-max(r + 1 - n, 0) // 2), r + 2) for r, n in zip(reach, size, strict=True))
    shared = rng.choice(((), (), (), (0,), (1,), (0, 1)))
    call = banded(
        rng.choice(HALF),
        rng.random() < 0.6,
        channels=members * groups,
        kernels=groups,
        kernel_size=kernel_size,
        size=size,
        batch=1 + (groups * members == 16),
        stride=stride,
        padding=padding,
        dilation=dilation,
        shared=shared,
    )
    if rng.random() < 0.3:  # channels of a larger image
        wide = call["x"].new_full((call["x"].shape[0], *call["x"].shape[2:], members * groups + 3), torch.nan).movedim(-1, 1)
        wide[:, 1:-2] = call["x"]
        call["x"] = wide[:, 1:-2]
    return call


@pytest.mark.sampled(5)
@pytest.mark.parametrize("seed", range(40_000, 40_030))
def test_random_call_is_at_most_twice_as_wrong_as_plain_torch(seed, poisoned_device_memory, kernels_run):
    call = random_banded_call(seed)
    assert_exact(call, seed=seed)
    windows = output_size(call["x"].shape[2:], *(call[name] for name in ("kernel_size", "stride", "padding", "dilation")))
    has_kernel_a_window = tuple(call["dynamic_kernel"].shape[-2:]) == tuple(windows)
    assert kernels_run == [FORWARD, IMAGE, KERNEL if has_kernel_a_window else "backward"]


CASES = {
    "7x7 taps": {"channels": 64, "kernels": 4, "kernel_size": 7, "padding": 3, "size": (5, 9)},
    "stride 2": {"kernel_size": (2, 5), "padding": (0, 2), "size": (5, 19), "stride": 2},
    "dilation 2": {"size": (5, 19), "dilation": 2, "padding": 2},
    "stride and dilation share a factor": {
        "kernel_size": 4,
        "stride": (4, 6),
        "dilation": (6, 4),
        "padding": (9, 6),
        "size": (9, 20),
    },
    "a row wider than a product": {"kernel_size": (1, 19), "padding": (0, 9), "size": (2, 20)},
    "one pixel": {"kernel_size": (3, 5), "padding": (2, 3), "size": (1, 1)},
    "two blocks of a group": {"channels": 128, "kernel_size": (2, 3), "size": (2, 9)},
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("case", CASES)
def test_case_is_at_most_twice_as_wrong_as_plain_torch(case, dtype, poisoned_device_memory, kernels_run):
    assert_exact(banded(dtype, **CASES[case]))
    assert kernels_run == [FORWARD, IMAGE, KERNEL]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("case", ["stride 2", "dilation 2", "one pixel"])
def test_every_configuration_gives_the_same_values(case, number, poisoned_device_memory, monkeypatch):
    first_of = tuning.suitable
    monkeypatch.setattr(tuning, "suitable", lambda configs, plan: first_of(configs, plan)[number:])
    size = 5, 19 + number  # a size that is known would be repeated as it ran before
    assert_exact(banded(**CASES[case] | {"size": size}, channels=48, kernels=3))


def test_query_key_products_are_banded_too(poisoned_device_memory, kernels_run):
    call = made_similarity(32, 2, (3, 9), kernel_size=3, dtype=torch.bfloat16)
    call |= {name: relayout(call[name], "channels_last") for name in ("query", "key")}
    assert_exact(call, products)
    assert kernels_run == [KERNEL, FORWARD, IMAGE]


def test_a_depthwise_kernel_is_added_by_a_convolution(poisoned_device_memory, kernels_run):
    assert_exact(banded(static=(16, 1), combine="add", size=(3, 9)))
    assert kernels_run == [FORWARD, IMAGE, KERNEL]


OTHERS = {
    "float32": {"dtype": torch.float32},
    "offsets": {"offset_groups": 1, "kernel_size": (1, 2)},
    "fold": {"aggregation": "fold", "kernel_size": (1, 2)},
    "small groups": {"kernels": 2},
    "a static kernel": {"static": (16, 1)},
    "a dense static kernel": {"static": (4, 16)},
    "one tap in a row": {"kernel_size": (2, 1)},
    "windows that do not overlap": {"kernel_size": 2, "stride": 2},
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_does_not_fit_runs_as_before(case, kernels_run):
    run(banded(**OTHERS[case]))
    assert kernels_run
    assert not {FORWARD, IMAGE, KERNEL} & set(kernels_run)


def test_a_kernel_of_very_many_taps_runs_as_before():
    """Each row of a kernel is code of its own, and compiling it takes time."""
    fits = {}
    for size in (15, 17):
        call = banded(kernel_size=size, padding=size // 2, size=(1, 1))
        window = checks.geometry(call["x"], size, 1, size // 2, 1)
        fits[size] = is_banded(Call(call["x"], None, call["dynamic_kernel"], None, None, window))
    assert fits == {15: True, 17: False}


def test_planar_images_run_as_before(kernels_run):
    run(made_call(16, kernels=1, kernel_size=(1, 2), dtype=torch.bfloat16))
    assert kernels_run == ["gather", "fold", "dynamic_kernel_backward"]


def test_no_foreign_memory_is_used():
    call = banded(kernel_size=(2, 4), padding=(1, 3), size=(3, 5), stride=(1, 2))
    expected = run(call)
    rows = {"x": call["x"].permute(0, 2, 3, 1), "dynamic_kernel": call["dynamic_kernel"].permute(0, 3, 4, 1, 2)}
    guards = {name: guarded(t) for name, t in rows.items()}
    call["x"] = guards["x"][0].permute(0, 3, 1, 2)
    call["dynamic_kernel"] = guards["dynamic_kernel"][0].permute(0, 3, 4, 1, 2)
    assert all(torch.equal(result, expected[name]) for name, result in run(call).items())
    assert all(memory.isnan().sum() == memory.numel() - view.numel() for view, memory in guards.values())


def far(t):
    """Return the same values with more than 2^31 elements from row to row, and as much memory before, neither of which is touched."""
    before = step = 2**31 + 64
    strides = list(t.stride())
    strides[-2] = step
    memory = torch.empty(before + step * (t.shape[-2] - 1) + t.numel(), dtype=t.dtype)
    return memory.as_strided(t.shape, strides, before).copy_(t)


@pytest.mark.skipif(GPU, reason="takes as much memory as it spans")
@pytest.mark.parametrize("name", ["x", "dynamic_kernel", "gradient"])
def test_a_tensor_that_spans_more_than_two_to_the_31_elements_gives_the_same_bits(name):
    call = banded(kernel_size=(1, 2), size=(2, 3), padding=0)
    call["gradient"] = relayout(torch.randn(1, 16, 2, 2).bfloat16(), "channels_last")

    assert all(map(torch.equal, output_and_gradients(**call | {name: far(call[name])}), output_and_gradients(**call)))


def test_pixels_between_all_taps_get_no_gradient(poisoned_device_memory):
    """Where stride and dilation share a factor, no window reaches every other row."""
    call = banded(kernel_size=2, stride=(2, 1), dilation=2, padding=2, size=(5, 7))
    gradient = run(call)["x"]
    assert not gradient[:, :, 1::2].any()
    assert gradient[:, :, ::2].any()


def folded(dtype=torch.bfloat16, taps_last=True, **options):
    """Return a fold with channels next to each other."""
    return banded(dtype, taps_last, **{"aggregation": "fold", "padding": 1, "size": (5, 9)} | options)


def random_fold(seed):
    """Return a legal fold that runs as composed banded products."""
    rng = random.Random(seed)
    members, groups = rng.choice(((16, 1), (16, 3), (32, 1), (32, 3), (64, 2)))  # channels of a group, groups
    kernel_size = rng.choice(((3, 3), (1, 2), (2, 5), (4, 3), (3, 4), (1, 5)))
    stride = rng.randint(1, 4), rng.choice([s for s in (1, 2, 4) if s < kernel_size[1]])
    if max(kernel_size) == 4 and stride[1] == 1:
        stride = stride[0], 2  # else a window has more loads than the rule allows
    size = rng.randint(1, 7), rng.choice((rng.randint(1, 9), 21))
    padding = tuple(rng.randint(-(-max(k - n, 0) // 2), k + 1) for k, n in zip(kernel_size, size, strict=True))
    shared = rng.choice(((), (), (), (0,), (1,), (0, 1)))
    return folded(
        rng.choice(HALF),
        rng.random() < 0.6,
        channels=members * groups,
        kernels=groups,
        kernel_size=kernel_size,
        size=size,
        batch=1 + (groups * members == 16),
        stride=stride,
        padding=padding,
        shared=shared,
    )


@pytest.mark.sampled(5)
@pytest.mark.parametrize("seed", range(41_000, 41_030))
def test_random_fold_is_at_most_twice_as_wrong_as_plain_torch(seed, poisoned_device_memory, kernels_run):
    call = random_fold(seed)
    assert_exact(call, seed=seed)
    windows = output_size(call["x"].shape[2:], *(call[name] for name in ("kernel_size", "stride", "padding")), (1, 1))
    has_kernel_a_window = tuple(call["dynamic_kernel"].shape[-2:]) == tuple(windows)
    assert kernels_run == [FOLD, FOLD, FOLD_KERNEL if has_kernel_a_window else "backward"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_outlook_attention_is_as_exact_in_every_configuration(number, dtype, poisoned_device_memory, kernels_run, monkeypatch):
    first_of = tuning.suitable
    monkeypatch.setattr(tuning, "suitable", lambda configs, plan: first_of(configs, plan)[number:])
    assert_exact(folded(dtype, channels=96, kernels=3, stride=2, size=(5, 9 + number)))  # a known size would be repeated
    assert kernels_run == [FOLD, FOLD, FOLD_KERNEL]


OUTSIDE = [
    {"channels": 24},
    {"static": (16, 1)},
    {"offset_groups": 1},
    {"dilation": 2, "padding": 2},
    {"stride": 3},
    {"kernel_size": 5, "padding": 2},
    {"kernel_size": (3, 4)},
    {"kernel_size": (1, 6), "padding": (0, 3)},
    {"dtype": torch.float32},
]


def test_a_fold_runs_as_banded_products_up_to_the_rules_bounds():
    def runs_so(options):
        call = folded(**options)
        sizes = (call.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)))
        geometry = checks.geometry(call["x"], call["kernel_size"], *sizes)
        return is_banded_fold(
            Call(call["x"], call.get("static_kernel"), call["dynamic_kernel"], call.get("offsets"), None, geometry, "fold")
        )

    inside = [
        {},
        {"kernel_size": (1, 5), "padding": (0, 2)},
        {"stride": 2},
        {"kernel_size": (3, 4), "stride": (1, 2)},
        {"channels": 64},
    ]
    assert [runs_so(one) for one in inside + OUTSIDE] == [True] * len(inside) + [False] * len(OUTSIDE)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("other", OUTSIDE)
def test_a_fold_outside_the_rule_runs_the_other_kernels(other, kernels_run):
    call = folded(**{"size": (3, 4)} | other)
    run(call, extract_or_unfold)
    assert kernels_run
    assert not {FOLD, FOLD_KERNEL} & set(kernels_run)
