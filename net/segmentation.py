"""The table of segmentation networks: ``--model`` names a row, with the settings of its recipe."""

from types import ModuleType
from typing import Any, NamedTuple

from net import deeplabv1_resnet38, deeplabv2


class Recipe(NamedTuple):
    """A network and the settings that its published figures were made with.

    Attributes:
        module: has ``build`` and ``restore``.
        training, test: defaults of flags of train_seg.py and infer_seg.py, by name.
    """

    module: ModuleType
    training: dict[str, Any]
    test: dict[str, Any]


MODELS = {
    # kazuto1011/deeplab-pytorch. The learning rate is set anew after every 10th iteration.
    "deeplabv2_resnet101": Recipe(
        deeplabv2,
        training={
            **{"iterations": 20_000, "batch_size": 5, "accumulate": 2, "crop_size": 321},
            **{"lr": 2.5e-4, "momentum": 0.9, "weight_decay": 5e-4, "lr_every": 10, "lr_past": 0},
            **{"head_lr": 10.0, "bn_momentum": None},
            **{"scales": [0.5, 0.75, 1.0, 1.25, 1.5], "scale_draw": "choice"},
            **{"resample": "bilinear", "hsv_shift": 0},
        },
        test={
            **{"scales": [1.0], "mirror": False, "crf_iterations": 10},
            **{"gaussian_sxy": 1.0, "gaussian_weight": 3.0},
            **{"bilateral_sxy": 67.0, "bilateral_srgb": 3.0, "bilateral_weight": 4.0},
        },
    ),
    # "seamv1" of YudeWang/semantic-segmentation-codebase.
    "deeplabv1_resnet38": Recipe(
        deeplabv1_resnet38,
        training={
            **{"iterations": 20_000, "batch_size": 10, "accumulate": 1, "crop_size": 448},
            **{"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "lr_every": 1, "lr_past": 1},
            **{"head_lr": 10.0, "bn_momentum": deeplabv1_resnet38.BN_MOMENTUM},
            **{"scales": [0.5, 1.5], "scale_draw": "uniform"},
            **{"resample": "bicubic", "hsv_shift": 10},
        },
        test={
            **{"scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75], "mirror": True, "crf_iterations": 1},
            **{"gaussian_sxy": 3.0, "gaussian_weight": 3.0},
            **{"bilateral_sxy": 32.0, "bilateral_srgb": 13.0, "bilateral_weight": 10.0},
        },
    ),
}


def fill_in(args, settings: dict[str, Any]) -> None:
    """Set the flags that were left None to those of a recipe."""
    for name, value in settings.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def told(kind: str, name: str) -> str:
    """Return for a help text what a flag is by default: both recipes' values.

    Args:
        kind: ``"training"`` or ``"test"``.
        name: of the flag.
    """
    values = [
        " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in (getattr(recipe, kind)[name] for recipe in MODELS.values())
    ]
    return f"; {values[0]} (DeepLab v2), {values[1]} (v1)"
