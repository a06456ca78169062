"""Step 1.2: localization maps (IS-CAM) of whole pictures, at four scales with mirror.

Reads   <session>/ckpt/final.pth, the pictures of --infer_list and their image labels
Writes  <session>/npy/<id>.npz (keys, IS_CAM and, when asked, CAM), <session>/visual/ when asked
Try     python make_cam.py --dataset voc --session_name exp
Expect  VOC trainaug: 10,582 files, 0.6 GB (20 GB with --save_layout full).

Files that exist are kept, so running the same command again finishes what is left.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import logging
import math
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.base import Dataset
from data.datasets import add_dataset_flags, open_dataset
from data.drawings import draw_missing, map_drawing, visualize, visualize_stored
from data.inference import SCALES, infer, load_classifier
from data.loaders import ScaledPictures, one_by_one, to_device
from net.resnet50_SIPE import COMPETITORS, SEED_FEATURES
from tool import checkpoint, cli, distributed
from tool.behind import Behind
from tool.maps import FORMATS, LAYOUTS, fuse, maps_path, pack, read_keys, write_maps
from tool.memory import enough_memory
from tool.outputs import Outputs, read_settings
from tool.pictures import stored_size
from tool.progress import progress, tell_reduced
from tool.run import run
from tool.session import Session

GPU_BATCH = 4  # pictures of one size in a forward pass on CUDA
SMALLER = "Lower --batch_size, --scales or --max_pixels."
WAITING = 8  # pictures whose files are being written while the network goes on

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    cli.add_network_flag(parser)
    cli.add_speed_flags(parser)
    cli.add_fold_flag(parser)
    parser.add_argument(
        "--ckpt", default="final.pth", help="a path, or a file in <session>/ckpt; released ones too"
    )
    parser.add_argument(
        "--infer_list",
        help="list name or file; None is the training list, which the later steps need whole",
    )
    parser.add_deciding(
        "--scales", type=cli.above_zero, nargs="+", default=SCALES, help="of the pictures"
    )
    parser.add_deciding(
        "--seed_feature",
        choices=SEED_FEATURES,
        default=SEED_FEATURES[0],
        help="similarities from F_h (released code) or from x4 (as in training)",
    )
    parser.add_deciding(
        "--competitors",
        choices=COMPETITORS,
        default=COMPETITORS[0],
        help="classes that compete for seeds: all (released code) or those in the label",
    )
    cli.add_max_pixels_flag(
        parser,
        "larger pictures are reduced to this many pixels first; a matter of memory, and of objects "
        "being as large as in training",
    )
    parser.add_deciding(
        "--save_format",
        choices=FORMATS,
        default=FORMATS[0],
        help="npy is the pickled dict of the published code, for tools that expect it",
    )
    parser.add_deciding(
        "--save_layout",
        choices=LAYOUTS,
        help="the maps of all scales as the network gives them, which are fused when read and take "
        "a thirtieth; or full, the fused maps; None is that of the folder, and scales of a new one",
    )
    full = {"save_layout": "full"}
    parser.add_deciding(
        "--save_dtype",
        only=full,
        choices=("float32", "float16"),
        help="of fused maps; None is float32",
    )
    parser.add_deciding(
        "--save_scale",
        only=full,
        type=cli.above_zero,
        help="side of fused maps over that of the picture, up to 1; they are resized when read; "
        "None is 1",
    )
    parser.add_argument(
        "--batch_size",
        type=cli.at_least(0),
        default=0,
        help=f"pictures of one size at once; 0 is 1 on the CPU, {GPU_BATCH} on CUDA",
    )
    parser.add_deciding(
        "--save_cam", action="store_true", help="plain CAM too, for eval_cam.py to compare"
    )
    cli.add_visualize_flag(parser, "maps over pictures in <session>/visual")
    parser.add_argument("--restart", action="store_true", help="make every file again")
    args = parser.parse_args(arguments)
    if args.save_scale is not None and args.save_scale > 1:
        parser.error(f"--save_scale {args.save_scale} is above 1")
    if args.save_format == "npy" or args.save_dtype or args.save_scale:
        if args.save_layout == "scales":
            parser.error("npy, --save_dtype and --save_scale are for --save_layout full")
        args.save_layout = "full"
    return args


def settle_layout(args: cli.Settings, folder: Path) -> None:
    """Set how maps are stored where no flag says it: as those that are there, or as scales."""
    before = {} if args.restart or args.save_layout else read_settings(folder)
    args.save_layout = args.save_layout or before.get("save_layout", LAYOUTS[0])
    args.save_dtype = args.save_dtype or before.get("save_dtype", "float32")
    args.save_scale = args.save_scale or before.get("save_scale", 1.0)


def stored(maps: list[Tensor], keys: np.ndarray, size: tuple[int, int], args) -> dict:
    """Return what :func:`tool.maps.write_maps` takes.

    Args:
        maps: of :func:`infer`, a picture's.
        keys: int64 (P,), its classes.
        size: (H, W) of the picture.
        args: the settings.
    """
    content = {"keys": keys, "size": np.array(size)}
    if args.save_layout == "scales":
        both, content["shapes"] = pack(maps)  # (2P - 1, n)
    else:
        side = tuple(max(1, round(side * args.save_scale)) for side in size)
        both = fuse(maps, side).cpu().numpy().astype(args.save_dtype)  # (2P - 1, H, W)
        if args.save_scale == 1:
            del content["size"]
    content["IS_CAM"] = both[: len(keys)]
    if args.save_cam:
        content["CAM"] = both[len(keys) :]
    return content


def batches(items: Iterable[dict], most: int) -> Iterator[list[dict]]:
    """Yield runs of at most ``most`` items whose pictures have the same size."""
    run: list[dict] = []
    for item in items:
        if run and (len(run) == most or item["size"] != run[0]["size"]):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def write(files: Behind, session: Path, dataset: Dataset, item: dict, maps, args) -> None:
    """Read the maps of a picture back, see :func:`data.inference.infer`, and write them behind.

    Args:
        files: takes the writing.
        session: the session's folder.
        dataset: for the names of drawings.
        item: of ScaledPictures, with the picture where it is to be drawn.
        maps: of every scale.
        args: the settings.
    """
    keys = np.pad(item["label"], (1, 0), constant_values=1).nonzero()[0]
    path = maps_path(session / "npy", item["id"], args.save_format)
    files.call(write_maps, path, stored(maps, keys, item["size"], args))
    if args.visualize:
        names = [dataset.all_names[key] for key in keys]
        is_cam = fuse([m[: len(keys)].float() for m in maps], item["original"].shape[:2])
        files.call(visualize, session, item["id"], item["original"], names, is_cam.cpu().numpy())


def main(arguments: list[str] | None = None) -> None:
    """Write the maps of every picture on the list."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "make_cam", args)
    settle_layout(args, session.path / "npy")
    device = cli.pick_device(args.device, args.tf32)
    dataset = open_dataset(args)
    ids = dataset.ids(args.infer_list or dataset.train_list)
    dataset.check_pictures(ids)
    labels = np.pad(dataset.labels(ids), ((0, 0), (1, 0)), constant_values=1)  # (n, C)
    keys = {image_id: label.nonzero()[0] for image_id, label in zip(ids, labels, strict=True)}

    ckpt = session.checkpoint(args.ckpt)
    content = checkpoint.load(ckpt)
    checkpoint.check_classes(content, dataset.all_names)
    net = load_classifier(
        ckpt,
        content,
        args.network,
        args.fold_bn,
        num_classes=dataset.num_classes,
        seed_feature=args.seed_feature,
        competitors=args.competitors,
    )
    cli.place(net, device, args.channels_last)

    folder = session.path / "npy"
    settings = {**cli.deciding(args), "ckpt_sha256": content.digest}
    outputs = Outputs(
        folder,
        "make_cam",
        settings,
        dataset.all_names,
        ids,
        lambda image_id: maps_path(folder, image_id, args.save_format),
    )

    def labels_changed(path: Path, image_id: str) -> bool:
        return read_keys(path) not in (None, keys[image_id].tolist())

    todo = outputs.open(args.restart, device, labels_changed)
    session.accept()
    most = args.batch_size or (1 if device.type == "cpu" else GPU_BATCH)
    if most > 1:
        todo.sort(key=lambda image_id: stored_size(dataset.image_path(image_id)))

    scales, reduced = tuple(args.scales), 0
    pictures = ScaledPictures(
        dataset, todo, scales, with_original=args.visualize, max_pixels=args.max_pixels
    )
    loader = one_by_one(pictures, args.num_workers)
    before: list[tuple[dict, list[Tensor]]] = []  # read back when a GPU has more to do
    with torch.inference_mode(), Behind(WAITING * most) as files:
        for items in progress(batches(loader, most), len(todo), "make_cam", len):
            by_scale = zip(*(item["pictures"] for item in items), strict=True)
            labels = F.pad(torch.from_numpy(np.stack([i["label"] for i in items])), (1, 0), value=1)
            scaled = to_device(map(np.stack, by_scale), device)
            names = ", ".join(item["id"] for item in items)
            with enough_memory(names, SMALLER), cli.autocast(args.amp, device):
                maps = infer(net, scaled, labels, cli.memory_format(args.channels_last))
            for item, of_scales in before:
                write(files, session.path, dataset, item, of_scales, args)
            before = list(zip(items, maps, strict=True))
            reduced += sum(math.prod(item["size"]) > args.max_pixels for item in items)
        for item, of_scales in before:
            write(files, session.path, dataset, item, of_scales, args)
    tell_reduced(reduced, args.max_pixels)
    if args.visualize:
        done = sorted(set(distributed.share(ids)).difference(todo))
        kept = [image_id for image_id in done if maps_path(folder, image_id).exists()]
        if len(kept) < len(done):
            log.warning("pickles in %s are not opened; --restart draws their maps", folder)
        draw_missing(
            kept,
            partial(maps_path, folder),
            partial(map_drawing, session.path),
            partial(visualize_stored, session.path, dataset, max_pixels=args.max_pixels),
            args.num_workers,
        )
    outputs.finish()


if __name__ == "__main__":
    run(main)
