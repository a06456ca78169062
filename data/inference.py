"""What trained networks say of single pictures: localization maps, and class probabilities.

Shared by ``make_cam.py`` and ``infer_seg.py``, which work through a dataset, and ``predict.py``.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.loaders import to_device
from net.deeplabv2 import MEAN_BGR
from net.method import Method, choose, import_network
from net.recipes import TestFlags
from net.resnet50 import fold_batch_norm
from net.resnet50_SIPE import Net
from net.weights import restore
from tool import cli
from tool.checkpoint import Checkpoint
from tool.crf import crf_inference
from tool.errors import InputError
from tool.maps import fuse

SCALES = (1.0, 0.5, 1.5, 2.0)  # of the pictures whose maps are fused
GPU_BATCH = 4  # pictures of one size in a forward pass on CUDA
WEIGHTS = tuple(number / 20 for number in range(10, 41))  # of background, to choose from
WRONG = 0.08  # share of a picture's positions that a class may win, on average, where it is not
CRF_PICTURES = ("original", "mean_subtracted")
ABSENT = 1e-4  # a class whose probability is nowhere above that takes no part in the CRF


def load_network(
    network: type[nn.Module], content: Checkpoint, fold_bn: bool, **options
) -> nn.Module:
    """Return a network at inference, evaluating, on the CPU.

    Args:
        network: its class.
        content: of :func:`tool.checkpoint.load`.
        fold_bn: put batch normalisation into the convolutions.
        options: of the network, before those of the checkpoint.

    Raises:
        InputError: the weights do not fit.
    """
    net = restore(network, content, **options)
    return fold_batch_norm(net) if fold_bn else net


def load_classifier(network: str, content: Checkpoint, fold_bn: bool, **options) -> Method:
    """Return a network of step 1 as :func:`load_network` does, weighing background as it learnt.

    Args:
        network: module of its class, see :func:`net.method.import_network`.
        content, fold_bn, options: of :func:`load_network`.

    Raises:
        InputError: the weights do not fit, or are of another network.
    """
    kind = import_network(network, content)
    net = load_network(kind, content, fold_bn, pretrained=None, **options)
    trained = content.get("settings") or {}
    choose(net, "background_weight", trained.get("background_weight"))
    return net


@torch.inference_mode()
def find_background_weight(net: Net, items: Iterable[dict]) -> float:
    """Return a weight of background in the seeds that suits a network, found without masks.

    Each picture gets one class more that it does not show, its absent classes in turn. What such a
    class wins by IS-CAM at the first scale is wrong. The smallest of WEIGHTS counts with which it
    wins, on average, at most WRONG of a picture's positions, or the largest where there is none.

    Args:
        net: on its device, evaluating. Its own weight is another one afterwards.
        items: of :func:`data.loaders.scaled_picture`, without a class at least.
    """
    wins = []
    for number, item in enumerate(items):
        absent = np.flatnonzero(item["present"] == 0)
        key = absent[number % len(absent)]
        label = item["present"].copy()  # (C,)
        label[key] = 1
        device = next(net.parameters()).device
        picture, mask = to_device((item["pictures"][0], label), device)
        img = net.prepare(picture[None])
        views = net.views(torch.cat([img, img.flip(3)]))
        for net.background_weight in WEIGHTS:
            is_cam = net.stages(views, mask.view(1, -1, 1, 1).float())["IS_cam"][0]
            winner = fuse([is_cam], is_cam.shape[1:]).argmax(0)  # (h, w)
            wins.append((winner == key).float().mean())
    shares = torch.stack(wins).view(-1, len(WEIGHTS)).mean(0).tolist()
    few = (weight for weight, share in zip(WEIGHTS, shares, strict=True) if share <= WRONG)
    return next(few, WEIGHTS[-1])


def infer(
    net: Method,
    pictures: list[Tensor],
    labels: np.ndarray,
) -> list[list[Tensor]]:
    """Return the maps of the present classes, at every scale, of pictures of one size.

    Args:
        net: evaluating.
        pictures: uint8 (B, 3, h, w) a scale, on the network's device.
        labels: (B, C) in {0, 1}, background 1.

    Returns:
        Of each picture and scale float32 (2P - 1, h', w'): IS-CAM of its P classes, background
        first, and plain CAM of the P - 1 others. :func:`tool.maps.fuse` makes one map a class of
        them.
    """
    present = [label.nonzero()[0] for label in labels]
    maps: list[list[Tensor]] = [[] for _ in labels]
    # Nothing here waits for a GPU, which has work of several batches.
    masks, together = to_device((labels, np.concatenate(present)), pictures[0].device)
    masks = masks[:, :, None, None].float()  # (B, C, 1, 1)
    keys = together.split([len(one) for one in present])
    for one_scale in pictures:
        img = net.prepare(one_scale)
        pairs = torch.stack([img, img.flip(3)], 1).flatten(0, 1)  # (2B, 3, h, w)
        cams, is_cams = net.localize(pairs, masks)  # (B, C, h, w)
        for of_picture, kept, is_cam, cam in zip(maps, keys, is_cams, cams, strict=True):
            of_picture.append(torch.cat([is_cam[kept], cam[kept[1:]]]).float())
    return maps


def infer_fitting(
    scales: Sequence[float], net: Method, pictures: list[Tensor], labels: np.ndarray
) -> list[list[Tensor]]:
    """Return what :func:`infer` does, but of one scale of each picture, which its objects choose.

    Where the maps of the first scale see classes on a share a of the picture, an enlargement of
    1 / sqrt(a) gives them the area of a whole picture. The nearest of the scales, by their ratio,
    counts.

    Args:
        scales: of the pictures, above 0.
        net, pictures, labels: of :func:`infer`.

    Returns:
        Of each picture one map (2P - 1, h', w') in a list.
    """
    logs, chosen = np.log(scales), []
    for row, (maps,) in enumerate(infer(net, pictures[:1], labels)):
        is_cam = maps[: labels[row].sum()]  # (P, h, w)
        winner = fuse([is_cam], is_cam.shape[1:]).argmax(0)
        share = max(1, int(winner.count_nonzero())) / winner.numel()
        nearest = np.abs(logs + math.log(share) / 2).argmin()
        one = pictures[nearest][row : row + 1]
        chosen += infer(net, [one], labels[row : row + 1]) if nearest else [[maps]]
    return chosen


def seen_classes(net: Method, threshold: float, amp: str, picture: np.ndarray) -> Tensor:
    """Return which classes a classifier sees in a picture, bool (C,), background always.

    They are those whose probability is at least a threshold, the sigmoid of the mean score of the
    picture at its own size and of its mirror image.

    Args:
        net: on its device, evaluating.
        threshold: 0 to 1.
        amp: of :func:`tool.cli.autocast`.
        picture: uint8 (H, W, 3) RGB.
    """
    device = next(net.parameters()).device
    (one,) = to_device((picture.transpose(2, 0, 1)[None],), device)
    both = net.prepare(torch.cat([one, one.flip(3)]))
    with cli.autocast(amp, device):
        scores = net.scores(both).float()  # (2, K)
    return F.pad(scores.mean(0).sigmoid() >= threshold, (1, 0), value=True)


def mean_logits(
    net: nn.Module,
    pictures: Sequence[np.ndarray],
    view: Callable[[np.ndarray, float], np.ndarray],
    how: TestFlags,
    amp: str = "off",
) -> Tensor:
    """Return logits averaged over scales, and mirrored pictures if asked, float32 (B, C, H, W).

    Args:
        net: on its device, evaluating.
        pictures: uint8 (H, W, 3) RGB, of one size.
        view: makes what the network takes of a picture and a scale, one of ``VIEWS``.
        how: scales, and whether to mirror.
        amp: of :func:`tool.cli.autocast`.
    """
    total, size, turns = 0.0, pictures[0].shape[:2], [False, True] if how.mirror else [False]
    device = next(net.parameters()).device
    for scale in how.scales:
        scaled = np.stack([view(picture, scale) for picture in pictures])  # (B, 3, h, w)
        for mirrored in turns:
            (x,) = to_device((scaled,), device)
            x = (x.flip(3) if mirrored else x).contiguous()
            with cli.autocast(amp, device):
                logits = net.predict(x, size).float()
            total = total + (logits.flip(3) if mirrored else logits)
    return total / (len(how.scales) * len(turns))


def enlarged_argmax(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the argmax over C of scores (C, h, w) resized bilinearly, int64 (H, W).

    One class at a time, so that memory does not grow with C * H * W. Ties go to the lower class.
    """
    best = torch.full(size, -math.inf, device=scores.device)
    label = torch.zeros(size, dtype=torch.int64, device=scores.device)
    for k in range(len(scores)):
        score = F.interpolate(scores[None, k : k + 1], size, mode="bilinear")[0, 0]
        label[score > best] = k
        best = torch.maximum(best, score)
    return label


