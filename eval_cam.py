"""Step 1.3: mIoU of the localization maps against ground-truth masks.

Reads   <session>/npy/<id>.npz, the masks of --eval_list
Writes  <session>/eval_cam.json, <session>/eval_cam.csv (a row a picture)
Try     python eval_cam.py --dataset voc --session_name exp
Expect  VOC train (1,464 pictures): 58.9, in about a minute.

Prediction is the class of the largest IS-CAM, background included, without a threshold. Where
make_cam.py saved plain CAM too (--save_cam), it is measured at every background threshold.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.datasets import make_parser, open_session
from data.evaluate import Count, evaluate
from tool import cli
from tool.maps import MAKE, maps_file, read_maps
from tool.metrics import iou_of, miou_of
from tool.pictures import UNSURE
from tool.run import run

THRESHOLDS = np.arange(101) / 100  # background wins where no CAM is above the threshold

log = logging.getLogger(__name__)


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = make_parser(__doc__, "gt_path", "eval_list", "allow_pickle")
    return parser.parse_args(arguments)


def sweep_counts(
    truth: np.ndarray, keys: np.ndarray, cam: np.ndarray, num_classes: int
) -> np.ndarray:
    """Count one picture's (true, predicted) pixels for every background threshold in one pass.

    A pixel is class argmax CAM where the largest CAM is above the threshold, else background.

    Args:
        truth: uint8 (H, W), 255 ignored.
        keys: int64 (P,), class ids with background.
        cam: float (P - 1, H, W) in [0, 1].
        num_classes: C.

    Returns:
        int64 (101, C, C + 1), one confusion matrix a threshold.
    """
    known = truth != UNSURE
    truth = truth[known].astype(np.int64)
    cam = np.pad(cam[:, known], ((1, 0), (0, 0)))  # a background of zeros is above no threshold
    best, winner = cam.max(0), keys[cam.argmax(0)]
    # As the threshold rises, a pixel turns from its winner to background once: it is foreground at
    # the first ``level`` thresholds, those below its best value. One histogram by level, summed
    # from above, so gives the foreground counts at every threshold.
    level = np.searchsorted(THRESHOLDS, best)  # 0..101
    histogram = np.zeros((len(THRESHOLDS) + 1, num_classes, num_classes + 1), np.int64)
    np.add.at(histogram, (level, truth, winner), 1)
    counts = histogram[::-1].cumsum(0)[::-1][1:]  # foreground at threshold t: level > t
    counts[:, :, 0] += np.bincount(truth, minlength=num_classes) - counts.sum(2)
    return counts


def argmax_of_maps(
    folder: Path, allow_pickle: bool, num_classes: int, image_id: str
) -> tuple[np.ndarray, Count | None]:
    """Return the label of a picture, int64 (H, W), and what counts its plain CAM if it has one.

    The arguments are those of :func:`tool.maps.read_maps`.
    """
    maps = read_maps(folder, image_id, allow_pickle, num_classes)
    keys, count = maps["keys"], None
    if "CAM" in maps:
        count = partial(sweep_counts, keys=keys, cam=maps["CAM"], num_classes=num_classes)
    return keys[maps["IS_CAM"].argmax(0)], count


def best_cam(sweep: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the figures of plain CAM at its best background threshold, and mIoU at every one.

    Args:
        sweep: the sum of :func:`sweep_counts` over the pictures, (101, C, C + 1).
        class_names: of the C classes.
    """
    curve = miou_of(sweep)  # (101,)
    best = int(np.nanargmax(curve))
    return {
        "miou": float(curve[best]),
        "threshold": float(THRESHOLDS[best]),
        "iou": dict(zip(class_names, iou_of(sweep[best]).tolist(), strict=True)),
        "miou_by_threshold": curve.tolist(),
    }


def main(arguments: cli.Words = None) -> None:
    """Print the table and write eval_cam.json."""
    args = parse_arguments(arguments)
    session, _, dataset = open_session(args, "eval_cam")
    npy, trusted = session.path / "npy", args.allow_pickle
    predict = partial(argmax_of_maps, npy, trusted, dataset.num_classes)
    found = evaluate(session, dataset, npy, lambda i: maps_file(npy, i, trusted), predict, MAKE)
    more = {}
    if found.further is not None:
        cam = more["cam"] = best_cam(found.further, dataset.all_names)
        message = "CAM      mIoU %.2f at its best background threshold %.2f"
        log.info(message, 100 * cam["miou"], cam["threshold"])
    found.write(session.path / "eval_cam.json", "IS-CAM", **more)


if __name__ == "__main__":
    run(main)
