"""Function transforms give what loops give: `vmap` over any argument, Jacobians, Hessians, forward mode, batched backward passes."""

import pytest
import torch
from torch.autograd import forward_ad

import unified_extractor as ux
from unified_extractor.ops.functional import similarity

SIZE, TAPS = (4, 5), 4
WINDOWS = {"kernel_size": 2, "padding": "same"}
CALLS = {
    "convolution": ({"x": (2, 4, *SIZE), "static_kernel": (6, 2, 2, 2), "bias": (6,)}, {}),
    "strided, dilated": ({"x": (2, 4, 7, 6), "dynamic_kernel": (2, 2, TAPS, 4, 3)}, {"stride": 2, "dilation": 2}),
    "gather": ({"x": (2, 4, *SIZE), "dynamic_kernel": (2, 2, TAPS, *SIZE)}, {}),
    "per image": ({"x": (2, 4, *SIZE), "dynamic_kernel": (2, 4, TAPS, 1, 1)}, {}),
    "dense": ({"x": (2, 4, *SIZE), "static_kernel": (3, 4, 2, 2), "dynamic_kernel": (2, 2, TAPS, *SIZE), "bias": (3,)}, {}),
    "add": (
        {"x": (2, 4, *SIZE), "static_kernel": (4, 1, 2, 2), "dynamic_kernel": (2, 2, TAPS, *SIZE)},
        {"combine": "add"},
    ),
    "residual": (
        {"x": (2, 4, *SIZE), "static_kernel": (4, 1, 2, 2), "dynamic_kernel": (2, 2, TAPS, *SIZE)},
        {"combine": "residual"},
    ),
    "terms": ({"x": (2, 4, *SIZE), "static_kernel": (2, 4, 1, 2, 2), "dynamic_kernel": (2, 2, 2, 1, *SIZE)}, {}),
    "terms per image": ({"x": (2, 4, *SIZE), "static_kernel": (2, 6, 2, 2, 2), "dynamic_kernel": (2, 2, 1, 1, 1, 1)}, {}),
    "channel kernel": (
        {
            "x": (2, 4, *SIZE),
            "dynamic_kernel": (2, 2, TAPS, *SIZE),
            "channel_kernel": (2, 4, TAPS),
            "static_kernel": (3, 4, 2, 2),
        },
        {"combine": "residual"},
    ),
    "offsets": ({"x": (2, 4, *SIZE), "dynamic_kernel": (2, 2, TAPS, *SIZE), "offsets": (2, 2, TAPS, 2, *SIZE)}, {}),
    "offsets, dense": ({"x": (2, 4, *SIZE), "static_kernel": (3, 4, 2, 2), "offsets": (2, 1, TAPS, 2, 1, *SIZE[1:])}, {}),
    "fold": ({"x": (2, 4, *SIZE), "dynamic_kernel": (2, 2, TAPS, TAPS, *SIZE)}, {"aggregation": "fold"}),
    "fold, offsets": (
        {"x": (2, 4, *SIZE), "dynamic_kernel": (2, 2, TAPS, TAPS, *SIZE), "offsets": (2, 1, TAPS, 2, *SIZE)},
        {"aggregation": "fold"},
    ),
    "unfold": ({"x": (2, 4, *SIZE)}, {}),
    "unfold, offsets": ({"x": (2, 4, *SIZE), "offsets": (2, 2, TAPS, 2, *SIZE)}, {}),
    "similarity": ({"query": (2, 4, *SIZE), "key": (2, 4, *SIZE)}, {"heads": 2}),
    "linear": ({"x": (2, 4, *SIZE), "feature": (2, 3, *SIZE), "weight": (2 * TAPS, 3), "bias": (2 * TAPS,)}, {}),
    "attention": ({"x": (2, 4, *SIZE), "query": (2, 4, *SIZE), "key": (2, 4, *SIZE), "position": (2, 2, 2)}, {}),
}


def function_of(case, backend=None):
    """Return the call as a function of its tensors alone, in order."""
    shapes, options = CALLS[case]
    options = WINDOWS | options | {"backend": backend}

    def function(*values):
        tensors = dict(zip(shapes, values, strict=True))
        if case.startswith("unfold"):
            return ux.generalized_unfold(tensors["x"], 2, offsets=tensors.get("offsets"), padding="same")
        if case == "similarity":
            return similarity(**tensors, kernel_size=2, heads=2, backend=backend)
        if case == "linear":
            kernel = ux.LinearKernel(tensors["feature"], tensors["weight"], tensors["bias"], 0.5, "softmax")
            return ux.extract(tensors["x"], dynamic_kernel=kernel, **options)
        if case == "attention":
            kernel = ux.AttentionKernel(tensors["query"], tensors["key"], 2, tensors["position"])
            return ux.extract(tensors["x"], dynamic_kernel=kernel, **options)
        return ux.extract(**tensors, **options)

    return function


