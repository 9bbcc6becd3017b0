"""The description of an extractor in words, with its formula."""

from unified_extractor.profiling.cost import PARTS, Cost
from unified_extractor.spec import ExtractorSpec, as_pair

_NORMALIZATION = {
    "none": "",
    "group_norm": ", group norm",
    "centered": ", minus a learned share of the taps' mean",
    "standardized": ", with zero mean and unit deviation over the taps",
}


def formula(spec: ExtractorSpec) -> str:
    """Return the operator's equation with only those symbols that this spec has."""
    fold = spec.aggregation == "fold"
    m = "m," if spec.terms > 1 else ""
    static = {"none": "", "dense": f"S[{m}o,c,k]", "depthwise": f"S[{m}c,k]"}[spec.static_kernel.channels]
    axes = ["i"] * fold + ["k"] * spec.dynamic_kernel.per_tap + ["p"] * (not is_one_for_the_image(spec))
    dynamic = "" if spec.dynamic_kernel.source == "none" else f"D[{','.join([f'{m}g(c)', *axes])}]"
    joined = {"none": dynamic, "multiply": f"{dynamic} E[c,k]", "add": f"({dynamic} + E[c,k])"}[spec.channel_kernel.combine]
    bias_weight = "mean_D[m,g(c)]" if spec.generator.view == "pooled" else dynamic
    weight = {
        "multiply": " ".join(filter(None, (static, joined))),
        "add": f"({static} + [o=c] {joined})" if spec.static_kernel.channels == "dense" else f"({static} + {joined})",
        "residual": f"{static} (1 + {joined})",
    }[spec.combine]
    value = "v" if spec.projection.input != "none" else "x"
    fine = f"(p + 1/2)/{spec.upsample} - 1/2" if spec.offsets.kind == "learned" else f"floor(p/{spec.upsample})"
    place = "p" if as_pair(spec.upsample) == (1, 1) else fine
    point = f"{place} + {_steps(spec)}"
    read = f"{value}[c, {f'clamp({point})' if spec.offsets.bound == 'image' else point}]"
    term = f"{weight} {read}" if weight else read
    if fold:
        lines = [f"z[c,i,p] = sum_k {term}", "y[c,q]   = sum over windows p and taps i with p + t_i = q of z[c,i,p]"]
        if spec.overlap_normalize:
            lines[1] += ", divided by their number"
        if spec.bias:
            lines[1] += ", plus bias"
        if spec.modulation != "none":
            lines[1] += f", times {_modulation(spec, 'q')}"
        return "\n".join(lines)
    dense = spec.static_kernel.channels == "dense"
    output = "o" if dense else "c"
    bias = f" + sum_m bias[m,{output}] {bias_weight}" if spec.bias == "mixed" else " + bias" if spec.bias else ""
    sums = f"{'sum_m ' if m else ''}sum_k {'sum_c ' if dense else ''}"
    aggregated = f"{sums}{term}{bias}"
    return f"y[{output},p] = " + (aggregated if spec.modulation == "none" else f"({aggregated}) {_modulation(spec, 'p')}")


def _steps(spec: ExtractorSpec) -> str:
    """Return what is added to the place of a window, where one of its taps looks."""
    own = spec.offsets
    scaled = f"{own.scale:g}*" if own.scale != 1 else ""
    if not own.are_trained:
        return "t_k" if own.kind == "none" else "t_k + shift[p]"
    offset = "offset[f(c),k,p]" if own.kind == "learned" else "offset[f(c),k]"
    offset = f"gate[f(c),k,p] {offset}" if own.gated else offset
    offset = {"clamp": f"clamp({offset}, reach)", "tanh": f"reach tanh({offset})"}.get(own.bound, offset)
    return f"{scaled}{offset}" if own.origin == "center" else f"{scaled}t_k + {scaled}{offset}"


def _modulation(spec: ExtractorSpec, position: str) -> str:
    """Return what the output at a position is multiplied by."""
    return f"{'' if spec.modulation == 'identity' else spec.modulation}(W x[{position}])"


