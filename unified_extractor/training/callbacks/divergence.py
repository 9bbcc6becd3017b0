"""A callback that ends a run whose loss is not finite and names the layer where that began."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from unified_extractor.training.callbacks.host_copy import HostCopy
from unified_extractor.training.errors import DivergedError

_CHECKPOINT_NOTE = "The last checkpoint is from before"


AHEAD = 4
"""Losses that may be unread while further steps are launched. More would hold more batches in memory and fill no gap on the device."""


class _Loss(NamedTuple):
    """The loss of a batch, its finiteness on the way to the host, and the step in words."""

    images: Tensor
    loss: Tensor
    finite: HostCopy
    place: str


class StopWhenDiverged(L.Callback):
    """A callback that raises :class:`DivergedError` before a loss that is not finite changes the weights.

    Weights that are not finite are never saved either, so every checkpoint is usable. Where the optimizer runs as one kernel, that kernel
    leaves the weights as they are from such a loss on, and the host reads losses as they arrive, some steps later, without waiting.
    Otherwise a loss is awaited after backward has been launched.
    """

    def __init__(self) -> None:
        self._images: Tensor | None = None
        self._pending: deque[_Loss] = deque()
        self._diverged: Tensor | None = None

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pending.clear()  # of a fit before this one
        self._diverged = None

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._images = batch[0]

    @override
    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        skips = skips_on_device(trainer)
        self._check(trainer, pl_module, AHEAD if skips else 0)  # the batches before
        assert self._images is not None
        loss = loss.detach()
        finite = torch.isfinite(loss)
        if skips:
            diverged = (~finite).float()
            self._diverged = diverged if self._diverged is None else torch.maximum(self._diverged, diverged)
        self._pending.append(_Loss(self._images, loss, HostCopy(finite), _place(trainer)))
        if torch.is_anomaly_enabled():  # else backward would raise first, and say less
            self._check(trainer, pl_module)

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        if skips_on_device(trainer):
            optimizer.found_inf = self._diverged  # type: ignore[attr-defined]  # as torch's GradScaler tells it
        else:
            self._check(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer, pl_module)

    def _check(self, trainer: L.Trainer, pl_module: L.LightningModule, ahead: int = 0) -> None:
        """Read the losses that have arrived, and wait for others until no more than ``ahead`` are unread."""
        while self._pending and (len(self._pending) > ahead or self._pending[0].finite.arrived):
            self._check_one(trainer, pl_module, self._pending.popleft())

    def _check_one(self, trainer: L.Trainer, pl_module: L.LightningModule, pending: _Loss) -> None:
        finite = bool(pending.finite.read())
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        self._pending.clear()
        if finite:
            raise DivergedError(f"the loss of another process is not finite at {pending.place}")
        with trainer.precision_plugin.train_step_context():
            began = first_not_finite(pl_module.network, pending.images)  # type: ignore[arg-type]
        raise DivergedError(f"the loss is {float(pending.loss)} at {pending.place}; {began}. {_CHECKPOINT_NOTE}")

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]  # batch norm has no statistics after a step, an evaluation may overflow
        if not trial and loss is not None and not bool(torch.isfinite(loss)):
            raise DivergedError(f"the validation loss is {float(loss)} in epoch {trainer.current_epoch + 1}. {_CHECKPOINT_NOTE}")

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check(trainer, pl_module)
        for name, parameter in pl_module.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise DivergedError(
                    f"the weights {name} are not finite after step {trainer.global_step} of the run. {_CHECKPOINT_NOTE}"
                )


def skips_on_device(trainer: L.Trainer) -> bool:
    """Return True if the optimizer's kernel can leave out steps by itself: it is fused, on one device, and gradients are not scaled."""
    plugin = trainer.precision_plugin
    scaled = isinstance(plugin, MixedPrecision) and plugin.scaler is not None
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return trainer.world_size == 1 and not scaled and all(group.get("fused") for group in groups)


def _place(trainer: L.Trainer) -> str:
    return f"epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1} of the run"


def first_not_finite(network: nn.Module, images: Tensor) -> str:
    """Return a sentence that says where a value is first not finite between ``images`` and the logits."""
    if not bool(torch.isfinite(images).all()):
        return "the images are not finite already"
    for name, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"the weights {name} are not finite already: the step before changed them"
    found: list[str] = []
    with _watched(network, found), torch.no_grad():
        network(images)
    return f"the first layer whose output is not finite is {found[0]}" if found else "all of the network's outputs are finite"


@contextmanager
def _watched(network: nn.Module, found: list[str]) -> Iterator[None]:
    """Append to ``found`` the name of each module whose output is not finite, inside the context; inner modules come first."""
    handles: list[RemovableHandle] = []
    compiled, network._compiled_call_impl = network._compiled_call_impl, None  # hooks of modules inside it would not run
    for name, module in network.named_modules():

        def note(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
            if isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(f"{name or 'the network'} ({type(module).__name__})")

        handles.append(module.register_forward_hook(note))
    try:
        yield
    finally:
        network._compiled_call_impl = compiled
        for handle in handles:
            handle.remove()
