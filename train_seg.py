"""Step 3.1: train a segmentation network on label pictures, such as the pseudo labels of step 2.3.

Reads   a folder of label PNGs (<session>/pseudo_label, or any other: 0..K, 255 unsure) and the
        pictures of --train_list; initial weights
Writes  <session>/ckpt/seg_<model>_last.pth (now and then, for continuing),
        <session>/ckpt/seg_<model>.pth, <session>/curves_seg_<model>.csv,
        <session>/runs_seg_<model>/ (TensorBoard), the log, <session>/args.json
Try     python train_seg.py --dataset voc --session_name exp
        python train_seg.py --dataset voc --label_dir my_labels --initial my_resnet101.pth
        python train_seg.py --dataset voc --model deeplabv1_resnet38 \\
            --initial ilsvrc-cls_rna-a1_cls1000_ep-0001.params
Expect  20,000 iterations of 10 pictures; SIPE's figures on VOC val are 68.8 (DeepLab v2) and 68.2
        (v1), both after infer_seg.py's CRF.

A flag that is not given has the value of the network's own recipe. Running the same command again
continues it.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import argparse
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from data.datasets import make_parser
from data.evaluate import check_class_ids
from data.loaders import SegmentationPictures
from data.training import Training
from data.transforms import RESAMPLE
from net.deeplabv2 import PIXEL_BYTES, STAGES, STRIDE_ON
from net.recipes import MODELS, TrainingFlags, defaults, fill_in
from net.segmentation import build, mean_loss
from tool import cli, distributed
from tool.errors import InputError
from tool.run import run

# Flags that are for the other network.
FOREIGN = {
    "deeplabv2_resnet101": ("bn_momentum",),
    "deeplabv1_resnet38": (
        "stride_on",
        "stride",
        "msc_scales",
        "image_pooling",
        "frozen_stages",
        "recipe",
    ),
}
MEMORY = 0.75  # of what is free, for what a pass keeps

log = logging.getLogger(__name__)


def add_flags_of_v2(decide: Callable[..., None]) -> None:
    """Add what only DeepLab v2 has, by ``add_deciding`` of a parser."""
    decide("--stride_on", choices=STRIDE_ON, help="DeepLab v2 only; None: where the weights had it")
    stride = "of the logits, DeepLab v2 only; None: 16 from a classifier of step 1, else 8"
    decide("--stride", type=cli.at_least(1), choices=sorted(STAGES), help=stride)
    copies = (
        "copies of the picture that DeepLab v2 sees and learns from beside its own size; no value: "
        "none; None: 0.5 and 0.75"
    )
    decide("--msc_scales", type=cli.above_zero, nargs="*", help=copies)
    pooling = (
        "whether the head of DeepLab v2 sees the mean of the features of the whole picture too, as "
        "that of v3; None: where the weights have it, or are a classifier of step 1"
    )
    decide("--image_pooling", action=argparse.BooleanOptionalAction, help=pooling)
    frozen = "last stage of DeepLab v2 that does not learn, 0 is the stem; None: all learn"
    decide("--frozen_stages", type=cli.at_least(0), choices=range(5), help=frozen)


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program; flags not given have the values of the recipe."""
    parser = make_parser(__doc__)
    cli.add_training_flags(parser, print_freq=50, save_freq=500)
    parser.add_shared("max_pixels")
    parser.set_defaults(optimizer=None)
    count, chance, decide = cli.at_least(1), cli.at_least(0), parser.add_deciding
    decide("--model", choices=sorted(MODELS), default="deeplabv2_resnet101", help="network")
    short = (
        "short is for hours of a processor: a few hundred iterations of DeepLab v2, from the "
        "classifier of this very session, see docs/segmentation.md; None is the published one"
    )
    parser.add_argument("--recipe", choices=("short",), help=short)
    decide("--label_dir", type=Path, help="folder of PNGs; None is <session>/pseudo_label")
    decide("--width", type=count, help="channels after the first convolution; None: of the weights")
    decide("--blocks", type=count, nargs=4, help="of the four stages; None: of the weights")
    add_flags_of_v2(decide)
    freeze = (
        "batch normalisation by stored statistics, as DeepLab v2 always has it; v1 needs it with "
        "several processes on CPUs"
    )
    decide("--freeze_bn", action="store_true", help=freeze)

    def add(name: str, kind, help_text: str, **more) -> None:
        decide(f"--{name}", type=kind, help=help_text + defaults("training", name), **more)

    add("iterations", count, "updates of the weights")
    add("batch_size", count, "pictures of a part, on all processes together")
    parts = "parts whose gradients make one update; one where processes are more than its pictures"
    add("accumulate", count, parts)
    add("lr", cli.number, "of the backbone")
    add("head_lr", cli.number, "times --lr is the rate of the head's weights; its biases: twice it")
    add("lr_every", count, "updates between changes of the learning rate")
    add("lr_past", chance, "iterations after the last one at which the rate would reach 0")
    add("momentum", cli.number, "of SGD")
    share = "of a batch in the statistics of batch normalisation; a short training wants more"
    add("bn_momentum", cli.fraction, share)
    add("weight_decay", cli.number, "of all weights, not of biases")
    add("crop_size", count, "training window, pixels")
    add("scales", cli.above_zero, "factors of the picture's sides", nargs="+")
    add("scale_draw", str, "one of them, or uniform between", choices=("choice", "uniform"))
    add("resample", str, "OpenCV's filter of the picture", choices=sorted(RESAMPLE))
    add("hsv_shift", chance, "largest shift of hue (steps of 2 degrees), saturation, value")
    args = parser.parse_args(arguments)
    for other in FOREIGN[args.model]:
        if getattr(args, other) is not None:
            raise InputError(f"--{other} is not for {args.model}. Leave it out.")
    recipe = MODELS[args.model].training
    if args.recipe == "short":
        recipe = MODELS[args.model].short
        args.pretrained = args.pretrained or str(Path(args.session_name, "ckpt/final.pth"))
    recipe = recipe.shared_by(distributed.world_size(), args.batch_size, args.accumulate)
    fill_in(args, recipe)
    return args


