"""export_labels.py: labels written for annotation tools, read as those tools read them."""

import json
import tempfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

import export_labels
from data.export import FORMATS, Labelled, check_names, instances_of, write_coco
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
    """A folder whose masks are the drawn labels."""
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


# ---------------------------------------------------------------------------- readers


def read_coco(out: Path) -> dict[str, np.ndarray]:
    """Return file name without ending -> label, by pycocotools; classes by their names."""
    coco, labels = COCO(str(out)), {}
    assert sorted(coco.cats) == [*range(1, len(NAMES))]
    for number, image in coco.imgs.items():
        label = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.imgToAnns[number]:
            region = coco.annToMask(annotation) > 0
            rows, columns = region.nonzero()
            left, top = columns.min(), rows.min()
            size = columns.max() + 1 - left, rows.max() + 1 - top
            assert annotation["bbox"] == [left, top, *size]
            assert annotation["area"] == len(rows)
            name = coco.cats[annotation["category_id"]]["name"]
            label[region] = NAMES.index(name)
        labels[Path(image["file_name"]).stem] = label
    return labels


def read_yolo(out: Path) -> dict[str, np.ndarray]:
    """Return id -> label, drawn by OpenCV as Ultralytics does."""
    yaml = (out / "data.yaml").read_text(encoding="utf-8")
    names = json.loads(yaml.split("names: ")[1])
    labels = {}
    for path in (out / "labels").iterdir():
        with Image.open(out / "images" / f"{path.stem}.png") as image:
            width, height = image.size
        assert (out / "images" / f"{path.stem}.png").is_symlink()
        label = labels[path.stem] = np.zeros((height, width), np.uint8)
        for line in path.read_text().splitlines():
            key, *numbers = line.split()
            points = np.array(numbers, float).reshape(-1, 2)
            assert ((points >= 0) & (points <= 1)).all()
            points = (points * (width, height)).astype(np.int32)
            cv2.fillPoly(label, [points], NAMES.index(names[int(key)]))
    return labels


def read_labelme(out: Path) -> dict[str, np.ndarray]:
    """Return id -> label, drawn by Pillow as labelme does."""
    labels = {}
    for path in out.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        with Image.open(out / content["imagePath"]) as picture:
            image = Image.new("L", picture.size)
        assert (content["imageWidth"], content["imageHeight"]) == image.size
        for shape in content["shapes"]:
            assert len(shape["points"]) > 2  # labelme opens no polygon of two points
            key, points = NAMES.index(shape["label"]), [tuple(p) for p in shape["points"]]
            ImageDraw.Draw(image).polygon(points, fill=key, outline=key)
        labels[path.stem] = np.array(image)
    return labels


def read_masks(out: Path) -> dict[str, np.ndarray]:
    """Return id -> label of VOC's or CVAT's layout, by the colours of labelmap.txt alone."""
    rows = (out / "labelmap.txt").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "# label:color_rgb:parts:actions"
    colours = {}
    for row in rows[1:]:
        name, colour, _, _ = row.split(":")
        colours[tuple(map(int, colour.split(",")))] = (
            UNSURE if name == "ignored" else NAMES.index(name)
        )
    labels = {}
    for image_id in (out / "ImageSets/Segmentation/default.txt").read_text().splitlines():
        with Image.open(out / f"SegmentationClass/{image_id}.png") as image:
            rgb = np.array(image.convert("RGB"))
        label = labels[image_id] = np.zeros(rgb.shape[:2], np.uint8)
        for colour, key in colours.items():
            label[(rgb == colour).all(2)] = key
    return labels


READERS = {
    "coco": read_coco,
    "yolo": read_yolo,
    "labelme": read_labelme,
    "cvat": read_masks,
    "voc": read_masks,
}


