"""A trained network that takes single pictures, without a dataset: see ``predict.py``."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.coco import COCO
from data.inference import SCALES, infer, load_classifier, mean_logits, refine
from data.lists import plain
from data.loaders import channels_first, to_device
from data.transforms import VIEWS, reduce, rescale
from data.voc import VOC
from net.recipes import MODELS
from net.weights import restore
from tool import checkpoint, cli
from tool.crf import crf_inference_label
from tool.errors import InputError, naming
from tool.maps import fuse
from tool.memory import LOWER_PIXELS, enough_memory
from tool.pictures import (
    heat,
    label_overlay,
    overlay,
    read_rgb,
    save_label,
    save_rgb,
    with_legend,
)
from tool.reader import Between, Damaged, check, decoding
from tool.writer import NOTE, own_folder, read_note, safe_name, write_json

REFINE = ("none", "crf")
# What a checkpoint of ours notes beside its weights.
NOTED = {
    "input?": {
        "bands?": (int, int, int),
        "value_range?": (float, float),
        "long_side?": (Between(1), Between(1)),
    },
    "settings?": {"network?": str},
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
            about = {"name": name, "id": key, "score": self.scores[name], "box": box}
            classes.append({**about, "area_share": float(area.mean())})
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
            write_json(folder / NOTE, {"program": "predict"})
        save_label(folder / f"{name}_mask.png", self.mask, self.size)
        there = np.unique(self.mask).tolist()
        names = {k: n for k, n in zip(self.keys.tolist(), self.names, strict=True) if k in there}
        names.pop(0, None)
        drawing = with_legend(label_overlay(self.picture, self.mask), names)
        save_rgb(folder / f"{name}_overlay.png", drawing)
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
            self.bands, self.value_range, self.longest = _input_of(content)
        if self.model:
            self.recipe = MODELS[self.model].test
            if scales:
                self.recipe = replace(self.recipe, scales=list(scales))
            self.net = restore(MODELS[self.model].network, content)
        else:
            noted = (content.get("settings") or {}).get("network", network)
            if noted != network:
                raise InputError(
                    f"{ckpt} was trained with --network {noted}, which would be imported. Give "
                    "that flag if you trust the module."
                )
            self.net = load_classifier(content, network, fold_bn=True)
            self.scales = tuple(scales or SCALES)
        num_classes = self.net.config["num_classes"]
        self.net.to(self.device, memory_format=torch.channels_last)
        own = checkpoint.class_names_of(content)
        self.all_names = ["background", *_names_of(ckpt, num_classes - 1, own, class_names)]

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
        """
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"a picture is given by the path of its file, not as {type(path)}")
        keys = None if labels is None else self.ids_of(labels)
        image = read_rgb(path, self.bands, self.value_range)
        picture = np.array(reduce(image, self.max_pixels))
        with enough_memory(str(path), LOWER_PIXELS), naming(path):
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
        scaled = [channels_first(rescale(image, scale))[None] for scale in self.scales]
        scaled = to_device(scaled, self.device)
        img = self.net.prepare(scaled[0]).contiguous(memory_format=torch.channels_last)
        scores = self.net.forward_features(img)[0].mean((0, 2, 3)).sigmoid()  # (K,)
        if keys is None:
            keys = ((scores > self.threshold).nonzero()[:, 0] + 1).tolist()
        keys = [0, *keys]
        label = torch.zeros(1, len(self.all_names))
        label[0, keys] = 1
        (of_scales,) = infer(self.net, scaled, label, torch.channels_last)
        maps = fuse([maps[: len(keys)].float() for maps in of_scales], picture.shape[:2])
        index = maps.argmax(0).cpu().numpy()
        if self.by_crf and len(keys) > 1:
            index = crf_inference_label(picture, index, 10, len(keys), device=self.device)
        return scores, keys, maps, np.array(keys)[index]

    def _segment(self, picture: np.ndarray, keys: list[int] | None):
        """Return scores (K,), keys, maps (P, h, w) and mask (h, w) by a segmentation network."""
        logits = mean_logits(
            self.net,
            picture,
            VIEWS[self.model],
            self.recipe,
            memory_format=torch.channels_last,
        )  # (C, h, w)
        scores = logits.softmax(0)[1:].amax((1, 2))
        if keys is not None:
            absent = sorted(set(range(1, len(logits))).difference(keys))
            logits[absent] = -math.inf
        probabilities = logits.softmax(0)
        if self.by_crf:
            probabilities = refine(picture, probabilities, self.recipe)
        mask = probabilities.argmax(0).cpu().numpy()
        if keys is None:
            keys = np.unique(mask)[np.unique(mask) > 0].tolist()
        keys = [0, *keys]
        return scores, keys, probabilities[keys], mask


def _names_of(
    ckpt: str | Path, number: int, own: list[str] | None, given: Sequence[str] | None
) -> list[str]:
    """Return the names of the ``number`` foreground classes.

    Args:
        ckpt: for messages.
        number: of foreground classes, K.
        own: names of the C classes in the file, if it has any.
        given: names of the K classes that the user gives, if any.
    """
    names = own[1:] if own else list(given or PUBLISHED.get(number, ()))
    if given and list(given) != names:
        raise InputError(
            f"{ckpt} was trained for the classes {', '.join(names)}, not {', '.join(given)}. Leave "
            "out --class_names."
        )
    if len(names) != number:
        raise InputError(
            f"{ckpt} tells {number} classes apart, and {len(names)} names are known. Give the "
            "names with --class_names, in the order of training."
        )
    return names


def _input_of(content: dict[str, Any]) -> tuple[list[int] | None, list[float] | None, float]:
    """Return bands, value range and the longest side of pictures that a checkpoint notes.

    Raises:
        Damaged: the note is none of ours.
    """
    check(content, NOTED)
    about = content.get("input") or {}
    bands, values = about.get("bands"), about.get("value_range")
    if min(bands or (1,)) < 1:
        raise Damaged(f"its bands are {bands}, which count from 1")
    if values and values[0] >= values[1]:
        raise Damaged(f"its value_range is {values}, whose first is not the smaller one")
    return bands, values, (about.get("long_side") or (0, math.inf))[1]
