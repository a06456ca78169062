"""The check of machine and data: what python -m tool.doctor and python -m data.folder find."""

import importlib
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiny import LABELS, orientation_tag

from data.doctor import dataset as looks
from data.doctor import machine
from data.doctor.finding import show
from data.folder import Folder
from data.folder.__main__ import checks_of as folder_checks
from data.folder.__main__ import main as folder_main
from tests.pretend_gpu import pretend_gpus
from tool.pictures import read_mask, save_label

SMALL = ["--batch_size", "2", "--irn_batch_size", "2", "--seg_batch_size", "1"]
USAGE = namedtuple("usage", "total used free")
doctor = importlib.import_module("data.doctor.__main__")


@pytest.fixture
def examine(tiny, weights, tmp_path):
    """Return what the doctor finds of the tiny folder, with some flags more."""

    def look(*flags: str) -> list:
        usual = ["--dataset", "folder", "--dataset_root", str(tiny), "--device", "cpu"]
        usual += ["--session_name", str(tmp_path / "run"), "--pretrained", str(weights), *SMALL]
        return show(doctor.checks_of(doctor.parse_arguments([*usual, *flags])))

    return look


def texts(findings: list, status: str) -> list[str]:
    return [f"{f.what}: {f.text}" for f in findings if f.status == status]


def only(findings: list, status: str = "FAIL") -> str:
    (text,) = texts(findings, status)
    return text


def split(root: Path, **lists: str) -> None:
    (root / "splits").mkdir()
    for name, ids in lists.items():
        (root / f"splits/{name}.txt").write_text("\n".join(ids) + "\n")


def sort_palette(root: Path) -> None:
    """Swap the numbers of two classes and their colours, as programs do that sort palettes."""
    path = root / "masks/d.png"
    image = Image.open(path)
    image.remap_palette([0, 3, 2, 1]).save(path)


def bands(root: Path) -> None:
    (root / "images/a.png").unlink()
    values = np.zeros((40, 48, 5), np.float32)
    tifffile.imwrite(root / "images/a.tif", values, planarconfig="contig", photometric="minisblack")


def twins(root: Path) -> None:
    for folder in ("images", "masks"):
        shutil.copy(root / folder / "a.png", root / folder / "f.png")


def labelled(root: Path, rows: list[str]) -> None:
    lines = [f"{name}.png,{labels}" for name, labels in zip(LABELS, rows, strict=False)]
    (root / "labels.csv").write_text("\n".join(["image,labels", *lines]) + "\n")


def unsure(root: Path) -> None:
    for path in (root / "masks").iterdir():
        save_label(path, np.full(read_mask(path).shape, 255, np.uint8))


GIVEN = list(LABELS.values())
# What is done to the tiny folder, and the finding of both programs.
ROWS = {
    "an empty picture": (
        lambda r: (r / "images/e.png").write_bytes(b""),
        *("FAIL", "pictures", "e.png"),
    ),
    "of five bands": (bands, "FAIL", "pictures", "--bands"),
    "of 16 bits": (
        lambda r: Image.fromarray(np.full((40, 48), 60000, np.uint16)).save(r / "images/a.png"),
        *("warn", "pictures", "16 bits (a)"),
    ),
    "there twice": (twins, "warn", "duplicates", "a and f"),
    "a list of missing pictures": (
        lambda r: split(r, train="abcdef", val="az"),
        *("FAIL", "list", "images/z"),
    ),
    "a label that is no class": (
        lambda r: labelled(r, ["red", "green", "purple"]),
        *("FAIL", "labels", "line 4"),
    ),
    "a mask of another size": (
        lambda r: save_label(r / "masks/b.png", np.full((5, 7), 2)),
        *("FAIL", "masks", "b.png"),
    ),
    "masks of 0 and 255": (unsure, "FAIL", "masks", "None of the 6"),
    "a mask of other classes": (
        lambda r: labelled(r, ["green", *GIVEN[1:]]),
        *("warn", "masks", "1 of 6"),
    ),
    "classes in another order": (
        lambda r: (r / "classes.txt").write_text("green\nblue\nred\n"),
        *("FAIL", "masks", "order of the classes"),
    ),
    "a sorted palette": (sort_palette, "warn", "masks", "d.png has the colour"),
}


