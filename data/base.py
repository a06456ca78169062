"""What a dataset is: names of classes, where a picture and a mask lie, lists, labels.

Nothing else in the project knows a path, a list's name or a number of classes.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.lists import picture_id, plain, read_list, spread
from tool import distributed
from tool.checkpoint import some
from tool.cli import AUTO
from tool.errors import InputError, collected
from tool.picture_files import picture_file
from tool.pictures import read_mask, read_rgb
from tool.reader import check_exist

LONGEST_ID = 210  # bytes; files are named by ids, with up to 45 bytes more, and 255 are possible
PERCENTILES = (1, 99)  # of values that become black and white
MOST_PICTURES, MOST_VALUES = 200, 50_000  # looked at, of a list and of a picture
# What an id has nowhere; the last ones stand for bytes that are no UTF-8.
NO_ID = re.compile(r"^\.|[/\\\0\ud800-\udfff]|\.\.")

log = logging.getLogger(__name__)


class Dataset:
    """Base of all datasets; a new one states only what is its own."""

    name: str  # as in --dataset
    class_names: tuple[str, ...]  # the K foreground classes, of ids 1..K; background is 0
    default_root: str
    train_list = "train"  # to learn from when no list is named
    eval_list = "train"  # to measure on when no list is named
    test_list = "val"  # which the segmentation network of step 3 is judged by
    pretrained = "imagenet"  # initial weights of the backbone when none are named
    masks_are_optional = True  # only evaluations need them
    source_names = "the dataset"  # where labels come from, for messages
    last_list: str | Path = train_list  # that was read, for messages
    bands: list[int] | None = None  # how pictures are read, see tool.pictures.read_rgb
    value_range: list[float] | str | None = None

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or self.default_root)
        if not os.path.isdir(self.root):
            raise InputError(
                f"--dataset {self.name} has no folder {self.root}. Name the right one with "
                "--dataset_root."
            )

    @property
    def num_classes(self) -> int:
        """Classes with background, C = K + 1."""
        return len(self.class_names) + 1

    @property
    def all_names(self) -> tuple[str, ...]:
        """Names of the C classes, background first."""
        return ("background", *self.class_names)

    def list_ids(self, list_name: str) -> list[str]:
        """Return the ids of the dataset's list of that name; an unknown name is an InputError."""
        raise NotImplementedError

    def image_path(self, image_id: str) -> Path:
        """Return where the picture lies."""
        raise NotImplementedError

    def mask_path(self, image_id: str) -> Path:
        """Return where the ground-truth mask lies, if there is one."""
        raise NotImplementedError

    def names_of(self, image_id: str) -> set[str]:
        """Return the names of the classes that a picture shows; no label is an InputError."""
        raise NotImplementedError

    def labels(self, ids: list[str]) -> np.ndarray:
        """Return image-level labels, uint8 (len(ids), K) in {0, 1}, of :meth:`names_of`.

        The row of a picture without class is zero.

        Raises:
            InputError: an id has no label, or names an unknown class.
        """
        columns = {plain(name): column for column, name in enumerate(self.class_names)}
        labels = np.zeros((len(ids), len(columns)), np.uint8)
        with collected() as keeping:
            for row, image_id in zip(labels, ids, strict=True):
                with keeping(self.root):
                    for name in map(plain, self.names_of(image_id)):
                        if name not in columns:
                            raise InputError(
                                f"{image_id} in {self.root} is labelled {name!r}, which is no "
                                f"class of {self.name}; the classes are {', '.join(columns)}."
                            )
                        row[columns[name]] = 1
        return labels

    def ids(self, list_name: str | Path) -> list[str]:
        """Return the ids of a list, given by name or as a text file, in its order.

        An InputError says that there is no such list, that it is empty or repeats an id, or that an
        id is none that files can be named by.
        """
        path = Path(list_name)
        is_file = os.path.isfile(path) and (path.suffix or len(path.parts) > 1)
        ids = read_list(path, self.id_of) if is_file else self.list_ids(str(list_name))
        self.last_list = list_name
        where = f"The list {list_name} of {self.root}"
        if not ids:
            raise InputError(f"{where} is empty.")
        with collected() as keeping:
            for image_id, times in Counter(ids).items():
                with keeping(where):
                    if times > 1:
                        raise InputError(f"{where} names {image_id!r} {times} times.")
                    size = len(image_id.encode(errors="surrogatepass"))
                    if NO_ID.search(image_id) or size > LONGEST_ID:  # files are named <id>.png
                        raise InputError(
                            f"{where} names {image_id[:60]!r}. Maps and labels are named by ids, "
                            "so an id is text of Unicode without /, \\, NUL or .., begins with no "
                            f"dot, and has at most {LONGEST_ID} bytes. Rename the picture."
                        )
        return ids

    def id_of(self, name: str) -> str:
        """Return the id of the picture that a list calls ``name``: its file or path, or the id."""
        return picture_id(name)

    def picture_ids(
        self, list_name: str | Path, at_least: int = 0, flag: str = "the list"
    ) -> list[str]:
        """Return the ids of a list, see :meth:`ids`, whose pictures are all there.

        A missing picture raises an InputError, and so do fewer than the ``at_least`` of a training
        step, which ``flag`` asks for.
        """
        ids = self.ids(list_name)
        self.check_pictures(ids)
        if len(ids) < at_least:
            raise InputError(f"{flag} exceeds the {len(ids)} training pictures.")
        return ids

    def mask_in(self, folder: Path, image_id: str) -> Path:
        """Return where another folder of masks has that of a picture."""
        return folder / self.mask_path(image_id).name

    def masks(self, ids: list[str], folder: Path | None = None) -> dict[str, Path]:
        """Return the ground truth by ids; of ``folder``, where it is not the dataset's own.

        Where masks are optional, pictures without one are left out, which a warning counts, unless
        none is there. A mask that is missing otherwise raises an InputError.
        """
        paths = {i: self.mask_in(folder, i) if folder else self.mask_path(i) for i in ids}
        there = {i: path for i, path in paths.items() if os.path.lexists(path)}
        if not (there and self.masks_are_optional):
            remedy = "Complete them, name their folder with --gt_path, or train with --val_freq 0"
            check_exist(list(paths.values()), "masks", remedy)
        if len(there) < len(ids) and distributed.is_main():
            log.warning(
                "%d of %d pictures have a mask, and are what is judged", len(there), len(ids)
            )
        return there

    def check_pictures(self, ids: list[str]) -> None:
        """Find the range of values of ``auto``; a missing picture, or no range, is an error."""
        paths = [self.image_path(image_id) for image_id in ids]
        remedy = f"Complete the set, or take them off the list {self.last_list}"
        check_exist(paths, "pictures", remedy)
        if self.value_range == AUTO:
            self.value_range = self._range_of(paths)

    def _range_of(self, paths: list[Path]) -> list[float]:
        """Return the 1st and the 99th percentile of the values of some pictures.

        They are up to MOST_PICTURES pictures, evenly spread, and of each up to some MOST_VALUES
        values, evenly spread too. A picture that cannot be read or holds NaN, or values that are
        all equal, raise an InputError.
        """
        found = []
        for path in spread(paths, MOST_PICTURES):
            with picture_file(path) as file:
                values = file.samples(self.bands, AUTO)[0].ravel()
            found.append(values[:: -(-len(values) // MOST_VALUES)].astype(np.float64))
        low, high = np.percentile(np.concatenate(found), PERCENTILES).tolist()
        if not low < high:
            raise InputError(
                f"--value_range auto: {low:g} is the 1st and the 99th percentile of the values in "
                f"{self.root}. Give --value_range LOW HIGH."
            )
        return [low, high]

    @property
    def reading(self) -> dict[str, Any]:
        """How pictures are read, for whoever notes it."""
        return {"bands": self.bands, "value_range": self.value_range}

    def read(self, image_id: str) -> Image.Image:
        """Return a picture as RGB, upright, by the flags; see :func:`tool.pictures.read_rgb`."""
        return read_rgb(self.image_path(image_id), self.bands, self.value_range)

    def read_mask(self, path: Path) -> np.ndarray:
        """Return a mask of the ground truth, uint8 (H, W): class ids, 255 where not judged.

        Raises:
            InputError: see :func:`tool.pictures.read_mask`.
        """
        return read_mask(path)


def check_labels(labels: np.ndarray, names: Sequence[str], source: str) -> None:
    """Warn of classes that every picture shows, or none: no classifier learns what is never absent.

    Args:
        labels: of all training pictures, (n, K) in {0, 1}.
        names: of the K classes.
        source: where the labels come from.

    Raises:
        InputError: no picture shows any class, so there is nothing to learn.
    """
    if not labels.any():
        raise InputError(
            f"No picture of the training list shows a class by {source}. Correct the labels, or "
            "the list."
        )
    classes = np.array(names)
    constant, unseen = classes[labels.all(0)], classes[~labels.any(0)]
    if constant.size and distributed.is_main():
        log.warning(
            "every picture of the training list shows %s, so the classifier cannot learn what sets "
            "that apart; the list needs pictures without it",
            " and ".join(constant),
        )
    if unseen.size and distributed.is_main():
        log.warning("no picture of the training list shows %s", some(unseen))
