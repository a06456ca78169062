"""A confusion matrix, and the IoU it gives.

The definition is that of the VOC devkit: 255 in the ground truth is ignored,
IoU_c = M_cc / (row c + column c - M_cc), mIoU = mean over classes, NaN left out.
"""

import math
from pathlib import Path

import numpy as np

from tool.pictures import UNSURE, check_label


def confusion(
    num_classes: int, truth: np.ndarray, prediction: np.ndarray, source: str | Path = "the mask"
) -> np.ndarray:
    """Count (true class, predicted class), int64 (C, C + 1), of class ids (H, W); sums add up.

    Pixels whose truth is 255 are ignored. The last column takes predictions outside 0..C-1, such as
    the 255 of an unsure label, which count as missed pixels of the true class.

    Raises:
        InputError: the shapes differ, or the truth, named by its ``source``, has ids that are no
            class.
    """
    check_label(source, truth, num_classes, prediction.shape[::-1])
    known = truth != UNSURE
    ids = truth[known].astype(np.int64)
    guesses = prediction[known].astype(np.int64)
    guesses[(guesses < 0) | (guesses >= num_classes)] = num_classes
    shape = num_classes, num_classes + 1
    joint = ids * shape[1] + guesses
    return np.bincount(joint, minlength=math.prod(shape)).reshape(shape)


def iou_of(counts: np.ndarray) -> np.ndarray:
    """Return IoU, (..., C), of counts (..., C, C + 1) as in :func:`confusion`."""
    c = counts.shape[-2]
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    union = counts.sum(-1) + counts[..., :c].sum(-2) - hits
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return hits / union


def miou_of(counts: np.ndarray) -> np.ndarray:
    """Return the mean IoU, (...), of counts (..., C, C + 1), NaN left out."""
    iou = iou_of(counts)
    with np.errstate(invalid="ignore"):
        return np.nansum(iou, -1) / (~np.isnan(iou)).sum(-1)


def iou_table(class_names: list[str], iou: np.ndarray) -> str:
    """Lay out per-class IoU, in percent, three classes a line."""
    width = max(map(len, class_names))
    cells = [
        f"{name:<{width}} {'  -  ' if np.isnan(value) else f'{100 * value:5.2f}'}"
        for name, value in zip(class_names, iou, strict=True)
    ]
    return "\n".join("  ".join(cells[i : i + 3]) for i in range(0, len(cells), 3))
