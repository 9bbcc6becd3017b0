"""The cases: shapes from published networks, each computed by the operator and by its baselines. A case is created when its
function is called, because its tensors take memory."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

import unified_extractor.presets as presets
from unified_extractor.benchmarks.baselines import (
    gated_convolutions,
    grid_sample_matmul,
    grid_sample_multiply_sum,
    grid_sample_upsampled,
    unfold_matmul_fold,
    unfold_multiply_sum,
    unfold_once_reassembled,
    unfold_reassembled,
    with_unfold,
)
from unified_extractor.models import rednet26
from unified_extractor.ops import checks
from unified_extractor.ops.call import Call
from unified_extractor.ops.cost import pass_multiply_adds
from unified_extractor.ops.dispatch import KernelMemory
from unified_extractor.ops.dynamic_kernels import AttentionKernel, LinearKernel
from unified_extractor.ops.fold_as_gather import compose_fold
from unified_extractor.ops.functional import extract
from unified_extractor.ops.offsets import inside_image, sub_pixel_offsets, window_shift
from unified_extractor.ops.upsampling import fine_values
from unified_extractor.profiling.extractors import extractors

OURS = "unified_extractor"

Compute = Callable[..., Tensor]
"""A function from a case's leaf tensors to the output."""


@dataclass(frozen=True)
class Setting:
    """The device, dtype and memory format of a case's tensors, and the backends that run it."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    backend: str | None = None
    """Backend of the operator; None lets the operator choose."""
    channels_last: bool = False
    """True if images, kernels and offsets are channels last, as the convolutions of a channels-last network return them."""
    compiler: str | None = None
    """Backend of ``torch.compile`` for the plain formulation; None leaves the compiled formulation out."""

    def tensor(self, batch: int, channels: int | tuple[int, ...], *size: int) -> Tensor:
        """Return normally distributed values ``[B, *channels, *size]``; several channel axes are a view of one."""
        channels = (channels,) if isinstance(channels, int) else channels
        values = torch.randn(batch, prod(channels), *size, device=self.device, dtype=self.dtype)
        if self.channels_last:
            values = values.contiguous(memory_format=torch.channels_last)
        return values.unflatten(1, channels)

    def leaf(self, batch: int, channels: int | tuple[int, ...], *size: int) -> Tensor:
        """Return normally distributed values ``[B, *channels, *size]`` that need a gradient."""
        return self.tensor(batch, channels, *size).requires_grad_()

    def offsets(self, batch: int, channels: int | tuple[int, ...], *size: int) -> Tensor:
        """Return offsets of a few pixels, in eighths and never whole: the derivative jumps where a position meets a pixel."""
        values = self.tensor(batch, channels, *size)
        eighths = 1 + (7 * (8 * values % 1)).floor().clamp(max=6)
        return ((2 * values).clamp(-7, 7).floor() + eighths / 8).requires_grad_()


CPU = Setting()


@dataclass(frozen=True)
class Candidate:
    """A way to compute something, forward and backward."""

    forward: Callable[[], object]
    step: Callable[[], Sequence[Tensor]]
    """Function that runs forward and backward and returns output and gradients."""
    values: Callable[[], Sequence[Tensor]] | None
    """Function that returns the values that must equal the operator's; None if the candidate computes something else."""
    copied: "Callable[[], Candidate] | None" = None
    """Function that returns the same candidate with inputs of its own, so that no input lies in a cache when its turn comes."""


@dataclass(frozen=True)
class Case:
    """The candidates that compute the same, the operator first."""

    candidates: dict[str, Candidate]
    inputs: Sequence[Tensor]
    """Tensors that exist before a step; the last one is the gradient of the output."""
    dtype: torch.dtype
    multiply_adds: tuple[int, int] = (0, 0)
    """Multiply-adds of forward and of backward, by the operator's formula; 0 if not stated."""
    call: Call | None = None
    """Call of the operator."""
    plain: str = ""
    """Name of the plain formulation, whose error in half precision is the measure for the operator's."""
    exact: Callable[[], Sequence[Tensor]] | None = None
    """Function that returns the values in float32 from the same inputs, in half precision only."""


