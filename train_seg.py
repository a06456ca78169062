"""Step 3.1: train a segmentation network on label pictures, such as the pseudo labels of step 2.3.

Reads   a folder of label PNGs (<session>/pseudo_label, or any other: 0..K, 255 unsure) and the
        pictures of --train_list; initial weights
Writes  <session>/ckpt/seg_<model>_last.pth (now and then, for continuing),
        <session>/ckpt/seg_<model>.pth, <session>/runs_seg_<model>/ (TensorBoard), the log,
        <session>/args.json
Try     python train_seg.py --dataset voc --session_name exp
        python train_seg.py --dataset voc --label_dir my_labels --initial my_resnet101.pth
        python train_seg.py --dataset voc --model deeplabv1_resnet38 \\
            --initial ilsvrc-cls_rna-a1_cls1000_ep-0001.params
Expect  20,000 iterations of 10 pictures; SIPE's figures on VOC val are 68.8 (DeepLab v2) and 68.2
        (v1), both after infer_seg.py's CRF.

A flag that is not given has the value of the network's own recipe. Running the same command again
continues it.
"""

import contextlib
import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.base import check_exist
from data.loaders import Schedule, SegmentationPictures, training_loader
from data.transforms import RESAMPLE, inside
from net.deeplabv2 import STRIDE_ON
from net.recipes import MODELS, fill_in, told
from net.segmentation import mean_loss
from tool import checkpoint, cli, distributed
from tool.errors import InputError
from tool.session import Session
from tool.training import (
    OPTIMIZERS,
    Pace,
    check_finite,
    learning_rate,
    open_board,
    optimizer_of,
    seed_step,
)

# Settings that decide the weights: a continued run must agree in all of them.
DECISIVE = (
    *("model", "dataset", "train_list", "label_dir", "initial", "width", "blocks", "stride_on"),
    *("iterations", "batch_size", "accumulate", "lr", "head_lr", "lr_every", "lr_past"),
    *("optimizer", "momentum", "weight_decay", "crop_size", "scales", "scale_draw", "resample"),
    *("hsv_shift", "freeze_bn", "bn_momentum", "seed", "amp", "channels_last"),
)

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None):
    """Return the settings of this program; flags not given have the values of the recipe."""
    parser = cli.make_parser(__doc__)
    cli.add_speed_flags(parser)
    cli.add_fused_flag(parser)
    count, chance = cli.at_least(1), cli.at_least(0)
    parser.add_argument("--model", choices=sorted(MODELS), default="deeplabv2_resnet101")
    parser.add_argument("--train_list", help="list name or file; None is the training list")
    parser.add_argument(
        "--label_dir", type=Path, help="folder of PNGs; None is <session>/pseudo_label"
    )
    parser.add_argument(
        "--initial", help="a file, imagenet, or none; None is what the dataset starts from"
    )
    parser.add_argument(
        "--width", type=count, help="channels after the first convolution; None: as in --initial"
    )
    parser.add_argument(
        "--blocks", type=count, nargs=4, help="of the four stages; None: as in --initial"
    )
    parser.add_argument(
        "--stride_on", choices=STRIDE_ON, help="DeepLab v2 only; None: where --initial had it"
    )
    parser.add_argument(
        "--freeze_bn",
        action="store_true",
        help="batch normalisation by stored statistics, as DeepLab v2 always has it; v1 needs it "
        "with several processes on CPUs",
    )

    def add(name: str, kind, help_text: str, **more) -> None:
        told_by_recipe = told("training", name)
        parser.add_argument(f"--{name}", type=kind, help=help_text + told_by_recipe, **more)

    add("iterations", count, "updates of the weights")
    add("batch_size", count, "pictures of a part, on all processes together")
    add("accumulate", count, "parts whose gradients make one update")
    add("lr", float, "of the backbone")
    add("head_lr", float, "times --lr is the rate of the head's weights, twice that of its biases")
    add("lr_every", count, "updates between changes of the learning rate")
    add("lr_past", chance, "the rate would reach 0 this many iterations after the last")
    parser.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default=OPTIMIZERS[0],
        help="of the recipes; adamw suits narrow networks that have not seen much, with a lower lr",
    )
    add("momentum", float, "of SGD")
    add(
        "bn_momentum",
        cli.fraction,
        "of a batch in the statistics of batch normalisation; a short training wants more",
    )
    add("weight_decay", float, "of all weights, not of biases")
    add("crop_size", count, "training window, pixels")
    add("scales", cli.above_zero, "factors of the picture's sides", nargs="+")
    add("scale_draw", str, "one of them, or uniform between", choices=("choice", "uniform"))
    add("resample", str, "filter of the picture; labels: nearest", choices=sorted(RESAMPLE))
    add("hsv_shift", chance, "largest shift of hue (steps of 2 degrees), saturation, value")
    parser.add_argument("--print_freq", type=count, default=50, help="steps between log lines")
    parser.add_argument("--save_freq", type=count, default=500, help="steps between checkpoints")
    parser.add_argument("--seed", type=chance, default=15, help="of all chance")
    parser.add_argument("--restart", action="store_true", help="begin anew, whatever is there")
    args = parser.parse_args(arguments)
    fill_in(args, MODELS[args.model].training)
    return args


