"""A generic staged network in which any stage uses any extractor."""

from collections.abc import Sequence

from torch import Tensor, nn

from unified_extractor import presets
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.models.sizes import check_sizes
from unified_extractor.spec import ExtractorSpec


class ExtractorBlock(nn.Module):
    """``x + extractor(norm(x))``, then ``x + mlp(norm(x))``; height, width and channels stay."""

    def __init__(self, channels: int, spec: ExtractorSpec, mlp_ratio: float) -> None:
        super().__init__()
        hidden = max(1, round(channels * mlp_ratio))
        self.extractor_norm = nn.BatchNorm2d(channels)
        self.extractor = UnifiedExtractor2d(channels, channels, spec)
        self.mlp_norm = nn.BatchNorm2d(channels)
        self.mlp = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same."""
        x = x + self.extractor(self.extractor_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class ExtractorStage(nn.Sequential):
    """A 3x3 convolution that changes width and size, then blocks of one extractor."""

    def __init__(self, in_channels: int, channels: int, depth: int, stride: int, spec: ExtractorSpec, mlp_ratio: float) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            *(ExtractorBlock(channels, spec, mlp_ratio) for _ in range(depth)),
        )


class ExtractorNet(nn.Module):
    """A staged image classifier; the extractor is the only difference between two networks of the same widths and depths.

    Args:
        num_classes: outputs.
        spec: one extractor for all stages, or one each; None: :func:`unified_extractor.presets.unified`.
        in_chans: channels of the image.
        widths: channels of every stage. The first stage has stride ``stem_stride``, every further one 2.
        depths: blocks of every stage.
        stem_stride: stride of the first stage.
        mlp_ratio: hidden channels of the pointwise MLP after every extractor, as a multiple of the width.

    Shape:
        ``[B, in_chans, H, W]`` to logits ``[B, num_classes]``.

    Raises:
        ValueError, TypeError: sizes that are no positive ints, lists of different lengths, widths that a spec's groups do not divide,
            an image with other than ``in_chans`` channels.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        spec: ExtractorSpec | Sequence[ExtractorSpec] | None = None,
        *,
        in_chans: int = 3,
        widths: Sequence[int] = (32, 64, 128),
        depths: Sequence[int] = (1, 1, 1),
        stem_stride: int = 1,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        spec = presets.unified() if spec is None else spec
        for name, value in (("num_classes", num_classes), ("in_chans", in_chans), ("stem_stride", stem_stride)):
            check_sizes(name, [value])
        check_sizes("widths", widths)
        check_sizes("depths", depths)
        if not mlp_ratio > 0:
            raise ValueError(f"mlp_ratio must be positive, got {mlp_ratio}")
        specs = [spec] * len(widths) if isinstance(spec, ExtractorSpec) else spec
        if not isinstance(specs, list | tuple) or not all(isinstance(one, ExtractorSpec) for one in specs):
            raise TypeError(f"spec must be an ExtractorSpec or a list of them, got {spec!r}")
        if len(widths) == 0 or len(widths) != len(depths) or len(widths) != len(specs):
            raise ValueError(
                f"widths, depths and spec must name the same stages, got {len(widths)}, {len(depths)} and {len(specs)}"
            )
        self.num_classes, self.in_chans, self.specs = num_classes, in_chans, list(specs)
        inputs = [in_chans, *widths[:-1]]
        strides = [stem_stride] + [2] * (len(widths) - 1)
        self.stages = nn.Sequential(
            *(ExtractorStage(*sizes, mlp_ratio) for sizes in zip(inputs, widths, depths, strides, specs, strict=True))
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """``[B, in_chans, H, W]`` to the last stage's map ``[B, widths[-1], h, w]``."""
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise ValueError(f"x must be [B, in_chans, H, W] with in_chans={self.in_chans}, got shape {list(x.shape)}")
        return self.norm(self.stages(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """The last stage's map to logits ``[B, num_classes]``: global average, linear."""
        return self.head(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_chans, H, W]`` to logits ``[B, num_classes]``."""
        return self.forward_head(self.forward_features(x))


extractor_net = ExtractorNet
"""The name under which model zoos would look for it."""
