"""A training that may be killed at any moment and continues when its command is run again.

A trainer keeps its data, network and loss, and asks for the rest in this order::

    training = Training(session, "irn", settings, class_names, sources, restart=False)
    if training.is_finished:
        return
    model = training.begin(net, optimizer, device)
    for step, batch in training.steps(loader, rate, print_freq=10, save_freq=200):
        ...                              # compute, update
        training.note({"pos": ..., "neg": ...})
    training.finish()

The table ``<session>/curves.csv`` (``curves_irn.csv``, ``curves_seg_<model>.csv``) has a row for
every log line: ``step`` (from 0) and ``total`` steps, the mean of each loss since the row before by
its name, ``learning_rate``, ``images_per_second``, ``miou`` and ``iou <class>`` (fractions; empty
where the step was not validated or a class did not occur). What a continued training computes anew
stands there once.
"""

import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from tool import checkpoint, distributed
from tool.errors import InputError, naming
from tool.optimizer import load_optimizer, set_learning_rate
from tool.pace import Pace
from tool.reader import decoding, read_table
from tool.record import Digests, first_change
from tool.session import Session
from tool.writer import claim, clear_unfinished, write_atomic, write_table, writing

# What a training learns from, told apart by content.
SOURCES = {
    "train_list": "the pictures of the list, or their labels",
    "pictures": "the content of the pictures",
    "pretrained": "the initial weights",
    "label_files": "the content of the label files",
}
NAMES_OF_FILES = ("train_list", "pretrained", "label_dir")  # whose content counts
DIVERGED = (
    "The last checkpoint stays as it is; train again with a lower --lr (--restart begins anew)."
)

log = logging.getLogger(__name__)


