"""MS COCO 2014, and its preparation: lists, image labels and masks from the annotation files.

    python -m data.coco [--dataset_root "../ms_coco_14&15"] [--crowd keep] [--num_workers 8]

Reads   <root>/annotations/instances_{train,val}2014.json, the pictures in <root>/images/train2014
        and val2014 (or <root>/train2014 and val2014)
Writes  <root>/prepared/: masks/<id>.png, then {train,val}_labels.npz, {train,val}.txt and
        train_sample.txt (1,000 pictures of train, for validation while training)

Takes seconds for lists and labels, and about 10 minutes of one core for the masks. Masks that
exist are kept, so running the same command again finishes what is left. A list appears when all of
its masks are there; nothing but this preparation ever reads the annotation files.

Regions that are marked as a crowd (``iscrowd``: a heap of bananas, the people in a stadium) are
outlined coarsely. ``--crowd keep`` draws them as their class: an image label counts them too, and a
label without a region would make no sense. ``ignore`` draws them as 255, which no evaluation
judges; ``drop`` leaves them out, so that their pixels are background. Lists and labels are the same
in all three.
"""

import argparse
import json
import logging
import os
import re
import shlex
import signal
import zlib
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import numpy as np
from PIL import Image
from pycocotools import mask as rle_codes

from data.base import Dataset, check_exist
from tool.errors import InputError
from tool.files import write_atomic, write_json
from tool.picture_files import TURNS, open_picture, orientation_of
from tool.pictures import UNSURE, save_label
from tool.progress import progress
from tool.run import run

SPLITS = ("train", "val")
# Pictures in the published annotation files, and those of them that have an annotation.
PUBLISHED_PICTURES = {"train": 82783, "val": 40504}
PUBLISHED_COUNTS = {"train": 82081, "val": 40137}
CROWD = ("keep", "ignore", "drop")
SAMPLE = 1000  # pictures in train_sample
PREPARED = "prepared"

CHUNK = 1 << 22  # bytes of an annotation file that are read at once
LARGEST_ITEM = 1 << 26  # characters; an annotation takes some hundred
JOB = 32  # pictures that a process draws before it reports

log = logging.getLogger(__name__)


class COCO(Dataset):
    """The folder of MS COCO 2014: pictures, annotations, and what the preparation made of them.

    An id is a picture's file name without its ending, such as ``COCO_val2014_000000000042``. Class
    ids ascend with COCO's category ids (1..90 with gaps). Lists: ``train``, ``val``, those of
    annotated pictures, and ``train_sample``.
    """

    name = "coco"
    default_root = "../ms_coco_14&15"
    maps_dtype, maps_scale = "float16", 0.5  # full float32 maps of train are 390 GB, these 49
    class_names = (
        *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
        *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
        *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
        *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
        *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
        *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
        *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
        *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
        *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
        *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
        "toothbrush",
    )

    def __init__(self, root: str | Path | None = None) -> None:
        super().__init__(root)
        self.prepared = self.root / PREPARED
        self.pictures = {
            split: next((f for f in self._folders(split) if f.is_dir()), self._folders(split)[0])
            for split in SPLITS
        }

    def _folders(self, split: str) -> tuple[Path, Path]:
        return self.root / "images" / f"{split}2014", self.root / f"{split}2014"

    @property
    def command(self) -> str:
        """What a user types to prepare the dataset."""
        return f"python -m data.coco --dataset_root {shlex.quote(str(self.root))}"

    def ids(self, list_name: str | Path) -> list[str]:
        """Return the ids of a list; a file may also hold COCO's bare image numbers."""
        ids = super().ids(list_name)
        if not any(image_id.isdecimal() for image_id in ids):
            return ids
        names = {int(name.rsplit("_", 1)[-1]): name for name in self._rows}
        return [names.get(int(i), i) if i.isdecimal() else i for i in ids]

    def list_ids(self, list_name: str) -> list[str]:
        """Return the ids in prepared/<list_name>.txt."""
        path = self.prepared / f"{list_name}.txt"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in self.prepared.glob("*.txt")))
            if list_name in (*SPLITS, "train_sample") or not known:
                raise InputError(f"There is no {path}; MS COCO must be prepared: {self.command}")
            raise InputError(f"There is no list {path}; that folder has {known}.")
        return path.read_text().split()

    def image_path(self, image_id: str) -> Path:
        """Return <id>.jpg in the folder train2014 or val2014 that the id names."""
        return self.pictures["val" if "val2014" in image_id else "train"] / f"{image_id}.jpg"

    def mask_path(self, image_id: str) -> Path:
        """Return prepared/masks/<id>.png."""
        return self.prepared / "masks" / f"{image_id}.png"

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """Id -> uint8 (K,), for every picture of the splits that are prepared."""
        paths = [self.prepared / f"{split}_labels.npz" for split in SPLITS]
        rows: dict[str, np.ndarray] = {}
        for path in (path for path in paths if path.is_file()):
            try:
                with np.load(path, allow_pickle=False) as file:
                    rows.update(zip(file["ids"].astype(str).tolist(), file["labels"], strict=True))
            except (OSError, EOFError, ValueError, KeyError, BadZipFile, zlib.error) as error:
                raise InputError(
                    f"{path} is damaged ({error}). Delete it and prepare again: {self.command}"
                ) from error
        if not rows:
            raise InputError(f"There is no {paths[0]}; MS COCO must be prepared: {self.command}")
        return rows

    def labels(self, ids: list[str]) -> np.ndarray:
        """Return the categories of the pictures' annotations, crowds included."""
        unknown = [image_id for image_id in ids if image_id not in self._rows]
        if unknown:
            raise InputError(
                f"{len(unknown)} of {len(ids)} pictures have no label in {self.prepared}, such as "
                f"{unknown[0]}. Take them off the list; or, if pictures came in since the "
                f"preparation: {self.command}"
            )
        return np.array([self._rows[i] for i in ids], np.uint8).reshape(-1, len(self.class_names))


