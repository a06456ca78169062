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
from pathlib import Path
from typing import Any

import numpy as np

from data.base import check_exist
from data.datasets import add_dataset_flags
from data.steps import open_session
from tool import cli
from tool.evaluate import Read, evaluate
from tool.maps import MAKE, maps_file, read_maps
from tool.metrics import ConfusionMatrix, iou_of, iou_table, miou_of
from tool.pictures import UNSURE
from tool.run import run

THRESHOLDS = np.arange(101) / 100  # background wins where no CAM is above the threshold

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    parser.add_argument("--gt_path", type=Path, help="folder of masks; None is the dataset's own")
    parser.add_argument("--eval_list", help="list name or file; None is the dataset's own")
    pickles = "read .npy dicts; only if you made them"
    parser.add_argument("--allow_pickle", action="store_true", help=pickles)
    return parser.parse_args(arguments)


def sweep_counts(
    truth: np.ndarray, keys: np.ndarray, cam: np.ndarray, num_classes: int
) -> np.ndarray:
    """Count one picture's (true, predicted) pixels for every background threshold in one pass.

    A pixel is class argmax CAM where the largest CAM is above the threshold, else background.

    Args:
        truth: uint8 (H, W), 255 ignored.
        keys: int64 (P - 1,), class ids of the maps; of a picture without class there are none.
        cam: float (P - 1, H, W) in [0, 1].
        num_classes: C.

    Returns:
        int64 (101, C, C + 1), one confusion matrix a threshold.
    """
    if not len(keys):  # a map of zeros is above no threshold, so background wins at every one
        keys, cam = np.zeros(1, np.int64), np.zeros((1, *truth.shape), np.float32)
    known = truth != UNSURE
    truth = truth[known].astype(np.int64)
    best = cam[:, known].max(0)
    winner = keys[cam[:, known].argmax(0)]
    # As the threshold rises, a pixel turns from its winner to background once: it is foreground at
    # the first ``level`` thresholds, those below its best value. One histogram by level, summed
    # from above, so gives the foreground counts at every threshold.
    level = np.searchsorted(THRESHOLDS, best, side="left")  # 0..101
    c, levels = num_classes, len(THRESHOLDS) + 1
    joint = (level * c + truth) * (c + 1) + winner
    histogram = np.bincount(joint, minlength=levels * c * (c + 1)).reshape(levels, c, c + 1)
    counts = histogram[::-1].cumsum(0)[::-1][1:]  # foreground at threshold t: level > t
    counts[:, :, 0] += np.bincount(truth, minlength=c) - counts.sum(2)
    return counts


class ArgmaxOfMaps:
    """The label of a picture from its maps, and the counts of its plain CAM where it has one.

    Args:
        folder: of the maps.
        num_classes: with background, C.
        allow_pickle: see :func:`tool.maps.read_maps`.
        read: reads a mask.
    """

    def __init__(self, folder: Path, num_classes: int, allow_pickle: bool, read: Read) -> None:
        self.folder, self.num_classes = folder, num_classes
        self.allow_pickle, self.read = allow_pickle, read

    def path_of(self, image_id: str) -> Path:
        """Return the file of a picture's maps, in whichever format it is."""
        return maps_file(self.folder, image_id, self.allow_pickle)

    def __call__(self, image_id: str, mask: Path) -> tuple[np.ndarray, np.ndarray | None]:
        """Return int64 (H, W) class ids, and int64 (101, C, C + 1) of :func:`sweep_counts`."""
        maps = read_maps(self.folder, image_id, self.allow_pickle, self.num_classes)
        keys = maps["keys"]
        label = keys[maps["IS_CAM"].argmax(0)]
        if "CAM" not in maps:
            return label, None
        matrix = ConfusionMatrix(self.num_classes)
        matrix.update_from(mask, label, self.read)  # raises where they do not fit
        return label, sweep_counts(self.read(mask), keys[1:], maps["CAM"], self.num_classes)


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


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write eval_cam.json."""
    args = parse_arguments(arguments)
    session, _, dataset = open_session(args, "eval_cam")
    about = {"dataset": args.dataset, "list": str(args.eval_list or dataset.eval_list)}
    npy = session.path / "npy"
    predict = ArgmaxOfMaps(npy, dataset.num_classes, args.allow_pickle, dataset.read_mask)
    check_exist([predict.path_of(i) for i in dataset.ids(about["list"])], "maps", MAKE)
    found = evaluate(
        "eval_cam", session.path, dataset, about, args.gt_path, predict, args.num_workers
    )
    log.info("%s", iou_table(dataset.all_names, found.matrix.iou()))
    more = {}
    if found.further is not None:
        cam = more["cam"] = best_cam(found.further, dataset.all_names)
        message = "CAM      mIoU %.2f at its best background threshold %.2f"
        log.info(message, 100 * cam["miou"], cam["threshold"])
    found.write(session.path / "eval_cam.json", **more)
    session.accept()
    message = "IS-CAM   mIoU %.2f on the %d pictures of %s"
    log.info(message, 100 * found.matrix.miou(), found.result["images"], about["list"])


if __name__ == "__main__":
    run(main)
