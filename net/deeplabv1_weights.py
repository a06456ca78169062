"""Weights of DeepLab v1: the published MXNet file, PyTorch files, the network they make.

``build`` starts a network for training, ``restore`` gives a trained one back.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from net.deeplabv1_resnet38 import DeepLabV1_ResNet38
from net.segmentation import Weights, architecture_of, rename, start, trained_network
from net.weights import read_pretrained, source_of
from tool import checkpoint
from tool.aliases import also_accept
from tool.errors import InputError

# Classifiers of projects that share the backbone: ImageNet's, and those of AffinityNet and SEAM.
OTHER_HEADS = ("linear1000.", "fc8.", "f8_3.", "f8_4.", "f9.")
MXNET_LEAVES = {
    "weight": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}
IMAGENET_FILE = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"


@also_accept(n_classes="num_classes", initial="pretrained")
def build(
    num_classes: int,
    pretrained: str | Path | None,
    width: int | None = None,
    blocks: Iterable[int] | None = None,
) -> tuple[DeepLabV1_ResNet38, dict[str, Any]]:
    """Return a network to train, and a record of what it starts from.

    Args:
        num_classes: with background.
        pretrained: a file (the MXNet ``.params``, or PyTorch with the published names), or
            ``"none"`` for random weights.
        width, blocks: read off the weights where None (the published network without any).

    Returns:
        See :func:`net.segmentation.start`; the layouts are "random", "mxnet" and "pytorch".

    Raises:
        InputError: the file is unreadable or does not fit; the message names it.
    """
    if source_of(pretrained) == "imagenet":
        raise InputError(
            f"ResNet-38's ImageNet weights cannot be fetched by a program: get {IMAGENET_FILE} "
            "from github.com/itijyou/ademxapp and give its path."
        )
    return start(
        DeepLabV1_ResNet38,
        pretrained,
        read_pretrained(pretrained, with_classifier=True),
        recognise,
        num_classes=num_classes,
        width=width,
        blocks=blocks,
    )


def restore(content: dict[str, Any]) -> DeepLabV1_ResNet38:
    """Return the trained network of a checkpoint, ours or the published one, evaluating.

    Args:
        content: of ``tool.checkpoint.load``.

    Raises:
        InputError: there is no such network in it, or a tensor is missing or left over.
    """
    weights = recognise(checkpoint.state_dict_of(content))
    return trained_network(DeepLabV1_ResNet38, weights)


def recognise(state: dict[str, Tensor]) -> Weights:
    """Give our names to the tensors of MXNet, whose names tell them, or of PyTorch.

    Returns:
        Layout ``"mxnet"`` or ``"pytorch"``; see ``from_mxnet`` and ``from_published``.

    Raises:
        InputError: they are not those of a ResNet-38.
    """
    if any(name.startswith(("arg:", "aux:")) for name in state):
        layout, (named, left_out) = "mxnet", from_mxnet(state)
    else:
        layout, (named, left_out) = "pytorch", from_published(state)
    block = r"backbone\.b([2-5])(?:_\d+)?\."
    architecture = architecture_of(named, "backbone.conv1a.weight", block, "cls_conv.weight")
    if architecture is None:
        raise InputError(
            "These weights are not those of a ResNet-38, which has conv1a and b2 to b7, but "
            f"{checkpoint.some(named)}."
        )
    return Weights(layout, named, left_out, architecture)


def from_published(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the tensors of a PyTorch file: a trained network, or the backbone of one.

    Returns:
        named: ``backbone.*`` and the head's tensors.
        left_out: names of classifiers of other projects.
    """

    def name_of(name: str) -> str | None:
        if name.startswith(OTHER_HEADS):
            return None
        return DeepLabV1_ResNet38.canonical_name(name, ())

    return rename(checkpoint.without_wrappers(state), name_of)


def from_mxnet(arrays: dict[str, np.ndarray | Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the arrays of the published MXNet file.

    ``arg:res2a_branch2a_weight`` is b2's first convolution, ``arg:res2b1_...`` b2_1's,
    ``aux:bn2a_branch2a_moving_mean`` a running mean; gamma is the scale, beta the shift.

    Args:
        arrays: of ``tool.mxnet_params.load``.

    Returns:
        named: ``backbone.*`` tensors, float32; a name of another kind is kept, for
            ``load_weights`` to report.
        left_out: the ImageNet classifier.
    """
    tensors = {name: torch.as_tensor(array).float() for name, array in arrays.items()}
    return rename(tensors, _from_mxnet_name)


def _from_mxnet_name(name: str) -> str | None:
    if name.startswith("arg:linear1000_"):
        return None
    leaves = "|".join(MXNET_LEAVES)
    match = re.fullmatch(rf"(?:arg|aux):(conv1a|bn7)_({leaves})", name)
    if match:
        return f"backbone.{match[1]}.{MXNET_LEAVES[match[2]]}"
    match = re.fullmatch(rf"(?:arg|aux):(res|bn)([2-7])(?:a|b(\d+))_(branch\w+?)_({leaves})", name)
    if not match:
        return name
    kind, stage, number, branch, leaf = match.groups()
    block = f"b{stage}" if number is None else f"b{stage}_{number}"
    kind = "conv" if kind == "res" else "bn"
    return f"backbone.{block}.{kind}_{branch}.{MXNET_LEAVES[leaf]}"
