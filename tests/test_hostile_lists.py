"""Lists, labels and folders that can be misread: what is read as it looks, and what is refused."""

import errno
import logging
import os
import re
import shlex
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_voc import LISTS, TRAIN, TRAINAUG, annotation, lines, root, sbd  # noqa: F401
from tiny import LABELS

import data.lists
import train_resnet50_SIPE
from data.base import LONGEST_ID, check_prepared, warn_constant_labels
from data.datasets import DATASETS
from data.folder import Folder
from data.lists import LARGEST_TEXT, picture_name, read_lines, read_list, visible
from data.voc import VOC, find_trainaug, main
from examples.own_dataset import ClassFolders
from tool.errors import InputError

NFC, NFD = "caf\u00e9", "cafe\u0301"
PICTURE = Image.new("RGB", (4, 4))


def refused(message: str):
    return pytest.raises(InputError, match=message)


def labels_of(root: Path, ids=("a", "b", "d")) -> list[list[int]]:  # noqa: F811
    return Folder(root).labels(list(ids)).tolist()


ABD = [[1, 0, 0], [0, 1, 0], [1, 0, 1]]

# -------------------------------------------------------------------------------- text files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\n".encode("utf-16"), "is no UTF-8 text but UTF-16"),
        ("a\nb\n".encode("utf-16-le"), "zero bytes"),
        ("a\nb\n".encode("utf-16-be"), "zero bytes"),
        ("a\nb\n".encode("utf-32"), "is no UTF-8 text"),
        (b"a\nb\0\n", "zero bytes"),
        ("a\nr\u00f8d\n".encode("latin-1"), r"line 2 has the byte 0xf8, which is '\u00f8'"),
        ("a\n\u20ac\n".encode("cp1252"), "line 2 has the byte 0x80"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is no UTF-8 text"),
        (b"\xff\xd8\xff\xe0\0\x10", "is no UTF-8 text"),
        (b"\xff\xd8\xff", "is no UTF-8 text"),
        (b"a\n\xe2\x82", "line 2"),
    ],
)
@pytest.mark.parametrize("name", ["classes.txt", "labels.csv", "splits/train.txt"])
def test_encoding_is_named(tiny, name, content, message):
    path = tiny / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with refused(rf"{name}.*{message}"):
        folder = Folder(tiny)
        folder.labels(folder.ids("train"))


@pytest.mark.parametrize(
    "content",
    [
        "a\nb\n",
        "a\r\nb\r\n",
        "a\rb",
        "\ufeffa\n\ufeffb",
        "\n\n  a \t\n\nb   \n \n",
        "# remark\na\n#\nb\n#\tremark\n",
        "a\nb\x0c\n",
    ],
)
def test_lines_are_read_as_they_look(tmp_path, content):
    path = tmp_path / "x.txt"
    path.write_bytes(content.encode())
    assert read_lines(path) == ["a", "b"]


@pytest.mark.parametrize("name", ["#selfie", "a#b", "a\u2028b", "a\x1cb", "a\x85b"])
def test_lines_end_where_editors_end_them(tmp_path, name):
    path = tmp_path / "x.txt"
    path.write_bytes(f"{name}\n".encode())
    assert read_list(path) == [name]


