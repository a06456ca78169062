"""Step 1.1: train the SIPE classifier on image-level labels.

Reads   the training list and its image labels; ImageNet weights of ResNet-50
Writes  <session>/ckpt/last.pth (now and then, for continuing), <session>/ckpt/final.pth,
        <session>/runs/ (TensorBoard), <session>/<session>.log, <session>/args.json
Try     python train_resnet50_SIPE.py --dataset voc --session_name exp
Expect  VOC: 3,305 steps, about half an hour on the authors' GPU, validation mIoU near 0.54.

Running the same command again continues it.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from data.base import Dataset, check_exist, warn_constant_labels
from data.datasets import add_dataset_flags, open_dataset
from data.loaders import (
    ClassificationPictures,
    ScaledPictures,
    Schedule,
    one_by_one,
    to_device,
    training_loader,
)
from data.reading import reading_of
from net.inputs import IMAGENET_MEAN, IMAGENET_STD
from net.resnet50_SIPE import CAM_EPS, valid_mask
from net.weights import restore
from tool import cli, distributed
from tool.evaluate import check_class_ids
from tool.metrics import ConfusionMatrix
from tool.optimizer import RELEASED_MOMENTUM, learning_rate, make_optimizer, set_learning_rate
from tool.pictures import heat, overlay
from tool.progress import progress
from tool.run import run
from tool.session import Session
from tool.training import Training, contents_of

GRADIENT_NORM = 1.0  # longer gradients are clipped to this before each update
PICTURES_SHOWN = 4  # of a batch, in TensorBoard

log = logging.getLogger(__name__)


def parse_arguments(arguments: list[str] | None = None) -> cli.Settings:
    """Return the settings of this program."""
    parser = cli.make_parser(__doc__)
    add_dataset_flags(parser)
    cli.add_network_flag(parser)
    cli.add_speed_flags(parser, training=True)
    cli.add_training_flags(parser, print_freq=10, save_freq=200)
    count, decide = cli.at_least(1), parser.add_deciding
    decide("--train_list", help="list name or file; None is the dataset's own")
    parser.add_argument("--val_list", help="pictures with masks for validation; None as above")
    decide("--pretrained", help="imagenet, none, or a file; None is what the dataset starts from")
    decide("--batch_size", type=count, default=16, help="pictures a step")
    decide("--max_epoches", "--max_epochs", type=count, default=5)
    decide("--lr", type=cli.number, default=0.1, help="of layer3 and layer4; heads 10x")
    decide("--wt_dec", type=cli.number, default=1e-4, help="weight decay")
    momentum = "as in the released code; with 0.9 lower --lr about ten times"
    decide("--momentum", type=cli.number, default=RELEASED_MOMENTUM, help=momentum)
    gsc = "of the consistency loss; 0: CAM alone"
    decide("--gsc_weight", type=cli.number, default=1.0, help=gsc)
    decide("--crop_size", type=count, default=512, help="training window, pixels")
    decide("--resize_min", type=count, default=320, help="shortest long side, pixels")
    decide("--resize_max", type=count, default=640, help="longest long side, pixels")
    parser.add_argument("--tf_freq", type=count, default=500, help="steps between TensorBoard maps")
    parser.add_argument(
        "--val_freq", type=cli.at_least(0), default=500, help="steps between validations; 0: never"
    )
    args = parser.parse_args(arguments)
    if args.resize_min > args.resize_max:
        parser.error(f"--resize_min {args.resize_min} is above --resize_max {args.resize_max}")
    return args


def validation_pictures(args: cli.Settings, dataset: Dataset) -> ScaledPictures:
    """Return this process's share of the pictures to validate on, at one scale.

    One without a mask raises an InputError.
    """
    ids = dataset.ids(args.val_list or dataset.eval_list)
    masks = [dataset.mask_path(image_id) for image_id in ids]
    check_exist(masks, "validation masks", "Complete them, or train without: --val_freq 0")
    check_class_ids(masks, dataset.num_classes, dataset.read_mask)
    return ScaledPictures(dataset, distributed.share(ids), scales=(1.0,))


@torch.no_grad()
def validate(
    net: nn.Module, dataset: Dataset, pictures: ScaledPictures, workers: int, device: torch.device
) -> ConfusionMatrix:
    """Return the confusion matrix of IS-CAM at one scale by the training pass, of all processes.

    Seeds come from x4 and ``cam`` is masked by the labels, so the figure is below that of
    ``make_cam.py``: about 54 against 58.9 on VOC.
    """
    matrix = ConfusionMatrix(dataset.num_classes)
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False  # every picture has another size
    for item in progress(one_by_one(pictures, workers), len(pictures), "validation"):
        label, picture = to_device((item["label"], item["pictures"][0][None]), device)
        present = F.pad(label, (1, 0), value=1)  # (C,)
        img = net.prepare(picture)  # (1, 3, H, W)
        is_cam = net(img, present[None, :, None, None].float())["IS_cam"]  # (1, C, h, w)
        keys = present.nonzero()[:, 0]
        maps = F.interpolate(is_cam[:, keys], item["size"], mode="bilinear")[0]
        maps = maps / (maps.amax((1, 2), keepdim=True) + CAM_EPS)  # (P, H, W)
        prediction = keys[maps.argmax(0)].cpu().numpy()
        matrix.update_from(dataset.mask_path(item["id"]), prediction, dataset.read_mask)
    torch.backends.cudnn.benchmark = benchmark
    matrix.counts = distributed.total(torch.from_numpy(matrix.counts)).numpy()
    return matrix


def draw_maps(windows: Tensor, label: Tensor, out: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return, for TensorBoard, CAM and IS-CAM of each picture's first class over the picture.

    Of a picture without class they are those of background.
    """
    drawn: dict[str, list[Tensor]] = {"CAM": [], "IS-CAM": []}
    for i in range(min(PICTURES_SHOWN, len(windows))):
        picture = windows[i].permute(1, 2, 0).cpu().numpy()
        k = int(label[i].argmax() + 1) if label[i].any() else 0
        for name, maps in (("CAM", out["cam"]), ("IS-CAM", out["IS_cam"])):
            one = F.interpolate(maps[i : i + 1, k : k + 1], windows.shape[2:])[0, 0]
            one = (one / (one.max() + CAM_EPS)).detach()
            drawn[name].append(torch.from_numpy(overlay(picture, heat(one.cpu().numpy()))))
    return {name: torch.stack(pictures) for name, pictures in drawn.items()}


