"""What a dataset is: names of classes, where a picture and a mask lie, lists, labels.

Nothing else in the project knows a path, a list's name or a number of classes.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from data.reading import settle
from tool.errors import InputError
from tool.pictures import read_rgb

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
LONGEST_ID = 200  # bytes, so that every file that is named by an id has a name that is possible


class Dataset:
    """Base of all datasets; a new one states only what is its own.

    Attributes:
        name: as in ``--dataset``.
        class_names: the K foreground classes; ids are 1..K in this order, 0 is background.
        train_list, eval_list: the lists to learn from and to measure on when none is named.
        test_list: the list that the segmentation network of step 3 is judged by.
        pretrained: initial weights of the backbone when none are named.
        maps_dtype, maps_scale: how make_cam.py stores maps when nothing else is asked for.
        bands, value_range: how pictures are read, see :func:`tool.pictures.read_rgb`.
        reading_file: where a session notes that, see :mod:`data.reading`.
    """

    name: str
    class_names: tuple[str, ...]
    default_root: str
    train_list = "train"
    eval_list = "train"
    test_list = "val"
    pretrained = "imagenet"
    maps_dtype = "float32"
    maps_scale = 1.0
    bands: list[int] | None = None
    value_range: list[float] | str | None = None
    reading_file: Path | None = None

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or self.default_root)
        if not self.root.is_dir():
            raise InputError(
                f"There is no folder {self.root} for --dataset {self.name}. "
                "Name the right one with --dataset_root."
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
        """Return the ids of a list that belongs to the dataset, by name.

        Raises:
            InputError: there is no such list.
        """
        raise NotImplementedError

    def image_path(self, image_id: str) -> Path:
        """Return where the picture lies."""
        raise NotImplementedError

    def mask_path(self, image_id: str) -> Path:
        """Return where the ground-truth mask lies, if there is one."""
        raise NotImplementedError

    def labels(self, ids: list[str]) -> np.ndarray:
        """Return image-level labels, uint8 (len(ids), K) in {0, 1}.

        Raises:
            InputError: an id has no label, or names an unknown class.
        """
        raise NotImplementedError

    def ids(self, list_name: str | Path) -> list[str]:
        """Return the ids of a list, given by name or as a text file, in its order.

        Raises:
            InputError: there is no such list, it is empty, it repeats an id, or an id is none that
                files can be named by.
        """
        path = Path(list_name)
        is_file = path.is_file() and (path.suffix or len(path.parts) > 1)
        ids = read_list(path) if is_file else self.list_ids(str(list_name))
        if not ids:
            raise InputError(f"The list {list_name} of {self.root} is empty.")
        twice = [image_id for image_id, times in Counter(ids).items() if times > 1]
        if twice:
            raise InputError(
                f"The list {list_name} names {len(twice)} ids more than once, first {twice[0]}."
            )
        for image_id in ids:
            if not _is_file_name(image_id):
                raise InputError(
                    f"The list {list_name} names {image_id!r}. Maps and labels are named by ids, "
                    "so an id has no /, \\, NUL or .., begins with no dot, and has at most "
                    f"{LONGEST_ID} bytes. Rename the picture."
                )
        return ids

    def training_ids(self, list_name: str | Path, at_least: int, flag: str) -> list[str]:
        """Return the ids of a list to learn from, whose pictures are all there.

        Args:
            list_name: see :meth:`ids`.
            at_least: pictures of a step.
            flag: that says so, for the message.

        Raises:
            InputError: a picture is missing, or there are too few.
        """
        ids = self.ids(list_name)
        self.check_pictures(ids)
        if len(ids) < at_least:
            raise InputError(f"{flag} exceeds the {len(ids)} training pictures.")
        return ids

    def masks(self, ids: list[str], folder: Path | None = None) -> list[Path]:
        """Return the files of the ground truth, which are all there.

        Args:
            ids: of the pictures.
            folder: of masks with the names of the dataset's own; None is the dataset's.

        Raises:
            InputError: a mask is missing.
        """
        masks = [self.mask_path(image_id) for image_id in ids]
        masks = [folder / path.name for path in masks] if folder else masks
        check_exist(masks, "masks", "Complete them, or name their folder with --gt_path")
        return masks

    def check_pictures(self, ids: list[str]) -> None:
        """Find missing pictures before hours are spent, and settle how all are read.

        Raises:
            InputError: some picture does not exist, or no range of values is found.
        """
        check_exist([self.image_path(image_id) for image_id in ids], "pictures", "Complete the set")
        settle(self, ids)

    def read(self, image_id: str) -> Image.Image:
        """Return a picture as RGB, upright, by the bands and the range that the flags name.

        Raises:
            InputError: see :func:`tool.pictures.read_rgb`.
        """
        return read_rgb(self.image_path(image_id), self.bands, self.value_range)


def _is_file_name(image_id: str) -> bool:
    """Tell whether ``<id>.png`` is a file of its folder, in every system."""
    unfit = any(part in image_id for part in ("/", "\\", "\0", ".."))
    return not unfit and not image_id.startswith(".") and len(os.fsencode(image_id)) <= LONGEST_ID


def check_exist(paths: list[Path], what: str, mend: str) -> None:
    """Raise an InputError that counts the missing files and names the first."""
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        try:
            os.stat(missing[0])
        except PermissionError as error:
            raise InputError(
                f"{missing[0]}: permission denied. Give yourself the right."
            ) from error
        except (OSError, ValueError):  # it is missing
            pass
        raise InputError(
            f"{len(missing)} of {len(paths)} {what} are missing, the first is {missing[0]}. {mend}."
        )


def read_list(path: Path) -> list[str]:
    """Return the ids in a text file, one a line.

    A line is a plain id, a path to the picture, or the published form
    ``/JPEGImages/x.jpg /SegmentationClassAug/x.png`` whose first path counts.

    Raises:
        InputError: there is no such file, or it is no text.
    """
    return [_id_of(line) for line in read_lines(path)]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file without surrounding space; empty ones are left out.

    Raises:
        InputError: there is no such file, or it is no text.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_text(path: Path) -> str:
    """Return a UTF-8 text file, with or without a byte order mark.

    Raises:
        InputError: there is no such file, or it is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no UTF-8 text ({error}). Save it as such.") from error


def _id_of(line: str) -> str:
    if "/" in line:
        line = line.split()[0].rsplit("/", 1)[-1]
    return strip_ending(line)


def strip_ending(file_name: str) -> str:
    """Return a picture's file name without its ending; ids themselves may hold dots."""
    stem, dot, ending = file_name.rpartition(".")
    return stem if dot + ending.lower() in PICTURE_ENDINGS else file_name


def labels_from_names(names: list[set[str]], ids: list[str], dataset: Dataset) -> np.ndarray:
    """Return uint8 (len(ids), K) from the class names of every picture.

    Raises:
        InputError: a name is no class of the dataset.
    """
    columns = {name: column for column, name in enumerate(dataset.class_names)}
    labels = np.zeros((len(ids), len(columns)), dtype=np.uint8)
    for row, (image_id, present) in enumerate(zip(ids, names, strict=True)):
        for name in present:
            if name not in columns:
                raise InputError(
                    f"{image_id} in {dataset.root} is labelled {name!r}, which is no class of "
                    f"{dataset.name}; the classes are {', '.join(columns)}."
                )
            labels[row, columns[name]] = 1
    return labels
