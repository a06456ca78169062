"""A training that may be killed at any moment and continues when its command is run again."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from tool import checkpoint, cli, distributed
from tool.errors import InputError, naming
from tool.files import check_readable, claim, clear_unfinished, digest_of, writing
from tool.optimizer import load_optimizer
from tool.pace import Pace, Report
from tool.session import Session

# Names that settings had in checkpoints of earlier versions.
FORMER_NAMES = {"initial": "pretrained"}
# Settings that name files: what is in the files counts, and not where they lie.
FILES = ("train_list", "pretrained", "label_dir")

log = logging.getLogger(__name__)


class Training:
    """Checkpoints, losses and pace of one training in a session.

    A script asks :attr:`is_finished`, builds its network (:attr:`begun` tells of what an earlier
    run left), calls :meth:`begin`, then in every step :meth:`note` and :meth:`save_when_due`, and
    :meth:`finish` at the end.

    Args:
        session: where ``ckpt/`` and ``runs/`` lie.
        args: the settings: those that declared themselves deciding must agree with an earlier
            run's; ``restart``, ``print_freq`` and ``save_freq`` are used here.
        class_names: of the C classes, background first; they must agree too.
        contents: of the files that flags name, see :func:`contents_of`; they are compared instead
            of the names of the files.
        name: of the files, ``ckpt/<name>.pth``, ``ckpt/<name>_last.pth`` and ``runs_<name>/``;
            without it ``ckpt/final.pth``, ``ckpt/last.pth`` and ``runs/``.

    Raises:
        InputError: an earlier run had other settings or classes.
    """

    def __init__(
        self,
        session: Session,
        args: cli.Settings,
        class_names: Sequence[str],
        contents: dict[str, str],
        name: str = "",
    ) -> None:
        self.session, self.found = session, {}
        folder = session.path / "ckpt"
        self.final = folder / f"{name or 'final'}.pth"
        self.last = folder / (f"{name}_last.pth" if name else "last.pth")
        self.board_folder = session.path / (f"runs_{name}" if name else "runs")
        self.args = args
        self.about: dict[str, Any] = {
            "settings": cli.deciding(args),
            "class_names": list(class_names),
            "contents": contents,
        }
        self.start = 0
        self.begun = None if args.restart else self._find_begun()
        self.is_finished = self.begun is not None and self.final.exists()
        if self.is_finished:
            log.info("%s is finished; --restart trains it anew", self.final)
            self._save_safetensors(self.begun)

    def _find_begun(self) -> dict[str, Any] | None:
        path = self.final if self.final.exists() else self.last
        if not path.exists():
            return None
        begun = checkpoint.load(path)
        checkpoint.check_begun(path, begun, finished=path == self.final)
        checkpoint.check_classes(begun, self.about["class_names"])
        settings, contents = self.about["settings"], self.about["contents"]
        for name, value in begun.get("settings", {}).items():
            name = FORMER_NAMES.get(name, name)
            before, now = value, settings.get(name)
            if name in contents and name in begun.get("contents", {}):
                before, now = begun["contents"][name], contents[name]
            elif name in FILES:
                before, now = (Path(str(file)).name for file in (before, now))
            if before != now:
                raise InputError(
                    f"{path} was trained with --{name} {before}, not {now}. Give that, or another "
                    "--session_name, or --restart to overwrite it."
                )
        return begun

    def reading(self) -> AbstractContextManager[None]:
        """Put the checkpoint's name before the messages of what its content causes."""
        return naming(self.last) if self.begun else nullcontext()

    def begin(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        some_unused: bool = False,
    ) -> nn.Module:
        """Take up an earlier run where it stopped, or clear the ground; all processes meet here.

        Args:
            net: on the device, in training mode; ``config`` holds the arguments that make it again.
            optimizer: of its parameters.
            device: of this process.
            some_unused: parameters may have no gradient in a step.

        Returns:
            What to call in training: the network, or its data parallel wrapper.

        Raises:
            InputError: processes found different steps, or the checkpoint does not fit.
        """
        self.net, self.optimizer = net, optimizer
        self.about["config"] = net.config
        if self.begun:
            with self.reading():
                checkpoint.load_weights(net, self.begun["net"])
                checkpoint.load_counters(net, self.begun["net"])
                load_optimizer(optimizer, self.begun["optimizer"])
            self.start = self.begun["step"]
            log.info("continuing %s at step %d", self.last, self.start)
        distributed.agree(self.start, "steps to continue from")
        self.session.accept(**self.found)
        self.board = Board(self.board_folder, self.start)
        if distributed.is_main():
            self._claim()
            for path in (self.last, self.final, self.final.with_suffix(".safetensors")):
                clear_unfinished(path.parent, path.name)
                if self.args.restart:  # an interrupted restart would look finished
                    path.unlink(missing_ok=True)
        return distributed.parallel(net, device, some_unused)

    def _claim(self) -> None:
        lock = self.final.with_name(f".{self.final.stem}.lock")
        try:
            self.lock = claim(lock)
        except BlockingIOError as error:
            raise InputError(
                f"Another process is training {self.final} at this moment. Wait for it, or name "
                "another --session_name."
            ) from error

    def start_clock(self, schedule: Any, ids: list[str]) -> None:
        """Start the clock, right before the first step.

        Args:
            schedule: a :class:`data.loaders.Schedule`; its ``total`` counts steps, ``batch_size``
                the pictures of a step, and ``batch(step)`` gives their places in the list.
            ids: of the list.
        """
        self.total, self.batch_size = schedule.total, schedule.batch_size
        self.pictures_of = lambda step: [ids[place] for place in schedule.batch(step)]
        self.pace = Pace(self.start, self.total, self.batch_size)
        self.losses: list[Tensor] = []
        self.first = self.start  # step of the first entry of ``losses``

    def plan(self, device: torch.device) -> str:
        """Return what is about to be done, for the log."""
        return f"{self.total} steps of {self.batch_size} on {device}"

    def chart(self, step: int, values: dict[str, float]) -> None:
        """Write values to TensorBoard, by their tags."""
        for tag, value in values.items():
            self.board.add_scalar(tag, value, step)

    def note(self, step: int, losses: Tensor, look: bool = False) -> Report | None:
        """Take the losses of a step, and return what to log where a line is due.

        Args:
            step: from 0.
            losses: (n,), without gradient; the sum over processes is that of the whole batch.
            look: check the losses of this step whether or not a line is due.

        Raises:
            InputError: a loss since the last look is NaN or infinite.
        """
        self.losses.append(losses)
        due = step % self.args.print_freq == 0
        if not (due or look or self._saves(step)):
            return None
        together = distributed.total(torch.stack(self.losses))  # (steps, n)
        check_finite(together, self.first, self.pictures_of)
        if not due:
            return None
        self.losses, self.first = [], step + 1
        return Report(together.mean(0).tolist(), *self.pace.report(step + 1))

    def _saves(self, step: int) -> bool:
        return (step + 1) % self.args.save_freq == 0 or step + 1 == self.total

    def save_when_due(self, step: int) -> None:
        """Write the checkpoint to continue from, every ``save_freq`` steps and after the last."""
        if self._saves(step) and distributed.is_main():
            check_weights(self.net, step)
            optimizer = self.optimizer.state_dict()
            content = {"net": self.net.state_dict(), "optimizer": optimizer, "step": step + 1}
            checkpoint.save(self.last, {**self.about, **content})

    def finish(self) -> None:
        """Write the weights."""
        self.board.close()
        if distributed.is_main():
            content = {"net": self.net.state_dict(), "step": self.total}
            checkpoint.save(self.final, {**self.about, **content})
            self._save_safetensors({**self.about, **content})
            self.lock.close()
            Path(self.lock.name).unlink(missing_ok=True)
        log.info("%s written, %s", self.final, self.pace.elapsed())

    def _save_safetensors(self, content: dict[str, Any]) -> None:
        if self.args.safetensors and distributed.is_main():
            checkpoint.save(self.final.with_suffix(".safetensors"), content)


