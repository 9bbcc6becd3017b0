"""Convolutions of any network replaced by extractors."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import nn

from unified_extractor.layers.drop_in import ExtractorConv2d
from unified_extractor.layers.extractor import UnifiedExtractor2d
from unified_extractor.layers.placed import check_no_upsampling
from unified_extractor.named_specs import as_spec, is_preset
from unified_extractor.names import did_you_mean, suggesting_arguments
from unified_extractor.spec import ExtractorSpec, as_pair

Where = Callable[[str, nn.Conv2d], bool] | str | Iterable[str]
"""A predicate of name and convolution, or a name or pattern, or several of them."""
Specs = ExtractorSpec | str | Callable[[nn.Conv2d], ExtractorSpec | str | None]
"""A spec, or a preset's name or call, or a function that returns one for a convolution; with None the convolution stays."""


_READ_BY_NETWORKS = ("kernel_size", "stride", "padding", "dilation", "groups")
"""Attributes of a convolution that some networks read in their forward pass, to pad the image before it."""


@dataclass(frozen=True)
class Replacements:
    """The convolutions of a network that were replaced, and those that were chosen and stayed; ``print`` shows a line for each."""

    replaced: dict[str, str]
    """Names of the replaced ones, each with the origin of the new layer's weights."""
    skipped: dict[str, str]
    """Names of those that stayed, each with the reason."""

    def __str__(self) -> str:
        """Return one line for each convolution, below a line of counts."""
        lines = [f"{len(self.replaced)} convolutions replaced, {len(self.skipped)} skipped"]
        lines += [f"  {name}: {how}" for name, how in self.replaced.items()]
        lines += [f"  {name}: skipped, {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)


@suggesting_arguments
def replace_convolutions(network: nn.Module, spec: Specs, where: Where | None = None) -> Replacements:
    """Replace convolutions of a network by extractors, in place, and return what was done.

    Every replacement is an :class:`ExtractorConv2d` with the channels, stride and map size of its convolution, on its device, in its
    dtype and mode. It keeps the weights, bias, dilation and padding mode where the spec has a static kernel of the same shape (dense with
    the same kernel size and groups; depthwise for a depthwise convolution): so a convolution, or deformable convolution v1, at first
    computes what the convolution did. All other parameters are drawn from torch's generator, in the order of the names.

    Args:
        network: any module that contains convolutions, such as a network of torchvision or timm.
        spec: the extractor of all, or a function from a convolution to its extractor, such as
            ``lambda conv: ux.presets.involution(channels_per_group=min(16, conv.in_channels))``. Padding is the convolution's.
        where: which ones: a predicate of name and convolution; names, of convolutions or of modules around them; patterns such as
            ``"layer[34].*conv2"``; a list of names and patterns. Patterns and modules choose convolutions of more than one tap. None: all
            of more than one tap but the first convolution of the network, its stem.

    Returns:
        The names of the convolutions that were replaced and of those that were skipped, with the reason: subclasses of ``Conv2d``,
        convolutions with hooks or with weights that another module has too, and those whose channels the spec's groups do not divide. A
        module in several places is replaced once and stays shared.

    Raises:
        ValueError: ``where`` chooses no convolution, the network is itself one, or the spec upsamples or needs a guide.
        TypeError: an argument of another type.
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch module, got {type(network).__name__}")
    if isinstance(network, nn.Conv2d):
        raise ValueError("network is itself a convolution, which cannot be replaced in place: make an ExtractorConv2d")
    spec_of = _spec_of(spec)
    convolutions = _convolutions(network)
    chosen, skipped = _chosen(network, convolutions, where)
    uses = Counter(id(parameter) for module in network.modules() for parameter in module._parameters.values())
    replaced, new = {}, {}
    for name in chosen:
        convolution = convolutions[name]
        try:
            _check_replaceable(convolution, uses[id(convolution.weight)])
            own = spec_of(convolution)
            if own is None:
                raise ValueError("spec is None for it")
            new[id(convolution)], replaced[name] = _replacement(convolution, as_spec(own))
        except ValueError as error:
            skipped[name] = str(error)
    for module in network.modules():
        for name, child in module._modules.items():
            if id(child) in new:
                module._modules[name] = new[id(child)]
    if not replaced:
        warnings.warn(f"no convolution was replaced: {'; '.join(f'{n}: {why}' for n, why in skipped.items())}", stacklevel=2)
    return Replacements(replaced, skipped)


def _convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the convolutions by name, each once; those inside of extractors are parts of them."""
    inside = {id(part) for module in network.modules() if isinstance(module, UnifiedExtractor2d) for part in module.modules()}
    return {name: part for name, part in network.named_modules() if isinstance(part, nn.Conv2d) and id(part) not in inside}


def _chosen(network: nn.Module, convolutions: dict[str, nn.Conv2d], where: Where | None) -> tuple[list[str], dict[str, str]]:
    """Return the names of the convolutions to replace, and of those that are chosen but for a rule, with the reason."""
    spatial = [name for name, convolution in convolutions.items() if max(convolution.kernel_size) > 1]
    stem = next(iter(convolutions), None)
    if where is None:
        found, skipped = [name for name in spatial if name != stem], {stem: "the stem"} if stem in spatial else {}
        missing = "no convolution of more than one tap but the stem"
    elif callable(where):
        found, skipped = [name for name, convolution in convolutions.items() if where(name, convolution)], {}
        missing = "no convolution for which where is true"
    else:
        patterns = [where] if isinstance(where, str) else list(where) if isinstance(where, Iterable) else [where]
        found, skipped, missing = [], {}, "convolutions, but where names none of them"
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise TypeError(
                    f"where must be a predicate, or names and patterns, got {pattern!r} of type {type(pattern).__name__}"
                )
            matched = [pattern] if pattern in convolutions else [name for name in spatial if _matches(name, pattern)]
            if not matched:
                names = dict(network.named_modules())
                nearest = did_you_mean(pattern, names) if pattern not in names else ""
                nearest = nearest or f"; there are {', '.join(list(convolutions)[:5])}, ..."
                raise ValueError(f"where={pattern!r} matches no convolution of more than one tap{nearest}")
            found += matched
        found = [name for name in convolutions if name in found]
    if not found:
        raise ValueError(f"{type(network).__name__} has {missing}")
    return found, skipped


def _matches(name: str, pattern: str) -> bool:
    """Return whether a name, or the name of a module around it, fits a pattern."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _spec_of(spec: Specs) -> Callable[[nn.Conv2d], ExtractorSpec | str | None]:
    """Return the function from a convolution to its extractor. Raise ``TypeError``, ``ValueError`` for what is no spec."""
    if callable(spec) and not isinstance(spec, nn.Module) and not is_preset(spec):
        return spec
    one = as_spec(spec)  # type: ignore[arg-type]
    check_no_upsampling(one)
    return lambda convolution: one


def _check_replaceable(convolution: nn.Conv2d, uses: int) -> None:
    """Raise ``ValueError`` with the reason for which a convolution cannot be replaced by any extractor."""
    if type(convolution) is not nn.Conv2d:
        raise ValueError(f"it is a {type(convolution).__name__}, which may compute something else than Conv2d")
    hooks = (
        convolution._forward_hooks,
        convolution._forward_pre_hooks,
        convolution._backward_hooks,
        convolution._backward_pre_hooks,
    )
    if any(hooks) or "forward" in vars(convolution):
        raise ValueError("it has hooks, which would be lost")
    if uses > 1:
        raise ValueError("another module has the same weight")


def _replacement(convolution: nn.Conv2d, spec: ExtractorSpec) -> tuple[ExtractorConv2d, str]:
    """Return the layer in a convolution's place, and the origin of its weights. Raise ``ValueError`` where the spec does not fit."""
    difference = _difference(convolution, spec)
    biased = convolution.bias is not None
    if difference is None:
        spec = replace(spec, dilation=_pair(convolution.dilation), bias=spec.bias or biased)
    weight = convolution.weight
    with torch.device("meta" if weight.is_meta else "cpu"):
        layer = ExtractorConv2d(
            convolution.in_channels,
            convolution.out_channels,
            replace(spec, padding="same"),
            _pair(convolution.stride),
            margin=_margin(convolution),
            padding_mode=convolution.padding_mode,
        )
    layer.to(weight.device, weight.dtype).train(convolution.training)
    for name in _READ_BY_NETWORKS:
        setattr(layer, name, getattr(convolution, name))
    if difference is not None:
        return layer, f"fresh weights, {difference}"
    kept = [(layer.layer.static_kernel, weight), *([(layer.layer.bias, convolution.bias)] if biased else [])]
    for own, value in kept:
        assert own is not None
        assert value is not None
        own.data.copy_(value.data)
        own.requires_grad_(value.requires_grad)
    return layer, "weights kept"


def _difference(convolution: nn.Conv2d, spec: ExtractorSpec) -> str | None:
    """Return why a spec cannot take a convolution's weights, or None where it can."""
    static = spec.static_kernel
    depthwise = convolution.groups == convolution.in_channels == convolution.out_channels
    if static.channels == "none":
        return "the spec has no static kernel"
    if static.channels == "depthwise" and not depthwise:
        return "the spec's static kernel is depthwise, the convolution is not"
    if static.channels == "dense" and static.groups != convolution.groups:
        return f"the spec has static_kernel.groups={static.groups}, the convolution groups={convolution.groups}"
    if spec.terms > 1:
        return f"the spec has terms={spec.terms} static kernels, the convolution one"
    if as_pair(spec.kernel_size) != convolution.kernel_size:
        return f"the spec has kernel_size={spec.kernel_size}, the convolution {convolution.kernel_size}"
    if as_pair(spec.dilation) not in ((1, 1), convolution.dilation):
        return f"the spec has dilation={spec.dilation}, the convolution {convolution.dilation}"
    if spec.aggregation == "fold" or spec.projection.input != "none" or spec.projection.output != "none":
        return "the spec folds or projects"
    if spec.combine == "add" and convolution.in_channels != convolution.out_channels:
        return "combine='add' keeps the number of channels, the convolution changes it"
    return None


def _margin(convolution: nn.Conv2d) -> tuple[int, int]:
    """Return how many pixels a map loses at stride 1."""
    if convolution.padding == "same":
        return (0, 0)
    padding = (0, 0) if isinstance(convolution.padding, str) else convolution.padding  # "valid"
    sizes = zip(convolution.dilation, convolution.kernel_size, padding, strict=True)
    rows, columns = (d * (k - 1) - 2 * p for d, k, p in sizes)
    return rows, columns


def _pair(values: tuple[int, ...]) -> int | tuple[int, int]:
    """Return (y, x), or one int where both are equal."""
    return values[0] if values[0] == values[1] else (values[0], values[1])
