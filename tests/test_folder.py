"""Your own pictures: every mistake that a person makes in such a folder has its sentence."""

import numpy as np
import pytest
from PIL import Image

from data.folder import Folder
from tool.errors import InputError


def test_what_the_folder_says(tiny):
    folder = Folder(tiny)
    assert folder.class_names == ("red", "green", "blue")
    assert folder.ids("train") == list("abcdef")
    folder.check_pictures(folder.ids("train"))
    (tiny / "masks/a.png").unlink()  # masks are not needed
    labels = folder.labels(["d", "b", "a"])
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_pictures_of_all_endings_count_and_other_files_do_not(tiny):
    image = Image.new("RGB", (4, 4))
    image.save(tiny / "images/g.JPG")
    image.save(tiny / "images/h.i.jpeg")
    (tiny / "images/notes.txt").write_text("not a picture")
    assert Folder(tiny).ids("train") == [*"abcdefg", "h.i"]
    with open(tiny / "labels.csv", "a") as file:
        file.write("g.JPG,blue\nh.i.jpeg,red\n")
    assert Folder(tiny).labels(["h.i", "g"]).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_splits_are_optional_and_replace_the_default(tiny):
    folder = Folder(tiny)
    with pytest.raises(InputError, match=r"There is no list val: .*splits"):
        folder.ids("val")
    (tiny / "splits").mkdir()
    (tiny / "splits/val.txt").write_text("c\na.png\nimages/d.png masks/other.png\n")
    assert folder.ids("val") == ["c", "a", "d"]
    with pytest.raises(InputError, match="no list train"):  # else val would be trained on
        folder.ids("train")
    (tiny / "splits/train.txt").write_text("b\n")
    assert folder.ids("train") == ["b"]


def test_predictions_among_the_pictures_are_no_pictures(tiny, caplog):
    """A folder that a program of this project noted as its own holds none."""
    out = tiny / "images/out"
    out.mkdir()
    (out / "settings.json").write_text('{"program": "predict"}')
    Image.new("RGB", (8, 8)).save(out / "a_overlay.png")
    assert set(Folder(tiny).pictures) == set("abcdef")
    assert "2 files that programs of this project made" in caplog.text
