"""PASCAL VOC: lists in all their forms, labels from annotations, and the preparation."""

import logging
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


def test_labels_count_difficult_objects_and_no_parts(root):
    voc = VOC(root)
    labels = voc.labels(list(OBJECTS))
    assert (labels.dtype, labels.shape) == (np.uint8, (5, 20))
    names = [{voc.class_names[k] for k in row.nonzero()[0]} for row in labels]
    assert names == [{name for name, _ in objects} for objects in OBJECTS.values()]
    assert labels.max() == 1  # two cats are one cat
    (root / "Annotations/2007_000001.xml").write_text(annotation([("\n cat ", 0)]))
    assert VOC(root).labels(["2007_000001"]).nonzero()[1].tolist() == [7]


def test_classes_are_the_twenty_in_alphabetical_order():
    assert VOC.train_list == "trainaug"
    names = list(VOC.class_names)
    assert (len(names), names) == (20, sorted(names))
    assert [names[k] for k in (0, 14, 19)] == ["aeroplane", "person", "tvmonitor"]


@pytest.mark.parametrize("name", module.TRAINAUG_FILES)
def test_every_form_and_place_of_a_trainaug_list(root, name):
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"/JPEGImages/{i}.jpg /Any/{i}.png\n" for i in TRAINAUG))
    assert VOC(root).ids("trainaug") == TRAINAUG


def test_sources_of_trainaug_in_their_order(root, sbd):
    """A list, the folder of masks, SBD; val and hidden files are left out."""
    with pytest.raises(InputError, match=r"trainaug\.txt.*SegmentationClassAug.*--sbd_root"):
        VOC(root).ids("trainaug")
    assert find_trainaug(root, sbd) == TRAINAUG
    masks = root / "SegmentationClassAug"
    masks.mkdir()
    with pytest.raises(InputError, match="names no picture"):
        main(["--dataset_root", str(root)])
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


def test_preparation_writes_the_list_once(root, sbd, caplog):
    caplog.set_level(logging.INFO)
    arguments = ["--dataset_root", str(root), "--sbd_root", str(sbd)]
    path, picture = root / LISTS / "trainaug.txt", root / "JPEGImages/2010_000005.jpg"
    picture.rename(root / "away.jpg")
    with pytest.raises(InputError, match=r"1 of 4 .*2010_000005\.jpg"):
        main(arguments)
    assert not path.exists()
    (root / "away.jpg").rename(picture)
    main(arguments)
    assert path.read_text() == lines(TRAINAUG)
    line = "trainaug      4 pictures (published: 10582), 1.50 classes a picture"
    assert line in caplog.text
    before = path.stat().st_mtime_ns
    main(["--dataset_root", str(root)])  # SBD is not needed any more
    assert path.stat().st_mtime_ns == before


CAT = annotation([("cat", 0)])
NESTED = "".join(f'<!ENTITY e{n + 1} "{10 * f"&e{n};"}">' for n in range(9))
BOMB = f'<!DOCTYPE a [<!ENTITY e0 "cat">{NESTED}]>' + CAT.replace("cat", "&e9;")


@pytest.mark.parametrize(
    "content",
    [
        None,
        annotation([("unicorn", 0)]),
        annotation([("cat", 0)])[:-9],
        BOMB,
        "<annotation/>",
    ],
)
def test_annotation_that_is_none(root, content):
    path = root / "Annotations" / f"{TRAIN[1]}.xml"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=TRAIN[1]) as error:
        VOC(root).labels(TRAIN)
    assert len(str(error.value)) < 1000
