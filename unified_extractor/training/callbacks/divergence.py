"""A callback that ends a run whose loss is not finite and names the layer where that began."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from unified_extractor.training.errors import DivergedError

_CHECKPOINT_NOTE = "The last checkpoint is from before"


class _Loss(NamedTuple):
    """The loss of a batch, its finiteness as a tensor on the CPU, and the CUDA event after which that tensor is valid."""

    images: Tensor
    loss: Tensor
    finite: Tensor
    copied: torch.cuda.Event | None


class StopWhenDiverged(L.Callback):
    """A callback that raises :class:`DivergedError` before a loss that is not finite changes the weights.

    Weights that are not finite are never saved either, so every checkpoint is usable. On a GPU the answer is requested before
    backward and awaited after backward has been launched, so that the check costs no waiting.
    """

    def __init__(self) -> None:
        self._images: Tensor | None = None
        self._pending: _Loss | None = None

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._images = batch[0]

    @override
    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._check(trainer, pl_module)  # the batch before, if gradients are accumulated
        assert self._images is not None
        loss = loss.detach()
        finite, copied = torch.isfinite(loss), None
        if finite.is_cuda:
            finite, copied = finite.to("cpu", non_blocking=True), torch.cuda.Event()
            copied.record()
        self._pending = _Loss(self._images, loss, finite, copied)
        if torch.is_anomaly_enabled():  # else backward would raise first, and say less
            self._check(trainer, pl_module)

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        self._check(trainer, pl_module)

    def _check(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if pending.copied is not None:
            pending.copied.synchronize()
        finite = bool(pending.finite)
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        if finite:
            raise DivergedError(f"the loss of another process is not finite at {_place(trainer)}")
        with trainer.precision_plugin.train_step_context():
            began = first_not_finite(pl_module.network, pending.images)  # type: ignore[arg-type]
        raise DivergedError(f"the loss is {float(pending.loss)} at {_place(trainer)}; {began}. {_CHECKPOINT_NOTE}")

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        trial = trainer.fast_dev_run  # type: ignore[attr-defined]  # batch norm has no statistics after a step, an evaluation may overflow
        if not trial and loss is not None and not bool(torch.isfinite(loss)):
            raise DivergedError(f"the validation loss is {float(loss)} in epoch {trainer.current_epoch + 1}. {_CHECKPOINT_NOTE}")

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        for name, parameter in pl_module.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise DivergedError(
                    f"the weights {name} are not finite after step {trainer.global_step} of the run. {_CHECKPOINT_NOTE}"
                )


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
