"""PASCAL VOC: lists in all their forms, labels from annotations, and the preparation."""

import logging
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import voc as module
from data.voc import VOC, find_trainaug, main
from tool.errors import InputError

LISTS = "ImageSets/Segmentation"
# id -> objects (name, difficult); train a, val v, and pictures that only SBD knows.
OBJECTS = {
    "2007_000001": [("cat", 0), ("sofa", 0), ("cat", 0)],
    "2007_000002": [("person", 1)],
    "2008_000003": [("tvmonitor", 0), ("aeroplane", 1)],
    "2009_000004": [("dog", 0)],
    "2010_000005": [("train", 0)],
}
TRAIN, VAL = ["2007_000001", "2007_000002"], ["2009_000004"]
SBD_TRAIN, SBD_VAL = ["2008_000003", "2009_000004", "2007_000001"], ["2010_000005"]
TRAINAUG = ["2007_000001", "2007_000002", "2008_000003", "2010_000005"]


def lines(ids: list[str]) -> str:
    return "".join(f"{image_id}\n" for image_id in ids)


def annotation(objects) -> str:
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        "<part><name>head</name></part></object>"
        for name, difficult in objects
    )
    return f"<annotation><filename>x.jpg</filename>{body}</annotation>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A devkit of five pictures without a trainaug of any kind."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", LISTS):
        (root / folder).mkdir(parents=True)
    for image_id, objects in OBJECTS.items():
        Image.new("RGB", (4, 3)).save(root / "JPEGImages" / f"{image_id}.jpg")
        (root / "Annotations" / f"{image_id}.xml").write_text(annotation(objects))
    (root / LISTS / "train.txt").write_text(lines(TRAIN))
    (root / LISTS / "val.txt").write_text(lines(VAL))
    return root


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    root = tmp_path / "benchmark_RELEASE"
    (root / "dataset").mkdir(parents=True)
    (root / "dataset/train.txt").write_text(lines(SBD_TRAIN))
    (root / "dataset/val.txt").write_text(lines(SBD_VAL))
    return root


def test_classes_are_the_twenty_in_alphabetical_order(root):
    voc = VOC(root)
    assert list(voc.class_names) == sorted(voc.class_names)
    assert (len(voc.class_names), voc.num_classes) == (20, 21)
    names = {0: "background", 1: "aeroplane", 15: "person", 20: "tvmonitor"}
    assert {number: voc.all_names[number] for number in names} == names


