"""What in a dataset would stop a step or spoil its result, and the disk that a run fills.

The checks are those that the steps call; here they are called before hours of computing, and all
their faults are found at once.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.base import Dataset, check_labels
from data.doctor.finding import GIB, Check, failing
from data.evaluate import check_class_ids
from data.lists import spread
from net.weights import IMAGENET_URLS, cached, read_pretrained
from tool.checkpoint import some
from tool.cores import cores
from tool.errors import InputError
from tool.picture_files import picture_file
from tool.pictures import UNSURE, check_label, stored, voc_palette
from tool.progress import progress
from tool.reader import file_digest

FEW = 10  # a class with fewer pictures is called rare
SHARE = 50  # and so is one with less than the most frequent one's pictures by this
LISTED = 24  # classes that a line names
# Where not all are looked at: pictures to decode and palettes to compare, masks to read, and
# pictures to compare with each other.
DECODED, MASKS, COMPARED = 50, 3000, 5000
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
DISAGREE = 0.5  # share of the masks whose classes are not the labels'
TAILS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB\x60\x82"}  # of whole JPEGs and PNGs
HEAD, TAIL = 4, 64  # first and last bytes, in which their marks stand
MAX_PIXELS = 1_000_000  # of a picture, to which steps reduce it
CHECKPOINTS = 1.3  # GiB that the trainings of all three steps write
LABELS = 4  # label folders of a run: confident areas, pseudo labels, segmentation, one to spare
PIXELS_A_BYTE = 15  # of a label PNG


def checks_of(
    dataset: Dataset, ids: dict[str, list[str]], judged: Iterable[str] = (), whole: bool = False
) -> Generator[tuple[str, Check], None, dict[str, "Header"]]:
    """Yield the checks of lists, labels, pictures and masks; one sees what those before it found.

    Return what the pictures' headers say, by id.

    Args:
        dataset: whose ``bands`` and ``value_range`` say how pictures are read.
        ids: empty, by the names of lists, first of the one to learn from; the checks fill in those
            of pictures that are there.
        judged: lists that need masks; where there are none, masks are looked at as they come.
        whole: decode all pictures, read all masks, and compare all pictures.
    """
    for name in ids:
        yield "list", list_of(dataset, name, ids[name])
    learned, *_ = ids.values()
    if learned:
        yield "labels", labels(dataset, learned)
    headers: dict[str, Header] = {}
    yield "pictures", pictures(dataset, {*chain(*ids.values())}, whole, headers)
    needed = {*chain(*(ids[name] for name in judged))}
    shown = {i: headers[i] for i in sorted(needed or headers) if i in headers}
    if shown:
        yield "masks", masks(dataset, shown, bool(needed), whole)
    if whole or len(headers) <= COMPARED:
        yield "duplicates", duplicates(dataset, headers)
    return headers


def list_of(dataset: Dataset, name: str, ids: list[str]) -> Check:
    """Look for a list and its pictures; put the ids of those that are there into ``ids``."""
    listed = dataset.ids(name)
    ids += [image_id for image_id in listed if os.path.lexists(dataset.image_path(image_id))]
    dataset.check_pictures(listed)
    yield "ok", f"{name} has {len(ids)} pictures"


def labels(dataset: Dataset, ids: list[str]) -> Check:
    """Read the image-level labels of the training list, and compare the classes."""
    positives, names = dataset.labels(ids), dataset.class_names  # (n, K)
    counts = positives.sum(0)
    rarest, most = counts.argsort(kind="stable"), counts.max()
    yield (
        "ok",
        f"{dataset.source_names}: {len(names)} classes, in pictures: "
        f"{some([f'{names[k]} ({counts[k]})' for k in rarest], LISTED)}; "
        f"{positives.sum() / len(ids):.2f} classes a picture, {(~positives.any(1)).sum()} of "
        f"{len(ids)} pictures without a class",
    )
    rare = [names[k] for k in rarest if counts[k] < max(FEW, most / SHARE)]
    if rare:
        yield (
            "warn",
            f"these classes are rare: {some(rare, LISTED)}. A class needs at least {FEW} pictures, "
            f"and a {SHARE}th of the {most} of the most frequent one",
        )
    check_labels(positives, names, dataset.source_names)
    for (one, shows), (other, column) in combinations(zip(names, positives.T, strict=True), 2):
        if shows.any() and np.array_equal(shows, column):
            yield "warn", f"{one} and {other} always occur together, so they cannot be told apart"


class Header(NamedTuple):
    """What the beginning and the end of a picture say."""

    height: int  # upright
    width: int
    bits: int  # of a number
    length: int  # bytes of the file
    whole: bool  # it ends as its format demands


def header_of(path: Path) -> Header:
    """Return what a picture's header says; an InputError where it is no picture."""
    with picture_file(path) as file:
        content = np.memmap(path, mode="r")
        head, tail = content[:HEAD].tobytes(), content[-TAIL:].tobytes()
    whole = all(end in tail for begin, end in TAILS.items() if head.startswith(begin))
    height, width = file.size if file.orientation in SIDEWAYS else file.size[::-1]
    return Header(height, width, max(8, file.bits), len(content), whole)


