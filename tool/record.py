"""What was made from what: every folder of results notes it, and every program that reads compares.

``settings.json`` in a folder says which program made its files, of which classes and by which
settings; ``sources.json`` holds, for every picture, a digest of all that its file was made from.
Files are told apart by content: ``<session>/.digests.json`` remembers each digest by size
and time of the file, so that only what changed is read again.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tool import distributed
from tool.errors import InputError, first_difference
from tool.reader import check_exist, file_digest, read_json, regular, text_digest
from tool.writer import NOTE, own_folder, read_note, write_json

SOURCES = "sources.json"
READERS = 8  # threads that digest files

log = logging.getLogger(__name__)


def digests_of(session: str | Path, paths: Iterable[Path]) -> list[str]:
    """Return the digest of each file by content; one that cannot be read raises an InputError.

    The session remembers digests by size and time of modification.
    """
    memory = Path(session) / ".digests.json"
    known = read_json(memory, "Delete it.", {str: (str, str)}, {})
    stamps = {key: _stamp(key) for key in map(os.path.abspath, paths)}
    new = [key for key, stamp in stamps.items() if known.get(key, [None])[0] != stamp]
    with ThreadPoolExecutor(READERS) as threads:
        digests = threads.map(file_digest, new)
        known |= {key: [stamps[key], one] for key, one in zip(new, digests, strict=True)}
    if new:
        write_json(memory, known)
    return [known[os.path.abspath(path)][1] for path in paths]


def digest_of(session: str | Path, paths: Iterable[Path]) -> str:
    """Return one digest of several files in their order."""
    return text_digest(*digests_of(session, paths))


def _stamp(path: str) -> str:
    status = regular(path).stat()
    return f"{status.st_size} {status.st_mtime_ns}"


@dataclass
class Outputs:
    """The files that a program writes into a folder of its own, one a picture.

    Attributes:
        session: the session's folder, which remembers digests.
        folder: made on demand.
        program: name of the step script.
        settings: plain values, those that decide what is in the files.
        class_names: of the C classes, background first.
        ids: the whole list, which all processes share.
        ending: of the files, such as ``".png"``.
        sources: what the file of a picture is made from, by kind: for each id a file, whose content
            counts, or a text.
    """

    session: Path
    folder: Path
    program: str
    settings: Mapping[str, Any]
    class_names: Sequence[str]
    ids: Sequence[str]
    ending: str
    sources: Mapping[str, Sequence[Path | str]]

    def path_of(self, image_id: str) -> Path:
        """Return where the file of a picture lies."""
        return self.folder / f"{image_id}{self.ending}"

    def open(self, restart: bool, device: torch.device | str = "cpu") -> list[str]:
        """Claim the folder, and return what this process has to do of the list.

        All processes meet here; the first one looks, deletes and writes. Files whose sources have
        changed are made again.

        Args:
            restart: make the files of the list again.
            device: for the message.

        Raises:
            InputError: the folder holds files of somebody else, of another program or of other
                settings, or another process is writing it.
        """
        if distributed.is_main():
            self._claim(restart)
        distributed.barrier()
        mine = distributed.share(self.ids)
        todo = [image_id for image_id in mine if not self.path_of(image_id).exists()]
        done = len(mine) - len(todo)
        log.info("%d of %d pictures, %d done before, on %s", len(mine), len(self.ids), done, device)
        return todo

    def _claim(self, restart: bool) -> None:
        taken = {NOTE, SOURCES}.intersection(self.path_of(i).name for i in self.ids)
        if taken:
            raise InputError(
                f"{self.folder / min(taken)} is a note. Rename the picture of that id."
            )
        before, self.lock = own_folder(self.folder, self.program)
        settings = {"class_names": list(self.class_names), **self.settings}
        settings = json.loads(json.dumps(settings))  # as they look when read again
        path = self.folder / SOURCES
        noted = read_json(path, "Delete it.", {str: str}, {})
        there = [image_id for image_id in noted if self.path_of(image_id).exists()]
        staying = set(there).difference(self.ids if restart else ())
        different = first_change(before, settings) if staying else None
        if different:
            made = f"{different} {before.get(different)!s:.200}, not {settings[different]!s:.200}"
            raise InputError(
                f"{len(staying)} files in {self.folder}, such as that of {min(staying)}, were made "
                f"with {made}. Make them all again with --restart and a list that names them, or "
                "use another --session_name."
            )
        found = self._digests()
        changed = [i for i in there if found.get(i, noted[i]) != noted[i]]
        for image_id in set(there).intersection(self.ids if restart else changed):
            self.path_of(image_id).unlink()
        if changed and not restart:
            log.info("%d files, whose sources changed, are made again", len(changed))
        write_json(self.folder / NOTE, {"program": self.program, **settings})
        write_json(path, {**noted, **found})

    def _digests(self) -> dict[str, str]:
        """Return for every picture the digest of all its sources."""
        columns = []
        for entries in self.sources.values():
            is_file = entries and isinstance(entries[0], Path)
            columns.append(digests_of(self.session, entries) if is_file else entries)
        return {i: text_digest(*row) for i, *row in zip(self.ids, *columns, strict=True)}

    def finish(self) -> None:
        """Wait until all processes have done their share; a missing file raises an InputError."""
        distributed.barrier()
        if distributed.is_main():
            paths = [self.path_of(image_id) for image_id in self.ids]
            check_exist(paths, "files", "The same command makes them")
            self.lock.close()
        log.info("%d files in %s", len(self.ids), self.folder)


def settings_of(folder: Path, class_names: Sequence[str]) -> dict[str, Any]:
    """Return what a program noted in a folder that is read; nothing where there is no note.

    A note that is damaged, or of other classes, raises an InputError.
    """
    settings = read_note(folder)
    compare_classes(f"The files in {folder} were made", settings.get("class_names"), class_names)
    return settings


def compare_classes(made: str, names: list[str] | None, class_names: Sequence[str]) -> None:
    """Raise an InputError where ``names``, if they are noted, are not those of the dataset.

    The names count in their order, background first; ``made`` says what was made for them.
    """
    if names is not None and names != list(class_names):
        raise InputError(
            f"{made} for other classes than the dataset's: {first_difference(names, class_names)}. "
            "Their names and order decide what a number means: check --dataset and its classes, or "
            "begin anew in another --session_name."
        )


def first_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return the first name of ``now`` whose value was another one before, if there is one."""
    return next((name for name, value in now.items() if before.get(name) != value), None)
