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

import numpy as np
import torch

from data.datasets import add_dataset_flags
from data.drawings import draw_labels
from data.loaders import to_device
from data.steps import open_session
from data.picture_loop import MappedPictures, made_from, outputs_of, write_every
from net.resnet50 import fold_batch_norm
from net.resnet50_irn import EdgeDisplacement
from net.weights import restore
from tool import checkpoint, cli
from tool.crf import crf_inference_label
from tool.pictures import save_label
from tool.run import run
from tool.walk import refine_by_walk


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
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
    cli.add_max_pixels_flag(
        parser,
        "larger pictures are refined reduced to this many pixels, and the labels enlarged by the "
        "nearest pixel; a matter of memory, and of kernels and walks as wide as in VOC's pictures",
    )
    cli.add_speed_flags(parser, only=irn)
    cli.add_fold_flag(parser)
    cli.add_crf_flags(parser, only=crf)
    cli.add_label_flags(parser, "visual_<folder>")
    return parser.parse_args(arguments)


def largest(is_cam: np.ndarray) -> np.ndarray:
    """Return the place of the largest of P maps, uint8 (H, W), which is what the CRF takes."""
    return is_cam.argmax(0).astype(np.uint8)


def by_crf(
    crf_iterations: int, gt_prob: float, device: torch.device, item: dict
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return label, (h, w), and size of an item of MappedPictures with its largest maps."""
    how = (crf_iterations, len(item["keys"]), gt_prob, device)
    index = crf_inference_label(item["picture"], item["view"], *how)
    return item["keys"][index], item["size"]


def by_walk(
    net: EdgeDisplacement,
    beta: float,
    exp_times: int,
    amp: str,
    memory_format: torch.memory_format,
    item: dict,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return label, (h, w), and size of an item of MappedPictures with its whole maps.

    Args:
        net: on its device, evaluating.
        beta, exp_times: of :func:`tool.walk.refine_by_walk`.
        amp: of :func:`tool.cli.autocast`.
        memory_format: what the network takes pictures in.
        item: of :class:`data.picture_loop.MappedPictures`.
    """
    device = next(net.parameters()).device
    picture, is_cam = to_device((item["picture"], item["view"]), device)
    img = net.prepare(picture.permute(2, 0, 1))
    pair = torch.stack([img, img.flip(2)]).contiguous(memory_format=memory_format)
    with cli.autocast(amp, device):
        edge = net.edge(pair)  # (1, h, w)
    index, _ = refine_by_walk(is_cam, edge, img.shape[1:], beta=beta, exp_times=exp_times)
    return item["keys"][index.cpu().numpy()], item["size"]


def load_network(ckpt: Path, crop_size: int, fold_bn: bool) -> tuple[EdgeDisplacement, str]:
    """Return IRN, evaluating, and the digest of its file; weights that misfit raise InputErrors."""
    content = checkpoint.load(ckpt)
    net = restore(EdgeDisplacement, content, crop_size=crop_size)
    return fold_batch_norm(net) if fold_bn else net, content.digest


def main(arguments: list[str] | None = None) -> None:
    """Write the label of every picture on the list."""
    args = parse_arguments(arguments)
    session, device, dataset = open_session(args, "make_seg_labels")
    ids = dataset.ids(args.infer_list or dataset.train_list)
    dataset.check_pictures(ids)

    settings = cli.deciding(args)
    if args.refine == "irn":
        ckpt = session.checkpoint(args.irn_ckpt)
        net, settings["digest"] = load_network(ckpt, args.irn_crop_size, args.fold_bn)
        cli.place(net, device, args.channels_last)
        how = (args.beta, args.exp_times, args.amp, cli.memory_format(args.channels_last))
        view, compute = np.asarray, partial(by_walk, net, *how)
    else:
        view, compute = largest, partial(by_crf, args.crf_iterations, args.gt_prob, device)
    npy, folder = session.path / "npy", args.out_dir or session.path / "pseudo_label"
    settings["maps"], maps = made_from(session.path, dataset, ids, args.allow_pickle)
    about = ("make_seg_labels", settings, dataset, ids)
    outputs = outputs_of(session.path, folder, *about, maps=maps)
    todo = outputs.open(args.restart, device)
    session.accept()
    write_every(
        outputs,
        MappedPictures(dataset, todo, npy, args.allow_pickle, args.max_pixels, view),
        compute,
        save_label,
        args.num_workers,
        args.max_pixels,
        # On the CPU, processes compute the CRF, one a core; a GPU has work from this one alone.
        in_processes=args.refine == "crf" and device.type == "cpu",
    )
    outputs.finish()
    if args.visualize:
        draw_labels(outputs, dataset, args.restart, args.num_workers)


if __name__ == "__main__":
    run(main)
