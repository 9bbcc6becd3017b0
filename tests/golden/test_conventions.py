"""Mistakes that keep every shape intact: each is made on purpose, and the comparison with independent values must notice it."""

import dataclasses

import pytest
import torch

import unified_extractor as ux
from tests.support.official_files import FILES, assert_official_values, build
from tests.support.preset_formulas import assert_equal, deformable_formula, layer_of
from unified_extractor.interop.official import layers
from unified_extractor.layers import channel_kernels, generators, learned_queries, offsets, regions
from unified_extractor.layers.blocks import cell_means
from unified_extractor.ops import dynamic_kernels


def official_values(name, kernel_memory="store"):
    """Return the comparison with one file of official values."""
    return lambda: assert_official_values(next(p for p in FILES if name in p.stem), kernel_memory)


def torchvision_values():
    layer = layer_of(ux.presets.deformable_convolution(2, offset_groups=2), 4)
    assert_equal(layer, deformable_formula(layer, offset_groups=2, groups=1, masked=True), torch.randn(2, 4, 6, 7))


def after(monkeypatch, module, change):
    """Change what a module's forward returns."""
    original = module.forward
    monkeypatch.setattr(module, "forward", lambda *arguments: change(original(*arguments)))


def built_with(monkeypatch, **fields):
    """Build the layer with other spec fields."""

    def changed(values, kernel_memory):
        layer = build(values)
        spec = dataclasses.replace(layer.spec, **{k: v(layer.spec) if callable(v) else v for k, v in fields.items()})
        channels = layer.in_channels, layer.out_channels
        other = ux.UnifiedExtractor2d(*channels, spec, layer.stride, kernel_memory=kernel_memory)
        return other.double().train(layer.training)

    monkeypatch.setattr("tests.support.official_files.build", changed)


def computed_from(monkeypatch, change):
    """Change what a linear kernel is computed from."""
    original = generators.GeneratedKernel.as_linear_map
    monkeypatch.setattr(generators.GeneratedKernel, "as_linear_map", lambda *arguments: change(original(*arguments)))


def transposed(kernel):
    rows = torch.arange(kernel.weight.shape[0]).view(-1, 9, 9).transpose(1, 2).flatten()
    return kernel._replace(weight=kernel.weight[rows], bias=kernel.bias[rows])


def interleaved(spec):
    return dataclasses.replace(spec.dynamic_kernel, channel_order="interleaved")


