"""export_labels.py: labels written for annotation tools, read as those tools read them."""

import argparse
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

import export_labels
from data import export
from data.export import FORMATS, Labelled, outlines, read_coco, read_masks
from tool.errors import InputError
from tool.pictures import UNSURE, read_mask, save_label

# pycocotools' arrays know nothing of numpy 2's copy argument.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NAMES = ["background", "red", "traffic light", "blue"]


def drawn() -> dict[str, np.ndarray]:
    """Labels with a hole, a hole in a hole, touching classes, single pixels, 255, and nothing."""
    holes = np.zeros((30, 40), np.uint8)
    holes[2:28, 3:37] = 1
    holes[6:20, 8:20] = 0
    holes[10:14, 11:15] = 1
    holes[8:12, 25:30] = 2  # fills a hole of the other class
    touching = np.zeros((20, 20), np.uint8)
    touching[:10], touching[10:, :7], touching[10:, 7:] = 1, 2, 3
    small = np.zeros((12, 15), np.uint8)
    small[0, 0], small[11, 14], small[5, 3:9], small[2:9, 12] = 1, 2, 3, 1
    small[7, 7] = small[8, 8] = 2  # which touch at a corner
    unsure = np.full((9, 9), UNSURE, np.uint8)
    unsure[2:6, 2:7] = 3
    empty = np.zeros((7, 8), np.uint8)
    return {"holes": holes, "touch": touching, "small": small, "unsure": unsure, "é mpty": empty}


@pytest.fixture
def dataset(tmp_path) -> Path:
    """A folder whose masks are the drawn labels; one picture of it lies on its side."""
    root = tmp_path / "ds"
    (root / "images").mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(NAMES[1:]))
    rows = ["image,labels"]
    for number, (image_id, label) in enumerate(drawn().items()):
        picture = Image.new("RGB", label.shape[::-1], "white")
        picture.save(root / f"images/{image_id}.png")
        save_label(root / f"masks/{image_id}.png", label)
        rows.append(f'{image_id}.png,"traffic light;"' if number else f"{image_id}.png,red")
    (root / "labels.csv").write_text("\n".join(rows))
    return root


def run(dataset: Path, name: str, out: Path, *flags: str) -> None:
    usual = ["--dataset", "folder", "--dataset_root", str(dataset), "--format", name]
    export_labels.main([*usual, "--label_dir", str(dataset / "masks"), "--out", str(out), *flags])


def known(label: np.ndarray) -> np.ndarray:
    return np.where(label == UNSURE, 0, label)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / max(1, (one | other).sum())


@pytest.mark.parametrize("name", FORMATS)
def test_labels_come_back(name, dataset, tmp_path, caplog):
    with caplog.at_level("INFO"):
        run(dataset, name, tmp_path / "out")
    kind = FORMATS[name]
    labels = kind.read(tmp_path / "out", NAMES)
    assert labels.keys() == drawn().keys()
    for image_id, label in drawn().items():
        expected = label if kind.keeps_unsure else known(label)
        if name in ("yolo", "labelme") and image_id == "holes":
            # A hole's line is drawn, and so belongs to the region around it.
            assert iou(labels[image_id] == 1, label == 1) > 0.85
        else:
            assert np.array_equal(labels[image_id], expected), image_id
    assert "unsure and" in caplog.text
    assert "read again: mean IoU" in caplog.text


def test_coco_is_what_pycocotools_opens(dataset, tmp_path):
    run(dataset, "coco", tmp_path / "out.json")
    coco = COCO(str(tmp_path / "out.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == NAMES[1:]
    by_name = {Path(image["file_name"]).stem: image for image in coco.imgs.values()}
    assert by_name.keys() == drawn().keys()
    for image_id, label in drawn().items():
        image = by_name[image_id]
        assert (image["height"], image["width"]) == label.shape
        annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert {a["category_id"] for a in annotations} == {*np.unique(known(label))} - {0}
        for annotation in annotations:
            region = label == annotation["category_id"]
            assert np.array_equal(coco.annToMask(annotation), region)
            assert annotation["area"] == region.sum()
            rows, columns = region.nonzero()
            left, top = columns.min(), rows.min()
            size = columns.max() + 1 - left, rows.max() + 1 - top
            assert annotation["bbox"] == [left, top, *size]


def test_polygons_of_coco(dataset, tmp_path):
    run(dataset, "coco", tmp_path / "out.json", "--polygons")
    content = json.loads((tmp_path / "out.json").read_text())
    for annotation in content["annotations"]:
        for polygon in annotation["segmentation"]:
            assert len(polygon) >= 6
            assert len(polygon) % 2 == 0
    labels = read_coco(tmp_path / "out.json", NAMES)
    for image_id, label in drawn().items():
        assert np.array_equal(labels[image_id], known(label)), image_id


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 25), st.integers(1, 25), st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_outlines_of_any_region(height, width, seed, share):
    """Quarter-pixel outlines are exact for COCO's reader, holes and single pixels included."""
    region = np.random.default_rng(seed).random((height, width)) < share
    label = Labelled("x", Path("x.png"), region.astype(np.uint8))
    args = argparse.Namespace(polygons=True, epsilon=0.0)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "x.json")
        export.write_coco([label], ["background", "red"], out, args)
        assert np.array_equal(read_coco(out, ["background", "red"])["x"], region)