def test_file_that_is_none_or_too_large_or_closed(tmp_path, monkeypatch):
    with refused("no file .*gone"):
        read_lines(tmp_path / "gone")
    with refused("is a folder or a device, not a file"):
        read_lines(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with refused("is a folder or a device, not a file"):
        read_lines(tmp_path / "pipe")
    with refused("name too long"):
        read_lines(tmp_path / ("n" * 300))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with refused("loop cannot be read: Too many levels"):
        read_lines(tmp_path / "loop")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(LARGEST_TEXT + 1)
    with refused("huge has more than"):
        read_lines(tmp_path / "huge")
    (tmp_path / "closed").write_text("a")

    def no(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("builtins.open", no)
    with refused("closed cannot be read: Permission denied"):
        read_lines(tmp_path / "closed")


# -------------------------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("a", "a"),
        ("2007_000001", "2007_000001"),
        ("a.b", "a.b"),
        ("a.jpg", "a.jpg"),
        ("my cat", "my cat"),
        ("my cat.JPG", "my cat.JPG"),
        ("images/a.jfif", "a.jfif"),
        ("images/my cat.jpg", "my cat.jpg"),
        ("/my pictures/my cat.jpg", "my cat.jpg"),
        ("/my pictures/my cat", "my cat"),
        (r"images\my cat.jpg", "my cat.jpg"),
        (r"C:\my pictures\cat.jpg", "cat.jpg"),
        ("./a.jpg", "a.jpg"),
        ("/JPEGImages/x.jpg /SegmentationClassAug/x.png", "x.jpg"),
        ("/JPEGImages/x.jpg\t/SegmentationClassAug/x.png", "x.jpg"),
        ("JPEGImages/my cat.jpg   SegmentationClassAug/my cat.png", "my cat.jpg"),
        ("my images/my cat.jpg my masks/other.png", "my cat.jpg"),
        (r"JPEGImages\x.jpg SegmentationClass\x.png", "x.jpg"),
        ("JPEGImages/x SegmentationClass/x", "x"),
        ("JPEGImages/x\tSegmentationClass/x", "x"),
        ("JPEGImages/my cat SegmentationClass/my cat", "my cat"),
        ("x.jpg x.png", "x.jpg"),
        ("my cat.jpg my cat.png", "my cat.jpg"),
        ("x.jpg copy.jpg", "x.jpg copy.jpg"),
        ("images/x.jpg 0 14", "x.jpg"),
        ("images/x.y.jpg masks/x.y.png", "x.y.jpg"),
    ],
)
def test_picture_that_a_line_means(line, name):
    assert picture_name(line) == name


@pytest.mark.parametrize("ending", ["jpg", "JPG", "jpeg", "jfif", "JFIF", "PNG", "bmp", "tif"])
def test_list_with_endings(tiny, ending):
    (tiny / "splits").mkdir()
    kind = {"jpg": "jpeg", "jfif": "jpeg", "tif": "tiff"}.get(ending.lower(), ending.lower())
    PICTURE.save(tiny / f"images/x.{ending}", kind)
    for name in ("x", f"x.{ending}", f"images/x.{ending} masks/x.png", f"x.{ending}  \r"):
        (tiny / "splits/val.txt").write_text(f"{name}\n")
        assert Folder(tiny).ids("val") == ["x"]


@pytest.mark.parametrize("line", ["cat.jpg", "cat.jpg.png", "images/cat.jpg.png"])
def test_id_that_ends_like_a_picture(tiny, line):
    (tiny / "splits").mkdir()
    PICTURE.save(tiny / "images/cat.jpg.png")
    (tiny / "splits/val.txt").write_text(f"{line}\n")
    folder = Folder(tiny)
    assert folder.ids("val") == ["cat.jpg"]
    folder.check_pictures(folder.ids("val"))
    PICTURE.save(tiny / "images/cat.png")
    with refused(r"cat\.png and cat\.jpg\.png have the same id"):
        Folder(tiny).ids("val")