def pictures(
    dataset: Dataset, ids: Collection[str], whole: bool, headers: dict[str, Header]
) -> Check:
    """Read the headers of all pictures, put them into ``headers`` by id, and decode some."""
    headers |= yield from _look("headers", ids, lambda i: header_of(dataset.image_path(i)))
    decoded = {i for i, header in headers.items() if whole or not header.whole}
    decoded |= {*spread(headers, DECODED)}
    yield from _look("pictures", decoded, lambda i: dataset.read(i).size)
    sizes = sorted((h.height * h.width, f"{h.width} x {h.height}") for h in headers.values())
    if sizes:
        spans = f"{sizes[0][1]} to {sizes[-1][1]}"
        yield "ok", f"{len(ids)} there, {len(decoded)} decoded, {spans}"
    depths = {header.bits: image_id for image_id, header in headers.items()}
    if len(depths) > 1:
        examples = ", ".join(f"{bits} bits ({image_id})" for bits, image_id in depths.items())
        yield "warn", f"they have {examples}, and one --value_range is for all pictures"


def masks(dataset: Dataset, headers: Mapping[str, Header], needed: bool, whole: bool) -> Check:
    """Judge background by the masks of pictures, as an evaluation does, and compare the labels.

    Args:
        dataset: of the masks.
        headers: of the pictures, by id.
        needed: whether every picture has to have one.
        whole: read all masks.
    """
    paths = {i: path for i in headers if os.path.lexists(path := dataset.mask_path(i))}
    if not paths and dataset.masks_are_optional:
        text = "none, so nothing can be evaluated; train_resnet50_SIPE.py needs --val_freq 0 then"
        yield "ok", text
        return

    def judge(image_id: str) -> set[int]:
        mask, (height, width, *_) = dataset.read_mask(paths[image_id]), headers[image_id]
        check_label(paths[image_id], mask, dataset.num_classes, (width, height))
        return {*np.unique(mask).tolist()} - {UNSURE}

    read = list(paths) if whole else spread(paths, MASKS)
    shown = yield from _look("masks", read, judge)
    classes = some(sorted(set().union(*shown.values())), LISTED)
    text = f"{len(paths)} of {len(headers)} there, {len(read)} read, with the classes {classes}"
    yield "ok", text
    if shown:
        files = [paths[image_id] for image_id in shown]
        yield from _palettes(dataset, spread(files, DECODED))
        yield from _compare(dataset, shown)
        check_class_ids(files, dataset.num_classes, dataset.read_mask)
    if needed:
        dataset.masks(list(headers))


