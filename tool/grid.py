"""Pictures side by side, as one figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

TITLE = 0.3  # inches of a line of titles


def grid(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int,
    width: float,
    names: Sequence[str] = (),
) -> Figure:
    """Return a figure of pictures, row by row, which are all of one width.

    Args:
        pictures: uint8 (H, W, 3), in a row all of one size.
        titles: what stands above the pictures, from the first one on.
        columns: pictures in a row.
        width: of a picture in inches.
        names: what stands at the left of each row, none for nothing.
    """
    heights = [width * len(picture) / picture.shape[1] for picture in pictures[::columns]]
    figure = Figure((width * columns, sum(heights) + TITLE * len(heights)), layout="compressed")
    panels = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for axes, picture in zip(panels.flat, pictures, strict=True):
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
    for axes, title in zip(panels.flat, titles, strict=False):
        axes.set_title(title, parse_math=False)
    for axes, name in zip(panels[:, 0], names, strict=False):
        axes.set_ylabel(name, rotation=0, ha="right", va="center", parse_math=False)
    return figure
