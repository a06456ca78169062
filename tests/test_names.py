"""Names of classes and of pictures become names of files that stay in their folder."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base import LONGEST_ID, Dataset
from data.drawings import draw_map
from data.folder import Folder
from tests.tiny import store_maps
from tool.errors import InputError
from tool.writer import LONGEST_NAME, safe_name

CLEAN = ["cat", "dining table", "a_b-c.d", "2007_000032", "Größe", "猫"]


@pytest.mark.parametrize("name", CLEAN)
def test_usual_names_stay(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x/../../y", "x%2F..%2F..%2Fy"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("a\\b", "a%5Cb"),
        ("a\0b\n", "a%00b%0A"),
        ("100%", "100%25"),
        ("", "%"),
        ("\ud800", "%ED%A0%80"),
    ],
)
def test_unusual_names_are_encoded(name, expected):
    assert safe_name(name) == expected


def test_long_names_are_cut_and_stay_distinct():
    names = ["猫" * 80 + end for end in ("a", "b")] + ["x" * 101, "x" * 102, "x" * 100]
    safe = [safe_name(name) for name in names]
    assert len(set(safe)) == len(names)
    assert max(len(name.encode()) for name in safe) <= LONGEST_NAME
    assert safe[-1] == names[-1]


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


class Named(Dataset):
    """A dataset of one picture with a given id."""

    name, class_names = "named", ("cat",)

    def list_ids(self, list_name: str) -> list[str]:
        return [list_name]


@pytest.mark.parametrize("image_id", ["a.b", "a b (1)", "a" * 200, "猫" * 66, "-", "a."])
def test_other_ids_are_kept(tmp_path, image_id):
    assert Named(tmp_path).ids(image_id) == [image_id]


def test_missing_right_is_no_missing_picture(tiny, monkeypatch):
    folder = Folder(tiny)
    folder.check_pictures(["a"])

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.path.isfile", lambda path: False)
    monkeypatch.setattr("os.stat", refuse)
    with pytest.raises(InputError, match=r"a\.png cannot be read: Permission denied"):
        folder.check_pictures(["a"])
