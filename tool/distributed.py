"""Several processes that do one program's work, as torchrun starts them.

    torchrun --nproc_per_node=4 [--nnodes=2 ...] train_resnet50_SIPE.py ...

torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, ..) is the only interface; without it one
process does everything, and nothing here does anything. Machines must see the same session folder.

What a training computes does not depend on the number of processes: ``--batch_size`` is that of all
of them together, :func:`rows` says which part of a batch is whose, and since data parallel training
averages gradients, a process weighs the mean over its pictures by their share of the batch times
the number of processes.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tool.errors import InputError

Item = TypeVar("Item")
# How long a process waits for the others, whose shares of the pictures may take hours longer. One
# that ends is noticed by torchrun at once.
PATIENCE = timedelta(days=2)


def number(name: str, default: int) -> int:
    """Return a variable of torchrun's environment; what is no number raises an InputError."""
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise InputError(
            f"The environment variable {name} is {text!r}, where torchrun sets a number. Unset it."
        )
    return int(text or default)


def rank() -> int:
    """Return the number of this process among all, from 0."""
    return number("RANK", 0)


def world_size() -> int:
    """Return the number of processes on all machines."""
    return number("WORLD_SIZE", 1)


def is_main() -> bool:
    """Tell whether this process writes the files that exist once: log, checkpoint, settings."""
    return rank() == 0


def start() -> None:
    """Meet the other processes, if there are any and it has not happened yet."""
    if world_size() > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)


def stop() -> None:
    """Take leave of the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process has come here."""
    total(torch.zeros(1))


def share(items: Sequence[Item]) -> list[Item]:
    """Return this process's part of a list that all of them have: every N-th.

    Share the whole list, not what is left to do of it: processes may see different files.
    """
    return items[rank() :: world_size()]


def check_share(batch_size: int, processes: int) -> None:
    """Raise an InputError where a batch has not a picture for each process."""
    if batch_size < processes:
        raise InputError(
            f"A batch of {batch_size} cannot be shared by {processes} processes. Take a larger "
            "one, or fewer processes."
        )


def rows(batch_size: int) -> slice:
    """Return which pictures of every batch are this process's; parts differ by one at most.

    Raises:
        InputError: there is not a picture for each process.
    """
    check_share(batch_size, world_size())
    first, last = (batch_size * r // world_size() for r in (rank(), rank() + 1))
    return slice(first, last)


def total(values: Tensor) -> Tensor:
    """Return the sum over all processes, without gradient; ``values`` stay as they are."""
    values = values.detach().clone()
    if world_size() > 1:
        start()
        dist.all_reduce(values)
    return values


def agree(step: int) -> None:
    """Check that all processes begin at the same step.

    Raises:
        InputError: they did not, so their machines do not see the same session folder.
    """
    mean = float(total(torch.tensor(step, dtype=torch.float64))) / world_size()
    if mean != step:
        raise InputError(
            f"A process begins at step {step}, and all of them at {mean:g} on average. All "
            "machines must see the same --session_name."
        )


def parallel(net: nn.Module, device: torch.device, some_unused: bool = False) -> nn.Module:
    """Return what to call in training: the network, or its data parallel wrapper.

    ``net`` lies on ``device``, that of this process, and the weights of process 0 count;
    ``some_unused`` allows parameters that have no gradient in a step.
    """
    if world_size() == 1:
        return net
    start()
    return DistributedDataParallel(
        net,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=some_unused,
    )
