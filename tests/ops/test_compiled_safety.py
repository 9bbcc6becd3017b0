"""The compiled backend as a guest of the process: refusals, threads, foreign memory, memory use and compilations."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import unified_extractor as ux
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.guarded_memory import guarded
from tests.support.made_calls import WORTH_COMPILING, block_call, extract_or_unfold
from tests.support.oracles import output_size
from tests.support.transforms import under_grad, under_vmap

pytest.importorskip("numba")
from unified_extractor.ops import checks
from unified_extractor.ops.backends.compiled import backward, forward, launch, threads
from unified_extractor.ops.call import Call


def under_dual_numbers(call, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(call(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


@pytest.mark.parametrize("transform", [under_grad, under_vmap, under_dual_numbers])
def test_under_a_transform_the_backend_is_refused_by_name_and_otherwise_not_chosen(transform):
    call = block_call(**WORTH_COMPILING)
    x = call.pop("x")
    with pytest.raises(ValueError, match=r"backend='compiled' is not usable here: torch.func transforms and forward-mode"):
        transform(lambda x: ux.extract(x, **call, backend="compiled"), x)
    results = [transform(lambda x, b=backend: ux.extract(x, **call, backend=b), x) for backend in ("eager", None)]
    assert torch.equal(*results)


def test_an_image_elsewhere_is_refused():
    with pytest.raises(ValueError, match=r"backend='compiled' is not usable here: it runs on the CPU, x is on meta"):
        ux.extract(torch.empty(1, 2, 3, 3, device="meta"), kernel_size=2, backend="compiled")


@pytest.fixture(params=["openmp", "pool"])
def way(request, monkeypatch):
    """Either way to several threads, taken for the least work."""
    monkeypatch.setattr(threads, "_GRAIN", 1)
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("no OpenMP in this process")
    yield request.param
    torch.set_num_threads(1)


@pytest.fixture
def parts(monkeypatch):
    """How many parts every pass was shared in."""
    counts = []

    def spied(run, items, multiply_adds):
        ran = []
        threads.parallel_for(lambda *part: ran.append(part) or run(*part), items, multiply_adds)
        assert sorted(item for part in ran for item in range(*part)) == list(range(items))
        counts.append(len(ran))

    monkeypatch.setattr(launch, "parallel_for", spied)
    return counts


SHARED = {
    "gather": {"channels": 48, "kernels": 3},
    "fold": {"channels": 48, "kernels": 3, "aggregation": "fold"},
    "offsets": {"channels": 48, "kernels": 3, "offset_groups": 3},
    "dense": {"channels": 20, "static": (24, 20), "kernels": 1},
    "depthwise": {"channels": 48, "static": (48, 1), "kernels": 3},
}


@pytest.mark.parametrize("case", SHARED)
def test_every_bit_is_the_same_for_any_number_of_threads(case, way, parts):
    call = block_call(**SHARED[case], batch=5, size=(19, 18), dtype=torch.float32)
    results = []
    for count in (1, 2, 3, 3):
        torch.set_num_threads(count)
        parts.clear()
        results.append(values_and_gradients(lambda **call: extract_or_unfold("compiled", **call), call))
        assert parts == [count, count]
    for result in results[1:]:
        assert all(torch.equal(value, results[0][name]) for name, value in result.items())


def test_parts_run_at_the_same_time(way):
    torch.set_num_threads(3)
    met = threading.Barrier(3)
    threads.parallel_for(lambda start, stop: met.wait(timeout=20), 3, 3)


def test_several_threads_may_call_at_once(way):
    """As data-parallel replicas do."""
    torch.set_num_threads(2)
    call = block_call(**SHARED["gather"], batch=4)
    expected, results = extract_or_unfold("eager", **call), {}

    def work(caller):
        results[caller] = [extract_or_unfold("compiled", **call) for _ in range(20)]

    callers = [threading.Thread(target=work, args=(caller,)) for caller in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert len(results) == 4
    for result in (y for ys in results.values() for y in ys):
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_in_any_part_reaches_the_caller_once_all_parts_have_ended(bad, way):
    torch.set_num_threads(3)
    begun, ended = [], []

    def run(start, stop):
        begun.append(start)
        if start == bad:
            raise ZeroDivisionError(f"part {start}")
        threading.Event().wait(0.05)
        ended.append(start)

    with pytest.raises(ZeroDivisionError, match=f"part {bad}"):
        threads.parallel_for(run, 3, 3)
    assert sorted([bad, *ended]) == sorted(begun) == [0, 1, 2]
    threads.parallel_for(lambda start, stop: ended.append(start), 3, 3)
    assert len(ended) == 5


WILD = [torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 2.0**63, -(2.0**63), 2.0**31]
CLOSE = 2.0**-10
WINDOWS = {
    "gather": {"channels": 17, "kernels": 1, "offset_groups": 1},
    "dense": {"channels": 17, "static": (5, 17), "offset_groups": 1},
    "fold": {"channels": 17, "kernels": 1, "offset_groups": 1, "aggregation": "fold"},
    "unfold": {"channels": 17, "offset_groups": 1, "aggregation": "unfold"},
}


def grid(call):
    """Where taps lie without offsets, ``[K, 2, Ho, Wo]``, for stride 1."""
    size, kernel_size, padding = call["x"].shape[2:], call["kernel_size"], call["padding"]
    rows, columns = (torch.arange(n) - padding for n in output_size(size, kernel_size, 1, padding, 1))
    windows = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return windows + torch.cartesian_prod(*[torch.arange(kernel_size)] * 2)[:, :, None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", WINDOWS)
def test_wild_offsets_touch_no_foreign_memory_and_have_no_gradient(case, dtype):
    call = block_call(**WINDOWS[case], dtype=dtype)
    size, generator = torch.tensor(call["x"].shape[2:]), torch.Generator().manual_seed(0)
    borders = [(-1, -1 - CLOSE, -1 + CLOSE, n - 1, n, n - CLOSE, n + CLOSE) for n in size.tolist()]
    targets = torch.tensor([[*WILD, *border] for border in borders], dtype=torch.float64)
    pick = torch.randint(2 * targets.shape[1], call["offsets"].shape, generator=generator)
    assert pick.unique().numel() == 2 * targets.shape[1]
    axis = torch.arange(2)[:, None, None].expand_as(pick)
    base = grid(call).double()
    to_target = targets[axis, pick % targets.shape[1]] - base
    call["offsets"] = torch.where(pick < targets.shape[1], to_target, call["offsets"]).to(dtype)

    tensors = {name: guarded(t) for name, t in call.items() if isinstance(t, torch.Tensor)}
    before = {name: memory.clone() for name, (_, memory) in tensors.items()}
    call |= {name: view for name, (view, _) in tensors.items()}
    compiled, eager = (values_and_gradients(lambda b=b, **c: extract_or_unfold(b, **c), call) for b in ("compiled", "eager"))

    assert_same(compiled, eager, 1e-10 if dtype == torch.float64 else 1e-5)
    for name, (_, memory) in tensors.items():
        assert torch.equal(memory.nan_to_num(7), before[name].nan_to_num(7))
    position = base + call["offsets"]
    inside = ((position >= -1) & (position < size[:, None, None])).all(3, keepdim=True).expand_as(position)
    assert inside.any()
    assert (compiled["offsets"][~inside] == 0).all()


def test_one_compilation_serves_every_call():
    def compilations():
        return len(forward.forward.overloads), len(backward.backward.overloads)

    def one(**options):
        call = block_call(dtype=torch.float32, **options)
        values_and_gradients(lambda **call: extract_or_unfold("compiled", **call), call)

    one()
    before = compilations()
    for options in (*SHARED.values(), *WINDOWS.values()):
        one(**options)
        one(**options, batch=3, size=(7, 4), kernel_size=2)
    assert compilations() == before


MEMORY = """
import torch
import unified_extractor as ux

