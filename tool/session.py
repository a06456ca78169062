"""The session folder: the log, the settings, and where things lie."""

import logging
import os
import platform
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tool import distributed
from tool.cli import Settings
from tool.errors import InputError
from tool.reader import read_json, regular
from tool.writer import clear_unfinished, write_json, writing

MARKS = ("args.json", ".digests.json", "seconds.txt", "value_range.json")  # of a session

log = logging.getLogger(__name__)


class _Console(logging.Handler):
    """Messages that do not tear a progress bar; of all processes but the first, only warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        sender = "" if distributed.is_main() else f"[process {distributed.rank()}] "
        # Where nobody reads any more, or the disk of a redirection is full, the log file goes on.
        with suppress(OSError):
            tqdm.write(sender + self.format(record))
            sys.stdout.flush()  # a redirection shows it at once, too


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

    A program calls :meth:`accept` once it has refused nothing. Only then its settings come into
    ``args.json``: a refused command changes nothing, and its sentence is in the log.

    Args:
        name: of the folder, made on demand.
        program: name of the step script.
        args: its settings.

    Raises:
        InputError: the folder cannot be made or written, or is somebody else's.
    """

    def __init__(self, name: str | Path, program: str, args: Settings) -> None:
        self.path, self.program, self.args = Path(name), program, args
        self.file = self.path / "args.json"
        self.log_file = self.path / f"{self.path.resolve().name}.log"
        self.notes: list[Callable[[], None]] = []  # write what else is to be known of the session
        if distributed.is_main():
            self._check_owner()
        with writing(f"--session_name {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            self._start_log()
        if distributed.is_main():
            log.info("%s -> %s", program, self.path)
            log.debug("settings: %s", self._settings())

    def accept(self, **found: Any) -> None:
        """Write the settings of the program, as they are now, into ``args.json``.

        ``found`` is what the program found out besides: plain values or paths. With them stand the
        program's ``commands`` in this session, each once, the latest last.
        """
        if not distributed.is_main():  # the first process writes for all
            return
        versions = {"python": platform.python_version()}
        versions |= {"torch": torch.__version__, "numpy": np.__version__}
        noted = read_settings(self.file)
        command = shlex.join(["python", f"{self.program}.py", *map(str, self.args.words)])
        before = noted.get(self.program, {}).get("commands", [])
        commands = [*(other for other in before if other != command), command]
        settings = self._settings(**found, versions=versions, commands=commands)
        clear_unfinished(self.path)
        for note in self.notes:
            note()
        write_json(self.file, {**noted, self.program: settings})

    def checkpoint(self, name: str) -> Path:
        """Return what :func:`find_checkpoint` finds in this session."""
        return find_checkpoint(self.path, name)

    def _settings(self, **found: Any) -> dict[str, Any]:
        values = {**vars(self.args), **found}
        return {name: str(v) if isinstance(v, Path) else v for name, v in sorted(values.items())}

    def _check_owner(self) -> None:
        """Refuse a folder of files that has nothing by which a session is known."""
        read_settings(self.file)  # a damaged one is refused now
        known = any((self.path / name).exists() for name in (*MARKS, self.log_file.name))
        if known or not self.path.is_dir():
            return
        others = [p.name for p in self.path.iterdir() if p.is_file() and p.name[0] != "."]
        if others:
            raise InputError(
                f"--session_name {self.path}: the folder holds {len(others)} files, such as "
                f"{min(others)}, but no args.json of a session. Name another one."
            )

    def _start_log(self) -> None:
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if type(handler) in (_Console, _LogFile, logging.StreamHandler):
                root.removeHandler(handler)
                handler.close()
        console = _Console()
        console.setLevel(logging.INFO if distributed.is_main() else logging.WARNING)
        root.setLevel(logging.INFO)
        for package in ("__main__", "net", "data", "tool"):
            logging.getLogger(package).setLevel(logging.DEBUG)
        root.addHandler(console)
        if distributed.is_main():
            if self.log_file.exists() and not self.log_file.is_dir():
                regular(self.log_file)  # a pipe would be waited for
            # Every record is flushed, so the file is complete at any moment.
            root.addHandler(_LogFile(self.log_file, encoding="utf-8", errors="backslashreplace"))
        logging.captureWarnings(True)


def read_settings(path: Path) -> dict[str, dict[str, Any]]:
    """Return the settings in an ``args.json``, if there is one, by the programs that ran."""
    return read_json(path, "Delete it, and run the steps again.", {str: dict}, {})


def find_checkpoint(session: Path, name: str) -> Path:
    """Return the file that a ``--ckpt`` flag names: one in <session>/ckpt before any other path.

    Raises:
        InputError: there is neither.
    """
    places = (session / "ckpt" / name, Path(name))
    for place in places:
        if os.path.isfile(place):
            return place
    raise InputError(
        f"There is no checkpoint {name}, and no {places[0]}. Train first, or give another path."
    )
