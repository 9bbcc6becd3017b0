"""Exported networks give the network's values elsewhere: torch.export, and ONNX in onnxruntime."""

from dataclasses import replace
from functools import partial

import onnx
import onnxruntime
import pytest
import torch
from torchvision.models.feature_extraction import create_feature_extractor

import unified_extractor as ux
from tests.support.exported import assert_one_program_serves_a_range
from tests.support.families import SMALL
from tests.support.presets import PRESETS
from unified_extractor.layers.blocks import AveragePool
from unified_extractor.layers.drop_in import ExtractorConv2d
from unified_extractor.layers.placed import placed_extractor

BLOCKS = ux.presets.window_attention(6, heads=2, halo=1, block_start=2, relative_position="query")
NETWORKS = {
    "rednet26": lambda: ux.models.rednet26(10),
    "volo_d1": lambda: ux.models.volo_d1(10, img_size=64),
    "extractor_net with offsets": lambda: ux.models.extractor_net(10, ux.presets.unified(), widths=(16, 32), depths=(1, 1)),
    "volo with offsets and fold": lambda: SMALL["volo"](10, ux.presets.unified(aggregation="fold")),
    "internimage": lambda: SMALL["internimage"](10),
    "an upsampler": lambda: ux.UnifiedExtractor2d(3, 3, ux.presets.carafe(groups=3, hidden_channels=4)),
    "a channel kernel": lambda: ux.UnifiedExtractor2d(3, 3, ux.presets.ddf(reduction=1)),
    "points, blocks and learned queries": lambda: ux.models.extractor_net(
        10, [ux.presets.dcls(4, 5), BLOCKS, ux.presets.qna(3, heads=2)], widths=(4, 8, 8), depths=(1, 1, 1)
    ),
    "resnet with attention": lambda: SMALL["resnet"](10, ux.presets.local_attention(3, heads=4)),
}


def network_and_image(name):
    """Return the network with offsets that are not zero, and an image."""
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return network, torch.randn(2, 3, 64, 64)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_program_equals_the_network(name):
    network, x = network_and_image(name)
    program = torch.export.export(network, (x,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), network(x), rtol=1e-4, atol=1e-5)
    assert "unified_extractor" not in str(program.graph)


@pytest.mark.sampled(16)
@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_gives_the_networks_values(name, tmp_path):
    network, x = network_and_image(name)
    batch = {"x": {0: torch.export.Dim("batch", min=2)}}
    torch.onnx.export(network, (x,), tmp_path / "network.onnx", dynamo=True, dynamic_shapes=batch, verbose=False)
    assert_equal_in_onnxruntime(network, tmp_path / "network.onnx", x, torch.randn(3, 3, 64, 64))