class Training:
    """One training in a session: what it began with, its loop, and what it writes.

    Args:
        session: where ``ckpt/``, ``runs/`` and the curves lie.
        name: of the files, ``ckpt/<name>.pth``, ``ckpt/<name>_last.pth``, ``runs_<name>/``;
            without it ``ckpt/final.pth``, ``ckpt/last.pth`` and ``runs/``.
        settings: those that decide the result; an earlier run must have had the same, but for the
            names of files, whose content counts.
        class_names: of the C classes, background first; they must agree too.
        sources: what it learns from, by the names in SOURCES: files, whose content counts wherever
            they lie, or a text; they must agree too.
        restart: begin anew, whatever is there of an earlier run.
        safetensors: write the final weights in that format too.

    Attributes:
        begun: the checkpoint to continue from; None where there is none.
        is_finished: there is nothing left to train.
        about: what the checkpoints note besides; a trainer adds what it wants.
        start: the first step.

    Raises:
        InputError: an earlier run had other settings, classes or sources, or its files are not what
            this program wrote.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        settings: Mapping[str, Any],
        class_names: Sequence[str],
        sources: Mapping[str, str | Sequence[Path]],
        restart: bool,
        safetensors: bool = False,
    ) -> None:
        self.session, self.restart, self.safetensors = session, restart, safetensors
        self.sources, self.digests = sources, Digests(session.path)
        ending = f"_{name}" if name else ""
        self.final = session.path / "ckpt" / f"{name or 'final'}.pth"
        self.last = self.final.with_name(f"{name}_last.pth" if name else "last.pth")
        self.board_folder = session.path / f"runs{ending}"
        self.curves = session.path / f"curves{ending}.csv"
        self.about: dict[str, Any] = {
            "program": session.program,
            "settings": dict(settings),
            "class_names": list(class_names),
        }
        if distributed.is_main():  # it reads everything, and alone compares and writes
            self.about["sources"] = self._digest_sources()
        self.start = 0
        self.begun = self._find_begun()
        self.is_finished = self.begun is not None and self.begun.path == self.final
        if self.is_finished:
            session.open_log()
            log.info("%s is finished; --restart trains it anew", self.final)
            self._write_safetensors(self.begun)

    def _digest_sources(self) -> dict[str, str]:
        return {
            name: source if isinstance(source, str) else self.digests.together(source)
            for name, source in self.sources.items()
        }

    def _find_begun(self) -> checkpoint.Checkpoint | None:
        if self.restart:  # it deletes nothing that another program wrote
            for path in filter(Path.exists, self._files()):
                checkpoint.check_begun(checkpoint.load(path), self.session.program)
            return None
        path = self.final if self.final.exists() else self.last
        if not path.exists():
            return None
        begun = checkpoint.load(path)
        checkpoint.check_begun(begun, self.session.program, finished=path == self.final)
        checkpoint.check_classes(begun, self.about["class_names"])
        if distributed.is_main():
            self._compare(begun)
        return begun

    def _files(self) -> list[Path]:
        return [self.final, self.last, self.final.with_suffix(".safetensors")]

    def _compare(self, begun: checkpoint.Checkpoint) -> None:
        """Raise an InputError where a checkpoint is of another training."""
        remedy = "or another --session_name, or --restart to overwrite it."
        settings = self.about["settings"]
        decisive = {name: value for name, value in settings.items() if name not in NAMES_OF_FILES}
        different = first_change(begun["settings"], decisive)
        if different:
            raise InputError(
                f"{begun.path} was trained with --{different} {begun['settings'].get(different)}, "
                f"not {settings[different]}. Give that, {remedy}"
            )
        different = first_change(begun["sources"], self.about["sources"])
        if different:
            raise InputError(
                f"{begun.path} was trained from what has changed since: {SOURCES[different]}. Put "
                f"back what was there, {remedy}"
            )

    def _check_unchanged(self) -> None:
        """Raise an InputError where a file was replaced since its digest was noted."""
        different = first_change(self.about["sources"], self._digest_sources())
        if different:
            raise InputError(
                f"{SOURCES[different]} changed while {self.final} was being trained. Train it anew "
                "with --restart."
            )

    def begin(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        some_unused: bool = False,
        **found: Any,
    ) -> nn.Module:
        """Take up an earlier run where it stopped, or clear the ground; all processes meet here.

        Only now something is written, after the program has refused nothing.

        Args:
            net: on the device, in training mode, with the weights of ``begun`` if there is one;
                ``config`` holds the arguments that make it again.
            optimizer: of its parameters.
            device: of this process.
            some_unused: parameters may have no gradient in a step.
            found: see :meth:`tool.session.Session.accept`.

        Returns:
            What to call in training: the network, or its data parallel wrapper.

        Raises:
            InputError: processes found different steps, the checkpoint does not fit, or another
                process is training the same.
        """
        self.net, self.optimizer = net, optimizer
        self.about["config"] = net.config
        if self.begun:
            with naming(self.begun.path):
                checkpoint.load_counters(net, self.begun["net"])
                load_optimizer(optimizer, self.begun["optimizer"])
            self.start = self.begun["step"]
            log.info("continuing %s at step %d", self.last, self.start)
        distributed.agree(self.start, "steps to continue from")
        self.board = None
        if distributed.is_main():
            self._check_unchanged()
            self._claim()
            self.session.accept(**found)
            with writing(self.board_folder):
                self.board = SummaryWriter(self.board_folder, purge_step=self.start)
        return distributed.parallel(net, device, some_unused)

    def _claim(self) -> None:
        lock = self.final.with_name(f".{self.final.stem}.lock")
        self.lock = claim(lock, f"training {self.final}")
        for path in self._files():
            clear_unfinished(path.parent, path.name)
            if self.restart:  # an interrupted restart would look finished
                path.unlink(missing_ok=True)

    def steps(
        self,
        loader: DataLoader,
        rate: Callable[[int], float],
        print_freq: int,
        save_freq: int,
        line: Callable[[dict[str, float]], str] | None = None,
        rate_form: str = ".4f",
        validated: Sequence[str] = (),
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield the number and the batch of every step that is left, at its learning rate.

        Args:
            loader: of :func:`data.loaders.training_loader`, from :attr:`start` on.
            rate: the learning rate of a step.
            print_freq: steps between log lines.
            save_freq: steps between checkpoints.
            line: writes the mean losses of a log line, by name; lossNAME:0.1234 by default.
            rate_form: how to write the learning rate in a log line.
            validated: classes whose IoU validations note.

        Raises:
            InputError: a loss or a weight is NaN or infinite.
        """
        schedule, ids = loader.batch_sampler, loader.dataset.ids
        self.pictures_of = lambda step: [ids[place] for place in schedule.batch(step)]
        self.line, self.rate_form = line or losses_by_name, rate_form
        self.no_miou = dict.fromkeys(["miou", *(f"iou {name}" for name in validated)], "")
        self.total = schedule.total
        self.pace = Pace(self.start, self.total, schedule.batch_size)
        self.losses: list[Tensor] = []
        self.has_curves = False  # as far as this run began with
        log.info("%d steps of %d, %d pictures", self.total, schedule.batch_size, len(ids))
        for step, batch in enumerate(loader, self.start):
            self.step, self.rate, self.row = step, rate(step), {}
            self.is_due = step % print_freq == 0
            self.saves = (step + 1) % save_freq == 0 or step + 1 == self.total
            set_learning_rate(self.optimizer, self.rate)
            yield step, batch
            if self.row and distributed.is_main():
                self._add_row()
            if self.saves and distributed.is_main():
                check_weights(self.net, step)
                content = {**self._content(step + 1), "optimizer": self.optimizer.state_dict()}
                checkpoint.save(self.last, content)

    def _content(self, step: int) -> dict[str, Any]:
        return {**self.about, "net": self.net.state_dict(), "step": step}

    def note(self, losses: dict[str, Tensor], due: bool = False) -> None:
        """Take the losses of the step, and log their means where a line is due.

        Args:
            losses: scalars by name; the sums over processes are those of the whole batch.
            due: log a line whether or not its time has come.

        Raises:
            InputError: a loss since the last look is NaN or infinite.
        """
        self.losses.append(torch.stack([loss.detach() for loss in losses.values()]))
        self.is_due |= due
        if not (self.is_due or self.saves):
            return
        together = distributed.total(torch.stack(self.losses))  # (steps, n)
        check_finite(together, self.step + 1 - len(together), self.pictures_of)
        if self.is_due:
            self.losses = []
            self._log(dict(zip(losses, together.mean(0).tolist(), strict=True)))

    def _log(self, means: dict[str, float]) -> None:
        speed, finish = self.pace.report(self.step + 1)
        where = f"step:{self.step:5d}/{self.total:5d}"
        rate = f"{self.rate:{self.rate_form}}"
        log.info("%s %s imps:%.1f lr: %s etc:%s", where, self.line(means), speed, rate, finish)
        pace = {"learning_rate": self.rate, "images_per_second": speed}
        self.row = {"step": self.step, "total": self.total, **means, **pace, **self.no_miou}
        self._chart({f"loss/{name.lower()}": mean for name, mean in means.items()})
        self._chart({f"train/{name}": value for name, value in pace.items()})

    def note_validation(self, miou: float, iou: Mapping[str, float]) -> None:
        """Take mIoU and the classes' IoU, fractions, in a step that has a log line."""
        for name, value in iou.items():
            log.info("  iou %s: %.4f", name, value)
            self.row[f"iou {name}"] = "" if np.isnan(value) else value
        log.info("validation step:%5d miou: %.4f", self.step, miou)
        self.row["miou"] = miou
        self._chart({"validation/miou": miou})

    def _chart(self, values: dict[str, float]) -> None:
        if self.board:
            with writing(self.board_folder):
                for tag, value in values.items():
                    self.board.add_scalar(tag, value, self.step)

    def draw(self, drawings: dict[str, Tensor]) -> None:
        """Show pictures of the step in TensorBoard: uint8 (n, H, W, 3) by their name."""
        if self.board:
            with writing(self.board_folder):
                for name, pictures in drawings.items():
                    self.board.add_images(name, pictures, self.step, dataformats="NHWC")

    def _add_row(self) -> None:
        if not self.has_curves:
            self._begin_curves()
            self.has_curves = True
        with writing(self.curves), open(self.curves, "a", newline="") as file:
            csv.writer(file).writerow(self.row.values())

    def _begin_curves(self) -> None:
        """Write the table as far as the step that this run began with."""
        kept, remedy = [], "Move it away."
        if self.curves.exists():
            # Without these columns it is no table of a training.
            columns = tuple(self.row) if self.start else ("step", "total")
            rows = read_table(self.curves, remedy, columns)
            with decoding(self.curves, remedy):  # a killed run leaves half a row, of a later step
                kept = [row for row in rows if row["total"] and int(row["step"]) < self.start]
                kept = [[json.loads(row[n]) if row[n] else "" for n in self.row] for row in kept]
        write_table(self.curves, [list(self.row), *kept], write_atomic)

    def finish(self) -> None:
        """Write the weights."""
        if distributed.is_main():
            self.board.close()
            self._check_unchanged()
            content = self._content(self.total)
            checkpoint.save(self.final, content)
            self._write_safetensors(content)
            self.lock.close()
            Path(self.lock.name).unlink(missing_ok=True)
        log.info("%s written, %s", self.final, self.pace.elapsed())

    def _write_safetensors(self, content: Mapping[str, Any]) -> None:
        if self.safetensors and distributed.is_main():
            checkpoint.save(self.final.with_suffix(".safetensors"), content)


def losses_by_name(means: dict[str, float]) -> str:
    """Return the losses as a log line of the released code has them."""
    return " ".join(f"loss{name}:{mean:.4f}" for name, mean in means.items())


def check_finite(losses: Tensor, first_step: int, pictures_of: Callable[[int], list[str]]) -> None:
    """Stop a training that has diverged, before anything is written.

    Args:
        losses: (steps, n), the losses of every step.
        first_step: the step of the first row.
        pictures_of: returns the ids of the pictures of a step.

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


def seed_step(seed: int, step: int) -> None:
    """Make torch's chance in a step (dropout) a function of (seed, step) alone.

    A continued run so draws what an uninterrupted one draws.
    """
    torch.manual_seed((seed << 32) + step)