def tensors_of(case, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in CALLS[case][0].values()]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CALLS)
def test_vmap_over_any_arguments_equals_a_loop(case):
    function, values = function_of(case), tensors_of(case)
    alternatives = [values, *(tensors_of(case, seed) for seed in (1, 2))]
    mapped = [(i,) for i in range(len(values))] + [tuple(range(len(values)))]
    for places in mapped:
        axis = max(places) % 2  # the mapped axis need not be the first
        given = [torch.stack([v[i] for v in alternatives], axis) if i in places else values[i] for i in range(len(values))]
        loop = [function(*(v[i] if i in places else values[i] for i in range(len(values)))) for v in alternatives]
        in_dims = tuple(axis if i in places else None for i in range(len(values)))
        close(torch.func.vmap(function, in_dims)(*given), torch.stack(loop))


def jacobian_by_rows(function, values):
    """Return the Jacobians by each argument, one backward pass for each output."""
    leaves = [value.clone().requires_grad_() for value in values]
    y = function(*leaves)
    rows = [torch.autograd.grad(one, leaves, retain_graph=True) for one in y.flatten()]
    return [torch.stack(part).view(*y.shape, *leaf.shape) for part, leaf in zip(zip(*rows, strict=True), leaves, strict=True)]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", CALLS)
def test_jacobians_of_every_kind_equal_rows_computed_one_by_one(case):
    function, values = function_of(case), tensors_of(case)
    expected = jacobian_by_rows(function, values)
    everything = tuple(range(len(values)))
    close(list(torch.func.jacrev(function, everything)(*values)), expected)
    close(list(torch.func.jacfwd(function, everything)(*values)), expected)
    for strategy in ("reverse-mode", "forward-mode"):
        found = torch.autograd.functional.jacobian(function, tuple(values), vectorize=True, strategy=strategy)
        close(list(found), expected)


@pytest.mark.parametrize("backend", ["compiled", "eager"])
@pytest.mark.parametrize("case", CALLS)
def test_a_batched_backward_pass_equals_one_for_each_gradient(case, backend):
    if ux.backends()[backend] is not None or case.startswith("unfold"):
        pytest.skip("this backend does not run here, or cannot be chosen")
    function, leaves = function_of(case, backend), [v.requires_grad_() for v in tensors_of(case)]
    y = function(*leaves)
    cotangents = torch.randn(3, *y.shape, dtype=torch.float64)

    def gradients_of(cotangent):
        return torch.autograd.grad(y, leaves, cotangent, retain_graph=True)

    loop = [torch.stack(parts) for parts in zip(*map(gradients_of, cotangents), strict=True)]
    close(list(torch.autograd.grad(y, leaves, cotangents, is_grads_batched=True, retain_graph=True)), loop)
    close(list(torch.func.vmap(gradients_of)(cotangents)), loop)


@pytest.mark.parametrize("case", CALLS)
def test_forward_mode_equals_reverse_mode_twice(case):
    function, values = function_of(case), tensors_of(case)
    tangents = tuple(tensors_of(case, 1))
    y, expected = torch.autograd.functional.jvp(function, tuple(values), tangents)
    close(torch.func.jvp(function, tuple(values), tangents), (y, expected))
    with forward_ad.dual_level():
        dual = function(*(forward_ad.make_dual(v, t) for v, t in zip(values, tangents, strict=True)))
        close(forward_ad.unpack_dual(dual).tangent, expected)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", CALLS)
def test_second_derivatives_agree(case):
    function, values = function_of(case), tensors_of(case)

    def energy(first):
        return function(first, *values[1:]).square().sum().sin()

    x = values[0]
    expected = torch.autograd.functional.hessian(energy, x)
    close(torch.func.hessian(energy)(x), expected)
    close(torch.autograd.functional.hessian(energy, x, vectorize=True), expected)
    gradient = torch.func.grad(lambda x: torch.func.grad(energy)(x).square().sum())(x)
    close(gradient.flatten(), 2 * expected.view(x.numel(), -1) @ torch.func.grad(energy)(x).flatten())


def test_transforms_within_transforms():
    function, values = function_of("offsets"), tensors_of("offsets")
    many = [torch.stack([v, 2 * v]) for v in values]
    nested = torch.func.vmap(torch.func.vmap(function, (0, None, None)), (None, 0, 0))(*many)
    close(nested[1, 0], function(values[0], 2 * values[1], 2 * values[2]))
    per_sample = torch.func.vmap(torch.func.grad(lambda *v: function(*v).square().sum(), (0, 1, 2)))(*many)
    single = torch.func.grad(lambda *v: function(*v).square().sum(), (0, 1, 2))(*(m[1] for m in many))
    close([part[1] for part in per_sample], list(single))


def test_mere_gradients_keep_the_hand_written_backward(backends_used, monkeypatch):
    """A gradient by `torch.func` saves no columns of all taps."""
    from unified_extractor.ops.backends.eager import columns

    monkeypatch.setattr(columns, "product", None)
    function, values = function_of("gather"), tensors_of("gather")
    torch.func.grad(lambda x: function(x, *values[1:]).sum())(values[0])
    assert backends_used == ["eager"]
