"""Evaluation of predictions against masks, counted in the processes that read the files."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.base import Dataset
from data.loaders import one_by_one
from tool.errors import InputError
from tool.metrics import confusion, iou_of, iou_table, miou_of
from tool.pictures import UNSURE, read_mask
from tool.progress import progress
from tool.reader import check_exist
from tool.record import digest_of, settings_of
from tool.results import UNIT
from tool.session import Session
from tool.writer import write_json, write_own, write_table

Read = Callable[[Path], np.ndarray]  # a mask as uint8 (H, W) of class ids, 255 unknown
Count = Callable[[np.ndarray], np.ndarray]  # what else is counted of a picture, from its mask
# Of an id: the label, integer (H, W), and what counts further; None where it lacks what is counted.
Predict = Callable[[str], tuple[np.ndarray, Count | None]]

log = logging.getLogger(__name__)


class Evaluation(NamedTuple):
    """What was counted.

    Attributes:
        session: of the evaluation.
        result: what the evaluation file holds, see :mod:`tool.results`.
        counts: the confusion matrix, (C, C + 1).
        further: the sum of what else was counted; None where some picture had nothing.
        table: id, mIoU and IoU of every picture, the header first. They are fractions, and empty
            for a class that occurs in neither mask nor label; mIoU is the mean of the others.
    """

    session: Session
    result: dict[str, Any]
    counts: np.ndarray
    further: np.ndarray | None
    table: list[list[str]]

    def write(self, path: Path, name: str, **more: Any) -> None:
        """Write the result with further entries as JSON and the table beside it, and log mIoU.

        ``name`` says of what it is.
        """
        write_table(path.with_suffix(".csv"), self.table)
        write_json(path, self.result | more, write_own)
        self.session.accept()
        miou, images, where = (self.result[key] for key in ("miou", "images", "list"))
        log.info("%s   mIoU %.2f on the %d pictures of %s", name, 100 * miou, images, where)


def evaluate(
    session: Session,
    dataset: Dataset,
    folder: Path,
    path_of: Callable[[str], Path],
    predict: Predict,
    remedy: str,
) -> Evaluation:
    """Return what is counted of the predictions of ``--eval_list``, and log the IoU.

    Args:
        session: of the program, with its flags.
        dataset: of the masks.
        folder: of the predictions.
        path_of: returns the file of an id's prediction.
        predict: reads a prediction. It is called in processes, so it must be picklable.
        remedy: for missing predictions.

    Raises:
        InputError: files are missing, do not fit or change meanwhile, or no mask holds a class.
    """
    args, names = session.args, dataset.all_names
    about = {"dataset": args.dataset, "list": str(args.eval_list or dataset.eval_list)}
    truth = dataset.masks(dataset.ids(about["list"]), args.gt_path)
    files = {"predictions": [path_of(image_id) for image_id in truth], "masks": [*truth.values()]}
    check_exist(files["predictions"], "predictions", remedy)
    settings = settings_of(folder, names)

    def digests() -> dict[str, str]:
        return {kind: digest_of(session.path, paths) for kind, paths in files.items()}

    before = digests()
    count = partial(_count, predict, dataset.read_mask, len(names))
    loader = one_by_one(count, list(truth.items()), args.num_workers)
    counted = progress(loader, len(truth), session.program)
    total, further, table = 0, 0, [["id", "miou", *names]]
    for image_id, (counts, more) in zip(truth, counted, strict=True):
        total = total + counts
        further = None if further is None or more is None else further + more
        values = [f"{value:.4f}" for value in (miou_of(counts), *iou_of(counts))]
        table.append([image_id, *(value.replace("nan", "") for value in values)])
    if not total[1:].any():
        check_class_ids(files["masks"], len(names), dataset.read_mask)
    if digests() != before:
        raise InputError(
            f"Files in {folder} or masks changed while they were judged. Run the same command "
            "again when nothing writes them."
        )
    result = {
        "program": session.program,
        "unit": UNIT,
        **about,
        "images": len(truth),
        "source": str(folder),
        "miou": miou_of(total),
        "iou": dict(zip(names, iou_of(total).tolist(), strict=True)),
        "settings": settings,
        "digests": before,
        "confusion": [" ".join(map(str, row)) for row in total.tolist()],
    }
    log.info("%s", iou_table(names, iou_of(total)))
    return Evaluation(session, result, total, further, table)


def _count(
    predict: Predict, read: Read, num_classes: int, picture: tuple[str, Path]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the counts of a picture, (C, C + 1), and what else is counted."""
    image_id, path = picture
    label, further = predict(image_id)
    truth = read(path)
    return confusion(num_classes, truth, label, path), further and further(truth)


def check_class_ids(files: Sequence[Path], num_classes: int, read: Read = read_mask) -> None:
    """Look whether label pictures hold class ids, until one does.

    Args:
        files: of the pictures.
        num_classes: with background, C.
        read: reads one.

    Raises:
        InputError: none of them has an id in 1..C-1.
    """
    for file in files:
        label = read(file)
        if ((label > 0) & (label < num_classes)).any():
            return
    raise InputError(
        f"None of the {len(files)} label pictures holds a class, the first is {files[0]}. Their "
        f"values are 0 (background) and {UNSURE}, which means not judged; write the ids of classes "
        f"instead, 1 to {num_classes - 1}."
    )
