"""Step 2.2: train IRN, class boundaries and displacements, on the confident areas.

Reads   <session>/ir_label/<id>.png and the pictures of --train_list; ImageNet weights
Writes  <session>/ckpt/irn_last.pth (now and then, for continuing), <session>/ckpt/irn.pth,
        <session>/runs_irn/ (TensorBoard), the log, <session>/args.json
Try     python train_irn.py --dataset voc --session_name exp
Expect  VOC: 990 steps of 32.

All pictures of --train_list need their label of step 2.1. Running the same command again continues
it.
"""

import logging

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from data.base import Dataset, check_exist
from data.loaders import AffinityPictures, Schedule, one_by_one, training_loader
from data.transforms import cut_window, inside, normalise
from net.irn_loss import loss_sums, loss_terms, total_loss
from net.resnet50 import backbone_width
from net.resnet50_irn import AffinityDisplacementLoss
from tool import checkpoint, cli, distributed
from tool.errors import InputError
from tool.indexing import STRIDE, PathIndex
from tool.pictures import read_rgb
from tool.progress import progress
from tool.session import Session
from tool.training import RELEASED_MOMENTUM, Pace, check_finite, learning_rate, open_board, sgd

RADIUS = 10  # of the pairs that are learnt from; the walk uses 5
DISPLACEMENT_LR = 10  # the displacement branches learn ten times faster than the edge branches
# Settings that decide the weights: a continued run must agree in all of them.
DECISIVE = (
    *("dataset", "train_list", "pretrained", "irn_crop_size", "irn_batch_size", "irn_num_epoches"),
    *("irn_learning_rate", "irn_weight_decay", "momentum", "seed", "amp", "channels_last"),
    "edge_only",
)

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None):
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    cli.add_speed_flags(parser)
    cli.add_fused_flag(parser)
    count = cli.at_least(1)
    parser.add_argument("--train_list", help="list name or file; None is the training list")
    parser.add_argument(
        "--infer_list", help="pictures whose mean displacement is stored; None is --train_list"
    )
    parser.add_argument(
        "--pretrained", help="imagenet, none, or a file; None is what the dataset starts from"
    )
    parser.add_argument("--irn_crop_size", type=count, default=512, help="window, pixels")
    parser.add_argument("--irn_batch_size", type=count, default=32, help="pictures a step")
    parser.add_argument("--irn_num_epoches", type=count, default=3)
    parser.add_argument(
        "--irn_learning_rate", type=float, default=0.1, help="of the edges; displacements 10x"
    )
    parser.add_argument("--irn_weight_decay", type=float, default=1e-4)
    parser.add_argument(
        "--momentum", type=float, default=RELEASED_MOMENTUM, help="as in the released code"
    )
    parser.add_argument(
        "--edge_only",
        action="store_true",
        help="leave out the displacements, which separate instances; edges, and the labels of "
        "step 2.3 with them, come out the same",
    )
    parser.add_argument("--print_freq", type=count, default=10, help="steps between log lines")
    parser.add_argument("--save_freq", type=count, default=200, help="steps between checkpoints")
    parser.add_argument("--seed", type=cli.at_least(0), default=15, help="of all chance")
    parser.add_argument("--restart", action="store_true", help="begin anew, whatever is there")
    return parser.parse_args(arguments)


class TopLeftWindows(TorchDataset):
    """The top left window of every picture, for the mean displacement."""

    def __init__(self, dataset: Dataset, ids: list[str], size: int) -> None:
        self.paths = [dataset.image_path(image_id) for image_id in ids]
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return window uint8 (3, S, S), box int64 (4,)."""
        pixels = np.asarray(read_rgb(self.paths[index]))
        window, box = cut_window(pixels, np.zeros(2), self.size, fill=0)
        return torch.from_numpy(window).permute(2, 0, 1), torch.from_numpy(box)


def network_input(window: Tensor, box: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return float32 (B, 3, S, S), normalised, zeros in the padding."""
    size = window.shape[-1]
    img = normalise(window) * inside(box, size, size)
    return img.contiguous(memory_format=memory_format)


@torch.no_grad()
def store_mean_displacement(
    net: AffinityDisplacementLoss, windows: TopLeftWindows, args, device: torch.device
) -> None:
    """Set the mean shift to the mean displacement over the windows of all processes."""
    net.eval()
    mean = net.mean_shift.running_mean.zero_()
    total = torch.zeros(3, dtype=torch.float64, device=device)  # sum of dy, of dx, windows
    loader = one_by_one(windows, args.num_workers)
    for window, box in progress(loader, len(windows), "mean displacement"):
        batch = window[None].to(device), box[None].to(device)
        with cli.autocast(args, device):
            _, displacement = net(network_input(*batch, cli.memory_format(args)))
        total[:2] += displacement[0].double().mean((1, 2))
        total[2] += 1
    total = distributed.total(total)
    mean.copy_(total[:2] / total[2])