TWO_PATHS = "".join(f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n" for i in TRAINAUG)


@pytest.mark.parametrize("name", module.TRAINAUG_FILES)
def test_every_form_and_place_of_a_trainaug_list(root, name):
    path = root / name
    path.parent.mkdir(exist_ok=True)
    plain = lines(TRAINAUG)
    paths = lines([f"JPEGImages/{i}.jpg" for i in TRAINAUG])
    for text in (plain, TWO_PATHS, paths, f"\ufeff{plain}\n  \n"):
        path.write_bytes(text.encode())
        assert VOC(root).ids("trainaug") == TRAINAUG


def test_sources_of_trainaug_in_their_order(root, sbd):
    """A list, the folder of masks, SBD; val and hidden files are left out."""
    with pytest.raises(InputError, match=r"trainaug\.txt.*SegmentationClassAug.*--sbd_root"):
        VOC(root).ids("trainaug")
    for inner in (".", "dataset", ".."):
        assert find_trainaug(root, sbd / inner) == TRAINAUG
    masks = root / "SegmentationClassAug"
    masks.mkdir()
    for name in (*(f"{image_id}.png" for image_id in OBJECTS), "._2007_000001.png", "readme.txt"):
        (masks / name).touch()
    assert VOC(root).ids("trainaug") == TRAINAUG
    (masks / "2008_000003.png").unlink()
    without = [image_id for image_id in TRAINAUG if image_id != "2008_000003"]
    assert find_trainaug(root, sbd) == without
    (root / LISTS / "train_aug.txt").write_text(lines(["2010_000005"]))
    assert find_trainaug(root, sbd) == ["2010_000005"]
    main(["--dataset_root", str(root)])
    assert not (root / LISTS / "trainaug.txt").exists()  # it has its list


def test_incomplete_sources_of_trainaug_name_the_file(root, sbd):
    (sbd / "dataset/train.txt").unlink()
    with pytest.raises(InputError, match=r"dataset/train\.txt"):
        find_trainaug(root, sbd)
    (root / LISTS / "val.txt").unlink()
    (root / "SegmentationClassAug").mkdir()
    with pytest.raises(InputError, match=r"val\.txt"):
        VOC(root).ids("trainaug")


def test_counts_that_differ_from_the_published_are_reported(root, caplog, monkeypatch):
    VOC(root).ids("train")
    assert "train has 2 ids, the published 1464" in caplog.text
    caplog.clear()
    monkeypatch.setitem(module.PUBLISHED_COUNTS, "train", 2)
    VOC(root).ids("train")
    assert caplog.text == ""


def test_labels_count_difficult_objects_and_no_parts(root):
    voc = VOC(root)
    labels = voc.labels(list(OBJECTS))
    assert (labels.dtype, labels.shape) == (np.uint8, (5, 20))
    names = [{voc.class_names[k] for k in row.nonzero()[0]} for row in labels]
    assert names == [{name for name, _ in objects} for objects in OBJECTS.values()]
    assert labels.max() == 1  # two cats are one cat
    (root / "Annotations/2007_000001.xml").write_text(annotation([("\n cat ", 0)]))
    assert VOC(root).labels(["2007_000001"]).nonzero()[1].tolist() == [7]


def test_preparation_writes_the_list_once(root, sbd, caplog):
    caplog.set_level(logging.INFO)
    arguments = ["--dataset_root", str(root), "--sbd_root", str(sbd)]
    main(arguments)
    path = root / LISTS / "trainaug.txt"
    assert path.read_text() == lines(TRAINAUG)
    assert "trainaug      4 pictures, 1.50 classes a picture" in caplog.text
    before = path.stat().st_mtime_ns
    (sbd / "dataset/train.txt").write_text("")
    main(arguments)
    main(["--dataset_root", str(root)])  # and SBD is not needed any more
    assert path.read_text() == lines(TRAINAUG)
    assert path.stat().st_mtime_ns == before
    assert caplog.text.count("trainaug.txt written") == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["train.txt", "trainaug.txt", "val.txt"]


@pytest.mark.parametrize("missing", ["JPEGImages/2010_000005.jpg", "Annotations/2010_000005.xml"])
def test_preparation_finds_what_is_missing(root, sbd, missing):
    (root / missing).unlink()
    with pytest.raises(InputError, match=f"1 of 4 .*{Path(missing).name}"):
        main(["--dataset_root", str(root), "--sbd_root", str(sbd)])
    assert not (root / LISTS / "trainaug.txt").exists()


def test_wrong_trainaug_names_a_command_that_can_be_pasted(root, tmp_path):
    odd = tmp_path / "it's & 14"
    root.rename(odd)
    for text in ("\n", lines(VAL)):
        (odd / LISTS / "trainaug.txt").write_text(text)
        with pytest.raises(InputError, match=r"trainaug\.txt") as error:
            main(["--dataset_root", str(odd)])
        words = shlex.split(str(error.value).split("python -m data.voc ")[1])
        assert words[:2] == ["--dataset_root", str(odd)]


@pytest.mark.parametrize("source", ["masks", "sbd"])
def test_trainaug_without_pictures_is_not_written(root, sbd, source):
    arguments = ["--dataset_root", str(root)]
    if source == "masks":
        (root / "SegmentationClassAug").mkdir()
    else:
        arguments += ["--sbd_root", str(sbd)]
        for path in (root / LISTS / "train.txt", *(sbd / "dataset").iterdir()):
            path.write_text(lines(VAL))
    with pytest.raises(InputError, match="no picture but those of val"):
        main(arguments)
    assert not (root / LISTS / "trainaug.txt").exists()


CAT = annotation([("cat", 0)])
NESTED = "".join(f'<!ENTITY e{n + 1} "{10 * f"&e{n};"}">' for n in range(9))
BOMB = f'<!DOCTYPE a [<!ENTITY e0 "cat">{NESTED}]>' + CAT.replace("cat", "&e9;")


@pytest.mark.parametrize(
    "content",
    [
        None,
        annotation([("unicorn", 0)]).encode(),
        annotation([("cat", 0)])[:-9].encode(),
        f'<?xml version="1.0" encoding="martian"?>{CAT}'.encode(),
        BOMB.encode(),
        b"<html><object><name>cat</name></object></html>",
        b"<annotation/>",
        CAT.replace("cat", "c\u00e4t").encode("latin-1"),
        CAT.encode() + b" " * (1 << 24),
        b"<annotation>" + b"<a>" * 200_000,
    ],
)
def test_annotation_that_is_none(root, content):
    path = root / "Annotations" / f"{TRAIN[1]}.xml"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=TRAIN[1]) as error:
        VOC(root).labels(TRAIN)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_annotation_in_its_declared_encoding(root, encoding):
    head = f'<?xml version="1.0" encoding="{encoding.replace("-sig", "")}"?>'
    (root / "Annotations" / f"{TRAIN[0]}.xml").write_bytes((head + CAT).encode(encoding))
    assert VOC(root).labels(TRAIN[:1]).nonzero()[1].tolist() == [7]
