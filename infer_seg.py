"""Step 3.2: segment pictures with a network of train_seg.py or a published one.

Reads   <session>/ckpt/seg_<model>.pth (or any --ckpt) and the pictures of --infer_list; neither
        image labels nor masks
Writes  <session>/seg_<model>/<id>.png (every pixel 0..K); overlays in <session>/visual_<folder>
        and an archive for VOC's evaluation server when asked
Try     python infer_seg.py --dataset voc --session_name exp
        python infer_seg.py --dataset voc --infer_list test --out_dir exp/test --archive exp/voc.tgz
Expect  VOC: SIPE's mIoU on val is 68.8 (DeepLab v2) and 68.2 (v1), with the CRF.

A flag that is not given has the value of the network's own recipe. Files that are there, of the
same pictures, are kept, so running the same command again finishes what is left.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import argparse
import logging
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.archive import ENDINGS, write_archive
from data.base import Dataset
from data.datasets import add_dataset_flags
from data.drawings import draw_labels
from data.inference import CRF_PICTURES, enlarged_argmax, mean_logits, refine
from data.loaders import ScaledPictures
from data.steps import open_session
from data.picture_loop import outputs_of, write_every
from data.transforms import VIEWS
from net.weights import restore
from net.recipes import MODELS, TestFlags, defaults, fill_in
from tool import checkpoint, cli, distributed
from tool.errors import InputError
from tool.onnx_file import write_onnx
from tool.pictures import save_label
from tool.run import run

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program; flags not given have the values of the recipe."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    cli.add_speed_flags(parser)
    flag, decide, switch = parser.add_argument, parser.add_deciding, argparse.BooleanOptionalAction
    decide("--model", choices=sorted(MODELS), default="deeplabv2_resnet101")
    flag("--ckpt", help="a path, or a file in <session>/ckpt; None is seg_<model>.pth")
    flag("--infer_list", help="list name or file; None is val, or all of a folder without it")
    flag("--out_dir", type=Path, help="folder to write; None: <session>/seg_<model>")

    def add(name: str, help_text: str, **more) -> None:
        decide(f"--{name}", help=help_text + defaults("test", name), **more)

    number, weight, crf = {"type": cli.above_zero}, {"type": cli.number}, {"only": {"crf": True}}
    add("scales", "factors of the picture's sides; logits are averaged", nargs="+", **number)
    add("mirror", "average with the logits of the mirrored picture", action=switch)
    reduced = (
        "larger pictures are segmented reduced to this many pixels, and the probabilities "
        "enlarged; a matter of memory, and of objects being as large as in training"
    )
    cli.add_max_pixels_flag(parser, reduced)
    instead = "refine by a dense CRF, in place of which --no-crf takes the largest logit"
    decide("--crf", action=switch, default=True, help=instead)
    add("crf_iterations", "of the mean field", type=cli.at_least(0), **crf)
    add("gaussian_sxy", "deviation of the kernel over position, pixels", **number, **crf)
    add("gaussian_weight", "of that kernel", **weight, **crf)
    add("bilateral_sxy", "deviation in position of the other kernel, pixels", **number, **crf)
    add("bilateral_srgb", "its deviation in colour, grey levels", **number, **crf)
    add("bilateral_weight", "of that kernel", **weight, **crf)
    colours = (
        "whose colours the CRF compares; mean_subtracted is what deeplab-pytorch gave it, where "
        "dark values wrap (mIoU 8.27, original 8.28, of a hardly trained network, 40 pictures)"
    )
    add("crf_picture", colours, choices=CRF_PICTURES, **crf)
    flag("--archive", type=Path, help=f"file to pack all in; {', '.join(ENDINGS)}")
    alone = "VOC's competition: comp5 is for networks trained on VOC alone"
    flag("--archive_comp", choices=("comp5", "comp6"), default="comp6", help=alone)
    flag("--export", type=Path, help="write the network as this ONNX file, and segment nothing")
    sides = {"type": cli.at_least(1), "nargs": 2, "metavar": ("H", "W"), "default": [513, 513]}
    flag("--export_size", help="of the pictures that it takes", **sides)
    cli.add_visualize_flag(parser, "labels over pictures in <session>/visual_<folder>")
    flag("--restart", action="store_true", help="make every file again")
    args = parser.parse_args(arguments)
    fill_in(args, MODELS[args.model].test)
    if args.archive and not args.archive.name.endswith(ENDINGS):
        parser.error(f"--archive {args.archive}: the name must end in {', '.join(ENDINGS)}")
    return args


def load_network(model: str, ckpt: Path, dataset: Dataset) -> tuple[nn.Module, str]:
    """Return the trained network, and the digest of its file.

    Raises:
        InputError: it is of another model, or for other classes.
    """
    content = checkpoint.load(ckpt)
    noted = content.get("model", model)
    if isinstance(noted, str) and noted != model:  # other projects keep their weights there
        raise InputError(f"{ckpt} is a {noted}. Give --model {noted}.")
    net = restore(MODELS[model].network, content)
    checkpoint.check_classes(content, dataset.all_names)
    number = net.config["num_classes"]
    if number != dataset.num_classes:
        raise InputError(
            f"{ckpt} tells {number} classes apart, {dataset.name} has {dataset.num_classes}. Check "
            "--dataset and --ckpt."
        )
    return net, content.digest


def segment(
    net: nn.Module,
    model: str,
    how: TestFlags,
    crf: bool,
    amp: str,
    memory_format: torch.memory_format,
    item: dict,
) -> tuple[np.ndarray]:
    """Return the label, (H, W), of an item of ScaledPictures, with the original.

    Args:
        net, how, amp, memory_format: of :func:`data.inference.mean_logits`.
        model: whose recipe it is.
        crf: refine by a dense CRF.
        item: of :class:`data.loaders.ScaledPictures`.
    """
    img = item["original"]
    probabilities = mean_logits(net, img, VIEWS[model], how, amp, memory_format).softmax(0)
    if crf:
        probabilities = refine(img, probabilities, how)
    if item["size"] == img.shape[:2]:
        label = probabilities.argmax(0)
    else:
        label = enlarged_argmax(probabilities, item["size"])
    return (label.cpu().numpy(),)


def main(arguments: list[str] | None = None) -> None:
    """Write the label of every picture on the list, and the archive if asked."""
    args = parse_arguments(arguments)
    session, device, dataset = open_session(args, "infer_seg")
    infer_list = args.infer_list or dataset.test_list
    ids = dataset.ids(infer_list)
    dataset.check_pictures(ids)
    ckpt = session.checkpoint(args.ckpt or f"seg_{args.model}.pth")
    net, digest = load_network(args.model, ckpt, dataset)
    if args.export:
        return write_onnx(args.export, net, tuple(args.export_size), list(dataset.all_names))
    cli.place(net, device, args.channels_last)

    folder = args.out_dir or session.path / f"seg_{args.model}"
    settings = {**cli.deciding(args), "digest": digest}
    outputs = outputs_of(session.path, folder, "infer_seg", settings, dataset, ids)
    todo = outputs.open(args.restart, device)
    session.accept()

    pictures = ScaledPictures(dataset, todo, (), True, with_label=False, max_pixels=args.max_pixels)
    how = TestFlags(**{name: getattr(args, name) for name in vars(MODELS[args.model].test)})
    amp, memory_format = args.amp, cli.memory_format(args.channels_last)
    compute = partial(segment, net, args.model, how, args.crf, amp, memory_format)
    write_every(outputs, pictures, compute, save_label, args.num_workers, args.max_pixels)
    outputs.finish()
    if args.visualize:
        draw_labels(outputs, dataset, args.restart, args.num_workers)
    if args.archive and distributed.is_main():
        write_archive(args.archive, args.archive_comp, dataset, ids, folder)
        log.info("%s written, %d pictures", args.archive, len(ids))
    if all(dataset.mask_path(image_id).is_file() for image_id in ids):
        flags = {
            "--dataset": args.dataset,
            "--dataset_root": dataset.root,
            "--session_name": session.path,
            "--label_dir": folder,
            "--eval_list": infer_list,
            **({"--negative_class": args.negative_class} if args.negative_class else {}),
        }
        words = [str(word) for pair in flags.items() for word in pair]
        log.info("mIoU: python eval_seg_labels.py %s", shlex.join(words))


if __name__ == "__main__":
    run(main)
