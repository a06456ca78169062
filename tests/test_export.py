"""export_labels.py and import_labels.py: labels for annotation tools, and back from them."""

import base64
import csv
import io
import json
import shutil
import tempfile
import zipfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

import export_labels
import import_labels
from data.label_formats import FORMATS, Labelled, check_names, instances_of, write_coco
from tests.tiny import COLOURS
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


def back(dataset: Path, name: str, source: Path, out: Path) -> dict[str, np.ndarray]:
    """Return id -> label, what import_labels.py makes of a source."""
    usual = ["--dataset", "folder", "--dataset_root", str(dataset), "--format", name]
    import_labels.main([*usual, "--source", str(source), "--out", str(out)])
    return {path.stem: read_mask(path) for path in out.glob("*.png")}


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
    [*((name, "", []) for name in READERS), ("coco", "", ["--polygons"]), ("cvat", ".zip", [])],
)
def test_labels_come_back(name, ending, flags, dataset, tmp_path, caplog):
    out = tmp_path / f"out{ending}"
    with caplog.at_level("INFO"):
        run(dataset, name, out, *flags)
    if ending:
        zipfile.ZipFile(out).extractall(out.with_suffix(""))
    labels = READERS[name](tmp_path / "out")
    again = back(dataset, name, out, tmp_path / "back")
    assert labels.keys() == again.keys() == drawn().keys()
    for image_id, label in drawn().items():
        expected = label if name == "voc" else known(label)
        assert np.array_equal(again[image_id], expected), image_id
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
@pytest.mark.parametrize("name", READERS)
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


# ---------------------------------------------------------------------------- back from the tools


def shape(kind: str | None, name: str, *points: tuple[float, float], **more: object) -> dict:
    return {"label": name, "points": points, "shape_type": kind, **more}


def png(values: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_labelme_file(
    folder: Path, *shapes: dict, name: str = "..\\ds\\images\\touch.png"
) -> Path:
    folder.mkdir(exist_ok=True)
    content = {"imagePath": name, "imageHeight": 20, "imageWidth": 20, "shapes": shapes}
    (folder / "touch.json").write_text(json.dumps(content))
    return folder


def test_shapes_of_labelme_cover_those_before(dataset, tmp_path):
    """They are named as labelme names background and what nobody judges, too."""
    shapes = [
        shape(None, "red", (1, 1), (8, 1), (8, 6), (1, 6)),
        shape("rectangle", "_background_", (6.6, 5.3), (4.2, 2.8)),
        shape("mask", "blue", (10, 2), (13, 4), mask=png(np.eye(3, 4))),
        shape("oriented_rectangle", "__ignore__", (10, 10), (14, 10), (14, 12), (10, 12)),
        shape("circle", "traffic light", (4, 14), (4, 17)),
    ]
    expected = np.zeros((20, 20), np.uint8)
    expected[1:7, 1:9] = 1
    expected[3:6, 4:8] = 0
    expected[[2, 3, 4], [10, 11, 12]] = 3
    expected[10:13, 10:15] = UNSURE
    y, x = np.mgrid[:20, :20]
    circle = (y - 14) ** 2 + (x - 4) ** 2
    label = back(dataset, "labelme", write_labelme_file(tmp_path / "in", *shapes), tmp_path / "out")
    assert (label["touch"][circle <= 9] == 2).all()
    assert (label["touch"][circle > 13] == expected[circle > 13]).all()


@pytest.mark.parametrize("name", READERS)
def test_pictures_of_equal_names_come_back(name, dataset, tmp_path):
    label = drawn()["touch"]
    (dataset / "masks").rename(dataset / "labels")
    for number, folder in enumerate(("red", "blue")):
        (dataset / "images" / folder).mkdir()
        picture = Image.new("RGB", label.shape[::-1], COLOURS[folder])
        picture.save(dataset / f"images/{folder}/0.png")
        save_label(dataset / f"masks/{folder}_0.png", label.T if number else label)
    (tmp_path / "two.txt").write_text("red/0.png\nblue/0.png\n")
    run(dataset, name, tmp_path / "in", "--list", str(tmp_path / "two.txt"))
    labels = back(dataset, name, tmp_path / "in", tmp_path / "out")
    assert np.array_equal(labels["red_0"], label)
    assert np.array_equal(labels["blue_0"], label.T)


YAML = {
    "list": "\nnames: ['red', \"traffic light\", 'blue']\nnc: 3\n",
    "dashes": "\nnames:\n- red\n- 'traffic light'\n- blue\ntrain: x\n",
    "numbers": "path: .\nnames:\n  2: blue\n  0: red\n  1: traffic light\n",
}


@pytest.mark.parametrize("form", YAML)
def test_names_of_yolo_are_those_of_its_yaml(form, dataset, tmp_path):
    run(dataset, "yolo", tmp_path / "in")
    (tmp_path / "in/data.yaml").write_text(YAML[form])
    (tmp_path / "in/train.txt").write_text("images/x.png\n")
    (tmp_path / "in/labels").rename(tmp_path / "in/train")
    (tmp_path / "in/labels").mkdir()
    (tmp_path / "in/train").rename(tmp_path / "in/labels/train")
    assert np.array_equal(
        back(dataset, "yolo", tmp_path / "in", tmp_path / "out")["touch"], drawn()["touch"]
    )


def test_colours_of_cvat_and_pictures_in_which_nothing_is_left(dataset, tmp_path):
    """Colours are those of labelmap.txt, or of the dataset; what a list alone names is empty."""
    run(dataset, "cvat", tmp_path / "in")
    masks = tmp_path / "in/SegmentationClass"
    (masks / "é mpty.png").unlink()
    legend = tmp_path / "in/labelmap.txt"
    legend.write_text(legend.read_text().replace("128,0,0", "7,8,9"))
    red = np.full((20, 20, 3), (7, 8, 9), np.uint8)
    Image.fromarray(red).save(masks / "touch.png")
    with pytest.raises(InputError, match=r"holes\.png has the colour 128,0,0"):
        back(dataset, "cvat", tmp_path / "in", tmp_path / "out")
    for path in masks.glob("[hsu]*.png"):
        path.unlink()
    (tmp_path / "in/ImageSets/Segmentation/default.txt").write_text("touch\né mpty\n")
    labels = back(dataset, "cvat", tmp_path / "in", tmp_path / "out")
    assert labels.keys() == {"touch", "é mpty"}
    assert (labels["touch"] == 1).all()
    assert labels["é mpty"].shape == (7, 8)
    assert not labels["é mpty"].any()
    (dataset / "colours.csv").write_text("name,r,g,b\nbackground,0,0,0\nblue,7,8,9\n")
    flat = back(dataset, "cvat", masks, tmp_path / "flat")
    assert (flat["touch"] == 3).all()


SQUARE = [[1, 1, 8, 1, 8, 6, 1, 6]]


def write_coco_file(folder: Path, outlines: list, picture="touch.png", name="red", height=20):
    """Write a file of a picture, twice where two outlines are given."""
    folder.mkdir()
    about = {"file_name": picture, "height": height, "width": 20}
    numbers = range(len(outlines))
    content = {
        "categories": [{"id": 7, "name": name}, {"id": 8, "name": "unused"}],
        "images": [{"id": number, **about} for number in numbers],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 7, "segmentation": outlines[n]} for n in numbers
        ],
    }
    (folder / "instances_default.json").write_text(json.dumps(content))


