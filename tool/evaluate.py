"""Evaluation of predictions against masks, counted in the processes that read the files."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from tool.errors import InputError
from tool.files import write_atomic
from tool.metrics import ConfusionMatrix
from tool.pictures import UNSURE, read_mask
from tool.progress import progress

CHUNK = 32  # pictures that a worker counts before it hands its counts over
SPREAD = 16  # label pictures are looked at in steps of so many, until one holds a class

# Of a picture's id and mask file: the label, integer (H, W), and further counts or None.
Predict = Callable[[str, Path], tuple[np.ndarray, np.ndarray | None]]
Read = Callable[[Path], np.ndarray]  # a mask as uint8 (H, W) of class ids, 255 unknown


class _Counts(TorchDataset):
    """Counts of chunks of pictures."""

    def __init__(self, ids, masks, num_classes: int, predict: Predict, read: Read) -> None:
        files = list(zip(ids, masks, strict=True))
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
    name: str,
    ids: list[str],
    masks: list[Path],
    num_classes: int,
    predict: Predict,
    num_workers: int,
    read: Read = read_mask,
    table: Path | None = None,
    class_names: Sequence[str] = (),
) -> tuple[ConfusionMatrix, np.ndarray | None]:
    """Return the confusion matrix of predictions, and the sum of what else ``predict`` counts.

    The sum is None where there was nothing to count for some picture. Masks that do not fit, or of
    which none holds a class, raise an InputError.

    Args:
        name: of the work, for its progress.
        ids: of the pictures.
        masks: the file of each picture's ground truth.
        num_classes: with background, C.
        predict: called where the files are read; it must be picklable.
        num_workers: processes that count, 0 for this one.
        read: reads a mask; it must be picklable too.
        table: file to write of each picture's IoU, see :func:`write_table`.
        class_names: of the C classes, for the table.

    Returns:
        The matrix, and the sum; None where there was nothing to sum for some picture.

    Raises:
        InputError: no mask holds a class, or one does not fit.
    """
    counts = _Counts(ids, masks, num_classes, predict, read)
    loader = DataLoader(counts, batch_size=None, num_workers=num_workers)
    matrix, further, rows = ConfusionMatrix(num_classes), 0, []
    for _, chunk, more, ious in progress(loader, len(ids), name, lambda item: item[0]):
        matrix.counts += np.asarray(chunk)
        further = None if further is None or more is None else further + np.asarray(more)
        rows += np.asarray(ious).tolist()
    if not matrix.counts[1:].any():
        raise InputError(_without_classes(f"the {len(masks)} masks", masks[0], num_classes))
    if table:
        write_table(table, ids, class_names, rows)
    return matrix, further


def write_table(
    path: Path, ids: list[str], class_names: Sequence[str], ious: list[list[float]]
) -> None:
    """Write a CSV: id, mIoU of the classes that occur in mask or prediction, IoU of every class.

    IoUs are fractions, and empty where a class occurs in neither.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["id", "miou", *class_names])
    for image_id, row in zip(ids, ious, strict=True):
        there = [value for value in row if value == value]
        numbers = [sum(there) / len(there) if there else math.nan, *row]
        writer.writerow([image_id, *("" if v != v else f"{v:.4f}" for v in numbers)])
    write_atomic(path, lambda file: file.write(buffer.getvalue().encode()))


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


def result_of(
    matrix: ConfusionMatrix, class_names: Sequence[str], images: int, **about: Any
) -> dict[str, Any]:
    """Return what an evaluation file holds: figures as fractions, and what they are ``about``.

    The matrix is that of all ``images`` pictures, the class names those of the C classes,
    background first; further entries are, say, the list, and the settings of the files that were
    judged.
    """
    iou = dict(zip(class_names, matrix.iou().tolist(), strict=True))
    figures = {"miou": matrix.miou(), "iou": iou, "images": images, **about}
    # A row of text for each true class: counts of predicted classes, and of what is no class.
    return {**figures, "confusion": [" ".join(map(str, row)) for row in matrix.counts.tolist()]}
