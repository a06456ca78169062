"""Step 1.1: train the SIPE classifier on image-level labels.

Reads   the training list and its image labels; ImageNet weights of ResNet-50
Writes  <session>/ckpt/last.pth (now and then, for continuing), <session>/ckpt/final.pth,
        <session>/curves.csv, <session>/runs/ (TensorBoard), <session>/<session>.log,
        <session>/args.json
Try     python train_resnet50_SIPE.py --dataset voc --session_name exp
Expect  VOC: 3,305 steps, about half an hour on the authors' GPU, validation mIoU near 0.54.

Running the same command again continues it.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import inspect
import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from data.base import Dataset, check_labels
from data.datasets import make_parser
from data.evaluate import check_class_ids
from data.loaders import (
    ClassificationPictures,
    one_by_one,
    scaled_picture,
    to_device,
)
from data.training import Training
from net.backbones import RESNET50
from net.method import Method, choose, import_network
from net.resnet50_SIPE import CAM_EPS
from tool import cli, distributed
from tool.errors import InputError
from tool.maps import fuse
from tool.metrics import confusion
from tool.optimizer import RELEASED_MOMENTUM
from tool.pictures import overlay
from tool.progress import progress
from tool.run import run

PICTURES_SHOWN = 4  # of a batch, in TensorBoard
GRADIENT_NORM = 1.0  # longer gradients are clipped to this before each update


def loss_weight(text: str) -> tuple[str, float]:
    """An argparse type: the name of a loss and its weight, between them ``=``."""
    name, _, weight = text.partition("=")
    return name, cli.number(weight)


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = make_parser(__doc__, "network", "background_weight")
    cli.add_training_flags(parser, print_freq=10, save_freq=200)
    count, decide = cli.at_least(1), parser.add_deciding
    parser.add_argument("--val_list", help="pictures with masks; None is the dataset's own list")
    backbone = "resnet50, or timm: and a network of timm, such as timm:convnext_tiny"
    decide("--backbone", default=RESNET50, help=backbone)
    decide("--batch_size", type=count, default=16, help="pictures a step")
    decide("--max_epoches", "--max_epochs", type=count, default=5, help="rounds through the list")
    decide("--lr", type=cli.number, default=0.1, help="of layer3 and layer4; heads 10x")
    decide("--wt_dec", type=cli.number, default=1e-4, help="weight decay")
    momentum = "as in the released code; with 0.9 lower --lr about ten times"
    decide("--momentum", type=cli.number, default=RELEASED_MOMENTUM, help=momentum)
    decide("--gsc_weight", type=cli.number, default=1.0, help="of the consistency loss; 0: CAM")
    weights = "of losses, 1 without the flag; GSC=W is --gsc_weight W"
    decide("--loss_weight", type=loss_weight, nargs="+", default={}, metavar="NAME=W", help=weights)
    decide("--crop_size", type=count, default=512, help="training window, pixels")
    decide("--resize_min", type=count, default=320, help="shortest long side, pixels")
    decide("--resize_max", type=count, default=640, help="longest long side, pixels")
    rare = "repeat pictures of classes that a smaller part of them shows; 0: none, as published"
    decide("--repeat_rare", type=cli.within(float, 0, 1), default=0, help=rare)
    parser.add_argument("--tf_freq", type=count, default=500, help="steps between TensorBoard maps")
    parser.add_argument(
        "--val_freq", type=cli.at_least(0), default=500, help="steps between validations; 0: never"
    )
    args = parser.parse_args(arguments)
    if args.backbone != RESNET50:  # what datasets start from is of ResNet-50
        args.pretrained = args.pretrained or "imagenet"
    args.loss_weight = dict(args.loss_weight)
    args.gsc_weight = args.loss_weight.pop("GSC", args.gsc_weight)
    if args.resize_min > args.resize_max:
        parser.error(f"--resize_min {args.resize_min} is above --resize_max {args.resize_max}")
    return args


def make_network(name: str, num_classes: int, pretrained: str, backbone: str) -> Method:
    """Return the network that ``--network`` and ``--backbone`` name; an InputError if it cannot."""
    network = import_network(name)
    if backbone == RESNET50:
        return network(num_classes, pretrained)
    if "backbone" not in inspect.signature(network).parameters:
        raise InputError(f"--backbone {backbone}: {name} has its own. Leave the flag out.")
    return network(num_classes, pretrained, backbone=backbone)


def validation_ids(args: cli.Settings, dataset: Dataset) -> list[str]:
    """Return this process's share of the pictures to validate on.

    One without a mask or label raises an InputError.
    """
    masks = dataset.masks(dataset.ids(args.val_list or dataset.eval_list))
    check_class_ids(list(masks.values()), dataset.num_classes, dataset.read_mask)
    ids = list(masks)
    dataset.labels(ids)
    return distributed.share(ids)


@torch.no_grad()
def validate(
    net: Method, dataset: Dataset, ids: list[str], workers: int, device: torch.device, amp: str
) -> np.ndarray:
    """Return the confusion counts of IS-CAM at one scale by the training pass, of all processes.

    Seeds come from x4 and ``cam`` is masked by the labels, so the figure is below that of
    ``make_cam.py``: about 54 against 58.9 on VOC. The network is back in training mode afterwards.
    """
    classes = dataset.num_classes
    counts = torch.zeros(classes, classes + 1, dtype=torch.int64)
    picture_of = partial(scaled_picture, dataset, (1.0,), math.inf)
    net.eval()
    torch.backends.cudnn.benchmark = False  # every picture has another size
    with cli.autocast(amp, device):
        for item in progress(one_by_one(picture_of, ids, workers), len(ids), "validation"):
            present, picture = to_device((item["present"], item["pictures"][0][None]), device)
            prediction = predict(net, present, picture, item["size"]).cpu().numpy()
            path = dataset.mask_path(item["id"])
            truth = dataset.read_mask(path)
            counts += torch.from_numpy(confusion(classes, truth, prediction, path))
    torch.backends.cudnn.benchmark = True
    net.train()
    return distributed.total(counts).numpy()


def predict(net: Method, present: Tensor, picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the classes that IS-CAM sees in a picture, int64 (H, W).

    Args:
        net: evaluating.
        present: uint8 (C,) in {0, 1}, the classes of the picture and background.
        picture: uint8 (1, 3, h, w).
        size: (H, W).
    """
    img = net.prepare(picture)  # (1, 3, h, w)
    is_cam = net(img, present[None, :, None, None].float())["IS_cam"]  # (1, C, h / 4, w / 4)
    keys = present.nonzero()[:, 0]
    maps = F.interpolate(is_cam[:, keys], size, mode="bilinear")[0]
    maps = maps / (maps.amax((1, 2), keepdim=True) + CAM_EPS)  # (P, H, W)
    return keys[maps.argmax(0)]


