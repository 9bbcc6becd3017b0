"""The Triton backend as a guest of the process: imports, refusals, foreign memory, large tensors, measurements."""

import importlib
import os
import pkgutil
import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad

import unified_extractor as ux
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.guarded_memory import guarded
from tests.support.made_calls import extract_or_unfold, made_call
from tests.support.transforms import under_grad, under_vmap
from tests.support.triton_runs import DEVICE, GPU, TENSORS, made_similarity, on_device, output_and_gradients, products, run
from tests.support.wild_offsets import WILD, wild_offsets
from unified_extractor.ops import checks
from unified_extractor.ops.backends import triton
from unified_extractor.ops.backends.triton import Triton, launch, tuning
from unified_extractor.ops.backends.triton.launch import OPERATORS
from unified_extractor.ops.backends.triton.records import Image, WindowValues, image_record
from unified_extractor.ops.call import Call, Wanted, similarity_call

Autotuner = pytest.importorskip("triton.runtime.autotuner").Autotuner
MODULES = [importlib.import_module(module.name) for module in pkgutil.walk_packages(triton.__path__, f"{triton.__name__}.")]
KERNELS = {id(v): v for module in MODULES for v in vars(module).values() if isinstance(v, Autotuner)}.values()
WORTH_IT = {"channels": 16, "kernels": 1, "kernel_size": 3, "offset_groups": 1}

WITHOUT_A_GPU = """
import sys
import torch

import unified_extractor as ux

call = {"kernel_size": 5, "padding": 2, "dynamic_kernel": torch.ones(1, 1, 25, 4, 4)}
x = torch.ones(1, 16, 4, 4, requires_grad=True)
ux.extract(x, **call).sum().backward()
kernels = "unified_extractor.ops.backends.triton.launch"
assert kernels not in sys.modules
print(ux.backends()["triton"])
try:
    ux.extract(x, **call, backend="triton")
except ValueError as error:
    print(error)
assert kernels not in sys.modules
"""


def test_without_a_gpu_no_kernel_is_imported_and_the_reason_is_told():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_GPU], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    reason, refusal = process.stdout.splitlines()
    assert "no GPU" in reason
    assert refusal == f"backend='triton' is not usable here: {reason}"


def test_without_triton_the_reason_names_it_and_others_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "pip install triton" in ux.backends()["triton"]
    call = made_call(**WORTH_IT)
    with pytest.raises(ValueError, match=r"backend='triton' is not usable here: it needs triton.*pip install triton"):
        ux.extract(**call, backend="triton")
    torch.testing.assert_close(ux.extract(**on_device(call)).cpu(), ux.extract(**call, backend="eager"), rtol=0, atol=1e-10)


def test_the_interpreter_is_never_chosen(backends_used):
    ux.extract(**made_call(**WORTH_IT))
    ux.generalized_unfold(torch.ones(1, 2, 3, 3), 3)
    products(None, **made_similarity(32, 1, kernel_size=3))
    kernel = ux.LinearKernel(torch.ones(1, 2, 3, 3), torch.ones(9, 2))
    for memory in ("auto", "store", "recompute"):
        ux.extract(torch.ones(1, 16, 3, 3), kernel_size=3, padding=1, dynamic_kernel=kernel, kernel_memory=memory)
    assert backends_used
    assert "triton" not in backends_used


def test_an_image_elsewhere_is_refused():
    with pytest.raises(ValueError, match=r"backend='triton' is not usable here: .*x is on meta"):
        ux.extract(torch.empty(1, 2, 3, 3, device="meta"), kernel_size=2, backend="triton")


