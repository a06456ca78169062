"""What the training programs have in common: schedule, guard, pace."""

import time
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from tool import distributed
from tool.errors import InputError

POWER = 0.9  # of the polynomial schedule
# The released code passes the weight decay in the momentum position of torch.optim.SGD, and the
# published numbers were made so.
RELEASED_MOMENTUM = 1e-4
OPTIMIZERS = ("sgd", "adamw")


def learning_rate(start: float, step: int, total: int) -> float:
    """Return the rate after ``step`` updates: start * (1 - step / total) ** 0.9."""
    return start * (1 - step / total) ** POWER


def sgd(groups: list[dict], momentum: float, device: torch.device, fused: bool) -> torch.optim.SGD:
    """Return the optimiser of groups that have ``params``, ``lr`` and ``weight_decay``."""
    return torch.optim.SGD(groups, momentum=momentum, fused=fused and device.type == "cuda")


def optimizer_of(
    name: str, groups: list[dict], momentum: float, device: torch.device, fused: bool
) -> torch.optim.Optimizer:
    """Return one of OPTIMIZERS, see :func:`sgd`; AdamW has its own momenta."""
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=fused and device.type == "cuda")
    return sgd(groups, momentum, device, fused)


def check_finite(losses: Tensor, first_step: int) -> None:
    """Stop a training that has diverged, before anything is written.

    Args:
        losses: (steps, n), the losses of every step.
        first_step: the step of the first row.

    Raises:
        InputError: some loss is NaN or infinite.
    """
    bad = (~losses.isfinite()).any(1).nonzero()
    if len(bad):
        raise InputError(
            f"The loss became {losses[bad[0, 0]].tolist()} at step {first_step + int(bad[0, 0])}. "
            "Nothing written so far is lost; train again with a lower --lr and --restart."
        )


class Pace:
    """How fast a training goes, and when it will be done.

    Args:
        start: the step it begins with; a continued run counts from there.
        total: steps of the whole training.
        batch_size: pictures a step.
    """

    def __init__(self, start: int, total: int, batch_size: int) -> None:
        self.start, self.total, self.batch_size = start, total, batch_size
        self.began = self.reported_at = time.time()
        self.reported = start

    def report(self, done: int) -> tuple[float, str]:
        """Return pictures a second since the last report, and the date and time of the end.

        Args:
            done: steps done by now, more than at the last report.
        """
        now = time.time()
        pictures = (done - self.reported) * self.batch_size
        images_per_second = pictures / (now - self.reported_at)
        each = (now - self.began) / (done - self.start)
        self.reported, self.reported_at = done, now
        return images_per_second, time.ctime(self.began + each * (self.total - self.start))

    def elapsed(self) -> str:
        """Return hours:minutes:seconds since the beginning."""
        return time.strftime("%H:%M:%S", time.gmtime(time.time() - self.began))


class _NoBoard:
    """Takes what a TensorBoard writer takes, and writes nothing."""

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: None


def open_board(folder: Path, step: int):
    """Return a TensorBoard writer that continues at a step; process 0 alone writes."""
    return SummaryWriter(folder, purge_step=step) if distributed.is_main() else _NoBoard()


def seed_step(seed: int, step: int) -> None:
    """Make torch's chance in a step (dropout) a function of (seed, step) alone, so that a
    continued run draws what an uninterrupted one draws.
    """
    torch.manual_seed((seed << 32) + step)
