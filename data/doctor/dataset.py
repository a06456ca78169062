"""What in a dataset would stop a step or spoil its result, and the disk that a run fills.

The checks are those that the steps call; here they are called before hours of computing, and all
their faults are found at once.
"""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.base import Dataset, warn_constant_labels
from data.doctor.finding import GIB, Check
from net.weights import IMAGENET_URLS, cached, read_pretrained
from tool import distributed
from tool.checkpoint import some
from tool.cores import cores
from tool.errors import InputError, naming
from tool.evaluate import check_class_ids
from tool.metrics import ConfusionMatrix
from tool.picture_files import MASK_FORMATS, bits_of, open_picture, orientation_of, picture_file
from tool.pictures import stored_size, voc_palette
from tool.progress import progress
from tool.reader import file_digest
from tool.samples import tiff_layout

FEW = 10  # a class with fewer pictures is called rare
SHARE = 50  # and so is one with less than the most frequent one's pictures by this
LISTED = 24  # classes that a line names
# Where not all are looked at: pictures to decode and palettes to compare, masks to read, and
# pictures to compare with each other.
DECODED, MASKS, COMPARED = 50, 3000, 5000
FAULTS = 5  # of a kind, that have a line each
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
DISAGREE = 0.5  # share of the masks whose classes are not the labels'
TAILS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB\x60\x82"}  # of whole JPEGs and PNGs
TAIL = 64  # last bytes in which they stand
MAX_PIXELS = 1_000_000  # of a picture, to which steps reduce it
CHECKPOINTS = 1.3  # GiB that the trainings of all three steps write
LABELS = 4  # label folders of a run: confident areas, pseudo labels, segmentation, one to spare
PIXELS_A_BYTE = 15  # of a label PNG


def checks_of(
    dataset: Dataset,
    lists: Iterable[str],
    judged: Iterable[str] = (),
    more: Iterable[str] = (),
    whole: bool = False,
) -> Generator[tuple[str, Check], None, list[str]]:
    """Yield the checks of lists, labels, pictures and masks; one sees what those before it found.

    Args:
        dataset: whose ``bands`` and ``value_range`` say how pictures are read.
        lists: the one to learn from, and others.
        judged: those of them that need masks; where there are none, masks are looked at as they
            come.
        more: ids of pictures that are in no list.
        whole: decode all pictures, read all masks, and compare all pictures.

    Returns:
        The ids of the list to learn from; none where it has a fault.
    """
    ids: dict[str, list[str]] = {name: [] for name in lists}
    for name in ids:
        yield "list", list_of(dataset, name, ids[name])
    learned, *_ = ids.values()
    if learned:
        yield "labels", labels(dataset, learned)
    every = list(dict.fromkeys(chain(*ids.values(), more)))
    if every:
        headers: dict[str, Header] = {}
        yield "pictures", pictures(dataset, every, whole, headers)
        needed = set(chain(*(ids[name] for name in judged)))
        headers = {i: header for i, header in headers.items() if not judged or i in needed}
        if headers:
            yield "masks", masks(dataset, headers, bool(needed), whole)
        if whole or len(every) <= COMPARED:
            yield "duplicates", duplicates(dataset, every)
    return learned


def list_of(dataset: Dataset, name: str, ids: list[str]) -> Check:
    """Look for a list and its pictures; put its ids into ``ids``."""
    found = dataset.ids(name)
    dataset.check_pictures(found)
    ids += found
    yield "ok", f"{name} has {len(ids)} pictures"


def batches(
    dataset: Dataset, name: str, sizes: Mapping[str, tuple[int, int]], processes: int
) -> Check:
    """Compare a list to learn from, and the processes, with what a step takes of it.

    Args:
        dataset: that has the list.
        name: of the list.
        sizes: by the flags of a training: pictures of a part, and parts of a step.
        processes: that share a part.
    """
    for flags, (part, parts) in sizes.items():
        dataset.training_ids(name, part * parts, flags)
        with naming(flags):
            distributed.check_share(part, processes)
    yield "ok", f"{', '.join(sizes)}: enough pictures, for every process"