def test_an_image_on_the_cpu_is_refused_where_kernels_are_compiled(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(Triton, "unusable_because", lambda self: None)
    with pytest.raises(ValueError, match=r"backend='triton' is not usable here: it runs on GPUs, x is on cpu"):
        ux.extract(torch.ones(1, 2, 3, 3), kernel_size=2, backend="triton")


def under_dual_numbers(call, x):
    with forward_ad.dual_level():
        return call(forward_ad.make_dual(x, torch.ones_like(x)))


@pytest.mark.parametrize("transform", [under_grad, under_vmap, under_dual_numbers])
def test_transforms_are_refused_by_name(transform):
    call = on_device(made_call(**WORTH_IT))
    x = call.pop("x")
    with pytest.raises(ValueError, match=r"backend='triton' is not usable here: torch.func transforms and forward-mode"):
        transform(lambda x: ux.extract(x, **call, backend="triton"), x)


@pytest.mark.parametrize("backend", ["triton", None])
def test_an_exported_program_does_not_need_the_backend(backend, backends_used):
    class Call(torch.nn.Module):
        def forward(self, x, dynamic_kernel):
            return ux.extract(x, kernel_size=2, padding=1, dynamic_kernel=dynamic_kernel, backend=backend)

    call = on_device(made_call(channels=16, kernels=1))
    tensors = (call["x"], call["dynamic_kernel"])
    if backend:
        with pytest.raises(Exception, match="an exported program must run without this package"):
            torch.export.export(Call(), tensors)
    else:
        assert "unified_extractor" not in str(torch.export.export(Call(), tensors).graph)
    assert "triton" not in backends_used


WINDOWS = {
    "gather": {"channels": 5, "kernels": 1, "offset_groups": 1},
    "dense": {"channels": 5, "static": (3, 5), "offset_groups": 1},
    "fold": {"channels": 5, "kernels": 1, "offset_groups": 1, "aggregation": "fold", "kernel_size": (1, 2), "padding": (0, 1)},
    "unfold": {"channels": 5, "offset_groups": 1, "aggregation": "unfold"},
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", WINDOWS)
def test_wild_offsets_touch_no_foreign_memory_and_have_no_gradient(case, dtype):
    call = made_call(**WINDOWS[case], dtype=dtype)
    call["offsets"], inside = wild_offsets(call)
    assert inside.any()
    assert not inside.all()
    tensors = {name: guarded(t) for name, t in call.items() if isinstance(t, torch.Tensor)}
    before = {name: memory.clone() for name, (_, memory) in tensors.items()}
    call |= {name: view for name, (view, _) in tensors.items()}
    triton = run(call)
    expected = values_and_gradients(lambda **call: extract_or_unfold("reference", **call), call)
    assert_same(triton, expected, {torch.float64: 1e-10, torch.float32: 1e-5}.get(dtype, 4 * torch.finfo(dtype).eps))
    assert all(torch.equal(memory.nan_to_num(7), before[name].nan_to_num(7)) for name, (_, memory) in tensors.items())
    assert (triton["offsets"][~inside] == 0).all()


@pytest.mark.parametrize("wild", WILD, ids=str)
@pytest.mark.parametrize("ordered", [False, True], ids=["atomics", "sorted"])
def test_windows_whose_offsets_lead_nowhere_read_and_give_zero(wild, ordered):
    call = made_call(3, offset_groups=1, kernels=1, kernel_size=1, padding=0, batch=1, dtype=torch.float32)
    call["x"], memory = guarded(call["x"])
    call["offsets"] = torch.full_like(call["offsets"], wild)
    torch.use_deterministic_algorithms(ordered)
    try:
        results = run(call)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not any(result.any() for result in results.values())
    assert memory.isnan().sum() == memory.numel() - call["x"].numel()


def far(values, axis):
    """Return the same values with 2^31 elements between the first and the last along an axis; the memory between is never touched, so free.

    No step by itself needs 64 bits where there are several, and as much memory lies before: an address that wraps around reads zeros.
    """
    step, rest = 2**31 // (values.shape[axis] - 1) + 8, [1] * values.dim()
    for other in reversed(range(values.dim() - 1)):
        rest[other] = rest[other + 1] * values.shape[other + 1]
    rest[axis] = step
    before = 2**31 + 2**20
    memory = torch.empty(before + step * (values.shape[axis] - 1) + values.numel(), dtype=values.dtype, device=values.device)
    return memory.as_strided(values.shape, rest, before).copy_(values)


THREE = {"channels": 3, "size": (3, 2), "kernel_size": (1, 3)}
WIDE = {
    "gather": THREE | {"kernels": 1, "offset_groups": 1},
    "fixed gather": THREE | {"kernels": 3},
    "dense": THREE | {"static": (3, 3), "kernels": 1},
    "fold": THREE | {"kernels": 1, "aggregation": "fold"},
    "unfold": THREE | {"offset_groups": 3, "aggregation": "unfold"},
}
FAR = {
    "channels": ("x", 1, "gather"),
    "images": ("x", 0, "gather"),
    "rows": ("x", 2, "fixed gather"),
    "channels, dense": ("x", 1, "dense"),
    "channels, fold": ("x", 1, "fold"),
    "rows, unfold": ("x", 2, "unfold"),
    "kernel groups": ("dynamic_kernel", 1, "fixed gather"),
    "kernel taps": ("dynamic_kernel", 2, "gather"),
    "fold's output taps": ("dynamic_kernel", 2, "fold"),
    "axes of offsets": ("offsets", 3, "gather"),
    "offset groups": ("offsets", 1, "unfold"),
    "channels of the gradient": ("gradient", 1, "gather"),
    "images of the gradient": ("gradient", 0, "fixed gather"),
    "channels of the gradient, dense": ("gradient", 1, "dense"),
    "taps of the gradient, unfold": ("gradient", 2, "unfold"),
}


@pytest.mark.sampled(4)
@pytest.mark.skipif(GPU, reason="takes as much memory as it spans")
@pytest.mark.parametrize("case", FAR)
def test_a_tensor_that_spans_more_than_two_to_the_31_elements_gives_the_same_bits(case):
    name, axis, kind = FAR[case]
    call = made_call(**WIDE[kind], batch=1 if axis else 3, dtype=torch.bfloat16)
    y = extract_or_unfold("triton", **call)
    call["gradient"] = torch.randn(y.shape).bfloat16()

    expected = output_and_gradients(**call)
    actual = output_and_gradients(**call | {name: far(call[name], axis)})
    assert all(map(torch.equal, actual, expected))


@pytest.mark.skipif(GPU, reason="takes as much memory as it spans")
@pytest.mark.parametrize("kind", WIDE)
def test_results_that_span_more_than_two_to_the_31_elements_have_the_same_bits(kind, monkeypatch):
    made = made_call(**WIDE[kind], dtype=torch.bfloat16)
    geometry = (made.get(name, 1) for name in ("stride", "padding", "dilation"))
    window = checks.geometry(made["x"], made["kernel_size"], *geometry)
    tensors = [made.get(name) for name in ("x", "static_kernel", "dynamic_kernel", "offsets")]
    wanted = Wanted(*(t is not None for t in tensors))

    def results(x):
        call = Call(x, *tensors[1:], None, window, made["aggregation"])
        y = launch.run_forward(call)
        return [y, *launch.run_backward(call, torch.linspace(-1, 1, y.numel()).view(y.shape).bfloat16(), wanted)]

    expected = results(made["x"])
    new_output, new_gradients = launch.new_output, launch.new_gradients
    monkeypatch.setattr(launch, "new_output", lambda call: far(new_output(call), 1))
    monkeypatch.setattr(launch, "new_gradients", lambda *rest: [far(t, 1) if t.shape[1] > 1 else t for t in new_gradients(*rest)])
    assert all(map(torch.equal, results(far(made["x"], 1)), expected))


@pytest.fixture
def started(monkeypatch):
    """Return a list of (kernel, plan, extent, arguments) of the kernels that would run; none does."""
    calls = []

    def spy(kernel, grid, device, plan, extent, **arguments):
        calls.append((kernel, plan, extent, arguments))

    monkeypatch.setattr(launch, "start", spy)
    return calls


def on_meta(**shapes):
    return {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in shapes.items()}


MANY = (1, 64, 1024, 1024)
LARGE = {
    "an image": {"x": (1, 2048, 1024, 1100), "dynamic": (1, 1, 1, 1, 1)},
    "a dynamic kernel": {"x": MANY, "dynamic": (1, 64, 49, 1024, 1024)},
    "offsets": {"x": MANY, "offsets": (1, 32, 49, 2, 1024, 1024)},
    "an unfold's output": {"x": MANY, "aggregation": "unfold"},
    "columns of a dense static kernel": {"x": MANY, "static": (1, 64, 7, 7), "dynamic": (1, 1, 49, 1, 1)},
    "samples, sorted": {"x": MANY, "offsets": (1, 1, 49, 2, 1024, 1024)},
    "products with keys": {"x": MANY, "heads": 64},
}


def span(tensor):
    """Return the elements between the first and the last address of one image."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))


@pytest.mark.parametrize("case", LARGE)
def test_addresses_are_wide_wherever_a_tensor_that_is_read_or_written_is(case, started, monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: "sorted" in case)
    monkeypatch.setattr(launch, "gradient_from_columns", lambda *rest: None)
    shapes = {"static": None, "dynamic": None, "offsets": None} | LARGE[case]
    tensors = on_meta(**{name: shape for name, shape in shapes.items() if isinstance(shape, tuple)})
    kernel_size = 1 if "an image" in case else 7
    window = checks.geometry(tensors["x"], kernel_size, 1, "same", 1)
    call = Call(
        *(tensors.get(n) for n in ("x", "static", "dynamic", "offsets")), None, window, shapes.get("aggregation", "gather")
    )
    if "heads" in shapes:
        call = similarity_call(tensors["x"], tensors["x"], shapes["heads"], None, window)
        launch.run_backward(call, tensors["x"], Wanted(False, False, True, False))
    else:
        y = launch.run_forward(call)
        launch.run_backward(call, y, Wanted(*(t is not None for t in call[:4])))
    assert any(large(arguments) for *_, arguments in started)
    for kernel, plan, _, arguments in started:
        assert plan.wide or not large(arguments), f"{kernel.fn.__name__}: {large(arguments)}"


def large(arguments):
    """Return the names of tensors whose addresses need more than 31 bits inside an image."""
    records = {
        name: value.data
        for name, value in arguments.items()
        if isinstance(value, Image | WindowValues) and value.data is not None
    }
    return [name for name, tensor in records.items() if span(tensor) > 2**31]


def test_configurations_are_few_and_measured_for_one_key():
    assert KERNELS
    for kernel in KERNELS:
        assert 1 <= len(kernel.configs) <= 5  # some of them for generated kernels alone: no call measures more than four
        assert list(kernel.keys) == ["TUNED_FOR"]


@pytest.mark.sampled(4)
@pytest.mark.skipif(GPU, reason="the interpreter always takes the default")
@pytest.mark.parametrize("case", TENSORS)
def test_what_is_measured_does_not_depend_on_the_batch(case, monkeypatch):
    keys, start_default = [], tuning._start_default

    def spy(kernel, grid, arguments):
        keys.append((kernel.fn.__name__, arguments["TUNED_FOR"]))
        start_default(kernel, grid, arguments)

    monkeypatch.setattr(tuning, "_start_default", spy)
    seen = []
    for batch in (1, 3):
        keys.clear()
        run(made_call(**TENSORS[case] | {"batch": batch, "size": (2, 2)}))
        seen.append(sorted(keys))
    assert seen[0] == seen[1] != []


@pytest.mark.parametrize("case", TENSORS)
def test_inputs_are_left_as_they_were(case):
    call = on_device(made_call(**TENSORS[case] | {"batch": 1}))
    before = {name: t.clone() for name, t in call.items() if isinstance(t, torch.Tensor)}
    run(call)
    assert all(torch.equal(call[name], t) for name, t in before.items())


def step(call):
    """Return output and gradients on the device of the call, whose tensors are leaves."""
    leaves = [t for t in call.values() if isinstance(t, torch.Tensor)]
    y = extract_or_unfold("triton", **call)
    return [y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))]


def leaves_of(call, device=DEVICE):
    return {name: t.to(device).requires_grad_() if isinstance(t, torch.Tensor) else t for name, t in call.items()}


@pytest.mark.gpu
@pytest.mark.parametrize("ordered", [False, True], ids=["atomics", "sorted"])
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("case", TENSORS)
def test_a_graph_is_captured_and_replayed_with_other_values(case, warm, ordered):
    made = made_call(**TENSORS[case] | {"size": (9, 11 if warm else 47)} | ({"stride": 1} if warm else {}), dtype=torch.float32)
    call = leaves_of(made)
    torch.use_deterministic_algorithms(ordered)
    try:
        if warm:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                step(call)
            torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = step(call)
        with torch.no_grad():
            for t in call.values():
                if isinstance(t, torch.Tensor):
                    t.mul_(0.5)
        graph.replay()
        torch.cuda.synchronize()
        for actual, expected in zip(results, step(call), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("case", TENSORS)
def test_tensors_may_lie_on_another_device_than_the_current_one(case):
    made = made_call(**TENSORS[case])
    with torch.cuda.device(0):
        results = step(leaves_of(made, "cuda:1"))
        assert torch.cuda.current_device() == 0
    assert all(result.device == torch.device("cuda:1") for result in results)
    for actual, expected in zip(results, step(leaves_of(made, "cuda:0")), strict=True):
        torch.testing.assert_close(actual.cpu(), expected.cpu(), rtol=1e-10, atol=1e-10)


@pytest.mark.gpu
@pytest.mark.parametrize("case", TENSORS)
def test_nothing_is_measured_again_for_another_batch(case, monkeypatch):
    measured = []
    for kernel in KERNELS:
        bench = kernel._bench
        monkeypatch.setattr(kernel, "_bench", lambda *rest, bench=bench, **named: measured.append(1) or bench(*rest, **named))
    made = {"size": (19, 23), "dtype": torch.float32}
    step(leaves_of(made_call(**TENSORS[case] | made | {"batch": 1})))
    kept = [len(kernel.cache) for kernel in KERNELS]
    measured.clear()
    for batch in (2, 7):
        step(leaves_of(made_call(**TENSORS[case] | made | {"batch": batch})))
    assert not measured
    assert [len(kernel.cache) for kernel in KERNELS] == kept


@pytest.mark.gpu
@pytest.mark.parametrize("case", TENSORS)
def test_repeated_on_the_gpu_the_same_bits_come_out(case):
    call = leaves_of(made_call(**TENSORS[case] | {"size": (33, 31)}, dtype=torch.float32))
    torch.use_deterministic_algorithms("offset_groups" in TENSORS[case])
    try:
        first, *others = [step(call) for _ in range(4)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(all(map(torch.equal, first, other)) for other in others)


def test_the_operators_are_registered_by_name():
    names = {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("unified_extractor::triton_")
    }
    assert names == {"triton_aggregate", "triton_aggregate_backward", "triton_similarity"}
    assert OPERATORS.aggregate is torch.ops.unified_extractor.triton_aggregate.default


def test_one_image_has_the_strides_of_many():
    """The stride from image to image of a single image may be any number, and each would be compiled anew."""
    for image in (torch.empty(1, 4, 3, 3), torch.empty(1, 12).unflatten(1, (3, 2, 2)), torch.empty(2, 4, 3, 3)[1:]):
        assert image_record(image).batch == 0
    assert image_record(torch.empty(2, 4, 3, 3)).batch == 36
