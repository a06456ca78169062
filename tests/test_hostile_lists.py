"""Lists, tables and folders that can be misread: what is read as it looks, and what is refused."""

import json
import logging
import os
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.base import LONGEST_ID, Dataset, labels_from_names, warn_constant_labels
from data.datasets import DATASETS
from data.folder import Folder
from data.lists import picture_name, read_list, visible
from examples.own_dataset import ClassFolders
from tests.tiny import LABELS
from tool.errors import InputError

NFC, NFD = "caf\u00e9", "cafe\u0301"
PICTURE = Image.new("RGB", (4, 4))
LATIN = "image,labels\na.png,r\u00f8d\n".encode("latin-1")
DEEP = b'{"categories": ' + b"[" * 100_000
COCO = {
    "categories": [{"id": n, "name": name} for n, name in enumerate(("red", "green", "blue"))],
    "images": [{"id": n, "file_name": f"{i}.png"} for n, i in enumerate(LABELS)],
    "annotations": [],
}


def refused(message: str):
    return pytest.raises(InputError, match=message)


def read(root: Path) -> list[list[int]]:
    folder = Folder(root)
    folder.check_pictures(folder.ids("train"))
    if (root / "masks/a.png").exists():
        folder.read_mask(root / "masks/a.png")
    return folder.labels(list("abd")).tolist()


def annotations(**more) -> bytes:
    images = [{**image, "height": 40, "width": 48} for image in COCO["images"]]
    return json.dumps({**COCO, "images": images, **more}).encode()


