"""The choice of a kernel's configuration: measured once for each plan, kept on disk, never measured again for another batch size."""

from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import sha256
from threading import Lock
from typing import Any

import torch
import triton

from unified_extractor.ops.backends.triton.prepared import CompiledLaunch, recorder
from unified_extractor.ops.backends.triton.records import Plan, constants


def _measure(call: Callable[[], None], quantiles: Any) -> Any:
    try:
        return triton.testing.do_bench(call, warmup=5, rep=20, quantiles=quantiles)
    except torch.OutOfMemoryError:  # its buffer to flush the cache: nothing is measured, the default serves
        return [float("inf")] * 3


def _clear(arguments: dict[str, Any], reset_only: bool = False) -> None:
    """Zero the memory that a kernel adds to, before each of its runs."""
    if arguments.get("GRAD_X"):
        arguments["grad_x"].data.zero_()


_OPTIONS = ("num_warps", "num_stages", "maxnreg")


def tuned(*configurations: dict[str, int]) -> Callable[[Any], Any]:
    """Return a decorator that gives a kernel a few configurations: options of the compiler and constants of the kernel.

    The first suitable configuration is the default. ``maxnreg`` is the number of registers that a thread may use, for the occupancy
    planned. Without it the assembler may spill a few registers of a kernel that needs few, to reach an occupancy of its own choice; with
    it, it may unroll until it has used them up. The default spills none, whatever Triton's version; another configuration may spill a
    few bytes with some versions, for the tuner to judge.

    The kernel's parameter ``TUNED_FOR`` is a number for the plan that a configuration was measured for; the kernel does not read it.
    """
    configs = []
    for configuration in configurations:
        options = {name: value for name, value in configuration.items() if name in _OPTIONS}
        configs.append(triton.Config({name: value for name, value in configuration.items() if name not in _OPTIONS}, **options))
    prune = {"early_config_prune": lambda configs, named, plan, **arguments: suitable(configs, plan)}
    return triton.autotune(
        configs, key=["TUNED_FOR"], pre_hook=_clear, do_bench=_measure, cache_results=True, prune_configs_by=prune
    )


def suitable(configs: list[Any], plan: Plan) -> list[Any]:
    """Return the configurations that serve a plan.

    Taps that are loaded eight at once must be neighbors in memory, and be summed.
    """
    summed = _plain(plan.aggregation) != "unfold" and not _plain(plan.has_offsets)
    vectors = _plain(plan.adjacent_taps) and summed and _plain(plan.taps) >= 8
    taps = {1, 8} if vectors else {1}
    return [config for config in configs if config.kwargs.get("TAPS", 1) in taps or "TAPS" not in config.kwargs]


def _plain(value: Any) -> Any:
    """Return the value of a compile-time constant."""
    return getattr(value, "value", value)


def start(kernel: Any, grid: Any, device: torch.device, plan: Plan, extent: int, **arguments: Any) -> None:
    """Run a tuned kernel on a device.

    ``extent`` is the number of pixels of an image, whose magnitude matters to what is fastest. The default configuration serves
    where measuring cannot: in Triton's interpreter, where results must be the same every time (``torch.use_deterministic_algorithms``),
    and in the capture of a CUDA graph before which no such call ran.
    """
    if (tape := recorder()) is not None:
        with tape.paused():
            tape.launched(*_started(kernel, grid, device, plan, extent, arguments))
    else:
        _started(kernel, grid, device, plan, extent, arguments)


def _started(
    kernel: Any, grid: Any, device: torch.device, plan: Plan, extent: int, arguments: dict[str, Any]
) -> tuple[Callable[..., None], tuple[Any, ...]]:
    """Run a kernel, and return what runs it again and the arguments for that."""
    purpose = _purpose(plan, extent.bit_length())
    arguments |= {"plan": constants(plan), "TUNED_FOR": purpose, "enable_fp_fusion": True}  # Triton's default will change
    default = suitable(kernel.configs, plan)[0]
    if device.type == "cpu":
        compiled, config = _start_default(kernel, grid, arguments), default
    else:
        with torch.cuda.device(device), _TUNER:
            single = len(suitable(kernel.configs, plan)) == 1
            captured = torch.cuda.is_current_stream_capturing() and all(key[0] != purpose for key in kernel.cache)
            if single or captured or torch.are_deterministic_algorithms_enabled():
                compiled, config = _start_default(kernel, grid, arguments), default
            else:
                compiled, config = kernel[grid](**arguments), kernel.best_config
    named = arguments | config.kwargs
    sizes = grid(named) if callable(grid) else grid
    if compiled is None:  # the interpreter compiles nothing
        return partial(_start_again, kernel, sizes, tuple(arguments), config), tuple(arguments.values())
    return CompiledLaunch(compiled, sizes, device), tuple(named[name] for name in kernel.fn.arg_names)


def _start_default(kernel: Any, grid: Any, arguments: dict[str, Any]) -> Any:
    return kernel.fn[grid](**arguments, **suitable(kernel.configs, arguments["plan"])[0].all_kwargs())


def _start_again(kernel: Any, grid: Any, names: tuple[str, ...], config: Any, *values: Any) -> None:
    kernel.fn[grid](**dict(zip(names, values, strict=True)), **config.all_kwargs())


_TUNER = Lock()
"""Lock of Triton's autotuner, which keeps its call's arguments on itself, while autograd has a thread for each device."""


@lru_cache(maxsize=256)
def _purpose(plan: Plan, magnitude: int) -> int:
    """Return a number for a plan and magnitude. A text would be compiled into the kernel, once for each text."""
    return int(sha256(f"{magnitude} {plan}".encode()).hexdigest()[:7], 16)
