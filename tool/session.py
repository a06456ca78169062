"""The session folder: the log, the settings, and where things lie."""

import argparse
import json
import logging
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tool.errors import InputError
from tool.files import write_json

log = logging.getLogger(__name__)


class _Console(logging.Handler):
    """Messages that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


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
        settings = {key: _plain(value) for key, value in sorted(vars(args).items())}
        self._save_settings(program, settings)
        log.info("%s -> %s", program, self.path)
        log.debug("settings: %s", settings)

    def checkpoint(self, name: str) -> Path:
        """Return the file that a ``--ckpt`` flag names: a path, or a file in <session>/ckpt."""
        inside = self.path / "ckpt" / name
        return inside if inside.is_file() and not Path(name).is_file() else Path(name)

    def _start_log(self) -> None:
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if isinstance(handler, (_Console, logging.FileHandler)):
                root.removeHandler(handler)
                handler.close()
        console = _Console()
        console.setLevel(logging.INFO)
        # A FileHandler flushes every record, so the file is complete at any moment.
        file = logging.FileHandler(self.path / f"{self.path.resolve().name}.log", encoding="utf-8")
        root.setLevel(logging.INFO)
        for package in ("__main__", "net", "data", "tool"):
            logging.getLogger(package).setLevel(logging.DEBUG)
        root.addHandler(console)
        root.addHandler(file)
        logging.captureWarnings(True)

    def _save_settings(self, program: str, settings: dict[str, Any]) -> None:
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
        everything[program] = {**settings, "versions": versions}
        write_json(path, everything)


def agree_on_settings(folder: Path, settings: dict[str, Any], restart: bool) -> None:
    """Keep files of different settings out of one folder, by its ``settings.json``.

    Args:
        folder: of files that a step writes, one a picture.
        settings: those that decide what is in the files.
        restart: the files will all be made again.

    Raises:
        InputError: the folder's files were made with other settings.
    """
    before = {} if restart else read_settings(folder)
    if before:
        for name, value in settings.items():
            if before.get(name) != value:
                raise InputError(
                    f"The files in {folder} were made with {name} {before.get(name)}, not {value}. "
                    "Make them all again with --restart, or use another --session_name."
                )
    write_json(folder / "settings.json", settings)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what :func:`agree_on_settings` wrote to a folder; nothing where it did not."""
    path = folder / "settings.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}). Delete it.") from error


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
