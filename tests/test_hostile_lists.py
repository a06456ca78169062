"""Lists, tables and folders that can be misread: what is read as it looks, and what is refused."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.base import LONGEST_ID, Dataset, check_labels
from data.folder import Folder
from data.lists import picture_path, read_list
from tool.errors import InputError

NFC, NFD = "caf\u00e9", "cafe\u0301"
PICTURE = Image.new("RGB", (4, 4))


def refused(message: str):
    return pytest.raises(InputError, match=message)


def read(root: Path) -> list[list[int]]:
    folder = Folder(root)
    folder.check_pictures(folder.ids("train"))
    if (root / "masks/a.png").exists():
        folder.read_mask(root / "masks/a.png")
    return folder.labels(list("abd")).tolist()


# A file of the folder, what stands in its place, and words of the sentence beside the file's name.
KINDS = {
    "a class in two columns": ("labels.csv", b"image,red,green,blue,red\n", "2 columns"),
    "a quotation mark that stays open": ("labels.csv", b'image,labels\na,"red\nb,', "line 2"),
    "an empty table": ("labels.csv", b"", "no row .*column image"),
    "no names of pictures": ("labels.csv", b"name,labels\na,red\n", "column image"),
    "too many cells": ("labels.csv", b"image;labels\na;red;blue\n", "line 2 has 3 cells"),
    "another case": ("labels.csv", b"image,labels\na,Red\n", "line 2: 'Red' is not"),
    "an unknown picture": ("labels.csv", b"image,labels\nx.png,red\n", "line 2: 'x' is no picture"),
    "a picture twice": ("labels.csv", b"image,labels\na,red\na.png,blue\n", "line 3: 'a' .*line 2"),
    "no row": ("labels.csv", b"image,labels\na,red\n", r"'b'.*b\.png"),
    "no classes": ("classes.txt", b"\n \n# red\n", "0 classes"),
    "255 classes": ("classes.txt", "\n".join(map(str, range(255))).encode(), "255 classes"),
    "a class in two forms": (
        "classes.txt",
        f"{NFC}\nred\n{NFD}\n".encode(),
        r"'cafe\\u0301' stands twice, as 'caf\\xe9'",
    ),
    "a tab in a class": ("classes.txt", b"polar\tbear\n", "tab"),
    "an empty list": ("splits/train.txt", b"# nothing\n", "train .*is empty"),
    "a list of a missing picture": (
        "splits/train.txt",
        b"a\nB\n",
        r"1 of 2 .*images/B.* list train",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused_is_named(tiny, kind):
    name, content, words = KINDS[kind]
    path = tiny / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with refused(f"(?s){words}") as error:
        read(tiny)
    assert path.stem in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "image\tlabels\na\tred\nb\tgreen\nd\tred blue\n",
        'image,labels\na,red\nb,green\nd,"red\nblue"\n',
        " image , labels \n a , red \n b, green\n d ,  red  blue \n",
        '"image";"labels"\n"a";"red"\n"b";"green"\n"d";"red;blue"\n',
        'image, labels\n"a", "red"\nb, "green"\nd, "red, blue"\n',
        "image,labels\r\na,red\r\n\r\nb,green\r\nd,red|blue\r\n,\r\n",
        "image,labels,\na,red,\nb,green,\nd,red blue,\n",
        "id;labels;image\n1;red;a.png\n2;green;b.PNG\n3;red blue;d.png\n",
        "image,labels\na.jpg,red\nimages/b.png,green;\n.\\images\\d.png,blue|red|\n",
    ],
)
def test_table_is_read_as_it_looks(tiny, text):
    (tiny / "labels.csv").write_bytes(text.encode("utf-16"))
    assert Folder(tiny).labels(list("abd")).tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]


NAMES = ["traffic light", "light", "traffic", "hot dog", "a,b", "c;d"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("hot dog", {"hot dog"}),
        ("traffic light;", {"traffic light"}),
        ("traffic light | hot dog", {"traffic light", "hot dog"}),
        ("traffic light, light,", {"traffic light", "light"}),
        ("a,b light", {"a,b", "light"}),
        ("hot dog|c;d", {"hot dog", "c;d"}),
        ("traffic light", "Put ; behind every class name"),
        ("hot dog light", "'dog' is not in classes.txt; names with spaces need a ;"),
        ("light;hot dog,", "'hot dog,' is not in classes.txt"),
    ],
)
def test_names_with_spaces(tiny, cell, expected):
    (tiny / "classes.txt").write_text("\n".join(NAMES) + "\n")
    (tiny / "labels.csv").write_text(f'image,labels\na,"{cell}"\n')
    if isinstance(expected, str):
        with refused(re.escape(expected)):
            Folder(tiny).labels(["a"])
    else:
        (row,) = Folder(tiny).labels(["a"])
        assert {NAMES[k] for k in np.nonzero(row)[0]} == expected


@pytest.mark.parametrize("name", ["Background", "_background_", "BG"])
def test_background_under_every_spelling(tiny, name):
    (tiny / "classes.txt").write_text(f"red\n{name}\n")
    with refused(rf"classes\.txt: '{name}' is class 0"):
        Folder(tiny).labels(["a"])


# -------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("my cat.JPG", "my cat.JPG"),
        ("/my pictures/my cat.jpg", "my cat.jpg"),
        (r"images\my cat.jpg", "my cat.jpg"),
        ("/JPEGImages/x.jpg /SegmentationClassAug/x.png", "x.jpg"),
        ("JPEGImages/my cat.jpg   SegmentationClassAug/my cat.png", "my cat.jpg"),
        ("JPEGImages/my cat SegmentationClass/my cat", "my cat"),
        ("my cat.jpg my cat.png", "my cat.jpg"),
        ("x.jpg copy.jpg", "x.jpg copy.jpg"),
        ("images/x.jpg 0 14", "x.jpg"),
    ],
)
def test_picture_that_a_line_means(line, name):
    assert picture_path(line).rsplit("/", 1)[-1] == name


@pytest.mark.parametrize("name", ["#selfie", "a\u2028b", "a\x85b"])
def test_lines_end_where_editors_end_them(tmp_path, name):
    (tmp_path / "x.txt").write_bytes(f"{name}\n".encode())
    assert read_list(tmp_path / "x.txt") == [name]


@pytest.mark.parametrize("line", ["cat.jpg", "images/cat.jpg.png"])
def test_id_that_ends_like_a_picture(tiny, line):
    (tiny / "splits").mkdir()
    PICTURE.save(tiny / "images/cat.jpg.png")
    (tiny / "splits/val.txt").write_text(f"{line}\n")
    assert Folder(tiny).ids("val") == ["cat.jpg"]


@pytest.mark.parametrize(("stored", "listed"), [(NFC, NFD), (NFD, NFC)])
def test_names_agree_in_any_unicode_form(tiny, stored, listed):
    shutil.copy(tiny / "images/a.png", tiny / f"images/{stored}.png")
    shutil.copy(tiny / "masks/a.png", tiny / f"masks/{listed}.PNG")
    (tiny / "classes.txt").write_text(f"red\ngreen\nblue\n{stored}\n")
    (tiny / "labels.csv").write_text(f"image,labels\n{listed}.png,{listed}\n")
    (tiny / "splits").mkdir()
    (tiny / "splits/val.txt").write_text(f"{listed}\n")
    folder = Folder(tiny)
    ids = folder.ids("val")
    assert (ids, folder.class_names[-1]) == ([NFC], NFC)
    folder.check_pictures(ids)
    assert folder.masks(ids) == {NFC: tiny / f"masks/{listed}.PNG"}
    assert folder.labels(ids).tolist() == [[0, 0, 0, 1]]
    (tiny / "splits/val.txt").write_text(f"{NFC}\n{NFD}\n")
    with refused("2 times"):
        folder.ids("val")
    shutil.copy(tiny / "images/a.png", tiny / f"images/{listed}.png")
    with refused("have the same id"):
        Folder(tiny).image_path("a")


def test_missing_list_says_where_it_was_looked_for(tiny):
    (tiny / "splits").mkdir()
    for name in ("train", "val", "._val"):
        (tiny / f"splits/{name}.txt").write_text("a\n")
    for name in ("nolist.txt", "n" * 300):
        with refused(rf"no list {name}: .*/splits has train, val\."):
            Folder(tiny).ids(name)


class Odd(Dataset):
    """A user's own dataset, whose only list holds the id that it is called by."""

    name, default_root, class_names = "odd", ".", ("red",)

    def list_ids(self, list_name: str) -> list[str]:
        return [list_name]

    def names_of(self, image_id: str) -> set[str]:
        return {"blue"}