# ---------------------------------------------------------------- annotation files


class JSONWindow:
    """A window of text that moves over a JSON file too large to be held as Python objects.

    Text is decoded as Latin-1, so that characters count bytes; whatever JSON's structure consists
    of is ASCII.

    Args:
        path: for messages.
        file: opened for reading bytes.
    """

    decoder = json.JSONDecoder()
    white = re.compile(r"[ \t\n\r]*")

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.text, self.at, self.base = "", 0, 0  # position in the text; of the text in the file

    @property
    def position(self) -> int:
        """Bytes of the file that are behind."""
        return self.base + self.at

    def broken(self, why: object) -> InputError:
        """Return the error that says that this is not whole JSON."""
        return InputError(
            f"{self.path} is not whole JSON (near byte {self.position}: {why}). Download or unpack "
            "it again."
        )

    def _fill(self) -> bool:
        """Drop what is behind and read on; change nothing at the end of the file."""
        chunk = self.file.read(CHUNK)
        if chunk:
            self.base += self.at
            self.text = self.text[self.at :] + chunk.decode("latin-1")
            self.at = 0
        return bool(chunk)

    def peek(self) -> str:
        """Skip white space and return the character that follows, "" at the end of the file."""
        while True:
            self.at = self.white.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._fill():
                return ""

    def take(self, allowed: str) -> str:
        """Step over one of the ``allowed`` characters and return it.

        Raises:
            InputError: something else stands there.
        """
        found = self.peek()
        if not found or found not in allowed:
            raise self.broken(f"{found or 'the end'!r} where one of {allowed!r} is due")
        self.at += 1
        return found

    def value(self) -> Any:
        """Step over one JSON value and return it.

        Raises:
            InputError: there is no whole value.
        """
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                # Perhaps the rest of the value lies behind the window.
                if len(self.text) - self.at > LARGEST_ITEM or not self._fill():
                    raise self.broken(error) from error
                continue
            # A number may be cut before a digit, at most behind "e-", and yet be a number.
            if len(self.text) - end > 2 or not self._fill():
                self.at = end
                return value


class Item(NamedTuple):
    """One element of a list at the top of an annotation file."""

    kind: str  # the list's key, such as "annotations"
    value: dict[str, Any]
    start: int  # first byte in the file
    length: int  # in bytes


def read_items(path: Path, kinds: Iterable[str]) -> Iterator[Item]:
    """Yield the elements of some lists at the top of a JSON file, in the file's order.

    Needs some 20 MB, however large the file.

    Args:
        path: a file such as instances_train2014.json.
        kinds: keys of the lists; anything else is passed over.

    Raises:
        InputError: the file is missing, or is not whole JSON of that form.
    """
    if not path.is_file():
        raise InputError(f"There is no annotation file {path}.")
    with open(path, "rb") as file:
        window = JSONWindow(path, file)
        window.take("{")
        while True:
            kind = window.value()
            window.take(":")
            if kind in kinds and window.peek() == "[":
                window.take("[")
                while window.peek() != "]":
                    start = window.position
                    value = window.value()
                    if not isinstance(value, dict):
                        raise InputError(f"{path}: {value!r} in {kind} is no object.")
                    yield Item(kind, value, start, window.position - start)
                    if window.peek() != "]":
                        window.take(",")
                window.take("]")
            else:
                window.value()
            if window.take(",}") == "}":
                return


