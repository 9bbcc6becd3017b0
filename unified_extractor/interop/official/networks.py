"""Rules for networks: the released codes of RedNet (d-li14), VOLO (sail-sg, timm), InternImage (OpenGVLab), torchvision's ResNet."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

import unified_extractor.interop.official.layers as layers
from unified_extractor.interop.official.rules import Items, Rule, affine, nested, norm
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.models.internimage import InternImage
from unified_extractor.models.rednet import RedNet
from unified_extractor.models.resnet import ResNet
from unified_extractor.models.staged import StagedNetwork
from unified_extractor.models.volo import VOLO, resized_embedding


def rednet(network: RedNet) -> Items:
    """Yield the rules of RedNet, whose keys are those of mmcls: ``backbone.`` and ``head.fc``."""
    yield from _convolution_norm("backbone.stem.0.conv", "backbone.stem.0.bn", "stem.0")
    stem: Any = network.stem
    yield from nested("backbone.stem.1", "stem.1", layers.involution(_layer(stem[1])))
    yield from norm("backbone.stem.2", "stem.2")
    yield from _convolution_norm("backbone.stem.4.conv", "backbone.stem.4.bn", "stem.4")
    yield from _bottlenecks(network, "backbone.layer", layers.involution)
    yield from affine("head.fc", "head.fc", by_class=True)


def resnet(network: ResNet) -> Items:
    """Yield the rules of torchvision's ResNet."""
    yield from affine("conv1", "stem.0", bias=False)
    yield from norm("bn1", "stem.1")
    yield from _bottlenecks(network, "layer", layers.convolution)
    yield from affine("fc", "head.fc", by_class=True)


def volo(network: VOLO) -> Items:
    """Yield the rules of VOLO, whose keys timm took over from sail-sg; its linear layers are 1x1 convolutions here."""
    for i in (0, 3, 6):
        yield from affine(f"patch_embed.conv.{i}", f"stem.{i}", bias=False)
        yield from norm(f"patch_embed.conv.{i + 1}", f"stem.{i + 1}")
    yield from affine("patch_embed.proj", "stem.9")
    yield from affine("network.1.proj", "stage2.0.0")
    yield "pos_embed", Rule("stage2.0.1.embedding", _channels_first, resize=resized_to)
    outlookers: Any = network.stages[0]
    for j, block in enumerate(outlookers):
        official, ours = f"network.0.{j}", f"stage1.{j}"
        yield from nested(f"{official}.attn", f"{ours}.0.mixer", layers.outlook_attention(_layer(block[0].mixer)))
        yield from _norms_and_mlp(official, ours)
    for i in (1, 2, 3):
        first = 1 if i == 1 else 0  # after the downsampling
        for j in range(len(network.stages[i]) - first):
            official, ours = f"network.{i + 1}.{j}", f"stage{i + 1}.{j + first}"
            yield from affine(f"{official}.attn.qkv", f"{ours}.0.mixer.qkv", bias=False)
            yield from affine(f"{official}.attn.proj", f"{ours}.0.mixer.projection")
            yield from _norms_and_mlp(official, ours)
    yield "cls_token", Rule("head.class_token")
    for j in range(len(network.head.blocks)):
        official, ours = f"post_network.{j}", f"head.blocks.{j}"
        yield from affine(f"{official}.norm1", f"{ours}.attention_norm")
        yield from affine(f"{official}.attn.q", f"{ours}.attention.query", bias=False)
        yield from affine(f"{official}.attn.kv", f"{ours}.attention.key_value", bias=False)
        yield from affine(f"{official}.attn.proj", f"{ours}.attention.projection")
        yield from affine(f"{official}.norm2", f"{ours}.mlp_norm")
        yield from affine(f"{official}.mlp.fc1", f"{ours}.mlp.0")
        yield from affine(f"{official}.mlp.fc2", f"{ours}.mlp.2")
    yield from affine("norm", "head.norm")
    yield from affine("head", "head.fc", by_class=True)
    yield from affine("aux_head", "head.auxiliary", by_class=True)


