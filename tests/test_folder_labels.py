"""Labels of a folder of pictures from tables, class folders and COCO's format; coloured masks."""

import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import COLOURS, LABELS

import eval_cam
import eval_seg_labels
import make_seg_labels
import train_resnet50_SIPE
from data.datasets import add_dataset_flags, open_dataset
from data.folder import Folder
from tool import cli
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


def one_hot(root: Path, names=("red", "green", "blue"), rows=EXPECTED) -> None:
    columns = [list(COLOURS).index(name) for name in names]
    lines = [",".join([f"{i}.png", *(str(row[c]) for c in columns)]) for i, row in rows.items()]
    (root / "labels.csv").write_text("\n".join([",".join(["image", *names]), *lines]) + "\n")


def annotations(root: Path, rows=EXPECTED) -> dict:
    """Write crowds and objects without a region, of categories whose numbers have gaps."""
    numbers = {"blue": 20, "green": 7, "red": 3}
    content = {
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "images": [
            {"id": n, "file_name": f"images/{i}.png", "height": 40 + n, "width": 48}
            for n, i in enumerate(rows)
        ],
        "annotations": [
            {"id": 10 * n + k, "image_id": n, "category_id": numbers[name], "iscrowd": k % 2}
            for n, row in enumerate(rows.values())
            for k, name in enumerate(COLOURS)
            if row[k]
        ],
    }
    (root / "annotations.json").write_text(json.dumps(content))
    return content


def into_folders(root: Path, folders: dict[str, str]) -> None:
    for image_id, name in folders.items():
        (root / "images" / name).mkdir(exist_ok=True)
        shutil.move(root / f"images/{image_id}.png", root / "images" / name)


ONE_EACH = {"a": "red", "b": "green", "c": "blue", "d": "red", "e": "green", "f": "good"}

# -------------------------------------------------------------------------------- labels.csv


@pytest.mark.parametrize("cell", ["", '""', " ", "none", "good", "background"])
def test_empty_cell_is_a_picture_without_a_class(tiny, cell, caplog):
    text = (tiny / "labels.csv").read_text()
    (tiny / "labels.csv").write_text(text.replace("f.png,red", f"f.png,{cell}"))
    with caplog.at_level(logging.INFO):
        assert labels_of(tiny) == EXPECTED
    (line,) = [r.message for r in caplog.records if "labels" in r.message]
    assert line == (
        "labels of labels.csv: 6 pictures, 1 of them without a class; 3 classes: red, green, blue"
    )


def test_name_for_no_class(tiny):
    text = (tiny / "labels.csv").read_text().replace("f.png,red", "f.png,intact leaf;")
    (tiny / "labels.csv").write_text(text)
    assert labels_of(tiny, "intact leaf") == EXPECTED
    with refused("line 7: 'intact leaf' is not in classes"):
        labels_of(tiny)
    (tiny / "classes.txt").write_text("red\ngreen\nblue\ngood\n")
    (tiny / "labels.csv").write_text(text.replace("intact leaf;", "good"))
    assert labels_of(tiny)["f"] == [0, 0, 0, 1]  # what classes.txt names is a class


