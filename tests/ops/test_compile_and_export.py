"""`torch.compile(fullgraph=True)` changes no value and no gradient; `torch.export` of a call gives the same output."""

import pytest
import torch

import unified_extractor as ux
from tests.support.comparing import assert_same, values_and_gradients
from tests.support.random_calls import random_call
from unified_extractor.ops import checks
from unified_extractor.ops.fold_as_gather import compose_fold

SIZE = (5, 6)
MODES = {
    "gather": ({"dynamic_kernel": (2, 2, 4, *SIZE), "bias": (4,)}, {}),
    "gather per image": ({"dynamic_kernel": (2, 4, 4, 1, 1)}, {}),
    "dense": ({"static_kernel": (3, 4, 2, 2), "bias": (3,)}, {}),
    "depthwise times generated": ({"static_kernel": (4, 1, 2, 2), "dynamic_kernel": (2, 2, 4, *SIZE)}, {}),
    "add": ({"static_kernel": (4, 4, 2, 2), "dynamic_kernel": (2, 2, 4, *SIZE)}, {"combine": "add"}),
    "residual": ({"static_kernel": (4, 1, 2, 2), "dynamic_kernel": (2, 2, 4, *SIZE)}, {"combine": "residual"}),
    "terms": ({"static_kernel": (3, 4, 1, 2, 2), "dynamic_kernel": (2, 3, 2, 1, *SIZE), "bias": (4,)}, {}),
    "terms per image": ({"static_kernel": (3, 6, 2, 2, 2), "dynamic_kernel": (2, 3, 1, 1, 1, 1)}, {}),
    "terms, offsets": (
        {"static_kernel": (2, 3, 4, 2, 2), "dynamic_kernel": (2, 2, 2, 4, *SIZE), "offsets": (2, 1, 4, 2, *SIZE)},
        {},
    ),
    "channel kernel": ({"dynamic_kernel": (2, 2, 4, *SIZE), "channel_kernel": (2, 4, 4), "bias": (4,)}, {}),
    "channel kernel, residual": (
        {"static_kernel": (3, 4, 2, 2), "dynamic_kernel": (2, 2, 4, *SIZE), "channel_kernel": (2, 4, 1)},
        {"combine": "residual"},
    ),
    "offsets": ({"offsets": (2, 2, 4, 2, *SIZE), "dynamic_kernel": (2, 2, 4, *SIZE)}, {}),
    "offsets, dense": ({"offsets": (2, 2, 4, 2, *SIZE), "static_kernel": (3, 4, 2, 2)}, {}),
    "upsample": ({"dynamic_kernel": (2, 2, 4, 10, 12), "offsets": (2, 1, 4, 2, 10, 12)}, {"upsample": 2}),
    "fold": ({"dynamic_kernel": (2, 2, 4, 4, *SIZE)}, {"aggregation": "fold"}),
    "fold, offsets": ({"dynamic_kernel": (2, 2, 4, 4, *SIZE), "offsets": (2, 1, 4, 2, *SIZE)}, {"aggregation": "fold"}),
    "fold, stride 2": ({"dynamic_kernel": (2, 2, 4, 4, 3, 3)}, {"aggregation": "fold", "stride": 2}),
}


def call_of(mode):
    shapes, options = MODES[mode]
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in ({"x": (2, 4, *SIZE)} | shapes).items()
    }
    return tensors, options | {"kernel_size": 2, "padding": "same"}


def assert_compiled_is_equal(mode, compiler, backend=None):
    torch._dynamo.reset()
    tensors, options = call_of(mode)

    def function(**tensors):
        return ux.extract(**tensors, **options, backend=backend)

    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    assert_same(values_and_gradients(compiled, tensors), values_and_gradients(function, tensors))


@pytest.mark.sampled(8)
@pytest.mark.parametrize("mode", MODES)
def test_compiled_without_graph_breaks_equals_uncompiled(mode):
    assert_compiled_is_equal(mode, "aot_eager", backend="eager")


