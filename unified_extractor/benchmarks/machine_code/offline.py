"""The Triton kernels of some calls, compiled for a GPU that is not there: what the compilers report and what a warp executes.

``python -m unified_extractor.benchmarks.machine_code.offline 90`` prints a line of JSON for each kernel. It is a program of its own, since
a process has one Triton, and one that interprets kernels does not compile them.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from unified_extractor.benchmarks.machine_code.instructions import Code, code_of
from unified_extractor.benchmarks.machine_code.warp import Counts, UnknownValueError, Warp
from unified_extractor.ops import checks
from unified_extractor.ops.backends.triton import launch, tuning
from unified_extractor.ops.call import Call, Wanted, similarity_call

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_BANK = {8: 0x160, 9: 0x210, 10: 0x380, 12: 0x380}
"""The address in the bank of constants at which a kernel's arguments begin, by the generation of the GPU."""
_PROGRAMS, _ENOUGH = 24, 50_000
"""Programs that are walked through, neighbors in the middle of the grid: of every class of a stride of 2, and all blocks of channels. Long
ones differ little: after so many instructions no further one is begun."""


class Chip:
    """A driver that answers what Triton asks before it launches; nothing is launched."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_device(self) -> int:
        """Return a number for the device."""
        return self.architecture

    def get_current_stream(self, device: int) -> int:
        """Return a number for the stream."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """Return what kernels are compiled for."""
        return GPUTarget("cuda", self.architecture, 32)


def calls(dtype: torch.dtype, channels_last: bool) -> dict[str, Call]:
    """Return calls with the networks' shapes by their names, the batch cut to 2."""

    def new(*shape: int) -> Tensor:
        if not channels_last:
            return torch.empty(shape, dtype=dtype)
        # the axes before the last two are next to each other
        return torch.empty((shape[0], *shape[-2:], *shape[1:-2]), dtype=dtype).permute(0, *range(3, len(shape)), 1, 2)

    def call(x: Tensor, kernel_size: int, stride: int = 1, **given: Any) -> Call:
        tensors: dict[str, Any] = {"static_kernel": None, "dynamic_kernel": None, "offsets": None, "bias": None} | given
        return Call(x, geometry=checks.geometry(x, kernel_size, stride, "same", 1), **tensors)

    def static(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype)

    query, key = new(2, 192, 28, 28), new(2, 192, 28, 28)
    offsets = new(2, 4, 9, 2, 56, 56)
    deformable = call(new(2, 64, 56, 56), 3, dynamic_kernel=new(2, 4, 9, 56, 56), offsets=offsets)
    return {
        "involution": call(new(2, 64, 56, 56), 7, dynamic_kernel=new(2, 4, 49, 56, 56)),
        "DCNv3": deformable,
        "DCNv2": call(
            new(2, 256, 28, 28),
            3,
            static_kernel=static(256, 256, 3, 3),
            dynamic_kernel=new(2, 1, 9, 28, 28),
            offsets=new(2, 1, 9, 2, 28, 28),
        ),
        "groups of 8": call(new(2, 64, 56, 56), 3, dynamic_kernel=new(2, 8, 9, 56, 56)),
        "unified": call(
            new(2, 64, 56, 56),
            7,
            static_kernel=static(64, 1, 7, 7),
            dynamic_kernel=new(2, 4, 49, 56, 56),
            offsets=new(2, 4, 49, 2, 56, 56),
            combine="residual",
        ),
        "similarity": similarity_call(query, key, 6, None, checks.geometry(key, 7, 1, "same", 1)),
        "DCNv3, deterministic": deformable,
        "unified on the grid": call(
            new(2, 64, 56, 56),
            3,
            static_kernel=static(64, 1, 3, 3),
            dynamic_kernel=new(2, 4, 9, 56, 56),
            combine="residual",
        ),
        "outlook": call(new(2, 192, 28, 28), 3, 2, dynamic_kernel=new(2, 6, 9, 9, 14, 14), aggregation="fold"),
    }


def passes(name: str, call: Call) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield a call's passes by their names; one whose name says so is deterministic."""
    if call.aggregation == "similarity":
        yield "forward", lambda: launch.run_backward(call, call.x, Wanted(0, 0, 1, 0))
        return
    yield "forward", lambda: launch.run_forward(call)
    direct = (call.static_kernel, call.stored_kernel, call.offsets, *call.kernel_tensors)
    wanted, gradient = Wanted(1, *(int(tensor is not None) for tensor in direct)), launch.new_output(call)
    torch.use_deterministic_algorithms("deterministic" in name)
    yield "backward", lambda: launch.run_backward(call, gradient, wanted)
    torch.use_deterministic_algorithms(False)


def disassembled(compiled: Any) -> Code:
    """Return the machine code of a compiled kernel."""
    return code_of(_tool("-sass", compiled))


def report(compiled: Any) -> dict[str, Any]:
    """Return the registers of a thread, bytes of stack and of shared memory, spilling instructions, the widths of global loads."""
    usage = _tool("--dump-resource-usage", compiled)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()  # type: ignore[union-attr]
    code = disassembled(compiled)
    loads = [instruction for instruction in code.instructions if instruction.base in ("LDG", "LDGSTS") and instruction.operands]
    return {
        "registers": int(registers),
        "stack": int(stack),
        "shared": compiled.metadata.shared,
        "spills": code.count("STL", "LDL"),
        "widths": sorted({load.bytes for load in loads}, reverse=True),
    }


