"""tool.grid: pictures side by side."""

import io

import numpy as np

from tool.grid import grid


def test_every_picture_is_in_its_place_with_its_title():
    colours = np.arange(10, 16, dtype=np.uint8)
    sizes = zip((40, 40, 80, 80, 20, 20), colours, strict=True)
    pictures = [np.full((height, 40, 3), colour, np.uint8) for height, colour in sizes]
    figure = grid(pictures, ["a", "b", "$c"], 2, 1.5, ["rings", "half", "$x"])
    shown = [axes.images[0].get_array()[0, 0, 0] for axes in figure.axes]
    assert shown == colours.tolist()
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "$c", "", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["rings", "half", "$x"]
    figure.savefig(io.BytesIO(), bbox_inches="tight")  # reads no formula in $
    widths = {round(axes.get_window_extent().width) for axes in figure.axes}
    assert len(widths) == 1
