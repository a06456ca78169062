"""What evaluations found, and of what, and how long steps took; read in one place.

``<session>/eval_<name>.json`` agrees with SCHEMA, ``<session>/seconds.txt`` has a name and whole
seconds a line.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tool.reader import Between, Damaged, decoding, read_json, read_lines

UNIT = "fraction"
SHARE = Between(0, 1)
SCHEMA = {
    "program": {"eval_cam", "eval_seg_labels"},
    "unit": {UNIT},
    "dataset": str,  # as in --dataset
    "list": str,
    "images": int,
    "source": str,  # folder of the predictions
    "settings": dict,  # noted in that folder
    "digests": {"predictions": str, "masks": str},
    "miou": SHARE,
    "iou": dict,  # by class name; null: in neither mask nor prediction
    "confusion": [str],  # a row for each true class: counts of predictions, and of what is no class
    "cam?": {  # of plain CAM, at its best background threshold
        "miou": SHARE,
        "threshold": SHARE,
        "iou": dict,
        "miou_by_threshold": list,
    },
}
REMEDY = "Delete it, and run its evaluation again."


def read_result(path: Path) -> dict[str, Any]:
    """Return what an evaluation wrote.

    Raises:
        InputError: the file cannot be read, or differs from the schema.
    """
    result = read_json(path, REMEDY, SCHEMA)
    with decoding(path, REMEDY):
        counts_of(result)
    return result


def counts_of(result: dict[str, Any]) -> np.ndarray:
    """Return the confusion matrix of a result, int64 (C, C + 1); Damaged says that it is none."""
    counts = np.array([row.split() for row in result["confusion"]], np.int64)
    number = len(result["iou"])
    if counts.shape != (number, number + 1):
        raise Damaged("its confusion matrix does not fit its classes")
    return counts


def read_seconds(path: Path) -> dict[str, int]:
    """Return the seconds of every step of a run_*.sh, by its name."""
    seconds = {}
    with decoding(path, "Delete it, and run the steps again."):
        for line in read_lines(path):
            name, _, number = line.rpartition(" ")
            if not (name and number.isdecimal() and len(number) < 10):
                raise Damaged(f"{line[:40]!r} is no name and seconds")
            seconds[name] = int(number)
    return seconds
