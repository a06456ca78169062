"""A trained network that takes single pictures, without a dataset: see ``predict.py``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.coco import COCO
from data.inference import SCALES, infer, load_network, mean_logits, refine
from data.lists import plain
from data.loaders import to_device
from data.transforms import VIEWS, reduce, rescale
from data.voc import VOC
from net.method import import_network
from net.recipes import MODELS
from net.weights import restore
from tool import checkpoint, cli
from tool.crf import crf_inference_label
from tool.errors import InputError, naming
from tool.maps import fuse
from tool.pictures import heat, overlay, read_rgb, save_label, save_label_drawing, save_rgb
from tool.reader import Between, check, decoding
from tool.writer import own_folder, read_note, safe_name, write_json

REFINE = ("none", "crf")
BAND = Between(1)
# What a checkpoint of ours notes beside its weights.
NOTED = {
    "input?": {
        "bands?": (BAND, BAND, BAND),
        "value_range?": (float, float),
        "long_side?": (BAND, BAND),
    },
}
PUBLISHED = {len(names): names for names in (VOC.class_names, COCO.class_names)}


@dataclass(frozen=True)
class Prediction:
    """What a network says of one picture.

    Attributes:
        picture: uint8 (h, w, 3) RGB, reduced where it is large.
        size: (H, W) of the picture as it is.
        names: of the P classes that have maps, background first.
        keys: their ids, int64 (P,).
        maps: float32 (P, h, w) in [0, 1]: IS-CAM, or probabilities of a segmentation network.
        mask: uint8 (h, w) of class ids.
        scores: class name -> score in [0, 1] of every foreground class: the classifier's
            probability, or the largest one of all pixels.
        guessed: nobody named the classes.
    """

    picture: np.ndarray
    size: tuple[int, int]
    names: list[str]
    keys: np.ndarray
    maps: np.ndarray
    mask: np.ndarray
    scores: dict[str, float]
    guessed: bool

    def about(self) -> dict[str, Any]:
        """Return plain values: size, labels, scores, and the area share and box of each class.

        A box is [left, top, right, bottom] in pixels of the picture as it is, end exclusive.
        """
        classes, (height, width) = [], self.mask.shape
        across, down = self.size[1] / width, self.size[0] / height
        for key, name in zip(self.keys[1:].tolist(), self.names[1:], strict=True):
            area = self.mask == key
            box = Image.fromarray(area).getbbox()
            if box:
                box = [round(end * by) for end, by in zip(box, (across, down) * 2, strict=True)]
            classes.append(
                {
                    "name": name,
                    "id": key,
                    "score": self.scores[name],
                    "box": box,
                    "area_share": float(area.mean()),
                }
            )
        return {
            "height": self.size[0],
            "width": self.size[1],
            "labels": "guessed" if self.guessed else "given",
            "classes": classes,
            "scores": self.scores,
        }

    def save(self, folder: str | Path, name: str) -> None:
        """Write the mask at the picture's size, drawings of it and of the maps, and the JSON.

        A folder of somebody else's files raises an InputError.
        """
        folder = Path(folder)
        if not read_note(folder):
            own_folder(folder, "predict")
        save_label(folder / f"{name}_mask.png", self.mask, self.size)
        names = dict(zip(self.keys.tolist(), self.names, strict=True))
        save_label_drawing(folder / f"{name}_overlay.png", self.picture, self.mask, names)
        for class_name, one in zip(self.names[1:], self.maps[1:], strict=True):
            path = folder / f"{name}_heat_{safe_name(class_name)}.png"
            save_rgb(path, overlay(self.picture, heat(one)))
        write_json(folder / f"{name}.json", self.about())


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
    ) -> None:
        self.device = cli.pick_device(device)
        self.threshold, self.max_pixels = threshold, max_pixels
        content = checkpoint.load(ckpt)
        self.digest = content.digest
        found = content.get("model")
        self.model = model or (found if isinstance(found, str) and found in MODELS else None)
        self.by_crf = (refine or ("crf" if self.model else "none")) == "crf"
        with decoding(ckpt, "Give another file."):
            check(content, NOTED)
        about = content.get("input") or {}
        self.bands, self.value_range = about.get("bands"), about.get("value_range")
        self.longest = (about.get("long_side") or (0, math.inf))[1]
        if self.model:
            self.recipe = MODELS[self.model].test
            if scales:
                self.recipe = replace(self.recipe, scales=list(scales))
            self.net = restore(MODELS[self.model].network, content)
        else:
            trained_by = import_network(network, content)
            self.net = load_network(trained_by, content, fold_bn=True, pretrained=None)
            self.scales = tuple(scales or SCALES)
        num_classes = self.net.config["num_classes"]
        cli.place(self.net, self.device, channels_last=True)
        self.all_names = ["background", *_names_of(content, num_classes - 1, class_names)]

    def ids_of(self, labels: Sequence[str]) -> list[int]:
        """Return the class ids of names.

        Raises:
            InputError: a name is no class of the network.
        """
        known = {plain(name): key for key, name in enumerate(self.all_names) if key}
        for name in labels:
            if plain(name) not in known:
                raise InputError(
                    f"--labels: the network knows no class {name!r}; its classes are "
                    f"{', '.join(known)}."
                )
        return sorted({known[plain(name)] for name in labels})

    @torch.inference_mode()
    def __call__(self, path: str | Path, labels: Sequence[str] | None = None) -> Prediction:
        """Return what the network says of a picture.

        Args:
            path: of the picture, in any format of :func:`tool.pictures.read_rgb`.
            labels: names of the classes that it shows, none for an empty list; None: guess them.

        Raises:
            InputError: the picture cannot be read, or a name is no class.
            TypeError: ``path`` is no path.
        """
        keys = None if labels is None else self.ids_of(labels)
        image = read_rgb(path, self.bands, self.value_range)
        picture = np.array(reduce(image, self.max_pixels))
        with naming(path):
            predict = self._segment if self.model else self._localize
            scores, keys, maps, mask = predict(picture, keys)
        names = self.all_names[1:]
        return Prediction(
            picture,
            (image.height, image.width),
            [self.all_names[key] for key in keys],
            np.array(keys),
            maps.cpu().numpy(),
            mask.astype(np.uint8),
            {name: round(one, 6) for name, one in zip(names, scores.tolist(), strict=True)},
            guessed=labels is None,
        )

    def _localize(self, picture: np.ndarray, keys: list[int] | None):
        """Return scores (K,), keys, maps (P, h, w) and mask (h, w) by IS-CAM."""
        image = Image.fromarray(picture)
        image = rescale(image, min(1, self.longest / max(image.size)))
        scaled = [np.array(rescale(image, scale))[None] for scale in self.scales]
        scaled = to_device((pixels.transpose(0, 3, 1, 2) for pixels in scaled), self.device)
        img = self.net.prepare(scaled[0])
        scores = self.net.scores(img)[0].sigmoid()  # (K,)
        if keys is None:
            keys = ((scores > self.threshold).nonzero()[:, 0] + 1).tolist()
        keys = [0, *keys]
        label = torch.zeros(1, len(self.all_names))
        label[0, keys] = 1
        (of_scales,) = infer(self.net, scaled, label)
        maps = fuse([maps[: len(keys)].float() for maps in of_scales], picture.shape[:2])
        index = maps.argmax(0).cpu().numpy()
        if self.by_crf:
            index = crf_inference_label(picture, index, 10, len(keys), device=self.device)
        return scores, keys, maps, np.array(keys)[index]

    def _segment(self, picture: np.ndarray, keys: list[int] | None):
        """Return scores (K,), keys, maps (P, h, w) and mask (h, w) by a segmentation network."""
        logits = mean_logits(self.net, picture, VIEWS[self.model], self.recipe)  # (C, h, w)
        scores = logits.softmax(0)[1:].amax((1, 2))
        if keys is not None:
            absent = sorted(set(range(1, len(logits))).difference(keys))
            logits[absent] = -math.inf
        probabilities = logits.softmax(0)
        if self.by_crf:
            probabilities = refine(picture, probabilities, self.recipe)
        mask = probabilities.argmax(0).cpu().numpy()
        if keys is None:
            keys = [key for key in np.unique(mask).tolist() if key]
        keys = [0, *keys]
        return scores, keys, probabilities[keys], mask


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
