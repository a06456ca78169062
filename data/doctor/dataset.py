"""Lists, labels, pictures, masks and weights of a dataset, and the disk that a run fills."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data.base import Dataset, check_exist
from data.doctor.finding import GIB, Finding
from data.reading import settle
from net.weights import IMAGENET_URLS, cached, read_pretrained
from tool import cli
from tool.errors import InputError
from tool.pictures import UNSURE, check_label, stored_size

SAMPLE = 48  # pictures, and masks, that are decoded
TAILS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND\xaeB\x60\x82"}  # of whole JPEGs and PNGs
TAIL = 64  # last bytes in which they stand
CHECKPOINTS = 1.3  # GiB that the trainings of all three steps write
LABELS = 4  # label folders of a run: confident areas, pseudo labels, segmentation, one to spare
PIXELS_A_BYTE = 15  # of a label PNG
DISAGREE = 0.5  # share of the sampled masks whose classes are not the labels'


def lists(args: cli.Settings, dataset: Dataset) -> Iterator[Finding]:
    """Look for the lists, and count their ids."""
    names = {args.train_list or dataset.train_list, args.eval_list or dataset.eval_list}
    for name in sorted({*names, dataset.test_list}):
        yield Finding("ok", "list", f"{name} has {len(dataset.ids(name))} pictures")


def labels(dataset: Dataset, ids: list[str]) -> Iterator[Finding]:
    """Read the image-level labels of the training list, and count positives."""
    positives = dataset.labels(ids).sum(0)
    names = np.array(dataset.class_names)
    mean = f"{positives.sum() / len(ids):.2f} classes a picture"
    fewest = f"fewest: {names[positives.argmin()]} in {positives.min()}"
    yield Finding("ok", "labels", f"{len(names)} classes, {mean}, {fewest}")
    if (positives == len(ids)).any():
        always = ", ".join(names[positives == len(ids)])
        yield Finding("warn", "labels", f"every picture shows {always}, which cannot be learnt so")
    if (positives == 0).any():
        yield Finding("warn", "labels", f"no picture shows {', '.join(names[positives == 0])}")


def pictures(args: cli.Settings, dataset: Dataset, ids: list[str]) -> Iterator[Finding]:
    """Look whether pictures are there and whole."""
    paths = {image_id: dataset.image_path(image_id) for image_id in ids}
    check_exist(list(paths.values()), "pictures", "Complete the set, or take them off the list")
    dataset.reading_file = None  # a range of values that is found here is not the session's
    settle(dataset, ids)
    doubtful = [image_id for image_id, path in paths.items() if not looks_whole(path)]
    decoded = ids if args.all else sorted({*spread(ids), *doubtful})
    yield from broken(
        decoded, dataset.read, "pictures", f"{len(ids)} there, {len(decoded)} decoded"
    )


def looks_whole(path: Path) -> bool:
    """Return whether a file that begins as a JPEG or PNG also ends as one."""
    with open(path, "rb") as file:
        head = file.read(4)
        file.seek(max(0, os.path.getsize(path) - TAIL))
        tail = file.read()
    return bool(head) and all(end in tail for begin, end in TAILS.items() if head.startswith(begin))


def broken(
    ids: list[str], read: Callable[[str], object], what: str, text: str
) -> Iterator[Finding]:
    """Read some files, and tell of the first one that cannot be read."""
    errors = []
    for image_id in ids:
        try:
            read(image_id)
        except InputError as error:
            errors.append(error)
    if errors:
        yield Finding("FAIL", what, f"{len(errors)} cannot be read, the first: {errors[0]}")
    else:
        yield Finding("ok", what, text)


def masks(args: cli.Settings, dataset: Dataset, ids: list[str]) -> Iterator[Finding]:
    """Look at masks, and whether their classes are those of the labels."""
    some = ids if args.all else spread(ids)
    dataset.masks(ids)
    known = dict(zip(some, dataset.labels(some), strict=True))
    differ = []

    def read(image_id: str) -> None:
        path = dataset.mask_path(image_id)
        mask = dataset.read_mask(path)
        check_label(path, mask, dataset.num_classes)
        if {*np.unique(mask)} - {0, UNSURE} != {*known[image_id].nonzero()[0] + 1}:
            differ.append(image_id)

    yield from broken(some, read, "masks", f"{len(ids)} there, {len(some)} decoded")
    if len(differ) > DISAGREE * len(some):
        text = f"{len(differ)} of {len(some)} masks hold other classes than the labels, such as "
        yield Finding("FAIL", "masks", f"{text}{differ[0]}. Compare the order of the classes")
    elif differ:
        text = f"{len(differ)} of {len(some)} masks hold other classes than the labels"
        yield Finding("warn", "masks", f"{text}, such as {differ[0]}")


def weights(args: cli.Settings, dataset: Dataset) -> Iterator[Finding]:
    """Read the weights that step 1.1 starts from."""
    source = args.pretrained or dataset.pretrained
    if source == "imagenet" and not cached("resnet50").is_file():
        yield Finding("warn", "weights", f"98 MB will be fetched from {IMAGENET_URLS['resnet50']}")
        return
    state = read_pretrained(source)
    yield Finding("ok", "weights", f"{source}, {len(state or ())} tensors")


def disk(args: cli.Settings, dataset: Dataset, ids: list[str]) -> Iterator[Finding]:
    """Compare the free space with what the steps write into the session."""
    folder = Path(args.session_name).absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        yield Finding("FAIL", "session", f"{folder} cannot be written. Give another --session_name")
        return
    free = shutil.disk_usage(folder).free / GIB
    maps, labels = (count / GIB for count in bytes_to_write(dataset, ids))
    text = f"{free:.1f} GiB free; maps take some {maps:.2f}, labels {labels:.2f}, checkpoints "
    text += f"{CHECKPOINTS:.1f}"
    if free > maps + labels + CHECKPOINTS:
        yield Finding("ok", "disk", text)
    else:
        yield Finding("FAIL", "disk", f"{text}. Make room, or give another --session_name")


def bytes_to_write(dataset: Dataset, ids: list[str]) -> tuple[float, float]:
    """Return what maps at four scales and label folders of a list take, from a sample of it."""
    some = spread(ids)
    sizes = [stored_size(dataset.image_path(image_id)) for image_id in some]
    pixels = np.minimum([width * height for width, height in sizes], 1_000_000)
    present = dataset.labels(some).sum(1) + 1  # with background
    maps = (7.5 * pixels / 256 * 4 * present).mean()  # float32 at stride 16; 1 + 1/4 + 9/4 + 4
    return maps * len(ids), LABELS * pixels.mean() / PIXELS_A_BYTE * len(ids)


def spread(items: list) -> list:
    """Return up to SAMPLE of some items, evenly spread."""
    return items[:: max(1, -(-len(items) // SAMPLE))]
