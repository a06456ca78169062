"""What a network of step 1 has: trainer and inference ask for no more, see docs/own_method.md.

Letters in shapes: B pictures, K foreground classes, C = K + 1 classes with background at index 0,
h x w the maps.
"""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from net.inputs import IMAGENET_MEAN, IMAGENET_STD, inside, normalise, prepare
from tool.checkpoint import Checkpoint
from tool.cli import import_named
from tool.errors import InputError
from tool.optimizer import parameter_group
from tool.reader import Between, check, decoding

# What a checkpoint notes of the training, and programs take up.
NOTED = {"settings?": {"network?": str, "background_weight?": Between(0)}}

CHOICES = ("seed_feature", "competitors", "background_weight")  # of a network, by flags


class Method(nn.Module):
    """A network that learns from image-level labels to localize the classes of a picture.

    A subclass is constructed with ``num_classes`` (C) and ``pretrained``, which is ``imagenet``, a
    file, ``none`` or None, may have further arguments with defaults, and writes ``forward``.

    Args:
        num_classes: C.
        config: the further arguments that make the network again, plain values.

    Attributes:
        config: all of them. The checkpoint notes them.
        stride: pixels to which a cell of the maps belongs.
        mean, std: of RGB in [0, 1], by which pictures are normalised.
        head_lr: the factor of the learning rate outside ``self.backbone``.
    """

    stride = 16
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    head_lr = 10.0

    def __init__(self, num_classes: int, **config: Any) -> None:
        super().__init__()
        self.config = {"num_classes": num_classes, **config}

    def forward(self, img: Tensor, valid_mask: Tensor) -> dict[str, Tensor]:
        """Return scores and maps of a batch.

        Args:
            img: (B, 3, H, W), of :meth:`prepare`.
            valid_mask: broadcastable to (B, C, h, w), 1 where a class may be, else 0: in training
                inside the picture, for background and the classes present.

        Returns:
            ``score``, logits (B, K) or (B, K, 1, 1); ``cam`` and ``IS_cam`` (B, C, h, w), at least
            0; and what :meth:`losses` wants besides.
        """
        raise NotImplementedError

    def prepare(self, pictures: Tensor, box: Tensor | None = None) -> Tensor:
        """Return what the network takes, see :func:`net.inputs.prepare`."""
        return prepare(pictures, box, partial(normalise, mean=self.mean, std=self.std))

    def valid_mask(self, box: Tensor, size: int, label: Tensor) -> Tensor:
        """Return where a class may be in training windows, float32 (B, C, h, h) in {0, 1}.

        That is inside the picture, if the class is present, as background always is. For ``box``
        and ``size`` see :func:`net.inputs.inside`; labels are (B, K) in {0, 1}.
        """
        present = F.pad(label.float(), (1, 0), value=1)  # (B, C)
        return inside(box, size, -(-size // self.stride)) * present[:, :, None, None]

    def losses(self, out: dict[str, Tensor], label: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss by name, whose weighed sum is to be minimised.

        Each is a scalar, the mean over the pictures of a batch, of what :meth:`forward` returned
        and labels (B, K) in {0, 1}. CLS, which is all of them here, is the multi-label soft margin
        loss, mean over B and K.
        """
        return {"CLS": F.multilabel_soft_margin_loss(out["score"].flatten(1), label.float())}

    def trainable_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the groups of ``torch.optim``: the backbone, and the rest at a higher rate.

        Without ``self.backbone`` there is one group, at ``lr``.
        """
        backbone = list(getattr(self, "backbone", self).parameters())
        known = set(backbone)
        heads = [parameter for parameter in self.parameters() if parameter not in known]
        return [
            parameter_group("backbone", backbone, lr, 1, weight_decay),
            parameter_group("heads", heads, lr, self.head_lr, weight_decay),
        ]

    def scores(self, img: Tensor) -> Tensor:
        """Return logits (B, K) of whole pictures (B, 3, H, W), to guess their classes by."""
        everywhere = img.new_ones(len(img), self.config["num_classes"], 1, 1)
        return self(img, everywhere)["score"].flatten(1)

    def localize(self, pairs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return CAM and IS-CAM of pictures of one size at one scale, both (B, C, h, w).

        Here they are the means of those of the picture and its mirror image.

        Args:
            pairs: (2B, 3, H, W), each picture followed by its mirror image.
            labels: (B, C, 1, 1) in {0, 1}, background 1.
        """
        out = self(pairs, labels.repeat_interleave(2, 0))
        cam, is_cam = ((x[::2] + x[1::2].flip(3)) / 2 for x in (out["cam"], out["IS_cam"]))
        return cam, is_cam

    @classmethod
    def config_of(cls, state: dict[str, Tensor]) -> dict[str, Any]:
        """Return the arguments that make the network of a file without them, of its tensors.

        The files of a method that is not published have them: without, it is an InputError.
        """
        raise InputError(
            "It does not say what makes its network. Give a checkpoint of train_resnet50_SIPE.py."
        )


def import_network(name: str, trained: Checkpoint | None = None) -> type[Method]:
    """Return the class ``Net`` of the module that ``--network`` names.

    No file decides what is imported: what a checkpoint notes is compared.

    Args:
        name: of the module.
        trained: the checkpoint that is to be loaded; one that notes no network fits all.

    Raises:
        InputError: there is no such module, its Net is no :class:`Method`, or ``trained`` notes
            another one.
    """
    if trained is not None:
        with decoding(trained.path, "Give another file."):
            check(trained, NOTED)
        noted = (trained.get("settings") or {}).get("network", name)
        if noted != name:
            raise InputError(
                f"{trained.path} was trained with --network {noted}, not {name}. Give that flag, "
                "which imports the module, if you trust it."
            )
    found = getattr(import_named("--network", name), "Net", None)
    if not isinstance(found, type) or not issubclass(found, Method):
        raise InputError(
            f"--network {name}: the module has no class Net that is a net.method.Method; see "
            "docs/own_method.md."
        )
    return found


def choose(net: Method, name: str, value: Any) -> Any:
    """Return a choice of the network after it is set to ``value``; None leaves its own.

    Raises:
        InputError: the network has no such choice.
    """
    if value is None:
        return getattr(net, name, None)
    if not hasattr(net, name):
        module = type(net).__module__
        raise InputError(f"--{name}: {module} has no such choice. Leave the flag out.")
    setattr(net, name, value)
    return value
