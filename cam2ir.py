"""Step 2.1: confident areas of the localization maps, by a dense CRF.

Reads   <session>/npy/<id>.npz, the pictures of --infer_list
Writes  <session>/ir_label/<id>.png (0 background, 1..K class, 255 unsure); overlays in
        <session>/visual_ir_label when asked
Try     python cam2ir.py --dataset voc --session_name exp
Expect  VOC trainaug: half a second a picture and core.

The argmax of the maps goes through the CRF twice: as it is, which tells what surely is an object,
and with the background halved, which tells what surely is none. Files that are there, of the same
pictures and maps, are kept, so running the same command again finishes what is left.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

from typing import Any

import numpy as np

from data.datasets import make_parser
from data.picture_loop import PictureStep
from tool import cli
from tool.crf import crf_inference_label
from tool.pictures import UNSURE
from tool.run import run

BACKGROUND_SHARE = 0.5  # of the background map in the view that looks for background


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = make_parser(__doc__, "crf_iterations", "gt_prob", *cli.FROM_MAPS)
    origin = "that the maps must be of; None is what make_cam.py noted"
    parser.add_argument("--ckpt", help=f"a path, or a file in <session>/ckpt, {origin}")
    parser.add_argument("--network", help=f"module {origin}")
    return parser.parse_args(arguments)


def confident_areas(
    img: np.ndarray, is_cam: np.ndarray, keys: np.ndarray, **how: Any
) -> np.ndarray:
    """Return the label of what is sure.

    The CRF sees the largest of the maps in two views. The first looks for objects and takes the
    maps as they are; the second looks for background and halves that of background.

    Args:
        img: uint8 (H, W, 3).
        is_cam: float (P, H, W) in [0, 1].
        keys: int64 (P,), class ids of the maps, 0 first.
        how: iterations ``t``, ``gt_prob`` and ``device`` of the CRF, see
            :func:`tool.crf.crf_inference_label`.

    Returns:
        uint8 (H, W): the class where the view of objects sees one; 0 where both views see
        background; 255 elsewhere.
    """
    halved = is_cam.copy()
    halved[0] *= BACKGROUND_SHARE
    views = np.stack([is_cam.argmax(0), halved.argmax(0)])
    objects, ground = crf_inference_label(img, views, num_classes=len(keys), **how)
    sure = np.where((objects == 0) & (ground > 0), UNSURE, keys[objects])
    return sure.astype(np.uint8)


def main(arguments: cli.Words = None) -> None:
    """Write the label of every picture on the list."""
    args = parse_arguments(arguments)
    step = PictureStep(args, "cam2ir")
    step.write_labels(step.session.path / "ir_label", confident_areas)


if __name__ == "__main__":
    run(main)