def test_the_chosen_backend_compiles_without_graph_breaks():
    assert_compiled_is_equal("gather", "aot_eager")
    assert_compiled_is_equal("terms", "aot_eager", backend="compiled")
    assert_compiled_is_equal("channel kernel", "aot_eager", backend="compiled")


def test_inductor_equals_uncompiled():
    assert_compiled_is_equal("depthwise times generated", "inductor", backend="eager")


def test_one_graph_serves_other_sizes():
    torch._dynamo.reset()

    def window_sum(x):
        return ux.extract(x, kernel_size=3, padding="same", stride=2)

    compiled = torch.compile(window_sum, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in ((5, 6), (8, 7), (11, 4)):
        call = {"x": torch.randn(2, 3, *size, dtype=torch.float64)}
        assert_same(values_and_gradients(compiled, call), values_and_gradients(window_sum, call))


def test_generalized_unfold_compiles_without_graph_breaks():
    torch._dynamo.reset()
    tensors, _ = call_of("offsets")
    call = {"x": tensors["x"], "offsets": tensors["offsets"]}

    def unfold(x, offsets):
        return ux.generalized_unfold(x, 2, offsets=offsets, padding="same")

    compiled = torch.compile(unfold, fullgraph=True, backend="aot_eager")
    assert_same(values_and_gradients(compiled, call), values_and_gradients(unfold, call))


@pytest.mark.parametrize("padding", ["same", 0])
def test_composing_compiles_without_graph_breaks(padding):
    torch._dynamo.reset()
    window = checks.geometry(torch.empty(2, 4, *SIZE), 2, 1, padding, 1)

    def composed(dynamic):
        return compose_fold(dynamic, window)

    compiled = torch.compile(composed, fullgraph=True, backend="aot_eager")
    call = {"dynamic": torch.randn(2, 2, 4, 4, *window.output, dtype=torch.float64)}
    assert_same(values_and_gradients(compiled, call), values_and_gradients(composed, call))


@pytest.mark.parametrize("mode", MODES)
def test_exported_call_equals_the_call(mode):
    tensors, options = call_of(mode)

    class Call(torch.nn.Module):
        def forward(self, **tensors):
            return ux.extract(**tensors, **options, backend="eager")

    exported = torch.export.export(Call(), (), tensors).module()
    torch.testing.assert_close(exported(**tensors), Call()(**tensors), rtol=0, atol=1e-12)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(30))
def test_an_exported_random_call_equals_the_call(seed):
    call = {name: value for name, value in random_call(seed).items() if value is not None}
    tensors = {name: value for name, value in call.items() if isinstance(value, torch.Tensor)}
    options = {name: value for name, value in call.items() if name not in tensors}

    class Call(torch.nn.Module):
        def forward(self, **tensors):
            return ux.extract(**tensors, **options, backend="eager")

    exported = torch.export.export(Call(), (), tensors).module()
    torch.testing.assert_close(exported(**tensors), Call()(**tensors), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("has_offsets", [False, True])
@pytest.mark.parametrize("aggregation", ["gather", "fold"])
def test_an_exported_graph_does_not_grow_with_the_kernel(aggregation, has_offsets):
    class Call(torch.nn.Module):
        def __init__(self, kernel_size):
            super().__init__()
            self.kernel_size = kernel_size

        def forward(self, x, dynamic_kernel, offsets=None):
            options = {"kernel_size": self.kernel_size, "padding": "same", "aggregation": aggregation}
            return ux.extract(x, dynamic_kernel=dynamic_kernel, offsets=offsets, **options)

    def operations(kernel_size):
        taps = (kernel_size**2,) * (2 if aggregation == "fold" else 1)
        tensors = [torch.randn(1, 4, 8, 8), torch.randn(1, 2, *taps, 8, 8)]
        tensors += [torch.randn(1, 1, kernel_size**2, 2, 8, 8)] if has_offsets else []
        nodes = torch.export.export(Call(kernel_size), tuple(tensors)).graph.nodes
        return sum(node.op == "call_function" for node in nodes)

    assert operations(3) == operations(5)
