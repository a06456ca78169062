"""Weights of DeepLab v2: files of deeplab-pytorch and torchvision, the network they make.

``build`` starts a network for training, ``restore`` gives a trained one back.
"""

import re
from typing import Any

import torch
from torch import Tensor

from net import weights
from net.deeplabv2 import MEAN_BGR, DeepLabV2_ResNet101_MSC
from net.inputs import IMAGENET_MEAN, IMAGENET_STD
from net.segmentation import Blocks, Weights, rename, start
from net.weights import Pretrained, read_pretrained
from tool.errors import InputError

STEM = "base.layer1.conv1"
RESNET50 = (3, 4, 6, 3)  # blocks of the smaller network, for which torchvision has weights too
EPSILON = 1e-5  # that torch.nn.BatchNorm2d adds to a variance
BLOCK_NAME = re.compile(r"layer([1-4])\.(\d+)\.(?:(conv|bn)([123])|downsample\.([01]))\.(\w+)")
BRANCHES = {"1": "reduce", "2": "conv3x3", "3": "increase"}  # of torchvision's conv1, conv2, conv3
# Where the network had its stride when it learned weights of a layout.
STRIDE_OF_LAYOUT = {"deeplab": "reduce", "torchvision": "conv3x3"}


def build(
    num_classes: int,
    pretrained: Pretrained,
    width: int | None = None,
    blocks: Blocks | None = None,
    stride_on: str | None = None,
) -> tuple[DeepLabV2_ResNet101_MSC, dict[str, Any]]:
    """Return a network to train, and a record of it, see :func:`net.segmentation.start`.

    ``pretrained`` is a file with the names of deeplab-pytorch (layout "deeplab") or torchvision
    ("torchvision"), ``"imagenet"`` for torchvision's ResNet-101 (fetched once, checksum verified),
    its ResNet-50 for the blocks of one, or ``"none"`` for random weights ("random"). Where
    ``stride_on`` is None, the stride is where the weights had it: ``"conv3x3"`` for torchvision's.
    An InputError names a file that is unreadable or does not fit.
    """
    architecture = "resnet50" if blocks and tuple(blocks) == RESNET50 else "resnet101"
    state = read_pretrained(pretrained, architecture, with_classifier=True)
    chosen = {"num_classes": num_classes, "width": width, "blocks": blocks, "stride_on": stride_on}
    return start(DeepLabV2_ResNet101_MSC, pretrained, state, recognise, chosen)


def restore(content: dict[str, Any]) -> DeepLabV2_ResNet101_MSC:
    """Return the trained network, evaluating, see :func:`net.weights.restore`.

    The stride of a published file is where deeplab-pytorch has it.
    """
    return weights.restore(DeepLabV2_ResNet101_MSC, content)


def recognise(state: dict[str, Tensor]) -> Weights:
    """Tell the layout of a state dict and give its tensors our names.

    A file of deeplab-pytorch (layout ``"deeplab"``) holds an initialisation or a trained network;
    for torchvision's (``"torchvision"``) see :func:`from_torchvision`. Where it is neither, it
    raises an InputError.
    """
    network = DeepLabV2_ResNet101_MSC
    if "conv1.weight" in state:
        layout, (named, left_out) = "torchvision", from_torchvision(state)
    else:
        layout = "deeplab"
        named, left_out = rename(state, network.canonical_name, network.other_heads)
    architecture = {**network.size_of(named), "stride_on": STRIDE_OF_LAYOUT[layout]}
    return Weights(layout, named, left_out, architecture)


def from_torchvision(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the tensors of a torchvision ResNet with bottlenecks, and make it take our input.

    The first convolution w of torchvision expects RGB, (x / 255 - mean) / std; ours gets BGR, x - m
    with m = ``MEAN_BGR``. The weights w' = w s / (255 std), channels reversed, give s times the
    same, but for a constant: the sum of w' (m - 255 mean). The batch normalisation that follows
    takes up both: its mean is multiplied by s and loses the constant; its variance, ``EPSILON``
    included, is multiplied by s^2. The result is exact wherever the 7x7 window lies inside the
    picture; in the padding, zero stands for a mean that differs by less than 1.1 grey levels.

    The factor s = 255 times the mean of std leaves the size of w as it is. With s = 1 the weights
    would be 58 times smaller and their gradients 58 times larger, and the first step of a training
    would destroy them.

    Returned are ``base.*`` tensors, and the names of the classifier, ``fc.*``, of a network of any
    width and depth; see :func:`net.segmentation.rename`. Where the first convolution or its
    normalisation is missing, it raises an InputError.
    """
    named, left_out = rename(state, _from_torchvision_name, "fc.")
    stem = (f"{STEM}.conv.weight", f"{STEM}.bn.running_mean", f"{STEM}.bn.running_var")
    weight, mean, variance = (named.get(name) for name in stem)
    shapes = [None if value is None else value.shape for value in (weight, mean, variance)]
    if None in shapes or shapes != [(*shapes[0][:1], 3, 7, 7), shapes[0][:1], shapes[0][:1]]:
        raise InputError("These weights are not torchvision's: conv1 or bn1 is missing or odd.")
    std = torch.tensor(IMAGENET_STD, dtype=torch.float64)
    s = 255 * std.mean()
    weight = (weight.double() * (s / (255 * std))[:, None, None]).flip(1)
    offset = torch.tensor(MEAN_BGR, dtype=torch.float64)
    offset -= 255 * torch.tensor(IMAGENET_MEAN, dtype=torch.float64).flip(0)
    constant = (weight.sum((2, 3)) * offset).sum(1)  # (width,)
    mean = s * mean.double() - constant
    variance = s**2 * (variance.double() + EPSILON) - EPSILON
    named.update(zip(stem, (weight.float(), mean.float(), variance.float()), strict=True))
    return named, left_out


def _from_torchvision_name(name: str) -> str:
    match = BLOCK_NAME.fullmatch(name)
    if not match:
        return re.sub(r"^(conv|bn)1\.(?=\w+$)", rf"{STEM}.\1.", name)
    layer, block, kind, number, shortcut, leaf = match.groups()
    branch = BRANCHES[number] if kind else "shortcut"
    kind = kind or ("conv", "bn")[int(shortcut)]
    return f"base.layer{int(layer) + 1}.block{int(block) + 1}.{branch}.{kind}.{leaf}"
