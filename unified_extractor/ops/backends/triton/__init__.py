"""Triton kernels for NVIDIA GPUs, fused forward and backward: neither columns nor composed kernels of a batch are written to memory.

A kernel that is computed, and the columns that a dense static kernel is multiplied with, are made for as many images at a time as the
second-level cache holds (``chunks.py``, ``columns.py``).

Runs every legal call in float32, bfloat16, float16 and float64, with sums in at least float32, in any memory layout; fastest where the
channels of images are neighbors (``torch.channels_last``). Refuses
- tensors that are not on a GPU, except in Triton's interpreter (``TRITON_INTERPRET=1``), which runs the kernels slowly on the CPU,
- PyTorch built for AMD's GPUs, since the kernels' options are those of NVIDIA's compiler and nothing else was tried,
- ``torch.export``, since an exported program must run without this package,
- ``torch.func`` transforms and forward-mode differentiation, for which the operator has no rule.

A convolution without dynamic kernel and offsets is torch's own. In half precision a dynamic kernel on the regular grid, with groups of a
multiple of sixteen neighboring channels, runs as matrix products (``banded/``), and so does a fold of small overlapping windows. A double
backward runs the eager backend's formula. The gradient of an image that offsets sample is added up by atomics in float32 or, under
``torch.use_deterministic_algorithms``, sorted by pixel. A fold whose taps have offsets samples every tap once for each output it has a part
in: K times as often as it must. An output finer than the image (``upsample``) has no kernels of its own: it is one call for each
sub-position. Nor has a channel kernel, with which images become groups of channels; an image whose channels are neighbors is copied for it.

The first call of every kind compiles its kernels and measures a few configurations (``tuning.py``), kept on disk by Triton. Before a CUDA
graph is captured one call should have run, as torch asks anyway.
"""

import os

import torch
from torch import Tensor

from unified_extractor.ops.backends.triton.banded.rule import is_banded
from unified_extractor.ops.call import Call
from unified_extractor.ops.channel_kernels import run_channel_kernel
from unified_extractor.ops.dynamic_kernels import AttentionKernel
from unified_extractor.ops.rewrites import is_convolution, run_rewritten
from unified_extractor.ops.tracing import opaque_because
from unified_extractor.ops.upsampling import run_sub_positions


class Triton:
    """The backend of Triton kernels."""

    name = "triton"

    def unusable_because(self) -> str | None:
        """Return why it does not run on this machine: Triton or a GPU is missing."""
        try:
            import triton
        except ImportError as error:
            return f"it needs triton, which PyTorch brings for Linux: pip install triton ({error})"
        if (torch.cuda.is_initialized() and not torch.version.hip) or _is_interpreted():
            return None
        if torch.version.hip:
            return "its kernels are written for NVIDIA GPUs, this PyTorch is built for AMD's"
        if torch.cuda.is_available():  # asks the driver each time, and with Lightning the management library: 40 microseconds
            return None
        return f"there is no GPU that PyTorch can use (triton {triton.__version__} is installed; TRITON_INTERPRET=1 runs it on the CPU)"

    def refuses_because(self, call: Call) -> str | None:
        """Return why it does not run this call."""
        device = call.x.device
        if _is_interpreted():
            if device.type != "cpu":
                return f"Triton's interpreter (TRITON_INTERPRET) runs on the CPU, x is on {device}"
        elif device.type != "cuda":
            return f"it runs on GPUs, x is on {device}"
        return opaque_because()

    def is_fast(self, call: Call, *, recomputing: bool) -> bool:
        """Return whether the call is on a GPU, and no convolution; the interpreter is for tests."""
        return call.x.device.type == "cuda" and not is_convolution(call)

    def recomputes(self, call: Call, *, demanded: bool) -> bool:
        """Return whether the kernel is computed by chunks of the batch, in each pass again: where no pass follows, once is enough."""
        if isinstance(call.computed_kernel, AttentionKernel) and call.offsets is not None:
            return False
        return demanded or not _is_differentiated(call)

    def run(self, call: Call) -> Tensor:
        """Return the output of a call."""
        if call.geometry.upsample != (1, 1):
            return run_sub_positions(call, self.run)
        if call.channel_kernel is not None:
            return run_channel_kernel(call, self.run)
        from unified_extractor.ops.backends.triton.launch import OPERATORS

        run = OPERATORS.run
        if call.aggregation in ("unfold", "similarity"):
            return run(call)
        return run_rewritten(call, run, combines_depthwise=not _is_banded_sum(call))


def _is_banded_sum(call: Call) -> bool:
    """Return whether a call is a convolution plus the banded products of its dynamic kernel, which run as two calls."""
    return call.combine == "add" and is_banded(call._replace(static_kernel=None))


def _is_differentiated(call: Call) -> bool:
    """Return whether a backward pass will follow."""
    tensors = (call.x, call.static_kernel, call.offsets, *call.kernel_tensors)
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") in ("1", "true", "on", "yes", "y")
