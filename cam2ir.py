"""Step 2.1: confident areas of the localization maps, by a dense CRF.

Reads   <session>/npy/<id>.npz, the pictures of --infer_list
Writes  <session>/ir_label/<id>.png (0 background, 1..K class, 255 unsure); overlays in
        <session>/visual_ir_label when asked
Try     python cam2ir.py --dataset voc --session_name exp
Expect  VOC trainaug: half a second a picture and core.

The argmax of the maps goes through the CRF twice: as it is, which tells what surely is an object,
and with the background halved, which tells what surely is none. Files that exist are kept, so
running the same command again finishes what is left.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import logging
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from data.base import Dataset
from data.datasets import add_dataset_flags, open_dataset
from data.drawings import draw_labels
from data.loaders import one_by_one
from data.transforms import reduce
from tool import checkpoint, cli, distributed
from tool.behind import Behind
from tool.crf import crf_inference_views
from tool.errors import InputError, naming
from tool.maps import check_maps_exist, check_size, read_maps
from tool.memory import LOWER_PIXELS, enough_memory
from tool.outputs import Outputs, settings_of
from tool.pictures import UNSURE, save_label
from tool.progress import progress, tell_reduced
from tool.run import run
from tool.session import Session

BACKGROUND_SHARE = 0.5  # of the background map in the view that looks for background

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    parser.add_argument(
        "--network", default=cli.NETWORK, help="the maps must come from this network"
    )
    parser.add_argument(
        "--ckpt", default="final.pth", help="the maps must come from this file, if it is there"
    )
    parser.add_argument("--infer_list", help="list name or file; None is the training list")
    cli.add_crf_flags(parser)
    cli.add_max_pixels_flag(
        parser,
        "the CRF sees larger pictures reduced to this many pixels, and the labels are enlarged by "
        "the nearest pixel; a matter of memory, and its kernels are as wide as in VOC's pictures",
    )
    parser.add_argument(
        "--allow_pickle", action="store_true", help="read .npy dicts; only if you made them"
    )
    cli.add_visualize_flag(parser, "labels over pictures in <session>/visual_ir_label")
    parser.add_argument("--restart", action="store_true", help="make every file again")
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


class ConfidentAreas(TorchDataset):
    """Every item is a picture and its views; on the CPU, with the finished label."""

    def __init__(self, dataset: Dataset, ids: list[str], session: Path, args, device) -> None:
        self.dataset, self.ids = dataset, ids
        self.session, self.args, self.device = session, args, device
        self.num_classes = dataset.num_classes

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        """Return id, size (H, W) of the picture, ``reduced``; and ``label``, uint8 (h, w), or

        ``picture``, uint8 (h, w, 3), ``views``, uint8 (2, h, w), ``keys``, int64 (P,).
        """
        image_id, most = self.ids[index], self.args.max_pixels
        image = self.dataset.read(image_id)
        size = (image.height, image.width)
        img = np.array(reduce(image, most))
        npy = self.session / "npy"
        maps = read_maps(npy, image_id, self.args.allow_pickle, self.num_classes, most)
        check_size(image_id, maps["IS_CAM"], img)
        item = {"picture": img, "views": views_of(maps["IS_CAM"]), "keys": maps["keys"]}
        about = {"id": image_id, "size": size, "reduced": img.shape[:2] != size}
        on_cpu = self.device.type == "cpu"
        return {**about, "label": self.label_of({**about, **item})} if on_cpu else {**about, **item}

    def label_of(self, item: dict) -> np.ndarray:
        """Return the label of an item, uint8 (h, w)."""
        if "label" in item:
            return item["label"]
        settings = (self.args.crf_iterations, self.args.gt_prob, self.device)
        path = self.dataset.image_path(item["id"])
        with enough_memory(item["id"], LOWER_PIXELS), naming(path):
            return confident_areas(item["picture"], item["views"], item["keys"], *settings)


def check_origin(session: Session, class_names: tuple[str, ...], network: str, ckpt: str) -> dict:
    """Return the settings of the maps, having checked that they come from what the flags name.

    Raises:
        InputError: they do not, or they are of other classes.
    """
    folder = session.path / "npy"
    made = settings_of(folder, class_names)
    if made.get("network", network) != network:
        raise InputError(f"The maps in {folder} come from {made['network']}, not {network}.")
    file, saved = session.checkpoint(ckpt, required=False), made.get("ckpt_sha256")
    if saved and file.is_file() and checkpoint.digest(file) != saved:
        raise InputError(
            f"The maps in {folder} were made with another file than {file}. Make them "
            "again (make_cam.py --restart), or name that file with --ckpt."
        )
    return made


def main(arguments: list[str] | None = None) -> None:
    """Write the label of every picture on the list."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "cam2ir", args)
    device = cli.pick_device(args.device)
    dataset = open_dataset(args)
    ids = dataset.ids(args.infer_list or dataset.train_list)
    dataset.check_pictures(ids)
    maps = check_origin(session, dataset.all_names, args.network, args.ckpt)
    check_maps_exist(session.path / "npy", ids)

    folder = session.path / "ir_label"
    settings = {**cli.deciding(args), "maps": maps}
    outputs = Outputs(
        folder, "cam2ir", settings, dataset.all_names, ids, lambda i: folder / f"{i}.png"
    )
    todo = outputs.open(args.restart, device)
    session.accept()
    areas = ConfidentAreas(dataset, todo, session.path, args, device)
    # On the CPU, processes compute the CRF, one a core; a GPU has work from this one alone.
    on_cpu = device.type == "cpu" and args.num_workers
    torch.set_num_threads(1 if on_cpu else torch.get_num_threads())
    reduced = 0
    with Behind() as files:
        for item in progress(one_by_one(areas, args.num_workers), len(todo), "cam2ir"):
            label = areas.label_of(item)
            files.call(save_label, folder / f"{item['id']}.png", label, item["size"])
            reduced += item["reduced"]
    tell_reduced(reduced, args.max_pixels)
    if args.visualize:
        drawings = session.path / "visual_ir_label"
        draw_labels(dataset, distributed.share(ids), folder, drawings, args.num_workers)
    outputs.finish()


if __name__ == "__main__":
    run(main)