@pytest.mark.parametrize(("stored", "listed"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_names_agree_in_any_unicode_form(tiny, stored, listed):
    for folder in ("images", "masks"):
        shutil.copy(tiny / folder / "a.png", tiny / folder / f"{listed}.png")
        (tiny / folder / f"{listed}.png").rename(tiny / folder / f"{stored}.png")
    (tiny / "masks" / f"{stored}.png").rename(tiny / "masks" / f"{listed}.PNG")
    (tiny / "classes.txt").write_text(f"red\ngreen\nblue\n{stored}\n")
    with open(tiny / "labels.csv", "a") as file:
        file.write(f"{listed}.png,{listed}\n")
    (tiny / "splits").mkdir()
    (tiny / "splits/val.txt").write_text(f"{listed}\n")
    folder = Folder(tiny)
    ids = folder.ids("val")
    assert ids == [stored]
    folder.check_pictures(ids)
    assert folder.image_path(stored).is_file()
    assert folder.masks(ids) == [tiny / "masks" / f"{listed}.PNG"]
    assert folder.labels(ids).tolist() == [[0, 0, 0, 1]]
    (tiny / "splits/val.txt").write_text(f"{NFC}\n{NFD}\n")
    with refused("val names 1 ids more than once"):
        folder.ids("val")


def test_two_pictures_that_differ_in_unicode_form_alone(tiny):
    for name in (NFC, NFD):
        PICTURE.save(tiny / f"images/{name}.png")
    with refused("have the same id"):
        Folder(tiny).ids("train")


def test_missing_list_says_where_it_was_looked_for(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tiny / "splits").mkdir()
    for name in ("train", "val", "._val"):
        (tiny / f"splits/{name}.txt").write_text("a\n")
    folder = Folder(tiny)
    with refused(
        f"no list nolist, neither as the file {tmp_path}/nolist nor as .*/splits/nolist.txt; "
        r"that folder has train, val\."
    ):
        folder.ids("nolist")
    with refused(rf"no list {tmp_path}/nolist\.txt\. Lists .*/splits has train, val\.") as error:
        folder.ids("nolist.txt")
    assert ".txt.txt" not in str(error.value)
    with refused(rf"no list {tmp_path}/some/list\.txt\."):
        folder.ids(Path("some/list.txt"))
    with refused(r"tiny/splits is a folder, no list"):
        folder.ids("tiny/splits")
    with refused("is a folder or a device|no list"):
        (tiny / "splits/val.txt").unlink()
        (tiny / "splits/val.txt").mkdir()
        folder.ids("val")
    (tmp_path / "mine").write_text("a\n")
    with refused(rf"If you mean the file {tmp_path}/mine, write its whole path"):
        folder.ids("mine")
    assert folder.ids(tmp_path / "mine") == ["a"]
    with refused("no list n{20}"):
        folder.ids("n" * 300)


@pytest.mark.parametrize("content", ["", "\n \r\n", "\ufeff", "# nothing\n"])
def test_list_without_ids(tiny, content):
    path = tiny / "mine.txt"
    path.write_text(content)
    with refused(r"The list .*mine\.txt .*is empty"):
        Folder(tiny).ids(path)


def test_missing_pictures_name_the_list_and_what_is_alike(tiny, root):  # noqa: F811
    (tiny / "splits").mkdir()
    (tiny / "splits/val.txt").write_text("a\nB\n")
    folder = Folder(tiny)
    with refused(r"1 of 2 .*images/B, although b\.png is there\. .* off the list val\."):
        folder.check_pictures(folder.ids("val"))
    path = root / "JPEGImages" / f"{TRAIN[0]}.jpg"
    path.rename(path.with_suffix(".JPG"))
    voc = VOC(root)
    with refused(rf"although {TRAIN[0]}\.JPG is there\. .* off the list train\."):
        voc.check_pictures(voc.ids("train"))


def test_id_too_long_for_the_files_that_are_named_by_it(tiny):
    for length in (LONGEST_ID, LONGEST_ID + 1):
        PICTURE.save(tiny / f"images/{'n' * length}.png")
    folder = Folder(tiny)
    folder.check_pictures(["a", "n" * LONGEST_ID])
    with refused("id n+... has more than 210 bytes"):
        folder.check_pictures(folder.ids("train"))


def test_list_that_names_too_long_a_file(root, tmp_path):  # noqa: F811
    (tmp_path / "x.txt").write_text("n" * 300)
    with refused("more than 210 bytes"):
        VOC(root).check_pictures(VOC(root).ids(tmp_path / "x.txt"))
    with refused("annotations are missing"):
        VOC(root).labels(["n" * 300])


# -------------------------------------------------------------------------------- hidden files

LEFT = ["._a.png", "._z.png", ".DS_Store", ".hidden.jpg", "Thumbs.db", "desktop.ini"]


def leave(folder: Path) -> None:
    """Leave in a folder what file managers leave."""
    for name in LEFT:
        (folder / name).write_bytes(b"\0\5\x16\7")
    (folder / "folder.jpg").mkdir()


def test_what_file_managers_leave_is_no_picture(tiny):
    before = Folder(tiny).ids("train")
    leave(tiny / "images")
    leave(tiny / "masks")
    folder = Folder(tiny)
    assert folder.ids("train") == before
    folder.check_pictures(before)
    assert folder.mask_path("._a") == tiny / "masks/._a.png"
    assert [path.name for path in visible(tiny / "images")][-1] == "folder.jpg"
    with refused("no picture '._a'"), open(tiny / "labels.csv", "a") as file:
        file.write("._a.png,red\n")
        file.flush()
        Folder(tiny).labels(["a"])


def test_nor_in_folders_of_classes(tiny, tmp_path):
    for name in ("red", ".cache"):
        (tmp_path / "own" / name).mkdir(parents=True)
        shutil.copy(tiny / "images/a.png", tmp_path / "own" / name)
    leave(tmp_path / "own/red")
    (tmp_path / "own/red/folder.jpg").rmdir()
    dataset = ClassFolders(tmp_path / "own")
    assert dataset.class_names == ("red",)
    assert dataset.ids("train") == ["red_a"]


def test_nor_in_trainaug(root):  # noqa: F811
    masks = root / "SegmentationClassAug"
    masks.mkdir()
    for image_id in TRAINAUG:
        (masks / f"{image_id}.png").touch()
    leave(masks)
    for folder in ("JPEGImages", "Annotations", LISTS):
        leave(root / folder)
    main(["--dataset_root", str(root)])
    assert (root / LISTS / "trainaug.txt").read_text() == lines(TRAINAUG)


def written(root: Path) -> bool:  # noqa: F811
    return (root / LISTS / "trainaug.txt").exists()


@pytest.mark.parametrize("missing", ["JPEGImages/2010_000005.jpg", "Annotations/2010_000005.xml"])
def test_trainaug_is_written_after_its_checks(root, sbd, missing):  # noqa: F811
    kept = (root / missing).read_bytes()
    (root / missing).unlink()
    arguments = ["--dataset_root", str(root), "--sbd_root", str(sbd)]
    with refused("1 of 4 .* are missing"):
        main(arguments)
    assert not written(root)
    (root / missing).write_bytes(kept)
    main(arguments)
    assert written(root)


@pytest.mark.parametrize("source", ["masks", "sbd"])
def test_trainaug_without_pictures_is_not_written(root, sbd, source):  # noqa: F811
    arguments = ["--dataset_root", str(root)]
    if source == "masks":
        (root / "SegmentationClassAug").mkdir()
    else:
        arguments += ["--sbd_root", str(sbd)]
        for path in (root / LISTS / "train.txt", *(sbd / "dataset").iterdir()):
            path.write_text(lines(["2009_000004"]))
    with refused("has no picture but those of val, so trainaug would be empty"):
        main(arguments)
    assert not written(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"trainaug\.txt is empty\. Delete the file and prepare it anew: python -m data.voc"),
        ("\n", r"trainaug\.txt is empty"),
        (lines(["._2007_000001", *TRAINAUG]), r"hidden files, such as \._2007.* Delete the file"),
        (lines([*TRAINAUG, "2009_000004"]), "pictures of val, .* Delete the file"),
        (lines([*TRAINAUG, "2011_000001"]), r"1 of 5 .*or delete .*trainaug\.txt and prepare"),
        ("\0", "zero bytes"),
    ],
)
def test_wrong_trainaug_of_an_earlier_version(root, text, message):  # noqa: F811
    (root / LISTS / "trainaug.txt").write_text(text)
    with refused(message):
        main(["--dataset_root", str(root)])


