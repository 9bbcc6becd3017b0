"""Tensors between memory that is not theirs."""

import torch


def guarded(tensor):
    """Return the same values between foreign memory that is NaN, and that memory."""
    room = 4096
    memory = tensor.new_full((tensor.numel() + 2 * room,), torch.nan)
    view = memory[room : room + tensor.numel()].view(tensor.shape)
    return view.copy_(tensor), memory