def internimage(network: InternImage) -> Items:
    """Yield the rules of OpenGVLab's InternImage with DCNv3."""
    for i, conv, layer_norm in ((1, 0, 1), (2, 3, 4)):
        yield from affine(f"patch_embed.conv{i}", f"stem.{conv}")
        yield from affine(f"patch_embed.norm{i}.1", f"stem.{layer_norm}")
    post_norm = network.config["post_norm"]
    stages: list[Any] = network.stages
    for i, stage in enumerate(stages):
        level, ours = f"levels.{i}", f"stage{i + 1}"
        first = 0 if i == 0 else 1
        if first:
            yield from affine(f"levels.{i - 1}.downsample.conv", f"{ours}.0.0", bias=False)
            yield from affine(f"levels.{i - 1}.downsample.norm.1", f"{ours}.0.1")
        depth = len(stage) - first - (not post_norm)
        for j in range(depth):
            mixer = _layer(stage[j + first][0].mixer)
            yield from _internimage_block(network, f"{level}.blocks.{j}", f"{ours}.{j + first}", mixer)
        if not post_norm:
            yield from affine(f"{level}.norm.0", f"{ours}.{depth + first}")
    yield from affine("conv_head.0", "head.mix.0", bias=False)
    yield from norm("conv_head.1.0", "head.mix.1")
    yield from affine("head", "head.fc", by_class=True)


def _internimage_block(network: InternImage, official: str, ours: str, mixer: UnifiedExtractor2d) -> Items:
    yield from nested(f"{official}.dcn", f"{ours}.0.mixer", layers.dcnv3(mixer))
    for i in (0, 1):
        yield from affine(f"{official}.norm{i + 1}.0", f"{ours}.{i}.norm")
        if network.config["layer_scale"] is not None:
            yield f"{official}.gamma{i + 1}", Rule(f"{ours}.{i}.scale.gamma")
    yield from affine(f"{official}.mlp.fc1", f"{ours}.1.mlp.fc1")
    yield from affine(f"{official}.mlp.fc2", f"{ours}.1.mlp.fc2", bias=network.config["mlp_bias"])


def _bottlenecks(network: StagedNetwork, prefix: str, rules: Callable[[UnifiedExtractor2d], Items]) -> Items:
    """Yield the rules of the stages of RedNet and ResNet; ``rules`` are those of a block's second convolution."""
    stages: list[Any] = network.stages
    for i, stage in enumerate(stages, 1):
        for j, block in enumerate(stage):
            official, ours = f"{prefix}{i}.{j}", f"stage{i}.{j}"
            yield from _convolution_norm(f"{official}.conv1", f"{official}.bn1", f"{ours}.reduce")
            yield from nested(f"{official}.conv2", f"{ours}.extract.0", rules(_layer(block.extract[0])))
            yield from norm(f"{official}.bn2", f"{ours}.extract.1")
            yield from _convolution_norm(f"{official}.conv3", f"{official}.bn3", f"{ours}.expand")
            if any(True for _ in block.shortcut.parameters()):
                yield from _convolution_norm(f"{official}.downsample.0", f"{official}.downsample.1", f"{ours}.shortcut")


def _layer(placed: object) -> UnifiedExtractor2d:
    """Return the extractor in a place of a network. Raise ``ValueError`` where a spec other than the published one wrapped it."""
    if not isinstance(placed, UnifiedExtractor2d):
        raise ValueError(f"module's spec is not the published one: no official weights fit into {placed!r}")
    return placed


def _convolution_norm(convolution: str, batch_norm: str, ours: str) -> Items:
    yield from affine(convolution, f"{ours}.0", bias=False)
    yield from norm(batch_norm, f"{ours}.1")


def _norms_and_mlp(official: str, ours: str) -> Items:
    """Yield the rules of the norms and the MLP of a block of VOLO."""
    for i in (0, 1):
        yield from affine(f"{official}.norm{i + 1}", f"{ours}.{i}.norm")
    for name in ("fc1", "fc2"):
        yield from affine(f"{official}.mlp.{name}", f"{ours}.1.mlp.{name}")


def _channels_first(value: Tensor) -> Tensor:
    return value.permute(0, 3, 1, 2)


def resized_to(value: Tensor, own: Tensor) -> Tensor:
    """Return a position embedding interpolated to the size of our own one."""
    return resized_embedding(value, (own.shape[2], own.shape[3]))
