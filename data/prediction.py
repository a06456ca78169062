"""What a trained network says of a picture, and how it came to say so."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image

from net.resnet50_SIPE import reactivate
from tool.grid import grid
from tool.pictures import (
    label_colours,
    label_drawing,
    label_overlay,
    overlay,
    save_label,
    save_rgb,
)
from tool.writer import own_folder, read_note, safe_name, write_atomic, write_json

# Of the rows of a drawn explanation, in the first column and the others.
TITLES = {"picture": "CAM", "similarity to the cross": "seeds", "label (CRF)": "IS-CAM"}
WIDTH = 2.4  # inches of a picture in a drawn explanation
FRAME = 3  # points of the frame around it, in the colour of its class
DIMMED = 0.25  # brightness of what is no seed


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

        They are those of the mask at the picture's size. An area is in pixels, and its share in
        [0, 1]; a box is (left, top, right, bottom), end exclusive.
        """
        classes, image = [], Image.fromarray(self.mask)
        mask = np.array(image.resize(self.size[::-1], Image.Resampling.NEAREST))
        for key, name in zip(self.keys[1:].tolist(), self.names[1:], strict=True):
            area = mask == key
            classes.append(
                {
                    "name": name,
                    "id": key,
                    "score": self.scores[name],
                    "box": Image.fromarray(area).getbbox(),
                    "area": int(area.sum()),
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
        drawing = label_drawing(self.picture, self.mask, names)
        save_rgb(folder / f"{name}_overlay.png", drawing)
        for class_name, one in zip(self.names[1:], self.maps[1:], strict=True):
            path = folder / f"{name}_heat_{safe_name(class_name)}.png"
            save_rgb(path, overlay(self.picture, one))
        write_json(folder / f"{name}.json", self.about())


@dataclass(frozen=True)
class Explanation(Prediction):
    """A prediction by SIPE, and what every step of the method gives for it.

    The steps see the picture at its own size, and its mirror image. The ``maps`` of the prediction
    are IS-CAM of all scales, and its ``mask`` what the CRF makes of them. Letters in shapes: P
    classes as those of the maps, background first, D channels, h x w positions of the features.

    Attributes:
        cam: float32 (P, h, w) in [0, 1], class activation maps.
        seeds: float32 (P, h, w) in {0, 1}, which class a position surely belongs to.
        prototypes: float32 (P, 768, 1, 1), mean of the hierarchical feature times the seeds.
        IS_cam: float32 (P, h, w) in [0, 1], similarity of every position to the prototypes.
        feature: float32 (D, h, w), whose similarities make the seeds.
        at: column and row of the pixel that :meth:`draw` compares others with, if it was named.
    """

    cam: np.ndarray
    seeds: np.ndarray
    prototypes: np.ndarray
    IS_cam: np.ndarray
    feature: np.ndarray
    at: tuple[int, int] | None = None

    def similarity(self, x: int, y: int) -> np.ndarray:
        """Return S_ij = relu(cosine of the features of i and j) of all positions j, (h, w).

        The position i has the pixel in column ``x`` and row ``y`` of ``picture``.
        """
        (height, width), (rows, columns) = self.mask.shape, self.feature.shape[1:]
        feature = torch.from_numpy(self.feature)[None]
        one = feature[:, None, :, y * rows // height, x * columns // width]  # (1, 1, D)
        return reactivate(one[..., None, None], feature)[0, 0].numpy()

    def draw(self, pixel: tuple[int, int] | None = None) -> Figure:
        """Return a figure of the method: CAM, seeds and IS-CAM of every class.

        Its first column has the picture, what is similar to a ``pixel``, column and row, and the
        label. Without a pixel, it is ``at``, or where the CAM of the first class is largest. Frames
        have the colours of the classes in the label.
        """
        largest = self._large(self.cam)[:2][-1].argmax()
        x, y = pixel or self.at or divmod(largest, self.mask.shape[1])[::-1]
        lit = np.maximum(self._large(self.seeds), DIMMED)[..., None]  # (P, H, W, 1)
        pictures = [
            self.picture,
            *self._heats(self.cam),
            *self._heats(self.similarity(x, y)[None]),
            *(self.picture * lit).astype(np.uint8),
            label_overlay(self.picture, self.mask),
            *self._heats(self.maps),
        ]
        titles = []
        for first, step in TITLES.items():
            titles += [first, *(f"{step}: {name}" for name in self.names)]
        columns = 1 + len(self.names)
        figure = grid(pictures, titles, columns, WIDTH)
        for axes in figure.axes[: columns + 1 : columns]:
            axes.plot(x, y, "P", color="white", markeredgecolor="black", markersize=10)
        colours = ["white", *label_colours()[self.keys] / 255]
        for axes, colour in zip(figure.axes, colours * len(TITLES), strict=True):
            axes.spines[:].set(color=colour, linewidth=FRAME)
        return figure

    def _large(self, maps: np.ndarray) -> np.ndarray:
        small, size = torch.from_numpy(maps)[None], self.mask.shape
        return F.interpolate(small, size, mode="bilinear")[0].numpy()

    def _heats(self, maps: np.ndarray) -> list[np.ndarray]:
        return [overlay(self.picture, one) for one in self._large(maps)]

    def save(self, folder: str | Path, name: str) -> None:
        """Write the files of a prediction, and the figure of :meth:`draw`, <name>_explain.png."""
        super().save(folder, name)
        savefig = partial(self.draw().savefig, bbox_inches="tight")
        write_atomic(Path(folder) / f"{name}_explain.png", savefig)
