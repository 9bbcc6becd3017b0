"""A record of the operations that run."""

from torch.utils._python_dispatch import TorchDispatchMode


class Counted(TorchDispatchMode):
    """The operations that run inside of it, and the shapes of the results of those whose name ends so."""

    def __init__(self, name):
        super().__init__()
        self.name, self.shapes, self.names = name, [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.append(func.name())
        if func.name().endswith(self.name):
            self.shapes.append(list(result.shape))
        return result