@dataclass
class Annotations:
    """What one annotation file says, without its outlines.

    N pictures with at least one annotation, in ascending order of their numbers, and M annotations.
    Those of picture n are rows first[n] up to first[n + 1], in the file's order.
    """

    path: Path
    pictures: int  # in the file, with annotation or not
    ids: list[str]  # (N,)
    sizes: np.ndarray  # int64 (N, 2), height and width
    first: np.ndarray  # int64 (N + 1,)
    objects: np.ndarray  # int64 (M, 3): class 1..80, first byte in the file, length in bytes

    def of(self, n: int) -> np.ndarray:
        """Return the rows of ``objects`` that belong to picture n."""
        return self.objects[self.first[n] : self.first[n + 1]]

    def labels(self) -> np.ndarray:
        """Return image-level labels, uint8 (N, 80) in {0, 1}."""
        labels = np.zeros((len(self.ids), len(COCO.class_names)), np.uint8)
        rows = np.repeat(np.arange(len(self.ids)), np.diff(self.first))
        labels[rows, self.objects[:, 0] - 1] = 1
        return labels


def read_annotations(path: Path, split: str) -> Annotations:
    """Read instances_<split>2014.json.

    Raises:
        InputError: the file is missing or broken, has other categories than COCO, names an unknown
            picture or category, or is the published one and has another number of annotated
            pictures.
    """
    categories: dict[int, str] = {}
    names: list[str] = []
    pictures = {key: array("q") for key in ("id", "height", "width")}
    objects = {key: array("q") for key in ("id", "image_id", "category_id", "start", "length")}
    for kind, value, start, length in read_items(path, ("categories", "images", "annotations")):
        try:
            if kind == "categories":
                categories[int(value["id"])] = value["name"]
            elif kind == "images":
                names.append(str(value["file_name"]))
                for key, column in pictures.items():
                    column.append(value[key])
            else:
                for key in ("image_id", "category_id", "id"):
                    objects[key].append(value[key])
                objects["start"].append(start)
                objects["length"].append(length)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{path}: an entry of {kind} is incomplete ({error!r}): {str(value)[:200]}"
            ) from error

    expected, found = COCO.class_names, tuple(categories[c] for c in sorted(categories))
    if found != expected:
        pairs = zip((*expected, "nothing"), (*found, "nothing"), strict=False)
        wanted, got = next(pair for pair in pairs if pair[0] != pair[1])
        raise InputError(
            f"{path} has not the 80 categories of MS COCO: {len(found)} of them, and {got!r} in "
            f"place of {wanted!r}. Is it an instances_*.json of 2014?"
        )
    image_id, height, width = (_column(column) for column in pictures.values())
    number, of_picture, category, start, length = (_column(column) for column in objects.values())
    form = re.compile(rf"COCO_{split}2014_\d+\.jpg")
    other = next((name for name in names if not form.fullmatch(name)), None)
    if other is not None:
        raise InputError(f"{path}: {other!r} is no picture of {split}2014. Is it the right file?")
    order = np.argsort(image_id)
    if len(set(names)) < len(names) or (np.diff(image_id[order]) == 0).any():
        raise InputError(f"{path} names a picture twice. Download it again.")

    place = _find(image_id[order], of_picture, number, path, "picture")
    rank = _find(np.array(sorted(categories)), category, number, path, "category")
    by_picture = np.argsort(place, kind="stable")
    counts = np.bincount(place, minlength=len(names))
    some = counts > 0
    annotated = int(some.sum())
    if len(names) == PUBLISHED_PICTURES[split] and annotated != PUBLISHED_COUNTS[split]:
        raise InputError(
            f"{path} has annotations of {annotated:,} pictures, the published file of "
            f"{PUBLISHED_COUNTS[split]:,}. Download it again."
        )
    if not annotated:
        raise InputError(f"{path} has no annotation of any picture.")
    kept = order[some]
    return Annotations(
        path,
        pictures=len(names),
        ids=[names[i].removesuffix(".jpg") for i in kept],
        sizes=np.stack([height[kept], width[kept]], axis=1),
        first=np.concatenate([[0], counts[some].cumsum()]),
        objects=np.stack([rank + 1, start, length], axis=1)[by_picture],
    )


