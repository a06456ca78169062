"""tool.grid: pictures side by side."""

import numpy as np

from tool.grid import grid


def test_every_picture_is_in_its_place_with_its_title():
    colours = np.arange(10, 16, dtype=np.uint8).reshape(3, 2)
    heights = (40, 80, 20)
    rows = [
        [np.full((height, 40, 3), colour, np.uint8) for colour in row]
        for height, row in zip(heights, colours, strict=True)
    ]
    figure = grid(rows, [["a", "b"], ["$c", "d"]], 2, ["rings", "half", "$x"])
    shown = [axes.images[0].get_array()[0, 0, 0] for axes in figure.axes]
    assert shown == colours.ravel().tolist()
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "$c", "d", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["rings", "half", "$x"]
