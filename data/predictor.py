"""A trained network that takes single pictures, without a dataset: see ``predict.py``."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from data.coco import COCO
from data.inference import GPU_BATCH, SCALES, infer, load_network, mean_logits, refine
from data.lists import plain
from data.loaders import to_device
from data.picture_loop import batches_of
from data.transforms import VIEWS, reduce, rescale
from data.voc import VOC
from net.method import import_network
from net.recipes import MODELS
from net.weights import restore
from tool import checkpoint, cli
from tool.crf import crf_inference_label
from tool.errors import InputError, naming
from tool.maps import fuse
from tool.picture_files import rgb_on_white
from tool.pictures import overlay, read_rgb, save_label, save_label_drawing, save_rgb
from tool.reader import Between, check, decoding
from tool.writer import own_folder, read_note, safe_name, write_json

Picture = str | Path | Image.Image | np.ndarray | Tensor
Labels = str | Sequence[str] | None

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
        InputError: the file cannot be read; shape, dtype or values are not as above.
        TypeError: the picture is nothing of these.
    """
    if isinstance(picture, str | Path):
        return read_rgb(picture, bands, value_range)
    taken = (
        "A picture is a path, a PIL image of 8 bits, an array (H, W, 3) uint8, or a tensor "
        "(3, H, W), uint8 or real numbers in [0, 1]"
    )
    if isinstance(picture, Image.Image):
        if picture.mode.startswith(("I", "F")):
            raise InputError(f"{taken}, not a PIL image of mode {picture.mode}.")
        with decoding("The PIL image", "Give another one."):
            return rgb_on_white(ImageOps.exif_transpose(picture))
    if not isinstance(picture, np.ndarray | Tensor):
        raise TypeError(f"{taken}, not a {type(picture).__name__}.")
    what, pixels = f"{picture.dtype} {tuple(picture.shape)}", picture
    if isinstance(pixels, Tensor):
        if pixels.is_floating_point():
            if not ((pixels >= 0) & (pixels <= 1)).all():
                raise InputError(f"{taken}, not one with NaN or numbers outside [0, 1].")
            pixels = (pixels.float() * 255).round().byte()
        pixels = pixels.detach().cpu().numpy()
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    if not pixels.size or pixels.shape[2:] != (3,) or pixels.dtype != np.uint8:
        raise InputError(f"{taken}, not {what}.")
    return Image.fromarray(pixels)


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
        """Return plain values: size, labels, scores, and the area and box of each class.

        An area is in pixels of the picture as it is, and so is a box, [left, top, right, bottom],
        end exclusive. The share of the area is in [0, 1].
        """
        classes, (height, width) = [], self.mask.shape
        across, down = self.size[1] / width, self.size[0] / height
        for key, name in zip(self.keys[1:].tolist(), self.names[1:], strict=True):
            area = self.mask == key
            share = float(area.mean())
            ends, box = Image.fromarray(area).getbbox(), None
            if ends:
                box = [round(end * by) for end, by in zip(ends, (across, down) * 2, strict=True)]
            classes.append(
                {
                    "name": name,
                    "id": key,
                    "score": self.scores[name],
                    "box": box,
                    "area": round(share * math.prod(self.size)),
                    "area_share": share,
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
            save_rgb(path, overlay(self.picture, one))
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
            check(content, NOTED)
        about = content.get("input") or {}
        self.bands, self.value_range = about.get("bands"), about.get("value_range")
        self.longest = (about.get("long_side") or (0, math.inf))[1]
        if self.model:
            self.recipe, self.view = MODELS[self.model].test, VIEWS[self.model]
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

    def ids_of(self, labels: str | Sequence[str]) -> list[int]:
        """Return the class ids of names.

        Raises:
            InputError: a name is no class of the network.
        """
        labels = [labels] if isinstance(labels, str) else labels
        known = {plain(name): key for key, name in enumerate(self.all_names) if key}
        for name in labels:
            if plain(name) not in known:
                raise InputError(
                    f"--labels: the network knows no class {name!r}; its classes are "
                    f"{', '.join(known)}."
                )
        return sorted({known[plain(name)] for name in labels})

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
            InputError: a picture cannot be read or has other values, a name is no class, or there
                are not as many labels as pictures.
            TypeError: a picture is nothing that :func:`rgb_of` takes.
        """
        if not isinstance(picture, list | tuple):
            return self([picture], [labels])[0]
        labels = [None] * len(picture) if labels is None else labels
        if len(labels) != len(picture):
            raise InputError(f"Give {len(picture)} pictures as many labels, and not {labels}.")
        items = [self._item(*pair) for pair in zip(picture, labels, strict=True)]
        predict, names = self._segment if self.model else self._localize, self.all_names
        for batch in batches_of(sorted(items, key=itemgetter("size")), self.batch_size):
            with naming(batch[0]["name"]):
                results = list(predict(batch))
            for item, (scores, keys, maps, mask) in zip(batch, results, strict=True):
                each = zip(names[1:], scores.tolist(), strict=True)
                item["prediction"] = Prediction(
                    item["picture"],
                    item["stored"],
                    [names[key] for key in keys],
                    keys,
                    maps.cpu().numpy(),
                    mask.astype(np.uint8),
                    {name: round(score, 6) for name, score in each},
                    guessed=item["label"] is None,
                )
        return [item["prediction"] for item in items]

    def _item(self, picture: Picture, labels: Labels) -> dict[str, Any]:
        """Return a picture, and a label bool (C,), or None, as the methods below take them."""
        name, label = str(picture) if isinstance(picture, str | Path) else "the picture", None
        with naming(name):
            image = rgb_of(picture, self.bands, self.value_range)
        if labels is not None:
            label = torch.zeros(len(self.all_names), dtype=torch.bool)
            label[[0, *self.ids_of(labels)]] = True
        pixels = np.array(reduce(image, self.max_pixels))
        about = {"name": name, "stored": (image.height, image.width), "label": label}
        return {**about, "picture": pixels, "size": pixels.shape[:2]}

    def _localize(self, items: list[dict[str, Any]]) -> Iterator[tuple]:
        """Yield scores (K,), keys, maps (P, h, w) and mask (h, w) by IS-CAM of each picture."""
        images = [Image.fromarray(item["picture"]) for item in items]
        images = [rescale(image, min(1, self.longest / max(image.size))) for image in images]
        resized = ([np.array(rescale(image, scale)) for image in images] for scale in self.scales)
        scaled = to_device((np.stack(s).transpose(0, 3, 1, 2) for s in resized), self.device)
        img = self.net.prepare(scaled[0])
        scores = self.net.scores(img).sigmoid().cpu()  # (B, K)
        guesses = F.pad(scores > self.threshold, (1, 0), value=True)  # (B, C)
        labels = [item["label"] for item in items]
        labels = [guess if one is None else one for one, guess in zip(labels, guesses, strict=True)]
        of_scales = infer(self.net, scaled, torch.stack(labels).numpy())
        for item, score, label, maps in zip(items, scores, labels, of_scales, strict=True):
            keys = label.nonzero()[:, 0].numpy()
            fused = fuse([one[: len(keys)].float() for one in maps], item["size"])
            index = fused.argmax(0).cpu().numpy()
            if self.by_crf:
                index = crf_inference_label(
                    item["picture"], index, 10, len(keys), device=self.device
                )
            yield score, keys, fused, keys[index]

    def _segment(self, items: list[dict[str, Any]]) -> Iterator[tuple]:
        """Yield scores (K,), keys, maps (P, h, w) and mask (h, w) by a segmentation network."""
        pictures, view = [item["picture"] for item in items], self.view
        logits_of = mean_logits(self.net, pictures, view, self.recipe)  # (B, C, h, w)
        for item, logits in zip(items, logits_of, strict=True):
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
