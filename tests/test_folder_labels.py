"""Labels of a folder of pictures from tables, class folders and COCO's format; coloured masks."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import COLOURS, LABELS

import eval_cam
import eval_seg_labels
import make_seg_labels
from data.datasets import make_parser, open_dataset
from data.folder import Folder
from tool.errors import InputError
from tool.pictures import read_mask

IDS = list(LABELS)


def refused(message: str):
    return pytest.raises(InputError, match=message)


def labels_of(root: Path, negative_class: str | None = None) -> dict[str, list[int]]:
    folder = Folder(root, negative_class)
    return dict(zip(IDS, folder.labels(IDS).tolist(), strict=True))


EXPECTED = {
    "a": [1, 0, 0],
    "b": [0, 1, 0],
    "c": [0, 0, 1],
    "d": [1, 0, 1],
    "e": [0, 1, 0],
    "f": [0, 0, 0],
}


@pytest.fixture
def bare(tiny):
    """The tiny folder without any label."""
    (tiny / "labels.csv").unlink()
    (tiny / "classes.txt").unlink()
    return tiny


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def one_hot(root: Path, names=("red", "green", "blue"), rows=EXPECTED) -> None:
    columns = [list(COLOURS).index(name) for name in names]
    lines = [",".join([f"{i}.png", *(str(row[c]) for c in columns)]) for i, row in rows.items()]
    (root / "labels.csv").write_text("\n".join([",".join(["image", *names]), *lines]) + "\n")


def annotations(root: Path, rows=EXPECTED) -> dict:
    """Write crowds and objects without a region, of categories whose numbers have gaps."""
    numbers = {"blue": 20, "green": 7, "red": 3, "Background": 0}
    of_rows = [
        {"id": 10 * n + k, "image_id": n, "category_id": numbers[name], "iscrowd": k % 2}
        for n, row in enumerate(rows.values())
        for k, name in enumerate(COLOURS)
        if row[k]
    ]
    content = {
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "images": [
            {"id": n, "file_name": f"images/{i}.png", "height": 40 + n, "width": 48}
            for n, i in enumerate(rows)
        ],
        "annotations": [*of_rows, {"id": 99, "image_id": 0, "category_id": 0}],
    }
    (root / "annotations.json").write_text(json.dumps(content))
    return content


def into_folders(root: Path, folders: dict[str, str]) -> None:
    for image_id, name in folders.items():
        (root / "images" / name).mkdir(exist_ok=True)
        shutil.move(root / f"images/{image_id}.png", root / "images" / name)


ONE_EACH = {"a": "red", "b": "green", "c": "blue", "d": "red", "e": "green", "f": "good"}

# -------------------------------------------------------------------------------- labels.csv


@pytest.mark.parametrize("cell", ["", " ", "none", "background"])
def test_empty_cell_is_a_picture_without_a_class(tiny, cell, caplog):
    rewrite(tiny / "labels.csv", "f.png,red", f"f.png,{cell}")
    with caplog.at_level(logging.INFO):
        assert labels_of(tiny) == EXPECTED
    assert "6 pictures, 1 of them without a class; 3 classes: red, green, blue" in caplog.text


def test_name_for_no_class(tiny):
    rewrite(tiny / "labels.csv", "f.png,red", "f.png,intact leaf;")
    assert labels_of(tiny, "intact leaf") == EXPECTED
    with refused("line 7: 'intact leaf'"):
        labels_of(tiny)
    with open(tiny / "classes.txt", "a") as file:
        file.write("good\n")  # what classes.txt names is a class
    (tiny / "labels.csv").write_text("image,labels\n" + "".join(f"{i},good\n" for i in IDS))
    assert labels_of(tiny)["f"] == [0, 0, 0, 1]
    (tiny / "labels.csv").unlink()
    with refused("no .*labels.csv .* no annotations.json"):
        labels_of(tiny)


def test_flag_reaches_the_folder_and_no_other_dataset(bare):
    into_folders(bare, {**ONE_EACH, "f": "fine"})
    parser = make_parser("A program.")
    flags = ["--dataset_root", str(bare), "--negative_class", "fine"]
    dataset = open_dataset(parser.parse_args([*flags, "--dataset", "folder"]))
    assert dataset.class_names == ("blue", "green", "red")
    with refused("--negative_class .* voc"):
        open_dataset(parser.parse_args([*flags, "--dataset", "voc"]))


# -------------------------------------------------------------------------------- one-hot tables


def test_one_hot_table_names_the_classes_in_its_order(bare):
    one_hot(bare, ("green", "red", "blue"))
    folder = Folder(bare)
    assert folder.class_names == ("green", "red", "blue")
    assert folder.labels(["a", "d", "f"]).tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 0]]
    (bare / "classes.txt").write_text("red\ngreen\nblue\n")  # whose order counts
    assert labels_of(bare) == EXPECTED


def test_one_hot_table_as_programs_write_it(bare):
    text = 'image;"traffic light";good\na.png;1.0;0\nb.png;0;1.0\nc;True;False\n'
    (bare / "labels.csv").write_text(text)
    folder = Folder(bare)
    assert folder.class_names == ("traffic light",)
    assert folder.labels(["a", "b", "c"]).tolist() == [[1], [0], [1]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("b.png,0,1,0", "b.png,0,2,0", "line 3: '2' in the column green"),
        ("b.png,0,1,0", "b.png,0,1", "line 3 has 3 cells"),
        ("b.png,0,1,0\n", "", "'b'"),
        ("image,red", "image,rot", "rot"),
    ],
)
def test_one_hot_table_with_a_mistake(tiny, old, new, message):
    one_hot(tiny)
    rewrite(tiny / "labels.csv", old, new)
    with refused(f"labels.csv.*{message}"):
        labels_of(tiny)


# -------------------------------------------------------------------------------- class folders


def test_class_folders(bare):
    into_folders(bare, ONE_EACH)
    folder = Folder(bare)
    assert folder.class_names == ("blue", "green", "red")
    assert folder.ids("train") == ["c", "f", "b", "e", "a", "d"]
    assert folder.image_path("a") == bare / "images/red/a.png"
    (bare / "classes.txt").write_text("red\ngreen\nblue\nyellow\n")
    assert Folder(bare).labels(["a", "f"]).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


def test_folders_of_no_class_are_no_labels(tiny):
    into_folders(tiny, dict.fromkeys("abc", "monday") | dict.fromkeys("def", "tuesday"))
    assert labels_of(tiny)["a"] == [1, 0, 0]
    shutil.move(tiny / "images/monday", tiny / "images/red")
    with refused(r"images/red/b\.png: 'b' shows red, and green by .*labels\.csv, line 3"):
        labels_of(tiny)


def test_class_folders_that_cannot_be_used(bare):
    into_folders(bare, {i: name for i, name in ONE_EACH.items() if i != "b"})
    with refused("images.*'b'"):
        labels_of(bare)
    (bare / "classes.txt").write_text("red\ngreen\n")
    with refused("'blue', which is no class of folder"):
        Folder(bare).labels(["c"])
    shutil.copy(bare / "images/red/a.png", bare / "images/red/a.jpg")
    with refused(r"images/red/a\.png and .*red/a\.jpg"):
        Folder(bare).ids("train")


# -------------------------------------------------------------------------------- COCO's format


def test_annotations(bare):
    annotations(bare)
    folder = Folder(bare)
    assert folder.class_names == ("red", "green", "blue")  # by their numbers
    assert labels_of(bare) == EXPECTED
    (bare / "classes.txt").write_text("blue\nred\ngreen\n")
    assert Folder(bare).labels(["a", "f"]).tolist() == [[0, 1, 0], [0, 0, 0]]


# -------------------------------------------------------------------------------- two sources


def test_sources_that_agree_or_complete_each_other(bare):
    single = {**EXPECTED, "d": [1, 0, 0]}
    one_hot(bare, rows=single)
    rewrite(bare / "labels.csv", "f.png,0,0,0\n", "")
    annotations(bare, rows=single)
    into_folders(bare, ONE_EACH)
    assert labels_of(bare) == single


def test_sources_that_disagree(bare):
    annotations(bare)
    one_hot(bare, rows={**EXPECTED, "d": [1, 0, 0]})
    with refused(r"json, picture 3: 'd' shows blue, red, and red by .*labels\.csv, line 5"):
        labels_of(bare)
    one_hot(bare, ("blue", "green", "red"))
    with refused(r"classes\.txt"):
        labels_of(bare)
    (bare / "classes.txt").write_text("red\ngreen\nblue\n")
    assert labels_of(bare) == EXPECTED
    into_folders(bare, {**ONE_EACH, "f": "red"})
    with refused(r"d\.png: 'd' shows red, and blue, red by .*annotations\.json, picture 3"):
        labels_of(bare)


# -------------------------------------------------------------------------------- coloured masks

TABLE = "name,r,g,b\nbackground,0,0,0\nred,128,0,0\ngreen,0,128,0\nblue,0,0,255\nvoid,9,9,9\n"
COLOUR_OF = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0], [0, 0, 255], [9, 9, 9]], np.uint8)


@pytest.fixture
def coloured(tiny):
    """The tiny folder with masks in colours; that of ``a`` has a row that is not judged."""
    (tiny / "colours.csv").write_text(TABLE)
    for path in sorted((tiny / "masks").iterdir()):
        mask = read_mask(path)
        mask[0] = 4 if path.stem == "a" else mask[0]
        Image.fromarray(COLOUR_OF[mask]).save(path)
    return tiny


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_coloured_mask_is_read(coloured, mode):
    path = coloured / "masks/a.png"
    expected = np.zeros((40, 48), np.uint8)
    expected[6:30, 4:22] = 1
    expected[0] = 255
    image = Image.open(path)
    (image.quantize(5) if mode == "P" else image.convert(mode)).save(path)
    np.testing.assert_array_equal(Folder(coloured).read_mask(path), expected)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name,r,g,b", "name,red,green,blue", "0 columns are called 'r'"),
        ("green,", "grass,", "line 4: 'grass'"),
        ("128,0,0", "128,0,256", "line 3: 128,0,256"),
        ("128,0,0", "0,0,0", "line 3: the colour 0,0,0"),
        ("void,9,9,9", "", r"masks/a\.png has the colour 9,9,9 at column 0, row 0"),
    ],
)
def test_table_of_colours_with_a_mistake(coloured, old, new, message):
    rewrite(coloured / "colours.csv", old, new)
    with refused(message) as error:
        Folder(coloured).read_mask(coloured / "masks/a.png")
    assert "colours.csv" in str(error.value)


def test_programs_read_coloured_masks(flags, run, coloured, tmp_path):
    eval_cam.main(flags["eval_cam"])
    make_seg_labels.main([*run["make_seg_labels"], "--refine", "crf"])
    eval_seg_labels.main(run["eval_seg_labels"])
    for name in ("eval_cam", "eval_pseudo_label"):
        result = json.loads((tmp_path / f"run/{name}.json").read_text())
        assert result["miou"] > 0.99  # the maps of the fixture are the masks, blurred
