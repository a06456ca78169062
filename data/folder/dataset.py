"""The dataset ``folder``: pictures of the user's own, laid out as :mod:`data.folder` says."""

import logging
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from data.base import Dataset
from data.folder.sources import FOLDERS, NEGATIVES, Source, find_sources
from data.folder.tables import Colours, check_names, names_in
from data.lists import (
    PICTURE_ENDINGS,
    find_list,
    picture_name,
    plain,
    read_list,
    strip_ending,
    visible,
)
from tool.checkpoint import some
from tool.errors import InputError, naming
from tool.pictures import read_mask
from tool.reader import read_lines

log = logging.getLogger(__name__)


class Folder(Dataset):
    """Pictures of the user's own.

    Args:
        root: the folder.
        negative_class: what a table or a folder calls pictures without a class, in place of
            NEGATIVES; a name in classes.txt is a class all the same.
    """

    name = "folder"
    default_root = "pictures"
    class_names = ()  # until they are read

    def __init__(self, root: str | Path | None = None, negative_class: str | None = None) -> None:
        super().__init__(root)
        # Without such a list, the segmentation network is judged by what it learnt from.
        val = self.root / "splits" / "val.txt"
        self.test_list = "val" if os.path.isfile(val) else self.train_list
        self.no_class = (plain(negative_class),) if negative_class else NEGATIVES
        path = self.root / "classes.txt"
        self._listed = os.path.lexists(path)  # else a source says what the classes are
        if self._listed:
            where, names = path, read_lines(path)
        else:
            source = next((source for source in self._sources if source.classes), None)
            if source is None:
                raise InputError(f"There is no {path}: one class name a line, no background.")
            where, names = f"{self.root}: {source.name}", self._classes_in(source.classes)
        check_names(where, names)
        self.class_names = tuple(map(plain, names))

    @cached_property
    def _sources(self) -> list[Source]:
        return find_sources(self.root, self.pictures.values())

    def _classes_in(self, names: Iterable[str]) -> list[str]:
        """Return the names that are classes, or do not mean that there is none."""
        none = {name.casefold() for name in self.no_class}
        return [n for n in names if n in self.class_names or n.casefold() not in none]

    @cached_property
    def pictures(self) -> dict[str, Path]:
        """Id, which is in Unicode's form NFC -> file, in images/ and folders there."""
        images = self.root / "images"
        files: dict[str, Path] = {}
        for path in (p for one in visible(images) for p in (visible(one) or [one])):
            if path.suffix.lower() in PICTURE_ENDINGS and not path.is_dir():
                other = files.setdefault(plain(path.stem), path)
                if other != path:
                    raise InputError(f"{path} and {other} have the same id. Rename one.")
        if not files:
            raise InputError(f"There are no pictures in {images}.")
        return files

    def id_of(self, name: str) -> str:
        """Return the id of the picture that is called ``name``; ``name`` itself where none is."""
        name = plain(name)
        return name if name in self.pictures else strip_ending(name)

    @cached_property
    def rows(self) -> dict[str, set[str]]:
        """Id -> class names, for every picture that a source names.

        Raises:
            InputError: there is no source of labels, one has other classes, a row is of no class or
                picture, or two disagree.
        """
        rows: dict[str, set[str]] = {}
        places: dict[str, str] = {}  # id -> where it stands
        known = {*self.class_names, *self.no_class}
        for source in self._sources:
            self._check_classes(source)
            beside = source.name == FOLDERS and source != self._sources[0]
            for where, image, shown in source.rows:
                if beside and not known.issuperset(shown):
                    continue  # it is only a folder
                image_id = self.id_of(picture_name(image))
                with naming(where):
                    names = names_in(shown, known) if isinstance(shown, str) else shown
                    classes = set(self._classes_in(names))
                    if image_id not in self.pictures:
                        raise InputError(f"{image_id!r} is no picture in images/.")
                    others = rows.setdefault(image_id, classes)
                    if others != classes:
                        raise InputError(
                            f"{image_id!r} shows {_listed(classes)}, and {_listed(others)} by "
                            f"{places[image_id]}. Correct or remove one."
                        )
                places[image_id] = where
        if not rows:
            raise InputError(
                f"There is no {self.root / 'labels.csv'} with a header image,labels and a row a "
                "picture, no annotations.json, and no folder of a class in images."
            )
        self.source_names = " and ".join(source.name for source in self._sources)
        log.info(
            "labels of %s: %d pictures, %d of them without a class; %d classes: %s",
            self.source_names,
            len(rows),
            sum(not classes for classes in rows.values()),
            len(self.class_names),
            some(self.class_names),
        )
        return rows

    def _check_classes(self, source: Source) -> None:
        """Raise an InputError where columns or categories are not the classes of the folder."""
        order = sorted if self._listed else list
        names, known = order(self._classes_in(source.classes)), order(self.class_names)
        if source.classes and source.name != FOLDERS and names != known:
            raise InputError(
                f"{self.root}: {source.name} has the classes {some(names)}, not {some(known)}. "
                "Write all classes to classes.txt in the order of their ids, and say with "
                "--negative_class what pictures without a class are called."
            )

    def list_ids(self, list_name: str) -> list[str]:
        """Return the ids of splits/<list_name>.txt; without it, ``train`` is every picture."""
        folder = self.root / "splits"
        if list_name == self.train_list and not os.path.lexists(folder):
            return list(self.pictures)
        return read_list(find_list(folder, list_name), self.id_of)

    def image_path(self, image_id: str) -> Path:
        """Return the picture's file; one that does not exist for an unknown id."""
        return self.pictures.get(image_id, self.root / "images" / image_id)

    def mask_path(self, image_id: str) -> Path:
        """Return masks/<id>.png; the ending may be in capitals, the id in any Unicode form."""
        return self._masks.get(image_id, self.root / "masks" / f"{image_id}.png")

    @cached_property
    def _masks(self) -> dict[str, Path]:
        """Id in Unicode's form NFC -> mask."""
        masks = (path for path in visible(self.root / "masks") if path.suffix.lower() == ".png")
        return {plain(path.stem): path for path in masks}

    @cached_property
    def _colours(self) -> Colours | None:
        path = self.root / "colours.csv"
        return Colours(path, self.class_names) if os.path.lexists(path) else None

    def read_mask(self, path: Path) -> np.ndarray:
        """Return a mask, uint8 (H, W), whose colours are those of colours.csv where there is one.

        Raises:
            InputError: see :func:`tool.pictures.read_mask` and :class:`data.folder.tables.Colours`.
        """
        return self._colours.read(path) if self._colours else read_mask(path)

    def names_of(self, image_id: str) -> set[str]:
        """Return the classes that the sources of labels name."""
        if image_id not in self.rows:
            raise InputError(
                f"{self.source_names} of {self.root}: there is no row for {image_id!r}. Add "
                f"{self.image_path(image_id).name} and its classes, which may be none, or take it "
                "off the list."
            )
        return self.rows[image_id]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "no class"
