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

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from data.base import Dataset
from data.datasets import add_dataset_flags
from data.loaders import AffinityPictures, Schedule, batch_loader, to_device, training_loader
from data.steps import open_training
from data.transforms import cut_window
from net.irn_loss import loss_sums, loss_terms, total_loss
from net.resnet50_irn import AffinityDisplacementLoss
from net.weights import restore
from tool import checkpoint, cli, distributed
from tool.indexing import STRIDE, sources
from tool.optimizer import RELEASED_MOMENTUM, learning_rate, make_optimizer
from tool.progress import progress
from tool.run import run

RADIUS = 10  # of the pairs that are learnt from; the walk uses 5
TERMS = ("pos", "neg", "dp_fg", "dp_bg")  # of the loss, see net.irn_loss


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    cli.add_training_flags(parser, print_freq=10, save_freq=200)
    count, decide = cli.at_least(1), parser.add_deciding
    decide("--train_list", help="list name or file; None is the training list")
    parser.add_argument(
        "--infer_list", help="pictures whose mean displacement is stored; None is --train_list"
    )
    decide("--pretrained", help="imagenet, none, or a file; None is what the dataset starts from")
    decide("--irn_crop_size", type=count, default=512, help="window, pixels")
    decide("--irn_batch_size", type=count, default=32, help="pictures a step")
    decide("--irn_num_epoches", type=count, default=3)
    decide("--irn_learning_rate", type=cli.number, default=0.1, help="of edges; displacements 10x")
    decide("--irn_weight_decay", type=cli.number, default=1e-4)
    decide("--momentum", type=cli.number, default=RELEASED_MOMENTUM, help="as in the released code")
    decide(
        "--edge_only",
        action="store_true",
        help="leave out the displacements, which separate instances; edges, and the labels of "
        "step 2.3 with them, come out the same",
    )
    return parser.parse_args(arguments)


class TopLeftWindows(TorchDataset):
    """The top left window of every picture, for the mean displacement."""

    def __init__(self, dataset: Dataset, ids: list[str], size: int) -> None:
        self.dataset, self.ids, self.size = dataset, ids, size

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Return window uint8 (3, S, S), box int64 (4,)."""
        pixels = np.asarray(self.dataset.read(self.ids[index]))
        window, box = cut_window(pixels, np.zeros(2), self.size, fill=0)
        return {"window": window.transpose(2, 0, 1), "box": box}


@torch.no_grad()
def store_mean_displacement(
    net: AffinityDisplacementLoss,
    windows: TopLeftWindows,
    at_once: int,
    workers: int,
    device: torch.device,
    amp: str,
    layout: torch.memory_format,
) -> None:
    """Set the mean shift to the mean displacement over the windows of all processes.

    Args:
        net: evaluating from now on.
        windows: this process's share.
        at_once: windows of a batch; their number changes rounding alone.
        workers: processes that read pictures.
        device: where the network is.
        amp, layout: how it computes, see :func:`tool.cli.autocast` and ``memory_format``.
    """
    net.eval()
    mean = net.mean_shift.running_mean.zero_()
    total = torch.zeros(3, dtype=torch.float64, device=device)  # sum of dy, of dx, windows
    loader = batch_loader(windows, at_once, workers)
    for batch in progress(loader, len(windows), "mean displacement", lambda b: len(b["box"])):
        img = net.prepare(*to_device(batch.values(), device))
        with cli.autocast(amp, device):
            _, displacement = net(img.contiguous(memory_format=layout))
        total[:2] += displacement.double().mean((2, 3)).sum(0)
        total[2] += len(displacement)
    total = distributed.total(total)
    mean.copy_(total[:2] / total[2])


def build(args: cli.Settings, begun: checkpoint.Checkpoint | None) -> AffinityDisplacementLoss:
    """Return the network with the weights that a training starts from; ``begun`` has its own."""
    side = -(-args.irn_crop_size // STRIDE)
    sources(side, side, RADIUS)  # refuses a window without any pair
    torch.manual_seed(args.seed)  # of the branches; nothing else here draws from torch
    if begun:
        return restore(AffinityDisplacementLoss, begun, pretrained=None, edge_only=args.edge_only)
    return AffinityDisplacementLoss(args.pretrained, edge_only=args.edge_only)


def views(args: cli.Settings, dataset: Dataset, ids: list[str]) -> AffinityPictures:
    """Return the windows to learn from, with the confident areas of the session."""
    folder = Path(args.session_name, "ir_label")
    return AffinityPictures(dataset, ids, folder, args.irn_crop_size, args.seed)


def line_of(means: dict[str, float]) -> str:
    """Return the losses as a log line of the released code has them, without names."""
    return "loss:" + " ".join(f"{mean:.4f}" for mean in means.values())


def main(arguments: list[str] | None = None) -> None:
    """Train, measure the mean displacement, and write the checkpoint."""
    args = parse_arguments(arguments)
    batch_size = args.irn_batch_size
    about = ("train_irn", "irn", f"--irn_batch_size {batch_size}", batch_size)
    device, pictures, training = open_training(args, *about, partial(views, args))
    if training.is_finished:
        return
    dataset = pictures.dataset
    infer_ids = dataset.ids(args.infer_list or args.train_list)
    dataset.check_pictures(infer_ids)

    layout = cli.memory_format(args.channels_last)
    net = build(args, training.begun)
    cli.place(net, device, args.channels_last).train()
    groups = net.trainable_groups(args.irn_learning_rate, args.irn_weight_decay)
    optimizer = make_optimizer(groups, args.momentum, device, args.fused)
    model = training.begin(net, optimizer, device)

    rows = distributed.rows(batch_size)
    schedule = Schedule(
        len(pictures), batch_size, args.irn_num_epoches, args.seed, training.start, rows
    )
    loader = training_loader(pictures, schedule, args.num_workers)
    rate = partial(learning_rate, args.irn_learning_rate, total=schedule.total)
    for _, batch in training.steps(loader, rate, args.print_freq, args.save_freq, line_of):
        window, box, label = to_device(batch.values(), device)
        img = net.prepare(window, box).contiguous(memory_format=layout)
        with cli.autocast(args.amp, device):
            edge, displacement = model(img)
        sums = loss_sums(edge, displacement, label, dataset.num_classes, RADIUS)
        # Ratios of the whole batch, whose gradients are averaged over processes.
        numerators, denominators = sums[0] * distributed.world_size(), distributed.total(sums[1])
        terms = loss_terms(numerators, denominators)
        optimizer.zero_grad()
        total_loss(terms).backward()
        optimizer.step()
        parts = terms.detach() / distributed.world_size()
        training.note(dict(zip(TERMS, parts, strict=True)))
    if not args.edge_only:
        windows = TopLeftWindows(dataset, distributed.share(infer_ids), args.irn_crop_size)
        at_once = 1 if device.type == "cpu" else batch_size
        workers = args.num_workers
        store_mean_displacement(net, windows, at_once, workers, device, args.amp, layout)
    training.finish()


if __name__ == "__main__":
    run(main)
