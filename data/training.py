"""A training that may be killed at any moment and continues when its command is run again.

A trainer keeps its data, network and loss, and asks for the rest in this order::

    training = Training(args, "train_irn", "irn", views, "irn_batch_size", epochs)
    if training.is_finished:
        return
    model = training.begin(net, groups, lr)
    for step, batch in training.steps():
        ...                              # compute gradients
        training.update({"CLS": ..., "GSC": ...})
    training.finish()

The table ``<session>/curves.csv`` (``curves_irn.csv``, ``curves_seg_<model>.csv``) has a row for
every log line: ``step`` (from 0) and ``total`` steps, the mean of each loss since the row before as
``loss_<name>``, ``learning_rate``, ``images_per_second``, and of validations ``miou`` and
``iou <class>`` (fractions; empty where the step was not validated or a class did not occur). What a
continued training computes anew stands there once.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from data.datasets import open_session
from data.loaders import RandomViews, Schedule, ahead, to_device, training_loader
from tool import checkpoint, cli, distributed
from tool.errors import InputError, naming
from tool.metrics import iou_of, miou_of
from tool.optimizer import learning_rate, load_optimizer, make_optimizer, set_learning_rate
from tool.progress import Bar
from tool.reader import read_table, text_digest
from tool.record import digest_of, first_change
from tool.stop import Stopped, patience
from tool.writer import claim, clear_unfinished, write_atomic, write_table, writing

log = logging.getLogger(__name__)


class Training:
    """One training in a session: what it began with, its loop, and what it writes.

    Args:
        args: settings of the trainer; ``train_list`` and ``pretrained`` become the dataset's own
            where they are None. An earlier run must have had the same deciding ones, the same
            classes, and the same content of all that is learnt from, wherever it lies.
        program: name of the trainer.
        name: of the files, ``ckpt/<name>.pth``, ``ckpt/<name>_last.pth``, ``runs_<name>/``;
            without it ``ckpt/final.pth``, ``ckpt/last.pth`` and ``runs/``.
        views: makes the pictures to learn from, of a dataset, a list and ``seed``.
        size: name of the flag that says how many pictures a part of a step has.
        epochs, parts, total: see :class:`data.loaders.Schedule`.

    Attributes:
        dataset, pictures: what is learnt from.
        device: of this process.
        is_finished: there is nothing left to train.
        about: what the checkpoints note besides; a trainer adds what it wants.
        total: steps.

    Raises:
        InputError: pictures or labels are missing, an earlier run in the session was another, or
            its files are not what this program wrote.
    """

    def __init__(
        self,
        args: cli.Settings,
        program: str,
        name: str,
        views: Callable[..., RandomViews],
        size: str,
        epochs: int | None = None,
        parts: int = 1,
        total: int | None = None,
    ) -> None:
        self.args = args
        self.session, self.device, self.dataset = open_session(args, program)
        args.train_list = args.train_list or self.dataset.train_list
        args.pretrained = args.pretrained or self.dataset.pretrained
        batch_size = getattr(args, size)
        flags = f"--{size} {batch_size}"
        if parts > 1:
            flags += f" times --accumulate {parts}"
        ids = self.dataset.picture_ids(args.train_list, batch_size * parts, flags)
        self.pictures = views(self.dataset, ids, seed=args.seed)
        path, ending = self.session.path, f"_{name}" if name else ""
        self.final = path / "ckpt" / f"{name or 'final'}.pth"
        self.last = self.final.with_name(f"{name}_last.pth" if name else "last.pth")
        self.files = [self.final, self.last, self.final.with_suffix(".safetensors")]
        self.board_folder, self.curves = path / f"runs{ending}", path / f"curves{ending}.csv"
        self.about: dict[str, Any] = {
            "program": program,
            "settings": cli.deciding(args),
            "class_names": list(self.dataset.all_names),
            "input": self.dataset.reading,
        }
        if distributed.is_main():  # it reads everything, and alone compares and writes
            self.about["sources"] = self._sources()
        self.begun = self._find_begun()
        self.start, self.rows = 0, []  # of the table of curves
        self.is_finished = self.begun is not None and self.begun.path == self.final
        if self.is_finished:
            log.info("%s is finished; --restart trains it anew", self.final)
            self._write_safetensors(self.begun)
        elif self.begun:
            self.start, self.rows = self.begun["step"], self.begun["curves"]
        pictures = len(self.pictures)
        self.schedule = Schedule(
            pictures, batch_size, epochs, args.seed, self.start, parts=parts, total=total
        )
        self.total = self.schedule.total
        torch.manual_seed(args.seed)  # of a network's first weights

    def _sources(self) -> dict[str, str]:
        """Return a digest of everything that the training learns from, by name."""
        pictures, pretrained = self.pictures, self.args.pretrained
        labels, digest = pictures.labels.tobytes().hex(), partial(digest_of, self.session.path)
        if os.path.isfile(pretrained):
            pretrained = digest([Path(pretrained)])
        return {
            "train_list": f"{len(pictures)} pictures, {text_digest(*pictures.ids, labels)}",
            "pictures": digest([self.dataset.image_path(i) for i in pictures.ids]),
            "pretrained": str(pretrained),
            "label_dir": digest(pictures.label_files),
        }

    def _find_begun(self) -> checkpoint.Checkpoint | None:
        if self.args.restart:  # it deletes nothing that another program wrote
            for path in filter(Path.exists, self.files):
                checkpoint.check_begun(checkpoint.load(path), self.about["program"])
            return None
        path = self.final if self.final.exists() else self.last
        if not path.exists():
            return None
        begun = checkpoint.load(path)
        checkpoint.check_begun(begun, self.about["program"], finished=path == self.final)
        checkpoint.check_classes(begun, self.about["class_names"])
        if not distributed.is_main():
            return begun
        noted = begun["settings"] | begun["sources"]
        now = self.about["settings"] | self.about["sources"]
        name = first_change(noted, now)
        if name:
            raise InputError(
                f"{begun.path} was trained with {name} {noted.get(name)}, not {now[name]}. Give "
                "that, or another --session_name, or --restart to overwrite it."
            )
        return begun

    def begin(
        self,
        net: nn.Module,
        groups: list[dict[str, Any]],
        lr: float,
        some_unused: bool = False,
        **schedule: int,
    ) -> nn.Module:
        """Take up an earlier run where it stopped, or clear the ground; all processes meet here.

        Only now something is written, after the program has refused nothing.

        Args:
            net: in training mode; ``config`` holds the arguments that make it again. It is moved
                to the device, and an earlier run's weights replace its own.
            groups: of its parameters, for the optimiser.
            lr: learning rate of the first step.
            some_unused: parameters may have no gradient in a step.
            schedule: further arguments of :func:`tool.optimizer.learning_rate`.

        Returns:
            What to call in training: the network, or its data parallel wrapper.

        Raises:
            InputError: processes found different steps, the checkpoint does not fit, or another
                process is training the same.
        """
        args = self.args
        self.net = cli.place(net, self.device, args.channels_last, args.compile)
        self.rate = partial(learning_rate, lr, **schedule)
        self.optimizer = make_optimizer(
            groups, lr, args.momentum, self.device, args.fused, args.optimizer
        )
        self.about["config"] = net.config
        if self.begun:
            with naming(self.begun.path):
                checkpoint.load_weights(net, self.begun["net"])
                load_optimizer(self.optimizer, self.begun["optimizer"])
            log.info("continuing %s at step %d", self.last, self.start)
        distributed.agree(self.start)
        if distributed.is_main():
            lock = self.final.with_name(f".{self.final.stem}.lock")
            self.lock = claim(lock, f"training {self.final}")
            if self.curves.exists():  # without these columns it is no table of a training
                read_table(self.curves, "Move it away.", ("step", "total"))
            for path in self.files:
                clear_unfinished(path.parent, path.name)
                if args.restart:  # an interrupted restart would look finished
                    path.unlink(missing_ok=True)
            self.session.accept(**self.about.get("record", {}))
            with writing(self.board_folder):
                self.board = SummaryWriter(self.board_folder, purge_step=self.start)
        torch.backends.cudnn.benchmark = True  # every batch has the same size
        return distributed.parallel(net, self.device, some_unused)

    def steps(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield number and batch, on the device, of every step that is left, without gradients.

        Raises:
            InputError: a loss or a weight is NaN or infinite.
            Stopped: a process was asked to end; the step that it was in is saved.
        """
        args = self.args
        self.losses: list[Tensor] = []
        self.logged = self.start
        self.began = self.logged_at = self.saved_at = time.perf_counter()
        size, pictures = self.schedule.step_size, len(self.pictures)
        log.info("%d steps of %d, %d pictures", self.total, size, pictures)
        bar = Bar(self.total, self.about["program"], "step", self.start)
        with patience() as asked, bar as self.bar:
            loader = iter(training_loader(self.pictures, self.schedule, args.num_workers))
            batches = (to_device(batch.values(), self.device) for batch in loader)
            for step, batch in enumerate(ahead(batches, self.device), self.start):
                self.step, self.row = step, {}
                set_learning_rate(self.optimizer, self.rate(step, self.total))
                self.optimizer.zero_grad()
                # Dropout is a function of seed and step, so a continued run draws the same.
                torch.manual_seed((args.seed << 32) + step)
                yield step, batch
                if self.row and distributed.is_main():
                    self._write_row()
                stops = bool(distributed.total(torch.tensor(len(asked))))  # all of them, or none
                late = time.perf_counter() - self.saved_at > 60 * args.save_minutes
                due = (step + 1) % args.save_freq == 0 or step + 1 == self.total
                if (stops or late or due) and distributed.is_main():
                    self._save()
                if stops:
                    number = asked[0] if asked else signal.SIGTERM  # another process was asked
                    raise Stopped(number, f" at step {step + 1} of {self.total}")
                self.bar.update()

    def _save(self) -> None:
        """Write what the training continues from."""
        check_finite(dict(self.net.named_parameters()), self.step)
        weights, momenta = self.net.state_dict(), self.optimizer.state_dict()
        now = {"net": weights, "optimizer": momenta, "step": self.step + 1, "curves": self.rows}
        checkpoint.save(self.last, self.about | now)
        self.saved_at = time.perf_counter()

    def update(self, losses: dict[str, Tensor], due: bool = False) -> None:
        """Update the weights by their gradients, and log the mean losses where a line is due.

        Args:
            losses: of the step, scalars by name; the sums over processes are those of the batch.
            due: log a line whether or not its time has come.

        Raises:
            InputError: a loss since the last line is NaN or infinite.
        """
        self.optimizer.step()
        self.losses.append(torch.stack([loss.detach() for loss in losses.values()]))
        if due or self.step % self.args.print_freq == 0:
            together = distributed.total(torch.stack(self.losses))  # (steps, n)
            self.losses = []
            check_finite(dict(zip(losses, together.T, strict=True)), self.step)
            self._log(dict(zip(losses, together.mean(0).tolist(), strict=True)))

    def _log(self, means: dict[str, float]) -> None:
        done, now, rate = self.step + 1, time.perf_counter(), self.rate(self.step, self.total)
        speed = (done - self.logged) * self.schedule.step_size / (now - self.logged_at)
        each = (now - self.began) / (done - self.start)
        end = time.ctime(time.time() + each * (self.total - done))
        self.logged, self.logged_at = done, now
        losses = " ".join(f"loss{name}:{mean:.4f}" for name, mean in means.items())
        shown = f"{losses} imps:{speed:.1f}"
        self.bar.note(shown)
        digits = ".4f" if rate >= 1e-3 else ".2e"
        level = logging.DEBUG if self.bar.is_drawn else logging.INFO  # that the file has alone
        form = "step:%5d/%5d %s lr: %s etc:%s"
        log.log(level, form, self.step, self.total, shown, f"{rate:{digits}}", end)
        self.row = {"step": self.step, "total": self.total}
        self.row |= {f"loss_{name.lower()}": mean for name, mean in means.items()}
        self.row |= {"learning_rate": rate, "images_per_second": speed}

    def note_validation(self, counts: np.ndarray) -> None:
        """Take mIoU and the classes' IoU, fractions, in a step that has a log line.

        The counts, (C, C + 1), are those of :func:`tool.metrics.confusion`.
        """
        self.row["miou"] = float(miou_of(counts))
        log.info("validation step:%5d miou: %.4f", self.step, self.row["miou"])
        for name, value in zip(self.dataset.all_names, iou_of(counts).tolist(), strict=True):
            log.info("  iou %s: %.4f", name, value)
            self.row[f"iou {name}"] = "" if np.isnan(value) else value

    def draw(self, drawings: Mapping[str, np.ndarray]) -> None:
        """Show pictures of the step in TensorBoard: uint8 (n, H, W, 3) by their name."""
        if distributed.is_main():
            for name, pictures in drawings.items():
                self.board.add_images(name, pictures, self.step, dataformats="NHWC")

    def _write_row(self) -> None:
        """Write the row of the step into the table and into TensorBoard."""
        self.rows.append(self.row)
        columns = dict.fromkeys(name for row in self.rows for name in row)
        cells = [[row.get(name, "") for name in columns] for row in self.rows]
        write_table(self.curves, [list(columns), *cells], write_atomic)
        for name, value in self.row.items():
            if isinstance(value, float):
                self.board.add_scalar(name, value, self.step)

    def finish(self) -> None:
        """Write the weights."""
        if distributed.is_main():
            self.board.close()
            changed = first_change(self.about["sources"], self._sources())
            if changed:
                raise InputError(
                    f"The {changed} changed while {self.final} was being trained. Train it anew "
                    "with --restart."
                )
            content = {**self.about, "net": self.net.state_dict(), "step": self.total}
            checkpoint.save(self.final, content)
            self._write_safetensors(content)
            self.lock.close()
        log.info("%s written", self.final)

    def _write_safetensors(self, content: Mapping[str, Any]) -> None:
        if self.args.safetensors and distributed.is_main():
            checkpoint.save(self.final.with_suffix(".safetensors"), content)


def check_finite(values: Mapping[str, Tensor], step: int) -> None:
    """Stop a training that has diverged, before anything is written.

    Raises:
        InputError: one of the ``values``, losses or weights by name, is NaN or infinite.
    """
    for name, value in values.items():
        if not value.isfinite().all():
            raise InputError(
                f"{name} became NaN or infinite at step {step}. The last checkpoint stays; train "
                "again with a lower --lr (--restart begins anew)."
            )