@pytest.mark.parametrize("row", ROWS)
def test_both_programs_find_it(examine, tiny, row, monkeypatch):
    """Also where it is not in the sample that is decoded."""
    monkeypatch.setattr(looks, "DECODED", 6 if "palette" in row else 2)
    edit, status, what, words = ROWS[row]
    edit(tiny)
    for findings in (examine(), show(folder_checks(Folder(tiny)))):
        assert [f for f in findings if (f.status, f.what) == (status, what) and words in f.text]
        if status == "warn":
            assert not texts(findings, "FAIL")


def test_nothing_is_wrong_with_a_whole_folder(examine, tiny, tmp_path):
    """The camera turns a picture, and its values are read without writing into the session."""
    (tiny / "images/a.png").unlink()
    turned = Image.new("RGB", (48, 40), "red")
    turned.save(tiny / "images/a.jpg", exif=orientation_tag(6))
    save_label(tiny / "masks/a.png", np.ones((48, 40), np.uint8))
    findings = examine("--value_range", "auto")
    assert not texts(findings, "FAIL")
    found = {f.what: f.text for f in findings if f.status == "ok"}
    assert {"requirements", "dataset", "list", "labels", "weights", "disk", "batches"} <= {*found}
    assert found["pictures"].startswith("6 there, 6 decoded, 40 x 48 to 48 x 45")
    assert found["masks"] == "6 of 6 there, 6 read, with the classes 0, 1, 2, 3"
    assert "green (2), blue (2), red (3)" in found["labels"]
    assert not (tmp_path / "run").exists()


def test_masks_are_optional_in_a_folder_also_in_part(examine, tiny):
    (tiny / "masks/a.png").rename(tiny / "masks/stray.png")
    findings = examine()
    assert "masks: 5 of 6 pictures have a mask, and are what is judged" in texts(findings, "warn")
    assert not texts(findings, "FAIL")
    assert not texts(show(folder_checks(Folder(tiny))), "FAIL")
    shutil.rmtree(tiny / "masks")
    assert not texts(examine(), "FAIL")


def test_the_check_shows_all_faults_at_once(tiny):
    """Of every kind the first five, and how many there are besides."""
    with open(tiny / "classes.txt", "a") as file:
        file.write("Red\n")
    (tiny / "images/b.png").write_bytes(b"")
    split(tiny, train="abcz")
    failed = texts(show(folder_checks(Folder(tiny))), "FAIL")
    assert [text.split(":")[0] for text in failed] == ["list", "labels", "pictures"]
    (tiny / "classes.txt").write_text("red\ngreen\n")
    rows = [f"{image_id},pink\n" for image_id in [*"abcde", "x", "y"]]
    (tiny / "labels.csv").write_text("image,labels\n" + "".join(rows))
    failed = texts(show(folder_checks(Folder(tiny))), "FAIL")
    for line in (2, 6):
        assert sum(f"line {line}: 'pink'" in text for text in failed) == 1
    assert "labels: 2 more are like these" in failed


def test_pictures_and_masks_of_val(examine, tiny):
    split(tiny, train="abc", val="def")
    for name in ("images/e.png", "masks/d.png"):
        (tiny / name).write_bytes(b"")
    assert [text.split("/")[-1][:5] for text in texts(examine(), "FAIL")] == ["e.png", "d.png"]


def test_a_picture_that_is_damaged_inside_is_found_with_all(examine, tiny, monkeypatch):
    monkeypatch.setattr(looks, "DECODED", 1)
    content = bytearray((tiny / "images/e.png").read_bytes())
    content[len(content) // 2] ^= 255
    (tiny / "images/e.png").write_bytes(content)
    assert not texts(examine(), "FAIL")
    assert "e.png" in only(examine("--all"))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--batch_size", "7"), "--batch_size 7"),
        (("--seg_batch_size", "2", "--accumulate", "4"), "--accumulate 4 --batch_size 2"),
        (("--processes", "2"), "--accumulate 2 --batch_size 1"),  # a part of DeepLab
        (("--processes", "3", "--model", "none"), "--batch_size 2"),
    ],
)
def test_batches_that_the_list_or_the_processes_cannot_fill(examine, flags, named):
    line = only(examine(*flags))
    assert line.startswith("batches")
    assert named in line


def test_eight_processes_share_every_batch_and_waste_is_told():
    args = doctor.parse_arguments(["--processes", "8"])
    dataset = SimpleNamespace(picture_ids=lambda name, least, flag: list(range(least)))
    (told, text), (ok, _) = doctor.batches(args, dataset, "train")
    assert (told, ok) == ("warn", "ok")
    assert "--accumulate 1 --batch_size 10" in text
    assert "62%" in text


