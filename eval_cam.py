"""Step 1.3: mIoU of the localization maps against ground-truth masks.

Reads   <session>/npy/<id>.npz, the masks of --eval_list
Writes  <session>/eval_cam.json and a table
Try     python eval_cam.py --dataset voc --session_name exp
Expect  VOC train (1,464 pictures): 58.9, in about a minute.

Prediction is the class of the largest IS-CAM, background included, without a threshold. Where
make_cam.py saved plain CAM too (--save_cam), it is measured at every background threshold.
"""

import logging
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from data.base import Dataset, check_exist
from tool import cli
from tool.errors import InputError
from tool.files import write_json
from tool.maps import read_maps
from tool.metrics import ConfusionMatrix, iou_table, miou_of
from tool.pictures import read_mask
from tool.progress import progress
from tool.session import Session, read_settings

THRESHOLDS = np.arange(101) / 100  # background wins where no CAM is above the threshold
CHUNK = 32  # pictures that a worker counts before it hands its matrices over

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None):
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("--gt_path", type=Path, help="folder of masks; None is the dataset's own")
    parser.add_argument("--eval_list", help="list name or file; None is the dataset's own")
    parser.add_argument(
        "--allow_pickle", action="store_true", help="read .npy dicts; only if you made them"
    )
    return parser.parse_args(arguments)


def sweep_counts(
    truth: np.ndarray, keys: np.ndarray, cam: np.ndarray, num_classes: int
) -> np.ndarray:
    """Count one picture's (true, predicted) pixels for every background threshold in one pass.

    A pixel is class argmax CAM where the largest CAM is above the threshold, else background.

    Args:
        truth: uint8 (H, W), 255 ignored.
        keys: int64 (P - 1,), class ids of the maps.
        cam: float (P - 1, H, W) in [0, 1].
        num_classes: C.

    Returns:
        int64 (101, C, C + 1), one confusion matrix a threshold.
    """
    known = truth != 255
    truth = truth[known].astype(np.int64)
    best = cam[:, known].max(0)
    winner = keys[cam[:, known].argmax(0)]
    # A pixel is foreground at the thresholds below its best value: the first `level` ones.
    level = np.searchsorted(THRESHOLDS, best, side="left")  # 0..101
    c, levels = num_classes, len(THRESHOLDS) + 1
    joint = (level * c + truth) * (c + 1) + winner
    histogram = np.bincount(joint, minlength=levels * c * (c + 1)).reshape(levels, c, c + 1)
    counts = histogram[::-1].cumsum(0)[::-1][1:]  # foreground at threshold t: level > t
    counts[:, :, 0] += np.bincount(truth, minlength=c) - counts.sum(2)
    return counts


class MapCounts(TorchDataset):
    """Confusion matrices of chunks of pictures, computed where the files are read."""

    def __init__(self, dataset: Dataset, ids: list[str], npy: Path, masks: list[Path], pickle):
        self.num_classes, self.npy, self.pickle = dataset.num_classes, npy, pickle
        files = list(zip(ids, masks, strict=True))
        self.chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray, np.ndarray | None]:
        """Return pictures, IS-CAM counts (C, C + 1), CAM counts (101, C, C + 1) if all have CAM."""
        matrix, sweep = ConfusionMatrix(self.num_classes), 0
        for image_id, mask in self.chunks[index]:
            maps = read_maps(self.npy, image_id, self.pickle)
            keys = np.asarray(maps["keys"])
            if keys.max() >= self.num_classes:
                raise InputError(
                    f"The maps of {image_id} have class {keys.max()}, but the dataset only "
                    f"{self.num_classes}. Check --dataset and --session_name."
                )
            matrix.update_from(mask, keys[maps["IS_CAM"].argmax(0)])
            if sweep is not None:
                cam = maps.get("CAM")
                args = (keys[1:], cam, self.num_classes)
                sweep = None if cam is None else sweep + sweep_counts(read_mask(mask), *args)
        return len(self.chunks[index]), matrix.counts, sweep


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write eval_cam.json."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "eval_cam", args)
    cli.pick_device(args.device)
    dataset = cli.open_dataset(args)
    eval_list = args.eval_list or dataset.eval_list
    ids = dataset.ids(eval_list)
    masks = [dataset.mask_path(image_id) for image_id in ids]
    if args.gt_path:
        masks = [args.gt_path / path.name for path in masks]
    check_exist(masks, "masks", "Complete them, or name their folder with --gt_path")

    counts = MapCounts(dataset, ids, session.path / "npy", masks, args.allow_pickle)
    loader = DataLoader(counts, batch_size=None, num_workers=args.num_workers)
    matrix, sweep = ConfusionMatrix(dataset.num_classes), 0
    for _, chunk, cam in progress(loader, len(ids), "eval_cam", lambda item: item[0]):
        matrix.counts += np.asarray(chunk)
        sweep = None if sweep is None or cam is None else sweep + np.asarray(cam)

    iou = matrix.iou()
    result = {
        "miou": float(matrix.miou()),
        "iou": {n: float(v) for n, v in zip(dataset.all_names, iou, strict=True)},
        "images": len(ids),
        "split": str(eval_list),
        "source": str(session.path / "npy"),
        "settings": read_settings(session.path / "npy"),
    }
    log.info("%s", iou_table(dataset.all_names, iou))
    if sweep is not None:
        curve = miou_of(sweep)  # (101,)
        best = int(np.nanargmax(curve))
        result["cam"] = {
            "miou": float(curve[best]),
            "threshold": float(THRESHOLDS[best]),
            "miou_by_threshold": curve.tolist(),
        }
        log.info(
            "CAM      mIoU %.2f at its best background threshold %.2f",
            *(100 * curve[best], THRESHOLDS[best]),
        )
    write_json(session.path / "eval_cam.json", result)
    log.info(
        "IS-CAM   mIoU %.2f on the %d pictures of %s", 100 * matrix.miou(), len(ids), eval_list
    )


if __name__ == "__main__":
    cli.run(main)
