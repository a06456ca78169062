"""A trained network that takes single pictures, without a dataset: see ``predict.py``."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.coco import COCO
from data.inference import SCALES, infer, load_classifier, mean_logits, refine
from data.lists import plain
from data.loaders import channels_first, to_device
from data.transforms import reduce, rescale
from data.voc import VOC
from net.recipes import MODELS
from tool import checkpoint, cli
from tool.crf import crf_inference_label
from tool.errors import InputError, naming
from tool.files import safe_name, write_json
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

REFINE = ("none", "crf")
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
        classes = []
        factors = [large / small for large, small in zip(self.size, self.mask.shape, strict=True)]
        for key, name in zip(self.keys[1:].tolist(), self.names[1:], strict=True):
            rows, columns = (self.mask == key).nonzero()
            box = None
            if len(rows):
                ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                box = [round(end * by) for end, by in zip(ends, factors[::-1] * 2, strict=True)]
            about = {"name": name, "id": key, "score": self.scores[name], "box": box}
            classes.append({**about, "area_share": len(rows) / self.mask.size})
        return {
            "height": self.size[0],
            "width": self.size[1],
            "labels": "guessed" if self.guessed else "given",
            "classes": classes,
            "scores": self.scores,
        }

    def save(self, folder: Path, name: str) -> None:
        """Write the mask at the picture's size, drawings of it and of the maps, and the JSON."""
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

    Raises:
        InputError: the file cannot be read, is no such network, or names no classes.
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
    ) -> None:
        self.device = cli.pick_device(device)
        self.threshold, self.max_pixels = threshold, max_pixels
        content = checkpoint.load(ckpt)
        found = content.get("model")
        self.model = model or (found if isinstance(found, str) and found in MODELS else None)
        names = checkpoint.class_names_of(content)
        names = list(class_names or (names or [])[1:])
        with naming(ckpt):
            self.bands, self.value_range, self.longest = _input_of(content)
        if self.model:
            self._load_segmentation(Path(ckpt), content, scales)
        else:
            network = content.get("settings", {}).get("network", cli.NETWORK)
            self.net = load_classifier(Path(ckpt), content, network, fold_bn=True)
            self.scales = tuple(scales or SCALES)
        num_classes = self.net.config["num_classes"]
        self.net.to(self.device, memory_format=torch.channels_last)
        names = names or list(PUBLISHED.get(num_classes - 1, ()))
        if len(names) != num_classes - 1:
            raise InputError(
                f"{ckpt} tells {num_classes - 1} classes apart, and {len(names)} names are known. "
                "Give the names with --class_names, in the order of training."
            )
        self.all_names = ["background", *names]
        self.by_crf = (refine or ("crf" if self.model else "none")) == "crf"

    def _load_segmentation(self, ckpt: Path, content: dict, scales) -> None:
        recipe = MODELS[self.model]
        with naming(f"{ckpt}, read as {self.model}"):
            self.net = recipe.module.restore(content)
        settings = {**vars(recipe.test), "model": self.model, "amp": "off", "channels_last": True}
        self.settings = argparse.Namespace(**settings | ({"scales": scales} if scales else {}))

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
        keys = None if labels is None else self.ids_of(labels)
        image = read_rgb(path, self.bands, self.value_range)
        size = (image.height, image.width)
        image = reduce(image, self.max_pixels)
        picture = np.array(image)
        with enough_memory(str(path), LOWER_PIXELS), naming(path):
            does = self._segment if self.model else self._localize
            scores, keys, maps, mask = does(picture, image, keys)
        return Prediction(
            picture,
            size,
            [self.all_names[key] for key in keys],
            np.array(keys),
            maps.cpu().numpy(),
            mask.astype(np.uint8),
            {n: round(s, 6) for n, s in zip(self.all_names[1:], scores.tolist(), strict=True)},
            guessed=labels is None,
        )

    def _localize(self, picture: np.ndarray, image: Image.Image, keys: list[int] | None):
        """Return scores (K,), keys, maps (P, h, w) and mask (h, w) by IS-CAM."""
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

    def _segment(self, picture: np.ndarray, image: Image.Image, keys: list[int] | None):
        """Return scores (K,), keys, maps (P, h, w) and mask (h, w) by a segmentation network."""
        logits = mean_logits(self.net, picture, self.settings, self.device)  # (C, h, w)
        scores = logits.softmax(0)[1:].amax((1, 2))
        if keys is not None:
            absent = sorted(set(range(1, len(logits))).difference(keys))
            logits[absent] = -math.inf
        probabilities = logits.softmax(0)
        if self.by_crf:
            probabilities = refine(picture, probabilities, self.settings)
        mask = probabilities.argmax(0).cpu().numpy()
        if keys is None:
            keys = np.unique(mask)[np.unique(mask) > 0].tolist()
        keys = [0, *keys]
        return scores, keys, probabilities[keys], mask


def _input_of(content: dict[str, Any]) -> tuple[list | None, list | None, float]:
    """Return bands, value range and the longest side of pictures that a checkpoint notes.

    Raises:
        InputError: the note is none of ours.
    """
    about = content.get("input", {})
    try:
        bands, values = about.get("bands"), about.get("value_range")
        sizes = about.get("long_side")  # earlier versions noted the flags alone
        longest = sizes[1] if sizes else content.get("settings", {}).get("resize_max", math.inf)
        whole = all(isinstance(band, int) and band > 0 for band in bands or (1,))
        if not (whole and len(bands or "rgb") == 3 and longest >= 1):
            raise ValueError
        low, high = values or (0, 1)
        if not low < high:
            raise ValueError
    except (AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
        raise InputError(
            f"Its note of what pictures are, {about!r:.80}, is no bands, value_range, long_side."
        ) from error
    return bands, values, longest
