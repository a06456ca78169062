"""How many kernels IRN's loss starts on a GPU, whose queue they fill: counted, on any machine.

    python -m benchmarks.kernels

Counts what a forward and backward pass of the loss dispatches, for the published window of 512 and
radius 10: kernels, and views, which cost the processor alone. No number depends on the batch.
"""

from collections import Counter
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure import row
from benchmarks.steps import Job
from benchmarks.walk import losses
from net import irn_loss

FORMS = {"offset by offset (CPU)": irn_loss.by_offset, "in groups (CUDA)": irn_loss.by_group}


class Count(TorchDispatchMode):
    """Counts kernels and views."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        self.found["views" if call.is_view else "kernels"] += 1
        return call(*args, **(kwargs or {}))


def count(pairs_of) -> Counter:
    """Return the numbers of a step with pairs in one of the forms of net.irn_pairs."""
    call = losses(Job(torch.device("cpu")), irn_loss.loss_sums)
    with mock.patch.object(irn_loss, "by_offset", pairs_of):
        call()  # what is made once a device is there when they are counted
        with Count() as mode:
            call()
    return mode.found


if __name__ == "__main__":
    row("form", "kernels", "views")
    for name, pairs_of in FORMS.items():
        found = count(pairs_of)
        row(name, found["kernels"], found["views"])
