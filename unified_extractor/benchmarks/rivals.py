"""Other packages' kernels for the same operators, timed where they are installed: nothing here is a dependency."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from torch import Tensor

from unified_extractor.benchmarks.cases import (
    Candidate,
    Case,
    Setting,
    candidate,
    deformable_convolution_v4,
    neighborhood_attention,
)

PACKAGES = {"torchvision": "torchvision", "natten": "natten", "dcnv4": "DCNv4", "deformops": "deformops"}
"""The modules of the packages, by the names under which they are installed."""
LABELS = ("torchvision", "torchvision in float32", "natten", "DCNv4, values not compared")
"""Labels of the candidates that are other packages' own."""
_GROUPS = 4


def installed() -> dict[str, str | None]:
    """Return the version of each package that is installed."""
    found: dict[str, str | None] = {}
    for package, module in PACKAGES.items():
        try:
            found[package] = version(package) if find_spec(module) else None
        except PackageNotFoundError:
            found[package] = None
    return found


def cases(batch: int) -> dict[str, Callable[[], Case]]:
    """Return the cases that stand beside the thirteen, of the packages that are installed."""
    found: dict[str, Callable[[], Case]] = {}
    if find_spec("natten"):
        found["neighborhood attention 64x56x56 bfloat16"] = partial(_beside_natten, batch)
    if find_spec("DCNv4"):
        found["DCNv4 64x56x56 float32"] = partial(_beside_dcnv4, batch)
    return found


def _beside_natten(batch: int) -> Case:
    """Return neighborhood attention, 7x7 taps and 4 heads, with natten's fused kernel."""
    from natten import na2d

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        heads = (image.unflatten(1, (_GROUPS, -1)).permute(0, 3, 4, 1, 2) for image in (query, key, value))
        attended: Tensor = na2d(*heads, kernel_size=7, scale=1.0)
        return attended.flatten(3).permute(0, 3, 1, 2)

    setting = Setting("cuda", torch.bfloat16, "triton", channels_last=True)
    return neighborhood_attention(batch, 64, 56, _GROUPS, setting, {"natten": attend})


def _beside_dcnv4(batch: int) -> Case:
    """Return DCNv4's core with the kernel of its authors, whose offsets and masks lie in one tensor and in another order."""
    setting = Setting("cuda", torch.float32, "triton", channels_last=True)
    case = deformable_convolution_v4(batch, 64, 56, _GROUPS, setting)
    case.candidates["DCNv4, values not compared"] = _dcnv4(batch, setting)
    return case


def _dcnv4(batch: int, setting: Setting) -> Candidate:
    from DCNv4.functions import DCNv4Function

    image = torch.randn(batch, 56, 56, 64, device=setting.device, dtype=setting.dtype, requires_grad=True)
    width = -(-_GROUPS * 9 * 3 // 8) * 8
    offset_mask = torch.randn(batch, 56, 56, width, device=setting.device, dtype=setting.dtype, requires_grad=True)

    def convolve(image: Tensor, offset_mask: Tensor) -> Tensor:
        output: Tensor = DCNv4Function.apply(image, offset_mask, 3, 3, 1, 1, 1, 1, 1, 1, _GROUPS, 16, 1.0, 256, False)
        return output

    return candidate(convolve, (image, offset_mask), torch.randn_like(image), comparable=False)