def test_processes_take_a_gpu_each(examine):
    with pretend_gpus(2):
        named = only(examine("--device", "cuda:0", "--processes", "2", "--seg_batch_size", "2"))
        assert named.startswith("device: --device cuda:0: 2 processes")
        assert "names 2" in texts(examine("--device", "cuda", "--processes", "3"), "FAIL")[0]


def test_disk_and_session(examine, tiny, monkeypatch):
    headers = {i: looks.header_of(tiny / f"images/{i}.png") for i in LABELS}
    found = looks.bytes_to_write(Folder(tiny), headers)
    sizes = [Image.open(path).size for path in sorted((tiny / "images").iterdir())]
    present = np.array([2, 2, 2, 3, 2, 2])
    maps = sum(7.5 * w * h / 256 * 4 for w, h in sizes) * present.mean()
    assert found == pytest.approx(maps + 4 * sum(w * h for w, h in sizes) / 15, rel=0.02)
    with monkeypatch.context() as patch:
        patch.setattr(looks.shutil, "disk_usage", lambda path: USAGE(2e9, 1e9, 1e9))
        assert only(examine()).startswith("disk: 0.9 GiB free")
    monkeypatch.setattr(looks.os, "access", lambda path, mode: False)
    assert "--session_name" in only(examine())


def test_machine(examine, monkeypatch, tmp_path):
    real_usage, real_version = shutil.disk_usage, machine.importlib.metadata.version

    def usage(path):
        return USAGE(1 << 20, 0, 1 << 20) if path == "/dev/shm" else real_usage(path)

    def version(name):
        return "1.0" if name == "numpy" else real_version(name)

    monkeypatch.setattr(machine.shutil, "disk_usage", usage)
    monkeypatch.setattr(machine.os.path, "isdir", lambda path: True)
    monkeypatch.setattr(machine, "free_memory", lambda: 1e8)
    monkeypatch.setattr(machine.importlib.metadata, "version", version)
    (tmp_path / "odd.pth").write_bytes(b"<html>")
    odd = ["--pretrained", str(tmp_path / "odd.pth"), "--device", "cuda:99"]
    findings = examine("--num_workers", "2", *odd)
    warned = " ".join(texts(findings, "warn"))
    assert "/dev/shm: 1 MiB" in warned
    assert "--batch_size" in warned
    failed = " ".join(texts(findings, "FAIL"))
    for words in ("numpy is 1.0", "odd.pth", "--device cuda:99"):
        assert words in failed
    assert "/dev/shm" not in " ".join(texts(examine("--num_workers", "0"), "warn"))


def test_balance_of_classes():
    def hints(*rows: tuple[int, list[int]]) -> list[str]:
        positives = np.repeat([row for _, row in rows], [times for times, _ in rows], 0)
        names = ("red", "green", "blue")
        dataset = SimpleNamespace(labels=lambda _: positives, class_names=names, source_names="")
        found = looks.labels(dataset, list(range(len(positives))))
        return [text.split(".")[0].split(",")[0] for status, text in found if status == "warn"]

    few, share = looks.FEW, looks.SHARE
    red, green, blue = np.eye(3, dtype=int).tolist()
    assert not hints((few, red), (few, green), (few, blue))
    # 10 is below a 50th of 501, and 11 is not.
    rare = hints((few * share + 1, red), (few, green), (few + 1, blue))
    assert rare == ["these classes are rare: green"]
    together = hints((few, [1, 0, 1]), (few, green))
    assert together == ["red and blue always occur together"]


def test_both_are_programs(tiny, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        folder_main(["--dataset_root", str(tiny)])
    assert "0 failures, 1 warnings. It can be used as it is." in capsys.readouterr().out
    bands(tiny)
    with pytest.raises(SystemExit, match=r"^1$"):
        folder_main(["--dataset_root", str(tiny)])
    flags = ["--dataset", "folder", "--dataset_root", str(tiny), "--device", "cpu"]
    flags += ["--session_name", str(tmp_path / "run"), "--pretrained", "none", *SMALL]
    with pytest.raises(SystemExit, match="would stop a run"):
        doctor.main(flags)
    doctor.main([*flags, "--bands", "1", "2", "3", "--value_range", "0", "1"])