def contents_of(
    ids: list[str],
    labels: np.ndarray | None,
    pretrained: str | Path,
    label_files: Sequence[Path] = (),
) -> dict[str, str]:
    """Return what tells apart what a training learns from, wherever it lies, by names of flags.

    Args:
        ids: of the list.
        labels: uint8 (n, K) image-level labels, where they are learnt from.
        pretrained: a file of initial weights, or the name of a choice.
        label_files: label pictures of the list, which are told apart by name and size.
    """
    listed = digest_of("\n".join(ids).encode(), b"" if labels is None else labels.tobytes())
    contents = {"train_list": f"{len(ids)} pictures, {listed}"}
    if Path(pretrained).is_file():
        check_readable(pretrained, f"There is no file {pretrained}.")
        contents["pretrained"] = digest_of(Path(pretrained).read_bytes())
    if label_files:
        sizes = [f"{path.name} {path.stat().st_size}" for path in label_files]
        contents["label_dir"] = digest_of("\n".join(sizes).encode())
    return contents


DIVERGED = (
    "The last checkpoint stays as it is; train again with a lower --lr (--restart begins anew)."
)


def check_finite(losses: Tensor, first_step: int, pictures_of: Callable[[int], list[str]]) -> None:
    """Stop a training that has diverged, before anything is written.

    Args:
        losses: (steps, n), the losses of every step.
        first_step: the step of the first row.
        pictures_of: tells the ids of the pictures of a step.

    Raises:
        InputError: some loss is NaN or infinite.
    """
    bad = (~losses.isfinite()).any(1).nonzero()
    if len(bad):
        step = first_step + int(bad[0, 0])
        raise InputError(
            f"The loss became {losses[bad[0, 0]].tolist()} at step {step}, whose pictures are "
            f"{' '.join(pictures_of(step))}. {DIVERGED}"
        )


def check_weights(net: nn.Module, step: int) -> None:
    """Stop a training whose last update was not finite, before its weights are written.

    Raises:
        InputError: a weight is NaN or infinite.
    """
    for name, value in net.named_parameters():
        if not value.isfinite().all():
            raise InputError(
                f"The weights {name} became NaN or infinite in step {step}. {DIVERGED}"
            )


class Board:
    """A TensorBoard writer that continues at a step; process 0 alone writes.

    Raises:
        InputError: the disk is full or the folder cannot be written; the methods too, when what an
            earlier call gave them could not be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        with writing(folder):
            self.writer = SummaryWriter(folder, purge_step=step) if distributed.is_main() else None

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*args: Any, **options: Any) -> None:
            if self.writer is not None:
                with writing(self.folder):
                    getattr(self.writer, name)(*args, **options)

        return call


def seed_step(seed: int, step: int) -> None:
    """Make torch's chance in a step (dropout) a function of (seed, step) alone.

    A continued run so draws what an uninterrupted one draws.
    """
    torch.manual_seed((seed << 32) + step)
