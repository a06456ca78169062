"""Step 1.1: train the SIPE classifier on image-level labels.

Reads   the training list and its image labels; ImageNet weights of ResNet-50
Writes  <session>/ckpt/last.pth (now and then, for continuing), <session>/ckpt/final.pth,
        <session>/runs/ (TensorBoard), <session>/<session>.log, <session>/args.json
Try     python train_resnet50_SIPE.py --dataset voc --session_name exp
Expect  VOC: 3,305 steps, about half an hour on the authors' GPU, validation mIoU near 0.54.

Running the same command again continues it.
"""

import importlib
import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from data.base import Dataset, check_exist
from data.loaders import (
    ClassificationPictures,
    ScaledPictures,
    Schedule,
    one_by_one,
    training_loader,
)
from data.transforms import normalise, training_input
from net.resnet50 import backbone_width
from net.resnet50_SIPE import CAM_EPS, classification_loss, consistency_loss
from tool import checkpoint, cli, distributed
from tool.errors import InputError
from tool.metrics import ConfusionMatrix
from tool.pictures import heat, overlay
from tool.progress import progress
from tool.session import Session
from tool.training import RELEASED_MOMENTUM, Pace, check_finite, learning_rate, open_board, sgd

NEW_LAYER_LR = 10  # the heads start from random numbers and learn ten times faster
GRADIENT_NORM = 1.0  # longer gradients are clipped to this before each update
PICTURES_SHOWN = 4  # of a batch, in TensorBoard
# Settings that decide the weights: a continued run must agree in all of them.
DECISIVE = (
    *("dataset", "train_list", "network", "pretrained", "batch_size", "max_epoches", "lr"),
    *("wt_dec", "momentum", "gsc_weight", "crop_size", "resize_min", "resize_max", "seed", "amp"),
    "channels_last",
)

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None):
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    cli.add_network_flags(parser)
    cli.add_fused_flag(parser)
    count = cli.at_least(1)
    parser.add_argument("--train_list", help="list name or file; None is the dataset's own")
    parser.add_argument("--val_list", help="pictures with masks for validation; None as above")
    parser.add_argument(
        "--pretrained", help="imagenet, none, or a file; None is what the dataset starts from"
    )
    parser.add_argument("--batch_size", type=count, default=16, help="pictures a step")
    parser.add_argument("--max_epoches", "--max_epochs", type=count, default=5)
    parser.add_argument("--lr", type=float, default=0.1, help="of layer3 and layer4; heads 10x")
    parser.add_argument("--wt_dec", type=float, default=1e-4, help="weight decay")
    parser.add_argument(
        "--momentum",
        type=float,
        default=RELEASED_MOMENTUM,
        help="as in the released code; with 0.9 lower --lr about ten times",
    )
    parser.add_argument(
        "--gsc_weight", type=float, default=1.0, help="of the consistency loss; 0 trains CAM alone"
    )
    parser.add_argument("--crop_size", type=count, default=512, help="training window, pixels")
    parser.add_argument("--resize_min", type=count, default=320, help="shortest long side, pixels")
    parser.add_argument("--resize_max", type=count, default=640, help="longest long side, pixels")
    parser.add_argument("--print_freq", type=count, default=10, help="steps between log lines")
    parser.add_argument("--tf_freq", type=count, default=500, help="steps between TensorBoard maps")
    parser.add_argument(
        "--val_freq", type=cli.at_least(0), default=500, help="steps between validations; 0: never"
    )
    parser.add_argument("--save_freq", type=count, default=200, help="steps between checkpoints")
    parser.add_argument(
        "--seed", type=cli.at_least(0), default=15, help="of order, augmentation and heads"
    )
    parser.add_argument("--restart", action="store_true", help="begin anew, whatever is there")
    args = parser.parse_args(arguments)
    if args.resize_min > args.resize_max:
        parser.error(f"--resize_min {args.resize_min} is above --resize_max {args.resize_max}")
    return args


