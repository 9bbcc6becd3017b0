"""Half precisions: the error against float64 is at most twice that of plain PyTorch in the same dtype."""

import pytest
import torch

import unified_extractor as ux
from tests.support import oracles
from tests.support.comparing import assert_as_exact_as_plain, assert_same, values_and_gradients
from tests.support.plain_torch import KERNEL, MODES, SIZE, normal, tensors_of

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALVES = DTYPES[1:]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_errors_are_at_most_twice_those_of_plain_torch(mode, dtype, backend):
    plain, _, options = MODES[mode]
    low, high = tensors_of(mode, dtype)
    actual = values_and_gradients(ux.extract, low | options | KERNEL | {"backend": backend})
    assert all(value.dtype == dtype for value in actual.values())
    assert_as_exact_as_plain(actual, values_and_gradients(plain, low), values_and_gradients(plain, high), dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_positions_are_computed_in_float32(dtype, backend):
    """Column 2049.25 is 2049.25: whole pixels above 2048 (256 in bfloat16) do not exist in the image's own dtype."""
    x = torch.arange(2304.0).fmod(7).reshape(1, 1, 1, -1)
    offsets = torch.zeros(1, 1, 1, 2, 1, 1)
    offsets[..., 1, :, :] = 0.25
    y = ux.extract(x.to(dtype), kernel_size=1, offsets=offsets, backend=backend)
    expected = ux.extract(x, kernel_size=1, offsets=offsets, backend=backend)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=7 * torch.finfo(dtype).eps)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "deformable"])
def test_float32_offsets_beside_half_images_keep_their_own_gradient_dtype(mode, dtype, backend):
    low, high = tensors_of(mode, dtype)
    offsets = normal(2, 2, 9, 2, *SIZE, seed=9).float()
    low, high = low | {"offsets": offsets}, high | {"offsets": offsets.double()}
    options = MODES[mode][2] | KERNEL
    actual = values_and_gradients(ux.extract, low | options | {"backend": backend})
    plain = values_and_gradients(oracles.extract, low | options)
    exact = values_and_gradients(oracles.extract, high | options)
    assert actual["offsets"].dtype == torch.float32
    assert actual["output"].dtype == actual["x"].dtype == dtype
    assert_as_exact_as_plain(actual, plain, exact, dtype)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("mode", MODES)
def test_autocast_is_as_exact_as_plain_torch_in_the_half_dtype(mode, dtype, backend):
    """Parameters and image in float32, as a model under autocast has them; gradients come back in float32."""
    plain, _, options = MODES[mode]
    low, high = tensors_of(mode, dtype)
    full = {name: tensor.float() for name, tensor in low.items()}

    def autocast(**arguments):
        with torch.autocast("cpu", dtype):
            return ux.extract(**arguments)

    actual = values_and_gradients(autocast, full | options | KERNEL | {"backend": backend})
    assert all(value.dtype == torch.float32 for name, value in actual.items() if name != "output")
    assert_as_exact_as_plain(actual, values_and_gradients(plain, low), values_and_gradients(plain, high), dtype)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("mode", [mode for mode, (_, shapes, _) in MODES.items() if "dynamic_kernel" in shapes])
def test_autocast_accepts_a_kernel_generated_in_the_half_dtype(mode, dtype, backend):
    """Under autocast a convolution generates D (and offsets) in half, while image and parameters are float32."""
    plain, _, options = MODES[mode]
    low, high = tensors_of(mode, dtype)
    generated = ("dynamic_kernel", "offsets")
    mixed = {name: tensor if name in generated else tensor.float() for name, tensor in low.items()}

    def autocast(**arguments):
        with torch.autocast("cpu", dtype):
            return ux.extract(**arguments)

    actual = values_and_gradients(autocast, mixed | options | KERNEL | {"backend": backend})
    assert {name: actual[name].dtype for name in mixed} == {name: tensor.dtype for name, tensor in mixed.items()}
    assert_as_exact_as_plain(actual, values_and_gradients(plain, low), values_and_gradients(plain, high), dtype)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


def sliced(x):
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), torch.nan, dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def strided_batch(x):
    return x.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("layout", [channels_last, sliced, strided_batch])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_layout_of_the_image_does_not_change_values(mode, dtype, layout, backend):
    options = MODES[mode][2] | KERNEL | {"backend": backend}
    low, _ = tensors_of(mode, dtype)
    image = layout(low["x"])
    assert not image.is_contiguous()
    expected = values_and_gradients(ux.extract, low | options)
    actual = values_and_gradients(ux.extract, low | {"x": image} | options)
    assert_same(actual, expected, 4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("mode", MODES)
def test_expanded_inputs_equal_their_copies(mode, backend):
    """Stride 0: one image for the batch, one row of D and of the offsets for all."""
    options = MODES[mode][2] | KERNEL | {"backend": backend}
    low, _ = tensors_of(mode, torch.float64)
    expanded = {
        name: tensor[:1].expand(tensor.shape) if name == "x" else tensor[..., :1].expand(tensor.shape)
        for name, tensor in low.items()
        if name not in ("static_kernel", "bias")
    }
    expected = values_and_gradients(ux.extract, low | {name: tensor.contiguous() for name, tensor in expanded.items()} | options)
    assert_same(values_and_gradients(ux.extract, low | expanded | options), expected)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(mode, dtype, backend):
    low, _ = tensors_of(mode, dtype)
    empty = {name: tensor if name in ("static_kernel", "bias") else tensor[:0] for name, tensor in low.items()}
    results = values_and_gradients(ux.extract, empty | MODES[mode][2] | KERNEL | {"backend": backend})
    outputs = low["static_kernel"].shape[-4] if "static_kernel" in low else 8
    assert results["output"].shape == (0, outputs, *SIZE)
    assert {name: results[name].shape for name in empty} == {name: tensor.shape for name, tensor in empty.items()}
    assert not any(results[name].any() for name in empty)


@pytest.mark.parametrize("mode", MODES)
def test_no_gradient_is_computed_for_what_asks_none(mode, backend):
    low, _ = tensors_of(mode, torch.float64)
    options = MODES[mode][2] | KERNEL | {"backend": backend}
    expected = values_and_gradients(ux.extract, low | options)
    cotangent = normal(*expected["output"].shape)
    for name in low:
        leaf = low[name].clone().requires_grad_()
        output = ux.extract(**(low | {name: leaf} | options))
        torch.testing.assert_close(torch.autograd.grad(output, leaf, cotangent)[0], expected[name], rtol=0, atol=1e-10)
    assert not ux.extract(**low, **options).requires_grad
