"""Pictures side by side, as one figure."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from matplotlib.figure import Figure

TITLE = 0.3  # inches of a line of titles


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[Sequence[str]],
    width: float,
    names: Sequence[str] = (),
) -> Figure:
    """Return a figure of rows of pictures, which are all of one width.

    Args:
        rows: pictures, uint8 (H, W, 3), as many in each row, and in a row of one size.
        titles: what stands above the pictures of each row, from the first row on.
        width: of a picture in inches.
        names: what stands at the left of each row, none for nothing.
    """
    heights = [width * row[0].shape[0] / row[0].shape[1] for row in rows]
    size = width * len(rows[0]), sum(heights) + TITLE * len(titles)
    figure = Figure(size, layout="compressed")
    panels = figure.subplots(len(rows), len(rows[0]), squeeze=False, height_ratios=heights)
    for axes, picture in zip(panels.flat, chain.from_iterable(rows), strict=True):
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
    for axes, title in zip(panels.flat, chain.from_iterable(titles), strict=False):
        axes.set_title(title, parse_math=False)
    for axes, name in zip(panels[:, 0], names, strict=False):
        axes.set_ylabel(name, rotation=0, ha="right", va="center", parse_math=False)
    return figure