def main(arguments: list[str] | None = None) -> None:
    """Train, measure the mean displacement, and write the checkpoint."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "train_irn", args)
    device = cli.pick_device(args.device)
    dataset = cli.open_dataset(args)
    args.train_list = args.train_list or dataset.train_list
    args.pretrained = args.pretrained or dataset.pretrained
    last, final = session.path / "ckpt/irn_last.pth", session.path / "ckpt/irn.pth"
    decisive = {name: getattr(args, name) for name in DECISIVE}
    begun = None if args.restart else checkpoint.find_begun(last, final, decisive)
    if begun == "finished":
        log.info("%s is finished; --restart trains it anew", final)
        return

    ids = dataset.ids(args.train_list)
    dataset.check_pictures(ids)
    labels = session.path / "ir_label"
    check_exist(
        [labels / f"{image_id}.png" for image_id in ids],
        "confident areas",
        f"Make them: make_cam.py and cam2ir.py with --infer_list {args.train_list}",
    )
    if len(ids) < args.irn_batch_size:
        raise InputError(
            f"--irn_batch_size {args.irn_batch_size} exceeds the {len(ids)} training pictures."
        )
    infer_ids = dataset.ids(args.infer_list or args.train_list)
    dataset.check_pictures(infer_ids)
    pictures = AffinityPictures(dataset, ids, labels, args.irn_crop_size, args.seed)

    torch.manual_seed(args.seed)  # of the branches; nothing else here draws from torch
    torch.backends.cudnn.benchmark = True  # every batch has the same size
    side = -(-args.irn_crop_size // STRIDE)
    path_index = PathIndex(RADIUS, (side, side))
    if begun:
        start_from = {"pretrained": None, "width": backbone_width(begun["net"])}
    else:
        start_from = {"pretrained": args.pretrained}
    net = AffinityDisplacementLoss(path_index, **start_from, edge_only=args.edge_only)
    cli.place(net, args, device).train()
    rates = (args.irn_learning_rate, args.irn_learning_rate * DISPLACEMENT_LR)
    groups = [
        {"params": params, "lr": rate, "weight_decay": args.irn_weight_decay}
        for params, rate in zip(net.trainable_parameters(), rates, strict=True)
        if params[0].requires_grad
    ]
    optimizer = sgd(groups, args.momentum, device, args.fused)
    start = 0
    if begun:
        checkpoint.load_weights(net, begun["net"])
        optimizer.load_state_dict(begun["optimizer"])
        start = begun["step"]
        log.info("continuing %s at step %d", last, start)
    checkpoint.begin(last, final, start, args.restart)
    model = distributed.parallel(net, device)

    batch_size = args.irn_batch_size
    rows = distributed.rows(batch_size)
    schedule = Schedule(len(ids), batch_size, args.irn_num_epoches, args.seed, start, rows)
    loader = training_loader(pictures, schedule, args.num_workers, device.type == "cuda")
    total = schedule.total
    log.info("%d pictures, %d steps of %d on %s", len(ids), total, batch_size, device)
    board = open_board(session.path / "runs_irn", start)
    losses, first, pace = [], start, Pace(start, total, batch_size)
    for step, batch in enumerate(loader, start):
        for group, rate in zip(optimizer.param_groups, rates, strict=False):
            group["lr"] = learning_rate(rate, step, total)
        window, box, label = (
            batch[name].to(device, non_blocking=True) for name in ("window", "box", "label")
        )
        with cli.autocast(args, device):
            edge, displacement = model(network_input(window, box, cli.memory_format(args)))
        sums = loss_sums(edge, displacement, label, dataset.num_classes, RADIUS)
        # Ratios of the whole batch, whose gradients are averaged over processes.
        numerators, denominators = sums[0] * distributed.world_size(), distributed.total(sums[1])
        terms = loss_terms(numerators, denominators)
        optimizer.zero_grad()
        total_loss(terms).backward()
        optimizer.step()
        losses.append(terms.detach() / distributed.world_size())

        done = step + 1
        reports = step % args.print_freq == 0
        saves = done % args.save_freq == 0 or done == total
        if reports or saves:
            together = distributed.total(torch.stack(losses))  # (steps, 4)
            check_finite(together, first)
        if reports:
            mean = together.mean(0).tolist()
            images_per_second, finish = pace.report(done)
            log.info(
                "step:%5d/%5d loss:%.4f %.4f %.4f %.4f imps:%.1f lr: %.4f etc:%s",
                *(step, total, *mean, images_per_second, optimizer.param_groups[0]["lr"], finish),
            )
            for name, value in zip(("pos", "neg", "dp_fg", "dp_bg"), mean, strict=True):
                board.add_scalar(f"irn/{name}", value, step)
            board.add_scalar("irn/images_per_second", images_per_second, step)
            losses, first = [], done
        if saves and distributed.is_main():
            state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save(last, {**state, "step": done, "settings": decisive})
    board.close()
    if not args.edge_only:
        windows = TopLeftWindows(dataset, distributed.share(infer_ids), args.irn_crop_size)
        store_mean_displacement(net, windows, args, device)
    if distributed.is_main():
        checkpoint.save(final, {"net": net.state_dict(), "step": total, "settings": decisive})
    log.info("%s written, %s", final, pace.elapsed())


if __name__ == "__main__":
    cli.run(main)