def draw_maps(windows: Tensor, label: Tensor, out: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Return, for TensorBoard, CAM and IS-CAM of each picture's first class over the picture.

    Of a picture without class they are those of background.
    """
    shown = windows[:PICTURES_SHOWN].permute(0, 2, 3, 1).cpu().numpy()
    keys = ((label.argmax(1) + 1) * label.any(1))[:PICTURES_SHOWN]
    drawn = {}
    for title, name in {"CAM": "cam", "IS-CAM": "IS_cam"}.items():
        chosen = out[name].detach().float()[torch.arange(len(keys)), keys]  # (n, h, w)
        shares = fuse([chosen], windows.shape[2:]).cpu().numpy()
        drawn[title] = np.stack(list(map(overlay, shown, shares)))
    return drawn


def total_loss(terms: dict[str, Tensor], gsc_weight: float, others: dict[str, float]) -> Tensor:
    """Return the weighed sum of the losses; one without weight is left out.

    Args:
        terms: of :meth:`net.method.Method.losses`.
        gsc_weight: of GSC, if there is such a term.
        others: weights of others by name, where they are not 1.

    Raises:
        InputError: there is no such term, or none has a weight.
    """
    weights = {**dict.fromkeys(terms, 1), "GSC": gsc_weight, **others}
    weighed = [weights[name] * term for name, term in terms.items() if weights[name]]
    if not weighed or not others.keys() <= terms.keys():
        raise InputError(
            f"--loss_weight: the losses of the network are {', '.join(terms)}. Name some of them, "
            "and leave one with a weight."
        )
    return sum(weighed)


def main(arguments: cli.Words = None) -> None:
    """Train, validate now and then, and write the checkpoint."""
    args = parse_arguments(arguments)
    views = partial(
        ClassificationPictures,
        size=args.crop_size,
        smallest=args.resize_min,
        largest=args.resize_max,
        repeat_rare=args.repeat_rare,
    )
    training = Training(args, "train_resnet50_SIPE", "", views, "batch_size", args.max_epoches)
    if training.is_finished:
        return
    dataset, device = training.dataset, training.device
    training.about["input"]["long_side"] = [args.resize_min, args.resize_max]
    check_labels(training.pictures.labels, dataset.class_names, dataset.source_names)
    validation = validation_ids(args, dataset) if args.val_freq else None

    net = make_network(args.network, dataset.num_classes, args.pretrained, args.backbone)
    choose(net, "background_weight", args.background_weight)
    groups = net.trainable_groups(args.lr, args.wt_dec)
    # Without the consistency loss nothing teaches the side layers.
    unused = 0 in (args.gsc_weight, *args.loss_weight.values()) or args.network != cli.NETWORK
    model = training.begin(net, groups, args.lr, some_unused=unused)
    learning = [p for group in training.optimizer.param_groups for p in group["params"]]
    for step, (window, box, label) in training.steps():
        img = net.prepare(window, box)
        with cli.autocast(args.amp, device):
            out = model(img, net.valid_mask(box, args.crop_size, label))
        terms = net.losses(out, label)
        share = len(window) / args.batch_size  # gradients are averaged over processes
        loss = total_loss(terms, args.gsc_weight, args.loss_weight) * distributed.world_size()
        (loss * share).backward()
        clip_grad_norm_(learning, GRADIENT_NORM)
        validates = bool(args.val_freq and step and step % args.val_freq == 0)
        training.update({name: term * share for name, term in terms.items()}, due=validates)
        if step % args.tf_freq == 0:
            training.draw(draw_maps(window, label, out))
        if validates:
            counts = validate(net, dataset, validation, args.num_workers, device, args.amp)
            training.note_validation(counts)
    training.finish()


if __name__ == "__main__":
    run(main)