def about_input(args: cli.Settings) -> dict[str, list]:
    """Return what the network learns to see, for those who use the checkpoint without the data."""
    sizes = {"long_side": [args.resize_min, args.resize_max]}  # pixels
    return {**sizes, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}  # of RGB in [0, 1]


def build(args: cli.Settings, num_classes: int, begun: dict | None) -> nn.Module:
    """Return the network of ``--network`` with the weights that a training starts from.

    Those are of ``begun``, the checkpoint to continue from, if there is one. ``num_classes`` counts
    background.
    """
    network = cli.import_network(args.network)
    torch.manual_seed(args.seed)  # of the heads; nothing else here draws from torch
    if begun:
        return restore(network.Net, begun, pretrained=None)
    return network.Net(num_classes, args.pretrained)


def main(arguments: list[str] | None = None) -> None:
    """Train, validate now and then, and write the checkpoint."""
    args = parse_arguments(arguments)
    session = Session(args.session_name, "train_resnet50_SIPE", args)
    device = cli.pick_device(args.device, args.tf32)
    dataset = open_dataset(args)
    args.train_list = args.train_list or dataset.train_list
    args.pretrained = args.pretrained or dataset.pretrained
    batch_size = args.batch_size
    ids = dataset.training_ids(args.train_list, batch_size, f"--batch_size {batch_size}")
    contents = contents_of(ids, dataset.labels(ids), args.pretrained)
    training = Training(session, args, dataset.all_names, contents)
    if training.is_finished:
        return
    training.about["input"] = {**about_input(args), **reading_of(dataset)}

    pictures = ClassificationPictures(
        dataset, ids, args.crop_size, args.resize_min, args.resize_max, args.seed
    )
    warn_constant_labels(pictures.labels, dataset.class_names)
    validation = validation_pictures(args, dataset) if args.val_freq else None

    torch.backends.cudnn.benchmark = True  # every batch has the same size
    with training.reading():
        net = build(args, dataset.num_classes, training.begun)
    cli.place(net, device, args.channels_last).train()
    groups = net.trainable_groups(args.lr, args.wt_dec)
    learning = [parameter for group in groups for parameter in group["params"]]
    optimizer = make_optimizer(groups, args.momentum, device, args.fused)
    # Without the consistency loss nothing teaches the side layers.
    model = training.begin(net, optimizer, device, some_unused=not args.gsc_weight)

    rows = distributed.rows(batch_size)
    share = distributed.weight(rows.stop - rows.start, batch_size)
    schedule = Schedule(len(ids), batch_size, args.max_epoches, args.seed, training.start, rows)
    loader = training_loader(pictures, schedule, args.num_workers)
    training.start_clock(schedule, ids)
    log.info("%d pictures, %d classes, %s", len(ids), dataset.num_classes, training.plan(device))
    weights = {"GSC": args.gsc_weight}
    for step, batch in enumerate(loader, training.start):
        rate = learning_rate(args.lr, step, schedule.total)
        set_learning_rate(optimizer, rate)
        window, box, label = to_device(batch.values(), device)
        img = net.prepare(window, box).contiguous(
            memory_format=cli.memory_format(args.channels_last)
        )
        with cli.autocast(args.amp, device):
            out = model(img, valid_mask(box, args.crop_size, label))
        terms = net.losses(out, label)
        loss = sum(
            weights.get(name, 1) * term for name, term in terms.items() if weights.get(name, 1)
        )
        optimizer.zero_grad()
        (loss * share).backward()
        clip_grad_norm_(learning, GRADIENT_NORM)
        optimizer.step()

        validates = args.val_freq and step and step % args.val_freq == 0
        losses = torch.stack([term.detach() for term in terms.values()])
        losses = losses * share / distributed.world_size()
        report = training.note(step, losses, look=validates)
        if report:
            means = dict(zip(terms, report.means, strict=True))
            line = " ".join(f"loss{name}:{mean:.4f}" for name, mean in means.items())
            pace = f"imps:{report.images_per_second:.1f} lr: {rate:.4f} etc:{report.finish}"
            log.info("step:%5d/%5d %s %s", step, schedule.total, line, pace)
            training.chart(step, {f"loss/{name.lower()}": mean for name, mean in means.items()})
            training.chart(step, {"train/learning_rate": rate, **report.pace("train")})
        if step % args.tf_freq == 0 and distributed.is_main():
            for name, drawings in draw_maps(window, label, out).items():
                training.board.add_images(name, drawings, step, dataformats="NHWC")
        if validates:
            net.eval()
            with cli.autocast(args.amp, device):
                matrix = validate(net, dataset, validation, args.num_workers, device)
            net.train()
            for name, iou in zip(dataset.all_names, matrix.iou(), strict=True):
                log.info("  iou %s: %.4f", name, iou)
            log.info("validation step:%5d miou: %.4f", step, matrix.miou())
            training.chart(step, {"validation/miou": matrix.miou()})
        training.save_when_due(step)
    training.finish()


if __name__ == "__main__":
    run(main)
