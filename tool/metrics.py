"""A confusion matrix that streams, and the IoU it gives.

The definition is that of the VOC devkit: 255 in the ground truth is ignored,
IoU_c = M_cc / (row c + column c - M_cc), mIoU = mean over classes, NaN left out.
"""

from pathlib import Path

import numpy as np

from tool.errors import InputError
from tool.pictures import UNSURE


class ConfusionMatrix:
    """Counts of (true class, predicted class) over any number of pictures.

    ``counts`` is int64 (C, C + 1): the last column takes predictions outside 0..C-1, such as the
    255 of an unsure label, which count as missed pixels of the true class.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)

    def update(
        self, truth: np.ndarray, prediction: np.ndarray, source: str | Path = "the mask"
    ) -> None:
        """Add one picture, (H, W) class ids both; where the truth is 255 it is ignored.

        An InputError that names the ``source`` of the truth says that the shapes differ, or that it
        has ids that are no class.
        """
        known = truth != UNSURE
        ids = truth[known].astype(np.int64)
        if truth.shape != prediction.shape or ids.max(initial=0) >= self.num_classes:
            raise InputError(
                f"{source} does not fit: it is {truth.shape}, with classes up to "
                f"{ids.max(initial=0)}, and the prediction {prediction.shape}, of "
                f"{self.num_classes} classes. Check it, or --dataset and --gt_path."
            )
        prediction = prediction[known].astype(np.int64)
        prediction[(prediction < 0) | (prediction >= self.num_classes)] = self.num_classes
        joint = ids * (self.num_classes + 1) + prediction
        self.counts += np.bincount(joint, minlength=self.counts.size).reshape(self.counts.shape)

    def iou(self) -> np.ndarray:
        """Return float64 (C,) IoU; NaN for a class in neither truth nor prediction."""
        return iou_of(self.counts)

    def miou(self) -> float:
        """Return the mean IoU over the classes that occur; NaN where none does."""
        return float(miou_of(self.counts))


def iou_of(counts: np.ndarray) -> np.ndarray:
    """Return IoU, (..., C), of counts (..., C, C + 1) as in :class:`ConfusionMatrix`."""
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