def test_fewer_points_stay_within_their_distance():
    y, x = np.mgrid[:80, :100]
    disc = (y - 40) ** 2 + (x - 50) ** 2 < 30**2
    (exact,), (rough,) = outlines(disc, 0.0), outlines(disc, 2.0)
    assert len(rough) < len(exact) / 4
    for point in exact:
        following = np.roll(rough, -1, 0) - rough
        along = ((point - rough) * following).sum(1) / (following**2).sum(1)
        nearest = rough + along.clip(0, 1)[:, None] * following
        assert np.sqrt(((point - nearest) ** 2).sum(1)).min() <= 2.0 + 1e-6


def test_cvat_as_its_description_says(dataset, tmp_path):
    run(dataset, "cvat", tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as file:
        file.extractall(tmp_path / "out")
    assert (tmp_path / "out/labelmap.txt").read_text().splitlines() == [
        "# label:color_rgb:parts:actions",
        "background:0,0,0::",
        "red:128,0,0::",
        "traffic light:0,128,0::",
        "blue:128,128,0::",
    ]
    ids = (tmp_path / "out/ImageSets/Segmentation/default.txt").read_text().split("\n")
    assert sorted(ids) == sorted([*drawn(), ""])
    for image_id, label in read_masks(tmp_path / "out", NAMES).items():
        assert np.array_equal(label, known(drawn()[image_id]))
    with Image.open(tmp_path / "out/SegmentationClass/touch.png") as image:
        assert image.mode == "RGB"
    parts = Image.open(tmp_path / "out/SegmentationObject/small.png").convert("RGB")
    assert len(parts.getcolors()) == 1 + 5  # background, and regions that do not touch


def test_voc_keeps_255(dataset, tmp_path):
    run(dataset, "voc", tmp_path / "out")
    assert (tmp_path / "out/labelmap.txt").read_text().endswith("\nignored:224,224,192::\n")
    for image_id, label in drawn().items():
        assert np.array_equal(read_mask(tmp_path / f"out/SegmentationClass/{image_id}.png"), label)


def test_labelme_finds_the_picture(dataset, tmp_path):
    run(dataset, "labelme", tmp_path / "some/out")
    content = json.loads((tmp_path / "some/out/holes.json").read_text())
    assert (tmp_path / "some/out" / content["imagePath"]).resolve() == (
        dataset / "images/holes.png"
    ).resolve()
    assert {shape["label"] for shape in content["shapes"]} == {"red", "traffic light"}
    assert (content["imageHeight"], content["imageWidth"]) == (30, 40)
    for path in (tmp_path / "some/out").glob("*.json"):  # labelme opens no polygon of two points
        assert all(len(s["points"]) > 2 for s in json.loads(path.read_text())["shapes"])


def test_yolo_has_pictures_and_names(dataset, tmp_path):
    run(dataset, "yolo", tmp_path / "out")
    assert (tmp_path / "out/images/holes.png").read_bytes() == (
        dataset / "images/holes.png"
    ).read_bytes()
    assert '  1: "traffic light"' in (tmp_path / "out/data.yaml").read_text()
    lines = (tmp_path / "out/labels/touch.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    assert all(0 <= float(n) <= 1 for line in lines for n in line.split()[1:])
    assert (tmp_path / "out/labels/é mpty.txt").read_text() == ""


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_there_stays_and_failures_leave_nothing(name, dataset, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        run(dataset, name, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
    save_label(dataset / "masks/touch.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(InputError, match=r"touch\.png is 3x3, its picture 20x20"):
        run(dataset, name, tmp_path / "new")
    save_label(dataset / "masks/touch.png", np.full((20, 20), 9, np.uint8))
    with pytest.raises(InputError, match=r"touch\.png has class 9"):
        run(dataset, name, tmp_path / "new")
    (dataset / "masks/touch.png").unlink()
    with pytest.raises(InputError, match=r"touch\.png"):
        run(dataset, name, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"ds", "out"}