def build(args, num_classes: int, begun: dict | None) -> tuple[nn.Module, dict]:
    """Return the network in training mode, and the record of what it started from."""
    options = {"width": args.width, "blocks": args.blocks}
    if args.model == "deeplabv2_resnet101":
        options["stride_on"] = args.stride_on
    elif args.stride_on:
        raise InputError(f"--stride_on is of DeepLab v2; {args.model} has no such choice.")
    module = MODELS[args.model].module
    if begun:
        net, record = module.build(**begun["config"], pretrained="none")[0], begun["record"]
        net.load_state_dict(begun["net"])  # with its batch counters, which load_weights leaves out
    else:
        net, record = module.build(num_classes, args.initial, **options)
    return net.train(), record


def synchronised(args, net: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with batch statistics of the pictures of all processes.

    Raises:
        InputError: these processes cannot compute them, or the network never uses any.
    """
    if args.model == "deeplabv2_resnet101":
        if args.bn_momentum is not None:
            raise InputError(
                f"--bn_momentum is of DeepLab v1; {args.model} freezes its statistics."
            )
        return net
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = args.bn_momentum
    if args.freeze_bn:
        net.freeze_statistics()
    elif distributed.world_size() > 1 and device.type == "cpu":
        raise InputError(
            f"{args.model} normalises by statistics of the whole batch, which several processes "
            "can compute on GPUs only. Take one process, or --freeze_bn."
        )
    elif distributed.world_size() > 1:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    net.share_batch(args.batch_size, distributed.rows(args.batch_size))
    return net


def rows_of_parts(batch_size: int, parts: int) -> np.ndarray:
    """Return which pictures of a step are this process's: its rows of one part after another."""
    mine = np.arange(batch_size)[distributed.rows(batch_size)]
    return (np.arange(parts)[:, None] * batch_size + mine).ravel()


def main(arguments: list[str] | None = None) -> None:
    """Train and write the checkpoint."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "train_seg", args)
    device = cli.pick_device(args.device)
    dataset = cli.open_dataset(args)
    args.train_list = args.train_list or dataset.train_list
    args.initial = args.initial or dataset.pretrained
    args.label_dir = str(args.label_dir or session.path / "pseudo_label")
    name = f"seg_{args.model}"
    last, final = session.path / f"ckpt/{name}_last.pth", session.path / f"ckpt/{name}.pth"
    decisive = {setting: getattr(args, setting) for setting in DECISIVE}
    begun = None if args.restart else checkpoint.find_begun(last, final, decisive)
    if begun == "finished":
        log.info("%s is finished; --restart trains it anew", final)
        return

    ids = dataset.ids(args.train_list)
    dataset.check_pictures(ids)
    check_exist(
        [Path(args.label_dir) / f"{image_id}.png" for image_id in ids],
        "labels",
        f"Make them: make_seg_labels.py --infer_list {args.train_list}; or name --label_dir",
    )
    pictures_a_step = args.batch_size * args.accumulate
    if len(ids) < pictures_a_step:
        raise InputError(
            f"--batch_size {args.batch_size} times --accumulate {args.accumulate} exceeds the "
            f"{len(ids)} training pictures."
        )
    pictures = SegmentationPictures(
        *(dataset, ids, Path(args.label_dir), args.crop_size, args.scales, args.scale_draw),
        *(args.resample, args.hsv_shift, args.seed),
    )

    torch.manual_seed(args.seed)  # of the head
    torch.backends.cudnn.benchmark = True  # every batch has the same size
    net, record = build(args, dataset.num_classes, begun)
    resolved = {setting: getattr(args, setting) for setting in ("train_list", "label_dir")}
    session.record(**resolved, **record)
    log.info("settings: %s", " ".join(f"{k}={v}" for k, v in decisive.items()))
    begins = record.get("pretrained", record.get("initial"))  # as older checkpoints call it
    fresh = record["fresh"] if record["fresh"] == "all" else f"{len(record['fresh'])} tensors"
    log.info("starting from %s, fresh: %s; %s", begins, fresh, record["config"])
    net = cli.place(synchronised(args, net, device), args, device)
    groups = net.trainable_groups(args.lr, args.weight_decay, args.head_lr)
    optimizer = optimizer_of(args.optimizer, groups, args.momentum, device, args.fused)
    start = 0
    if begun:
        optimizer.load_state_dict(begun["optimizer"])
        start = begun["step"]
        log.info("continuing %s at step %d", last, start)
    checkpoint.begin(last, final, start, args.restart)
    model = distributed.parallel(net, device)

    about = {"model": args.model, "config": net.config, "record": record, "settings": decisive}
    about["class_names"] = list(dataset.all_names)
    world, total = distributed.world_size(), args.iterations
    rows = rows_of_parts(args.batch_size, args.accumulate)
    schedule = Schedule(len(ids), pictures_a_step, None, args.seed, start, rows, total)
    loader = training_loader(pictures, schedule, args.num_workers, device.type == "cuda")
    log.info(
        "%d pictures, %d classes, %d steps of %d on %s",
        *(len(ids), dataset.num_classes, total, pictures_a_step, device),
    )
    board = open_board(session.path / f"runs_{name}", start)
    losses, first, pace = [], start, Pace(start, total, pictures_a_step)
    for step, batch in enumerate(loader, start):
        changed = step // args.lr_every * args.lr_every
        rate = learning_rate(args.lr, changed, total + args.lr_past)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        seed_step(args.seed, step)
        optimizer.zero_grad()
        parts = [batch[key].chunk(args.accumulate) for key in ("window", "box", "label")]
        loss_of_step = 0.0
        for number, part in enumerate(zip(*parts, strict=True), 1):
            window, box, label = (x.to(device, non_blocking=True) for x in part)
            # Zeros in the padding are the mean colour.
            img = net.prepare(window) * inside(box, args.crop_size, args.crop_size)
            img = img.contiguous(memory_format=cli.memory_format(args))
            adds = world > 1 and number < args.accumulate  # gradients meet after the last part
            with model.no_sync() if adds else contextlib.nullcontext():
                with cli.autocast(args, device):
                    outputs = model(img)
                sums, counts = net.loss_sums(outputs, label)
                loss = mean_loss(sums * world, distributed.total(counts)) / args.accumulate
                loss.backward()
            loss_of_step += loss.detach() / world
        optimizer.step()
        losses.append(loss_of_step)

        done = step + 1
        reports = step % args.print_freq == 0
        saves = done % args.save_freq == 0 or done == total
        if reports or saves:
            together = distributed.total(torch.stack(losses)[:, None])  # (steps, 1)
            check_finite(together, first)
        if reports:
            mean = together.mean().item()
            images_per_second, finish = pace.report(done)
            log.info(
                "step:%5d/%5d loss:%.4f imps:%.1f lr: %.2e etc:%s",
                *(step, total, mean, images_per_second, rate, finish),
            )
            board.add_scalar("seg/loss", mean, step)
            board.add_scalar("seg/learning_rate", rate, step)
            board.add_scalar("seg/images_per_second", images_per_second, step)
            losses, first = [], done
        if saves and distributed.is_main():
            state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save(last, {**about, **state, "step": done})
    board.close()
    if distributed.is_main():
        checkpoint.save(final, {**about, "net": net.state_dict(), "step": total})
    log.info("%s written, %s", final, pace.elapsed())


if __name__ == "__main__":
    cli.run(main)
