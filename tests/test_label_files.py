"""Labels and pictures as other tools and people leave them: read as they are meant, or named."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import predict
from data import lists
from data.base import check_labels
from data.doctor.finding import show
from data.folder import Folder
from data.folder.__main__ import checks_of
from tool.errors import InputError
from tool.pictures import read_rgb, save_label

EXPECTED = {"a": {"red"}, "b": {"green"}, "c": set()}
BOX = [1.0, 2.0, 9.0, 9.0]


def refused(message: str):
    return pytest.raises(InputError, match=message)


@pytest.fixture
def bare(tiny):
    """The tiny folder of three pictures without any label."""
    for name in ("labels.csv", "classes.txt", *(f"images/{i}.png" for i in "def")):
        (tiny / name).unlink()
    return tiny


def coco(first: int = 1, **changes) -> dict:
    """Return COCO's JSON of EXPECTED, with other lists and further keys in its entries."""
    content = {
        "images": [{"id": n, "file_name": f"{i}.png"} for n, i in enumerate("abc")],
        "categories": [{"id": first, "name": "red"}, {"id": first + 1, "name": "green"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": first + n, "bbox": BOX} for n in (0, 1)
        ],
    }
    return content | changes


def thing(image: object, category: object, **more) -> dict:
    return {"image_id": image, "category_id": category, **more}


def ids(make) -> dict:
    """Return COCO's JSON whose ids are what a function makes of whole numbers."""
    content = coco()
    for entry in [*content["images"], *content["categories"]]:
        entry["id"] = make(entry["id"])
    for entry in content["annotations"]:
        entry.update(image_id=make(entry["image_id"]), category_id=make(entry["category_id"]))
        del entry["id"]
    return content


ROOT = {"id": 0, "name": "things", "supercategory": "none"}
BELOW = [{"id": n, "name": i, "supercategory": "things"} for n, i in ((1, "red"), (2, "green"))]
BACKGROUND = {"supercategory": None, "id": 0, "name": "_background_"}
NAN = json.dumps(coco(info={"score": float("nan")}))
PANDAS = ",image,labels\n0,a.png,red\n1,b.png,green\n2,c.png,\n"
TABS = "image\tlabels\na\tred\nb\tgreen\nc\t\n"
ONE_HOT = "filename,red,green\na.png,1,0\nb.png,0,1\nc.png,0,0\n"
# What a tool writes, the name of its file, and the content, text or JSON.
READ = {
    "pandas": ("labels.csv", PANDAS),
    "pandas, one-hot": (
        "labels.csv",
        ",filename,red,green\n0,a.png,1,0\n1,b.png,0,1\n2,c.png,0,0\n",
    ),
    "pandas twice": (
        "labels.csv",
        "Unnamed: 0,image,red,green\n0,a.png,True,False\n1,b.png,False,True\n2,c.png,False,False\n",
    ),
    "Excel, a German one": (
        "labels.csv",
        "sep=;\r\nimage;labels\r\na.png;red\r\nb.png;green\r\nc.png;\r\n",
    ),
    "Excel, marked": ("labels.csv", "\ufeffimage;labels\r\na.png;red\r\nb;green\r\nc;\r\n"),
    "Excel, Unicode text": ("labels.csv", TABS.encode("utf-16")),
    "Windows, capitals": ("Labels.CSV", ONE_HOT),
    "Windows, hidden ending": ("labels.csv.txt", ONE_HOT),
    "a person, yes and no": (
        "labels.csv",
        "file,red,green\na.png,Yes,No\nb.png,no,yes\nc.png,n,N\n",
    ),
    "a person, remarks": (
        "labels.csv",
        "image,red,green,remark\na,1,0,blurred\nb,0,1,\nc,0,0,dark; see c\n",
    ),
    "Roboflow, multi-class": ("_classes.csv", ONE_HOT.replace(",", ", ")),
    "Label Studio, choices": (
        "labels.csv",
        '"annotation_id","annotator","choice","image"\n1,"1","red","/data/upload/1/a.png"\n'
        '2,"1","{""choices"":[""green"",""green""]}","/data/upload/1/b.png"\n3,"1","","c.png"\n',
    ),
    "CVAT": ("annotations/instances_default.json", coco()),
    "CVAT beside the images": ("instances_default.json", coco()),
    "Datumaro, labels": ("annotations.json", coco(annotations=[thing(0, 1), thing(1, 2)])),
    "Roboflow": (
        "_annotations.coco.json",
        coco(categories=[ROOT, *BELOW]),
    ),
    "labelme2coco": (
        "annotations.json",
        coco(categories=[BACKGROUND, *coco()["categories"]]),
    ),
    "Label Studio": (
        "result.json",
        coco(0, images=[{**one, "width": None, "height": None} for one in coco()["images"]]),
    ),
    "FiftyOne": ("labels.json", coco(info={"categories": []})),
    "text ids": ("annotations.json", ids(str)),
    "real ids": ("annotations.json", ids(float)),
    "GUIDs": ("annotations.json", ids(lambda n: f"{9 - n}c1a5b3e-71")),
    "ids of two kinds": ("annotations.json", coco(annotations=[thing("0", 1.0), thing(1.0, "2")])),
    "crowds": (
        "annotations.json",
        coco(annotations=[thing(0, 1, iscrowd=0.0), thing(1, 2, iscrowd=None, id=None)]),
    ),
    "empty boxes": (
        "annotations.json",
        coco(
            annotations=[
                *(thing(2, 1, bbox=box) for box in ([], None, [0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0])),
                thing(0, 1, bbox=[], segmentation=[[1, 1, 5, 1, 5, 5]]),
                thing(1, 2, bbox=BOX, segmentation=[]),
            ]
        ),
    ),
    "a byte order mark": ("annotations.json", "\ufeff" + json.dumps(coco())),
    "UTF-16": ("annotations.json", json.dumps(coco()).encode("utf-16")),
    "NaN": ("annotations.json", NAN),
}
# Tools whose tables do not say what the classes are.
NO_CLASSES = ("pandas", *(f"Excel, {kind}" for kind in ("a German one", "marked", "Unicode text")))
NO_CLASSES += ("Label Studio, choices",)
MISSPELLED = coco(annotation=[])
del MISSPELLED["annotations"]
TWICE = [{"id": i, "file_name": "a.png"} for i in (1, "1.0")]
SHAPES = {"version": "5.5.0", "flags": {}, "shapes": [{"label": "red"}], "imagePath": "a.png"}
VIA = {"a.png5868": {"filename": "a.png", "size": 5868, "regions": []}}
# What stands in the place of labels, and words of the sentence beside the file's name.
NAMED = {
    "labelme": ("annotations.json", SHAPES, "labelme's own"),
    "VIA": ("annotations.json", VIA, "VIA's own"),
    "VIA, project": ("annotations.json", {"_via_img_metadata": VIA}, "VIA's own"),
    "VIA, table": (
        "labels.csv",
        "filename,file_size,file_attributes,region_count,region_id\na.png,1,{},1,0\n",
        "VIA's own",
    ),
    "CreateML": (
        "annotations.json",
        [{"image": "a.png", "annotations": [{"label": "red", "coordinates": {"x": 1}}]}],
        "CreateML's own",
    ),
    "Label Studio": (
        "annotations.json",
        [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"id": 1, "result": []}]}],
        "Label Studio's own",
    ),
    "Label Studio, short": (
        "result.json",
        [{"image": "a.png", "id": 1, "choice": "red", "annotator": 1}],
        "Label Studio's own",
    ),
    "FiftyOne": ("labels.json", {"classes": ["red"], "labels": {"a": 0}}, "FiftyOne's own"),
    "Datumaro": (
        "annotations.json",
        {"infos": {}, "categories": {"label": {}}, "items": [{"id": "a"}]},
        "Datumaro's own",
    ),
    "Excel": ("labels.xlsx", b"PK\3\4", "save the sheet as CSV"),
    "CVAT for images": ("annotations.xml", "<annotations/>", "no .*labels.csv"),
    "another name": ("my labels.csv", ONE_HOT, "no .*labels.csv"),
    "no annotations": ("annotations.json", coco(annotations=None), "annotations is None"),
    "misspelled": ("annotations.json", MISSPELLED, "annotations is None"),
    "an empty list": ("annotations.json", coco(annotations=[]), "No picture .*class"),
    "zeros": ("labels.csv", "image,red\na,0\nb,0\nc,0\n", "No picture .*class"),
    "empty cells": ("labels.csv", "image,red\na,1\nb,\nc,0\n", "line 3: '' .*neither 0 nor 1"),
    "an unknown category": ("annotations.json", coco(annotations=[thing(0, 3)]), "category 3"),
    "two of one id": ("annotations.json", coco(images=TWICE), "one id"),
    "no id": ("annotations.json", coco(categories=[{"id": None, "name": "red"}]), "None is no id"),
}


