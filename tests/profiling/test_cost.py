"""The cost of a module, against counts by hand and torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import unified_extractor as ux
from tests.support.families import SMALL
from tests.support.presets import COUNTED, PRESETS
from unified_extractor.profiling.cost import multiply_adds

presets = ux.presets


def of(spec, channels=32, size=(10, 12), stride=1):
    return ux.analysis.cost(ux.UnifiedExtractor2d(channels, channels, spec, stride), (channels, *size))


def test_a_convolution_costs_what_torch_counts():
    convolution = torch.nn.Conv2d(32, 32, 3, padding=1, bias=False)
    with FlopCounterMode(display=False) as counter:
        convolution(torch.randn(1, 32, 10, 12))
    assert of(presets.convolution()).multiply_adds == counter.get_total_flops() // 2 == 32 * 32 * 9 * 120
    assert of(presets.depthwise_convolution()).multiply_adds == 32 * 9 * 120


def test_involution_costs_its_generator_and_one_product_a_tap():
    cost = of(presets.involution(7))
    assert cost.multiply_adds_by_part["operator"] == 32 * 49 * 120
    assert cost.multiply_adds_by_part["generator"] == (32 * 8 + 8 * 49 * 2) * 120
    assert cost.parameters == 32 * 8 + 2 * 8 + 8 * 98 + 98


def test_a_learned_position_costs_four_more_a_read_and_a_fold_k_products():
    dcnv1, dcnv2 = of(presets.deformable_convolution(1)), of(presets.deformable_convolution(2))
    reads = 32 * 9 * 120
    assert dcnv1.multiply_adds_by_part["operator"] == reads * (32 + 4)
    assert dcnv2.multiply_adds_by_part["operator"] == reads * (32 + 4 + 1)
    assert of(presets.outlook_attention(heads=4)).multiply_adds_by_part["operator"] == reads * 9
    assert of(presets.outlook_attention(heads=4), stride=2).multiply_adds_by_part["operator"] == reads * 9 // 4


def test_attention_counts_query_key_products_with_its_generator():
    cost = of(presets.local_attention(3, heads=4))
    assert cost.multiply_adds_by_part["generator"] == (2 * 32 * 32 + 32 * 9) * 120
    assert cost.multiply_adds_by_part["projection"] == 2 * 32 * 32 * 120


def test_attention_at_learned_positions_counts_the_reads_of_keys_and_values():
    dynamic = ux.DynamicKernel(source="similarity", groups=4)
    grid = of(ux.ExtractorSpec(dynamic_kernel=dynamic)).multiply_adds_by_part
    with_offsets = ux.ExtractorSpec(dynamic_kernel=dynamic, offsets=ux.Offsets(kind="learned"))
    reads, offsets_head = 32 * 9 * 120, 32 * 18 * 120
    assert of(with_offsets).multiply_adds_by_part["operator"] - grid["operator"] == 4 * reads
    assert of(with_offsets).multiply_adds_by_part["generator"] - grid["generator"] == 4 * reads + offsets_head


@pytest.mark.sampled(8)
@pytest.mark.parametrize("name", COUNTED)
def test_parts_add_up_and_counting_changes_nothing(name):
    net = ux.models.extractor_net(10, PRESETS[name], widths=(16, 32), depths=(1, 1))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    cost = ux.analysis.cost(net, (3, 16, 16))
    assert cost.parameters == sum(p.numel() for p in net.parameters()) == sum(cost.parameters_by_part.values())
    assert cost.multiply_adds == sum(cost.multiply_adds_by_part.values())
    assert cost.peak_activation_bytes > 0
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert ux.analysis.cost(net, (2, 3, 16, 16)).multiply_adds == 2 * cost.multiply_adds
    assert multiply_adds(net, (3, 16, 16)) == cost.multiply_adds, (
        "the count alone, with no hooks that have kernels stored, misses some"
    )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("spec", [presets.depthwise_convolution(), presets.convolution()], ids=["depthwise", "dense"])
def test_a_network_whose_operator_torch_sees_costs_what_torch_counts(family, spec):
    if family == "rednet":
        pytest.skip("its stem has an involution")
    with torch.device("meta"):  # on the CPU torch's counter does not see its fused attention
        network = SMALL[family](10, spec).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.randn(1, 3, 64, 64))
    assert ux.analysis.cost(network, (3, 64, 64)).multiply_adds == counter.get_total_flops() // 2


def test_stages_that_are_called_without_their_network_are_counted_once():
    backbone = ux.models.ExtractorNet(2, presets.convolution(), widths=(8, 16), depths=(1, 1))
    network = ux.models.SegmentationNet(backbone, 3, channels=8).eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(1, 3, 16, 12))
    assert multiply_adds(network, (3, 16, 12)) == counter.get_total_flops() // 2


def test_an_input_shape_of_another_rank_is_refused():
    with pytest.raises(ValueError, match="input_shape must be"):
        ux.analysis.cost(torch.nn.Linear(1, 1), (1, 1))


def test_elementwise_operations_stand_beside_the_total():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 1, bias=False), torch.nn.GELU()
    )
    cost = ux.analysis.cost(network, (3, 6, 7))
    assert cost.elementwise == 42 * (4 * (1 + 2 + 1) + 5)
    assert cost.multiply_adds == 42 * (3 * 4 + 4 * 5)


@pytest.mark.parametrize(
    "name", ["involution", "outlook_attention", "local_attention", "deformable_convolution_v2", "unified_fold"]
)
def test_torchs_counter_sees_the_registered_operators(name):
    layer = ux.UnifiedExtractor2d(64, 64, PRESETS[name]).eval()
    x = torch.randn(2, 64, 12, 12)
    layer(x)  # brings the compiled backend, which registers its formula
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    assert counter.get_total_flops() // 2 == ux.analysis.cost(layer, (2, 64, 12, 12)).multiply_adds


def test_a_call_within_a_module_is_counted_whole_without_values():
    class Filtered(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.kernel = (torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 8, 3, 3), (1, 2, 9, 6, 6)))

        def forward(self, x):
            return ux.extract(x, kernel_size=3, static_kernel=self.weight, dynamic_kernel=self.kernel, padding=1, backend="eager")

    module = torch.nn.Sequential(Filtered(), ux.UnifiedExtractor2d(8, 8, presets.involution(3, channels_per_group=4))).eval()
    with FlopCounterMode(display=False) as counter:
        module[0](torch.randn(1, 8, 6, 6))
    whole = ux.analysis.cost(module, (8, 6, 6)).multiply_adds - ux.analysis.cost(module[1], (8, 6, 6)).multiply_adds
    assert whole == counter.get_total_flops() // 2 == 8 * 8 * 9 * 36


def test_torchs_counter_counts_a_gradient_as_another_pass():
    call = {"kernel_size": 3, "padding": 1, "backend": "compiled"}
    x, kernel = torch.randn(1, 32, 8, 8, requires_grad=True), torch.randn(1, 2, 9, 8, 8, requires_grad=True)
    ux.extract(x, dynamic_kernel=kernel, **call)
    with FlopCounterMode(display=False) as counter:
        ux.extract(x, dynamic_kernel=kernel, **call).sum().backward()
    assert counter.get_total_flops() // 2 == 3 * 32 * 9 * 64