def involution(channels: int, size: int, batch: int = 8, setting: Setting = CPU) -> Case:
    """Return an involution of RedNet-50: 7x7 taps, 16 channels a kernel. A static depthwise convolution of 7x7 taps is timed
    beside it."""
    x, kernel = setting.leaf(batch, channels, size, size), setting.leaf(batch, (channels // 16, 49), size, size)

    def call(x: Tensor, kernel: Tensor) -> Call:
        return Call(x, None, kernel, None, None, checks.geometry(x, 7, 1, 3, 1), "gather")

    case = _case(setting, (x, kernel), call, {"unfold": lambda x, kernel: unfold_multiply_sum(x, kernel, 7)})
    static = setting.leaf(channels, 1, 7, 7)
    case.candidates["depthwise"] = candidate(
        lambda x, static: F.conv2d(x, static, None, 1, 3, 1, channels), (x, static), case.inputs[-1], comparable=False
    )
    return case


def generated_involution(channels: int, size: int, batch: int = 8, setting: Setting = CPU) -> Case:
    """Return an involution with the linear map that generates its kernel from a quarter of the channels; the kernel is never
    stored."""
    x, feature = setting.leaf(batch, channels, size, size), setting.leaf(batch, channels // 4, size, size)
    rows = channels // 16 * 49
    weight = setting.tensor(rows, channels // 4, 1, 1).flatten(1).div_((channels // 4) ** 0.5).requires_grad_()
    bias = setting.tensor(rows, 1, 1, 1).flatten().requires_grad_()

    def call(x: Tensor, feature: Tensor, weight: Tensor, bias: Tensor) -> Call:
        return Call(x, None, LinearKernel(feature, weight, bias), None, None, checks.geometry(x, 7, 1, 3, 1))

    def unfold(x: Tensor, feature: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        kernel = F.conv2d(feature, weight[:, :, None, None], bias)
        return unfold_multiply_sum(x, kernel.unflatten(1, (-1, 49)), 7)

    def stored(*leaves: Tensor) -> Tensor:
        return _run(call(*leaves), setting.backend, "store")

    return _case(setting, (x, feature, weight, bias), call, {"unfold": unfold, "stored": stored})


def deformable_convolution_v2(batch: int = 8, channels: int = 64, size: int = 56, setting: Setting = CPU) -> Case:
    """Return a DCNv2 with one offset group and a mask; its offsets are a few pixels."""
    x, static = setting.leaf(batch, channels, size, size), setting.leaf(channels, channels, 3, 3)
    offsets, mask = setting.offsets(batch, 18, size, size), setting.leaf(batch, 9, size, size)

    def fields(offsets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return offsets.unflatten(1, (1, 9, 2)), mask.unsqueeze(1)

    def call(x: Tensor, static: Tensor, offsets: Tensor, mask: Tensor) -> Call:
        offsets, kernel = fields(offsets, mask)
        return Call(x, static, kernel, offsets, None, checks.geometry(x, 3, 1, 1, 1), "gather")

    def plain(x: Tensor, static: Tensor, offsets: Tensor, mask: Tensor) -> Tensor:
        return grid_sample_matmul(x, static, *fields(offsets, mask), 3)

    return _case(setting, (x, static, offsets, mask), call, {"grid_sample": plain} | _torchvision(setting))


def deformable_convolution_v4(
    batch: int = 8, channels: int = 64, size: int = 56, groups: int = 4, setting: Setting = CPU
) -> Case:
    """Return the core of DCNv3 and DCNv4: every group has its own offsets and kernel."""
    x, kernel = setting.leaf(batch, channels, size, size), setting.leaf(batch, (groups, 9), size, size)
    offsets = setting.offsets(batch, (groups, 9, 2), size, size)

    def call(x: Tensor, kernel: Tensor, offsets: Tensor) -> Call:
        return Call(x, None, kernel, offsets, None, checks.geometry(x, 3, 1, 1, 1), "gather")

    baselines = {"grid_sample": lambda x, kernel, offsets: grid_sample_multiply_sum(x, kernel, offsets, 3)}
    return _case(setting, (x, kernel, offsets), call, baselines)


def outlook_attention(batch: int = 8, channels: int = 192, size: int = 28, heads: int = 6, setting: Setting = CPU) -> Case:
    """Return VOLO-D1's outlook attention after its generator: 3x3 taps, stride 2."""
    x, kernel = setting.leaf(batch, channels, size, size), setting.leaf(batch, (heads, 9, 9), size // 2, size // 2)

    def call(x: Tensor, kernel: Tensor) -> Call:
        return Call(x, None, kernel, None, None, checks.geometry(x, 3, 2, 1, 1), "fold")

    def composed(x: Tensor, kernel: Tensor) -> Tensor:
        wide = compose_fold(kernel, checks.geometry(x, 3, 2, 1, 1))
        return extract(x, kernel_size=5, dynamic_kernel=wide, padding=2, backend=setting.backend)

    baselines = {"unfold-matmul-fold": lambda x, kernel: unfold_matmul_fold(x, kernel, 3, 2), "composed": composed}
    return _case(setting, (x, kernel), call, baselines)


def neighborhood_attention(
    batch: int, channels: int, size: int, heads: int, setting: Setting, baselines: dict[str, Compute]
) -> Case:
    """Return neighborhood attention with 7x7 taps, without scaling and position, beside the stored formula and given baselines."""
    leaves = tuple(setting.leaf(batch, channels, size, size) for _ in range(3))

    def call(query: Tensor, key: Tensor, value: Tensor) -> Call:
        geometry = checks.geometry(value, 7, 1, 3, 1)
        shift = window_shift(geometry, dtype=torch.float32, device=value.device)
        offsets = shift.expand(batch, 1, geometry.taps, 2, *geometry.output)
        return Call(value, None, AttentionKernel(query, key, heads), offsets, None, geometry)

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _run(call(query, key, value), "eager", "store")

    return _case(setting, leaves, call, {"eager, stored": plain} | baselines, "store")


def mixture(kernel_size: int, batch: int = 8, channels: int = 64, size: int = 56, terms: int = 4, setting: Setting = CPU) -> Case:
    """Return a sum of depthwise convolutions, each times its value at every position, so that the kernel changes from pixel to pixel."""
    x, static = setting.leaf(batch, channels, size, size), setting.leaf(terms, (channels, 1), kernel_size, kernel_size)
    gates = setting.leaf(batch, (terms, 1, 1), size, size)

    def call(x: Tensor, static: Tensor, gates: Tensor) -> Call:
        return Call(x, static, gates, None, None, checks.geometry(x, kernel_size, 1, kernel_size // 2, 1))

    def channels_last(x: Tensor, static: Tensor, gates: Tensor) -> Tensor:
        return gated_convolutions(x.contiguous(memory_format=torch.channels_last), static, gates)

    return _case(setting, (x, static, gates), call, {"convolutions": gated_convolutions, "channels last": channels_last})


def carafe(batch: int = 8, channels: int = 64, size: int = 28, setting: Setting = CPU) -> Case:
    """Return CARAFE's upsampling by two after its generator, the softmax included: 5x5 taps, one kernel an output."""
    leaves = setting.leaf(batch, channels, size, size), setting.leaf(batch, 25 * 4, size, size)

    def call(x: Tensor, logits: Tensor) -> Call:
        kernel = fine_values(logits, (2, 2)).softmax(1).unsqueeze(1)
        return Call(x, None, kernel, None, None, checks.geometry(x, 5, 1, 2, 1, 2))

    ways = {"unfold": unfold_reassembled, "unfold once": unfold_once_reassembled}
    return _case(setting, leaves, call, {name: partial(way, kernel_size=5, factor=2) for name, way in ways.items()})


def dysample(batch: int = 8, channels: int = 64, size: int = 28, groups: int = 4, setting: Setting = CPU) -> Case:
    """Return DySample's upsampling by two after the linear map that generates its offsets: one sample an output and group."""
    leaves = setting.leaf(batch, channels, size, size), setting.offsets(batch, groups * 2 * 4, size, size)

    def call(x: Tensor, values: Tensor) -> Call:
        geometry = checks.geometry(x, 1, 1, 0, 1, 2)
        offsets = 0.25 * fine_values(values, (2, 2)).unflatten(1, (groups, 1, 2))
        offsets = inside_image(offsets + sub_pixel_offsets(geometry, offsets), geometry)
        return Call(x, None, None, offsets, None, geometry)

    return _case(setting, leaves, call, {"grid_sample": partial(grid_sample_upsampled, groups=groups, factor=2)})


def convolution(batch: int = 8, channels: int = 64, size: int = 56) -> Case:
    """Return a convolution with a static kernel only, which the operator passes to torch."""
    leaves = CPU.leaf(batch, channels, size, size), CPU.leaf(channels, channels, 3, 3)

    def call(x: Tensor, static: Tensor) -> Call:
        return Call(x, static, None, None, None, checks.geometry(x, 3, 1, 1, 1), "gather")

    return _case(CPU, leaves, call, {"torch": lambda x, static: F.conv2d(x, static, padding=1)})


def training_step(batch: int = 8, size: int = 112) -> Case:
    """Return a training step of RedNet-26: forward, cross entropy, backward, SGD."""
    network = rednet26(spec=presets.involution(kernel_size=7))
    images, labels = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))
    networks = {OURS: network, "stored": stored(network), "unfold": with_unfold(copy.deepcopy(network))}

    def step(network: torch.nn.Module, images: Tensor) -> Callable[[], list[Tensor]]:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.0)  # all the work of a step, and every step the same

        def run() -> list[Tensor]:
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
            return [loss, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])]

        return run

    def candidate(network: torch.nn.Module) -> Candidate:
        exact = step(copy.deepcopy(network).double(), images.double())  # through 26 layers float32 differs by a percent
        return Candidate(lambda: network(images), step(network, images), exact)

    candidates = {name: candidate(network) for name, network in networks.items()}
    parameters = [p for network in networks.values() for p in network.parameters()]
    return Case(candidates, (images, *parameters), torch.float32)


def stored(module: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a module whose layers store every dynamic kernel."""
    module = copy.deepcopy(module)
    for layer in extractors(module).values():
        layer.kernel_memory = "store"
    return module


def _case(
    setting: Setting,
    leaves: Sequence[Tensor],
    call: Callable[..., Call],
    baselines: dict[str, Compute],
    kernel_memory: KernelMemory = "recompute",
) -> Case:
    """Return a case of the operator. The first baseline is the plain formulation, which is also compiled and is the measure
    in half precision."""
    asked = call(*leaves)
    gradient = setting.tensor(*asked.output_shape())
    plain, formulation = next(iter(baselines.items()))
    ways: dict[str, Compute] = {
        OURS: lambda *leaves: _run(call(*leaves), setting.backend, kernel_memory if asked.computed_kernel else "auto"),
        "eager": lambda *leaves: _run(call(*leaves), "eager"),
        plain: formulation,
    }
    if setting.compiler is not None:
        torch.compiler.reset()  # else after some shapes the compiler gives the formulation up and runs it as it is
        ways[f"compiled {plain}"] = torch.compile(formulation, fullgraph=True, dynamic=False, backend=setting.compiler)
    candidates = {name: candidate(way, leaves, gradient) for name, way in (ways | baselines).items()}
    half = setting.dtype in (torch.float16, torch.bfloat16)

    def exact() -> Sequence[Tensor]:
        precise = [leaf.detach().float().requires_grad_() for leaf in leaves]
        return candidate(formulation, precise, gradient.float()).step()

    return Case(candidates, (*leaves, gradient), setting.dtype, pass_multiply_adds(asked), asked, plain, exact if half else None)


def _run(call: Call, backend: str | None, kernel_memory: KernelMemory = "auto") -> Tensor:
    geometry = call.geometry
    return extract(
        call.x,
        kernel_size=geometry.kernel_size,
        static_kernel=call.static_kernel,
        dynamic_kernel=call.dynamic_kernel,
        offsets=call.offsets,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        upsample=geometry.upsample,
        aggregation=call.aggregation,  # type: ignore[arg-type]
        kernel_memory=kernel_memory,
        backend=backend,
    )


def candidate(compute: Compute, leaves: Sequence[Tensor], gradient: Tensor, *, comparable: bool = True) -> Candidate:
    """Return the candidate that computes an output from leaves, and the leaves' gradients from the output's."""

    def step() -> list[Tensor]:
        output = compute(*leaves)
        return [output, *torch.autograd.grad(output, leaves, gradient)]

    def copied() -> Candidate:
        others = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        return candidate(compute, others, gradient.clone(), comparable=comparable)

    return Candidate(lambda: compute(*leaves), step, step if comparable else None, copied)


def _torchvision(setting: Setting) -> dict[str, Compute]:
    """Return torchvision's deformable convolution; it runs in float32, casts included, if it does not know the dtype."""

    def convolve(x: Tensor, static: Tensor, offsets: Tensor, mask: Tensor) -> Tensor:
        return deform_conv2d(x, offsets, static, None, 1, 1, 1, mask)

    try:
        small = [torch.ones(1, channels, 3, 3, device=setting.device, dtype=setting.dtype) for channels in (1, 1, 18, 9)]
        convolve(*small)
    except RuntimeError:
        return {"torchvision in float32": lambda *leaves: convolve(*(leaf.float() for leaf in leaves)).to(setting.dtype)}
    return {"torchvision": convolve}


CPU_CASES: dict[str, Callable[[], Case]] = {
    "involution 64x56x56": partial(involution, 64, 56),
    "involution 128x28x28": partial(involution, 128, 28),
    "involution 256x14x14": partial(involution, 256, 14),
    "involution 512x7x7": partial(involution, 512, 7),
    "DCNv2 64x56x56": deformable_convolution_v2,
    "DCNv4 64x56x56": deformable_convolution_v4,
    "outlook 192x28x28": outlook_attention,
    "mixture of 4, 3x3, 64x56x56": partial(mixture, 3),
    "mixture of 4, 7x7, 64x56x56": partial(mixture, 7),
    "upsampling by CARAFE, 64x28x28": carafe,
    "upsampling by DySample, 64x28x28": dysample,
    "convolution 64x56x56": convolution,
    "RedNet-26 step 3x112x112": training_step,
}
"""The cases of ``uniex bench cpu``, each a function: batch 8."""


def gpu_cases(batch: int, device: str = "cuda", compiler: str | None = "inductor") -> dict[str, Callable[[], Case]]:
    """Return the cases of ``uniex bench gpu``, each a function: in bfloat16, then in float32.

    On the device "meta" their tensors have shapes and take no memory.
    """
    shapes: dict[str, Callable[..., Case]] = {
        "involution 64x56x56": partial(involution, 64, 56, batch),
        "involution 128x28x28": partial(involution, 128, 28, batch),
        "involution 256x14x14": partial(involution, 256, 14, batch),
        "involution 512x7x7": partial(involution, 512, 7, batch),
        "generated involution 64x56x56": partial(generated_involution, 64, 56, batch),
        "generated involution 128x28x28": partial(generated_involution, 128, 28, batch),
        "outlook 192x28x28": partial(outlook_attention, batch),
        "DCNv3 64x56x56": partial(deformable_convolution_v4, batch, 64, 56, 4),
        "DCNv3 128x28x28": partial(deformable_convolution_v4, batch, 128, 28, 8),
        "DCNv3 256x14x14": partial(deformable_convolution_v4, batch, 256, 14, 16),
        "DCNv3 512x7x7": partial(deformable_convolution_v4, batch, 512, 7, 32),
        "DCNv2 128x28x28": partial(deformable_convolution_v2, batch, 128, 28),
        "DCNv2 256x14x14": partial(deformable_convolution_v2, batch, 256, 14),
    }
    compiler = None if device == "meta" else compiler
    settings = [
        Setting(device, dtype, backend="triton", channels_last=True, compiler=compiler)
        for dtype in (torch.bfloat16, torch.float32)
    ]
    return {f"{name} {_name(s.dtype)}": partial(make, setting=s) for s in settings for name, make in shapes.items()}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