def _column(values: array) -> np.ndarray:
    return np.frombuffer(values, np.int64) if values else np.empty(0, np.int64)


def _find(
    known: np.ndarray, wanted: np.ndarray, number: np.ndarray, path: Path, what: str
) -> np.ndarray:
    """Return where ``wanted`` lie in the ascending ``known``."""
    place = np.searchsorted(known, wanted)
    missing = ~np.isin(wanted, known)
    if missing.any():
        row = int(missing.argmax())
        raise InputError(
            f"{path}: annotation {number[row]} is of {what} {wanted[row]}, which is not in the "
            "file. Download it again."
        )
    return place


# ---------------------------------------------------------------- masks


def encode(segmentation: Any, height: int, width: int) -> dict[str, Any] | None:
    """Return an annotation's region as pycocotools' run-length code.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...] in pixels, or a dict of ``size``
            [height, width] and ``counts``, a list of run lengths or COCO's text for it.
        height, width: of the picture.

    Returns:
        {"size": [height, width], "counts": bytes}; None where there is no area, which is so for
        polygons of less than three points.

    Raises:
        ValueError: the region is of no such form or does not fit the picture.
    """
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise ValueError(f"a run-length code of size {size} for {[height, width]}")
        counts = run_lengths(counts) if isinstance(counts, str) else counts
        # pycocotools itself would read beyond its memory, or leave pixels to chance.
        if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
            raise ValueError("run lengths that are no whole numbers")
        if sum(counts) != height * width:
            raise ValueError(f"run lengths of {sum(counts)} pixels, not {height * width}")
        return rle_codes.frPyObjects({"size": size, "counts": counts}, height, width)
    if not isinstance(segmentation, list):
        raise ValueError(f"a segmentation that is a {type(segmentation).__name__}")
    polygons = []
    for polygon in segmentation:
        try:
            points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        except (TypeError, ValueError) as error:
            raise ValueError(f"a polygon that is no list of pairs ({error})") from error
        # A stray point far outside would cost gigabytes while it is drawn; NaN is refused too.
        if not (np.abs(points) <= 2 * max(height, width)).all():
            raise ValueError("a polygon that reaches far beyond the picture")
        if len(points) >= 3:
            polygons.append(points.ravel())
    if not polygons:
        return None
    return rle_codes.merge(rle_codes.frPyObjects(polygons, height, width))