def test_commands_in_messages_are_quoted(root, tmp_path):  # noqa: F811
    odd = tmp_path / "it's & 14"
    root.rename(odd)
    for text in (None, ""):
        if text is not None:
            (odd / LISTS / "trainaug.txt").write_text(text)
        with refused("python -m data.voc") as error:
            find_trainaug(odd)
        words = shlex.split(str(error.value).split("python -m data.voc ")[1])
        assert words[:2] == ["--dataset_root", str(odd)]


# -------------------------------------------------------------------------------- annotations

CAT = annotation([("cat", 0)])
BOMB = '<!DOCTYPE a [<!ENTITY b "cat"><!ENTITY c "&b;&b;&b;">]>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not whole XML"),
        (b"\0" * 10, "is not whole XML"),
        (b"\x89PNG\r\n\x1a\n", "is not whole XML"),
        (f'<?xml version="1.0" encoding="martian"?>{CAT}'.encode(), "is not whole XML"),
        (f'<?xml version="1.0" encoding="utf-7"?>{CAT}'.encode(), "is not whole XML"),
        (f'<?xml version="1.0" encoding="big5"?>{CAT}'.encode(), "is not whole XML"),
        ((BOMB + CAT.replace("cat", "&c;")).encode(), "document type"),
        ((BOMB + CAT.replace("cat", "&c;")).encode("utf-16"), "document type"),
        (f'<!DOCTYPE a SYSTEM "file:///etc/passwd">{CAT}'.encode(), "document type"),
        (CAT.replace("cat", "&cat;").encode(), "is not whole XML"),
        (b"<html><object><name>cat</name></object></html>", "XML of the kind html"),
        (b"<annotation/>", "names no object"),
        (annotation([("", 0)]).encode(), "'', which is no class"),
        (CAT.replace("cat", "c\u00e4t").encode("latin-1"), "is not whole XML"),
        (CAT.encode() + b" " * (1 << 24), "has more than 16777216 bytes"),
        (b"<annotation>" + b"<a>" * 200_000, "is not whole XML"),
    ],
)
def test_annotation_that_is_none(root, content, message):  # noqa: F811
    path = root / "Annotations" / f"{TRAIN[1]}.xml"
    path.write_bytes(content)
    with refused(message) as error:
        VOC(root).labels(TRAIN)
    assert TRAIN[1] in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_annotation_in_its_declared_encoding(root, encoding):  # noqa: F811
    head = f'<?xml version="1.0" encoding="{encoding.replace("-sig", "")}"?>'
    path = root / "Annotations" / f"{TRAIN[0]}.xml"
    path.write_bytes((head + CAT).encode(encoding))
    assert VOC(root).labels(TRAIN[:1]).nonzero()[1].tolist() == [7]


