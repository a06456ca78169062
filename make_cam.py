"""Step 1.2: localization maps (IS-CAM) of whole pictures, at four scales with mirror.

Reads   <session>/ckpt/final.pth, the pictures of --infer_list and their image labels
Writes  <session>/npy/<id>.npz (keys, IS_CAM and, when asked, CAM), <session>/visual/ when asked
Try     python make_cam.py --dataset voc --session_name exp
Expect  VOC trainaug: 10,582 files, 0.6 GB.

Files that are there, of the same pictures and labels, are kept, so running the same command again
finishes what is left.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from data.base import Dataset
from data.datasets import make_parser
from data.inference import (
    GPU_BATCH,
    SCALES,
    find_background_weight,
    infer,
    infer_fitting,
    load_classifier,
)
from data.loaders import one_by_one, scaled_picture, to_cpu, to_device
from data.picture_loop import PictureStep
from net.method import CHOICES, Method, choose
from net.resnet50_SIPE import COMPETITORS, SEED_FEATURES, Net
from tool import checkpoint, cli
from tool.errors import InputError
from tool.maps import FORMATS, write_maps
from tool.progress import progress
from tool.run import run

LOOKED_AT = 50  # pictures, for --background_weight auto

log = logging.getLogger(__name__)


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    shared = ("network", *cli.SPEED, "fold_bn", "ckpt", "max_pixels")
    parser = make_parser(__doc__, *shared, "infer_list", "visualize", "restart")
    parser.add_deciding(
        "--scales", type=cli.above_zero, nargs="+", default=list(SCALES), help="of the pictures"
    )
    fits = "only the one of --scales at which what the first one sees has the area of the picture"
    parser.add_deciding("--fit_scale", **cli.OFF, help=fits)
    parser.add_deciding(
        "--seed_feature",
        choices=SEED_FEATURES,
        help="similarities from F_h (None, released code) or from x4 (as in training)",
    )
    parser.add_deciding(
        "--competitors",
        choices=COMPETITORS,
        help="classes that compete for seeds: all (None, released code) or those in the label",
    )
    weight = "as in training (None) or another; auto: found by pictures without a class"
    parser.add_shared("background_weight", type=cli.number_or_auto, help=weight)
    parser.add_deciding(
        "--save_format",
        choices=FORMATS,
        default=FORMATS[0],
        help="npy is the published code's pickled dict of fused maps, for tools that expect it",
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
    args = parser.parse_args(arguments)
    if args.visualize and args.save_format == "npy":
        parser.error("--visualize draws npz files, and opens no pickles of --save_format npy")
    return args


def localize(
    find: Callable[..., list[list[Tensor]]],
    net: Method,
    save_cam: bool,
    amp: str,
    items: list[dict],
) -> list[tuple]:
    """Return what :func:`write` takes, of pictures of one size.

    Args:
        find: :func:`data.inference.infer`, or another that takes and returns the same.
        net: on its device, evaluating.
        save_cam: keep plain CAM too.
        amp: of :func:`tool.cli.autocast`.
        items: of :func:`data.loaders.scaled_picture`.
    """
    labels = np.stack([item["present"] for item in items])  # (B, C)
    by_scale = zip(*(item["pictures"] for item in items), strict=True)
    device = next(net.parameters()).device
    scaled = to_device(map(np.stack, by_scale), device)
    with cli.autocast(amp, device):
        of_pictures = find(net, scaled, labels)
    triples = zip(items, labels, map(to_cpu, of_pictures), strict=True)
    return [(label.nonzero()[0], maps, item["size"], save_cam) for item, label, maps in triples]


def write(path: Path, keys: np.ndarray, maps: Callable[[], list[Tensor]], *how: Any) -> None:
    """Call :func:`tool.maps.write_maps` once the maps are there, while a GPU goes on."""
    write_maps(path, keys, maps(), *how)


def found_weight(net: Method, dataset: Dataset, args: cli.Settings) -> float:
    """Return the weight of background that the training list suggests.

    The pictures with the fewest classes tell it, of which there may be none.

    Raises:
        InputError: the network is another method, or every picture shows every class.
    """
    flag = "--background_weight auto"
    if not isinstance(net, Net):
        raise InputError(f"{flag} is for SIPE, not for {args.network}. Leave the flag out.")
    ids = dataset.picture_ids(dataset.train_list)
    shown = dataset.labels(ids).sum(1)
    fewest = np.argsort(shown, kind="stable")[:LOOKED_AT]
    ids = [ids[index] for index in fewest if shown[index] < dataset.num_classes - 1]
    if not ids:
        raise InputError(f"{flag}: every picture shows every class. Give a number, such as 0.75.")
    picture_of = partial(scaled_picture, dataset, args.scales[:1], args.max_pixels)
    items = progress(one_by_one(picture_of, ids, args.num_workers), len(ids), "background")
    with cli.autocast(args.amp, next(net.parameters()).device):
        weight = find_background_weight(net, items)
    log.info("%s is %.2f, of %d pictures", flag, weight, len(ids))
    return weight


def main(arguments: cli.Words = None) -> None:
    """Write the maps of every picture on the list."""
    args = parse_arguments(arguments)
    step = PictureStep(args, "make_cam")
    ckpt, dataset = step.session.checkpoint(args.ckpt), step.dataset
    content = checkpoint.load(ckpt)
    checkpoint.check_classes(content, dataset.all_names)
    net = load_classifier(args.network, content, args.fold_bn, num_classes=dataset.num_classes)
    for name in CHOICES:  # what the network does by itself is noted, too
        setattr(args, name, choose(net, name, getattr(args, name)))
    cli.place(net, step.device, args.channels_last, args.compile)
    if args.background_weight == cli.AUTO:
        args.background_weight = net.background_weight = found_weight(net, dataset, args)
    find = partial(infer_fitting, args.scales) if args.fit_scale else infer
    name = ckpt.name if ckpt.parent == step.session.path / "ckpt" else None
    step.write(
        step.session.path / "npy",
        partial(scaled_picture, dataset, args.scales, args.max_pixels),
        partial(localize, find, net, args.save_cam, args.amp),
        {"ckpt": name, "digest": content.digest},
        write,
        f".{args.save_format}",
        args.batch_size or (1 if step.device.type == "cpu" else GPU_BATCH),
        label=[str(row.nonzero()[0].tolist()) for row in dataset.labels(step.ids)],
    )


if __name__ == "__main__":
    run(main)
