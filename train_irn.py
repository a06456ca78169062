"""Step 2.2: train IRN, class boundaries and displacements, on the confident areas.

Reads   <session>/ir_label/<id>.png and the pictures of --train_list; ImageNet weights
Writes  <session>/ckpt/irn_last.pth (now and then, for continuing), <session>/ckpt/irn.pth,
        <session>/curves_irn.csv, <session>/runs_irn/ (TensorBoard), the log, <session>/args.json
Try     python train_irn.py --dataset voc --session_name exp
Expect  VOC: 990 steps of 32.

All pictures of --train_list need their label of step 2.1. Running the same command again continues
it.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data.base import Dataset
from data.datasets import make_parser
from data.loaders import AffinityPictures, one_by_one, to_device
from data.training import Training
from data.transforms import cut_window, reduce
from net.irn_loss import loss_sums, loss_terms, total_loss
from net.resnet50_irn import AffinityDisplacementLoss
from tool import cli, distributed
from tool.indexing import STRIDE, sources
from tool.optimizer import RELEASED_MOMENTUM
from tool.progress import progress
from tool.run import run

RADIUS = 10  # of the pairs that are learnt from; the walk uses 5
TERMS = ("pos", "neg", "dp_fg", "dp_bg")  # of the loss, see net.irn_loss


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = make_parser(__doc__)
    cli.add_training_flags(parser, print_freq=10, save_freq=200)
    parser.add_shared(
        "infer_list", help="pictures whose mean displacement is stored; None is --train_list"
    )
    parser.add_shared("max_pixels")
    count, decide = cli.at_least(1), parser.add_deciding
    decide("--irn_crop_size", type=count, default=512, help="window, pixels")
    decide("--irn_batch_size", type=count, default=32, help="pictures a step")
    decide("--irn_num_epoches", type=count, default=3, help="times that every label is learnt from")
    decide("--irn_learning_rate", type=cli.number, default=0.1, help="of edges; displacements 10x")
    decide("--irn_weight_decay", type=cli.number, default=1e-4, help="of all weights")
    decide("--momentum", type=cli.number, default=RELEASED_MOMENTUM, help="as in the released code")
    decide(
        "--edge_only",
        action="store_true",
        help="leave out the displacements, which separate instances; edges, and the labels of "
        "step 2.3 with them, come out the same",
    )
    return parser.parse_args(arguments)


def top_left_windows(
    dataset: Dataset, size: int, max_pixels: float, ids: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the top left windows of pictures, uint8 (B, 3, S, S), and the boxes, int64 (B, 4).

    Pictures of more than ``max_pixels`` are reduced to so many first, as they are in training.
    """
    pictures = [np.asarray(reduce(dataset.read(image_id), max_pixels)) for image_id in ids]
    cut = [cut_window(picture, (0, 0), size, fill=0) for picture in pictures]
    windows, boxes = map(np.stack, zip(*cut, strict=True))
    return np.ascontiguousarray(windows.transpose(0, 3, 1, 2)), boxes


@torch.no_grad()
def store_mean_displacement(
    net: AffinityDisplacementLoss, windows: Iterable[tuple], total: int, amp: str
) -> None:
    """Set the mean shift to the mean displacement over the windows of all processes.

    Args:
        net: evaluating from now on.
        windows: batches of :func:`top_left_windows`, this process's share.
        total: of the share.
        amp: how it computes, see :func:`tool.cli.autocast`.
    """
    net.eval()
    mean = net.mean_shift.running_mean.zero_()
    device = mean.device
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # sum of dy, of dx, windows
    for batch in progress(windows, total, "mean displacement", lambda batch: len(batch[1])):
        img = net.prepare(*to_device(batch, device))
        with cli.autocast(amp, device):
            _, displacement = net(img)
        sums[:2] += displacement.double().mean((2, 3)).sum(0)
        sums[2] += len(displacement)
    sums = distributed.total(sums)
    mean.copy_(sums[:2] / sums[2])


def main(arguments: cli.Words = None) -> None:
    """Train, measure the mean displacement, and write the checkpoint."""
    args = parse_arguments(arguments)
    views = partial(
        AffinityPictures,
        size=args.irn_crop_size,
        folder=Path(args.session_name, "ir_label"),
        max_pixels=args.max_pixels,
    )
    epochs = args.irn_num_epoches
    training = Training(args, "train_irn", "irn", views, "irn_batch_size", epochs)
    if training.is_finished:
        return
    dataset, device = training.dataset, training.device
    infer_ids = dataset.picture_ids(args.infer_list or args.train_list)

    side = -(-args.irn_crop_size // STRIDE)
    sources(side, side, RADIUS)  # refuses a window without any pair
    net = AffinityDisplacementLoss(args.pretrained, edge_only=args.edge_only)
    groups = net.trainable_groups(args.irn_learning_rate, args.irn_weight_decay)
    model = training.begin(net, groups, args.irn_learning_rate)
    for _, (window, box, label) in training.steps():
        img = net.prepare(window, box)
        with cli.autocast(args.amp, device):
            edge, displacement = model(img)
        sums = loss_sums(edge, displacement, label, dataset.num_classes, RADIUS)
        # Ratios of the whole batch, whose gradients are averaged over processes.
        numerators, denominators = sums[0] * distributed.world_size(), distributed.total(sums[1])
        terms = loss_terms(numerators, denominators)
        total_loss(terms).backward()
        training.update(dict(zip(TERMS, terms / distributed.world_size(), strict=True)))
    if not args.edge_only:
        ids = distributed.share(infer_ids)
        at_once = 1 if device.type == "cpu" else args.irn_batch_size
        read = partial(top_left_windows, dataset, args.irn_crop_size, args.max_pixels)
        windows = one_by_one(read, ids, args.num_workers, at_once)
        store_mean_displacement(net, windows, len(ids), args.amp)
    training.finish()


if __name__ == "__main__":
    run(main)
