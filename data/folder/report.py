"""What is in a folder of pictures, and what of it would make a step fail."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.base import check_exist
from data.folder.dataset import Folder
from data.lists import plain, strip_ending, visible
from data.reading import settle
from tool.checkpoint import digest
from tool.cores import cores
from tool.errors import InputError
from tool.picture_files import bits_of, open_picture, orientation_of, picture_file
from tool.pictures import UNSURE
from tool.progress import progress
from tool.samples import tiff_layout

FEW = 10  # a class with fewer pictures is called rare
SHARE = 50  # and so is one with less than the most frequent one's pictures by this
DECODED = 50  # pictures that are decoded where not all are
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
TOLD = 5  # names of pictures in a line, at most
IDS_TOLD = 24  # numbers that masks hold


class Report:
    """What a check found.

    Attributes:
        table: pairs of a name and what is found of it.
        faults: sentences, of what makes a step fail.
        hints: sentences, of what makes the result worse.
    """

    def __init__(self) -> None:
        self.table: list[tuple[str, str]] = []
        self.faults: list[str] = []
        self.hints: list[str] = []

    def add(self, name: str, text: Any) -> None:
        """Add a row to the table."""
        self.table.append((name, str(text)))

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.table) + 2
        lines = [f"{name:<{width}}{text}" for name, text in self.table]
        lines += [f"hint: {text}" for text in self.hints]
        lines += [f"fault: {text}" for text in self.faults]
        end = "It can be used as it is." if not self.faults else "Mend the faults first."
        return "\n".join([*lines, f"{len(self.faults)} faults, {len(self.hints)} hints. {end}"])


class Header(NamedTuple):
    """What the header of a picture says: its size upright, and of which numbers it is."""

    height: int
    width: int
    depth: str


def check(folder: Folder, whole: bool) -> Report:
    """Look at all labels, headers of pictures, and masks, and decode some pictures.

    Args:
        folder: whose ``bands`` and ``value_range`` tell how pictures are decoded.
        whole: decode all pictures.

    Raises:
        InputError: there are no pictures.
    """
    report = Report()
    ids = list(folder.pictures)
    report.add("pictures", len(ids))
    rows = _check_labels(report, folder)
    headers = _check_pictures(report, folder, ids, whole)
    _check_masks(report, folder, ids, headers, rows)
    _check_duplicates(report, folder, ids, rows)
    return report


def _check_labels(report: Report, folder: Folder) -> dict[str, set[str]]:
    """Add lists, labels and balance of classes; return the classes of pictures by their ids."""
    names = [path.stem for path in visible(folder.root / "splits") if path.suffix == ".txt"]
    lists = {}
    for name in dict.fromkeys([folder.train_list, *names]):
        try:
            lists[name] = folder.ids(name)
            check_exist(list(map(folder.image_path, lists[name])), "pictures", f"Mend {name}")
            if name == folder.train_list:
                folder.labels(lists[name])
        except InputError as error:
            report.faults.append(str(error))
    report.add("lists", ", ".join(f"{name} ({len(ids)})" for name, ids in lists.items()) or "none")
    try:
        rows = folder.rows
    except InputError:  # which the labels of the list have told, where there is one
        return {}
    report.add("labels", folder.source_names)
    labels = folder.labels(list(rows))
    counts = labels.sum(0, dtype=int).tolist()
    rare = []
    for name, count in zip(folder.class_names, counts, strict=True):
        report.add(f"  {name}", count)
        if count < FEW or count * SHARE < max(counts):
            rare.append(f"{name} ({count})")
        if count == len(rows):
            report.hints.append(
                f"Every picture shows {name}, so nothing can be learnt of it. Add pictures "
                "without it."
            )
    if rare:
        report.hints.append(
            f"These classes are rare: {', '.join(rare)}. A class needs at least {FEW} pictures, "
            f"and a {SHARE}th of the {max(counts)} of the most frequent one."
        )
    report.add("without a class", int((labels.sum(1) == 0).sum()))
    columns = defaultdict(list)
    for name, column in zip(folder.class_names, labels.T, strict=True):
        columns[column.tobytes()].append(name)
    together = [" and ".join(n) for column, n in columns.items() if len(n) > 1 and any(column)]
    report.add("always together", ", ".join(together) or "no classes")
    for group in together:
        report.hints.append(
            f"{group} are always shown together, so they cannot be told apart. Add pictures of one "
            "alone, or make one class of them."
        )
    return rows


def _check_pictures(
    report: Report, folder: Folder, ids: list[str], whole: bool
) -> dict[str, Header]:
    """Add sizes, bit depths and unreadable pictures; return the headers that can be read."""
    found = _look("headers", ids, lambda image_id: read_header_of(folder.image_path(image_id)))
    headers = {i: header for i, header in found.items() if isinstance(header, Header)}
    unreadable = {i: error for i, error in found.items() if isinstance(error, InputError)}
    sizes = Counter((header.width, header.height) for header in headers.values())
    if sizes:
        (width, height), times = sizes.most_common(1)[0]
        small, large = (pick(sizes, key=lambda size: size[0] * size[1]) for pick in (min, max))
        report.add(
            "sizes",
            f"{small[0]} x {small[1]} to {large[0]} x {large[1]}, most often {width} x {height} "
            f"({times})",
        )
    depths = Counter(header.depth for header in headers.values())
    report.add("bit depths", ", ".join(f"{depth} ({n})" for depth, n in depths.most_common()))
    if len(depths) > 1:
        rare = depths.most_common()[-1][0]
        report.hints.append(
            f"Pictures have different depths, those of {rare} are "
            f"{_some(i for i, header in headers.items() if header.depth == rare)}. One "
            "--value_range is for all of them."
        )
    try:
        settle(folder, list(headers))
    except InputError as error:
        report.faults.append(str(error))
        return headers
    sample = list(headers)[:: 1 if whole else -(-len(headers) // DECODED) or 1]
    decoded = _look("pictures", sample, lambda image_id: folder.read(image_id) and None)
    unreadable |= {i: error for i, error in decoded.items() if error}
    report.add("unreadable", f"{len(unreadable)}, with {len(sample)} decoded wholly")
    reasons = [str(error) for error in unreadable.values()]
    report.faults += reasons[:TOLD]
    if len(reasons) > TOLD:
        report.faults.append(f"{len(reasons) - TOLD} more pictures cannot be read.")
    return headers


def read_header_of(path: Path) -> Header:
    """Return what a picture's header says.

    Raises:
        InputError: it is no picture.
    """
    with picture_file(path):
        layout = tiff_layout(path)
        if layout:
            (width, height), turned = layout.size, layout.orientation
            depth = f"{layout.bits} bits{' float' * (layout.kind == 'float')}"
            if layout.bands > layout.colours + layout.has_alpha:
                depth += f" in {layout.bands} bands"
        else:
            image = open_picture(path, decode=False)
            (width, height), turned = image.size, orientation_of(image)
            depth = f"{max(8, bits_of(path, image))} bits"
    return Header(*((width, height) if turned in SIDEWAYS else (height, width)), depth)


def _check_masks(
    report: Report,
    folder: Folder,
    ids: list[str],
    headers: dict[str, Header],
    rows: dict[str, set[str]],
) -> None:
    """Add how many masks there are, and what is wrong with them."""
    paths = {i: path for i in ids if os.path.isfile(path := folder.mask_path(i))}
    there = {plain(strip_ending(path.name)) for path in visible(folder.root / "masks")}
    strays = there - {plain(image_id) for image_id in ids}
    if strays:
        report.hints.append(f"{len(strays)} masks belong to no picture: {_some(strays)}.")

    def look(image_id: str) -> tuple[tuple[int, ...], set[int]]:
        mask = folder.read_mask(paths[image_id])
        return mask.shape, set(np.bincount(mask.ravel(), minlength=1).nonzero()[0].tolist())

    found = _look("masks", list(paths), look)
    broken = [str(error) for error in found.values() if isinstance(error, InputError)]
    report.faults += broken[:TOLD]
    if len(broken) > TOLD:
        report.faults.append(f"{len(broken) - TOLD} more masks cannot be read.")
    masks = {i: mask for i, mask in found.items() if not isinstance(mask, InputError)}
    shown = sorted({number for _, numbers in masks.values() for number in numbers})
    more = f" and {len(shown) - IDS_TOLD} more" * (len(shown) > IDS_TOLD)
    with_ids = f", with the ids {', '.join(map(str, shown[:IDS_TOLD]))}{more}" * bool(shown)
    report.add("masks", f"{len(paths)} of {len(ids)}{with_ids}")
    possible = {*range(folder.num_classes), UNSURE}
    wrong = [i for i, (_, shown) in masks.items() if shown - possible]
    if wrong:
        report.faults.append(
            f"{len(wrong)} masks have impossible ids, such as {paths[wrong[0]]} with "
            f"{min(masks[wrong[0]][1] - possible)}; 0 to {folder.num_classes - 1} and {UNSURE} are "
            "possible."
        )
    report.add("impossible ids", f"{len(wrong)} masks")
    resized = [i for i, (size, _) in masks.items() if i in headers and size != headers[i][:2]]
    if resized:
        report.faults.append(f"{len(resized)} masks have another size: {_some(resized)}.")
    if masks and not any(shown - {0, UNSURE} for _, shown in masks.values()):
        report.faults.append(
            f"No mask shows a class: their values are 0 and {UNSURE}, which means not judged. "
            f"Where {UNSURE} is a class, write a table colours.csv: name,r,g,b, then "
            f"background,0,0,0 and {folder.class_names[0]},255,255,255."
        )
        return
    numbers = {plain(name): number for number, name in enumerate(folder.class_names, 1)}
    odd = [
        i
        for i, (_, shown) in masks.items()
        if i in rows and (shown & possible) - {0, UNSURE} != {numbers[n] for n in rows[i]}
    ]
    if odd:
        report.hints.append(f"{len(odd)} masks show other classes than the labels: {_some(odd)}.")


def _check_duplicates(
    report: Report, folder: Folder, ids: list[str], rows: dict[str, set[str]]
) -> None:
    """Add how many pictures are the same, byte by byte, as another one."""
    sizes = defaultdict(list)
    for image_id in ids:
        sizes[os.path.getsize(folder.image_path(image_id))].append(image_id)
    alike = [image_id for group in sizes.values() if len(group) > 1 for image_id in group]

    groups = defaultdict(list)
    digests = _look("duplicates", alike, lambda image_id: digest(folder.image_path(image_id)))
    for image_id, name in digests.items():
        groups[name].append(image_id)
    groups = [group for group in groups.values() if len(group) > 1]
    report.add("duplicates", sum(len(group) - 1 for group in groups))
    for group in groups[:TOLD]:
        same = len({frozenset(rows.get(image_id, ())) for image_id in group}) == 1
        labels = "" if same else ", and have different labels"
        report.hints.append(f"{_some(group)} are the same picture{labels}. Keep one.")
    if len(groups) > TOLD:
        report.hints.append(f"{len(groups) - TOLD} more pictures occur more than once.")


def _look(what: str, ids: list[str], look: Callable[[str], Any]) -> dict[str, Any]:
    """Return what ``look`` returns of every id, or the InputError that it raises, by threads."""

    def one(image_id: str) -> Any:
        try:
            return look(image_id)
        except InputError as error:
            return error

    with ThreadPoolExecutor(cores()) as threads:
        results = progress(threads.map(one, ids), len(ids), what)
        return dict(zip(ids, results, strict=True))


def _some(ids: Iterable[str]) -> str:
    ids = sorted(ids)
    return ", ".join(ids[:TOLD]) + f" and {len(ids) - TOLD} more" * (len(ids) > TOLD)