@pytest.mark.parametrize(
    ("name", "ending", "flags"),
    [*((name, "", []) for name in FORMATS), ("coco", "", ["--polygons"]), ("cvat", ".zip", [])],
)
def test_labels_come_back(name, ending, flags, dataset, tmp_path, caplog):
    out = tmp_path / f"out{ending}"
    with caplog.at_level("INFO"):
        run(dataset, name, out, *flags)
    if ending:
        zipfile.ZipFile(out).extractall(out.with_suffix(""))
    labels = READERS[name](tmp_path / "out")
    assert labels.keys() == drawn().keys()
    for image_id, label in drawn().items():
        expected = label if name == "voc" else known(label)
        if name in ("yolo", "labelme") and image_id == "holes":
            # A hole's line is drawn, and so belongs to the region around it.
            both = ((labels[image_id] == 1) & (label == 1)).sum()
            assert both / ((labels[image_id] == 1) | (label == 1)).sum() > 0.85
        else:
            assert np.array_equal(labels[image_id], expected), image_id
    assert "3.18 % of the pixels are unsure" in caplog.text


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 25), st.integers(1, 25), st.integers(0, 2**32 - 1), st.floats(0.1, 0.9))
def test_outlines_of_any_region(height, width, seed, share):
    """Quarter-pixel outlines are exact for COCO's reader, holes and single pixels included."""
    region = np.random.default_rng(seed).random((height, width)) < share
    label = Labelled("x", Path("x.png"), region.astype(np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "x.json")
        write_coco([label], NAMES, out, epsilon=0.0)
        assert np.array_equal(read_coco(out)["x"], region)


def test_parts_of_voc_and_those_beyond_254(dataset, tmp_path, caplog):
    (tmp_path / "some.txt").write_text("small\n")
    run(dataset, "voc", tmp_path / "out", "--list", str(tmp_path / "some.txt"))
    (path,) = (tmp_path / "out/SegmentationObject").iterdir()
    parts = read_mask(path)
    assert np.unique(parts).tolist() == [0, 1, 2, 3, 4, 5]  # regions that do not touch
    assert (parts > 0).sum() == (drawn()["small"] > 0).sum()
    label = np.zeros((40, 60), np.uint8)
    label[::2, ::4], label[::2, 2::4] = 1, 2  # 300 single pixels of each
    instances = instances_of(Labelled("speckled", Path("x.png"), label))
    assert np.unique(instances).tolist() == list(range(255))
    assert "speckled has 600 parts" in caplog.text


ODD = ["a:b", "#1", "c # d", '🐈 =HYPERLINK("x") \\', "a\nb", "\udcff"]
UNFIT = {name: {"a\nb", "\udcff"} for name in FORMATS}
UNFIT["cvat"] = UNFIT["voc"] = {"a:b", "#1", "a\nb", "\udcff"}


@pytest.mark.parametrize("class_name", ODD)
@pytest.mark.parametrize("name", FORMATS)
def test_class_names_come_back_or_are_refused(name, class_name, tmp_path, monkeypatch):
    names = ["background", class_name]
    if class_name in UNFIT[name]:
        with pytest.raises(InputError, match=f"--format {name}"):
            check_names(name, names)
        return
    check_names(name, names)
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    label = np.zeros((8, 8), np.uint8)
    label[2:6, 2:6] = 1
    FORMATS[name]([Labelled("x", tmp_path / "x.png", label)], names, tmp_path / "out", 0.0)
    monkeypatch.setitem(globals(), "NAMES", names)
    assert np.array_equal(READERS[name](tmp_path / "out")["x"], label)


@pytest.mark.parametrize("fault", [np.zeros((3, 3)), np.full((20, 20), 9)])
def test_failures_leave_nothing(fault, dataset, tmp_path):
    save_label(dataset / "masks/touch.png", fault)
    with pytest.raises(InputError, match=r"touch\.png"):
        run(dataset, "yolo", tmp_path / "new")
    (dataset / "classes.txt").write_text("red\na:b\nblue\ntraffic light\n")
    with pytest.raises(InputError, match="a:b"):
        run(dataset, "voc", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["ds"]