def _palettes(dataset: Dataset, paths: list[Path]) -> Check:
    """Look for one colour under two ids: a program that sorts palettes changes the ids."""
    colours = map(tuple, voc_palette()[: dataset.num_classes].tolist())
    known = {colour: (number, "VOC's colours") for number, colour in enumerate(colours)}
    for path in paths:
        label, image = dataset.read_mask(path), stored(path).image
        # Where the numbers are not the ids, colours.csv says what the colours are.
        if image.mode != "P" or not np.array_equal(image, label):
            continue
        for colour, number in image.palette.colors.items():
            if number not in label:
                continue
            other, where = known.setdefault(colour[:3], (number, path))
            if other != number:
                yield (
                    "warn",
                    f"{path} has the colour {colour} for the id {number}, which is {other} in "
                    f"{where}. Where a program has sorted the palette, the ids are wrong: name the "
                    "colours in colours.csv, see docs/own_pictures.md",
                )
                return


def _compare(dataset: Dataset, shown: Mapping[str, set[int]]) -> Check:
    """Compare the classes that masks show with the labels of their pictures."""
    try:
        pairs = zip(shown, dataset.labels(list(shown)), strict=True)
    except InputError:
        return  # the check of the labels says so
    differ = [i for i, row in pairs if shown[i] - {0} != {*row.nonzero()[0] + 1}]
    text = f"{len(differ)} of {len(shown)} masks show other classes than the labels: {some(differ)}"
    if len(differ) > DISAGREE * len(shown):
        yield "FAIL", f"{text}. Compare the order of the classes"
    elif differ:
        yield "warn", text


def duplicates(dataset: Dataset, headers: Mapping[str, Header]) -> Check:
    """Look for pictures that are the same, byte by byte."""
    times = Counter(header.length for header in headers.values())
    alike = [image_id for image_id, header in headers.items() if times[header.length] > 1]
    digests = yield from _look("duplicates", alike, lambda i: file_digest(dataset.image_path(i)))
    first = {digest: image_id for image_id, digest in reversed(digests.items())}
    twice = [f"{first[d]} and {i}" for i, d in digests.items() if first[d] != i]
    if twice:
        yield (
            "warn",
            f"the same picture stands there more than once: {some(twice)}. Keep one of each",
        )


def _look(
    what: str, ids: Collection[str], look: Callable[[str], Any]
) -> Generator[tuple[str, str], None, dict[str, Any]]:
    """Return by id what ``look`` returns, by threads; yield the first of its InputErrors."""
    found, faults = {}, []
    with ThreadPoolExecutor(cores()) as threads:
        looks = {image_id: threads.submit(look, image_id) for image_id in sorted(ids)}
        for image_id, result in progress(looks.items(), len(looks), what):
            try:
                found[image_id] = result.result()
            except InputError as error:
                faults.append(str(error))
    yield from failing(faults)
    return found


def weights(source: str) -> Check:
    """Read the weights that step 1.1 starts from."""
    if source == "imagenet" and not cached("resnet50").is_file():
        yield "warn", f"98 MB will be fetched from {IMAGENET_URLS['resnet50']}"
    else:
        yield "ok", f"{source}, {len(read_pretrained(source) or ())} tensors"


def disk(dataset: Dataset, headers: Mapping[str, Header], session: str) -> Check:
    """Compare the free space with what the steps write into the session."""
    path = Path(session).absolute()
    folder = next(folder for folder in (path, *path.parents) if folder.exists())
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} cannot be written. Give another --session_name.")
    free = shutil.disk_usage(folder).free / GIB
    needs = bytes_to_write(dataset, headers) / GIB + CHECKPOINTS
    text = f"{free:.1f} GiB free, some {needs:.1f} needed by maps, labels and checkpoints"
    yield "ok" if free > needs else "FAIL", f"{text}, or give another --session_name"


def bytes_to_write(dataset: Dataset, headers: Mapping[str, Header]) -> float:
    """Return what maps at four scales and label folders of some pictures take."""
    pixels = np.minimum([h.height * h.width for h in headers.values()], MAX_PIXELS)
    present = dataset.labels(list(headers)).sum(1) + 1  # with background
    maps = 7.5 * pixels / 256 * 4 * present  # float32 at stride 16; 1 + 1/4 + 9/4 + 4
    return (maps + LABELS * pixels / PIXELS_A_BYTE).sum()