def test_flag_reaches_the_folder_and_no_other_dataset(bare):
    into_folders(bare, {**ONE_EACH, "f": "fine"})
    parser = cli.make_parser("A program.")
    add_dataset_flags(parser)
    flags = ["--dataset_root", str(bare), "--negative_class", "fine"]
    dataset = open_dataset(parser.parse_args([*flags, "--dataset", "folder"]))
    assert dataset.class_names == ("blue", "green", "red")
    with refused("--negative_class is for --dataset folder, not for voc"):
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
        ("b.png,0,1,0", "b.png,0,2,0", "line 3: '2' in the column green is neither 0 nor 1"),
        ("b.png,0,1,0", "b.png,0,1", "line 3 has 3 cells, not 4"),
        ("b.png,0,1,0", "z.png,0,1,0", "line 3: 'z' is no picture"),
        ("b.png,0,1,0\n", "", "labels.csv of .* no row for 'b'"),
        ("image,red", "image,rot", "the 0 and 1 of labels.csv has the classes blue, green, rot"),
    ],
)
def test_one_hot_table_with_a_mistake(tiny, old, new, message):
    one_hot(tiny)
    text = (tiny / "labels.csv").read_text()
    assert old in text
    (tiny / "labels.csv").write_text(text.replace(old, new))
    with refused(message):
        labels_of(tiny)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,red,red", "'red' stands twice"),
        ("image,red,", "'' is empty"),
        ("image,good,none", "has 0 classes"),
    ],
)
def test_columns_that_are_no_classes(bare, header, message):
    (bare / "labels.csv").write_text(f"{header}\na,1,0\n")
    with refused(rf"labels\.csv.*{message}"):
        Folder(bare)


# -------------------------------------------------------------------------------- class folders


def test_class_folders(bare):
    into_folders(bare, ONE_EACH)
    folder = Folder(bare)
    assert folder.class_names == ("blue", "green", "red")
    assert folder.ids("train") == ["c", "f", "b", "e", "a", "d"]
    assert folder.image_path("a") == bare / "images/red/a.png"
    assert folder.mask_path("a") == bare / "masks/a.png"
    assert folder.labels(["a", "b", "f"]).tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
    (bare / "classes.txt").write_text("red\ngreen\nblue\nyellow\n")
    assert Folder(bare).labels(["a", "f"]).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]


def test_class_folders_that_cannot_be_used(bare):
    into_folders(bare, {i: name for i, name in ONE_EACH.items() if i != "b"})
    with refused("the folders in images .* no row for 'b'. Add b.png"):
        labels_of(bare)
    (bare / "classes.txt").write_text("red\ngreen\n")
    with refused("'blue', which is no class of folder"):
        Folder(bare).labels(["c"])
    shutil.copy(bare / "images/red/a.png", bare / "images/blue/a.png")
    with refused(r"images/red/a\.png and .*blue/a\.png have the same id. Rename one"):
        Folder(bare).ids("train")


def test_folders_of_no_class_are_no_labels(tiny):
    into_folders(tiny, dict.fromkeys("abc", "monday") | dict.fromkeys("def", "tuesday"))
    assert labels_of(tiny)["a"] == [1, 0, 0]
    shutil.move(tiny / "images/monday", tiny / "images/red")
    with refused(r"images/red/b\.png: 'b' shows red, and green by .*labels\.csv, line 3"):
        labels_of(tiny)


# -------------------------------------------------------------------------------- COCO's format


def test_annotations(bare):
    annotations(bare)
    folder = Folder(bare)
    assert folder.class_names == ("red", "green", "blue")  # by their numbers
    assert labels_of(bare) == EXPECTED
    (bare / "classes.txt").write_text("blue\nred\ngreen\n")
    assert Folder(bare).labels(["a", "f"]).tolist() == [[0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["images"][0].update(file_name="z.png"), "picture 0: 'z' is no picture"),
        (lambda c: c["images"].pop(), "annotations.json of .* no row for 'f'"),
        (lambda c: c["images"][1].update(id=0), "two images have the id 0"),
        (lambda c: c["images"][1].update(file_name="a.png"), "'a' shows green, and red by"),
        (lambda c: c["images"][0].pop("file_name"), "images has no file_name"),
        (lambda c: c["categories"][0].update(id=3), "two categories have the id 3"),
        (lambda c: c["categories"][0].update(name="rot"), "annotations.json has the classes .*rot"),
        (lambda c: c["annotations"][0].update(image_id=99), "annotation 0 is of picture 99"),
    ],
)
def test_annotations_with_a_mistake(tiny, edit, message):
    (tiny / "labels.csv").unlink()
    content = annotations(tiny)
    edit(content)
    (tiny / "annotations.json").write_text(json.dumps(content))
    with refused(message):
        labels_of(tiny)