def put(root: Path, name: str, content: object) -> None:
    path = root / name
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, dict | list):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("tool", READ)
def test_what_other_tools_write_is_read(bare, tool):
    name, content = READ[tool]
    put(bare, name, content)
    if tool in NO_CLASSES:
        put(bare, "classes.txt", "red\ngreen\n")
    folder = Folder(bare)
    assert folder.ids("train") == list(EXPECTED)
    assert {i: folder.names_of(i) for i in EXPECTED} == EXPECTED
    assert folder.class_names == ("red", "green")


@pytest.mark.parametrize("tool", NAMED)
def test_what_is_of_another_form_is_named(bare, tool):
    name, content, words = NAMED[tool]
    put(bare, name, content)
    with refused(f"(?s){words}") as error:
        folder = Folder(bare)
        check_labels(folder.labels(list(EXPECTED)), folder.class_names, folder.source_names)
    assert name.rpartition("/")[2] in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_root_that_something_is_labelled_with_is_a_class(bare):
    put(bare, "annotations.json", coco(0, categories=[ROOT, BELOW[0]]))
    assert Folder(bare).class_names == ("things", "red")


# -------------------------------------------------------------------------------- pictures


def move(root: Path, places: dict[str, str]) -> None:
    """Move pictures of images/ and their masks to other places there."""
    for image_id, place in places.items():
        for folder in ("images", "masks"):
            target = root / folder / f"{place}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(root / folder / f"{image_id}.png", target)