# A file of the folder, what stands in its place, and words of the sentence beside the file's name.
KINDS = {
    "classes in Latin-1": ("classes.txt", LATIN, "line 2 has the byte 0xf8"),
    "a list in UTF-16 without a mark": ("splits/train.txt", "a\nb".encode("utf-16-le"), "zero"),
    "a picture for a list": ("splits/train.txt", b"\x89PNG\r\n\x1a\n\0\0", "UTF-8"),
    "a pipe for annotations": ("annotations.json", "pipe", "pipe"),
    "a pipe for a list": ("splits/train.txt", "pipe", "splits"),
    "a pipe for a picture": ("images/a.png", "pipe", "missing|pipe"),
    "a folder for a list": ("splits/train.txt", "folder", "splits"),
    "a link to nothing for labels": ("labels.csv", "link", "nowhere"),
    "deep annotations": ("annotations.json", DEEP, "damaged"),
    "a number beyond sense": (
        "annotations.json",
        b'{"categories": [{"id": ' + b"9" * 400 + b', "name": "red"}]}',
        "overflow",
    ),
    "a path in annotations": (
        "annotations.json",
        annotations(images=[{**COCO["images"][0], "file_name": "../../../secret"}]),
        "secret|height",
    ),
    "a path in a table": ("labels.csv", b"image,labels\n../../../secret,red\n", "line 2.*secret"),
    "a path in a list": ("splits/train.txt", b"../../../secret\n", "secret"),
    "a class in two columns": ("labels.csv", b"image,red,green,blue,red\n", "'red' stands twice"),
    "a class in both forms": ("labels.csv", f"image,{NFC},{NFD}\n".encode(), "twice"),
    "two columns of labels": ("labels.csv", b"image,labels,labels\na,red,blue\n", "twice"),
    "a quotation mark that stays open": ("labels.csv", b'image,labels\na,"red\nb,', "line 2"),
    "one that is open over a row": ("labels.csv", b'image,labels\na,"red\nb",green\n', "line 2"),
    "an endless cell": ("labels.csv", b"image,labels\na," + b"x" * 200_000, "line 2"),
    "an endless header": ("labels.csv", b"image,labels," + b"x" * 200_000, "damaged"),
    "an empty table": ("labels.csv", b"", "no column image"),
    "a table that begins with a line": ("labels.csv", b"\n\nimage,labels\n", "no column image"),
    "a header between spaces": ("labels.csv", b"image labels\na red\n", "no column image"),
    "a header of label": ("labels.csv", b"image,label\na,red\n", "column label .*classes"),
    "too many cells": ("labels.csv", b"image;labels\na;red;blue\n", "line 2 has 3 cells"),
    "another case": ("labels.csv", b"image,labels\na,Red\n", "line 2: 'Red' is not"),
    "no cell of labels": ("labels.csv", b"image,labels\na\n", "line 2 has 1 cells"),
    "no name of a picture": ("labels.csv", b"image,labels\n,red\n", "'' is no picture"),
    "an unknown picture": ("labels.csv", b"image,labels\nx.png,red\n", "line 2: 'x' is no picture"),
    "a picture twice": ("labels.csv", b"image,labels\na,red\na.png,blue\n", "line 3: 'a' .*line 2"),
    "no row": ("labels.csv", b"image,labels\na,red\n", r"'b'.*b\.png"),
    "no classes": ("classes.txt", b"\n \n# red\n", "0 classes"),
    "255 classes": ("classes.txt", "\n".join(map(str, range(255))).encode(), "255 classes"),
    "a class twice": ("classes.txt", b"red\ngreen\nred\n", "'red' stands twice"),
    "a class in two cases": ("classes.txt", b"cat\nred\nCat\n", "'Cat' .* 'cat'"),
    "a class in two forms": (
        "classes.txt",
        f"{NFC}\nred\n{NFD}\n".encode(),
        r"'cafe\\u0301' stands twice, as 'caf\\xe9'",
    ),
    "a tab in a class": ("classes.txt", b"polar\tbear\n", "tab"),
    "an unseen space in a class": ("classes.txt", "a\u00a0b\n".encode(), "space"),
    "an empty list": ("splits/train.txt", b"# nothing\n", "train .*is empty"),
    "a list that repeats itself": ("splits/train.txt", b"a\nb\nimages/a.png\n", "first a"),
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
    path.unlink(missing_ok=True)
    if content == "pipe":
        os.mkfifo(path)
    elif content == "folder":
        path.mkdir()
    elif content == "link":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(content)
    with refused(f"(?s){words}") as error:
        read(tiny)
    assert path.stem in str(error.value)
    assert len(str(error.value).splitlines()) == 1


ABD = [[1, 0, 0], [0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    [
        "image,labels\na,red\nb,green\nd,red blue\n",
        "image;labels\na;red\nb;green\nd;red blue\n",
        "image\tlabels\na\tred\nb\tgreen\nd\tred blue\n",
        'image,labels\na,red\nb,green\nd,"red\nblue"\n',
        " image , labels \n a , red \n b, green\n d ,  red  blue \n",
        '"image";"labels"\n"a";"red"\n"b";"green"\n"d";"red;blue"\n',
        'image, labels\n"a", "red"\nb, "green"\nd, "red, blue"\n',
        "image,labels\r\na,red\r\n\r\nb,green\r\nd,red|blue\r\n,\r\n",
        "image,labels\na,red,\nb,green,,\nd,red blue, \n",
        "image,labels,\na,red,\nb,green,\nd,red blue,\n",
        "id;labels;image\n1;red;a.png\n2;green;b.PNG\n3;red blue;d.png\n",
        "image,labels\na.jpg,red\nimages/b.png,green;\n.\\images\\d.png,blue|red|\n",
        'image,labels,note\na,red,"two\nlines"\nb,green,\nd,red blue,x\n',
        "image,labels\na,red red\nb,green\nd,blue red blue\n",
        "image,red,green,blue\na,1,0,0\nb,0,1,0\nd,1,0,1\n",
    ],
)
def test_table_is_read_as_it_looks(tiny, text, encoding):
    (tiny / "labels.csv").write_bytes(text.encode(encoding))
    assert Folder(tiny).labels(list("abd")).tolist() == ABD


NAMES = ["traffic light", "light", "traffic", "hot dog", "a,b", "c;d"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("light", {"light"}),
        ("hot dog", {"hot dog"}),
        ("hot dog;", {"hot dog"}),
        ("traffic light;", {"traffic light"}),
        ("traffic;light", {"traffic", "light"}),
        ("traffic light;hot dog", {"traffic light", "hot dog"}),
        ("traffic light | hot dog", {"traffic light", "hot dog"}),
        ("traffic light, light,", {"traffic light", "light"}),
        ("a,b", {"a,b"}),
        ("a,b light", {"a,b", "light"}),
        ("a,b;hot dog", {"a,b", "hot dog"}),
        ("hot dog|c;d", {"hot dog", "c;d"}),
        ("light traffic", {"light", "traffic"}),
        ("traffic light", "Put ; behind every class name"),
        ("hot dog light", "'dog' is not in classes.txt; names with spaces need a ;"),
        ("Hot dog;", "'Hot dog' is not in classes.txt"),
        ("hot  dog;", "is not in classes.txt"),
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


@pytest.mark.parametrize("name", ["background", "Background", "_background_", "BG", "__ignore__"])
def test_background_under_every_spelling(tiny, name):
    for before in ("", "red\n"):
        (tiny / "classes.txt").write_text(f"{before}{name}\ngreen\n")
        with refused(rf"classes\.txt: '{name}' is class 0"):
            Folder(tiny)
    (tiny / "classes.txt").write_text(f"{name}s\nred\n")
    assert Folder(tiny).class_names == (f"{name}s", "red")


# -------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("a", "a"),
        ("a.b", "a.b"),
        ("my cat", "my cat"),
        ("my cat.JPG", "my cat.JPG"),
        ("images/my cat.jpg", "my cat.jpg"),
        ("/my pictures/my cat.jpg", "my cat.jpg"),
        ("/my pictures/my cat", "my cat"),
        (r"images\my cat.jpg", "my cat.jpg"),
        ("/JPEGImages/x.jpg /SegmentationClassAug/x.png", "x.jpg"),
        ("/JPEGImages/x.jpg\t/SegmentationClassAug/x.png", "x.jpg"),
        ("JPEGImages/my cat.jpg   SegmentationClassAug/my cat.png", "my cat.jpg"),
        ("my images/my cat.jpg my masks/other.png", "my cat.jpg"),
        ("JPEGImages/my cat SegmentationClass/my cat", "my cat"),
        ("x.jpg x.png", "x.jpg"),
        ("my cat.jpg my cat.png", "my cat.jpg"),
        ("x.jpg copy.jpg", "x.jpg copy.jpg"),
        ("images/x.jpg 0 14", "x.jpg"),
    ],
)
def test_picture_that_a_line_means(line, name):
    assert picture_name(line) == name


@pytest.mark.parametrize("name", ["#selfie", "a#b", "a\u2028b", "a\x1cb", "a\x85b"])
def test_lines_end_where_editors_end_them(tmp_path, name):
    (tmp_path / "x.txt").write_bytes(f"{name}\n".encode())
    assert read_list(tmp_path / "x.txt") == [name]


@pytest.mark.parametrize("line", ["cat.jpg", "cat.jpg.png", "images/cat.jpg.png"])
def test_id_that_ends_like_a_picture(tiny, line):
    (tiny / "splits").mkdir()
    PICTURE.save(tiny / "images/cat.jpg.png")
    (tiny / "splits/val.txt").write_text(f"{line}\n")
    folder = Folder(tiny)
    assert folder.ids("val") == ["cat.jpg"]
    folder.check_pictures(folder.ids("val"))


@pytest.mark.parametrize(("stored", "listed"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_names_agree_in_any_unicode_form(tiny, stored, listed):
    assert unicodedata.normalize("NFC", NFD) == NFC
    for folder, ending in (("images", "png"), ("masks", "PNG")):
        name = stored if folder == "images" else listed
        shutil.copy(tiny / folder / "a.png", tiny / folder / f"{name}.{ending}")
    (tiny / "classes.txt").write_text(f"red\ngreen\nblue\n{stored}\n")
    with open(tiny / "labels.csv", "a") as file:
        file.write(f"{listed}.png,{listed}\n")
    (tiny / "splits").mkdir()
    (tiny / "splits/val.txt").write_text(f"{listed}\n")
    folder = Folder(tiny)
    ids = folder.ids("val")
    assert (ids, folder.class_names[-1]) == ([stored], NFC)
    folder.check_pictures(ids)
    assert folder.image_path(stored).is_file()
    assert folder.masks(ids) == [tiny / "masks" / f"{listed}.PNG"]
    assert folder.labels(ids).tolist() == [[0, 0, 0, 1]]
    (tiny / "splits/val.txt").write_text(f"{NFC}\n{NFD}\n")
    with refused("names 1 ids more than once"):
        folder.ids("val")
    other = NFD if stored == NFC else NFC
    PICTURE.save(tiny / f"images/{other}.png")
    with refused("have the same id"):
        Folder(tiny).image_path("a")


def test_missing_list_says_where_it_was_looked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tiny / "splits").mkdir()
    for name in ("train", "val", "._val"):
        (tiny / f"splits/{name}.txt").write_text("a\n")
    (tmp_path / "mine").write_text("a\n")
    folder = Folder(tiny)
    for name in ("nolist", "nolist.txt", "some/list.txt", "tiny/splits", "mine", "n" * 300):
        with refused(rf"no list {name}: .*/splits has train, val\.") as error:
            folder.ids(name)
        assert ".txt.txt" not in str(error.value)
    assert folder.ids(tmp_path / "mine") == ["a"]


class Odd(Dataset):
    """A user's own dataset, whose only list holds one id."""

    name, default_root, class_names = "odd", ".", ("red",)

    def __init__(self, root: Path, image_id) -> None:
        super().__init__(root)
        self.image_id = image_id

    def list_ids(self, list_name: str) -> list[str]:
        return [self.image_id]

    def labels(self, ids: list[str]) -> np.ndarray:
        return labels_from_names([{"blue"}], ids, self)


@pytest.mark.parametrize(
    "image_id",
    [
        *("../../../secret", "a/b", "a\\b", "a\0b", "a..b", ".a", "n" * (LONGEST_ID + 1)),
        "\ud800/",
    ],
)
def test_ids_that_no_file_can_be_named_by(tmp_path, image_id):
    with refused("list train .* Rename the picture"):
        Odd(tmp_path, image_id).ids("train")
    assert Odd(tmp_path, "n" * LONGEST_ID).ids("train")


def test_mistakes_of_a_users_own_dataset(tmp_path):
    with pytest.raises(AttributeError):  # their own keep their traceback
        Odd(tmp_path, 7).ids("train")
    with refused("a in .* is labelled 'blue', .* classes are red"):
        Odd(tmp_path, "a").labels(["a"])


# -------------------------------------------------------------------------------- folders

LEFT = ["._a.png", "._z.png", ".DS_Store", ".hidden.jpg", "Thumbs.db", "desktop.ini"]


def leave(folder: Path) -> None:
    """Leave in a folder what file managers leave."""
    for name in LEFT:
        (folder / name).write_bytes(b"\0\5\x16\7")


def test_what_file_managers_leave_is_no_picture(tiny, tmp_path):
    before = Folder(tiny).ids("train")
    for name in ("images", "masks"):
        leave(tiny / name)
    (tiny / "images/folder.jpg").mkdir()
    folder = Folder(tiny)
    assert folder.ids("train") == before
    folder.check_pictures(before)
    assert folder.mask_path("._a") == tiny / "masks/._a.png"
    assert [path.name for path in visible(tiny / "images")][-1] == "folder.jpg"
    for name in ("red", ".cache"):
        (tmp_path / "own" / name).mkdir(parents=True)
        shutil.copy(tiny / "images/a.png", tmp_path / "own" / name)
    leave(tmp_path / "own/red")
    dataset = ClassFolders(tmp_path / "own")
    assert (dataset.class_names, dataset.ids("train")) == (("red",), ["red_a"])


@pytest.mark.parametrize("name", ["voc", "coco", "folder", "examples.own_dataset:ClassFolders"])
def test_root_that_is_no_folder(tmp_path, name):
    dataset = DATASETS.get(name, ClassFolders)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    reasons = {"gone": "gone for", "file": "Not a directory", "loop": "Too many levels"}
    for place, reason in {**reasons, "n" * 300: "File name too long"}.items():
        with refused(rf"There is no folder .*{reason}.*--dataset {name}\. .*--dataset_root"):
            dataset(tmp_path / place)


def test_folders_within_that_are_none(tiny):
    shutil.rmtree(tiny / "images")
    for make in (lambda p: p.touch(), lambda p: p.symlink_to(tiny / "nowhere"), None):
        with refused("no pictures in .*images"):
            Folder(tiny).ids("train")
        (tiny / "images").unlink(missing_ok=True)
        if make:
            make(tiny / "images")
    (tiny / "images").symlink_to(tiny / "images")
    with refused("folder .*images cannot be read: Too many levels"):
        Folder(tiny).ids("train")


def test_file_in_place_of_the_splits_is_no_permission_to_train_on_everything(tiny):
    (tiny / "splits").write_text("a\n")
    with refused(r"no list train: .*splits has none"):
        Folder(tiny).ids("train")


@pytest.mark.parametrize(("row", "named"), [([0, 1], "b"), ([1, 1], "a and b"), ([0, 0], None)])
def test_class_that_is_never_absent(row, named, caplog, monkeypatch):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        warn_constant_labels(np.array([[1, 1], row], np.uint8), ("a", "b"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * bool(named)
    assert (f"shows {named}, so the classifier cannot learn" in caplog.text) is bool(named)