@torch.no_grad()
def validate(
    net: nn.Module, dataset: Dataset, pictures: ScaledPictures, workers: int, device: torch.device
) -> ConfusionMatrix:
    """Return the confusion matrix of IS-CAM at one scale by the training pass, of all processes.

    Seeds come from x4 and ``cam`` is masked by the labels, so the figure is below that of
    ``make_cam.py``: about 54 against 58.9 on VOC.
    """
    matrix = ConfusionMatrix(dataset.num_classes)
    for item in progress(one_by_one(pictures, workers), len(pictures), "validation"):
        present = F.pad(item["label"], (1, 0), value=1).to(device)  # (C,)
        img = normalise(item["pictures"][0].to(device))[None]  # (1, 3, H, W)
        is_cam = net(img, present[None, :, None, None].float())["IS_cam"]  # (1, C, h, w)
        keys = present.nonzero()[:, 0]
        maps = F.interpolate(is_cam[:, keys], item["size"], mode="bilinear")[0]
        maps = maps / (maps.amax((1, 2), keepdim=True) + CAM_EPS)  # (P, H, W)
        prediction = keys[maps.argmax(0)].cpu().numpy()
        matrix.update_from(dataset.mask_path(item["id"]), prediction)
    matrix.counts = distributed.total(torch.from_numpy(matrix.counts)).numpy()
    return matrix