# Where pictures lie, their ids and classes, and how lists, tables and COCO's format call the last.
LAYOUTS = {
    "class folders": (
        {"a": "Cat/0", "b": "Dog/0", "c": "Dog/1"},
        {"Cat_0": {"Cat"}, "Dog_0": {"Dog"}, "1": {"Dog"}},
        ["1.png", "Dog/1.png", r"C:\images\Dog\1.png", "1"],
    ),
    "ImageFolder": (
        {"a": "train/cat/0", "b": "val/cat/0", "c": "val/good/1"},
        {"train_cat_0": {"cat"}, "val_cat_0": {"cat"}, "1": set()},
        ["1.png", "val/good/1.png", "good/1"],
    ),
    "MVTec": (
        {"a": "test/crack/000", "b": "test/good/000", "c": "train/good/000"},
        {"test_crack_000": {"crack"}, "test_good_000": set(), "train_good_000": set()},
        ["train/good/000.png", "/data/images/train/good/000.png", "train_good_000"],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_names_in_folders_get_ids_with_their_folders(bare, layout):
    places, shown, lines = LAYOUTS[layout]
    move(bare, places)
    folder = Folder(bare)
    assert folder.ids("train") == list(shown)
    assert {image_id: folder.names_of(image_id) for image_id in shown} == shown
    folder.check_pictures(list(shown))
    masks = [bare / f"masks/{place}.png" for place in places.values()]
    assert folder.masks(list(shown)) == dict(zip(shown, masks, strict=True))
    for line in lines:
        (bare / "list.txt").write_text(f"{line}\n")
        assert folder.ids(bare / "list.txt") == [list(shown)[-1]]
    rows = "".join(
        f"{place}.png,{' '.join(shown[i])}\n"
        for i, place in zip(shown, places.values(), strict=True)
    )
    (bare / "labels.csv").write_text(f"image,labels\n{rows}")
    (bare / "classes.txt").write_text("\n".join(folder.class_names))
    assert Folder(bare).rows == shown


def test_a_name_that_several_pictures_have_is_none(bare):
    move(bare, {"a": "x/0", "b": "y/0"})
    put(bare, "labels.csv", "image,labels\n0.png,red\n")
    put(bare, "classes.txt", "red")
    with refused("line 2: '0' is no picture in images/, or several"):
        Folder(bare).labels(["c"])


def test_masks_of_other_names_are_found(bare):
    (bare / "masks/a.png").rename(bare / "masks/a_mask.png")
    (bare / "masks").rename(bare / "Masks")
    Image.open(bare / "Masks/b.png").save(bare / "Masks/b.tif")
    (bare / "Masks/b.png").unlink()
    names = {path.name for path in Folder(bare).masks(list("abc")).values()}
    assert names == {"a_mask.png", "b.tif", "c.png"}


def test_what_is_left_out_is_counted(bare, caplog):
    put(bare, "labels.csv", PANDAS)
    put(bare, "classes.txt", "red\ngreen\n")
    for name in ("x.mp4", "a.json", "b.json", "Thumbs"):
        (bare / "images" / name).touch()
    shutil.copy(bare / "masks/a.png", bare / "images/a_mask.png")
    assert len(predict.pictures_of([bare / "images"])) == 4
    left = "left out: 1 files without an ending, 2 .json, 1 .mp4"
    assert left in caplog.text
    warned = [f.text for f in show(checks_of(Folder(bare))) if f.status == "warn"]
    for text in (left, "a_mask look like masks"):
        assert any(text in line for line in warned)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)


def test_heic_names_its_package(tmp_path):
    (tmp_path / "x.heic").write_bytes(HEIC)
    assert lists.strip_ending("x.HEIC") == "x"
    with refused(r"x\.heic .*pip install pillow-heif"):
        read_rgb(tmp_path / "x.heic")


@pytest.mark.parametrize("ending", ["gif", "jp2", "avif", "ppm", "heic"])
def test_pictures_of_all_formats_that_can_be_read_count(bare, ending):
    if ending == "heic":
        pytest.importorskip("pillow_heif")
    Image.open(bare / "images/c.png").save(bare / f"images/d.{ending}")
    assert Folder(bare).ids("train") == list("abcd")


def test_broken_links_and_names_that_are_no_text(bare):
    (bare / "images/d.png").symlink_to("nowhere")
    with refused("d.png is a link to nowhere"):
        Folder(bare).check_pictures(["d"])
    shutil.rmtree(bare / "masks")
    (bare / "masks").symlink_to("gone")
    with refused("masks is a link to gone"):
        Folder(bare).mask_path("a")
    shutil.copy(bare / "images/c.png", os.fsencode(bare / "images") + b"/caf\xe9.png")
    with refused(r"'caf\\udce9'.*Rename the picture"):
        Folder(bare).ids("train")


def test_a_folder_is_listed_once_and_links_end(bare, monkeypatch):
    (bare / "images/again").symlink_to(".")
    opened = []
    listdir = os.listdir
    monkeypatch.setattr(lists.os, "listdir", lambda path: opened.append(path) or listdir(path))
    files = lists.files_in(bare / "images")
    assert [path.name for path in files] == ["a.png", "b.png", "c.png"]
    assert opened == [bare / "images"]


def test_masks_of_some_pictures_are_what_is_judged(bare, caplog):
    folder = Folder(bare)
    (bare / "masks/b.png").unlink()
    assert list(folder.masks(list("abc"))) == ["a", "c"]
    assert "2 of 3 pictures have a mask" in caplog.text
    (bare / "other").mkdir()
    with refused("3 of 3 masks are missing"):
        folder.masks(list("abc"), bare / "other")
    save_label(bare / "other/c.png", np.ones((42, 48), np.uint8))
    assert folder.masks(list("abc"), bare / "other") == {"c": bare / "other/c.png"}
