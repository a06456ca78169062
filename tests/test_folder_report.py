"""python -m data.folder: what it finds in a folder, and how it ends."""

import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiny import LABELS

from data.folder import Folder
from data.folder.__main__ import main
from data.folder.report import FEW, SHARE, Report, check
from tool.errors import InputError
from tool.pictures import save_label


def look(root, whole=False) -> tuple[dict[str, str], str, str]:
    """Return the table, and all hints and all faults as one text each."""
    report = check(Folder(root), whole)
    table = {name.strip(): text for name, text in report.table}
    return table, "\n".join(report.hints), "\n".join(report.faults)


def many(root, rows: list[str]) -> None:
    """Make a picture of its own for every row of labels."""
    shutil.rmtree(root / "masks", ignore_errors=True)
    rng = np.random.default_rng(0)
    for path in (root / "images").iterdir():
        path.unlink()
    for number in range(len(rows)):
        pixels = rng.integers(0, 255, (4, 5, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"images/{number}.png")
    lines = [f"{number}.png,{labels}" for number, labels in enumerate(rows)]
    (root / "labels.csv").write_text("\n".join(["image,labels", *lines]) + "\n")


def status(root, *flags) -> int:
    with pytest.raises(SystemExit) as end:
        main(["--dataset_root", str(root), *flags])
    return end.value.code


def test_folder_in_order(tiny, caplog):
    many(tiny, [*["red"] * FEW, *["green"] * FEW, *["blue"] * FEW, ""])
    assert look(tiny) == (
        {
            "pictures": "31",
            "lists": "train (31)",
            "labels": "labels.csv",
            "red": "10",
            "green": "10",
            "blue": "10",
            "without a class": "1",
            "always together": "no classes",
            "sizes": "5 x 4 to 5 x 4, most often 5 x 4 (31)",
            "bit depths": "8 bits (31)",
            "unreadable": "0, with 31 decoded wholly",
            "masks": "0 of 31",
            "impossible ids": "0 masks",
            "duplicates": "0",
        },
        "",
        "",
    )
    assert status(tiny) == 0
    records = [record for record in caplog.records if record.name != "tool.progress"]
    found, report = [record.getMessage() for record in records][-2:]
    assert found.startswith("labels of labels.csv: 31 pictures, 1 of them without a class")
    assert report.endswith("0 faults, 0 hints. It can be used as it is.")


def test_masks_are_counted_with_their_ids(tiny):
    table, hints, faults = look(tiny)
    assert table["masks"] == "6 of 6, with the ids 0, 1, 2, 3"
    assert (faults, "masks" in hints) == ("", False)


# -------------------------------------------------------------------------------- labels


def test_unbalanced_classes(tiny):
    many(tiny, [*["red"] * (FEW * SHARE + 1), *["green"] * FEW, *["blue"] * (FEW + 1)])
    table, hints, faults = look(tiny)
    assert [table[name] for name in ("red", "green", "blue")] == ["501", "10", "11"]
    # 10 is below a 50th of 501, and 11 is not.
    assert hints.endswith(
        "These classes are rare: green (10). A class needs at least 10 pictures, and a 50th of the "
        "501 of the most frequent one."
    )
    assert not faults
    many(tiny, [*["red"] * 20, *["green"] * (FEW - 1), ""])
    _, hints, _ = look(tiny)
    assert "These classes are rare: green (9), blue (0)." in hints


def test_classes_that_always_occur_together(tiny):
    many(tiny, [*["red blue"] * FEW, *["green"] * FEW, *["green red blue"], ""])
    table, hints, faults = look(tiny)
    assert table["always together"] == "red and blue"
    assert "red and blue are always shown together, so they cannot be told apart" in hints
    assert not faults


def test_class_in_every_picture(tiny):
    many(tiny, [*["red"] * FEW, *["red green"] * FEW])
    assert "Every picture shows red, so nothing can be learnt of it" in look(tiny)[1]


def test_labels_that_cannot_be_used(tiny):
    text = (tiny / "labels.csv").read_text()
    (tiny / "labels.csv").write_text(text.replace("c.png,blue", "c.png,purple"))
    table, _, faults = look(tiny)
    assert "line 4: 'purple' is not in classes.txt" in faults
    assert "labels" not in table
    assert table["masks"] == "6 of 6, with the ids 0, 1, 2, 3"  # the other checks go on
    assert status(tiny) == 1


def test_lists_are_looked_at(tiny):
    (tiny / "splits").mkdir()
    (tiny / "splits/val.txt").write_text("a\nz\n")
    faults = look(tiny)[2]
    assert "There is no list train" in faults
    assert "1 of 2 pictures are missing, the first is" in faults
    (tiny / "splits/train.txt").write_text("a\nb\n")
    (tiny / "splits/val.txt").write_text("c\n")
    table, _, faults = look(tiny)
    assert (table["lists"], faults) == ("train (2), val (1)", "")


def test_labels_in_the_order_of_coco(tiny):
    (tiny / "labels.csv").unlink()
    (tiny / "annotations.json").write_text(json.dumps({"categories": []}))
    assert "the class 'blue' is not in annotations.json" in look(tiny)[2]


# -------------------------------------------------------------------------------- pictures


def test_mixed_bit_depths(tiny):
    pixels = np.full((40, 48), 60000, np.uint16)
    Image.fromarray(pixels).save(tiny / "images/a.png")
    table, hints, faults = look(tiny)
    assert table["bit depths"] == "8 bits (5), 16 bits (1)"
    assert "different depths, those of 16 bits are a. One --value_range" in hints
    assert not faults
    (tiny / "images/a.png").unlink()
    bands = np.zeros((40, 48, 5), np.float32)
    tifffile.imwrite(tiny / "images/a.tif", bands, planarconfig="contig", photometric="minisblack")
    table, _, faults = look(tiny)
    assert table["bit depths"] == "8 bits (5), 32 bits float in 5 bands (1)"
    assert "a.tif is a TIFF of 5 bands" in faults
    flags = ["--bands", "1", "2", "3", "--value_range", "0", "1"]
    assert (status(tiny), status(tiny, *flags)) == (1, 0)


def test_range_that_is_found_is_used(tiny):
    for path in sorted((tiny / "images").iterdir()):
        Image.fromarray(np.arange(48 * 40, dtype=np.uint16).reshape(40, 48)).save(path)
    shutil.rmtree(tiny / "masks")
    assert (status(tiny), status(tiny, "--value_range", "auto")) == (1, 0)


def test_unreadable_pictures(tiny):
    (tiny / "images/a.png").write_bytes(b"no picture")
    whole = (tiny / "images/b.png").read_bytes()
    (tiny / "images/b.png").write_bytes(whole[: len(whole) // 2])
    table, _, faults = look(tiny)
    assert table["unreadable"] == "2, with 5 decoded wholly"
    assert "a.png is not a picture that can be read" in faults
    assert "b.png is damaged" in faults
    assert status(tiny) == 1


def test_picture_that_is_cut_off_is_found_wherever_it_is(tiny, monkeypatch):
    monkeypatch.setattr("data.folder.report.DECODED", 2)
    whole = (tiny / "images/b.png").read_bytes()
    (tiny / "images/b.png").write_bytes(whole[: len(whole) // 2])
    assert look(tiny)[0]["unreadable"] == "0, with 2 decoded wholly"
    assert look(tiny, whole=True)[0]["unreadable"] == "1, with 6 decoded wholly"
    assert (status(tiny), status(tiny, "--all")) == (0, 1)


def test_many_unreadable_pictures_take_few_lines(tiny):
    for path in (tiny / "images").iterdir():
        path.write_bytes(b"no picture")
    faults = look(tiny)[2]
    assert faults.count("is not a picture") == 5
    assert "1 more pictures cannot be read" in faults


def test_duplicates(tiny):
    shutil.copy(tiny / "images/a.png", tiny / "images/b.png")
    shutil.copy(tiny / "masks/a.png", tiny / "masks/b.png")
    shutil.copy(tiny / "images/c.png", tiny / "images/g.png")
    with open(tiny / "labels.csv", "a") as file:
        file.write("g,blue\n")
    table, hints, faults = look(tiny)
    assert table["duplicates"] == "2"
    assert "a, b are the same picture, and have different labels. Keep one." in hints
    assert "c, g are the same picture. Keep one." in hints
    assert not faults


# -------------------------------------------------------------------------------- masks


def test_impossible_ids_of_masks(tiny):
    save_label(tiny / "masks/b.png", np.full((41, 48), 4, np.uint8))
    save_label(tiny / "masks/d.png", np.full((43, 48), 255, np.uint8))
    table, _, faults = look(tiny)
    assert table["impossible ids"] == "1 masks"
    assert table["masks"] == "6 of 6, with the ids 0, 1, 2, 3, 4, 255"
    assert "1 masks have impossible ids, such as" in faults
    save_label(tiny / "masks/c.png", np.arange(42 * 48).reshape(42, 48))
    assert look(tiny)[0]["masks"].endswith("22, 23 and 232 more")
    assert "masks/b.png with 4; 0 to 3 and 255 are possible." in faults
    assert status(tiny) == 1


def test_masks_that_do_not_fit(tiny):
    save_label(tiny / "masks/a.png", np.ones((7, 5), np.uint8))
    save_label(tiny / "masks/stray.png", np.ones((7, 5), np.uint8))
    Image.new("RGB", (48, 41)).save(tiny / "masks/b.png")
    save_label(tiny / "masks/c.png", np.ones((42, 48), np.uint8))
    _, hints, faults = look(tiny)
    assert "1 masks have another size: a." in faults
    assert "b.png is a RGB picture; a mask is" in faults
    assert "1 masks belong to no picture: stray." in hints
    assert "1 masks show other classes than the labels: c." in hints


def test_masks_of_0_and_255(tiny):
    for image_id in LABELS:
        size = np.asarray(Image.open(tiny / f"images/{image_id}.png")).shape[:2]
        save_label(tiny / f"masks/{image_id}.png", np.full(size, 255, np.uint8))
    faults = look(tiny)[2]
    assert "No mask shows a class" in faults
    assert "colours.csv: name,r,g,b, then background,0,0,0 and red,255,255,255" in faults
    assert status(tiny) == 1


def test_turned_picture_has_the_size_that_it_shows(tiny):
    image = Image.new("RGB", (48, 40), "red")
    exif = image.getexif()
    exif[274] = 6
    (tiny / "images/a.png").unlink()
    image.save(tiny / "images/a.jpg", exif=exif)
    save_label(tiny / "masks/a.png", np.ones((48, 40), np.uint8))
    assert look(tiny)[2] == ""


def test_a_report_is_a_table():
    report = Report()
    report.add("pictures", 3)
    report.add("  hot dog", 2)
    report.hints.append("One.")
    assert str(report) == (
        "pictures   3\n  hot dog  2\nhint: One.\n0 faults, 1 hints. It can be used as it is."
    )


def test_folder_without_pictures(tiny):
    shutil.rmtree(tiny / "images")
    with pytest.raises(InputError, match="There are no pictures"):
        main(["--dataset_root", str(tiny)])
