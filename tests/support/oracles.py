"""Independent formulas: slow, plain, differentiable by autograd, written from the definitions and not from the package.

The operator is a product of matrices here. A tap's reading is an interpolation matrix [P, H*W] times the flattened image, a
shared kernel is spread over its channels by a one-hot matrix, and a grouped static kernel is a dense one with zeros.

Letters: B batch, C input channels, O output channels, G groups sharing a generated kernel, F offset groups, K = kh*kw taps in
row-major order, P output positions.

Layers take their weights explicitly. `Linear` is a pair (weight [out, in], bias [out] or None), applied to each pixel.
`Norm` is a tuple (weight, bias, running_mean, running_var), each [channels].
"""

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Linear = tuple[Tensor, Tensor | None]
Norm = tuple[Tensor, Tensor, Tensor, Tensor]


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def paddings(padding, kernel_size, dilation):
    """((top, bottom), (left, right)) from an int, a pair or "same"."""
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(pair(dilation), pair(kernel_size), strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in pair(padding))


def output_size(size, kernel_size, stride=1, padding=0, dilation=1, upsample=1):
    """(Ho, Wo) of windows over an image of size (H, W); not positive where no window fits."""
    pads = paddings(padding, kernel_size, dilation)
    axes = zip(size, pair(kernel_size), pair(stride), pads, pair(dilation), pair(upsample), strict=True)
    return tuple(r * ((n + before + after - d * (k - 1) - 1) // s + 1) for n, k, s, (before, after), d, r in axes)


def corner_weights(position, size):
    """[..., P] positions -> [..., P, size]: 1 - fraction at floor(position), fraction at the next pixel, nothing outside."""
    position = torch.where(torch.isfinite(position), position, torch.full_like(position, -2.0))
    low = position.detach().floor()
    fraction = (position - low).unsqueeze(-1)
    pixels = torch.arange(size, dtype=position.dtype)
    low = low.unsqueeze(-1)
    return (pixels == low) * (1 - fraction) + (pixels == low + 1) * fraction


def grid(kernel_size, out, stride, padding, dilation, dtype, upsample=1):
    """Rows [K, Ho, 1] and columns [K, 1, Wo] at which each tap of each window lies on the regular grid."""
    (top, _), (left, _) = paddings(padding, kernel_size, dilation)
    taps = torch.tensor(list(product(*map(range, pair(kernel_size)))), dtype=dtype)
    rows, columns = (
        s * torch.arange(n // r, dtype=dtype).repeat_interleave(r)
        for s, n, r in zip(pair(stride), out, pair(upsample), strict=True)
    )
    dy, dx = pair(dilation)
    return (
        rows[None, :, None] - top + dy * taps[:, 0, None, None],
        columns[None, None, :] - left + dx * taps[:, 1, None, None],
    )


def unfold(x, kernel_size, offsets=None, stride=1, padding=0, dilation=1, upsample=1):
    """x [B,C,H,W], offsets [B,F,K,2,Ho|1,Wo|1] -> [B,C,K,Ho,Wo]."""
    height, width = x.shape[2:]
    out = output_size((height, width), kernel_size, stride, padding, dilation, upsample)
    dtype = torch.promote_types(x.dtype, torch.float32)
    rows, columns = grid(kernel_size, out, stride, padding, dilation, dtype, upsample)
    taps = len(rows)
    offsets = torch.zeros(len(x), 1, taps, 2, 1, 1) if offsets is None else offsets
    offsets = offsets.to(dtype).expand(-1, -1, -1, -1, *out)
    read = []
    for k in range(taps):
        channels = []
        for image, shift in zip(x.chunk(offsets.shape[1], dim=1), offsets[:, :, k].unbind(1), strict=True):
            vertical = corner_weights((rows[k] + shift[:, 0]).flatten(1), height)
            horizontal = corner_weights((columns[k] + shift[:, 1]).flatten(1), width)
            matrix = (vertical[..., :, None] * horizontal[..., None, :]).flatten(2).to(x.dtype)
            channels.append(image.flatten(2) @ matrix.transpose(1, 2))
        read.append(torch.cat(channels, dim=1))
    return torch.stack(read, dim=2).unflatten(-1, out)


def one_hot_groups(groups, channels, like):
    """[groups, C] with a one where channel c belongs to the group, groups contiguous."""
    member = torch.arange(channels) // (channels // groups) == torch.arange(groups)[:, None]
    return member.to(like.dtype)


def dense_kernel(static_kernel, channels):
    """[O, C/groups, kh, kw] -> [O, C, K], zero where output and input channel are of different groups."""
    outputs, width = static_kernel.shape[:2]
    first = torch.arange(outputs) // (outputs * width // channels) * width
    place = first[:, None, None] + torch.arange(width)[None, :, None] == torch.arange(channels)
    return torch.einsum("onk,onc->ock", static_kernel.flatten(2), place.to(static_kernel.dtype))


def extract(
    x,
    kernel_size,
    static_kernel=None,
    dynamic_kernel=None,
    offsets=None,
    bias=None,
    stride=1,
    padding=0,
    dilation=1,
    combine="multiply",
    aggregation="gather",
    upsample=1,
    channel_kernel=None,
):
    """All of DESIGN section 1: gather -> [B,O,Ho,Wo], fold -> [B,C,H,W]. channel_kernel [B,C,K|1] multiplies the dynamic one."""
    batch, channels, height, width = x.shape
    read = unfold(x, kernel_size, offsets, stride, padding, dilation, upsample)
    taps, out = read.shape[2], read.shape[3:]
    if static_kernel is not None and static_kernel.ndim == 5:
        weight = window_kernels(static_kernel, dynamic_kernel, channels, taps, out)
        if channel_kernel is not None:
            weight = torch.einsum("bockhw,bck->bockhw", weight, channel_kernel.expand(-1, -1, taps))
        y = torch.einsum("bockhw,bckhw->bohw", weight, read)
        return y if bias is None else y + bias[:, None, None]
    identity = torch.eye(channels, dtype=x.dtype)[:, :, None].expand(-1, -1, taps)
    static = identity if static_kernel is None else dense_kernel(static_kernel, channels)
    if dynamic_kernel is None:
        dynamic_kernel = x.new_ones(batch, 1, *([taps] * (1 if aggregation == "gather" else 2)), 1, 1)
    spread = one_hot_groups(dynamic_kernel.shape[1], channels, x)
    axes = [taps] * (dynamic_kernel.ndim - 4)
    dynamic = torch.einsum("bg...,gc->bc...", dynamic_kernel, spread).expand(-1, -1, *axes, *out)
    if channel_kernel is not None:
        dynamic = torch.einsum("bc...khw,bck->bc...khw", dynamic, channel_kernel.expand(-1, -1, taps))
    if aggregation == "gather":
        if combine == "add":
            y = torch.einsum("ock,bckhw->bohw", static, read) + torch.einsum("bckhw,bckhw->bchw", dynamic, read)
        else:
            weight = 1 + dynamic if combine == "residual" else dynamic
            y = torch.einsum("ock,bckhw,bckhw->bohw", static, weight, read)
    else:
        y = x.new_zeros(batch, channels, height * width)
        rows, columns = grid(kernel_size, out, stride, padding, dilation, x.dtype)
        for i in range(taps):
            z = torch.einsum("bckhw,ck,bckhw->bchw", dynamic[:, :, i], torch.einsum("cck->ck", static), read)
            vertical = corner_weights(rows[i].expand(out).flatten(), height)
            horizontal = corner_weights(columns[i].expand(out).flatten(), width)
            y = y + z.flatten(2) @ (vertical[:, :, None] * horizontal[:, None, :]).flatten(1)
        y = y.unflatten(-1, (height, width))
    return y if bias is None else y + bias[:, None, None]


def window_kernels(static_kernel, dynamic_kernel, channels, taps, out):
    """[M,O,C/groups,kh,kw] and [B,M,G,K|1,Ho|1,Wo|1] -> [B,O,C,K,Ho,Wo]: the kernel of every window, term after term."""
    total = 0
    spread = one_hot_groups(dynamic_kernel.shape[2], channels, static_kernel)
    for static, dynamic in zip(static_kernel, dynamic_kernel.unbind(1), strict=True):
        by_channel = torch.einsum("bgkhw,gc->bckhw", dynamic, spread).expand(-1, -1, taps, *out)
        total = total + dense_kernel(static, channels)[None, :, :, :, None, None] * by_channel[:, None]
    return total


def pixelwise(x, linear):
    """[B,in,H,W] -> [B,out,H,W] by a Linear pair."""
    weight, bias = linear
    y = torch.einsum("oc,bchw->bohw", weight, x)
    return y if bias is None else y + bias[:, None, None]


def squeeze_excitation(x, reduce: Linear, expand: Linear):
    """Hu et al. 2018. reduce [R,C], expand [C,R]: every channel times a sigmoid of the whole image's mean."""
    pooled = x.mean(dim=(2, 3))
    gate = F.linear(F.linear(pooled, *reduce).relu(), *expand).sigmoid()
    return x * gate[:, :, None, None]


def split_heads(x, heads):
    """[B,C,H,W] -> [B,heads,H*W,C/heads], the channels of a head contiguous."""
    return x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)


def global_self_attention(x, query: Linear, key: Linear, value: Linear, output: Linear, *, heads):
    """Every pixel attends to every pixel. All four Linear are [C,C]; scale (C/heads)^-0.5."""
    q, k, v = (split_heads(pixelwise(x, linear), heads) for linear in (query, key, value))
    y = F.scaled_dot_product_attention(q, k, v)
    return pixelwise(y.transpose(2, 3).flatten(1, 2).unflatten(-1, x.shape[2:]), output)


def local_attention(
    x, query: Linear, key: Linear, value: Linear, output: Linear, *, heads, kernel_size, stride=1, dilation=1, relative_bias=None
):
    """Attention inside a window with "same" padding, taps outside the image masked. All four Linear are [C,C].

    relative_bias [heads, kh, kw] is added to the logits tap by tap. At stride > 1 queries come from the average-pooled input
    (ceil_mode, a partial window divided by the pixels it holds), keys and values from the whole map.
    """
    (top, bottom), (left, right) = paddings("same", kernel_size, dilation)

    def windows(image):
        padded = F.pad(image, (left, right, top, bottom))
        columns = F.unfold(padded, pair(kernel_size), dilation=dilation, stride=stride)
        return columns.unflatten(1, (image.shape[1], -1))

    q = pixelwise(F.avg_pool2d(x, stride, ceil_mode=True), query)
    out = q.shape[2:]
    q = split_heads(q, heads)
    k, v = (windows(pixelwise(x, linear)).unflatten(1, (heads, -1)) for linear in (key, value))
    logits = torch.einsum("bnpd,bndkp->bnkp", q, k) * q.shape[-1] ** -0.5
    if relative_bias is not None:
        logits = logits + relative_bias.flatten(1)[:, :, None]
    outside = windows(torch.ones_like(x[:, :1])) == 0
    attention = logits.masked_fill(outside, -torch.inf).softmax(dim=2)
    y = torch.einsum("bnkp,bndkp->bndp", attention, v).flatten(1, 2).unflatten(-1, out)
    return pixelwise(y, output)


def neighbors(place, size, kernel_size, dilation):
    """The kernel_size indices of place's residue class (mod dilation) nearest to being centered on it, all inside [0, size)."""
    members = list(range(place % dilation, size, dilation))
    start = members.index(place) - (kernel_size - 1) // 2
    start = min(max(start, 0), len(members) - kernel_size)
    return torch.tensor(members[start : start + kernel_size])


def neighborhood_attention(
    x, query: Linear, key: Linear, value: Linear, output: Linear, *, heads, kernel_size, dilation=1, relative_bias=None
):
    """Hassani et al. 2023: the window is shifted to stay inside the image. All four Linear are [C,C]; odd kernels.

    relative_bias [heads, 2*kh-1, 2*kw-1] is indexed by the true displacement of key from query, in units of the dilation.
    """
    (kh, kw), (dy, dx) = pair(kernel_size), pair(dilation)
    height, width = x.shape[2:]
    q, k, v = (pixelwise(x, linear).unflatten(1, (heads, -1)) for linear in (query, key, value))
    y = []
    for row, column in product(range(height), range(width)):
        rows, columns = neighbors(row, height, kh, dy), neighbors(column, width, kw, dx)
        near = (slice(None), slice(None), slice(None), rows[:, None], columns[None, :])
        logits = torch.einsum("bnd,bndij->bnij", q[..., row, column] * q.shape[2] ** -0.5, k[near])
        if relative_bias is not None:
            down, right = (rows - row) // dy + kh - 1, (columns - column) // dx + kw - 1
            logits = logits + relative_bias[:, down[:, None], right[None, :]]
        attention = logits.flatten(2).softmax(dim=2).unflatten(2, (kh, kw))
        y.append(torch.einsum("bnij,bndij->bnd", attention, v[near]).flatten(1))
    return pixelwise(torch.stack(y, dim=2).unflatten(2, (height, width)), output)


def means_of_cells(x, rows, columns):
    """Adaptive average pooling, cell by cell as defined: [B,C,H,W] -> [B,C,rows,columns]."""
    down, across = (
        [slice(cell * size // n, math.ceil((cell + 1) * size / n)) for cell in range(n)]
        for n, size in zip((rows, columns), x.shape[2:], strict=True)
    )
    return torch.stack([torch.stack([x[:, :, r, c].mean((2, 3)) for c in across], 2) for r in down], 2)


def region_logits(query, keys, weight, bias, heads):
    """Lou and Yu 2025: the affinities of each pixel of query [B,E,H,W] to the keys [B,E,r,s], mapped to T values: [B,heads,T,H,W]."""
    q, k = (image.flatten(2).unflatten(1, (heads, -1)) for image in (query, keys))
    affinities = torch.einsum("bnep,bner->bnpr", q, k)
    return F.linear(affinities, weight, bias).transpose(2, 3).unflatten(3, query.shape[2:])


def shifted_windows(value, logits, kernel_size, relative_bias, dilation=1):
    """A softmax of logits [B,heads,K,H,W] weighs value [B,C,H,W] in windows that stay inside the image as in neighborhood attention."""
    (kh, kw), (height, width) = pair(kernel_size), value.shape[2:]
    v, y = value.unflatten(1, (logits.shape[1], -1)), []
    for row, column in product(range(height), range(width)):
        rows, columns = neighbors(row, height, kh, dilation), neighbors(column, width, kw, dilation)
        down, right = (rows - row) // dilation + kh - 1, (columns - column) // dilation + kw - 1
        bias = relative_bias[:, down[:, None], right[None, :]].flatten(1)
        kernel = (logits[..., row, column] + bias).softmax(2).unflatten(2, (kh, kw))
        y.append(torch.einsum("bnij,bndij->bnd", kernel, v[:, :, :, rows[:, None], columns[None, :]]).flatten(1))
    return torch.stack(y, dim=2).unflatten(2, (height, width))


def batch_norm(x, norm: Norm, training):
    weight, bias, mean, variance = norm
    if training:
        return F.batch_norm(x, None, None, weight, bias, training=True)
    return F.batch_norm(x, mean, variance, weight, bias)


def ls_convolution(
    x,
    reduce: Linear,
    reduce_norm: Norm,
    look,
    look_norm: Norm,
    mix: Linear,
    mix_norm: Norm,
    span: Linear,
    group_norm: Linear,
    *,
    kernel_size=3,
    channels_per_group=8,
    training=False,
):
    """Wang et al. 2025 (LSNet), without the normalization and the residual around it; eps 1e-5 everywhere.

    reduce [C/2,C]; look [C/2,1,view,view], view odd; mix [C/2,C/2]; span [G*K,C/2] with rows g*K + k, G = C/channels_per_group;
    group_norm: weight and bias [G*K]. Channel c uses kernel c % G.
    """
    channels, (height, width) = x.shape[1], x.shape[2:]
    groups = channels // channels_per_group
    view = batch_norm(pixelwise(x, reduce), reduce_norm, training).relu()
    view = F.conv2d(view, look, padding=look.shape[-1] // 2, groups=channels // 2)
    view = batch_norm(view, look_norm, training)
    view = batch_norm(pixelwise(view, mix), mix_norm, training).relu()
    kernel = F.group_norm(pixelwise(view, span), groups, *group_norm).unflatten(1, (groups, -1))
    columns = F.unfold(x, kernel_size, padding=kernel_size // 2).unflatten(1, (channels, -1))
    channel = [(columns[:, c] * kernel[:, c % groups].flatten(2)).sum(1) for c in range(channels)]
    return torch.stack(channel, dim=1).unflatten(-1, (height, width))


def dcnv4(x, value: Linear, offset: Linear, mask: Linear, output: Linear, *, groups, kernel_size=3, dilation=1, offset_scale=1.0):
    """Xiong et al. 2024, stride 1, "same" padding, in this project's conventions: taps row-major, offsets (y, x).

    value and output [C,C]; offset [groups*K*2, C], rows in the order (group, tap, y or x); mask [groups*K, C], not normalized.
    Offsets and mask come from x itself, not from its projection. offset_scale s scales the regular grid about the window's center
    too: a tap at center + dilation*t moves to center + s*(dilation*t + offset).
    """
    (kh, kw), (dy, dx) = pair(kernel_size), pair(dilation)
    from_center = torch.tensor(
        [(dy * (i - (kh - 1) / 2), dx * (j - (kw - 1) / 2)) for i, j in product(range(kh), range(kw))], dtype=x.dtype
    )[:, :, None, None]
    delta = pixelwise(x, offset).unflatten(1, (groups, kh * kw, 2))
    offsets = offset_scale * (from_center + delta) - from_center
    weight = pixelwise(x, mask).unflatten(1, (groups, 1, kh * kw))
    read = unfold(pixelwise(x, value), kernel_size, offsets, padding="same", dilation=dilation)
    return pixelwise((read.unflatten(1, (groups, -1)) * weight).sum(3).flatten(1, 2), output)