def run_lengths(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed text.

    A character holds 5 bits and whether more follow; from the fourth on, numbers are differences to
    the last but one.

    Raises:
        ValueError: the text is cut off or has other characters.
    """
    counts: list[int] = []
    number = shift = 0
    for code in (ord(character) - 48 for character in text):
        if not 0 <= code < 64:
            raise ValueError("a compressed run-length code with odd characters")
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            number -= (code & 16) << (shift - 4)  # the highest bit is a sign
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("a compressed run-length code that is cut off")
    return counts


def draw_mask(
    objects: Iterable[tuple[int, dict[str, Any]]], height: int, width: int, crowd: str = "keep"
) -> np.ndarray:
    """Draw the annotations of one picture, larger areas first, so that small objects stay visible.

    Args:
        objects: (class id 1..80, annotation) each; of two equal areas the later is on top.
        height, width: of the picture in pixels.
        crowd: one of CROWD: crowds as their class, as 255, or not at all.

    Returns:
        uint8 (height, width): 0 background, class ids, and 255 in ignored crowds.

    Raises:
        InputError: a region does not fit; the message names the annotation.
    """
    regions = []
    for class_id, annotation in objects:
        is_crowd = bool(annotation.get("iscrowd"))
        if is_crowd and crowd == "drop":
            continue
        try:
            code = encode(annotation.get("segmentation"), height, width)
        except ValueError as error:
            raise InputError(f"annotation {annotation.get('id')} has {error}") from error
        if code is not None:
            value = UNSURE if is_crowd and crowd == "ignore" else class_id
            regions.append((int(rle_codes.area(code)), value, code))
    mask = np.zeros((height, width), np.uint8, order="F")  # as pycocotools' own arrays lie
    for _, value, code in sorted(regions, key=lambda region: region[0], reverse=True):
        mask[rle_codes.decode(code).view(bool)] = value
    return np.ascontiguousarray(mask)


class Drawing(NamedTuple):
    """All that a process needs to draw one mask."""

    picture: Path
    target: Path
    height: int
    width: int
    objects: np.ndarray  # see Annotations


def draw_files(drawings: list[Drawing], annotations: Path, crowd: str) -> int:
    """Write some masks, each whole or not at all; return how many.

    Raises:
        InputError: an annotation or a picture is damaged, or does not fit the other.
    """
    with open(annotations, "rb") as file:
        for drawing in drawings:
            objects = []
            for class_id, start, length in drawing.objects.tolist():
                file.seek(start)
                objects.append((class_id, json.loads(file.read(length).decode("latin-1"))))
            orientation = check_picture(drawing)
            try:
                mask = draw_mask(objects, drawing.height, drawing.width, crowd)
            except InputError as error:
                raise InputError(f"{annotations}: {error} ({drawing.target.stem}).") from error
            save_label(drawing.target, upright(mask, orientation))
    return len(drawings)


def check_picture(drawing: Drawing) -> int:
    """Compare a picture with its annotation; return its EXIF orientation, 1 where it has none.

    Raises:
        InputError: it is no picture, or its size is not the annotated one.
    """
    with open_picture(drawing.picture, decode=False) as image:
        width, height = image.size  # as stored; only the header is read
        orientation = orientation_of(image)
    if (height, width) != (drawing.height, drawing.width):
        raise InputError(
            f"{drawing.picture} is {height} x {width} (height x width), its annotation says "
            f"{drawing.height} x {drawing.width}. Replace it with the original."
        )
    return orientation


def upright(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a mask as tool.pictures.read_rgb turns a picture of that EXIF orientation."""
    turn = TURNS.get(orientation)
    return mask if turn is None else np.asarray(Image.fromarray(mask).transpose(turn))


def draw_all(drawings: list[Drawing], annotations: Path, crowd: str, num_workers: int) -> None:
    """Write masks with ``num_workers`` processes, 0 for this one, and show progress.

    Raises:
        InputError: see :func:`draw_files`; or a process was killed.
    """
    jobs = [drawings[i : i + JOB] for i in range(0, len(drawings), JOB)]
    what, total = f"masks of {annotations.stem}", len(drawings)
    if not num_workers:
        done = (draw_files(job, annotations, crowd) for job in jobs)
        for _ in progress(done, total, what, lambda count: count):
            pass
        return
    # Started afresh: a copy of this process would copy the state of its threads too.
    with ProcessPoolExecutor(num_workers, get_context("spawn"), _ignore_interrupt) as pool:
        futures = [pool.submit(draw_files, job, annotations, crowd) for job in jobs]
        try:
            for _ in progress(as_completed(futures), total, what, lambda f: f.result()):
                pass
        except BrokenExecutor as error:
            raise InputError(
                "A process that draws masks was killed, for lack of memory perhaps. The same "
                "command continues; give it fewer processes with --num_workers."
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the process that waits for this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# ---------------------------------------------------------------- preparation


def link(root: Path, target: Path) -> Path:
    """Make a root of links to the pictures and annotations of one that cannot be written.

    Raises:
        InputError: links cannot be made there.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in ("annotations", "images", *(f"{split}2014" for split in SPLITS)):
            if (root / name).exists() and not (target / name).exists():
                (target / name).symlink_to((root / name).resolve(), target_is_directory=True)
    except OSError as error:
        raise InputError(f"--link_root {target}: no links can be made there ({error}).") from error
    return target


def prepare(coco: COCO, split: str, args: argparse.Namespace) -> None:
    """Write masks, labels and list of one split, in this order.

    Raises:
        InputError: the annotations or pictures are not as they must be, or masks are there that
            other settings made.
    """
    path = coco.root / "annotations" / f"instances_{split}2014.json"
    if not path.is_file():
        raise InputError(
            f"There is no {path}. Unpack annotations_trainval2014.zip of the COCO site there, or "
            "name the splits that you have with --splits."
        )
    annotations = read_annotations(path, split)
    published = PUBLISHED_PICTURES[split]
    log.info(
        "%-5s %6d pictures (published %d), %d annotated, %d annotations",
        *(split, annotations.pictures, published, len(annotations.ids), len(annotations.objects)),
    )
    folder = coco.pictures[split]
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    rows = [n for n, image_id in enumerate(annotations.ids) if f"{image_id}.jpg" in there]
    if len(rows) < len(annotations.ids):
        if not args.allow_missing:
            check_exist(
                [coco.image_path(image_id) for image_id in annotations.ids],
                f"pictures of {split}2014",
                "Complete them, or go on without those: --allow_missing",
            )
        log.warning("%d pictures are missing and left out", len(annotations.ids) - len(rows))
    if not rows:
        raise InputError(f"None of the pictures of {split}2014 is in {folder}.")

    keep_settings(coco, split, {"crowd": args.crowd, "bytes": path.stat().st_size}, args.restart)
    ids = [annotations.ids[n] for n in rows]
    masks = coco.mask_path(ids[0]).parent
    drawn = set(os.listdir(masks)) if masks.is_dir() else set()
    drawings = [
        Drawing(
            coco.image_path(image_id),
            coco.mask_path(image_id),
            *annotations.sizes[n].tolist(),
            annotations.of(n),
        )
        for n, image_id in zip(rows, ids, strict=True)
        if f"{image_id}.png" not in drawn
    ]
    if drawings:
        draw_all(drawings, path, args.crowd, args.num_workers)
    log.info("%d masks in %s, %d of them new", len(ids), masks, len(drawings))

    labels = annotations.labels()[rows]
    write_prepared(coco, split, ids, labels)
    log.info("%-5s %6d pictures, %.2f classes a picture", split, len(ids), labels.sum(1).mean())


def write_prepared(coco: COCO, split: str, ids: list[str], labels: np.ndarray) -> None:
    """Write the labels, uint8 (N, 80), and then the list of a split; of train, its sample too."""
    write_atomic(
        coco.prepared / f"{split}_labels.npz",
        lambda file: np.savez_compressed(file, ids=np.array(ids, "S"), labels=labels),
    )
    if split == "train":
        write_list(coco.prepared / "train_sample.txt", ids[:: max(1, len(ids) // SAMPLE)][:SAMPLE])
    write_list(coco.prepared / f"{split}.txt", ids)


def keep_settings(coco: COCO, split: str, settings: dict[str, Any], restart: bool) -> None:
    """Note what decides the masks of a split, so that one folder has masks of one kind only.

    Args:
        coco: the dataset.
        split: train or val.
        settings: what decides the masks.
        restart: delete masks that other settings made.

    Raises:
        InputError: masks of other settings are there.
    """
    path = coco.prepared / f"{split}.json"
    masks = list((coco.prepared / "masks").glob(f"COCO_{split}2014_*.png"))
    if restart:
        for old in (coco.prepared / f"{split}.txt", *masks):  # without a list it looks unfinished
            old.unlink(missing_ok=True)
    elif masks and path.exists():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path} is not JSON ({error}). Prepare with --restart.") from error
        if before != settings:
            raise InputError(
                f"The masks of {split} in {coco.prepared} were drawn with {before}, not "
                f"{settings}. --restart deletes them and draws them anew."
            )
    write_json(path, settings)


def write_list(path: Path, ids: list[str]) -> None:
    """Write one id a line, atomically."""
    write_atomic(path, lambda file: file.write("".join(f"{i}\n" for i in ids).encode()))


def main(arguments: list[str] | None = None) -> None:
    """Prepare MS COCO."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_root", default=COCO.default_root, help="the folder of MS COCO")
    parser.add_argument(
        "--link_root",
        type=Path,
        help="where --dataset_root cannot be written: a folder to make, with links to what is "
        "there; it is the --dataset_root of all that follows",
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument(
        "--crowd", choices=CROWD, default=CROWD[0], help="what crowds become, see above (keep)"
    )
    parser.add_argument(
        "--allow_missing", action="store_true", help="leave out pictures that are not there"
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        default=min(8, os.cpu_count() or 1),
        help="processes that draw; 0 draws in this one",
    )
    parser.add_argument("--restart", action="store_true", help="draw all masks anew")
    args = parser.parse_args(arguments)
    if args.num_workers < 0:
        parser.error(f"--num_workers {args.num_workers} is below 0")
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    root = COCO(args.dataset_root).root
    coco = COCO(link(root, args.link_root) if args.link_root else root)
    check_writable(coco.prepared)
    for split in args.splits:
        prepare(coco, split, args)
    log.info("prepared; the programs read it with --dataset_root %s", shlex.quote(str(coco.root)))


def check_writable(folder: Path) -> None:
    """Find out before any work whether files can be written.

    Raises:
        InputError: they cannot.
    """
    try:
        write_atomic(folder / ".writable", lambda file: None)
        (folder / ".writable").unlink()
    except InputError as error:
        raise InputError(
            f"Nothing can be written to {folder} ({error}) Name a folder of your own with "
            "--link_root, and give it as --dataset_root afterwards."
        ) from error


if __name__ == "__main__":
    run(main)
