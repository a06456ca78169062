"""The table of segmentation networks that ``--model`` names, with the settings of their recipes."""

from dataclasses import dataclass, replace
from typing import Any

from net.deeplabv1_resnet38 import BN_MOMENTUM, DeepLabV1_ResNet38
from net.deeplabv2 import DeepLabV2_ResNet101_MSC
from net.segmentation import SegmentationNetwork


@dataclass(frozen=True)
class TrainingFlags:
    """Flags of ``train_seg.py``; the defaults are those that both recipes share."""

    batch_size: int
    accumulate: int
    crop_size: int  # pixels
    lr: float
    lr_every: int  # iterations between changes of the learning rate
    lr_past: int  # iterations
    bn_momentum: float | None
    scales: list[float]
    scale_draw: str
    resample: str
    hsv_shift: int
    iterations: int = 20_000
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    head_lr: float = 10.0
    frozen_stages: int | None = None
    msc_scales: list[float] | None = None

    def shared_by(self, processes: int, *given: int | None) -> "TrainingFlags":
        """Return the settings with parts that have a picture for each of so many processes.

        Where the recipe's have not, the whole batch is one part, of which the loss takes one mean
        and not the mean of those of the parts. The user's ``given`` sizes stay.
        """
        if processes <= self.batch_size or any(given):
            return self
        return replace(self, batch_size=self.batch_size * self.accumulate, accumulate=1)


@dataclass(frozen=True)
class TestFlags:
    """Flags of ``infer_seg.py``; deviations in pixels and in grey levels."""

    scales: list[float]
    mirror: bool
    crf_iterations: int
    gaussian_sxy: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float
    gaussian_weight: float = 3.0
    crf_picture: str = "original"


@dataclass(frozen=True)
class Recipe:
    """A network and what its published figures were made with: defaults of flags, by name."""

    network: type[SegmentationNetwork]
    training: TrainingFlags
    test: TestFlags
    short: TrainingFlags | None = None  # --recipe short, which starts from the session's classifier


# kazuto1011's deeplab-pytorch.
DEEPLAB_V2 = Recipe(
    DeepLabV2_ResNet101_MSC,
    TrainingFlags(
        batch_size=5,
        accumulate=2,
        crop_size=321,
        lr=2.5e-4,
        lr_every=10,
        lr_past=0,
        bn_momentum=None,
        scales=[0.5, 0.75, 1.0, 1.25, 1.5],
        scale_draw="choice",
        resample="bilinear",
        hsv_shift=0,
    ),
    TestFlags(
        scales=[1.0],
        mirror=False,
        crf_iterations=10,
        gaussian_sxy=1.0,
        bilateral_sxy=67.0,
        bilateral_srgb=3.0,
        bilateral_weight=4.0,
    ),
    TrainingFlags(
        iterations=600,
        batch_size=8,
        accumulate=1,
        crop_size=193,
        optimizer="adamw",
        lr=4e-5,
        head_lr=0.5,
        weight_decay=0.01,
        lr_every=1,
        lr_past=0,
        bn_momentum=None,
        scales=[0.75, 1.0, 1.25],
        scale_draw="choice",
        resample="bilinear",
        hsv_shift=0,
        frozen_stages=2,
        msc_scales=[],
    ),
)
# "seamv1" of YudeWang/semantic-segmentation-codebase.
DEEPLAB_V1 = Recipe(
    DeepLabV1_ResNet38,
    TrainingFlags(
        batch_size=10,
        accumulate=1,
        crop_size=448,
        lr=1e-3,
        lr_every=1,
        lr_past=1,
        bn_momentum=BN_MOMENTUM,
        scales=[0.5, 1.5],
        scale_draw="uniform",
        resample="bicubic",
        hsv_shift=10,
    ),
    TestFlags(
        scales=[0.5, 0.75, 1.0, 1.25, 1.5, 1.75],
        mirror=True,
        crf_iterations=1,
        gaussian_sxy=3.0,
        bilateral_sxy=32.0,
        bilateral_srgb=13.0,
        bilateral_weight=10.0,
    ),
)
MODELS = {"deeplabv2_resnet101": DEEPLAB_V2, "deeplabv1_resnet38": DEEPLAB_V1}


def fill_in(args, settings: TrainingFlags | TestFlags) -> None:
    """Set the flags that were left None to those of a recipe."""
    for name, value in vars(settings).items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def defaults(kind: str, name: str) -> str:
    """Return both recipes' values of a ``"training"`` or ``"test"`` flag, for its help text."""
    values: list[Any] = [getattr(getattr(recipe, kind), name) for recipe in MODELS.values()]
    v2, v1 = (" ".join(map(str, v)) if isinstance(v, list) else v for v in values)
    return f"; {v2} (DeepLab v2), {v1} (v1)"
