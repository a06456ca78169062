"""Evaluation of predictions against masks, counted in the processes that read the files."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from tool.errors import InputError
from tool.metrics import ConfusionMatrix
from tool.pictures import UNSURE, read_mask
from tool.progress import progress
from tool.reader import text_digest
from tool.record import Digests, settings_of
from tool.results import UNIT
from tool.writer import write_json, write_own, write_table

CHUNK = 32  # pictures that a worker counts before it hands its counts over
SPREAD = 16  # label pictures are looked at in steps of so many, until one holds a class

Read = Callable[[Path], np.ndarray]  # a mask as uint8 (H, W) of class ids, 255 unknown


@dataclass(frozen=True)
class Evaluation:
    """What was counted.

    Attributes:
        result: what the evaluation file holds, see :mod:`tool.results`.
        matrix: of all pictures.
        further: the sum of what else ``predict`` counted; None where some picture had nothing.
        table: id, mIoU and IoU of every picture, the header first. They are fractions, and empty
            for a class that occurs in neither mask nor label; mIoU is the mean of the others.
    """

    result: dict[str, Any]
    matrix: ConfusionMatrix
    further: np.ndarray | None
    table: list[list[str]]

    def write(self, path: Path, **more: Any) -> None:
        """Write the result with further entries as JSON, and the table beside it."""
        write_table(path.with_suffix(".csv"), self.table)
        write_json(path, self.result | more, write_own)


class _Counts(TorchDataset):
    """Counts of chunks of pictures."""

    def __init__(self, files: list[tuple[str, Path]], num_classes: int, predict, read: Read):
        self.num_classes, self.predict, self.read = num_classes, predict, read
        self.chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray, np.ndarray | None, np.ndarray]:
        """Return pictures n, counts (C, C + 1), the sum of the further counts, IoU (n, C)."""
        matrix, further, rows = ConfusionMatrix(self.num_classes), 0, []
        for image_id, mask in self.chunks[index]:
            prediction, more = self.predict(image_id, mask)
            one = ConfusionMatrix(self.num_classes)
            one.update_from(mask, prediction, self.read)
            matrix.add(one)
            rows.append(one.iou())
            further = None if further is None or more is None else further + more
        return len(rows), matrix.counts, further, np.stack(rows)


def evaluate(
    program: str,
    session: Path,
    dataset: Any,
    about: Mapping[str, Any],
    gt_path: Path | None,
    predict: Any,
    num_workers: int,
) -> Evaluation:
    """Return what is counted of the predictions of a list.

    Args:
        program: that asks.
        session: which remembers digests.
        dataset: a :class:`data.base.Dataset`.
        about: ``dataset`` and ``list``, as the flags name them.
        gt_path: folder of masks; None is the dataset's own.
        predict: returns, called with an id and the file of its mask, the label, integer (H, W), and
            further counts or None. It is called where the files are read, so it must be picklable;
            its ``path_of`` returns the file of an id's prediction in its ``folder``.
        num_workers: processes that count, 0 for this one.

    Raises:
        InputError: no mask holds a class, one does not fit, or files changed meanwhile.
    """
    ids, names = dataset.ids(about["list"]), dataset.all_names
    settings = settings_of(predict.folder, names)
    masks = dataset.masks(ids, gt_path)
    files = {"predictions": [predict.path_of(image_id) for image_id in ids], "masks": masks}
    before = _digests(session, ids, files)
    counts = _Counts(list(zip(ids, masks, strict=True)), len(names), predict, dataset.read_mask)
    loader = DataLoader(counts, batch_size=None, num_workers=num_workers)
    matrix, further, rows = ConfusionMatrix(len(names)), 0, []
    for _, chunk, more, ious in progress(loader, len(ids), program, lambda item: item[0]):
        matrix.counts += np.asarray(chunk)
        further = None if further is None or more is None else further + np.asarray(more)
        rows += np.asarray(ious).tolist()
    if not matrix.counts[1:].any():
        raise InputError(_without_classes(f"the {len(masks)} masks", masks[0], len(names)))
    if _digests(session, ids, files) != before:
        raise InputError(
            f"Files in {predict.folder} or masks changed while they were judged. Run the same "
            "command again when nothing writes them."
        )
    result = {
        "program": program,
        "unit": UNIT,
        **about,
        "images": len(ids),
        "source": str(predict.folder),
        "miou": matrix.miou(),
        "iou": dict(zip(names, matrix.iou().tolist(), strict=True)),
        "settings": settings,
        "digests": before,
        "confusion": [" ".join(map(str, row)) for row in matrix.counts.tolist()],
    }
    table = [["id", "miou", *names]]
    for image_id, row in zip(ids, rows, strict=True):
        table.append([image_id, *map(_cell, [mean_of(row), *row])])
    return Evaluation(result, matrix, further, table)


def _digests(session: Path, ids: list[str], files: dict[str, list[Path]]) -> dict[str, str]:
    digests = Digests(session)
    return {name: text_digest(*ids, *digests.of(paths)) for name, paths in files.items()}


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN where all are."""
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def check_class_ids(files: Sequence[Path], num_classes: int, read: Read = read_mask) -> None:
    """Look whether label pictures hold class ids, until one does.

    Args:
        files: looked at in an order that is spread over the list.
        num_classes: with background, C.
        read: reads one.

    Raises:
        InputError: none of them has an id in 1..C-1.
    """
    for file in (file for start in range(SPREAD) for file in files[start::SPREAD]):
        label = read(file)
        if ((label > 0) & (label < num_classes)).any():
            return
    raise InputError(_without_classes(f"the {len(files)} label pictures", files[0], num_classes))


def _without_classes(what: str, first: Path, num_classes: int) -> str:
    return (
        f"None of {what} holds a class, the first is {first}. Their values are 0 (background) and "
        f"{UNSURE}, which means not judged; write the ids of classes instead, 1 to "
        f"{num_classes - 1}."
    )