def draw_maps(windows: Tensor, label: Tensor, out: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return, for TensorBoard, CAM and IS-CAM of each picture's first class over the picture."""
    rows = {"CAM": [], "IS-CAM": []}
    for i in range(min(PICTURES_SHOWN, len(windows))):
        picture = windows[i].permute(1, 2, 0).cpu().numpy()
        k = int(label[i].argmax()) + 1
        for name, maps in (("CAM", out["cam"]), ("IS-CAM", out["IS_cam"])):
            one = F.interpolate(maps[i : i + 1, k : k + 1], windows.shape[2:])[0, 0]
            one = (one / (one.max() + CAM_EPS)).detach()
            rows[name].append(torch.from_numpy(overlay(picture, heat(one.cpu().numpy()))))
    return {name: torch.stack(pictures) for name, pictures in rows.items()}


def main(arguments: list[str] | None = None) -> None:
    """Train, validate now and then, and write the checkpoint."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "train_resnet50_SIPE", args)
    device = cli.pick_device(args.device)
    dataset = cli.open_dataset(args)
    args.train_list = args.train_list or dataset.train_list
    args.pretrained = args.pretrained or dataset.pretrained
    last, final = session.path / "ckpt/last.pth", session.path / "ckpt/final.pth"
    decisive = {name: getattr(args, name) for name in DECISIVE}
    begun = None if args.restart else checkpoint.find_begun(last, final, decisive)
    if begun == "finished":
        log.info("%s is finished; --restart trains it anew", final)
        return

    ids = dataset.ids(args.train_list)
    dataset.check_pictures(ids)
    if len(ids) < args.batch_size:
        raise InputError(
            f"--batch_size {args.batch_size} exceeds the {len(ids)} training pictures."
        )
    pictures = ClassificationPictures(
        dataset, ids, args.crop_size, args.resize_min, args.resize_max, args.seed
    )
    if args.val_freq:
        val_ids = dataset.ids(args.val_list or dataset.eval_list)
        check_exist(
            [dataset.mask_path(i) for i in val_ids],
            "validation masks",
            "Complete them, or train without: --val_freq 0",
        )
        validation = ScaledPictures(dataset, distributed.share(val_ids), scales=(1.0,))

    torch.manual_seed(args.seed)  # of the heads; nothing else here draws from torch
    torch.backends.cudnn.benchmark = True  # every batch has the same size
    network = importlib.import_module(args.network)
    if begun:
        net = network.Net(dataset.num_classes, None, width=backbone_width(begun["net"]))
    else:
        net = network.Net(dataset.num_classes, args.pretrained)
    cli.place(net, args, device).train()
    backbone, new_layers = net.trainable_parameters()
    learning = backbone + new_layers
    rates = (args.lr, args.lr * NEW_LAYER_LR)
    groups = [
        {"params": params, "lr": rate, "weight_decay": args.wt_dec}
        for params, rate in zip((backbone, new_layers), rates, strict=True)
    ]
    optimizer = sgd(groups, args.momentum, device, args.fused)
    start = 0
    if begun:
        checkpoint.load_weights(net, begun["net"])
        optimizer.load_state_dict(begun["optimizer"])
        start = begun["step"]
        log.info("continuing %s at step %d", last, start)

    checkpoint.begin(last, final, start, args.restart)
    # Without the consistency loss nothing teaches the side layers.
    model = distributed.parallel(net, device, some_unused=not args.gsc_weight)
    rows = distributed.rows(args.batch_size)
    schedule = Schedule(len(ids), args.batch_size, args.max_epoches, args.seed, start, rows)
    loader = training_loader(pictures, schedule, args.num_workers, device.type == "cuda")
    total = schedule.total
    log.info(
        "%d pictures, %d classes, %d steps of %d on %s",
        *(len(ids), dataset.num_classes, total, args.batch_size, device),
    )
    share = distributed.weight(rows.stop - rows.start, args.batch_size)
    board = open_board(session.path / "runs", start)
    losses, first, pace = [], start, Pace(start, total, args.batch_size)
    for step, batch in enumerate(loader, start):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = learning_rate(rate, step, total)
        window, box, label = (
            batch[name].to(device, non_blocking=True) for name in ("window", "box", "label")
        )
        img, valid_mask = training_input(window, box, label)
        img = img.contiguous(memory_format=cli.memory_format(args))
        with cli.autocast(args, device):
            out = model(img, valid_mask)
        loss_cls = classification_loss(out["score"], label.float())
        loss_gsc = consistency_loss(out["cam"], out["IS_cam"])
        loss = loss_cls + args.gsc_weight * loss_gsc if args.gsc_weight else loss_cls
        optimizer.zero_grad()
        (loss * share).backward()
        clip_grad_norm_(learning, GRADIENT_NORM)
        optimizer.step()
        mine = torch.stack([loss_cls.detach(), loss_gsc.detach()])
        losses.append(mine * share / distributed.world_size())

        done = step + 1
        reports = step % args.print_freq == 0
        validates = args.val_freq and step and step % args.val_freq == 0
        saves = done % args.save_freq == 0 or done == total
        if reports or validates or saves:
            together = distributed.total(torch.stack(losses))  # (steps, 2)
            check_finite(together, first)
        if reports:
            mean_cls, mean_gsc = together.mean(0).tolist()
            rate = optimizer.param_groups[0]["lr"]
            images_per_second, finish = pace.report(done)
            log.info(
                "step:%5d/%5d lossCLS:%.4f lossGSC:%.4f imps:%.1f lr: %.4f etc:%s",
                *(step, total, mean_cls, mean_gsc, images_per_second, rate, finish),
            )
            board.add_scalar("loss/cls", mean_cls, step)
            board.add_scalar("loss/gsc", mean_gsc, step)
            board.add_scalar("train/learning_rate", rate, step)
            board.add_scalar("train/images_per_second", images_per_second, step)
            losses, first = [], done
        if step % args.tf_freq == 0 and distributed.is_main():
            for name, rows in draw_maps(window, label, out).items():
                board.add_images(name, rows, step, dataformats="NHWC")
        if validates:
            net.eval()
            with cli.autocast(args, device):
                matrix = validate(net, dataset, validation, args.num_workers, device)
            net.train()
            for name, iou in zip(dataset.all_names, matrix.iou(), strict=True):
                log.info("  iou %s: %.4f", name, iou)
            log.info("validation step:%5d miou: %.4f", step, matrix.miou())
            board.add_scalar("validation/miou", matrix.miou(), step)
        if saves and distributed.is_main():
            state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save(last, {**state, "step": done, "settings": decisive})
    board.close()
    if distributed.is_main():
        checkpoint.save(final, {"net": net.state_dict(), "step": total, "settings": decisive})
    log.info("%s written, %s", final, pace.elapsed())


if __name__ == "__main__":
    cli.run(main)
