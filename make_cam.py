"""Step 1.2: localization maps (IS-CAM) of whole pictures, at four scales with mirror.

Reads   <session>/ckpt/final.pth, the pictures of --infer_list and their image labels
Writes  <session>/npy/<id>.npz (keys, IS_CAM and, when asked, CAM), <session>/visual/ when asked
Try     python make_cam.py --dataset voc --session_name exp
Expect  VOC trainaug: 10,582 files, 20 GB in float32 (half with --save_dtype float16).

Files that exist are kept, so running the same command again finishes what is left.
"""

import importlib
import logging
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.loaders import ScaledPictures, one_by_one
from data.transforms import normalise
from net.resnet50 import backbone_width
from net.resnet50_SIPE import CAM_EPS, COMPETITORS, SEED_FEATURES
from tool import checkpoint, cli
from tool.maps import FORMATS, maps_path, write_maps
from tool.pictures import heat, overlay, save_rgb
from tool.progress import progress
from tool.session import Session, agree_on_settings

SCALES = (1.0, 0.5, 1.5, 2.0)
WAITING = 8  # pictures whose files are being written while the network goes on
# Settings that decide the maps: files in one folder must agree in all of them.
DECISIVE = (
    *("dataset", "network", "amp", "scales", "seed_feature", "competitors"),
    *("save_format", "save_dtype", "save_cam"),
)

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None):
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    cli.add_network_flags(parser)
    parser.add_argument(
        "--ckpt", default="final.pth", help="a path, or a file in <session>/ckpt; released ones too"
    )
    parser.add_argument(
        "--infer_list",
        help="list name or file; None is the training list, which the later steps need whole",
    )
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES, help="of the pictures")
    parser.add_argument(
        "--seed_feature",
        choices=SEED_FEATURES,
        default=SEED_FEATURES[0],
        help="similarities from F_h (released code) or from x4 (as in training)",
    )
    parser.add_argument(
        "--competitors",
        choices=COMPETITORS,
        default=COMPETITORS[0],
        help="classes that compete for seeds: all (released code) or those in the label",
    )
    parser.add_argument(
        "--save_format",
        choices=FORMATS,
        default=FORMATS[0],
        help="npy is the pickled dict of the published code, for tools that expect it",
    )
    parser.add_argument("--save_dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument(
        "--save_cam", action="store_true", help="plain CAM too, for eval_cam.py to compare"
    )
    cli.add_visualize_flag(parser, "maps over pictures in <session>/visual")
    parser.add_argument("--restart", action="store_true", help="make every file again")
    args = parser.parse_args(arguments)
    if min(args.scales) <= 0:
        parser.error("--scales must be above 0")
    return args


def infer(
    net: nn.Module, pictures: list[Tensor], label: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the maps of the present classes, fused over scales.

    Each scale's maps are resized bilinearly to the picture and summed; every class is divided by
    (its maximum + 1e-5).

    Args:
        net: :class:`net.resnet50_SIPE.CAM` or one like it.
        pictures: uint8 (3, h, w) a scale, on the network's device.
        label: (C,) in {0, 1}, background 1, there too.
        size: (H, W) of the picture.

    Returns:
        cam: (P - 1, H, W) in [0, 1], plain CAM of the present foreground classes.
        is_cam: (P, H, W) in [0, 1], background first.
    """
    keys = label.nonzero()[:, 0]
    cam, is_cam = 0, 0
    for picture in pictures:
        img = normalise(picture)
        one_cam, one_is_cam = net(torch.stack([img, img.flip(2)]), label[:, None, None].float())
        both = torch.cat([one_cam[keys[1:]], one_is_cam[keys]])[None]  # (1, 2P - 1, h, w)
        both = F.interpolate(both, size, mode="bilinear", align_corners=False)[0]
        cam, is_cam = cam + both[: len(keys) - 1], is_cam + both[len(keys) - 1 :]
    return tuple(maps / (maps.amax((1, 2), keepdim=True) + CAM_EPS) for maps in (cam, is_cam))


def visualize(folder: Path, image_id: str, picture: np.ndarray, names, is_cam: np.ndarray) -> None:
    """Write one heat map over the picture for each map: <id>_<class>.png."""
    for name, one in zip(names, is_cam, strict=True):
        save_rgb(folder / f"{image_id}_{name}.png", overlay(picture, heat(one)))


def main(arguments: list[str] | None = None) -> None:
    """Write the maps of every picture on the list."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "make_cam", args)
    device = cli.pick_device(args.device)
    dataset = cli.open_dataset(args)
    ids = dataset.ids(args.infer_list or dataset.train_list)
    dataset.check_pictures(ids)

    ckpt = session.checkpoint(args.ckpt)
    state = checkpoint.state_dict_of(checkpoint.load(ckpt))
    net = importlib.import_module(args.network).CAM(
        dataset.num_classes,
        pretrained=None,
        width=backbone_width(state),
        seed_feature=args.seed_feature,
        competitors=args.competitors,
    )
    checkpoint.load_weights(net, state)
    net.to(device).eval()

    folder = session.path / "npy"
    settings = {name: getattr(args, name) for name in DECISIVE}
    settings["scales"] = list(args.scales)
    settings["ckpt_sha256"] = checkpoint.digest(ckpt)
    agree_on_settings(folder, settings, args.restart)
    todo = [i for i in ids if args.restart or not maps_path(folder, i, args.save_format).exists()]
    log.info("%d pictures, %d of them done before, on %s", len(ids), len(ids) - len(todo), device)

    pictures = ScaledPictures(dataset, todo, tuple(args.scales), with_original=args.visualize)
    pending: deque[Future] = deque()
    with torch.inference_mode(), ThreadPoolExecutor(2) as writers:
        for item in progress(one_by_one(pictures, args.num_workers), len(todo), "make_cam"):
            label = F.pad(item["label"], (1, 0), value=1).to(device)  # (C,)
            scaled = [picture.to(device) for picture in item["pictures"]]
            with cli.autocast(args, device):
                cam, is_cam = infer(net, scaled, label, item["size"])
            keys = label.nonzero()[:, 0].cpu().numpy()
            maps = {"keys": keys, "IS_CAM": is_cam.cpu().numpy().astype(args.save_dtype)}
            if args.save_cam:
                maps["CAM"] = cam.cpu().numpy().astype(args.save_dtype)
            path = maps_path(folder, item["id"], args.save_format)
            pending.append(writers.submit(write_maps, path, maps))
            if args.visualize:
                names = [dataset.all_names[key] for key in keys]
                where = session.path / "visual"
                original = item["original"].numpy()
                drawing = (where, item["id"], original, names, maps["IS_CAM"])
                pending.append(writers.submit(visualize, *drawing))
            while len(pending) > WAITING:
                pending.popleft().result()
        for future in pending:
            future.result()
    log.info("%d files in %s", len(ids), folder)


if __name__ == "__main__":
    cli.run(main)
