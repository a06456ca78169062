"""Weights of DeepLab v1: the published MXNet file, PyTorch files, the network they make.

``build`` starts a network for training, ``restore`` gives a trained one back.
"""

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from net.deeplabv1_resnet38 import DeepLabV1_ResNet38
from net.segmentation import Blocks, Weights, architecture_of, rename, start, trained_network
from net.weights import Pretrained, read_pretrained, source_of
from tool import checkpoint
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
MXNET_NAME = re.compile(
    r"(?:arg|aux):(?:(conv1a|bn7)|(res|bn)([2-7])(?:a|b(\d+))_(branch\w+?))"
    rf"_({'|'.join(MXNET_LEAVES)})"
)
IMAGENET_FILE = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"


def build(
    num_classes: int, pretrained: Pretrained, width: int | None = None, blocks: Blocks | None = None
) -> tuple[DeepLabV1_ResNet38, dict[str, Any]]:
    """Return a network to train, and a record of it, see :func:`net.segmentation.start`.

    ``pretrained`` is a file, the MXNet ``.params`` (layout "mxnet") or one of PyTorch with the
    published names ("pytorch"), or ``"none"`` for random weights ("random"). An InputError names a
    file that is unreadable or does not fit.
    """
    if source_of(pretrained) == "imagenet":
        raise InputError(
            f"ResNet-38's ImageNet weights cannot be fetched by a program: get {IMAGENET_FILE} "
            "from github.com/itijyou/ademxapp and give its path."
        )
    state = read_pretrained(pretrained, with_classifier=True)
    chosen = {"num_classes": num_classes, "width": width, "blocks": blocks}
    return start(DeepLabV1_ResNet38, pretrained, state, recognise, chosen)


def restore(content: dict[str, Any]) -> DeepLabV1_ResNet38:
    """Return the trained network, evaluating, of what ``tool.checkpoint.load`` read.

    Where there is no such network in it, or a tensor is missing or left over, it raises an
    InputError.
    """
    return trained_network(DeepLabV1_ResNet38, recognise(checkpoint.state_dict_of(content)))


def recognise(state: dict[str, Tensor]) -> Weights:
    """Give our names to the tensors of MXNet, whose names tell them, or of PyTorch.

    A file of PyTorch (layout ``"pytorch"``) holds a trained network, or the backbone of one, and
    maybe other projects' classifiers; for MXNet's (``"mxnet"``) see :func:`from_mxnet`. Tensors
    that are not those of a ResNet-38 raise an InputError.
    """
    if any(name.startswith(("arg:", "aux:")) for name in state):
        layout, (named, left_out) = "mxnet", from_mxnet(state)
    else:
        layout, state = "pytorch", checkpoint.without_wrappers(state)
        named, left_out = rename(state, DeepLabV1_ResNet38.canonical_name, OTHER_HEADS)
    stem, block = "backbone.conv1a.weight", r"backbone\.b([2-5])(?:_\d+)?\."
    network = f"ResNet-38, which has conv1a and b2 to b7, but {checkpoint.some(named)}"
    architecture = architecture_of(named, stem, block, "cls_conv.weight", network)
    return Weights(layout, named, left_out, architecture)


def from_mxnet(arrays: dict[str, np.ndarray | Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the arrays of the published MXNet file, which ``tool.mxnet_params.load`` reads.

    ``arg:res2a_branch2a_weight`` is b2's first convolution, ``arg:res2b1_...`` b2_1's,
    ``aux:bn2a_branch2a_moving_mean`` a running mean; gamma is the scale, beta the shift. The result
    is ``backbone.*`` tensors, float32, and the names of the ImageNet classifier; see
    :func:`net.segmentation.rename`.
    """
    tensors = {name: torch.as_tensor(array).float() for name, array in arrays.items()}
    return rename(tensors, _from_mxnet_name, "arg:linear1000_")


def _from_mxnet_name(name: str) -> str:
    match = MXNET_NAME.fullmatch(name)
    if not match:
        return name
    module, kind, stage, number, branch, leaf = match.groups()
    if not module:
        block = f"b{stage}_{number}" if number else f"b{stage}"
        module = f"{block}.{'conv' if kind == 'res' else 'bn'}_{branch}"
    return f"backbone.{module}.{MXNET_LEAVES[leaf]}"