def in_words(spec: ExtractorSpec) -> dict[str, str]:
    """Return a phrase for each question about the operator: where its taps look, with which weights, and which channels
    share them."""
    kh, kw = as_pair(spec.kernel_size)
    padding = "same" if spec.padding == "same" else f"{spec.padding} pixels"
    words = {
        "window": f"{kh}x{kw} taps{_small_window(spec)}, dilation {spec.dilation}, padding {padding}",
        "where": _where(spec),
        "weight": _weight(spec),
        "shared by": _sharing(spec),
    }
    if spec.generates:
        words["generator"] = _generator(spec)
    if spec.channel_kernel.combine != "none":
        words["channels"] = _channel_kernel(spec)
    words["aggregation"] = "gather: one output a window" if spec.aggregation == "gather" else "fold: K outputs a window, added"
    if as_pair(spec.upsample) != (1, 1):
        words["upsample"] = _upsample(spec)
    if spec.center_feature_scale:
        words["center"] = "a generated gate blends in the value at the window's center"
    if spec.modulation != "none":
        activation = "" if spec.modulation == "identity" else f"the {spec.modulation} of "
        words["modulation"] = f"times {activation}a pointwise convolution of the input"
    if (spec.projection.input, spec.projection.output) != ("none", "none"):
        words["projection"] = f"pointwise, before: {spec.projection.input}, after: {spec.projection.output}"
    return words


def _small_window(spec: ExtractorSpec) -> str:
    small = spec.dynamic_kernel.small_kernel_size
    return "" if small is None else " ({}x{} for the first half of the channels)".format(*as_pair(small))


def describe(title: str, spec: ExtractorSpec, cost: Cost, shape: tuple[int, int, int]) -> str:
    """Return the text that ``uniex describe`` prints.

    Args:
        title: name of the extractor.
        spec: spec of the extractor.
        cost: cost of one layer on an image of ``shape``.
        shape: (C, H, W) of the image.
    """
    lines = [title, "", *(f"  {line}" for line in formula(spec).splitlines()), ""]
    lines += [f"  {name:<12}{text}" for name, text in in_words(spec).items()]
    channels, height, width = shape
    lines += ["", f"  {channels} channels, {height} x {width} pixels{'parameters':>20}{'multiply-adds':>18}"]
    for part in PARTS:
        if cost.parameters_by_part[part] or cost.multiply_adds_by_part[part]:
            lines.append(f"  {part:<32}{cost.parameters_by_part[part]:>16,}{cost.multiply_adds_by_part[part]:>18,}")
    lines.append(f"  {'total':<32}{cost.parameters:>16,}{cost.multiply_adds:>18,}")
    return "\n".join(lines)


def _where(spec: ExtractorSpec) -> str:
    own = spec.offsets
    if not own.are_trained:
        return {
            "none": "on the regular grid",
            "window_shift": "on a grid shifted as a whole to stay inside the image",
            "block": f"on a grid shifted as a whole onto {_block(spec)}",
        }[own.kind]
    made = "generated from the input" if own.kind == "learned" else "that are parameters, the same everywhere"
    fine = own.kind == "learned" and as_pair(spec.upsample) != (1, 1)
    start = "at the start to the place of the output in its pixel" if fine else "zero at the start"
    if own.origin == "center":
        spread = "in all directions" if own.kind == "learned" else "at random"
        start = f"measured from the {'place of the output' if fine else 'center'}, {spread} at the start"
    gated = ", each times a generated gate" if own.gated else ""
    bound = {"none": "", "image": ", clamped to the image"}.get(own.bound)
    if bound is None:
        rows, columns = as_pair(own.reach)
        bound = f", {'clamped to' if own.bound == 'clamp' else 'by a tanh below'} {rows}x{columns} pixels"
    return f"offsets {made}, {offset_sharing(spec)}, {start}{gated}{bound}"


def _block(spec: ExtractorSpec) -> str:
    """Return the block of a pixel, and what its windows see of others."""
    halo, start = as_pair(spec.offsets.halo), as_pair(spec.offsets.block_start)
    rows, columns = (k - 2 * h for k, h in zip(as_pair(spec.kernel_size), halo, strict=True))
    around = "" if halo == (0, 0) else " and a halo of {}x{}".format(*halo)
    return f"the block of {rows}x{columns} taps of its pixel{around}" + (
        "" if start == (0, 0) else ", blocks beginning at {}x{}".format(*start)
    )


def offset_sharing(spec: ExtractorSpec) -> str:
    """Return which channels share offsets."""
    own = spec.offsets
    if own.channels_per_group is not None:
        return f"groups of {own.channels_per_group}" if own.channels_per_group > 1 else "each channel its own"
    return f"{own.groups} group{'s' * (own.groups > 1)}"


def _upsample(spec: ExtractorSpec) -> str:
    own = ["a kernel"] * (spec.dynamic_kernel.source != "none") + ["offsets"] * (spec.offsets.kind == "learned")
    alike = spec.offsets.kind != "learned" and (not own or is_one_for_the_image(spec))
    each = ", all alike" if alike else f", each with {' and '.join(own)} of its own"
    rows, columns = as_pair(spec.upsample)
    return f"{rows}x{columns} outputs for every pixel{each}"


