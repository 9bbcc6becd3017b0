"""Windows that are moved onto blocks equal attention inside blocks, cut out of the image as in the papers, with every gradient."""

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

import unified_extractor as ux
from tests.support import oracles
from tests.support.backends import COMPARED
from tests.support.exported import assert_one_program_serves_a_range
from tests.support.preset_formulas import assert_backend_equals_reference, assert_equal, layer_of


def heads_of(layer):
    """Query, key, value and projection as linear layers of the pixels."""
    return [(c.weight.flatten(1), c.bias) for c in (layer.kernel.query, layer.kernel.key, layer.value, layer.projection)]


@pytest.mark.parametrize(("window", "shift"), [((2, 3), (0, 0)), ((2, 3), (1, 1)), ((4, 4), (2, 2)), ((1, 5), (0, 3))])
def test_window_attention_is_that_of_swin(window, shift):
    """Liu et al. 2021: the image rolled by the shift, cut into windows, and masked where a window has pixels that were not neighbors."""
    layer = layer_of(ux.presets.window_attention(window, heads=2, block_start=shift), 8)
    (kh, kw), (height, width) = window, (2 * window[0], 3 * window[1])

    def windows(image):
        """[B,C,H,W] -> [B*windows, heads, kh*kw, C/heads]."""
        rolled = torch.roll(image, (-shift[0], -shift[1]), (2, 3))
        cut = (
            rolled.unflatten(3, (-1, kw)).unflatten(2, (-1, kh)).unflatten(1, (2, -1))
        )  # [B, heads, C/heads, rows, kh, columns, kw]
        return cut.permute(0, 3, 5, 1, 4, 6, 2).flatten(4, 5).flatten(0, 2)

    def formula(x):
        query, key, value, output = heads_of(layer)
        q, k, v = (windows(oracles.pixelwise(x, linear)) for linear in (query, key, value))
        places = torch.tensor(list(product(range(kh), range(kw))))
        rows, columns = (places[None] - places[:, None] + torch.tensor([kh - 1, kw - 1])).unbind(2)  # key minus query
        bias = layer.kernel.position[:, rows, columns]
        bands = [(torch.arange(n) >= n - s).double() for n, s in zip((height, width), shift, strict=True)]
        regions = torch.roll(bands[0][:, None] + 2 * bands[1], shift, (0, 1)).expand(len(x), 8, -1, -1)
        region = windows(regions)[:, :1, :, 0]
        apart = region[:, :, :, None] != region[:, :, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(apart, -torch.inf))
        y = y.unflatten(2, (kh, kw)).unflatten(0, (len(x), height // kh, width // kw))
        y = y.permute(0, 3, 6, 1, 4, 2, 5).flatten(1, 2).flatten(4, 5).flatten(2, 3)
        return oracles.pixelwise(torch.roll(y, shift, (2, 3)), output)

    assert_equal(layer, formula, torch.randn(2, 8, height, width))


def block_attention(x, query, key, value, output, bias, *, heads, kernel_size, halo, block_start, dilation=1):
    """Attention of the pixels of each block to the block and a halo around it, inside the image; blocks of each residue class."""
    q, k, v = (oracles.pixelwise(x, linear).unflatten(1, (heads, -1)) for linear in (query, key, value))
    y = torch.zeros_like(q)
    axes = list(zip(x.shape[2:], kernel_size, halo, block_start, strict=True))
    for residues in product(range(dilation), repeat=2):
        blocks = []
        for (size, kernel, around, start), residue in zip(axes, residues, strict=True):
            members, block = torch.arange(residue, size, dilation), kernel - 2 * around
            firsts = range(start - block, len(members), block)
            cut = [
                (range(max(f, 0), min(f + block, len(members))), range(max(f - around, 0), min(f + block + around, len(members))))
                for f in firsts
            ]
            blocks.append([(members, list(inside), list(seen)) for inside, seen in cut if len(inside)])
        for (rows, own_rows, seen_rows), (columns, own_columns, seen_columns) in product(*blocks):
            own, seen = list(product(own_rows, own_columns)), list(product(seen_rows, seen_columns))
            at_own, at_seen = ((rows[[i for i, _ in p]], columns[[j for _, j in p]]) for p in (own, seen))
            apart = torch.tensor(seen)[None] - torch.tensor(own)[:, None] + torch.tensor(bias.shape[1:]) // 2
            logits = bias[:, apart[..., 0], apart[..., 1]]
            queries, keys, values = q[..., at_own[0], at_own[1]], k[..., at_seen[0], at_seen[1]], v[..., at_seen[0], at_seen[1]]
            attended = F.scaled_dot_product_attention(
                *(part.transpose(2, 3) for part in (queries, keys, values)), attn_mask=logits
            )
            y[..., at_own[0], at_own[1]] = attended.transpose(2, 3)
    return oracles.pixelwise(y.flatten(1, 2), output)


@pytest.mark.parametrize(
    ("kernel_size", "halo", "block_start", "dilation", "size"),
    [
        ((6, 4), (2, 1), (0, 0), 1, (6, 6)),
        ((5, 3), (1, 1), (0, 0), 1, (7, 5)),
        ((3, 4), (0, 0), (2, 1), 1, (8, 9)),
        ((4, 5), (1, 1), (1, 2), 1, (1, 7)),
        ((2, 4), (0, 1), (1, 0), 2, (7, 9)),
    ],
)
def test_window_attention_with_a_halo_is_that_of_halonet_also_where_blocks_do_not_fit(
    kernel_size, halo, block_start, dilation, size
):
    """Vaswani et al. 2021, with keys outside the image left out."""
    spec = ux.presets.window_attention(kernel_size, heads=2, halo=halo, block_start=block_start)
    layer = layer_of(ux.ExtractorSpec(**{**vars(spec), "dilation": dilation}), 8)
    options = {"heads": 2, "kernel_size": kernel_size, "halo": halo, "block_start": block_start, "dilation": dilation}
    assert_equal(
        layer, lambda x: block_attention(x, *heads_of(layer), layer.kernel.position, **options), torch.randn(2, 8, *size)
    )


def test_the_windows_of_a_block_are_the_same():
    spec = ux.ExtractorSpec(
        kernel_size=(2, 3), offsets=ux.Offsets(kind="block"), static_kernel=ux.StaticKernel(channels="depthwise")
    )
    layer, x = ux.UnifiedExtractor2d(4, 4, spec), torch.randn(1, 4, 4, 6)
    expected = F.interpolate(F.conv2d(x, layer.static_kernel, stride=(2, 3), groups=4), scale_factor=(2, 3), mode="nearest")
    torch.testing.assert_close(layer(x), expected)
    offsets, _ = layer.generate(x)
    assert (offsets == offsets.round()).all()


@pytest.mark.parametrize("backend", COMPARED)
def test_every_backend_has_the_same_output_and_gradients(backend, monkeypatch):
    spec = ux.presets.window_attention((3, 4), heads=2, halo=(1, 0), block_start=(0, 2))
    assert_backend_equals_reference(backend, layer_of(spec, 8), monkeypatch)


def test_whole_offsets_cost_no_bilinear_samples():
    parts = ux.analysis.cost(ux.UnifiedExtractor2d(16, 16, ux.presets.window_attention(4, heads=2)), (16, 8, 9))
    assert parts.multiply_adds_by_part["operator"] == 72 * 16 * 16
    assert parts.parameters == 4 * (16 * 16 + 16) + 2 * 7 * 7


@pytest.mark.sampled(2)
@pytest.mark.parametrize("relative_position", [True, "query"])
def test_one_exported_layer_serves_named_ranges_of_sizes(relative_position):
    spec = ux.presets.window_attention(4, heads=2, halo=1, block_start=1, relative_position=relative_position)
    assert_one_program_serves_a_range(layer_of(spec, 8).float(), torch.randn(2, 8, 9, 8), 3, [(1, 3, 4), (3, 11, 6)])


def test_products_of_query_and_position_are_counted_once_for_every_row_and_column():
    spec = ux.presets.local_attention((3, 5), heads=2, relative_position="query")
    cost = ux.analysis.cost(ux.UnifiedExtractor2d(16, 16, spec), (16, 6, 7))
    assert cost.multiply_adds_by_part["generator"] == 42 * (2 * 16 * 16 + 15 * 16 + (3 + 5) * 16)
    assert cost.parameters == 4 * (16 * 16 + 16) + (3 + 5) * 8


class Interior(torch.nn.Module):
    """What a layer gives at pixels whose windows lie inside the image."""

    def __init__(self, layer, border):
        super().__init__()
        self.layer, self.border = layer, border

    def forward(self, x):
        return self.layer(x)[:, :, self.border : -self.border, self.border : -self.border]


def test_positions_of_the_query_inside_the_image_are_those_of_timms_halo_attention():
    """At the border timm's zeros take part in the softmax, ours are left out."""
    halo_attn = pytest.importorskip("timm.layers.halo_attn")
    heads, block, halo = 2, 2, 1
    spec = ux.presets.window_attention(block + 2 * halo, heads, halo=halo, relative_position="query")
    layer = layer_of(replace(spec, projection=ux.Projection(input="linear")), 8)
    peer = halo_attn.HaloAttn(8, num_heads=heads, dim_head=4, block_size=block, halo_size=halo, scale_pos_embed=True).double()
    kernel = layer.kernel

    def formula(x):
        key_and_value = torch.stack([part.weight.unflatten(0, (heads, -1)) for part in (kernel.key, layer.value)], 1)
        vectors = {
            f"pos_embed.{name}_rel": F.pad(table, (0, 0, 2 * halo, 0))
            for name, table in (("height", kernel.position.rows), ("width", kernel.position.columns))
        }
        weights = {"q.weight": kernel.query.weight, "kv.weight": key_and_value.flatten(0, 2)} | vectors
        return torch.func.functional_call(peer, weights, (x,))[:, :, block:-block, block:-block]

    assert_equal(Interior(layer, block), formula, torch.randn(2, 8, 6, 8))
