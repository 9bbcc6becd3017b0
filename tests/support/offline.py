"""Compile the Triton kernels of some calls for a GPU that is not there, and print what the compilers report: a line of JSON a kernel.

python tests/support/offline.py 80 90
"""

import json
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from unified_extractor.ops import checks
from unified_extractor.ops.backends.triton import deterministic, launch
from unified_extractor.ops.backends.triton.records import constants
from unified_extractor.ops.backends.triton.tuning import suitable
from unified_extractor.ops.call import Call, Wanted, similarity_call
from unified_extractor.ops.dynamic_kernels import LinearKernel

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Chip:
    """A driver that answers what Triton asks before it launches; nothing is launched."""

    def __init__(self, architecture):
        self.architecture = architecture

    def get_current_device(self):
        return self.architecture

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.architecture, 32)


def tensor(*shape, dtype, channels_last):
    """Return a tensor of values not written; with channels last, the axes before the last two are next to each other."""
    if not channels_last:
        return torch.empty(shape, dtype=dtype)
    return torch.empty((shape[0], *shape[-2:], *shape[1:-2]), dtype=dtype).permute(0, *range(3, len(shape)), 1, 2)


def calls(dtype, channels_last):
    """Return {name: call} with the networks' shapes, the batch cut to 2."""

    def new(*shape):
        return tensor(*shape, dtype=dtype, channels_last=channels_last)

    def call(x, kernel_size, static=None, dynamic=None, offsets=None, aggregation="gather", combine="multiply", stride=1):
        return Call(x, static, dynamic, offsets, None, checks.geometry(x, kernel_size, stride, "same", 1), aggregation, combine)

    def static(*shape):
        return torch.empty(shape, dtype=dtype)

    def generated(call, depth, groups, normalization="none"):
        rows, (height, width) = groups * call.geometry.taps, call.geometry.output
        kernel = LinearKernel(new(2, depth, height, width), static(rows, depth), static(rows), 1.0, normalization)
        return call._replace(dynamic_kernel=kernel)

    query, key = new(2, 192, 28, 28), new(2, 192, 28, 28)
    return {
        "involution": call(new(2, 64, 56, 56), 7, dynamic=new(2, 4, 49, 56, 56)),
        "DCNv3": call(new(2, 64, 56, 56), 3, dynamic=new(2, 4, 9, 56, 56), offsets=new(2, 4, 9, 2, 56, 56)),
        "DCNv2": call(
            new(2, 256, 28, 28), 3, static(256, 256, 3, 3), dynamic=new(2, 1, 9, 28, 28), offsets=new(2, 1, 9, 2, 28, 28)
        ),
        "outlook": call(new(2, 192, 28, 28), 3, dynamic=new(2, 6, 9, 9, 14, 14), aggregation="fold", stride=2),
        "unified": call(
            new(2, 64, 56, 56), 7, static(64, 1, 7, 7), new(2, 4, 49, 56, 56), new(2, 4, 49, 2, 56, 56), combine="residual"
        ),
        "involution, generated": generated(call(new(2, 64, 56, 56), 7), 16, 4),
        "involution, generated from 32": generated(call(new(2, 128, 28, 28), 7), 32, 8),
        "DCNv3, generated": generated(
            call(new(2, 64, 56, 56), 3, offsets=new(2, 4, 9, 2, 56, 56)), 64, 4, normalization="softmax"
        ),
        "similarity": similarity_call(query, key, 6, None, checks.geometry(key, 7, 1, "same", 1)),
    }


def report(kernel):
    """Return the registers of a thread, bytes of stack, spilling instructions and the widths of global loads in bytes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([CUOBJDUMP, option, file.name], capture_output=True, text=True, check=True).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    vectors = re.findall(r"ld\.global[\w:.]*?(?:\.v(\d))?\.[bu](\d+)", kernel.asm["ptx"])
    copies = re.findall(r"cp\.async\.\w+\.shared\.global .*?, (0x[0-9a-f]+|\d+), ", kernel.asm["ptx"])
    widths = [int(count or 1) * int(bits) // 8 for count, bits in vectors] + [int(size, 0) for size in copies]
    return {
        "registers": int(registers),
        "stack": int(stack),
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", code)),
        "widths": sorted(set(widths), reverse=True),
    }


def compile_all(architecture, *, defaults, once):
    """Print a line for every kernel that the calls would launch, in its default configuration or in each.

    ``once`` takes each call in one pair of dtype and layout, in turn, instead of in all four.
    """
    labels = {}

    def start(kernel, grid, device, plan, extent, **arguments):
        for place, config in enumerate(suitable(kernel.configs, plan)[: 1 if defaults else None]):
            options = config.all_kwargs()
            compiled = kernel.fn.warmup(
                grid=(1,), plan=constants(plan), TUNED_FOR=0, enable_fp_fusion=True, **arguments, **options
            )
            row = {"kernel": kernel.base_fn.__name__, "warps": config.num_warps, "options": config.kwargs, "default": place == 0}
            print(json.dumps(labels | row | report(compiled)), flush=True)

    driver.set_active(Chip(architecture))
    launch.start = deterministic.start = start
    for turn, (dtype, channels_last) in enumerate(product((torch.bfloat16, torch.float32), (True, False))):
        for place, (name, call) in enumerate(calls(dtype, channels_last).items()):
            if once and place % 4 != turn:
                continue
            labels = {
                "architecture": architecture,
                "call": name,
                "dtype": str(dtype).removeprefix("torch."),
                "layout": "channels_last" if channels_last else "contiguous",
            }
            launch_all(name, call)


def launch_all(name, call):
    """Launch the kernels of a call, forward and backward, of deterministic gradients too for DCNv3."""
    if call.aggregation == "similarity":
        launch.run_backward(call, call.x, Wanted(x=False, static_kernel=False, dynamic_kernel=True, offsets=False))
        return
    launch.run_forward(call)
    direct = (call.static_kernel, call.stored_kernel, call.offsets, *call.kernel_tensors)
    wanted, gradient = Wanted(True, *(t is not None for t in direct)), launch.new_output(call)
    launch.run_backward(call, gradient, wanted)
    if name == "DCNv3":
        torch.use_deterministic_algorithms(True)
        launch.run_backward(call, gradient, wanted)
        torch.use_deterministic_algorithms(False)


if __name__ == "__main__":
    compile_all(int(sys.argv[1]), defaults="--defaults" in sys.argv, once="--once" in sys.argv)
