"""Step 1.2: localization maps (IS-CAM) of whole pictures, at four scales with mirror.

Reads   <session>/ckpt/final.pth, the pictures of --infer_list and their image labels
Writes  <session>/npy/<id>.npz (keys, IS_CAM and, when asked, CAM), <session>/visual/ when asked
Try     python make_cam.py --dataset voc --session_name exp
Expect  VOC trainaug: 10,582 files, 0.6 GB.

Files that are there, of the same pictures and labels, are kept, so running the same command again
finishes what is left.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

from functools import partial

import numpy as np
import torch
from torch import nn

from data.datasets import add_dataset_flags
from data.drawings import draw_maps
from data.inference import SCALES, infer, load_classifier
from data.loaders import ScaledPictures, to_device
from data.steps import open_session
from data.picture_loop import outputs_of, write_every
from net.resnet50_SIPE import COMPETITORS, SEED_FEATURES
from tool import checkpoint, cli
from tool.maps import FORMATS, write_maps
from tool.pictures import stored_size
from tool.run import run

GPU_BATCH = 4  # pictures of one size in a forward pass on CUDA
SMALLER = "Lower --batch_size, --scales or --max_pixels."


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
    cli.add_visualize_flag(parser, "maps over pictures in <session>/visual")
    parser.add_argument("--restart", action="store_true", help="make every file again")
    args = parser.parse_args(arguments)
    if args.visualize and args.save_format == "npy":
        parser.error("--visualize draws npz files, and opens no pickles of --save_format npy")
    return args


def localize(
    net: nn.Module,
    save_cam: bool,
    amp: str,
    memory_format: torch.memory_format,
    items: list[dict],
) -> list[tuple]:
    """Return what :func:`tool.maps.write_maps` takes, of pictures of one size.

    Args:
        net: on its device, evaluating.
        save_cam: keep plain CAM too.
        amp: of :func:`tool.cli.autocast`.
        memory_format: what the network takes pictures in.
        items: of :class:`data.loaders.ScaledPictures`, with labels.
    """
    labels = np.stack([item["label"] for item in items])
    labels = np.pad(labels, ((0, 0), (1, 0)), constant_values=1)  # (B, C), background first
    by_scale = zip(*(item["pictures"] for item in items), strict=True)
    device = next(net.parameters()).device
    scaled = to_device(map(np.stack, by_scale), device)
    with cli.autocast(amp, device):
        of_pictures = infer(net, scaled, torch.from_numpy(labels), memory_format)
    triples = zip(items, labels, of_pictures, strict=True)
    return [(label.nonzero()[0], maps, item["size"], save_cam) for item, label, maps in triples]


def main(arguments: list[str] | None = None) -> None:
    """Write the maps of every picture on the list."""
    args = parse_arguments(arguments)
    session, device, dataset = open_session(args, "make_cam")
    ids = dataset.ids(args.infer_list or dataset.train_list)
    dataset.check_pictures(ids)

    ckpt = session.checkpoint(args.ckpt)
    content = checkpoint.load(ckpt)
    checkpoint.check_classes(content, dataset.all_names)
    net = load_classifier(
        content,
        args.network,
        args.fold_bn,
        num_classes=dataset.num_classes,
        seed_feature=args.seed_feature,
        competitors=args.competitors,
    )
    cli.place(net, device, args.channels_last)

    name = ckpt.name if ckpt.parent == session.path / "ckpt" else None
    outputs = outputs_of(
        session.path,
        session.path / "npy",
        "make_cam",
        {**cli.deciding(args), "ckpt": name, "digest": content.digest},
        dataset,
        ids,
        f".{args.save_format}",
        label=[str(row.nonzero()[0].tolist()) for row in dataset.labels(ids)],
    )
    todo = outputs.open(args.restart, device)
    session.accept()

    most = args.batch_size or (1 if device.type == "cpu" else GPU_BATCH)
    if most > 1:
        todo.sort(key=lambda image_id: stored_size(dataset.image_path(image_id)))
    pictures = ScaledPictures(dataset, todo, tuple(args.scales), max_pixels=args.max_pixels)
    amp, memory_format = args.amp, cli.memory_format(args.channels_last)
    compute = partial(localize, net, args.save_cam, amp, memory_format)
    workers, most_pixels = args.num_workers, args.max_pixels
    write_every(outputs, pictures, compute, write_maps, workers, most_pixels, most, remedy=SMALLER)
    outputs.finish()
    if args.visualize:
        draw_maps(outputs, dataset, args.restart, args.num_workers, args.max_pixels)


if __name__ == "__main__":
    run(main)