def write_yolo_line(folder: Path, line: str) -> None:
    (folder / "labels").mkdir(parents=True)
    (folder / "data.yaml").write_text(YAML["list"])
    (folder / "labels/touch.txt").write_text(line)


LINE = shape("linestrip", "red", (1, 1), (5, 5), (9, 9))
FAR = shape("polygon", "red", (1, 1), (5, 5), (9, 1e9))
# What is written, for which format, and what the message names.
ODD_SOURCES = {
    "no such picture": ("coco", partial(write_coco_file, outlines=[SQUARE], picture="no.jpg")),
    "'pink' is no class": ("coco", partial(write_coco_file, outlines=[SQUARE], name="pink")),
    r"touch\.png does not fit.*20, 18": (
        "coco",
        partial(write_coco_file, outlines=[SQUARE], height=18),
    ),
    "two labels of touch": ("coco", partial(write_coco_file, outlines=[SQUARE, SQUARE])),
    "boxes alone": ("coco", partial(write_coco_file, outlines=[[]])),
    "holds 0 JSON files": ("coco", Path.mkdir),
    "holds no label for --format voc": ("voc", Path.mkdir),
    r"touch\.json: A linestrip of 'red'": ("labelme", lambda f: write_labelme_file(f, LINE)),
    r"touch\.json is damaged.*far outside": ("labelme", lambda f: write_labelme_file(f, FAR)),
    r"touch\.txt: A polygon of 'red'": ("yolo", partial(write_yolo_line, line="0 0.5 0.5 1 1")),
    r"touch\.txt is damaged.*3 0 0": ("yolo", partial(write_yolo_line, line="3 0 0 0 1 1 1")),
}


@pytest.mark.parametrize("message", ODD_SOURCES)
def test_what_cannot_come_back_is_named(message, dataset, tmp_path):
    name, write = ODD_SOURCES[message]
    write(tmp_path / "in")
    with pytest.raises(InputError, match=message):
        back(dataset, name, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_regions_without_outlines_are_left_out_with_a_word(dataset, tmp_path, caplog):
    write_coco_file(tmp_path / "in", outlines=[SQUARE, []])
    path = tmp_path / "in/instances_default.json"
    path.write_text(path.read_text().replace('"image_id": 1', '"image_id": 0'))
    content = json.loads(path.read_text())
    content["images"].pop()
    path.write_text(json.dumps(content))
    label = back(dataset, "coco", path, tmp_path / "out")["touch"]
    assert "default.json: 1 boxes without an outline are left out" in caplog.text
    assert (label[1:6, 1:8] == 1).all()
    assert label.sum() == 35


def test_areas_are_those_of_the_labels(dataset, tmp_path):
    run(dataset, "areas", tmp_path / "areas.csv")
    with open(tmp_path / "areas.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["picture"], row["class"]): int(row["pixels"]) for row in rows}
    names = dict(enumerate(NAMES)) | {UNSURE: "unsure"}
    for image_id, label in drawn().items():
        for key, name in names.items():
            pixels = (label == key).sum()
            assert found.get((image_id, name), 0) == pixels
            assert key == 0 or pixels or (image_id, name) not in found
    assert found["touch", "background"] == 0
    for row in rows:
        share = found[row["picture"], row["class"]] / drawn()[row["picture"]].size
        assert float(row["share"]) == pytest.approx(share, abs=1e-6)


def test_what_came_back_is_of_its_classes(dataset, tmp_path):
    """It is a folder of labels like any other, whose note says which classes its numbers are."""
    run(dataset, "labelme", tmp_path / "in")
    labels = back(dataset, "labelme", tmp_path / "in", tmp_path / "out")
    shutil.rmtree(dataset / "masks")
    (tmp_path / "out").rename(dataset / "masks")
    run(dataset, "voc", tmp_path / "again")
    assert np.array_equal(read_masks(tmp_path / "again")["holes"], labels["holes"])
    (dataset / "classes.txt").write_text("red\nblue\ntraffic light\n")
    with pytest.raises(InputError, match="class 2 is traffic light, not blue"):
        run(dataset, "voc", tmp_path / "other")
