"""The session folder: the log, the settings, and where things lie."""

import argparse
import json
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tool import distributed
from tool.errors import InputError
from tool.files import clear_unfinished, write_json

MADE = (".npz", ".npy", ".png")  # endings of files that steps write, one a picture

log = logging.getLogger(__name__)


class _Console(logging.Handler):
    """Messages that do not tear a progress bar; of all processes but the first, only warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        sender = "" if distributed.is_main() else f"[process {distributed.rank()}] "
        tqdm.write(sender + self.format(record))


class Session:
    """One run's folder, ``<session>/``.

    Args:
        name: a name (a folder in the working directory) or a path.
        program: name of the step script, for the log and ``args.json``.
        args: the settings; written to ``args.json`` beside those of the other programs.

    Raises:
        InputError: the folder cannot be made or written.
    """

    def __init__(self, name: str | Path, program: str, args: argparse.Namespace) -> None:
        self.path = Path(name)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._start_log()
        except OSError as error:
            raise InputError(
                f"--session_name {name}: nothing can be written there ({error.strerror})."
            ) from error
        self.program = program
        self.settings = {key: _plain(value) for key, value in sorted(vars(args).items())}
        self._save_settings()
        if distributed.is_main():
            log.info("%s -> %s", program, self.path)
            log.debug("settings: %s", self.settings)

    def record(self, **values: Any) -> None:
        """Add what a program found out to its settings in ``args.json``: plain values or paths."""
        self.settings |= {key: _plain(value) for key, value in values.items()}
        self._save_settings()

    def checkpoint(self, name: str, required: bool = True) -> Path:
        """Return the file that a ``--ckpt`` flag names: a path, or a file in <session>/ckpt.

        Raises:
            InputError: there is neither, and it is required.
        """
        places = (Path(name), self.path / "ckpt" / name)
        for exists in (os.path.isfile, os.path.exists):  # a folder is found last
            for place in filter(exists, places):
                return place
        if required:
            raise InputError(
                f"There is no checkpoint {name}, and no {places[1]}. Train first, or give another "
                "path."
            )
        return places[0]

    def _start_log(self) -> None:
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if isinstance(handler, (_Console, logging.FileHandler)):
                root.removeHandler(handler)
                handler.close()
        console = _Console()
        console.setLevel(logging.INFO if distributed.is_main() else logging.WARNING)
        root.setLevel(logging.INFO)
        for package in ("__main__", "net", "data", "tool"):
            logging.getLogger(package).setLevel(logging.DEBUG)
        root.addHandler(console)
        if distributed.is_main():
            # A FileHandler flushes every record, so the file is complete at any moment.
            path = self.path / f"{self.path.resolve().name}.log"
            root.addHandler(logging.FileHandler(path, encoding="utf-8"))
        logging.captureWarnings(True)

    def _save_settings(self) -> None:
        if not distributed.is_main():  # the first process writes for all
            return
        path = self.path / "args.json"
        try:
            everything = json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise InputError(f"{path} is not JSON ({error}). Delete it.") from error
        versions = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }
        everything[self.program] = {**self.settings, "versions": versions}
        write_json(path, everything)


def agree_on_settings(folder: Path, settings: dict[str, Any], restart: bool) -> None:
    """Keep files of different settings out of one folder, by its ``settings.json``.

    All processes of a program meet here; the first one looks and writes.

    Args:
        folder: of files that a step writes, one a picture.
        settings: those that decide what is in the files.
        restart: delete the folder's files, which would else pass for new ones when this run is
            interrupted and continued.

    Raises:
        InputError: the folder's files were made with other settings.
    """
    if distributed.is_main():
        clear_unfinished(folder)
        if restart and (folder / "settings.json").exists():  # else the folder is not ours
            for old in (path for path in folder.iterdir() if path.suffix in MADE):
                old.unlink()
        before = {} if restart else read_settings(folder)
        for name, value in settings.items():
            if name in before and before[name] != value:
                raise InputError(
                    f"The files in {folder} were made with {name} {before.get(name)}, not {value}. "
                    "Make them all again with --restart, or use another --session_name."
                )
        write_json(folder / "settings.json", settings)
    distributed.barrier()


def remaining(ids: list[str], is_done: Callable[[str], bool], device: torch.device) -> list[str]:
    """Return what this process has to do of a list, and say so.

    Args:
        ids: the whole list, which all processes share.
        is_done: tells whether a picture's file exists.
        device: for the message.
    """
    mine = distributed.share(ids)
    todo = [image_id for image_id in mine if not is_done(image_id)]
    share = f"{len(mine)} of the {len(ids)}" if distributed.world_size() > 1 else len(ids)
    log.info("%s pictures, %d of them done before, on %s", share, len(mine) - len(todo), device)
    return todo


def finish(ids: list[str], folder: Path) -> None:
    """Wait until all processes have done their share, so that a later step finds every file."""
    distributed.barrier()
    log.info("%d files in %s", len(ids), folder)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what :func:`agree_on_settings` wrote to a folder; nothing where it did not."""
    path = folder / "settings.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}). Delete it.") from error


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
