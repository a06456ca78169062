"""A folder of files that a step writes, one a picture, and the settings that they were made with.

``settings.json`` in the folder says which program made the files, of which classes, and how. Files
of different settings never mix in one folder, nobody else's files are taken for ours, and no
program deletes what another one made.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tool import distributed
from tool.errors import InputError
from tool.files import clear_unfinished, read_json, write_json

MADE = (".npz", ".npy", ".png")  # endings of files that steps write, one a picture
# Earlier versions noted no program; the first of these settings that a note has tells it.
MARKS = {
    "ckpt_sha256": "make_cam",
    "refine": "make_seg_labels",
    "model": "infer_seg",
    "maps": "cam2ir",
}
EARLIER = {"revision": 0, "sampling": "pillow"}  # what held for notes that do not say it

log = logging.getLogger(__name__)


class Outputs:
    """The files that this program writes into a folder.

    Args:
        folder: made on demand.
        program: name of the step script.
        settings: plain values, those that decide what is in the files.
        class_names: of the C classes, background first.
        ids: the whole list, which all processes share.
        path_of: where the file of a picture lies in the folder.
    """

    def __init__(
        self,
        folder: Path,
        program: str,
        settings: dict[str, Any],
        class_names: Sequence[str],
        ids: list[str],
        path_of: Callable[[str], Path],
    ) -> None:
        self.folder, self.program, self.ids, self.path_of = folder, program, ids, path_of
        # As they look when read again.
        self.settings = json.loads(json.dumps({"class_names": list(class_names), **settings}))

    def open(
        self,
        restart: bool,
        device: torch.device,
        is_outdated: Callable[[Path, str], bool] | None = None,
    ) -> list[str]:
        """Check the folder, and return what this process has to do of the list.

        All processes meet here; the first one looks, deletes and writes. A folder that holds files
        of another program, of other settings, or of nobody that is known, raises an InputError.

        Args:
            restart: make the files of the list again.
            device: for the message.
            is_outdated: tells of a file and its id whether it must be made again.
        """
        if distributed.is_main():
            self._claim(restart, is_outdated)
        distributed.barrier()
        mine = distributed.share(self.ids)
        todo = [image_id for image_id in mine if not self.path_of(image_id).exists()]
        parted = distributed.world_size() > 1
        share = f"{len(mine)} of the {len(self.ids)}" if parted else len(self.ids)
        log.info("%s pictures, %d of them done before, on %s", share, len(mine) - len(todo), device)
        return todo

    def _claim(self, restart: bool, is_outdated: Callable[[Path, str], bool] | None) -> None:
        before = read_settings(self.folder)
        there = {path for path in self.folder.glob("*") if path.suffix in MADE}
        maker = before.get("program") or next((MARKS[n] for n in MARKS if n in before), None)
        if there and maker is None:
            raise InputError(
                f"{self.folder} holds {len(there)} files, such as {min(there).name}, but no "
                "settings.json that says how a program of this project made them. Name an empty "
                "folder, or move the files away."
            )
        if maker not in (None, self.program):
            raise InputError(
                f"{self.folder} holds what {maker}.py made; {self.program}.py writes to a folder "
                "of its own. Name another one."
            )
        clear_unfinished(self.folder)
        now = self.settings.items() if before else ()
        different = [name for name, value in now if differ(before, name, value)]
        listed = {self.path_of(image_id) for image_id in self.ids}
        if different and not restart:
            name = different[0]
            raise InputError(
                f"The files in {self.folder} were made with {name} {_noted(before, name)}, not "
                f"{_short(self.settings[name])}. Make them all again with --restart, or use "
                "another --session_name."
            )
        others = there - listed
        if different and others:
            raise InputError(
                f"{self.folder} also holds {len(others)} files that are not on this list, such as "
                f"{min(others).name}, made with {different[0]} {_noted(before, different[0])}. "
                "--restart deletes only what is on the list: give the list that names them, or use "
                "another --session_name."
            )
        revision = before.get("revision", 0)
        old = list(listed & there) if restart else []
        if is_outdated and not restart:
            done = ((self.path_of(image_id), image_id) for image_id in self.ids)
            old = [path for path, image_id in done if path in there and is_outdated(path, image_id)]
            if old:
                revision += 1  # files that were made from the outdated ones no longer agree
                text = "%d files are outdated, such as %s, and are made again"
                log.info(text, len(old), min(old).name)
        for path in old:
            path.unlink()
        content = {"program": self.program, **self.settings}
        write_json(self.folder / "settings.json", {**content, "revision": revision})

    def finish(self) -> None:
        """Wait until all processes have done their share; a missing file raises an InputError."""
        distributed.barrier()
        if distributed.is_main():
            missing = [i for i in self.ids if not self.path_of(i).exists()]
            if missing:
                raise InputError(
                    f"{len(missing)} of {len(self.ids)} files are not in {self.folder}, the first "
                    f"is that of {missing[0]}. The same command makes them."
                )
        log.info("%d files in %s", len(self.ids), self.folder)


def differ(before: dict[str, Any], name: str, value: Any) -> bool:
    """Tell whether a setting differs from a noted one; what the note does not have is no reason.

    Notes of notes, such as the settings of the maps that labels come from, are compared likewise.
    """
    noted = before.get(name, EARLIER.get(name, value))
    if isinstance(noted, dict) and isinstance(value, dict):
        return any(differ(noted, inner, one) for inner, one in value.items())
    return noted != value


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what a program noted in a folder, or nothing; other than JSON raises an InputError."""
    path = folder / "settings.json"
    mend = "Put back the file that was there, or make the folder's files again in another one."
    settings = read_json(path, mend) if path.exists() else {}
    if "ckpt_sha256" in settings:  # maps; earlier versions knew one layout
        settings.setdefault("save_layout", "full")
    return settings


def settings_of(folder: Path, class_names: Sequence[str]) -> dict[str, Any]:
    """Return what a program noted in a folder that is read; nothing where there is no note.

    A note that is no JSON object, or of other classes, raises an InputError.
    """
    settings = read_settings(folder)
    names = settings.get("class_names")
    if names is not None and names != list(class_names):
        raise InputError(
            f"The files in {folder} were made for the classes {_short(names)}, the dataset has "
            f"{_short(list(class_names))}. Their names and order decide what a number means: check "
            "--dataset and its classes, or make the files again in another --session_name."
        )
    return settings


def _noted(before: dict[str, Any], name: str) -> str:
    return _short(before.get(name, EARLIER.get(name)))


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