torch.set_num_threads(2)

def step(images, size):
    x, d = (torch.randn(shape, requires_grad=True) for shape in ((images, 64, size, size), (images, 4, 49, size, size)))
    before = peak()
    y = ux.extract(x, kernel_size=7, dynamic_kernel=d, padding=3, backend="compiled")
    gradient = torch.ones_like(y)
    results = (y, gradient, *torch.autograd.grad(y, (x, d), gradient))
    held = sum(t.nbytes for t in (x, d))
    return held + peak() - before, held + sum(t.nbytes for t in results)

def peak():
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

step(1, 7)
print(*step(8, 56))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux to tell the peak of a process")
def test_a_step_holds_little_more_than_its_tensors():
    """Resident memory of a process: `peak_bytes` does not look inside an operator."""
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, timeout=120)
    used, tensors = map(int, result.stdout.split())
    assert 0.9 * tensors < used < 1.3 * tensors


def table_bytes(record):
    """Return the bytes of all tables in a plan; one that several parts share counts once."""
    tables = {}
    for value in record:
        if isinstance(value, np.ndarray):
            tables[id(value)] = value.nbytes
        elif isinstance(value, tuple):
            tables |= table_bytes(value)
    return tables


@pytest.mark.parametrize("offset_groups", [0, 1])
@pytest.mark.parametrize("shared", [(), (0,), (1,)])
@pytest.mark.parametrize("aggregation", ["gather", "fold", "unfold"])
def test_a_plan_does_not_grow_with_the_area_of_the_image(aggregation, shared, offset_groups):
    def size_of_plan(size):
        kernels = {} if aggregation == "unfold" else {"kernels": 1, "shared": shared}
        call = block_call(
            16, size=size, batch=1, aggregation=aggregation, offset_groups=offset_groups, dtype=torch.float32, **kernels
        )
        dynamic_kernel, offsets = call.get("dynamic_kernel"), call.get("offsets")
        geometry = checks.geometry(call["x"], 3, 1, 1, 1)
        return sum(
            table_bytes(
                launch._prepare(launch._shapes(Call(call["x"], None, dynamic_kernel, offsets, None, geometry, aggregation))).plan
            ).values()
        )

    assert size_of_plan((300, 60)) == size_of_plan((20, 60))
    assert size_of_plan((20, 60)) < 20_000


def test_a_plan_of_a_computed_kernel_does_not_grow_either():
    def sizes(height):
        x = torch.zeros(1, 16, height, 30)
        geometry = checks.geometry(x, 3, 1, 1, 1)
        kernels = ux.LinearKernel(x[:, :4], torch.zeros(9, 4)), ux.AttentionKernel(x, x, 2)
        calls = [Call(x, None, kernel, None, None, geometry) for kernel in kernels]
        return [sum(table_bytes(launch._prepare(launch._shapes(call)).plan).values()) for call in calls]

    assert sizes(400) == sizes(20)
