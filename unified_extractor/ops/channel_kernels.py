"""A second dynamic kernel, one for each channel and image, by calls without one.

Its product with the dynamic kernel has a value for every channel, tap and window, and is not stored: the images become groups of channels
of one image, so that the kernel of a channel and image is a static kernel.

B batch, C input channels, O output channels, G kernel groups, F offset groups, K taps, M terms.
"""

from collections.abc import Callable

from torch import Tensor

from unified_extractor.ops.call import Call
from unified_extractor.ops.tracing import needs_plain_operations

Run = Callable[[Call], Tensor]
"""A backend's operator for calls without a channel kernel."""


def run_channel_kernel(call: Call, run: Run) -> Tensor:
    """Return the output of a call with a channel kernel.

    Where both kernels are the same for all windows their product is small, and a recorded program has the samples of all taps anyway: there
    the product is the dynamic kernel.

    Source: Zhou et al., Decoupled Dynamic Filter Networks (CVPR 2021).
    """
    if call.has_kernel_of_image or call.x.shape[0] == 0 or needs_plain_operations():
        return run(call._replace(dynamic_kernel=_product(call), channel_kernel=None))
    if call.combine == "multiply":
        return _images_as_groups(call, run)
    static_part, dynamic_part = call.summands()
    return run(static_part) + _images_as_groups(dynamic_part, run)


def is_convolution_of_images(call: Call) -> bool:
    """Return whether a call with one dynamic kernel for all windows is best run as a convolution of every image: measured on CPUs."""
    kernel, taps = call.stored_kernel, call.geometry.taps
    if kernel is None or kernel.shape[-2:] != (1, 1) or kernel.shape[2] != taps or taps == 1 or call.terms:
        return False
    plain = call.aggregation == "gather" and call.offsets is None and call.combine == "multiply"
    return plain and call.x.shape[0] > 0 and call.x.device.type == "cpu" and not needs_plain_operations()


def convolve_images(call: Call, run: Run) -> Tensor:
    """Return the output of such a call, by one convolution whose groups are the images' channels."""
    kernel = call.stored_kernel
    assert kernel is not None
    by_channel = kernel[..., 0, 0].repeat_interleave(call.channels // kernel.shape[1], 1)
    return _images_as_groups(call._replace(dynamic_kernel=None, channel_kernel=by_channel), run)


def _product(call: Call) -> Tensor:
    """Return the product of both dynamic kernels: with C groups, and all taps."""
    dynamic, channel_kernel, taps = call.stored_kernel, call.channel_kernel, call.geometry.taps
    assert channel_kernel is not None
    channel_kernel = channel_kernel.expand(-1, -1, taps)[..., None, None]
    if call.aggregation == "fold":  # K outputs for each tap that is sampled
        channel_kernel = channel_kernel.unsqueeze(2).expand(-1, -1, taps, -1, -1, -1)
    if dynamic is None:
        return channel_kernel
    axis = 2 if call.terms else 1
    by_channel = dynamic.repeat_interleave(call.channels // dynamic.shape[axis], axis)
    return by_channel * (channel_kernel.unsqueeze(1) if call.terms else channel_kernel)


def _images_as_groups(call: Call, run: Run) -> Tensor:
    """Return the output of a call that multiplies: of one image with B*C channels, whose static kernels are those of every image."""
    batch, bias = call.x.shape[0], call.bias
    kernel, axis = call.stored_kernel, 1 if call.terms else 0
    one_image = call._replace(
        x=call.x.flatten(0, 1).unsqueeze(0),
        static_kernel=_static_kernels(call),
        dynamic_kernel=None if kernel is None else kernel.transpose(0, axis).flatten(axis, axis + 1).unsqueeze(0),
        channel_kernel=None,
        offsets=None if call.offsets is None else call.offsets.flatten(0, 1).unsqueeze(0),
        bias=None,
    )
    y = run(one_image).squeeze(0).unflatten(0, (batch, -1))
    return y if bias is None else y + bias[:, None, None]


def _static_kernels(call: Call) -> Tensor:
    """Return the static kernel times the channel kernel of every image, ``[B*O, C/groups, kh, kw]``, of M terms one such a term."""
    static, channel_kernel, geometry = call.static_kernel, call.channel_kernel, call.geometry
    assert channel_kernel is not None
    channel_kernel = channel_kernel.expand(-1, -1, geometry.taps).unflatten(2, geometry.kernel_size)
    if static is None:
        return channel_kernel.flatten(0, 1).unsqueeze(1)
    groups, per_group = call.channels // static.shape[-3], static.shape[-3]
    by_group = static.unflatten(-4, (groups, -1))  # [groups, O/groups, C/groups, kh, kw]
    products = by_group.unsqueeze(-6) * channel_kernel.unflatten(1, (groups, 1, per_group))
    return products.flatten(-6, -4)
