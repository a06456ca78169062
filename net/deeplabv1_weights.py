"""Weights of DeepLab v1: the published MXNet file, PyTorch files, the network they make.

``build`` starts a network for training, ``restore`` gives a trained one back.
"""

import re
from typing import Any

from torch import Tensor

from net import weights
from net.deeplabv1_resnet38 import DeepLabV1_ResNet38
from net.segmentation import Blocks, Weights, rename, start
from net.weights import Pretrained, read_pretrained, source_of
from tool.errors import InputError

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
    """Return the trained network, evaluating, see :func:`net.weights.restore`."""
    return weights.restore(DeepLabV1_ResNet38, content)


def recognise(state: dict[str, Tensor]) -> Weights:
    """Give our names to the tensors of MXNet, whose names tell them, or of PyTorch.

    A file of PyTorch (layout ``"pytorch"``) holds a trained network, or the backbone of one, and
    maybe other projects' classifiers. MXNet's (``"mxnet"``) holds the backbone and the classifier
    of ImageNet. Tensors that are not those of a ResNet-38 raise an InputError.
    """
    network = DeepLabV1_ResNet38
    if any(name.startswith(("arg:", "aux:")) for name in state):
        layout, (named, left_out) = "mxnet", rename(state, from_mxnet, "arg:linear1000_")
    else:
        layout = "pytorch"
        named, left_out = rename(state, network.canonical_name, network.other_heads)
    return Weights(layout, named, left_out, network.size_of(named))


def from_mxnet(name: str) -> str:
    """Return our name of an array of the published MXNet file, any other name as it is.

    ``arg:res2a_branch2a_weight`` is b2's first convolution, ``arg:res2b1_...`` b2_1's,
    ``aux:bn2a_branch2a_moving_mean`` a running mean; gamma is the scale, beta the shift.
    """
    match = MXNET_NAME.fullmatch(name)
    if not match:
        return name
    module, kind, stage, number, branch, leaf = match.groups()
    if not module:
        block = f"b{stage}_{number}" if number else f"b{stage}"
        module = f"{block}.{'conv' if kind == 'res' else 'bn'}_{branch}"
    return f"backbone.{module}.{MXNET_LEAVES[leaf]}"
