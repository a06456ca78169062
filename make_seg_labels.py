"""Step 2.3: pseudo labels, from the localization maps by IRN's random walk or by a dense CRF.

Reads   <session>/npy/<id>.npz, <session>/ckpt/irn.pth (not with --refine crf), the pictures
Writes  <session>/pseudo_label/<id>.png (every pixel 0..K); overlays in <session>/visual_<folder>
        when asked
Try     python make_seg_labels.py --dataset voc --session_name exp
Expect  VOC: the published CRF labels have mIoU 64.7 on train.

Files that exist are kept, so running the same command again finishes what is left.
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
from data.loaders import one_by_one, to_device
from data.transforms import reduce
from net.resnet50 import fold_batch_norm
from net.resnet50_irn import EdgeDisplacement
from net.weights import restore
from tool import checkpoint, cli, distributed
from tool.behind import Behind
from tool.crf import crf_inference_label
from tool.errors import naming
from tool.maps import check_maps_exist, check_size, read_maps
from tool.memory import LOWER_PIXELS, enough_memory
from tool.outputs import Outputs, settings_of
from tool.pictures import save_label
from tool.progress import progress, tell_reduced
from tool.run import run
from tool.session import Session
from tool.walk import refine_by_walk

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    irn, crf = {"refine": "irn"}, {"refine": "crf"}
    parser.add_deciding(
        "--refine", choices=("irn", "crf"), default="irn", help="crf needs neither 2.1 nor 2.2"
    )
    parser.add_argument("--irn_ckpt", default="irn.pth", help="a path, or a file in <session>/ckpt")
    parser.add_argument("--infer_list", help="list name or file; None is the training list")
    parser.add_argument(
        "--out_dir",
        "--sem_seg_out_dir",
        type=Path,
        help="folder to write; None is <session>/pseudo_label",
    )
    parser.add_deciding(
        "--beta",
        only=irn,
        type=cli.above_zero,
        default=10,
        help="higher ones stop the walk at weaker edges",
    )
    parser.add_deciding(
        "--exp_times",
        only=irn,
        type=cli.at_least(0, 24),
        default=8,
        help="the walk takes 2 to this power steps",
    )
    parser.add_deciding(
        "--irn_crop_size",
        only=irn,
        type=cli.at_least(16),
        default=512,
        help="smaller pictures are padded to it, as IRN was trained; larger ones are never cut",
    )
    cli.add_max_pixels_flag(
        parser,
        "larger pictures are refined reduced to this many pixels, and the labels enlarged by the "
        "nearest pixel; a matter of memory, and of kernels and walks as wide as in VOC's pictures",
    )
    cli.add_speed_flags(parser, only=irn)
    cli.add_fold_flag(parser)
    cli.add_crf_flags(parser, only=crf)
    parser.add_argument(
        "--allow_pickle", action="store_true", help="read .npy dicts; only if you made them"
    )
    cli.add_visualize_flag(parser, "labels over pictures in <session>/visual_<folder>")
    parser.add_argument("--restart", action="store_true", help="make every file again")
    return parser.parse_args(arguments)


class MapsAndPictures(TorchDataset):
    """Maps and picture of every id; with ``crf``, the finished label too."""

    def __init__(self, dataset: Dataset, ids: list[str], npy: Path, args, crf_device) -> None:
        self.dataset, self.ids = dataset, ids
        self.npy, self.args, self.crf_device = npy, args, crf_device
        self.num_classes = dataset.num_classes

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        """Return id and size (H, W) of the picture; and of the picture, reduced,

        ``picture``: uint8 (h, w, 3), ``keys``: (P,), and ``IS_CAM``: float32 (P, h, w); or with
        crf, ``index``: uint8 (h, w), of the largest map, and on the CPU ``label``: uint8 (h, w).
        """
        image_id, most = self.ids[index], self.args.max_pixels
        image = self.dataset.read(image_id)
        maps = read_maps(self.npy, image_id, self.args.allow_pickle, self.num_classes, most)
        is_cam, keys = maps["IS_CAM"], maps["keys"]
        img = np.array(reduce(image, most))
        check_size(image_id, is_cam, img)
        size = (image.height, image.width)
        item = {"id": image_id, "size": size, "picture": img, "keys": keys}
        if self.args.refine == "irn":
            return {**item, "IS_CAM": is_cam.astype(np.float32)}
        item["index"] = is_cam.argmax(0).astype(np.uint8)
        if self.crf_device.type == "cpu":
            item["label"] = self.by_crf(item)
        return item

    def by_crf(self, item: dict) -> np.ndarray:
        """Return the label of an item, uint8 (h, w), by the CRF."""
        if "label" in item:
            return item["label"]
        settings = (self.args.crf_iterations, len(item["keys"]), self.args.gt_prob, self.crf_device)
        path = self.dataset.image_path(item["id"])
        with enough_memory(item["id"], LOWER_PIXELS), naming(path):
            index = crf_inference_label(item["picture"], item["index"], *settings)
        return item["keys"][index].astype(np.uint8)


def walk(net: EdgeDisplacement, item: dict, args, device: torch.device) -> np.ndarray:
    """Return the label of a picture, uint8 (H, W), by the random walk on its edges."""
    picture, is_cam = to_device((item["picture"], item["IS_CAM"]), device)
    img = net.prepare(picture.permute(2, 0, 1))
    pair = torch.stack([img, img.flip(2)]).contiguous(
        memory_format=cli.memory_format(args.channels_last)
    )
    with cli.autocast(args.amp, device):
        edge = net.edge(pair)  # (1, h, w)
    settings = {"beta": args.beta, "exp_times": args.exp_times}
    index, _ = refine_by_walk(is_cam, edge, img.shape[1:], **settings)
    return item["keys"][index.cpu().numpy()].astype(np.uint8)


def main(arguments: list[str] | None = None) -> None:
    """Write the label of every picture on the list."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "make_seg_labels", args)
    device = cli.pick_device(args.device, args.tf32)
    dataset = open_dataset(args)
    ids = dataset.ids(args.infer_list or dataset.train_list)
    dataset.check_pictures(ids)

    folder = args.out_dir or session.path / "pseudo_label"
    npy = session.path / "npy"
    settings = {**cli.deciding(args), "maps": settings_of(npy, dataset.all_names)}
    check_maps_exist(npy, ids)
    if args.refine == "irn":
        ckpt = session.checkpoint(args.irn_ckpt)
        with naming(ckpt):
            net = restore(EdgeDisplacement, checkpoint.load(ckpt), crop_size=args.irn_crop_size)
        if args.fold_bn:
            fold_batch_norm(net)
        cli.place(net, device, args.channels_last)
        settings["irn_sha256"] = checkpoint.digest(ckpt)
    outputs = Outputs(
        folder, "make_seg_labels", settings, dataset.all_names, ids, lambda i: folder / f"{i}.png"
    )
    todo = outputs.open(args.restart, device)
    session.accept()

    pictures = MapsAndPictures(dataset, todo, npy, args, device)
    # On the CPU, processes compute the CRF, one a core; a GPU has work from this one alone.
    loader = one_by_one(pictures, args.num_workers)
    reduced = 0
    with torch.inference_mode(), Behind() as files:
        for item in progress(loader, len(todo), "make_seg_labels"):
            reduced += item["picture"].shape[:2] != item["size"]
            with enough_memory(item["id"], LOWER_PIXELS):
                if args.refine == "irn":
                    label = walk(net, item, args, device)
                else:
                    label = pictures.by_crf(item)
            files.call(save_label, folder / f"{item['id']}.png", label, item["size"])
    tell_reduced(reduced, args.max_pixels)
    if args.visualize:
        drawings = session.path / f"visual_{folder.name}"
        draw_labels(dataset, distributed.share(ids), folder, drawings, args.num_workers)
    outputs.finish()


if __name__ == "__main__":
    run(main)
