"""The table of segmentation networks that ``--model`` names, with the settings of their recipes."""

from types import ModuleType
from typing import Any, NamedTuple

from net import deeplabv1_weights, deeplabv2_weights
from net.deeplabv1_resnet38 import BN_MOMENTUM

# What the published figures were made with: flags, and their values for DeepLab v2 (kazuto1011's
# deeplab-pytorch) and DeepLab v1 ("seamv1" of YudeWang/semantic-segmentation-codebase).
TRAINING = {
    "iterations": (20_000, 20_000),
    "batch_size": (5, 10),
    "accumulate": (2, 1),
    "crop_size": (321, 448),
    "lr": (2.5e-4, 1e-3),
    "momentum": (0.9, 0.9),
    "weight_decay": (5e-4, 5e-4),
    "lr_every": (10, 1),  # iterations between changes of the learning rate
    "lr_past": (0, 1),
    "head_lr": (10.0, 10.0),
    "bn_momentum": (None, BN_MOMENTUM),
    "scales": ([0.5, 0.75, 1.0, 1.25, 1.5], [0.5, 1.5]),
    "scale_draw": ("choice", "uniform"),
    "resample": ("bilinear", "bicubic"),
    "hsv_shift": (0, 10),
}
SAMPLING = "opencv"  # what resizes the pictures; earlier versions did it with Pillow
TEST = {
    "scales": ([1.0], [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]),
    "mirror": (False, True),
    "crf_iterations": (10, 1),
    "gaussian_sxy": (1.0, 3.0),
    "gaussian_weight": (3.0, 3.0),
    "bilateral_sxy": (67.0, 32.0),
    "bilateral_srgb": (3.0, 13.0),
    "bilateral_weight": (4.0, 10.0),
    "crf_picture": ("original", "original"),
}


class Recipe(NamedTuple):
    """A network and the settings of its published figures: defaults of flags, by name."""

    module: ModuleType  # has ``build`` and ``restore``
    training: dict[str, Any]  # of train_seg.py
    test: dict[str, Any]  # of infer_seg.py


def _column(settings: dict[str, tuple], number: int) -> dict[str, Any]:
    return {flag: values[number] for flag, values in settings.items()}


MODELS = {
    "deeplabv2_resnet101": Recipe(deeplabv2_weights, _column(TRAINING, 0), _column(TEST, 0)),
    "deeplabv1_resnet38": Recipe(deeplabv1_weights, _column(TRAINING, 1), _column(TEST, 1)),
}


def fill_in(args, settings: dict[str, Any]) -> None:
    """Set the flags that were left None to those of a recipe."""
    for name, value in settings.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def told(kind: str, name: str) -> str:
    """Return both recipes' values of a ``"training"`` or ``"test"`` flag, for its help text."""
    values = (getattr(recipe, kind)[name] for recipe in MODELS.values())
    v2, v1 = (" ".join(map(str, v)) if isinstance(v, list) else v for v in values)
    return f"; {v2} (DeepLab v2), {v1} (v1)"
