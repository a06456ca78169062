"""Evaluation of predictions against masks, counted in the processes that read the files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from tool.metrics import ConfusionMatrix
from tool.progress import progress

CHUNK = 32  # pictures that a worker counts before it hands its counts over

# Of a picture's id and mask file: the label, integer (H, W), and further counts or None.
Predict = Callable[[str, Path], tuple[np.ndarray, np.ndarray | None]]


class _Counts(TorchDataset):
    """Counts of chunks of pictures."""

    def __init__(self, ids: list[str], masks: list[Path], num_classes: int, predict: Predict):
        files = list(zip(ids, masks, strict=True))
        self.num_classes, self.predict = num_classes, predict
        self.chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray, np.ndarray | None]:
        """Return pictures, counts (C, C + 1), and the sum of the further counts."""
        matrix, further = ConfusionMatrix(self.num_classes), 0
        for image_id, mask in self.chunks[index]:
            prediction, more = self.predict(image_id, mask)
            matrix.update_from(mask, prediction)
            further = None if further is None or more is None else further + more
        return len(self.chunks[index]), matrix.counts, further


def evaluate(
    name: str,
    ids: list[str],
    masks: list[Path],
    num_classes: int,
    predict: Predict,
    num_workers: int,
) -> tuple[ConfusionMatrix, np.ndarray | None]:
    """Return the confusion matrix of predictions, and the sum of what else ``predict`` counts.

    Args:
        name: of the work, for its progress.
        ids: of the pictures.
        masks: the file of each picture's ground truth.
        num_classes: with background, C.
        predict: called where the files are read; it must be picklable.
        num_workers: processes that count, 0 for this one.

    Returns:
        The matrix, and the sum; None where there was nothing to sum for some picture.
    """
    counts = _Counts(ids, masks, num_classes, predict)
    loader = DataLoader(counts, batch_size=None, num_workers=num_workers)
    matrix, further = ConfusionMatrix(num_classes), 0
    for _, chunk, more in progress(loader, len(ids), name, lambda item: item[0]):
        matrix.counts += np.asarray(chunk)
        further = None if further is None or more is None else further + np.asarray(more)
    return matrix, further


def result_of(
    matrix: ConfusionMatrix, class_names: Sequence[str], images: int, **about: Any
) -> dict[str, Any]:
    """Return what an evaluation file holds: figures as fractions, and what they are of.

    Args:
        matrix: of all pictures.
        class_names: of the C classes, background first.
        images: number of pictures.
        about: further entries, such as the list and the settings of the files that were judged.
    """
    iou = dict(zip(class_names, matrix.iou().tolist(), strict=True))
    return {"miou": matrix.miou(), "iou": iou, "images": images, **about}
