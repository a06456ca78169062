"""What steps ask of a GPU, counted without one: kernels, products and bytes; and what these cost.

    python -m benchmarks.launches [--steps "3.1 DeepLab v2"] [--launch 5.5]

The networks have their full size and their tensors no memory, so that operators are dispatched and
nothing is computed. A card takes as long for an operator as its products or its bytes do, whichever
is longer, and the processor takes as long for all as their kernels do; a step takes the longer of
both, which go on beside each other. The figures of the card are flags, and those of an H100 without
them: TFLOP/s in TF32 and in bfloat16, TB/s of its memory, and microseconds of the processor a
kernel. All times are estimates, as are the kernels that an operator starts. In bfloat16 every
tensor is taken for half as large, and no conversion is counted. CRFs are left out, whose work
depends on the picture, and the walk.
"""

import sys
from contextlib import ExitStack, nullcontext
from unittest import mock

import torch
from torch import Tensor
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks import steps
from benchmarks.measure import read_flags, row
from tool.run import run

aten = torch.ops.aten
META, CPU = torch.device("meta"), torch.device("cpu")
COUNTED = [name for name in steps.STEPS if name not in ("2.1 CRF", "2.3 walk")]
CARD = {"tf32": 230.0, "bf16": 420.0, "bandwidth": 2.6, "launch": 5.5}
TERA = 1e12
FOREACH = "_get_foreach_kernels_supported_devices"
# What knows no such tensors, or would not be taken apart into operators that are counted.
INSTEAD = (
    (torch, "autocast", lambda *_, **__: nullcontext()),
    (torch, "inference_mode", lambda on=True: torch.no_grad() if on else nullcontext()),
    (_foreach_utils, FOREACH, lambda: [META.type]),
    (sys.modules["torch.optim.optimizer"], FOREACH, lambda: [META.type]),
    (steps, "crf_inference", lambda _, probabilities: probabilities),
)


class Count(TorchDispatchMode):
    """Counts what operators do with tensors that have no memory.

    Attributes:
        work: kernels, FLOPs and bytes of each operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work = []

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        kwargs, known = kwargs or {}, call.overloadpacket
        if known is aten._to_copy and kwargs.get("device") == CPU:
            result = torch.zeros(args[0].shape, dtype=args[0].dtype)  # there is nothing to copy
        else:
            result = call(*args, **kwargs)
        tensors = [one for one in tree_leaves((args, result)) if isinstance(one, Tensor)]
        works = not call.is_view and "empty" not in str(known)
        if works and any(one.is_meta for one in tensors):
            kernels, flops = 1, 0
            if known in flop_registry:
                flops = flop_registry[known](*args, **kwargs, out_val=result)
            if known is aten.convolution_backward:
                kernels = sum(args[-1])  # one for each gradient that is asked for
            elif known is aten.convolution and args[2] is not None:
                kernels = 2  # its bias is added by another one
            self.work.append((kernels, flops, sum(one.nbytes for one in tensors)))
        return result


def count(name: str) -> list[tuple[int, int, int]]:
    """Return the work of one call of a step, as the programs make it on CUDA."""
    step = steps.STEPS[name]
    with ExitStack() as stack:
        for owner, attribute, instead in INSTEAD:
            stack.enter_context(mock.patch.object(owner, attribute, instead))
        call = step.make(steps.Job(META, steps.FLAGS[:2], step.batch))
        with Count():
            call()  # what is made once is there when the rest is counted
        with Count() as found:
            call()
    return found.work


def main(arguments: list[str] | None = None) -> None:
    """Print a row of each step."""
    args = read_flags(__doc__, arguments, {**CARD, "steps": COUNTED})
    row("estimated", "kernels", "TFLOP", "GiB", "ms, TF32", "ms, bf16", "ms, host")
    for name in args.steps:
        work = count(name)
        kernels, flops, size = map(sum, zip(*work, strict=True))
        cells = [f"{kernels:,}", f"{flops / TERA:.2f}", f"{size / 2**30:.1f}"]
        for fast, wide in (args.tf32, args.bandwidth), (args.bf16, 2 * args.bandwidth):
            seconds = sum(max(f / fast, moved / wide) for _, f, moved in work) / TERA
            cells.append(f"{1000 * seconds:.1f}")
        row(name, *cells, f"{kernels * args.launch / 1000:.1f}")


if __name__ == "__main__":
    run(main)
