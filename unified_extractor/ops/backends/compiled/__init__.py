"""Loops for the CPU, compiled by Numba on first use and kept on disk. No compiler, no build.

Runs everything, float32 and float64; half precision is computed in float32. Refuses
- tensors that are not on the CPU,
- ``torch.func`` transforms and forward-mode differentiation, for which the operator has no rule.

A double backward runs the eager backend's formula. Channels of a group are worked off in blocks of 16 (float32, AVX-512; 8 with AVX2),
so groups of fewer channels leave lanes idle; where that makes it slower than the eager backend, it is not chosen by itself.
A channel kernel has no loops of its own: images become groups of channels.
"""

from torch import Tensor

from unified_extractor.extras import install_command
from unified_extractor.ops.backends.compiled.recomputing import is_possible_in_loops, pays_in_loops
from unified_extractor.ops.call import Call
from unified_extractor.ops.channel_kernels import run_channel_kernel
from unified_extractor.ops.cost import work_in_registers
from unified_extractor.ops.geometry import precision
from unified_extractor.ops.rewrites import is_convolution, run_rewritten
from unified_extractor.ops.tracing import opaque_because
from unified_extractor.ops.upsampling import run_distinct

_WORTH_COMPILING = 64
"""The least work, as measured on maps of 7 to 56 pixels with 1 to 64 channels that share a kernel; below, moving data outweighs it."""


class Compiled:
    """The backend of compiled loops."""

    name = "compiled"

    def unusable_because(self) -> str | None:
        """Return why it does not run on this machine: Numba is missing or switched off."""
        try:
            import numba
        except ImportError as error:  # missing, or made for another numpy
            return f"it needs numba: {install_command('compiled')} ({error})"
        return "NUMBA_DISABLE_JIT is set" if getattr(numba.config, "DISABLE_JIT", 0) else None

    def refuses_because(self, call: Call) -> str | None:
        """Return why it does not run this call."""
        if call.x.device.type != "cpu":
            return f"it runs on the CPU, x is on {call.x.device}"
        return opaque_because()

    def is_fast(self, call: Call, *, recomputing: bool) -> bool:
        """Return whether there is enough to do for what is loaded into registers at once, or it is the one that recomputes."""
        if recomputing and self.recomputes(call, demanded=True):
            return True
        return not is_convolution(call) and work_in_registers(call) >= _WORTH_COMPILING

    def recomputes(self, call: Call, *, demanded: bool) -> bool:
        """Return whether the kernel is recomputed, in the loops or, where it is demanded and that does not pay, before them."""
        return is_possible_in_loops(call) and (demanded or pays_in_loops(call))

    def run(self, call: Call) -> Tensor:
        """Return the output of a call."""
        if call.geometry.upsample != (1, 1):
            return run_distinct(call, self._run_distinct)
        return self._run_distinct(call)

    def _run_distinct(self, call: Call) -> Tensor:
        """Return the output of a call whose windows at a place, upsampled, have kernels or offsets of their own."""
        if call.channel_kernel is not None:
            return run_channel_kernel(call, self._run_distinct)
        from unified_extractor.ops.backends.compiled.launch import OPERATORS

        def aggregate(call: Call) -> Tensor:
            return OPERATORS.run(_in_full_precision(call)).to(call.x.dtype)

        return (
            aggregate(call)
            if call.aggregation in ("unfold", "similarity")
            else run_rewritten(call, aggregate, sums_depthwise_terms=True)
        )


def _in_full_precision(call: Call) -> Call:
    """Return the call with its tensors in at least float32."""
    dtype = precision(call.x)
    if call.x.dtype == dtype:
        return call
    kernel = call.dynamic_kernel
    if isinstance(kernel, Tensor):
        kernel = kernel.to(dtype)
    elif kernel is not None:
        kernel = type(kernel)(*(part.to(dtype) if isinstance(part, Tensor) else part for part in kernel))  # type: ignore[arg-type]
    static_kernel, offsets = (None if t is None else t.to(dtype) for t in (call.static_kernel, call.offsets))
    return call._replace(x=call.x.to(dtype), static_kernel=static_kernel, dynamic_kernel=kernel, offsets=offsets)
