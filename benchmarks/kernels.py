"""How many kernels IRN's loss starts on a GPU, whose queue they fill: counted, on any machine.

    python -m benchmarks.kernels

Counts what a forward and backward pass of the loss dispatches, for the published window of 512 and
radius 10: kernels, and views, which cost the processor alone. No number depends on the batch.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import table
from benchmarks.walk import CLASSES, TRAIN_RADIUS, train_inputs
from net import irn_loss
from net.irn_loss import loss_sums, loss_terms, total_loss

VIEWS = {
    *("view", "_unsafe_view", "_reshape_alias", "slice", "select", "narrow", "expand", "permute"),
    *("t", "transpose", "unsqueeze", "squeeze", "unbind", "split", "as_strided", "alias", "detach"),
}


class Count(TorchDispatchMode):
    """Counts kernels and views."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.views = 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        is_view = call.overloadpacket.__name__ in VIEWS
        self.views += is_view
        self.kernels += not is_view
        return call(*args, **(kwargs or {}))


def count(pairs_of) -> tuple[int, int]:
    """Return kernels and views of a step with pairs in one of the forms of net.irn_pairs."""
    edge, displacement, label = train_inputs(1, torch.device("cpu"))
    usual, irn_loss.by_offset = irn_loss.by_offset, pairs_of
    try:
        for _ in range(2):  # the second time, what is made once a device is there
            with Count() as found:
                loss = total_loss(
                    loss_terms(*loss_sums(edge, displacement, label, CLASSES, TRAIN_RADIUS))
                )
                torch.autograd.grad(loss, (edge, displacement))
    finally:
        irn_loss.by_offset = usual
    return found.kernels, found.views


if __name__ == "__main__":
    rows = [
        (name, *map(str, count(pairs_of)))
        for name, pairs_of in (
            ("offset by offset (CPU)", irn_loss.by_offset),
            ("in groups (CUDA)", irn_loss.by_group),
        )
    ]
    print(table(("form", "kernels", "views"), rows))
