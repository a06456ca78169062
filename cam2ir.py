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

from functools import partial

import numpy as np
import torch

from data.datasets import add_dataset_flags
from data.drawings import draw_labels
from data.steps import open_session
from data.picture_loop import MappedPictures, made_from, outputs_of, write_every
from tool import cli
from tool.crf import crf_inference_views
from tool.pictures import UNSURE, save_label
from tool.run import run

BACKGROUND_SHARE = 0.5  # of the background map in the view that looks for background


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    cli.add_crf_flags(parser)
    cli.add_max_pixels_flag(
        parser,
        "the CRF sees larger pictures reduced to this many pixels, and the labels are enlarged by "
        "the nearest pixel; a matter of memory, and its kernels are as wide as in VOC's pictures",
    )
    cli.add_label_flags(parser, "visual_ir_label")
    return parser.parse_args(arguments)


def views_of(is_cam: np.ndarray) -> np.ndarray:
    """Return the largest of the maps in two views, uint8 (2, H, W) of places among the P maps.

    The first looks for objects and takes the maps as they are, float (P, H, W) in [0, 1] with
    background first; the second looks for background and halves that of background.
    """
    share = np.ones((len(is_cam), 1, 1), is_cam.dtype)
    share[0] = BACKGROUND_SHARE
    return np.stack([is_cam.argmax(0), (is_cam * share).argmax(0)]).astype(np.uint8)


def confident_areas(
    img: np.ndarray, views: np.ndarray, keys: np.ndarray, t: int, gt_prob: float, device
) -> np.ndarray:
    """Return the label of what is sure.

    Args:
        img: uint8 (H, W, 3).
        views: uint8 (2, H, W), of :func:`views_of`.
        keys: int64 (P,), class ids of the maps, 0 first.
        t, gt_prob, device: of the CRF, see :func:`tool.crf.crf_inference_views`.

    Returns:
        uint8 (H, W): the class where the view of objects sees one; 0 where both views see
        background; 255 elsewhere.
    """
    objects, ground = crf_inference_views(img, views, t, len(keys), gt_prob, device)
    sure = np.where((objects == 0) & (ground > 0), UNSURE, keys[objects])
    return sure.astype(np.uint8)


def label_of(
    crf_iterations: int, gt_prob: float, device: torch.device, item: dict
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return label and size of an item of MappedPictures; see :func:`confident_areas`."""
    how = (crf_iterations, gt_prob, device)
    return confident_areas(item["picture"], item["view"], item["keys"], *how), item["size"]


def main(arguments: list[str] | None = None) -> None:
    """Write the label of every picture on the list."""
    args = parse_arguments(arguments)
    session, device, dataset = open_session(args, "cam2ir")
    ids = dataset.ids(args.infer_list or dataset.train_list)
    dataset.check_pictures(ids)

    npy, folder = session.path / "npy", session.path / "ir_label"
    note, maps = made_from(session.path, dataset, ids, args.allow_pickle)
    settings = {**cli.deciding(args), "maps": note}
    outputs = outputs_of(session.path, folder, "cam2ir", settings, dataset, ids, maps=maps)
    todo = outputs.open(args.restart, device)
    session.accept()
    write_every(
        outputs,
        MappedPictures(dataset, todo, npy, args.allow_pickle, args.max_pixels, views_of),
        partial(label_of, args.crf_iterations, args.gt_prob, device),
        save_label,
        args.num_workers,
        args.max_pixels,
        # On the CPU, processes compute the CRF, one a core; a GPU has work from this one alone.
        in_processes=device.type == "cpu",
    )
    outputs.finish()
    if args.visualize:
        draw_labels(outputs, dataset, args.restart, args.num_workers)


if __name__ == "__main__":
    run(main)
