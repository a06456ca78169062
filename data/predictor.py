"""A trained network that takes single pictures, without a dataset: see ``predict.py``."""

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from data.coco import COCO
from data.inference import (
    GPU_BATCH,
    SCALES,
    infer,
    load_classifier,
    load_network,
    mean_logits,
    refine,
)
from data.lists import plain
from data.loaders import to_device
from data.picture_loop import batches_of
from data.prediction import Explanation, Prediction
from data.transforms import VIEWS, reduce, rescale
from data.voc import VOC
from net.method import CHOICES, choose
from net.recipes import MODELS
from net.resnet50_SIPE import COMPETITORS, SEED_FEATURES
from tool import checkpoint, cli
from tool.crf import crf_inference_label
from tool.errors import InputError
from tool.maps import fuse
from tool.picture_files import rgb_on_white
from tool.pictures import read_rgb
from tool.reader import Between, check, decoding
from tool.writer import read_note

Picture = str | Path | Image.Image | np.ndarray | Tensor
Labels = str | Sequence[str] | None

REFINE = ("none", "crf")
STAGES = ("cam", "seeds", "prototypes", "IS_cam")
MAPS_NOTE = {
    "seed_feature?": set(SEED_FEATURES),
    "competitors?": set(COMPETITORS),
    "background_weight?": Between(0),
}
PUBLISHED = {len(names): names for names in (VOC.class_names, COCO.class_names)}


