"""Backbones of step 1: ResNet-50, or any network of timm that makes feature maps.

A backbone is a module with ``channels`` and ``strides`` of its stages, ``mean`` and ``std`` of its
pictures, RGB in [0, 1], and ``config``, the arguments of :func:`build` that make it again. Its
``forward(img) -> stages`` makes maps (B, channels, ceil(H / stride), ceil(W / stride)) of pictures
(B, 3, H, W), normalised. A network of timm has four stages, or less where it has no more; all that
its second one needs is frozen.
"""

from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from net.resnet50 import ResNet50, build_backbone
from net.weights import Pretrained, read_pretrained
from tool.checkpoint import load_weights
from tool.errors import InputError, naming
from tool.reader import reason_of

RESNET50 = "resnet50"
TIMM = "timm:"  # before a name of timm
STAGES = 4
FROZEN = 2  # stages, as of ResNet-50: stem, layer1 and layer2
# What timm raises where it lacks weights of a name, or a network makes no maps of any size.
UNFIT = (AssertionError, AttributeError, RuntimeError, ValueError)


class TimmBackbone(nn.Module):
    """The last four stages of a network of timm, or four blocks of a ViT at equal distances.

    It always computes as in evaluation: batch normalisation uses the stored mean and variance, and
    no path is dropped by chance, so that a continued training is the same as one in one go.

    Args:
        name: of timm, such as ``"convnext_tiny.fb_in1k"``.
        pretrained: see :func:`build`.

    Attributes:
        ignored: names in a file of timm that have no place here, those of its classifier.

    Raises:
        InputError: timm is missing or has no such network or weights, the network does not make
            feature maps of pictures of any size, or a file does not fit.
    """

    aliases = ((r"^", "net."),)  # files of timm have the names of its own networks
    net: Any

    def __init__(self, name: str, pretrained: Pretrained = None) -> None:
        super().__init__()
        self.config = {"backbone": f"{TIMM}{name}"}
        fetched = pretrained == "imagenet"
        state = None if fetched else read_pretrained(pretrained)
        flag = f"--backbone {TIMM}{name}"
        try:
            import timm
        except ImportError as error:
            raise InputError(f"{flag} needs the package timm: pip install timm") from error
        if not timm.is_model(name):  # else timm would fetch what else a name stands for
            raise InputError(f"{flag}: timm has no such network; timm.list_models() has the names.")
        try:
            with suppress(TypeError):  # networks that take any size do not have this argument
                self.net = timm.create_model(name, fetched, dynamic_img_size=True)
            if not hasattr(self, "net"):
                self.net = timm.create_model(name, fetched)
            self._choose_stages()
            self._freeze()
        except OSError as error:
            source = timm.get_pretrained_cfg(name).hf_hub_id
            raise InputError(
                f"{flag}: timm could not fetch its weights: {reason_of(error)}. Download "
                f"https://huggingface.co/{source}/resolve/main/model.safetensors by hand and pass "
                "--pretrained PATH, or --pretrained none for random weights."
            ) from error
        except UNFIT as error:
            raise InputError(
                f"{flag} cannot be used ({reason_of(error)}). Give a network of timm that makes "
                "feature maps of pictures of any size, such as timm:convnext_tiny."
            ) from error
        about = self.net.pretrained_cfg
        self.mean, self.std = about["mean"], about["std"]
        if state:
            with naming(pretrained):
                load_weights(self, state)

    def _choose_stages(self) -> None:
        """Choose the stages that :meth:`forward` returns, and remove what lies behind them."""
        stages = self.net.feature_info
        of_one_kind = stages[0]["reduction"] == stages[-1]["reduction"]
        step = len(stages) // STAGES if of_one_kind else 1
        self.indices = list(range(len(stages)))[step - 1 :: step][-STAGES:]
        self.channels = [stages[i]["num_chs"] for i in self.indices]
        self.strides = [stages[i]["reduction"] for i in self.indices]
        names = self.net.state_dict().keys()
        self.net.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        self.ignored = tuple(names - self.net.state_dict().keys())

    def _freeze(self) -> None:
        """Freeze all weights that the stage FROZEN depends on; a ValueError refuses other maps."""
        self.eval()
        size = 6 * self.strides[-1]
        with torch.enable_grad():
            stages = self(torch.zeros(1, 3, size, size))
            found = [x.shape[1:] for x in stages]
            cells = [size // stride for stride in self.strides]
            if found != list(zip(self.channels, cells, cells, strict=True)):
                raise ValueError(f"its stages have the shapes {found}")
            weights = list(self.parameters())
            early = torch.autograd.grad(stages[FROZEN - 1].sum(), weights, allow_unused=True)
        for weight, gradient in zip(weights, early, strict=True):
            weight.requires_grad_(gradient is None)

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(self, img: Tensor) -> list[Tensor]:
        """Return the stages, see the module. A picture is padded with the mean colour.

        Whole patches and windows so fit into its sides; what the padding gives is cut off.
        """
        height, width = img.shape[2:]
        cell = self.strides[-1]
        stages = self.net.forward_intermediates(
            F.pad(img, (0, (cell - width % cell) % cell, 0, (cell - height % cell) % cell)),
            indices=self.indices,
            norm=False,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return [
            x[:, :, : (height - 1) // stride + 1, : (width - 1) // stride + 1]
            for x, stride in zip(stages, self.strides, strict=True)
        ]


def build(
    backbone: str, pretrained: Pretrained, width: int | None = None
) -> ResNet50 | TimmBackbone:
    """Return a backbone with its first weights.

    Args:
        backbone: ``"resnet50"``, or ``"timm:"`` and a name of timm.
        pretrained: see :func:`net.weights.read_pretrained`; ``"imagenet"`` are timm's own weights
            for a network of timm, whatever they were trained on, and a file has its names.
        width: of ResNet-50, see :func:`net.resnet50.build_backbone`.

    Raises:
        InputError: there is no such backbone, or the weights do not fit.
    """
    if backbone == RESNET50:
        return build_backbone(pretrained, width, frozen_stages=FROZEN)
    if not backbone.startswith(TIMM):
        raise InputError(f"--backbone {backbone}: it is {RESNET50}, or {TIMM} and a name of timm.")
    return TimmBackbone(backbone.removeprefix(TIMM), pretrained)