@pytest.mark.parametrize(
    "image_id", ["../../../secret", "a\\b", "a\0b", ".a", "n" * (LONGEST_ID + 1), "\ud800/"]
)
def test_ids_that_no_file_can_be_named_by(tmp_path, image_id):
    with refused("list .* Rename the picture"):
        Odd(tmp_path).ids(image_id)
    assert Odd(tmp_path).ids("n" * LONGEST_ID)


def test_unknown_class_of_a_users_own_dataset(tmp_path):
    with refused("a in .* is labelled 'blue', .* classes are red"):
        Odd(tmp_path).labels(["a"])


# -------------------------------------------------------------------------------- folders


def test_what_file_managers_leave_is_no_picture(tiny):
    before = Folder(tiny).ids("train")
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        for folder in ("images", "masks"):
            (tiny / folder / name).write_bytes(b"\0\5\x16\7")
    (tiny / "images/folder.jpg").mkdir()
    assert Folder(tiny).ids("train") == before


def test_root_that_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    for place in ("gone", "file", "n" * 300):
        with refused(rf"--dataset folder .*{place}.*--dataset_root"):
            Folder(tmp_path / place)


def test_folders_within_that_are_none(tiny):
    shutil.rmtree(tiny / "images")
    with refused("no pictures in .*images"):
        Folder(tiny).ids("train")


def test_file_in_place_of_the_splits_is_no_permission_to_train_on_everything(tiny):
    (tiny / "splits").write_text("a\n")
    with refused(r"no list train: .*splits has none"):
        Folder(tiny).ids("train")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1, 1], [1, 1]], "shows a and b, so the classifier cannot learn"),
        ([[0, 1], [0, 0]], "no picture of the training list shows a"),
        ([[1, 1], [0, 0]], None),
    ],
)
def test_classes_that_are_never_absent_or_never_shown(rows, said, caplog):
    check_labels(np.array(rows, np.uint8), ("a", "b"), "labels.csv")
    assert len(caplog.records) == bool(said)
    assert (said or "") in caplog.text
    with refused("labels.csv"):
        check_labels(np.zeros((2, 2), np.uint8), ("a", "b"), "labels.csv")