def labels(dataset: Dataset, ids: list[str]) -> Check:
    """Read the image-level labels of the training list, and compare the classes."""
    positives = dataset.labels(ids)  # (n, K)
    counts = dict(zip(dataset.class_names, positives.sum(0, dtype=int).tolist(), strict=True))
    most = max(counts.values())
    rarest = [f"{name} ({count})" for name, count in sorted(counts.items(), key=lambda c: c[1])]
    yield (
        "ok",
        f"{dataset.source_names}: {len(counts)} classes, in pictures: {some(rarest, LISTED)}; "
        f"{positives.sum() / len(ids):.2f} classes a picture, {(~positives.any(1)).sum()} of "
        f"{len(ids)} pictures without a class",
    )
    rare = [name for name, count in counts.items() if count < FEW or count * SHARE < most]
    if rare:
        yield (
            "warn",
            f"these classes are rare: {some(rare, LISTED)}. A class needs at least {FEW} pictures, "
            f"and a {SHARE}th of the {most} of the most frequent one",
        )
    warn_constant_labels(positives, dataset.class_names)
    together = defaultdict(list)  # column -> the classes that have it
    for name, column in zip(dataset.class_names, positives.T, strict=True):
        together[column.tobytes()].append(name)
    for column, names in together.items():
        if len(names) > 1 and any(column):
            always = "always occur together, so they cannot be told apart"
            yield "warn", f"{' and '.join(names)} {always}"


class Header(NamedTuple):
    """What the beginning and the end of a picture say."""

    height: int  # upright
    width: int
    bits: int  # of a number
    whole: bool  # it ends as its format demands


def header_of(path: Path) -> Header:
    """Return what a picture's header says; an InputError where it is no picture."""
    with picture_file(path):
        layout = tiff_layout(path)
        if layout:
            size, turned, bits = layout.size, layout.orientation, layout.bits
        else:
            image = open_picture(path, decode=False)
            size, turned, bits = image.size, orientation_of(image), max(8, bits_of(path, image))
        with open(path, "rb") as file:
            head = file.read(4)
            file.seek(max(0, os.path.getsize(path) - TAIL))
            tail = file.read()
    whole = all(end in tail for begin, end in TAILS.items() if head.startswith(begin))
    height, width = size if turned in SIDEWAYS else size[::-1]
    return Header(height, width, bits, whole)


def pictures(dataset: Dataset, ids: list[str], whole: bool, headers: dict[str, Header]) -> Check:
    """Read the headers of all pictures, put them into ``headers`` by id, and decode some."""
    dataset.check_pictures(ids)
    headers |= yield from _look("headers", ids, lambda i: header_of(dataset.image_path(i)))
    doubtful = [i for i, header in headers.items() if not header.whole]
    decoded = list(headers) if whole else [*{*spread(list(headers), DECODED), *doubtful}]
    yield from _look("pictures", sorted(decoded), lambda i: dataset.read(i).size)
    sizes = sorted({(h.height * h.width, h.width, h.height) for h in headers.values()})
    spans = " to ".join(f"{width} x {height}" for _, width, height in sizes[:1] + sizes[-1:])
    depths = Counter(header.bits for header in headers.values()).most_common()
    bits = ", ".join(f"{depth} bits ({times})" for depth, times in depths)
    yield "ok", f"{len(ids)} there, {len(decoded)} decoded, {spans}, {bits}"
    if len(depths) > 1:
        rare = depths[-1][0]
        alike = some([i for i, header in headers.items() if header.bits == rare])
        yield "warn", f"those of {rare} bits are {alike}, and one --value_range is for all pictures"


def masks(dataset: Dataset, headers: Mapping[str, Header], needed: bool, whole: bool) -> Check:
    """Judge background by the masks of pictures, as an evaluation does, and compare the labels.

    Args:
        dataset: of the masks.
        headers: of the pictures, by id.
        needed: whether every picture has to have one.
        whole: read all masks.
    """
    paths = {i: path for i in headers if os.path.isfile(path := dataset.mask_path(i))}
    if not paths and dataset.masks_are_optional:
        yield (
            "ok",
            "none, so nothing can be evaluated; train_resnet50_SIPE.py needs --val_freq 0 then",
        )
        return
    try:
        dataset.masks(list(headers))
    except InputError as error:
        yield "FAIL" if needed else "warn", str(error)

    def judge(image_id: str) -> set[int]:
        matrix = ConfusionMatrix(dataset.num_classes)
        background = np.zeros(headers[image_id][:2], np.uint8)
        matrix.update_from(paths[image_id], background, dataset.read_mask)
        return set(matrix.counts.any(1).nonzero()[0].tolist())

    read = list(paths) if whole else spread(list(paths), MASKS)
    shown = yield from _look("masks", read, judge)
    if shown:
        classes = sorted(set.union(*shown.values()))
        text = f"{len(paths)} of {len(headers)} there, {len(read)} read, with the classes "
        yield "ok", text + some(classes, LISTED)
        yield from _palettes(dataset, spread(list(shown), DECODED))
        yield from _compare(dataset, shown)
        files = [paths[image_id] for image_id in shown]
        check_class_ids(files, dataset.num_classes, dataset.read_mask)