DEFORMABLE = {
    "v1": (ux.presets.deformable_convolution(1, (3, 2), groups=2, offset_groups=4, dilation=(1, 2)), (2, 1)),
    "v1 with a bias": (replace(ux.presets.deformable_convolution(1, 3, dilation=2), bias=True), 1),
    "v2": (ux.presets.deformable_convolution(2), 1),
    "v2 with a bias": (replace(ux.presets.deformable_convolution(2, (2, 5), groups=4, offset_groups=2), bias=True), (1, 3)),
    "v2 of the whole image": (replace(ux.presets.deformable_convolution(2), generator=ux.Generator(view="global")), 2),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", DEFORMABLE)
def test_a_deformable_convolution_is_one_onnx_node_where_that_is_asked_for(name, tmp_path):
    torch.manual_seed(0)
    spec, stride = DEFORMABLE[name]
    layer, x = ux.UnifiedExtractor2d(8, 12, spec, stride).eval(), torch.randn(2, 8, 9, 7)
    for parameter in layer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    sizes = {"x": {0: "batch", 2: "height", 3: "width"}}
    with ux.interop.deform_conv_nodes():
        torch.onnx.export(
            layer, (x,), tmp_path / "layer.onnx", dynamo=True, dynamic_shapes=sizes, opset_version=19, verbose=False
        )
    onnx.checker.check_model(tmp_path / "layer.onnx", full_check=True)
    operators = [node.op_type for node in onnx.load(tmp_path / "layer.onnx").graph.node]
    assert operators[-1] == "DeformConv"
    assert not {"Gather", "GatherElements", "GatherND", "Floor"} & set(operators)
    assert_equal_in_onnxruntime(layer, tmp_path / "layer.onnx", x, torch.randn(3, 8, 12, 10))


@pytest.mark.filterwarnings("ignore")
def test_other_layers_stay_composed_and_the_older_exporter_is_refused(tmp_path):
    x = torch.randn(2, 8, 5, 6)
    deformable, other = (ux.UnifiedExtractor2d(8, 8, ux.presets.deformable_convolution(version)).eval() for version in (1, 3))
    composed = [torch.onnx.export(deformable, (x,), dynamo=True, opset_version=19, verbose=False)]
    with ux.interop.deform_conv_nodes():
        composed += [torch.onnx.export(other, (x,), dynamo=True, opset_version=19, verbose=False)]
        torch.testing.assert_close(torch.export.export(deformable, (x,)).module()(x), deformable(x), rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match=r"deform_conv_nodes\(\) needs torch.onnx.export\(dynamo=True\), got dynamo=False"):
            torch.onnx.export(deformable, (x,), tmp_path / "layer.onnx", dynamo=False)
    assert "DeformConv" not in [node.op_type for program in composed for node in program.model.graph]


FAMILIES = ("extractor_net", "rednet", "volo", "internimage")


@pytest.mark.parametrize("family", [None, *(pytest.param(name, marks=pytest.mark.thorough) for name in FAMILIES)])
def test_one_onnx_file_serves_other_sizes(family, tmp_path):
    of_one_block = partial(ux.models.extractor_net, widths=(16,), depths=(1,), stem_stride=2)
    network, x = SMALL.get(family, of_one_block)(10).eval(), torch.randn(2, 3, 64, 64)
    sizes = {"x": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(network, (x,), tmp_path / "network.onnx", dynamo=True, dynamic_shapes=sizes, verbose=False)
    assert_equal_in_onnxruntime(network, tmp_path / "network.onnx", x, torch.randn(3, 3, 96, 80))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("family", SMALL)
def test_a_traced_network_equals_the_network(family):
    network, x = SMALL[family](10).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(network, (x,))(x), network(x), rtol=1e-4, atol=1e-5)


def assert_equal_in_onnxruntime(network, path, *batches):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for images in batches:
        (given,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(given), network(images), rtol=1e-3, atol=1e-4)


@pytest.mark.thorough
def test_onnxruntime_gives_the_values_of_a_layer_with_a_guide(tmp_path):
    layer = ux.UnifiedExtractor2d(4, 6, ux.presets.pac(3), guide_channels=3).eval()
    inputs = torch.randn(2, 4, 6, 7), torch.randn(2, 3, 6, 7)
    torch.onnx.export(layer, inputs, tmp_path / "layer.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {i.name: value.numpy() for i, value in zip(session.get_inputs(), inputs, strict=True)})
    torch.testing.assert_close(torch.from_numpy(given), layer(*inputs).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.sampled(32)
@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
@pytest.mark.parametrize("name", PRESETS)
def test_one_exported_layer_serves_named_ranges_of_sizes(name, stride):
    layer = ux.UnifiedExtractor2d(16, 16, PRESETS[name], stride).eval()
    for parameter in layer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    assert_one_program_serves_a_range(layer, torch.randn(2, 16, 20, 22), 8, [(1, 8, 8), (3, 9, 13), (2, 33, 20)])


@pytest.mark.sampled(6)
@pytest.mark.parametrize("family", SMALL)
def test_one_exported_network_serves_named_ranges_of_sizes(family):
    network = SMALL[family](10).eval()
    assert_one_program_serves_a_range(network, torch.randn(2, 3, 96, 80), 64, [(1, 64, 64), (3, 65, 97)])


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["neighborhood_attention", "outlook_attention", "unified_fold", "deformable_convolution_v3"])
@pytest.mark.parametrize("family", ["rednet", "volo"])
def test_networks_of_other_extractors_serve_named_ranges_too(family, name):
    """Maps smaller than a window, pooled folds, and maps whose channels are neighbors in memory."""
    network = SMALL[family](10, PRESETS[name]).eval().to(memory_format=torch.channels_last)
    assert_one_program_serves_a_range(network, torch.randn(2, 3, 96, 80), 64, [(1, 64, 64), (3, 65, 97)])


@pytest.mark.parametrize("stride", [(2, 2), (3, 1), (1, 4)])
@pytest.mark.parametrize("size", [(8, 8), (9, 10), (3, 1), (1, 11)])
def test_an_exported_average_is_that_of_pooling_in_ceil_mode(stride, size):
    pool, x = AveragePool(stride), torch.randn(2, 3, *size)
    assert torch.equal(pool(x), torch.nn.functional.avg_pool2d(x, stride, stride, ceil_mode=True))
    torch.testing.assert_close(torch.export.export(pool, (x,)).module()(x), pool(x), rtol=3e-7, atol=0)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("family", SMALL)
def test_fx_graphs_of_networks_serve_other_sizes(family):
    network = SMALL[family](10).eval()
    traced, features = torch.fx.symbolic_trace(network), create_feature_extractor(network, ["stage2"])
    for x in (torch.randn(2, 3, 64, 64), torch.randn(1, 3, 96, 80)):
        with torch.no_grad():
            assert torch.equal(traced(x), network(x))
            assert torch.equal(features(x)["stage2"], network.forward_intermediates(x, intermediates_only=True)[1])


def test_fx_takes_layers_whole_wherever_windows_must_fit_and_beside_convolutions():
    parts = [ExtractorConv2d(16, 16, "involution", 2), placed_extractor(16, 16, PRESETS["neighborhood_attention"])]
    network = torch.nn.Sequential(*parts, torch.nn.Conv2d(16, 4, 1)).eval()
    graph = torch.fx.symbolic_trace(network)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["0", "1", "2"]
    x = torch.randn(1, 16, 9, 21)
    assert torch.equal(graph(x), network(x))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("family", SMALL)
def test_a_traced_network_serves_other_sizes(family):
    network = SMALL[family](10).eval()
    with torch.no_grad():
        traced, x = torch.jit.trace(network, (torch.randn(2, 3, 64, 64),)), torch.randn(1, 3, 96, 80)
        torch.testing.assert_close(traced(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "module", [ux.models.rednet26(10), torch.nn.Sequential(ux.UnifiedExtractor2d(4, 4, ux.presets.convolution()))]
)
def test_scripting_is_refused_in_words(module):
    with pytest.raises(NotImplementedError, match=r"torch\.jit\.script does not compile UnifiedExtractor2d: use torch\.export"):
        torch.jit.script(module)
