"""Normalizations over the taps: layers equal formulas that are written window by window from the papers, with every gradient."""

from dataclasses import replace

import pytest
import torch

import unified_extractor as ux
from tests.support import oracles
from tests.support.preset_formulas import assert_equal, layer_of
from unified_extractor.ops.dynamic_kernels import centered, normalized

GENERATED = ux.DynamicKernel(source="generated", groups=2)
DEPTHWISE = ux.StaticKernel(channels="depthwise")
SPECS = {
    "gather": ux.ExtractorSpec(kernel_size=(3, 2), dynamic_kernel=GENERATED),
    "removed center": ux.ExtractorSpec(dynamic_kernel=replace(GENERATED, remove_center=True)),
    "fold": ux.ExtractorSpec(kernel_size=2, dynamic_kernel=GENERATED, aggregation="fold"),
    "scaled residual": ux.ExtractorSpec(
        static_kernel=DEPTHWISE, dynamic_kernel=replace(GENERATED, scale_by_head_dim=True), combine="residual"
    ),
    "terms": ux.ExtractorSpec(static_kernel=DEPTHWISE, dynamic_kernel=GENERATED, terms=2),
}


def by_paper(taps, normalization, share):
    """Return a list of one window's values, normalized: minus a share of the mean, or the filter normalization of DDF."""
    mean = sum(taps) / len(taps)
    if normalization == "centered":
        return [tap - share * mean for tap in taps]
    variance = sum((tap - mean) ** 2 for tap in taps) / (len(taps) - 1)
    return [(tap - mean) / (variance.sqrt() + 1e-10) for tap in taps]


def kernel_by_paper(layer, x):
    """Return the layer's dynamic kernel, written out from its head's values; shares of the mean are one a group."""
    spec, dynamic, kernel = layer.spec, layer.spec.dynamic_kernel, layer.kernel
    emitted = spec.taps - dynamic.remove_center
    values = kernel.head(x).unflatten(1, (-1, emitted)) * (4**-0.5 if dynamic.scale_by_head_dim else 1)
    share = torch.sigmoid(kernel.mean_share).flatten() if dynamic.normalization == "centered" else torch.zeros(1)
    share = share.repeat_interleave(values.shape[1] // len(share))[None, :, None, None]
    taps = by_paper(list(values.unbind(2)), dynamic.normalization, share)
    if dynamic.remove_center:
        taps.insert(spec.taps // 2, torch.zeros_like(taps[0]))
    shape = [2, spec.taps] if spec.aggregation == "fold" else [spec.terms, 2] if spec.terms > 1 else [2]
    return torch.stack(taps, 2).unflatten(1, shape)


@pytest.mark.parametrize("normalization", ["centered", "standardized"])
@pytest.mark.parametrize("name", SPECS)
def test_a_layer_is_the_operator_on_kernels_normalized_as_in_the_paper(name, normalization):
    spec = SPECS[name]
    layer = layer_of(replace(spec, dynamic_kernel=replace(spec.dynamic_kernel, normalization=normalization)), 8)

    def formula(x):
        kernel, options = kernel_by_paper(layer, x), {"padding": "same"}
        if spec.terms > 1:
            pairs = zip(layer.static_kernel, kernel.unbind(1), strict=True)
            return sum(oracles.extract(x, spec.kernel_size, s, d, **options) for s, d in pairs)
        options |= {"combine": spec.combine, "aggregation": spec.aggregation}
        return oracles.extract(x, spec.kernel_size, layer.static_kernel, kernel, **options)

    assert_equal(layer, formula, torch.randn(2, 8, 5, 6), tolerance=1e-9)


def test_normalizations_have_first_and_second_derivatives():
    values = torch.randn(2, 3, 4, 2, 1, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(3, dtype=torch.float64, requires_grad=True)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(centered, (values, logits))
        assert check(lambda v: normalized(v, "standardized"), (values,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_standardized_in_float32_as_equal_taps_are(dtype):
    values = torch.randn(2, 3, 9, 4, 4)
    torch.testing.assert_close(
        normalized(values.to(dtype), "standardized"),
        normalized(values.to(dtype).float(), "standardized").to(dtype),
        rtol=0,
        atol=0,
    )
    assert not normalized(torch.full((1, 1, 9, 1, 1), 3.0, dtype=dtype), "standardized").any()


def test_a_centered_kernel_starts_without_half_of_its_mean():
    layer = ux.UnifiedExtractor2d(8, 8, ux.ExtractorSpec(dynamic_kernel=replace(GENERATED, normalization="centered")))
    plain = ux.UnifiedExtractor2d(8, 8, ux.ExtractorSpec(dynamic_kernel=GENERATED))
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if "share" not in name})
    x = torch.randn(1, 8, 4, 5)
    (_, kernel), (_, other) = layer.generate(x), plain.generate(x)
    torch.testing.assert_close(kernel, other - other.mean(2, keepdim=True) / 2)


@pytest.mark.parametrize("normalization", ["centered", "standardized"])
def test_an_exported_layer_has_the_values_at_other_sizes(normalization):
    spec = ux.ExtractorSpec(dynamic_kernel=replace(GENERATED, normalization=normalization))
    layer, x = ux.UnifiedExtractor2d(8, 8, spec).eval(), torch.randn(2, 8, 6, 5)
    names = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    program = torch.export.export(layer, (x,), dynamic_shapes=(names,)).module()
    for image in (x, torch.randn(2, 8, 4, 9)):
        torch.testing.assert_close(program(image), layer(image))