def crf_picture(picture: np.ndarray, kind: str) -> np.ndarray:
    """Return the picture, uint8 (H, W, 3) RGB, whose colours the CRF compares.

    Args:
        picture: uint8 (H, W, 3) RGB.
        kind: ``"original"``, or ``"mean_subtracted"`` for what deeplab-pytorch hands over: minus
            the mean, cut to whole numbers towards 0, of which negative ones wrap around at 256.
    """
    if kind == "original":
        return picture
    return (picture - np.array(MEAN_BGR[::-1])).astype(np.int64).astype(np.uint8)


def refine(picture: np.ndarray, probabilities: Tensor, how: TestFlags) -> Tensor:
    """Return class probabilities (C, H, W) after the CRF.

    Its time grows with the classes, so those that are nowhere above ABSENT are left out, with 0.

    Raises:
        InputError: the picture or the kernels are too large for the CRF.
    """
    absent = probabilities.flatten(1).amax(1) <= ABSENT  # NaN is not, and the CRF refuses it
    classes = (~absent).nonzero()[:, 0]
    refined = torch.zeros_like(probabilities)
    try:
        refined[classes] = crf_inference(
            crf_picture(picture, how.crf_picture),
            probabilities[classes],
            how.crf_iterations,
            how,
        )
    except ValueError as error:
        raise InputError(f"{error} See --*_sxy and --bilateral_srgb.") from error
    return refined
