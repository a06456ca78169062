"""Names of classes and of pictures become names of files that stay in their folder."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base import LONGEST_ID
from data.folder import Folder
from data.picture_loop import draw_map
from tests.tiny import store_maps
from tool.writer import LONGEST_NAME, safe_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dining table", "dining table"),
        ("Größe_猫-c.d", "Größe_猫-c.d"),
        ("x/../../y", "x%2F..%2F..%2Fy"),
        ("a\0b\n", "a%00b%0A"),
        ("100%", "100%25"),
        ("", "%"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_usual_names_stay_and_others_are_encoded(name, expected):
    assert safe_name(name) == expected


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=150), min_size=2, max_size=2, unique=True))
def test_any_two_names(names):
    one, other = map(safe_name, names)
    assert one != other
    for name in (one, other):
        assert 0 < len(name.encode()) <= LONGEST_NAME
        assert not name.startswith(".")
        assert not set(name) & set("/\\\0")


def test_drawings_of_odd_names_stay_in_their_folder(tmp_path, tiny):
    """Of a class that is a path, and of the longest id and class."""
    dataset, folder = Folder(tiny), tmp_path / "visual"
    dataset.class_names = ("x/../../../y", "c" * 300, "c" * 299 + "d")
    dataset.image_path = lambda image_id: tiny / "images/a.png"
    image_id = "i" * LONGEST_ID
    keys, maps = np.arange(4), np.ones((4, 40, 48), np.float32)
    store_maps(tmp_path / f"npy/{image_id}.npz", keys, maps)
    draw_map(dataset, tmp_path / "npy", folder, math.inf, image_id)
    assert len(list(folder.iterdir())) == 4
    assert (folder / f"{image_id}_background.png").exists()
    assert len(list(tmp_path.rglob("*.png"))) == 4 + 12  # six pictures and masks