def test_annotation_that_is_a_folder_or_closed(root, monkeypatch):  # noqa: F811
    path = root / "Annotations" / f"{TRAIN[1]}.xml"
    path.unlink()
    path.mkdir()
    with refused("1 of 2 annotations are missing"):
        VOC(root).labels(TRAIN)

    def closed(*_):
        raise InputError("it cannot be read: Permission denied.")

    monkeypatch.setattr("data.voc.read_bytes", closed)
    with refused("Permission denied"):
        VOC(root).labels(TRAIN[:1])


# -------------------------------------------------------------------------------- classes.txt


@pytest.mark.parametrize(
    "name",
    [
        *("background", "Background", "BACKGROUND", "_background_", "__background__", "bg", "BG"),
        *("__bg__", "-background-", "__ignore__", "BackGround"),
    ],
)
@pytest.mark.parametrize(
    ("before", "mend"),
    [("", "the ids of the others are then 1, 2"), ("red\n", "move up by one: compare them")],
)
def test_background_under_every_spelling(tiny, name, before, mend):
    (tiny / "classes.txt").write_text(f"{before}{name}\ngreen\n")
    with refused(rf"classes\.txt: take {re.escape(name)} off.*{mend}"):
        Folder(tiny)


@pytest.mark.parametrize("name", ["ground", "backgrounds", "bgr", "ignore", "BBG", "__x__"])
def test_names_that_are_not_background(tiny, name):
    (tiny / "classes.txt").write_text(f"{name}\nred\n")
    assert Folder(tiny).class_names == (name, "red")


@pytest.mark.parametrize(
    ("first", "second"),
    [("cat", "cat"), ("cat", "Cat"), ("CAT", "cat"), (NFC, NFD), (NFD, NFC.upper()), ("ß", "SS")],
)
def test_names_that_cannot_be_told_apart(tiny, first, second):
    (tiny / "classes.txt").write_text(f"{first}\nred\n{second}\n")
    with refused(rf"{second!r} stands twice, as {first!r} before"):
        Folder(tiny)


@pytest.mark.parametrize("name", ["a  b", "a\tb", "a\u00a0b", "a\u2028b"])
def test_space_that_cannot_be_seen_in_a_name(tiny, name):
    (tiny / "classes.txt").write_text(f"{name}\nred\n")
    with refused("has a tab, or two spaces in a row"):
        Folder(tiny)


# -------------------------------------------------------------------------------- labels.csv