def _palettes(dataset: Dataset, ids: list[str]) -> Check:
    """Look for one colour under two ids: a program that sorts palettes changes the ids."""
    colours = voc_palette()[: dataset.num_classes].tolist()
    known = {tuple(colour): (number, "VOC's colours") for number, colour in enumerate(colours)}
    for path in map(dataset.mask_path, ids):
        image = open_picture(path, MASK_FORMATS)
        values = np.asarray(image)
        # Where they are not the ids, colours.csv says what the colours are.
        if image.mode != "P" or not np.array_equal(values, dataset.read_mask(path)):
            continue
        palette = np.reshape(image.getpalette("RGB"), (-1, 3)).tolist()
        numbers = np.unique(values).tolist()
        own = {number: tuple(palette[number]) for number in numbers if number < len(palette)}
        if len({*own.values()}) < len(own):
            continue  # it tells nothing apart
        for number, colour in own.items():
            other, where = known.setdefault(colour, (number, str(path)))
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
        rows = dataset.labels(list(shown))
    except InputError:
        return  # the check of the labels says so
    labelled = [{0, *(row.nonzero()[0] + 1).tolist()} for row in rows]
    pairs = zip(shown.items(), labelled, strict=True)
    differ = [image_id for (image_id, numbers), names in pairs if {0, *numbers} != names]
    text = f"{len(differ)} of {len(shown)} masks show other classes than the labels: {some(differ)}"
    if len(differ) > DISAGREE * len(shown):
        yield "FAIL", f"{text}. Compare the order of the classes"
    elif differ:
        yield "warn", text


def duplicates(dataset: Dataset, ids: list[str]) -> Check:
    """Look for pictures that are the same, byte by byte."""
    sizes = {image_id: os.path.getsize(dataset.image_path(image_id)) for image_id in ids}
    times = Counter(sizes.values())
    alike = [image_id for image_id, size in sizes.items() if times[size] > 1]
    digests = yield from _look("duplicates", alike, lambda i: file_digest(dataset.image_path(i)))
    groups = defaultdict(list)
    for image_id, digest in digests.items():
        groups[digest].append(image_id)
    twice = [" and ".join(group) for group in groups.values() if len(group) > 1]
    if twice:
        yield (
            "warn",
            f"the same picture stands there more than once: {some(twice)}. Keep one of each",
        )


def _look(
    what: str, ids: list[str], look: Callable[[str], Any]
) -> Generator[tuple[str, str], None, dict[str, Any]]:
    """Return by id what ``look`` returns, by threads; yield the first of its InputErrors."""

    def one(image_id: str) -> Any:
        try:
            return look(image_id)
        except InputError as error:
            return error

    with ThreadPoolExecutor(cores()) as threads:
        found = dict(zip(ids, progress(threads.map(one, ids), len(ids), what), strict=True))
    errors = {i: str(error) for i, error in found.items() if isinstance(error, InputError)}
    for text in list(errors.values())[:FAULTS]:
        yield "FAIL", text
    if len(errors) > FAULTS:
        yield "FAIL", f"{len(errors) - FAULTS} more cannot be used"
    return {i: value for i, value in found.items() if i not in errors}


def weights(source: str) -> Check:
    """Read the weights that step 1.1 starts from."""
    if source == "imagenet" and not cached("resnet50").is_file():
        yield "warn", f"98 MB will be fetched from {IMAGENET_URLS['resnet50']}"
    else:
        yield "ok", f"{source}, {len(read_pretrained(source) or ())} tensors"


def disk(dataset: Dataset, ids: list[str], session: str) -> Check:
    """Compare the free space with what the steps write into the session."""
    folder = Path(session).absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} cannot be written. Give another --session_name.")
    free = shutil.disk_usage(folder).free / GIB
    needs = bytes_to_write(dataset, ids) / GIB + CHECKPOINTS
    text = f"{free:.1f} GiB free, some {needs:.1f} needed by maps, labels and checkpoints"
    if free < needs:
        raise InputError(f"{text}. Make room, or give another --session_name.")
    yield "ok", text


def bytes_to_write(dataset: Dataset, ids: list[str]) -> float:
    """Return what maps at four scales and label folders of a list take, from a sample of it."""
    sample = spread(ids, DECODED)
    sizes = [stored_size(dataset.image_path(image_id)) for image_id in sample]
    pixels = np.minimum([width * height for width, height in sizes], MAX_PIXELS)
    present = dataset.labels(sample).sum(1) + 1  # with background
    maps = 7.5 * pixels / 256 * 4 * present  # float32 at stride 16; 1 + 1/4 + 9/4 + 4
    return (maps + LABELS * pixels / PIXELS_A_BYTE).mean() * len(ids)


def spread(items: list, most: int) -> list:
    """Return up to so many of some items, evenly spread."""
    return items[:: max(1, -(-len(items) // most))]