def _weight(spec: ExtractorSpec) -> str:
    parts = []
    if spec.static_kernel.channels != "none":
        sets = "" if spec.terms == 1 else f"sum of {spec.terms} terms, each "
        parts.append(f"{sets}static S, a parameter, the same at every position")
    dynamic = spec.dynamic_kernel
    if dynamic.source != "none":
        regions = "{}x{} regions of the image, mapped to the taps".format(*as_pair(dynamic.regions))
        queries = dynamic.learned_queries
        products = (
            f"products of {queries} learned quer{'ies' if queries > 1 else 'y'} and keys" if queries else "query-key products"
        )
        source = {
            "generated": "generated",
            "similarity": products,
            "gaussian": "exp(-d^2/2) of the distance d between its pixel and each tap",
            "regions": f"products of query and {regions}",
        }[dynamic.source]
        form = _NORMALIZATION.get(dynamic.normalization, f", {dynamic.normalization}")
        form += " over the terms" if dynamic.softmax_over == "terms" else ""
        position = ", with relative position" if dynamic.relative_position else ""
        position += " times the query" * (dynamic.relative_position == "query")
        form += ", times a learned factor of each tap" * dynamic.tap_scale
        taps = "" if dynamic.per_tap else ", one value for all taps"
        where = "one for the whole image" if is_one_for_the_image(spec) else "its own at every position"
        factor = f", times {dynamic.gain:.3g}" if dynamic.gain != 1 else ""
        joined = {"none": "", "multiply": ", times E", "add": ", plus E"}[spec.channel_kernel.combine]
        parts.append(f"dynamic D, {source}, {where}{taps}{position}{form}{factor}{joined}")
    if not parts:
        return "none: the samples of a window are summed"
    return (
        f"; combined as {spec.combine}: ".join(parts)
        if len(parts) == 2 and spec.combine != "multiply"
        else "; times ".join(parts)
    )


def _channel_kernel(spec: ExtractorSpec) -> str:
    own = spec.channel_kernel
    form = _NORMALIZATION.get(own.normalization, f", {own.normalization}")
    gain = ", times a learned factor" if own.learned_gain else ""
    generator = _generator(own.as_dynamic_kernel(spec.kernel_size))
    return f"E, a dynamic kernel of each channel, one for the whole image{form}{gain}; {generator}"


def is_one_for_the_image(spec: ExtractorSpec) -> bool:
    """Return whether the dynamic kernel is the same at every position: it is generated from the whole image."""
    return spec.dynamic_kernel.source == "generated" and spec.generator.is_one_for_all_positions


def _sharing(spec: ExtractorSpec) -> str:
    static, dynamic = spec.static_kernel, spec.dynamic_kernel
    parts = []
    if static.channels == "depthwise":
        parts.append("S: no channel shares")
    elif static.channels == "dense":
        parts.append("S: one kernel a pair of channels" + (f" inside {static.groups} groups" if static.groups > 1 else ""))
    if dynamic.source != "none":
        shared = (
            f"{dynamic.groups} group{'s' * (dynamic.groups > 1)}" if dynamic.groups else f"groups of {dynamic.channels_per_group}"
        )
        sizes = "" if dynamic.small_kernel_size is None else ", a kernel of either size each"
        parts.append(f"D: channels in {shared}{sizes}, {dynamic.channel_order}")
    if spec.channel_kernel.combine != "none":
        parts.append("E: no channel shares")
    return "; ".join(parts) or f"offsets: channels in {offset_sharing(spec)}"


def _generator(spec: ExtractorSpec) -> str:
    generator = spec.generator
    kh, kw = as_pair(spec.kernel_size)
    whole = {
        "window": "the window",
        "global": "the whole image",
        "pooled": f"the means of {kh}x{kw} cells of the image, one a tap",
        "runs": f"the means of {spec.taps} runs of the flattened image, mapped to the taps",
    }
    view = whole.get(str(generator.view))
    if view is None:
        rows, columns = as_pair(generator.view)
        view = "the window's own pixel" if rows == columns == 1 else f"{rows}x{columns} pixels"
        view += ", at a stride without averaging" if generator.downsample == "skip" else ""
    steps = ["pixel shuffle"] * generator.pixel_shuffle + ["a guide of the output's size"] * (generator.guide == "output")
    steps += [f"sees {view}"]
    if generator.reduces:
        steps.append(f"{generator.hidden_channels or f'C/{generator.reduction}'} hidden channels")
    if generator.looks_around:
        steps.append(f"{generator.view_convolution} convolution")
    if generator.pointwise:
        steps.append("pointwise convolution")
    steps += [name for name in (f"{generator.norm} norm", generator.activation) if not name.startswith("none")]
    return ", ".join(steps)