def table(tiny: Path, text: str) -> Path:
    (tiny / "labels.csv").write_bytes(text.encode())
    return tiny


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\na,red\nb,green\nd,red blue\n",
        "image;labels\na;red\nb;green\nd;red blue\n",
        "image\tlabels\na\tred\nb\tgreen\nd\tred blue\n",
        "Image,LABELS\na,red\nb,green\nd,red blue\n",
        " image , labels \na , red \nb, green\n d ,  red  blue \n",
        '"image";"labels"\n"a";"red"\n"b";"green"\n"d";"red;blue"\n',
        'image, labels\n"a", "red"\nb, "green"\nd, "red, blue"\n',
        "image,labels\r\na,red\r\n\r\nb,green\r\nd,red|blue\r\n,\r\n",
        "\ufeffimage;labels\r\na;red\r\nb;green\r\nd;red|blue\r\n",
        "image,labels\na,red,\nb,green,,\nd,red blue, \n",
        "image,labels,\na,red,\nb,green,\nd,red blue,\n",
        "id;labels;image\n1;red;a.png\n2;green;b.PNG\n3;red blue;d.png\n",
        "image,labels\na.jpg,red\nimages/b.png,green;\n.\\images\\d.png,blue|red|\n",
        'image,labels,note\na,red,"two\nlines"\nb,green,\nd,red blue,x\n',
        "image,labels\na,red red\nb,green\nd,blue red blue\n",
    ],
)
def test_table_is_read_as_it_looks(tiny, text):
    assert labels_of(table(tiny, text)) == ABD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('image,labels\na,"red\nb,green\nd,red blue\n', r"line 2: a quotation mark is not closed"),
        ('image,labels\na,red\n"b,green\nd,red blue\n', r"line 3: a quotation mark is not closed"),
        ('image,labels\na,"red\nb",green\n', "line 3: (too many commas|a quotation mark is open)"),
        ('image,labels\na,"red\nblue"\nb,green\n', "line 3: a quotation mark is open"),
        ('image,labels\na,"re"d\n', "line 2: a quotation mark is not closed, or stands inside"),
        (f"image,labels\na,{'x' * 200_000}\n", "line 2: .*field larger"),
        ("image,labels\na,red\0\n", "zero bytes"),
        ("", "no header line"),
        ("\n\n", "no header line"),
        ("image labels\na red\n", "no header line"),
        ("image,labels,labels\na,red,blue\n", "no header line"),
        ("image,label\na,red\n", "no header line"),
        ("image;labels\na;red;blue\n", "line 2: too many semicolons"),
        ("image\tlabels\na\tred\tblue\n", "line 2: too many tabs"),
        ("image,labels\na,Red\n", "'Red' is not in classes.txt; 'red' is"),
        ("image,labels\na,red;purple\n", "'purple' is not in classes.txt"),
        ("image,labels\na\n", "line 2: 'a' has no cell of labels"),
        ("image,labels\n,red\n", "no picture ''"),
        ("image,labels\na,red\na.png,red\n", "'a' stands there twice"),
        ("image,labels\na,red\nx/a.png,red\n", "'a' stands there twice"),
    ],
)
def test_table_that_cannot_be_read(tiny, text, message):
    with refused(rf"labels\.csv.*{message}"):
        labels_of(table(tiny, text))


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
        ("traffic light", "can be read in two ways. Put ; behind every class name"),
        ("hot dog light", "'dog' is not in classes.txt; names with spaces need a ;"),
        ("Hot dog;", "'Hot dog' is not in classes.txt; 'hot dog' is"),
        ("hot  dog;", "is not in classes.txt"),
        ("light;hot dog,", "'hot dog,' is not in classes.txt"),
    ],
)
def test_names_with_spaces(tiny, cell, expected):
    (tiny / "classes.txt").write_text("\n".join(NAMES) + "\n")
    table(tiny, f'image,labels\na,"{cell}"\n')
    if isinstance(expected, str):
        with refused(re.escape(expected)):
            labels_of(tiny, "a")
    else:
        (row,) = labels_of(tiny, "a")
        assert {NAMES[k] for k in np.nonzero(row)[0]} == expected