def synchronised(args: cli.Settings, net: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with batch statistics of the pictures of all processes.

    DeepLab v2 never uses any. An InputError says that these processes cannot compute them.
    """
    if args.model == "deeplabv2_resnet101":
        return net
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = args.bn_momentum
    if args.freeze_bn:
        net.freeze_statistics()
    elif distributed.world_size() > 1:
        if device.type == "cpu":
            raise InputError(
                f"{args.model} normalises by statistics of the whole batch, which several "
                "processes can compute on GPUs only. Take one process, or --freeze_bn."
            )
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    net.share_batch(args.batch_size, distributed.rows(args.batch_size))
    return net


def passes_of(args: cli.Settings, net: nn.Module, device: torch.device) -> int:
    """Return in how many passes the parts of a step are computed: one each, or one for all.

    DeepLab v2 computes them together where the memory of all GPUs allows, which halves the kernels
    and rounds otherwise.
    """
    if args.model != "deeplabv2_resnet101" or device.type == "cpu":
        return args.accumulate
    world = distributed.world_size()
    pictures = args.accumulate * -(-args.batch_size // world)
    needed = PIXEL_BYTES * net.config["width"] / 64 * pictures * args.crop_size**2
    free, _ = torch.cuda.mem_get_info(device)
    allowing = distributed.total(torch.tensor(needed < MEMORY * free).float())
    return 1 if allowing == world else args.accumulate


def accumulated_step(
    model: nn.Module,
    net: nn.Module,
    batch: list[Tensor],
    accumulate: int,
    passes: int,
    amp: str,
) -> Tensor:
    """Add the gradients of a step, whose batch comes in parts; return its loss.

    The loss is a scalar without gradient; summed over processes it is that of the whole batch.

    Args:
        model: the network ``net`` or its data parallel wrapper.
        net: the network.
        batch: window and label of all parts, one after the other.
        accumulate: parts, each with a mean loss of its own.
        passes: in which they are computed, one for all of them or one each.
        amp: how it computes, see :func:`tool.cli.autocast`.
    """
    world, total = distributed.world_size(), 0.0
    some = zip(*(tensor.chunk(passes) for tensor in batch), strict=True)
    for number, (img, label) in enumerate(some, 1):
        adds = world > 1 and number < passes  # gradients meet after the last pass
        with model.no_sync() if adds else contextlib.nullcontext():
            with cli.autocast(amp, img.device):
                outputs = model(img)
            sums, counts = net.loss_sums(outputs, label, accumulate // passes)
            loss = mean_loss(sums * world, distributed.total(counts)) / accumulate
            loss.backward()
        total += loss.detach() / world
    return total


def main(arguments: cli.Words = None) -> None:
    """Train and write the checkpoint."""
    args = parse_arguments(arguments)
    args.label_dir = str(args.label_dir or Path(args.session_name, "pseudo_label"))
    recipe = MODELS[args.model].training
    views = partial(
        SegmentationPictures,
        size=args.crop_size,
        folder=Path(args.label_dir),
        max_pixels=args.max_pixels,
        model=args.model,
        how=TrainingFlags(**{name: getattr(args, name) for name in vars(recipe)}),
    )
    training = Training(
        args,
        "train_seg",
        f"seg_{args.model}",
        views,
        "batch_size",
        parts=args.accumulate,
        total=args.iterations,
    )
    if training.is_finished:
        return
    num_classes, device = training.dataset.num_classes, training.device
    check_class_ids(training.pictures.label_files, num_classes)

    net, record = build(
        MODELS[args.model].network,
        num_classes,
        args.pretrained,
        width=args.width,
        blocks=args.blocks,
        stride_on=args.stride_on,
        stride=args.stride,
        msc_scales=args.msc_scales,
        image_pooling=args.image_pooling,
    )
    if args.frozen_stages is not None:
        net.freeze(args.frozen_stages)
    training.about |= {"model": args.model, "record": record}
    log.info("starting from %s, fresh: %s; %s", args.pretrained, record["fresh"], net.config)
    net = synchronised(args, net, device)
    groups = net.trainable_groups(args.lr, args.weight_decay, args.head_lr)
    model = training.begin(net, groups, args.lr, every=args.lr_every, past=args.lr_past)
    passes = passes_of(args, net, device)
    for _, batch in training.steps():
        loss = accumulated_step(model, net, batch, args.accumulate, passes, args.amp)
        training.update({"CE": loss})
    training.finish()


if __name__ == "__main__":
    run(main)
