"""Random legal calls: output and every gradient of every backend equal the independent formula in float64."""

import pytest
import torch

import unified_extractor as ux
from tests.support import oracles
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.random_calls import random_call, relayout

SEEDS = range(400)


def test_eager_and_reference_are_usable_everywhere():
    usable = [name for name, reason in ux.backends().items() if reason is None]
    assert {"eager", "reference"} <= set(usable)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", SEEDS)
def test_random_call_equals_the_formula(seed, backend):
    call = random_call(seed)
    expected = values_and_gradients(oracles.extract, call, seed)
    assert_same(values_and_gradients(ux.extract, call | {"backend": backend}, seed), expected)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(400, 460))
def test_the_chosen_backend_equals_the_formula(seed):
    call = random_call(seed)
    assert_same(values_and_gradients(ux.extract, call, seed), values_and_gradients(oracles.extract, call, seed))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(500, 560))
def test_generalized_unfold_equals_the_formula(seed):
    names = ("x", "kernel_size", "offsets", "stride", "padding", "dilation", "upsample")
    call = {name: value for name, value in random_call(seed).items() if name in names}
    assert_same(values_and_gradients(ux.generalized_unfold, call, seed), values_and_gradients(oracles.unfold, call, seed))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed"])
@pytest.mark.parametrize("seed", range(600, 620))
def test_memory_layout_does_not_change_values(seed, layout, backend):
    call = random_call(seed)
    expected = values_and_gradients(oracles.extract, call, seed)
    call = {name: relayout(value, layout) if isinstance(value, torch.Tensor) else value for name, value in call.items()}
    assert_same(values_and_gradients(ux.extract, call | {"backend": backend}, seed), expected)


def test_inputs_are_left_as_they_were(backend):
    for seed in range(700, 720):
        call = random_call(seed)
        before = {name: value.clone() for name, value in call.items() if isinstance(value, torch.Tensor)}
        values_and_gradients(ux.extract, call | {"backend": backend}, seed)
        assert all(torch.equal(call[name], value) for name, value in before.items())


@pytest.fixture
def poisoned_memory():
    """Fresh memory is filled with NaN, so that an element never written is seen."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(800, 860))
def test_every_element_is_written(seed, backend, poisoned_memory):
    assert torch.empty(3).isnan().all()
    call = random_call(seed)
    expected = values_and_gradients(oracles.extract, call, seed)
    assert_same(values_and_gradients(ux.extract, call | {"backend": backend}, seed), expected)


def composed_kernel(dynamic_kernel, size, kernel_size, stride, padding, dilation):
    """DESIGN fact 1 by loops: D'[b, g, displacement, pixel] summed over windows and pairs of taps, plus the kernel's size."""
    (kh, kw), (height, width) = kernel_size, size
    batch, groups, _, _, rows, columns = dynamic_kernel.shape
    composed = torch.zeros(batch, groups, 2 * kh - 1, 2 * kw - 1, height, width, dtype=dynamic_kernel.dtype)
    taps = [(i, j) for i in range(kh) for j in range(kw)]
    for row in range(rows):
        for column in range(columns):
            for out, (out_y, out_x) in enumerate(taps):
                y = stride * row - padding + dilation * out_y
                x = stride * column - padding + dilation * out_x
                if 0 <= y < height and 0 <= x < width:
                    for source, (source_y, source_x) in enumerate(taps):
                        place = (source_y - out_y + kh - 1, source_x - out_x + kw - 1)
                        composed[:, :, *place, y, x] += dynamic_kernel[:, :, out, source, row, column]
    return composed.flatten(2, 3)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_fold_on_a_fixed_grid_is_a_gather_with_the_composed_kernel(stride, dilation, backend):
    torch.manual_seed(stride + 2 * dilation)
    kernel_size, size, padding = (3, 2), (6, 7), 1
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    windows = oracles.output_size(size, kernel_size, stride, padding, dilation)
    dynamic_kernel = torch.randn(2, 2, 6, 6, *windows, dtype=torch.float64)
    folded = ux.extract(
        x, kernel_size=kernel_size, dynamic_kernel=dynamic_kernel, stride=stride, padding=padding, dilation=dilation,
        aggregation="fold", backend=backend,
    )  # fmt: skip
    gathered = ux.extract(
        x, kernel_size=(5, 3), dynamic_kernel=composed_kernel(dynamic_kernel, size, kernel_size, stride, padding, dilation),
        padding=(2 * dilation, dilation), dilation=dilation, backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(folded, gathered, rtol=0, atol=1e-10)


def test_fold_adds_each_output_where_its_tap_lies(backend):
    x = torch.zeros(1, 1, 4, 5, dtype=torch.float64)
    x[0, 0, 1, 2] = 1
    dynamic_kernel = torch.zeros(1, 1, 6, 6, 3, 3, dtype=torch.float64)
    dynamic_kernel[0, 0, 5, 0, 1, 2] = 7.0
    y = ux.extract(x, kernel_size=(2, 3), dynamic_kernel=dynamic_kernel, aggregation="fold", backend=backend)
    expected = torch.zeros_like(x)
    expected[0, 0, 2, 4] = 7.0
    assert torch.equal(y, expected)


def test_offsets_move_reading_only_and_are_rows_then_columns(backend):
    x = torch.arange(20, dtype=torch.float64).reshape(1, 1, 4, 5)
    offsets = torch.zeros(1, 1, 1, 2, 4, 5, dtype=torch.float64)
    offsets[0, 0, 0, :, 0, 0] = torch.tensor([2.0, 1.0])
    gathered = ux.extract(x, kernel_size=1, offsets=offsets, backend=backend)
    folded = ux.extract(x, kernel_size=1, offsets=offsets, aggregation="fold", backend=backend)
    expected = x.clone()
    expected[0, 0, 0, 0] = x[0, 0, 2, 1]
    assert torch.equal(gathered, expected)
    assert torch.equal(folded, expected)


def test_groups_are_contiguous(backend):
    x = torch.ones(1, 4, 1, 1, dtype=torch.float64)
    dynamic_kernel = torch.tensor([2.0, 3.0], dtype=torch.float64).reshape(1, 2, 1, 1, 1)
    offsets = torch.zeros(1, 2, 1, 2, 1, 1, dtype=torch.float64)
    offsets[0, 1, 0, 0] = 0.5
    y = ux.extract(x, kernel_size=1, dynamic_kernel=dynamic_kernel, offsets=offsets, backend=backend)
    assert y.flatten().tolist() == [2.0, 2.0, 1.5, 1.5]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, (2, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_gives_the_size_over_the_stride_rounded_up(kernel_size, stride, backend):
    x = torch.randn(1, 2, 7, 4, dtype=torch.float64)
    y = ux.extract(x, kernel_size=kernel_size, stride=stride, padding="same", dilation=2, backend=backend)
    assert y.shape == (1, 2, -(-7 // stride), -(-4 // stride))
