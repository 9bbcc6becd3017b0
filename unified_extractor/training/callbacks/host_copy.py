"""A number on its way from the device to the host, for which nothing has to wait."""

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor of one element, requested now and read later.

    Args:
        value: tensor on any device; one on the CPU has arrived at once.
    """

    def __init__(self, value: Tensor) -> None:
        self._copy, self._copied = value.to("cpu", non_blocking=True), None
        if value.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    @property
    def arrived(self) -> bool:
        """True if :meth:`read` need not wait."""
        return self._copied is None or self._copied.query()

    def read(self) -> bool | float:
        """Return the number, once it is there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._copy.item()