def executed(compiled: Any, values: Mapping[str, Any], programs: int, outputs: int) -> dict[str, Any]:
    """Return what a program executes: instructions for each output of the call, barriers, loads by width, lines of wide loads.

    Args:
        compiled: the compiled kernel.
        values: its arguments by name.
        programs: the programs of its grid along the first axis.
        outputs: the values of the call's output that a program has a part in, for a whole grid divided by its programs.
    """
    code, constants = disassembled(compiled), _constants(compiled, values)
    first = max(programs // 2 - _PROGRAMS // 2, 0)
    try:
        found: list[Counts] = []
        for program in range(first, min(first + _PROGRAMS, programs)):
            if sum(counts.instructions for counts in found) < _ENOUGH:
                found.append(Warp(code, constants, program).run())
    except UnknownValueError as error:
        return {"instructions": None, "reason": str(error)}
    threads = 32 * compiled.metadata.num_warps
    return _means(found, threads / outputs)


def _means(found: list[Counts], threads_an_output: float) -> dict[str, Any]:
    lines = [line for counts in found for line in counts.lines]
    widths = sorted({width for counts in found for width in counts.loads}, reverse=True)
    return {
        "instructions": round(threads_an_output * sum(counts.instructions for counts in found) / len(found), 1),
        "barriers": round(sum(counts.barriers for counts in found) / len(found), 1),
        "loads": {str(width): round(sum(counts.loads[width] for counts in found) / len(found), 1) for width in widths},
        "lines": round(sum(lines) / len(lines), 1) if lines else None,
    }


def _constants(compiled: Any, values: Mapping[str, Any]) -> dict[int, int]:
    """Return the 32-bit words of the arguments by their place in the bank of constants; tensors lie far from each other."""
    place, words = _BANK[compiled.metadata.target.arch // 10], {}
    for number, (kind, value) in enumerate(_arguments(compiled.src.signature, values)):
        size = 8 if kind.startswith("*") or kind.endswith("64") else 4
        place = -(-place // size) * size
        bits = (number + 1) << 40 if kind.startswith("*") else int(value)
        for word in range(size // 4):
            words[place + 4 * word] = bits >> 32 * word & 0xFFFFFFFF
        place += size
    return words


def _arguments(signature: Any, values: Any) -> Iterator[tuple[str, Any]]:
    """Yield the type and the value of each argument that is not compiled in."""
    pairs = (
        [(kind, values[name]) for name, kind in signature.items()]
        if isinstance(signature, dict)
        else zip(signature, values, strict=True)
    )
    for kind, value in pairs:
        if isinstance(kind, tuple):
            yield from _arguments(kind, value)
        elif kind != "constexpr":
            yield kind, value


def _tool(option: str, compiled: Any) -> str:
    """Return what NVIDIA's tool says of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return subprocess.run([_TOOLS / "cuobjdump", option, file.name], capture_output=True, text=True, check=True).stdout


def compile_calls(
    chosen: Iterable[tuple[dict[str, Any], Call]],
    architecture: int,
    *,
    defaults: bool,
    walk: bool,
    show: Callable[[Any], None] | None,
) -> None:
    """Show a row for every kernel that calls would launch, in its default configuration or in each.

    Args:
        chosen: labels of a row, among them the name of the call, and the call.
        architecture: the GPU, 90 for sm_90.
        defaults: leave out all configurations but the default.
        walk: add what a warp executes.
        show: what takes a row; None compiles only.
    """
    labels: dict[str, Any] = {}
    outputs = 0

    def start_default(kernel: Any, grid: Any, arguments: dict[str, Any]) -> None:
        for place, config in enumerate(tuning.suitable(kernel.configs, arguments["plan"])[: 1 if defaults else None]):
            options = config.all_kwargs()
            compiled = kernel.fn.warmup(grid=(1,), **arguments, **options)
            if show is None:
                continue
            row = {"kernel": kernel.base_fn.__name__, "warps": config.num_warps, "options": config.kwargs, "default": place == 0}
            row |= report(compiled)
            if walk:
                programs = prod(grid(arguments | options) if callable(grid) else grid)
                row |= executed(compiled, {"TUNED_FOR": 0} | arguments | options, programs, outputs / programs)
            show(labels | row)

    driver.set_active(Chip(architecture))
    tuning._start_default = start_default
    for names, call in chosen:
        outputs = prod(call.output_shape())
        for which, run in passes(names["call"], call):
            labels = names | {"pass": which}
            run()


def chosen_calls(architecture: int, only: str, once: bool, wide: bool) -> Iterator[tuple[dict[str, Any], Call]]:
    """Yield labels and calls: in two dtypes and two layouts, or ``once``, in one pair of those each, or ``wide``, channels last alone."""
    for turn, (dtype, channels_last) in enumerate(product((torch.bfloat16, torch.float32), (True, False))):
        for place, (name, call) in enumerate(calls(dtype, channels_last).items()):
            if (once and place % 4 != turn) or (wide and not channels_last) or only not in f"{name} {dtype}":
                continue
            labels = {"architecture": architecture, "triton": triton.__version__, "call": name}
            labels |= {"dtype": str(dtype).removeprefix("torch."), "layout": "channels_last" if channels_last else "contiguous"}
            yield labels, call


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architecture", type=int)
    parser.add_argument("--defaults", action="store_true", help="the default configuration of each kernel alone")
    parser.add_argument("--once", action="store_true", help="each call in one pair of dtype and layout, in turn")
    parser.add_argument("--channels-last", action="store_true", help="channels last alone")
    parser.add_argument("--walk", action="store_true", help="count what a warp executes, too")
    parser.add_argument("--only", default="", help="calls whose name and dtype hold this word")
    given = parser.parse_args()
    compile_calls(
        chosen_calls(given.architecture, given.only, given.once, given.channels_last),
        given.architecture,
        defaults=given.defaults,
        walk=given.walk,
        show=lambda row: print(json.dumps(row), flush=True),
    )
