"""The protocol of a backend. Each is one folder beside the others, and one entry in ``dispatch.py``."""

from typing import Protocol

from torch import Tensor

from unified_extractor.ops.call import Call


class Backend(Protocol):
    """An implementation of the operator. Importing its folder is cheap: what it is built on is imported when it first runs."""

    name: str
    """The name by which ``backend=`` demands it."""

    def unusable_because(self) -> str | None:
        """Return why the backend does not run on this machine; None if it does."""

    def refuses_because(self, call: Call) -> str | None:
        """Return why it does not run this call, here and now; None if it does.

        Args:
            call: the call as it was made: its dynamic kernel may be a computed one. Unless the backend recomputes that, ``run`` gets
                the call with the kernel stored and, for attention's, first the call of its query-key products (``similarity``),
                about which is not asked. So a backend that does not run ``similarity`` refuses an ``AttentionKernel``.
        """

    def is_fast(self, call: Call, *, recomputing: bool) -> bool:
        """Return whether it runs this call faster than the backends behind it in ``dispatch.BACKENDS``.

        Args:
            call: the call.
            recomputing: whether only backends count that recompute its kernel, if there are any.
        """

    def recomputes(self, call: Call, *, demanded: bool) -> bool:
        """Return whether it computes the dynamic kernel where it is used, again in backward, instead of taking it stored.

        Args:
            call: a call with a computed kernel, unnormalized where ``combine`` is residual.
            demanded: whether memory counts more than time; else it does so only where that is the faster way.
        """

    def run(self, call: Call) -> Tensor:
        """Return the output of a call, in the dtype of ``call.x``."""