def test_picture_without_a_row_names_the_list_and_the_row(tiny):
    (tiny / "splits").mkdir()
    (tiny / "splits/val.txt").write_text("a\nc\n")
    rows = (tiny / "labels.csv").read_text().replace("c.png,blue\n", "")
    folder = Folder(table(tiny, rows))
    with refused(r"no row for 'c', which the list val names\. Add the row c\.png,<"):
        folder.labels(folder.ids("val"))


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([[1, 0], [1, 1]], "a"),
        ([[1, 1], [1, 1]], "a and b"),
        ([[1, 0], [0, 1]], None),
        ([[1, 0], [0, 0]], None),
    ],
)
def test_class_that_is_never_absent(rows, named, caplog, monkeypatch):
    warn_constant_labels(np.array(rows, np.uint8), ("a", "b"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * bool(named)
    assert (f"shows {named}, so the classifier cannot learn" in caplog.text) is bool(named)
    caplog.clear()
    monkeypatch.setenv("RANK", "1")
    warn_constant_labels(np.array(rows, np.uint8), ("a", "b"))
    assert not caplog.records


def test_training_warns_of_it(tiny, flags, tmp_path):
    (tiny / "classes.txt").write_text("red\n")
    table(tiny, "image,labels\n" + "".join(f"{image_id},red\n" for image_id in LABELS))
    train_resnet50_SIPE.main([*flags["train"], "--max_epoches", "1"])
    log = (tmp_path / "run/run.log").read_text()
    assert log.count("every picture of the training list shows red") == 1
    assert "needs pictures without it" in log


# -------------------------------------------------------------------------------- MS COCO

IDS = np.array(["COCO_train2014_000000000001", "COCO_train2014_000000000002"], "S")
GOOD = np.zeros((2, 80), np.uint8)
GOOD[0, 3] = GOOD[1, [0, 79]] = 1


def changed(value, place=(0, 0), dtype=np.uint8) -> np.ndarray:
    labels = GOOD.astype(dtype)
    labels[place] = value
    return labels


@pytest.mark.parametrize(
    ("ids", "labels", "fault"),
    [
        (IDS, GOOD.astype(np.float32), "float32, not whole numbers"),
        (IDS, changed(np.nan, dtype=np.float64), "float64, not whole numbers"),
        (IDS, GOOD.astype("S"), "not whole numbers"),
        (IDS, changed(2), "labels have the value 2"),
        (IDS, changed(-1, dtype=np.int64), "labels have the value -1"),
        (IDS, changed(255), "labels have the value 255"),
        (IDS, np.zeros_like(GOOD), "000001 has no class"),
        (IDS, changed(0, (1, slice(None))), "000002 has no class"),
        (IDS, GOOD[:, :79], r"the shape \(2, 79\), not \(N, 80\)"),
        (IDS, GOOD[0], r"the shape \(80,\)"),
        (IDS, GOOD[:1], "2 ids belong to 1 rows"),
        (IDS[:1], GOOD, "1 ids belong to 2 rows"),
        (IDS[None], GOOD, "2 ids belong to 2 rows"),
        (np.arange(2), GOOD, "2 ids belong to 2 rows"),
        (IDS[[0, 0]], GOOD, "an id stands there twice"),
    ],
)
def test_prepared_labels_that_cannot_be(tmp_path, ids, labels, fault):
    with refused(rf"x\.npz is damaged: .*{fault}.* prepare the dataset again"):
        check_prepared(Path("x.npz"), ids, labels, 80)
    (tmp_path / "prepared").mkdir()
    np.savez(tmp_path / "prepared/train_labels.npz", ids=ids, labels=labels)
    with refused("train_labels.npz is damaged"):
        DATASETS["coco"](tmp_path).labels([IDS[0].decode()])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_prepared_labels_that_can_be(tmp_path, dtype):
    check_prepared(Path("x.npz"), IDS.astype(str), GOOD.astype(dtype), 80)
    (tmp_path / "prepared").mkdir()
    np.savez(tmp_path / "prepared/train_labels.npz", ids=IDS, labels=GOOD.astype(dtype))
    labels = DATASETS["coco"](tmp_path).labels([IDS[1].decode()])
    assert labels.tolist() == GOOD[1:].tolist()


# -------------------------------------------------------------------------------- roots


@pytest.mark.parametrize("name", ["voc", "coco", "folder", "examples.own_dataset:ClassFolders"])
def test_root_that_is_no_folder(tmp_path, monkeypatch, name):
    dataset = DATASETS.get(name, ClassFolders)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    reasons = {"gone": "gone for", "file": "Not a directory", "loop": "Too many levels"}
    for place, reason in {**reasons, "n" * 300: "File name too long"}.items():
        with refused(rf"There is no folder .*{reason}.*--dataset {name}\. .*--dataset_root"):
            dataset(tmp_path / place)

    def no(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "stat", no)
    with refused(r"no folder .* \(Permission denied\) for"):
        dataset(tmp_path)


def test_folders_within_that_are_none(tiny, monkeypatch):
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
    with refused(r"no list train, .*splits/train\.txt; that folder has none"):
        Folder(tiny).ids("train")


def test_unicode_forms_of_this_test_differ():
    assert NFC != NFD
    assert unicodedata.normalize("NFC", NFD) == NFC
    assert data.lists.plain(NFD) == NFC
