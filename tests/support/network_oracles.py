"""Whole networks as plain functions of an official state dict: written from the papers' equations, with nothing of the package.

Images are [B, C, H, W]; all norms are in eval mode.
"""

import torch
import torch.nn.functional as F


class State:
    """An official state dict, read under a prefix."""

    def __init__(self, values, prefix=""):
        self.values, self.prefix = values, prefix

    def under(self, name):
        return State(self.values, f"{self.prefix}{name}.")

    def __getitem__(self, name):
        return self.values.get(self.prefix + name)

    def has(self, name):
        return any(key.startswith(self.prefix + name) for key in self.values)

    def conv(self, name, x, stride=1, groups=1):
        weight = self[f"{name}.weight"]
        return F.conv2d(x, weight, self[f"{name}.bias"], stride, weight.shape[-1] // 2, groups=groups)

    def batch_norm(self, name, x):
        at = self.under(name)
        return F.batch_norm(x, at["running_mean"], at["running_var"], at["weight"], at["bias"])

    def layer_norm(self, name, x):
        """Over the channels of every pixel."""
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).square().mean(1, keepdim=True)
        weight, bias = (self[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        return (x - mean) / torch.sqrt(variance + 1e-6) * weight + bias

    def linear(self, name, x):
        """A linear layer applied to every pixel."""
        y = torch.einsum("oc,bchw->bohw", self[f"{name}.weight"], x)
        bias = self[f"{name}.bias"]
        return y if bias is None else y + bias[:, None, None]


def involution(state, x, stride, channels_per_group=16):
    """Li et al. 2021: the kernel of every window from its (average-pooled) center pixel, shared by 16 channels."""
    batch, channels = x.shape[:2]
    seen = F.avg_pool2d(x, stride) if stride > 1 else x
    hidden = state.batch_norm("conv1.bn", state.conv("conv1.conv", seen)).relu()
    kernel = state.conv("conv2.conv", hidden)
    groups, (height, width) = channels // channels_per_group, kernel.shape[2:]
    taps = kernel.shape[1] // groups
    size = round(taps**0.5)
    windows = F.unfold(x, size, padding=size // 2, stride=stride).view(batch, groups, channels_per_group, taps, height, width)
    return (windows * kernel.view(batch, groups, 1, taps, height, width)).sum(3).view(batch, channels, height, width)


def rednet(values, x, depths):
    """RedNet with d-li14's names."""
    stem = State(values, "backbone.stem.")
    x = stem.batch_norm("0.bn", stem.conv("0.conv", x, 2)).relu()
    x = stem.batch_norm("2", involution(stem.under("1"), x, 1)).relu()
    x = stem.batch_norm("4.bn", stem.conv("4.conv", x)).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            at = State(values, f"backbone.layer{stage}.{block}.")
            stride = 2 if stage > 1 and block == 0 else 1
            y = at.batch_norm("bn1", at.conv("conv1", x)).relu()
            y = at.batch_norm("bn2", involution(at.under("conv2"), y, stride)).relu()
            y = at.batch_norm("bn3", at.conv("conv3", y))
            if at.has("downsample"):
                x = at.batch_norm("downsample.1", at.conv("downsample.0", x, stride))
            x = (x + y).relu()
    return F.linear(x.mean((2, 3)), values["head.fc.weight"], values["head.fc.bias"])


def dcnv3(state, x, groups, size=3):
    """Wang et al. 2023 in the released convention: offsets (x, y), taps column by column; sampled by grid_sample."""
    batch, channels, height, width = x.shape
    feature = state.conv("dw_conv.0", x, groups=channels)
    feature = F.gelu(state.layer_norm("dw_conv.1.1", feature))
    offsets = state.linear("offset", feature).view(batch, groups, size * size, 2, height, width)
    mask = state.linear("mask", feature).view(batch, groups, size * size, height, width).softmax(2)
    value = state.linear("input_proj", x).view(batch, groups, channels // groups, height, width)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y = torch.zeros_like(value)
    for tap in range(size * size):
        right, down = tap // size - size // 2, tap % size - size // 2
        for group in range(groups):
            to_x = columns + right + offsets[:, group, tap, 0]
            to_y = rows + down + offsets[:, group, tap, 1]
            grid = torch.stack([(2 * to_x + 1) / width - 1, (2 * to_y + 1) / height - 1], -1)
            read = F.grid_sample(value[:, group], grid, padding_mode="zeros", align_corners=False)
            y[:, group] += read * mask[:, group, tap, None]
    return state.linear("output_proj", y.view(batch, channels, height, width))


def internimage(values, x, depths, groups, *, post_norm=False):
    """InternImage with OpenGVLab's names."""
    embed = State(values, "patch_embed.")
    x = F.gelu(embed.layer_norm("norm1.1", embed.conv("conv1", x, 2)))
    x = embed.layer_norm("norm2.1", embed.conv("conv2", x, 2))
    for level, depth in enumerate(depths):
        for block in range(depth):
            at = State(values, f"levels.{level}.blocks.{block}.")
            branches = (
                lambda y, at=at, level=level: dcnv3(at.under("dcn"), y, groups[level]),
                lambda y, at=at: at.linear("mlp.fc2", F.gelu(at.linear("mlp.fc1", y))),
            )
            for i, branch in enumerate(branches, 1):
                y = at.layer_norm(f"norm{i}.0", branch(x)) if post_norm else branch(at.layer_norm(f"norm{i}.0", x))
                scale = at[f"gamma{i}"]
                x = x + (y if scale is None else y * scale[:, None, None])
        at = State(values, f"levels.{level}.")
        if not post_norm:
            x = at.layer_norm("norm.0", x)
        if level < len(depths) - 1:
            x = at.layer_norm("downsample.norm.1", at.conv("downsample.conv", x, 2))
    top = State(values)
    x = F.gelu(top.batch_norm("conv_head.1.0", top.conv("conv_head.0", x)))
    return F.linear(x.mean((2, 3)), values["head.weight"], values["head.bias"])
