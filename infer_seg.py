"""Step 3.2: segment pictures with a network of train_seg.py or a published one.

Reads   <session>/ckpt/seg_<model>.pth (or any --ckpt) and the pictures of --infer_list; with
        --classifier a checkpoint of step 1.1; neither image labels nor masks
Writes  <session>/seg_<model>/<id>.png (every pixel 0..K); overlays in <session>/visual_<folder>
        and an archive for VOC's evaluation server when asked
Try     python infer_seg.py --dataset voc --session_name exp
        python infer_seg.py --dataset voc --infer_list test --out_dir exp/test --archive exp/voc.tgz
Expect  VOC: SIPE's mIoU on val is 68.8 (DeepLab v2) and 68.2 (v1), with the CRF.

A flag that is not given has the value of the network's own recipe. Files that are there, of the
same pictures, are kept, so running the same command again finishes what is left.
"""

import tool  # noqa: F401, I001  # before PyTorch is loaded, see there

import argparse
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from data.archive import ENDINGS, write_archive
from data.datasets import make_parser
from data.inference import (
    CRF_PICTURES,
    enlarged_argmax,
    load_classifier,
    load_network,
    mean_logits,
    refine,
    seen_classes,
)
from data.loaders import plain_picture
from data.picture_loop import PictureStep
from data.transforms import VIEWS
from net.recipes import MODELS, TestFlags, defaults, fill_in
from tool import checkpoint, cli, distributed
from tool.errors import InputError
from tool.run import run

SEEN = 0.05  # smallest probability of a class that counts as seen

log = logging.getLogger(__name__)


def parse_arguments(arguments: cli.Words = None) -> cli.Settings:
    """Return the settings of this program; flags not given have the values of the recipe."""
    parser = make_parser(__doc__, *cli.SPEED, "fold_bn", "max_pixels", "visualize", "restart")
    parser.add_shared("ckpt", default=None, help="as in make_cam.py; None is seg_<model>.pth")
    flag, decide, switch = parser.add_argument, parser.add_deciding, argparse.BooleanOptionalAction
    decide("--model", choices=sorted(MODELS), default="deeplabv2_resnet101", help="network")
    parser.add_shared("infer_list", help="list name or file; None is val, or all of a folder")
    flag("--out_dir", type=Path, help="folder to write; None: <session>/seg_<model>")

    def add(name: str, help_text: str, **more) -> None:
        decide(f"--{name}", help=help_text + defaults("test", name), **more)

    number, weight, crf = {"type": cli.above_zero}, {"type": cli.number}, {"only": {"crf": True}}
    add("scales", "factors of the picture's sides; logits are averaged", nargs="+", **number)
    add("mirror", "average with the logits of the mirrored picture", action=switch)
    instead = "refine by a dense CRF, in place of which --no-crf takes the largest logit"
    decide("--crf", action=switch, default=True, help=instead)
    add("crf_iterations", "of the mean field", type=cli.at_least(0), **crf)
    add("gaussian_sxy", "deviation of the kernel over position, pixels", **number, **crf)
    add("gaussian_weight", "of that kernel", **weight, **crf)
    add("bilateral_sxy", "deviation in position of the other kernel, pixels", **number, **crf)
    add("bilateral_srgb", "its deviation in colour, grey levels", **number, **crf)
    add("bilateral_weight", "of that kernel", **weight, **crf)
    colours = (
        "whose colours the CRF compares; mean_subtracted is what deeplab-pytorch gave it, where "
        "dark values wrap (mIoU 8.27, original 8.28, of a hardly trained network, 40 pictures)"
    )
    add("crf_picture", colours, choices=CRF_PICTURES, **crf)
    knows = "checkpoint of step 1.1, such as final.pth; classes that it does not see are left out"
    decide("--classifier", help=knows)
    least = "probability that --classifier gives at least to a class that it sees"
    sees = {"classifier": True}
    decide("--threshold", type=cli.fraction, default=SEEN, help=least, only=sees)
    parser.add_shared("network", only=sees)
    flag("--archive", type=Path, help=f"file to pack all in; {', '.join(ENDINGS)}")
    alone = "VOC's competition: comp5 is for networks trained on VOC alone"
    flag("--archive_comp", choices=("comp5", "comp6"), default="comp6", help=alone)
    args = parser.parse_args(arguments)
    fill_in(args, MODELS[args.model].test)
    if args.archive and not args.archive.name.endswith(ENDINGS):
        parser.error(f"--archive {args.archive}: the name must end in {', '.join(ENDINGS)}")
    return args


def segment(
    net: nn.Module,
    model: str,
    how: TestFlags,
    crf: bool,
    amp: str,
    seen: Callable[[np.ndarray], Tensor] | None,
    items: list[dict],
) -> list[tuple[np.ndarray]]:
    """Return the labels, (H, W), of pictures.

    Args:
        net, how, amp: of :func:`data.inference.mean_logits`.
        model: whose recipe it is.
        crf: refine by a dense CRF.
        seen: tells of a picture, uint8 (H, W, 3), which classes may win, bool (C,); None: all.
        items: of :func:`data.loaders.plain_picture`.
    """
    labels = []
    for item in items:
        img = item["picture"]
        logits = mean_logits(net, [img], VIEWS[model], how, amp)[0]
        if seen:
            logits.masked_fill_(~seen(img)[:, None, None], -math.inf)
        probabilities = logits.softmax(0)
        if crf:
            probabilities = refine(img, probabilities, how)
        labels.append((enlarged_argmax(probabilities, item["size"]).cpu().numpy(),))
    return labels


def main(arguments: cli.Words = None) -> None:
    """Write the label of every picture on the list, and the archive if asked."""
    args = parse_arguments(arguments)
    step = PictureStep(args, "infer_seg", "test_list")
    session, dataset = step.session, step.dataset
    content = checkpoint.load(session.checkpoint(args.ckpt or f"seg_{args.model}.pth"))
    noted = content.get("model", args.model)
    if isinstance(noted, str) and noted != args.model:  # other projects keep their weights there
        raise InputError(f"{content.path} is a {noted}. Give --model {noted}.")
    checkpoint.check_classes(content, dataset.all_names)
    network, number = MODELS[args.model].network, dataset.num_classes
    net = load_network(network, content, args.fold_bn, num_classes=number)
    cli.place(net, step.device, args.channels_last, args.compile)
    digests, seen = {"digest": content.digest}, None
    if args.classifier:
        other = checkpoint.load(session.checkpoint(args.classifier))
        checkpoint.check_classes(other, dataset.all_names)
        classifier = load_classifier(args.network, other, args.fold_bn, num_classes=number)
        cli.place(classifier, step.device, args.channels_last, args.compile)
        digests["classifier_digest"] = other.digest
        seen = partial(seen_classes, classifier, args.threshold, args.amp)
    how = TestFlags(**{name: getattr(args, name) for name in vars(MODELS[args.model].test)})
    folder = args.out_dir or session.path / f"seg_{args.model}"
    step.write(
        folder,
        partial(plain_picture, dataset, args.max_pixels),
        partial(segment, net, args.model, how, args.crf, args.amp, seen),
        digests,
    )
    if args.archive and distributed.is_main():
        files = [folder / f"{image_id}.png" for image_id in step.ids]
        write_archive(args.archive, args.archive_comp, files)
        log.info("%s written, %d pictures", args.archive, len(step.ids))


if __name__ == "__main__":
    run(main)
