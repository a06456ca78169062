"""The dataset ``folder``: pictures of the user's own, laid out as :mod:`data.folder` says."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from data.base import Dataset
from data.folder.sources import FOLDERS, NEGATIVES, Source, find_sources
from data.folder.tables import Colours, check_names, names_in
from data.lists import (
    MASK,
    PICTURE_ENDINGS,
    files_in,
    find_list,
    listed,
    named,
    picture_id,
    picture_path,
    pictures_among,
    plain,
    read_list,
    strip_ending,
    visible,
)
from tool.checkpoint import some
from tool.errors import InputError, collected
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

    def __init__(self, root: str | Path | None = None, negative_class: str | None = None) -> None:
        super().__init__(root)
        self.images, self.splits = named(self.root, "images"), named(self.root, "splits")
        # Without such a list, the segmentation network is judged by what it learnt from.
        self.test_list = "val" if os.path.isfile(self.splits / "val.txt") else self.train_list
        self.no_class = (plain(negative_class),) if negative_class else NEGATIVES
        self.mask_folder = named(self.root, "masks")
        self._masks: dict[Path, dict[str | None, Path]] = {}  # of a folder by ids
        self._names = named(self.root, "classes.txt")
        self._listed = os.path.lexists(self._names)  # else a source says what the classes are

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The K foreground classes, of classes.txt, or of the first source that knows all.

        Raises:
            InputError: there are none, or names that no class can have.
        """
        if self._listed:
            where, names = str(self._names), read_lines(self._names)
        else:
            source = next((source for source in self._sources if source.classes), None)
            if source is None:
                unnamed = f"There is no {self._names}: one class name a line, no background."
                raise InputError(unnamed if self._sources else self._nothing)
            where, names = f"{self.root}: {source.name}", self._classes_in(source.classes)
        check_names(where, names)
        return tuple(map(plain, names))

    @cached_property
    def _sources(self) -> list[Source]:
        return find_sources(self.root, self.images, self.pictures.values())

    @property
    def _nothing(self) -> str:
        """That there are no labels, and which files might be meant to be some."""
        there = [path.name for path in visible(self.root) if path.suffix and path != self._names]
        return (
            f"There is no {self.root / 'labels.csv'} with a header image,labels and a row a "
            "picture, no annotations.json, and no folder of a class in images. Other files there: "
            f"{some(there) or 'none'}; of a workbook, save the sheet as CSV."
        )

    def _classes_in(self, names: Collection[str], known: Collection[str] = ()) -> list[str]:
        """Return the names that are ``known``, or do not mean that there is no class."""
        none = {name.casefold() for name in self.no_class}
        return [n for n in names if n in known or n.casefold().strip("_") not in none]

    @cached_property
    def pictures(self) -> dict[str, Path]:
        """Id, which is in Unicode's form NFC -> file, in images/ and folders there.

        Pictures of equal names have the names of their folders in their ids.
        """
        files, others = pictures_among(files_in(self.images))
        if others:
            log.warning("%s: left out: %s", self.images, listed(others))
        times = Counter(plain(path.stem) for path in files)
        found = {}
        with collected() as keeping:
            for path in files:
                image_id = plain(path.stem)
                if times[image_id] > 1:
                    image_id = _within(self.images, path).replace("/", "_")
                other = found.setdefault(image_id, path)
                with keeping(path):
                    if other != path:
                        raise InputError(f"{path} and {other} have the same id. Rename one.")
        if not found:
            raise InputError(f"There are no pictures in {self.images}.")
        masks = [i for i in found if MASK in i and i.replace(MASK, "") in found]
        if masks:
            log.warning("%s look like masks, and lie among the pictures", some(masks))
        return found

    @cached_property
    def _ids(self) -> dict[str, str | None]:
        """Path from any folder on, without its ending -> id of the one picture that it means."""
        ids = {}
        for image_id, path in self.pictures.items():
            for part in _tails(_within(self.images, path)):
                ids[part] = None if part in ids else image_id
        return ids | {image_id: image_id for image_id in self.pictures}

    def id_of(self, name: str) -> str:
        """Return the id of the picture that is called ``name``, be it with folders or without.

        Where there is no such picture, or there are several, that is the usual one.
        """
        for part in _tails(plain(name)):
            found = self._ids.get(part) or self._ids.get(strip_ending(part))
            if found:
                return found
        return picture_id(plain(name))

    @cached_property
    def rows(self) -> dict[str, set[str]]:
        """Id -> class names, for every picture that a source names.

        Raises:
            InputError: there is no source of labels, one has other classes, a row is of no class or
                picture, or two disagree.
        """
        rows, places = {}, {}  # by ids: class names, and where they stand
        known = {*self.class_names, *self.no_class}
        with collected() as keeping:
            for source in self._sources:
                self._check_classes(source)
                beside = source.name == FOLDERS and len(self._sources) > 1
                for where, image, shown in source.rows:
                    if beside and not known.issuperset(shown):
                        continue  # it is only a folder
                    with keeping(where):
                        names = names_in(shown, known) if isinstance(shown, str) else shown
                        classes = set(self._classes_in(names, self.class_names))
                        image_id = self.id_of(picture_path(image))
                        if image_id not in self.pictures:
                            raise InputError(f"{image_id!r} is no picture in images/, or several.")
                        others = rows.setdefault(image_id, classes)
                        if others != classes:
                            raise InputError(
                                f"{image_id!r} shows {_listed(classes)}, and {_listed(others)} by "
                                f"{places[image_id]}. Correct or remove one."
                            )
                        places[image_id] = where
        if not rows:
            raise InputError(self._nothing)
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
        names = order(self._classes_in(source.classes, self.class_names))
        known = order(self.class_names)
        if source.classes and source.name != FOLDERS and names != known:
            raise InputError(
                f"{self.root}: {source.name} has the classes {some(names)}, not {some(known)}. "
                "Write all classes to classes.txt in the order of their ids, and say with "
                "--negative_class what pictures without a class are called."
            )

    def list_ids(self, list_name: str) -> list[str]:
        """Return the ids of splits/<list_name>.txt; without it, ``train`` is every picture."""
        if list_name == self.train_list and not os.path.lexists(self.splits):
            return list(self.pictures)
        return read_list(find_list(self.splits, list_name), self.id_of)

    def image_path(self, image_id: str) -> Path:
        """Return the picture's file; one that does not exist for an unknown id."""
        return self.pictures.get(image_id, self.images / image_id)

    def mask_path(self, image_id: str) -> Path:
        """Return masks/<id>.png, or what is called as the picture is, perhaps with _mask behind."""
        return self.mask_in(self.mask_folder, image_id)

    def mask_in(self, folder: Path, image_id: str) -> Path:
        """Return the mask of a picture in a folder, or in the folders there."""
        if folder not in self._masks:
            found = self._masks[folder] = {}
            for path in sorted(files_in(folder), key=lambda path: path.suffix.lower() != ".png"):
                if path.suffix.lower() in PICTURE_ENDINGS:
                    name = _within(folder, path)
                    of = self._ids.get(name) or self._ids.get(name.removesuffix(MASK))
                    found.setdefault(of, path)
        return self._masks[folder].get(image_id, folder / f"{image_id}.png")

    @cached_property
    def _colours(self) -> Colours | None:
        path = named(self.root, "colours.csv")
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


def _within(folder: Path, path: Path) -> str:
    """Return a path within a folder without its ending, in Unicode's form NFC."""
    return plain(strip_ending(path.relative_to(folder).as_posix()))


def _tails(path: str) -> Iterator[str]:
    """Yield a path from every folder on, the whole one first."""
    while path:
        yield path
        path = path.partition("/")[2]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "no class"