def rgb_of(
    picture: Picture,
    bands: tuple[int, ...] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Image.Image:
    """Return a picture as RGB, upright, and laid on white where it is transparent.

    Args:
        picture: path of a file; PIL image of 8-bit samples; array (H, W, 3) uint8; or tensor
            (3, H, W), uint8 or floating point in [0, 1], which is rounded to 8 bits.
        bands, value_range: of files, see :func:`tool.pictures.read_rgb`.

    Raises:
        InputError: the file cannot be read, or the picture is nothing of these.
    """
    if isinstance(picture, str | Path):
        return read_rgb(picture, bands, value_range)
    if isinstance(picture, Image.Image) and not picture.mode.startswith(("I", "F")):
        with decoding("The picture", "Give another one."):
            return rgb_on_white(ImageOps.exif_transpose(picture))
    array = picture
    if isinstance(array, Tensor):
        if array.is_floating_point() and ((array >= 0) & (array <= 1)).all():
            array = (array.float() * 255).round().byte()
        array = np.moveaxis(array.numpy(force=True), 0, -1)
    if isinstance(array, np.ndarray):
        fits = array.dtype == np.uint8 and array.shape[2:] == (3,)
        if fits and array.size:
            return Image.fromarray(array)
    kind, what = getattr(picture, "dtype", "this"), getattr(picture, "shape", picture)
    raise InputError(
        "A picture is a path, a PIL image of 8 bits, an array (H, W, 3) uint8, or a tensor "
        "(3, H, W), uint8 or real numbers that all lie in [0, 1]; not "
        f"{kind} {what!s:.80}."
    )


class Predictor:
    """A trained network that takes single pictures.

    Args:
        ckpt: file of train_resnet50_SIPE.py or train_seg.py, or a published one.
        device: ``"auto"`` (CUDA if there is one), ``"cpu"``, ``"cuda:N"``.
        refine: ``"crf"`` or ``"none"``; None is CRF for a segmentation network, none for maps.
        scales: factors of the picture's sides; None are those of make_cam.py or of the recipe.
        threshold: probability above which a class counts as guessed.
        max_pixels: larger pictures are reduced to so many.
        model: whose network it is where the file does not say so, a key of ``MODELS``.
        class_names: of the K foreground classes where the file does not say so; None are those of
            VOC for 20 classes and of COCO for 80.
        network: module of the classifier. What a file names is compared, and never imported.
        batch_size: pictures of one size at once; None is 1 on the CPU, 4 on CUDA.

    Raises:
        InputError: the file cannot be read, is no such network, names no classes or others than
            ``class_names``, or was trained with another ``network``.
    """

    def __init__(
        self,
        ckpt: str | Path,
        device: str = "auto",
        refine: str | None = None,
        scales: Sequence[float] | None = None,
        threshold: float = 0.5,
        max_pixels: float = 1_000_000,
        model: str | None = None,
        class_names: Sequence[str] | None = None,
        network: str = cli.NETWORK,
        batch_size: int | None = None,
    ) -> None:
        self.device = cli.pick_device(device)
        self.batch_size = batch_size or (1 if self.device.type == "cpu" else GPU_BATCH)
        self.threshold, self.max_pixels = threshold, max_pixels
        content = checkpoint.load(ckpt)
        self.digest = content.digest
        found = content.get("model")
        self.model = model or (found if isinstance(found, str) and found in MODELS else None)
        self.by_crf = (refine or ("crf" if self.model else "none")) == "crf"
        with decoding(ckpt, "Give another file."):
            check(content, {"input?": dict})  # which only checkpoints of ours have
        about = content.get("input") or {}
        self.bands, self.value_range = about.get("bands"), about.get("value_range")
        self.longest = (about.get("long_side") or (0, math.inf))[1]
        if self.model:
            self.recipe, self.view = MODELS[self.model].test, VIEWS[self.model]
            if scales:
                self.recipe = replace(self.recipe, scales=list(scales))
            self.net: Any = load_network(MODELS[self.model].network, content, fold_bn=True)
        else:
            self.net = load_classifier(network, content, fold_bn=True)
            self._choose_as_maps(content.path.parent.parent / "npy")
            self.scales = tuple(scales or SCALES)
        num_classes = self.net.config["num_classes"]
        cli.place(self.net, self.device, channels_last=True)
        self.all_names = ["background", *_names_of(content, num_classes - 1, class_names)]

    def _choose_as_maps(self, folder: Path) -> None:
        """Take up the choices that make_cam.py noted beside maps of this checkpoint, if it did."""
        note = read_note(folder)
        if note.get("digest") == self.digest:
            with decoding(folder, "Make the maps again: make_cam.py --restart"):
                check(note, MAPS_NOTE)
            for name in CHOICES:
                choose(self.net, name, note.get(name))

    def label_of(self, names: str | Sequence[str]) -> Tensor:
        """Return which classes are present, bool (C,), background among them.

        Raises:
            InputError: a name is no class of the network.
        """
        known = {plain(name): key for key, name in enumerate(self.all_names) if key}
        label = torch.zeros(len(self.all_names), dtype=torch.bool)
        label[0] = True
        for name in [names] if isinstance(names, str) else names:
            if plain(name) not in known:
                raise InputError(
                    f"--labels: the network knows no class {name!r}; its classes are "
                    f"{', '.join(known)}."
                )
            label[known[plain(name)]] = True
        return label

    @overload
    def __call__(self, picture: Picture, labels: Labels = None) -> Prediction: ...
    @overload
    def __call__(
        self, picture: list[Any], labels: Sequence[Labels] | None = None
    ) -> list[Prediction]: ...
    @torch.inference_mode()
    def __call__(self, picture, labels=None):
        """Return what the network says of a picture, or of each in a list.

        Args:
            picture: what :func:`rgb_of` takes, or a list of that; those of one size are computed
                together, ``batch_size`` at once.
            labels: names of the classes that it shows, none for an empty list; None: guess them.
                Of a list of pictures, None or a list with such labels for each.

        Raises:
            InputError: a picture is none or cannot be read, or a name is no class.
            ValueError: there are not as many labels as pictures.
        """
        if not isinstance(picture, list):
            return self([picture], [labels])[0]
        labels, items = [None] * len(picture) if labels is None else labels, []
        for one, names in zip(picture, labels, strict=True):
            image = rgb_of(one, self.bands, self.value_range)
            label = None if names is None else self.label_of(names)
            pixels = np.array(reduce(image, self.max_pixels))
            items.append({"picture": pixels, "size": image.size[::-1], "label": label})
        predict, names = self._segment if self.model else self._localize, self.all_names
        for batch in batches_of(sorted(items, key=itemgetter("size")), self.batch_size):
            for item, (scores, keys, maps, mask) in zip(batch, predict(batch), strict=True):
                rounded = [round(score, 6) for score in scores.tolist()]
                item["prediction"] = Prediction(
                    item["picture"],
                    item["size"],
                    [names[key] for key in keys],
                    keys,
                    maps.cpu().numpy(),
                    mask.astype(np.uint8),
                    dict(zip(names[1:], rounded, strict=True)),
                    guessed=item["label"] is None,
                )
        return [item["prediction"] for item in items]

    def check_stages(self) -> None:
        """Raise an InputError where the network has no seeds and prototypes to explain."""
        if not hasattr(self.net, "stages"):
            raise InputError(f"A {type(self.net).__name__} has no seeds and prototypes to explain.")

    @torch.inference_mode()
    def explain(
        self, picture: Picture, labels: Labels = None, at: tuple[int, int] | None = None
    ) -> Explanation:
        """Return what the network says of a picture, and every step of the method on the way.

        Arguments and errors are those of a call with one picture; a network without seeds and
        prototypes raises an InputError too. The mask is refined by the CRF. ``at`` is the column
        and row of the pixel whose similarities are drawn, of the picture before it is reduced; one
        outside raises an InputError.
        """
        self.check_stages()
        refined = copy(self)
        refined.by_crf = True
        found = refined(picture, labels)
        if at is not None:
            (x, y), (height, width), (rows, columns) = at, found.size, found.mask.shape
            if not (0 <= x < width and 0 <= y < height):
                raise InputError(
                    f"--explain_at {x} {y}: the picture has {width} x {height} pixels."
                )
            at = x * columns // width, y * rows // height
        present = self.label_of(found.names[1:]).float().to(self.device)
        img = self.net.prepare(*self._scaled([found.picture], [1]))
        views = self.net.views(torch.cat([img, img.flip(3)]))
        stages = self.net.stages(views, present.view(1, -1, 1, 1))
        feature, shown = stages["feature"][0].cpu().numpy(), found.keys
        of_classes = {name: stages[name][0, shown].cpu().numpy() for name in STAGES}
        return Explanation(**vars(found), **of_classes, feature=feature, at=at)

    def _scaled(self, pictures: list[np.ndarray], scales: Sequence[float]) -> list[Tensor]:
        """Return pictures of one size, uint8 (B, 3, h, w), at every scale."""
        images = [Image.fromarray(picture) for picture in pictures]
        images = [rescale(image, min(1, self.longest / max(image.size))) for image in images]
        resized = ([np.array(rescale(image, scale)) for image in images] for scale in scales)
        return to_device((np.stack(s).transpose(0, 3, 1, 2) for s in resized), self.device)

    def _localize(self, items: list[dict]) -> Iterator[tuple]:
        """Yield scores (K,), keys, maps (P, h, w) and mask (h, w) by IS-CAM of each picture."""
        scaled = self._scaled([item["picture"] for item in items], self.scales)
        img = self.net.prepare(scaled[0])
        scores = self.net.scores(img).sigmoid().cpu()  # (B, K)
        guesses = F.pad(scores > self.threshold, (1, 0), value=True)  # (B, C)
        for item, guess in zip(items, guesses, strict=True):
            if item["label"] is not None:
                guess.copy_(item["label"])
        of_scales = infer(self.net, scaled, guesses.numpy())
        for item, score, label, maps in zip(items, scores, guesses, of_scales, strict=True):
            keys = label.nonzero()[:, 0].numpy()
            picture = item["picture"]
            fused = fuse([one[: len(keys)] for one in maps], picture.shape[:2])
            index = fused.argmax(0).cpu().numpy()
            if self.by_crf:
                index = crf_inference_label(picture, index, 10, len(keys), device=self.device)
            yield score, keys, fused, keys[index]

    def _segment(self, items: list[dict]) -> Iterator[tuple]:
        """Yield scores (K,), keys, maps (P, h, w) and mask (h, w) by a segmentation network."""
        pictures = [item["picture"] for item in items]
        each = mean_logits(self.net, pictures, self.view, self.recipe)  # (B, C, h, w)
        for item, logits in zip(items, each, strict=True):
            scores, label = logits.softmax(0)[1:].amax((1, 2)), item["label"]
            if label is not None:
                logits[~label] = -math.inf
            probabilities = logits.softmax(0)
            if self.by_crf:
                probabilities = refine(item["picture"], probabilities, self.recipe)
            mask = probabilities.argmax(0).cpu().numpy()
            keys = np.union1d(0, mask) if label is None else label.nonzero()[:, 0].numpy()
            yield scores, keys, probabilities[keys], mask


def _names_of(
    content: checkpoint.Checkpoint, number: int, given: Sequence[str] | None
) -> list[str]:
    """Return the names of the K foreground classes, of which there are ``number``.

    They are those that the file has, or ``given`` ones, or those of the published files.
    """
    own = checkpoint.class_names_of(content)
    names = own[1:] if own else list(given or PUBLISHED.get(number, ()))
    if len(names) != number or (given and list(given) != names):
        raise InputError(
            f"{content.path} is of {number} classes, with the names {', '.join(names) or 'unknown'}"
            ". Give the names with --class_names, in the order of training, or leave it out where "
            "the file has them."
        )
    return names
