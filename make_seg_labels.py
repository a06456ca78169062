"""Step 2.3: pseudo labels, from the localization maps by IRN's random walk or by a dense CRF.

Reads   <session>/npy/<id>.npz, <session>/ckpt/irn.pth (not with --refine crf), the pictures
Writes  <session>/pseudo_label/<id>.png (every pixel 0..K); overlays in <session>/visual_<folder>
        when asked
Try     python make_seg_labels.py --dataset voc --session_name exp
Expect  VOC: the published CRF labels have mIoU 64.7 on train.

Files that are there, of the same pictures and maps, are kept, so running the same command again
finishes what is left.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.datasets import make_parser
from data.inference import load_network
from data.loaders import to_device
from data.picture_loop import PictureStep
from net.resnet50_irn import EdgeDisplacement
from tool import checkpoint, cli
from tool.crf import crf_inference_label
from tool.run import run
from tool.walk import refine_by_walk


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = make_parser(__doc__, "channels_last", "tf32", "compile", "fold_bn", *cli.FROM_MAPS)
    irn, crf = {"refine": "irn"}, {"refine": "crf"}
    parser.add_deciding(
        "--refine", choices=("irn", "crf"), default="irn", help="crf needs neither 2.1 nor 2.2"
    )
    parser.add_argument("--irn_ckpt", default="irn.pth", help="a path, or a file in <session>/ckpt")
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
    parser.add_shared("amp", only=irn)
    parser.add_shared("crf_iterations", "gt_prob", only=crf)
    return parser.parse_args(arguments)


def by_crf(picture: np.ndarray, is_cam: np.ndarray, keys: np.ndarray, **how: Any) -> np.ndarray:
    """Return the label, (h, w), that the CRF makes of the largest maps.

    Args:
        picture: uint8 (h, w, 3).
        is_cam: float (P, h, w).
        keys: int64 (P,), class ids of the maps, 0 first.
        how: ``t``, ``gt_prob`` and ``device`` of :func:`tool.crf.crf_inference_label`.
    """
    return keys[crf_inference_label(picture, is_cam.argmax(0), num_classes=len(keys), **how)]


def by_walk(
    picture: np.ndarray,
    is_cam: np.ndarray,
    keys: np.ndarray,
    net: EdgeDisplacement,
    beta: float,
    exp_times: int,
    amp: str,
) -> np.ndarray:
    """Return the label, (h, w), that the random walk makes of the maps.

    Args:
        picture, is_cam, keys: see :func:`by_crf`.
        net: on its device, evaluating.
        beta, exp_times: of :func:`tool.walk.refine_by_walk`.
        amp: of :func:`tool.cli.autocast`.
    """
    device = next(net.parameters()).device
    pixels, maps = to_device((picture, is_cam), device)
    img = net.prepare(pixels.permute(2, 0, 1))
    with cli.autocast(amp, device):
        edge = net.edge(torch.stack([img, img.flip(2)]).contiguous())  # (1, h, w)
    index, _ = refine_by_walk(maps, edge, img.shape[1:], beta=beta, exp_times=exp_times)
    return keys[index.cpu().numpy()]


def main(arguments: cli.Words = None) -> None:
    """Write the label of every picture on the list."""
    args = parse_arguments(arguments)
    step = PictureStep(args, "make_seg_labels")
    folder = args.out_dir or step.session.path / "pseudo_label"
    if args.refine == "crf":
        return step.write_labels(folder, by_crf)
    content = checkpoint.load(step.session.checkpoint(args.irn_ckpt))
    size = args.irn_crop_size
    net = load_network(EdgeDisplacement, content, args.fold_bn, crop_size=size)
    cli.place(net, step.device, args.channels_last, args.compile)
    label_of = partial(by_walk, net=net, beta=args.beta, exp_times=args.exp_times, amp=args.amp)
    step.write_labels(folder, label_of, content.digest)


if __name__ == "__main__":
    run(main)