def tap_bias(table, geometry, spec):
    rows, columns = ((k - 1) // 2 for k in geometry.kernel_size)
    return table[:, rows : rows + geometry.kernel_size[0], columns : columns + geometry.kernel_size[1]].flatten(1)[
        :, :, None, None
    ]


def softmax_over(axis):
    return lambda values, normalization: values.softmax(axis)


def columns_first(fine_values):
    return lambda values, factors: fine_values(values.unflatten(1, (-1, *factors)).transpose(2, 3).flatten(1, 3), factors)


MISTAKES = {
    "offsets as (x, y)": (official_values("dcnv3_c16"), lambda m: after(m, offsets.LearnedOffsets, lambda o: o.flip(3))),
    "taps column-major": (
        official_values("dcnv3_c16"),
        lambda m: m.setattr(layers, "_columnwise_places", lambda layer: list(range(9))),
    ),
    "offsets planar instead of paired": (
        torchvision_values,
        lambda m: after(m, offsets.LearnedOffsets, lambda o: o.flatten(2, 3).unflatten(2, (2, 9)).transpose(2, 3)),
    ),
    "mask applied twice": (torchvision_values, lambda m: after(m, generators.GeneratedKernel, lambda d: d * d)),
    "groups interleaved": (official_values("involution_c32_k3_s1_eval"), lambda m: built_with(m, dynamic_kernel=interleaved)),
    "K x K transposed": (
        official_values("outlook_c24_h2"),
        lambda m: computed_from(m, transposed),
    ),
    "softmax over the output tap": (
        official_values("outlook_c24_h2"),
        lambda m: m.setattr(dynamic_kernels, "normalized", softmax_over(-4)),
    ),
    "softmax over the heads": (official_values("dcnv3_c16"), lambda m: m.setattr(dynamic_kernels, "normalized", softmax_over(1))),
    "kernel branch strided instead of pooled": (
        official_values("involution_c48_k5_s2_eval"),
        lambda m: m.setattr(generators, "average_pooled", lambda x, s: x[..., :: s[0], :: s[1]]),
    ),
    "fold divided by its overlap": (official_values("outlook_c24_h3_k3_s2"), lambda m: built_with(m, overlap_normalize=True)),
    "logits not scaled": (
        official_values("outlook_c24_h2"),
        lambda m: built_with(m, dynamic_kernel=lambda s: dataclasses.replace(s.dynamic_kernel, scale_by_head_dim=False)),
    ),
    "softmax over the taps instead of the terms": (
        official_values("idconv_c16_k3_g2_eval"),
        lambda m: m.setattr(generators.GeneratedKernel, "_normalized", lambda self, values: values.softmax(-3)),
    ),
    "cells of the image column-major": (
        official_values("idconv_c16_k3_g2_eval"),
        lambda m: m.setattr(generators, "cell_means", lambda x, cells: cell_means(x, cells).transpose(2, 3)),
    ),
    "squares of the image instead of runs": (
        official_values("atconv_c16_k3"),
        lambda m: m.setattr(
            generators.Feature, "forward", lambda self, x: self._hidden(cell_means(x, (3, 3)).flatten(2)[:, :, None])
        ),
    ),
    "the whole mean instead of a share": (
        official_values("atconv_c16_k3"),
        lambda m: m.setattr(
            generators, "centered", lambda values, logits: values - values.mean(-3, keepdim=True) + 0 * logits.sum()
        ),
    ),
    "regions of the image column-major": (
        official_values("contmix_c12_k5_s3_h1_eval"),
        lambda m: m.setattr(regions, "cell_means", lambda x, cells: cell_means(x, cells).transpose(2, 3)),
    ),
    "the small window for the second half of the channels": (
        official_values("contmix_c12_k5_s3_h1_eval"),
        lambda m: after(m, ux.UnifiedExtractor2d, lambda y: y.roll(6, 1)),
    ),
    "position of the tap in the window instead of the true one": (
        official_values("contmix_c12_k5_s3_h1_eval"),
        lambda m: m.setattr(regions, "position_bias", tap_bias),
    ),
    "heads before queries": (
        official_values("qna_c16_h2"),
        lambda m: m.setattr(
            learned_queries.LearnedQueryKernel, "_queries", lambda self: self.scale * self.query.view(4, -1, 1, 1)
        ),
    ),
    "weight of taps outside the image": (
        official_values("qna_c12_h3"),
        lambda m: m.setattr(learned_queries, "without_outside_taps", lambda values, *_: values),
    ),
    "offsets of an upsampler as (x, y)": (
        official_values("dysample_c16_x2_lp"),
        lambda m: after(m, offsets.LearnedOffsets, lambda o: o.flip(3)),
    ),
    "samples at the border blended with zeros": (
        official_values("dysample_c16_x2_pl"),
        lambda m: m.setattr(offsets, "inside_image", lambda o, geometry: o),
    ),
    "a channel's taps before channels": (
        official_values("ddf_c16"),
        lambda m: after(m, channel_kernels.ChannelKernel, lambda e: e.transpose(1, 2).reshape(e.shape)),
    ),
    "a spatial kernel's taps column by column": (
        official_values("ddf_c20"),
        lambda m: after(m, generators.GeneratedKernel, lambda d: d.unflatten(2, (3, 3)).transpose(2, 3).flatten(2, 3)),
    ),
    "filters that are joined by the other rule": (
        official_values("ddf_c20"),
        lambda m: built_with(m, channel_kernel=lambda spec: dataclasses.replace(spec.channel_kernel, combine="multiply")),
    ),
    "sub-positions column by column": (
        official_values("carafe_c12"),
        lambda m: m.setattr(generators, "fine_values", columns_first(generators.fine_values)),
    ),
    "recomputed, K x K transposed": (official_values("outlook_c24_h2", "recompute"), lambda m: computed_from(m, transposed)),
    "recomputed, logits not scaled": (
        official_values("outlook_c24_h2", "recompute"),
        lambda m: computed_from(m, lambda kernel: kernel._replace(scale=1.0)),
    ),
    "recomputed, not normalized": (
        official_values("dcnv3_c16", "recompute"),
        lambda m: computed_from(m, lambda kernel: kernel._replace(normalization="none")),
    ),
    "recomputed, groups interleaved": (
        official_values("involution_c32_k3_s1_eval", "recompute"),
        lambda m: built_with(m, dynamic_kernel=interleaved),
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_the_mistake_is_noticed(name, monkeypatch):
    check, mistake = MISTAKES[name]
    check()
    mistake(monkeypatch)
    with pytest.raises(AssertionError, match="not close"):
        check()


def test_a_strided_fold_of_a_constant_has_the_checkerboard_gain_of_its_overlap_unless_normalized():
    """VOLO never divides by the number of covering windows: 1, 2 and 4 at stride 2 inside the image."""
    x, uniform = torch.ones(1, 1, 9, 9, dtype=torch.float64), torch.full((1, 1, 9, 9, 1, 1), 1 / 9, dtype=torch.float64)
    options = {"kernel_size": 3, "stride": 2, "aggregation": "fold"}
    y = ux.extract(x, dynamic_kernel=uniform, **options)
    assert sorted(set(y[0, 0, 2:7, 2:7].flatten().round(decimals=9).tolist())) == [1, 2, 4]
    layer = ux.UnifiedExtractor2d(
        2, 2, ux.ExtractorSpec(**{**vars(ux.presets.outlook_attention()), "overlap_normalize": True}), 2
    )
    ux.interop.load_official(
        layer,
        {
            "v.weight": torch.eye(2),
            "attn.weight": torch.zeros(81, 2),
            "attn.bias": torch.zeros(81),
            "proj.weight": torch.eye(2),
            "proj.bias": torch.zeros(2),
        },
        "outlook_attention",
    )
    torch.testing.assert_close(layer(torch.ones(1, 2, 9, 9))[..., 2:7, 2:7], torch.ones(1, 2, 5, 5))
