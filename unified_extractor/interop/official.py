"""State dicts of official implementations, loaded into this package's modules: names, tap order and coordinates are converted.

Every family is a table from the official key to ours and, where conventions differ, a conversion of the value.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.spec import as_pair

Rule = tuple[str, Callable[[Tensor], Tensor]]
Rules = dict[str, Rule]


def load_official(module: nn.Module, state_dict: Mapping[str, Tensor], family: str) -> None:
    """Load an official state dict into the equivalent module, strictly and in place.

    Args:
        module: the module whose spec describes the official one.
        state_dict: names and values of the official code.
        family: whose code: "involution" (d-li14), "outlook_attention" (sail-sg VOLO), "dcnv3" (OpenGVLab InternImage, its pure
            torch or CUDA module).

    Raises:
        ValueError: an unknown family, or a key that is missing, unexpected or of another shape; the message names it. Nothing is
            loaded then.
        TypeError: ``module`` is not what the family loads into, or ``state_dict`` is no mapping of names to tensors.
    """
    if not isinstance(family, str) or family not in _FAMILIES:
        raise ValueError(f"family must be one of {tuple(_FAMILIES)}, got {family!r}")
    if not isinstance(module, UnifiedExtractor2d):
        raise TypeError(f"family={family!r} loads into a UnifiedExtractor2d, got {type(module).__name__}")
    if not isinstance(state_dict, Mapping) or not all(isinstance(value, Tensor) for value in state_dict.values()):
        raise TypeError(
            f"state_dict must map names to tensors, got {type(state_dict).__name__}; read a file with safetensors or torch.load"
        )
    rules = _FAMILIES[family](module)
    own = module.state_dict()
    if missing := sorted(set(rules) - set(state_dict)):
        raise ValueError(f"state_dict has no {missing[0]!r}, which {family} with this spec needs ({len(missing)} missing)")
    if unexpected := sorted(set(state_dict) - set(rules)):
        raise ValueError(
            f"state_dict has {unexpected[0]!r}, which {family} with this spec does not have ({len(unexpected)} unexpected)"
        )
    targets = {name for name, _ in rules.values()}
    if unmatched := sorted(set(own) ^ targets):
        raise ValueError(f"{module!r} is not an official {family}: {unmatched[0]!r} has no counterpart")
    module.load_state_dict({name: _converted(key, state_dict[key], own[name], convert) for key, (name, convert) in rules.items()})


def _converted(key: str, value: Tensor, own: Tensor, convert: Callable[[Tensor], Tensor]) -> Tensor:
    """The official value in our convention and shape; a linear layer's weight becomes a 1x1 convolution's."""
    flat = own.shape[:2] if own.dim() == 4 and value.dim() == 2 else own.shape
    if value.shape != flat:
        raise ValueError(f"state_dict[{key!r}] must have shape {list(flat)}, got {list(value.shape)}")
    return convert(value).reshape(own.shape)


def _same(value: Tensor) -> Tensor:
    return value


def _norm(official: str, ours: str) -> Iterator[tuple[str, Rule]]:
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield f"{official}.{name}", (f"{ours}.{name}", _same)


def _affine(
    official: str, ours: str, convert: Callable[[Tensor], Tensor] = _same, *, bias: bool = True
) -> Iterator[tuple[str, Rule]]:
    for name in ("weight", "bias") if bias else ("weight",):
        yield f"{official}.{name}", (f"{ours}.{name}", convert)


def _involution(layer: UnifiedExtractor2d) -> Rules:
    """conv1 (conv, bn) reduces, conv2 spans ``[G*K]``, taps row-major: our order."""
    return dict(
        [
            *_affine("conv1.conv", "feature.reduce.conv", bias=False),
            *_norm("conv1.bn", "feature.reduce.norm"),
            *_affine("conv2.conv", "kernel.head"),
        ]
    )


def _outlook_attention(layer: UnifiedExtractor2d) -> Rules:
    """v, attn ``[heads*K*K]`` (output tap, source tap), proj: our order."""
    return dict(
        [
            *_affine("v", "value", bias=layer.spec.projection.input == "affine"),
            *_affine("attn", "kernel.head"),
            *_affine("proj", "projection"),
        ]
    )


def _dcnv3(layer: UnifiedExtractor2d) -> Rules:
    """Offsets are (x, y) and taps column-major there; the removed centre is the middle of either order."""
    groups = layer.kernel_groups
    order = _row_major_from_column_major(layer)

    def taps(value: Tensor) -> Tensor:
        return value.unflatten(0, (groups, len(order)))[:, order].flatten(0, 1)

    def offsets(value: Tensor) -> Tensor:
        return value.unflatten(0, (groups, len(order), 2))[:, order].flip(2).flatten(0, 2)

    rules = [
        *_affine("dw_conv.0", "feature.look.conv"),
        *_affine("dw_conv.1.1", "feature.look.norm"),
        *_affine("offset", "offsets.head", offsets),
        *_affine("mask", "kernel.head", taps),
        *_affine("input_proj", "value"),
        *_affine("output_proj", "projection"),
    ]
    if layer.spec.center_feature_scale:
        rules += [(f"center_feature_scale_proj_{name}", (f"center_gate.{name}", _same)) for name in ("weight", "bias")]
    return dict(rules)


def _row_major_from_column_major(layer: UnifiedExtractor2d) -> list[int]:
    """For every tap in row-major order its place in column-major order, without the centre where that is removed."""
    kh, kw = as_pair(layer.spec.kernel_size)
    order = torch.arange(kh * kw).view(kw, kh).t().flatten().tolist()
    if not layer.spec.dynamic_kernel.remove_center:
        return order
    centre = kh * kw // 2
    return [place - (place > centre) for place in order if place != centre]


_FAMILIES: dict[str, Callable[[UnifiedExtractor2d], Rules]] = {
    "involution": _involution,
    "outlook_attention": _outlook_attention,
    "dcnv3": _dcnv3,
}