def test_category_of_background_is_no_class(bare):
    content = annotations(bare)
    content["categories"].append({"id": 0, "name": "Background"})
    content["annotations"].append({"id": 99, "image_id": 0, "category_id": 0})
    (bare / "annotations.json").write_text(json.dumps(content))
    assert labels_of(bare) == EXPECTED


# -------------------------------------------------------------------------------- two sources


def test_sources_that_agree(bare, caplog):
    single = {**EXPECTED, "d": [1, 0, 0]}
    one_hot(bare, rows=single)
    annotations(bare, rows=single)
    into_folders(bare, ONE_EACH)
    with caplog.at_level(logging.INFO):
        assert labels_of(bare) == single
    assert "the 0 and 1 of labels.csv and annotations.json and the folders in im" in caplog.text


def test_sources_that_disagree(bare):
    annotations(bare)
    one_hot(bare, rows={**EXPECTED, "d": [1, 0, 0]})
    with refused(r"json, picture 3: 'd' shows blue, red, and red by .*labels\.csv, line 5"):
        labels_of(bare)
    one_hot(bare)
    into_folders(bare, {**ONE_EACH, "f": "red"})
    with refused(r"d\.png: 'd' shows red, and blue, red by .*annotations\.json, picture 3"):
        labels_of(bare)


def test_sources_with_the_classes_in_another_order(bare):
    annotations(bare)
    one_hot(bare, ("blue", "green", "red"))
    with refused(r"Write all classes to classes\.txt in the order"):
        labels_of(bare)
    (bare / "classes.txt").write_text("red\ngreen\nblue\n")
    assert labels_of(bare) == EXPECTED


def test_one_source_may_complete_another(tiny):
    text = (tiny / "labels.csv").read_text()
    (tiny / "labels.csv").write_text(text.replace("f.png,red\n", ""))
    annotations(tiny)
    assert labels_of(tiny) == EXPECTED


def test_no_source(tiny):
    (tiny / "labels.csv").unlink()
    with refused("no .*labels.csv with a header .* no annotations.json, and no folder of a class"):
        labels_of(tiny)


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


def test_colour_that_is_not_in_the_table(coloured):
    path = coloured / "masks/b.png"
    pixels = np.array(Image.open(path))
    pixels[7, 3] = 1, 2, 3
    pixels[8, 3] = 255, 255, 255
    Image.fromarray(pixels).save(path)
    with refused(
        r"masks/b\.png has the colour 1,2,3 at column 3, row 7, which is not in .*colours\.csv"
    ):
        Folder(coloured).read_mask(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name,r,g,b", "name,red,green,blue", "no column r"),
        ("green,", "grass,", "line 4: 'grass' is no class, nor background or void"),
        ("128,0,0", "128,0,256", "line 3: 128,0,256 is no red,green,blue of 0 to 255"),
        ("128,0,0", "128,0", "line 3 has 3 cells, not 4"),
        ("128,0,0", "0,0,0", "line 3: the colour 0,0,0 has another name above"),
    ],
)
def test_table_of_colours_with_a_mistake(coloured, old, new, message):
    assert old in TABLE
    (coloured / "colours.csv").write_text(TABLE.replace(old, new, 1))
    with refused(rf"colours\.csv.*{re.escape(message)}"):
        Folder(coloured).read_mask(coloured / "masks/a.png")


def test_programs_read_coloured_masks(flags, run, coloured, tmp_path):
    train_resnet50_SIPE.main([*flags["train"], "--val_freq", "2"])
    eval_cam.main(flags["eval_cam"])
    make_seg_labels.main([*run["make_seg_labels"], "--refine", "crf"])
    eval_seg_labels.main(run["eval_seg_labels"])
    for name in ("eval_cam", "eval_pseudo_label"):
        result = json.loads((tmp_path / f"run/{name}.json").read_text())
        assert result["miou"] > 0.99  # the maps of the fixture are the masks, blurred
