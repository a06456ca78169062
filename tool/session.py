"""The session folder: the log, the settings, and where things lie."""

import argparse
import logging
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tool import distributed
from tool.errors import InputError
from tool.files import read_json, write_json

log = logging.getLogger(__name__)


class _Console(logging.Handler):
    """Messages that do not tear a progress bar; of all processes but the first, only warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        sender = "" if distributed.is_main() else f"[process {distributed.rank()}] "
        text = sender + self.format(record)
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        # Where nobody reads any more, or the disk of a redirection is full, the log file goes on.
        with suppress(OSError):
            tqdm.write(text.encode(encoding, "replace").decode(encoding))


class _LogFile(logging.FileHandler):
    """The log file; that it cannot be written ends the program with a sentence."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            return super().handleError(record)
        raise InputError(
            f"{self.baseFilename} could not be written: {error.strerror}. Nothing that was "
            "finished is lost; the same command continues."
        ) from error


class Session:
    """One run's folder, ``<session>/``, a name (a folder in the working directory) or a path.

    The log and ``args.json`` tell the settings ``args`` beside those of the other programs. A
    folder that cannot be made or written raises an InputError.
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
        """Return what :func:`find_checkpoint` finds in this session."""
        return find_checkpoint(self.path, name, required)

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
            # Every record is flushed, so the file is complete at any moment.
            path = self.path / f"{self.path.resolve().name}.log"
            root.addHandler(_LogFile(path, encoding="utf-8", errors="backslashreplace"))
        logging.captureWarnings(True)

    def _save_settings(self) -> None:
        if not distributed.is_main():  # the first process writes for all
            return
        path = self.path / "args.json"
        everything = read_json(path, "Delete it.") if path.exists() else {}
        versions = {"python": platform.python_version()}
        versions |= {"torch": torch.__version__, "numpy": np.__version__}
        everything[self.program] = {**self.settings, "versions": versions}
        write_json(path, everything)


def find_checkpoint(session: Path, name: str, required: bool = True) -> Path:
    """Return the file that a ``--ckpt`` flag names: a path, or a file in <session>/ckpt.

    Raises:
        InputError: there is neither, and it is required.
    """
    places = (Path(name), session / "ckpt" / name)
    for exists in (os.path.isfile, os.path.exists):  # a folder is found last
        for place in filter(exists, places):
            return place
    if required:
        raise InputError(
            f"There is no checkpoint {name}, and no {places[1]}. Train first, or give another path."
        )
    return places[0]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
