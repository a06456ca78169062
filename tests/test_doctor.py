"""The check of machine and data: what python -m tool.doctor and python -m data.folder find."""

import importlib
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tiny import LABELS

from data.doctor import dataset as looks
from data.doctor import machine
from data.doctor.finding import show
from data.folder import Folder
from data.folder.__main__ import checks_of as folder_checks
from data.folder.__main__ import main as folder_main
from tool.pictures import read_mask, save_label

REPOSITORY = Path(__file__).parent.parent
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


def many(root: Path, rows: list[str]) -> None:
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


def cut(path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])


def damage_inside(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def split(root: Path, **lists: str) -> None:
    (root / "splits").mkdir()
    for name, ids in lists.items():
        (root / f"splits/{name}.txt").write_text("\n".join(ids) + "\n")


def full(root: Path, value: int) -> None:
    for image_id in LABELS:
        mask = read_mask(root / f"masks/{image_id}.png")
        save_label(root / f"masks/{image_id}.png", np.full(mask.shape, value, np.uint8))


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


# What is done to the tiny folder, and the finding of both programs.
ROWS = {
    "a picture that is empty": (lambda r: cut(r / "images/e.png", 0), "FAIL", "pictures", "e.png"),
    "cut in half": (lambda r: cut(r / "images/e.png", 0.5), "FAIL", "pictures", "e.png"),
    "without its end": (lambda r: cut(r / "images/e.png", 0.98), "FAIL", "pictures", "e.png"),
    "of no format": (
        lambda r: (r / "images/e.png").write_bytes(b"no picture"),
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
    "no list to learn from": (lambda r: split(r, val="a"), "FAIL", "list", "train"),
    "a label that is no class": (
        lambda r: rewrite(r / "labels.csv", "c.png,blue", "c.png,purple"),
        *("FAIL", "labels", "line 4"),
    ),
    "a missing label": (
        lambda r: rewrite(r / "labels.csv", "c.png,blue\n", ""),
        *("FAIL", "labels", "'c'"),
    ),
    "few pictures": (lambda r: None, "warn", "labels", "rare: red, green, blue"),
    "an impossible id": (
        lambda r: save_label(r / "masks/b.png", np.full((41, 48), 9, np.uint8)),
        *("FAIL", "masks", "b.png"),
    ),
    "a mask of another size": (
        lambda r: save_label(r / "masks/b.png", np.full((5, 7), 2, np.uint8)),
        *("FAIL", "masks", "b.png"),
    ),
    "a mask of colours": (
        lambda r: Image.new("RGB", (48, 41)).save(r / "masks/b.png"),
        *("FAIL", "masks", "b.png"),
    ),
    "masks of 0 and 255": (lambda r: full(r, 255), "FAIL", "masks", "None of the 6"),
    "a mask of other classes": (
        lambda r: rewrite(r / "labels.csv", "a.png,red", "a.png,green"),
        *("warn", "masks", "1 of 6 masks show other classes than the labels: a"),
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
    findings = examine()
    assert not texts(findings, "FAIL")
    found = {f.what: f.text for f in findings if f.status == "ok"}
    assert {"requirements", "dataset", "list", "labels", "weights", "disk", "batches"} <= {*found}
    assert found["pictures"].startswith("6 there, 6 decoded, 48 x 40 to 48 x 45")
    assert found["masks"] == "6 of 6 there, 6 read, with the classes 0, 1, 2, 3"
    assert "green (2), blue (2), red (3)" in found["labels"]
    assert not (tmp_path / "run").exists()


def test_balance_of_classes(tiny):
    def hints(rows: list[str]) -> str:
        many(tiny, rows)
        findings = show(folder_checks(Folder(tiny)))
        assert not texts(findings, "FAIL")
        return "\n".join(texts(findings, "warn"))

    few, share = looks.FEW, looks.SHARE
    assert not hints([*["red"] * few, *["green"] * few, *["blue"] * few, ""])
    # 10 is below a 50th of 501, and 11 is not.
    rare = hints([*["red"] * (few * share + 1), *["green"] * few, *["blue"] * (few + 1)])
    assert rare.startswith("labels: these classes are rare: green. ")
    assert "rare: green, blue" in hints([*["red"] * 20, *["green"] * (few - 1), ""])
    together = hints([*["red blue"] * few, *["green"] * few, "green red blue", ""])
    assert together.startswith("labels: red and blue always occur together")


def test_masks_are_optional_in_a_folder_but_not_in_part(examine, tiny):
    (tiny / "masks/a.png").unlink()
    assert "masks/a.png" in only(examine())
    assert not texts(show(folder_checks(Folder(tiny))), "FAIL")
    shutil.rmtree(tiny / "masks")
    assert not texts(examine(), "FAIL")


def test_pictures_and_masks_of_val(examine, tiny):
    split(tiny, train="abc", val="def")
    for path, what in ((tiny / "images/e.png", "pictures"), (tiny / "masks/d.png", "masks")):
        content = path.read_bytes()
        path.write_bytes(b"")
        assert only(examine()).startswith(what)
        path.write_bytes(content)
    save_label(tiny / "masks/f.png", np.ones((9, 9), np.uint8))
    assert "f.png" in only(examine())


def test_a_picture_that_is_damaged_inside_is_found_with_all(examine, tiny, monkeypatch):
    monkeypatch.setattr(looks, "DECODED", 1)
    damage_inside(tiny / "images/e.png")
    assert not texts(examine(), "FAIL")
    assert "e.png" in only(examine("--all"))


def test_masks_that_belong_to_no_picture(tiny):
    save_label(tiny / "masks/stray.png", np.ones((7, 5), np.uint8))
    assert "stray" in texts(show(folder_checks(Folder(tiny))), "warn")[-1]


def test_turned_picture_has_the_size_that_it_shows(tiny):
    image = Image.new("RGB", (48, 40), "red")
    exif = image.getexif()
    exif[274] = 6
    (tiny / "images/a.png").unlink()
    image.save(tiny / "images/a.jpg", exif=exif)
    save_label(tiny / "masks/a.png", np.ones((48, 40), np.uint8))
    assert not texts(show(folder_checks(Folder(tiny))), "FAIL")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--batch_size", "7"), "--batch_size 7"),
        (("--irn_batch_size", "7"), "--irn_batch_size 7"),
        (("--seg_batch_size", "2", "--accumulate", "4"), "--batch_size 2 times --accumulate 4"),
        (("--processes", "2"), "--batch_size 1 times --accumulate 2"),  # a part of DeepLab
        (("--processes", "3", "--model", "none"), "--batch_size 2"),
    ],
)
def test_batches_that_the_list_or_the_processes_cannot_fill(examine, flags, named):
    line = only(examine(*flags))
    assert line.startswith("batches")
    assert named in line


def test_missing_trainaug(tmp_path, capsys):
    lists = tmp_path / "VOC2012/ImageSets/Segmentation"
    for folder in ("JPEGImages", "SegmentationClass", "Annotations"):
        (tmp_path / "VOC2012" / folder).mkdir(parents=True)
    lists.mkdir(parents=True)
    for name in ("train", "val"):
        (lists / f"{name}.txt").write_text(f"2007_{name}\n")
    args = ["--dataset", "voc", "--dataset_root", str(tmp_path / "VOC2012"), "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        doctor.main([*args, "--session_name", str(tmp_path / "run")])
    assert "would stop a run" in str(end.value)
    out = capsys.readouterr().out
    assert "trainaug" in next(line for line in out.splitlines() if line.startswith("FAIL  list"))
    assert "warn  list          the list val has 1 ids" in out
    assert "For a bug report" in out


def test_disk_and_session(examine, tiny, monkeypatch):
    found = looks.bytes_to_write(Folder(tiny), list(LABELS))
    sizes = [Image.open(path).size for path in sorted((tiny / "images").iterdir())]
    present = np.array([2, 2, 2, 3, 2, 2])
    maps = sum(7.5 * w * h / 256 * 4 for w, h in sizes) * present.mean()
    assert found == pytest.approx(maps + 4 * sum(w * h for w, h in sizes) / 15, rel=0.02)
    with monkeypatch.context() as patch:
        patch.setattr(looks.shutil, "disk_usage", lambda path: USAGE(2e9, 1e9, 1e9))
        assert only(examine()).startswith("disk: 0.9 GiB free")
    monkeypatch.setattr(looks.os, "access", lambda path, mode: False)
    assert "--session_name" in only(examine())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"<html>"])
def test_weights_that_cannot_be_read(examine, tmp_path, content):
    (tmp_path / "odd.pth").write_bytes(content)
    assert "odd.pth" in only(examine("--pretrained", str(tmp_path / "odd.pth")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_no_cuda_where_it_is_asked_for(examine):
    assert only(examine("--device", "cuda")).startswith("device: --device cuda")


def test_machine(examine, monkeypatch):
    real_usage, real_version = shutil.disk_usage, machine.importlib.metadata.version

    def usage(path):
        return USAGE(1 << 20, 0, 1 << 20) if path == "/dev/shm" else real_usage(path)

    def version(name):
        return "1.0" if name == "numpy" else real_version(name)

    monkeypatch.setattr(machine.shutil, "disk_usage", usage)
    monkeypatch.setattr(machine.os.path, "isdir", lambda path: True)
    monkeypatch.setattr(machine, "free_memory", lambda: 1e8)
    monkeypatch.setattr(machine.importlib.metadata, "version", version)
    findings = examine("--num_workers", "2")
    warned = " ".join(texts(findings, "warn"))
    assert "/dev/shm: 1 MiB" in warned
    assert "--batch_size" in warned
    assert "numpy is 1.0" in only(findings)
    assert "/dev/shm" not in " ".join(texts(examine("--num_workers", "0"), "warn"))


def test_the_doctor_is_a_program(tiny, tmp_path):
    """And reads a range of values without writing into the session."""
    flags = ["--dataset", "folder", "--dataset_root", str(tiny), "--value_range", "auto"]
    flags += ["--session_name", str(tmp_path / "run"), "--device", "cpu", "--pretrained", "none"]
    command = [sys.executable, "-m", "tool.doctor", *flags, *SMALL]
    end = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (end.returncode, end.stderr) == (0, "")
    assert "pictures      6 there, 6 decoded" in end.stdout
    assert not (tmp_path / "run").exists()


def test_the_check_of_a_folder_is_a_program(tiny, capsys):
    def status(*flags: str) -> int:
        with pytest.raises(SystemExit) as end:
            folder_main(["--dataset_root", str(tiny), *flags])
        return end.value.code

    assert status() == 0
    assert "0 failures, 1 warnings. It can be used as it is." in capsys.readouterr().out
    (tiny / "classes.txt").write_text("red\n")
    (tiny / "labels.csv").write_text("image,red\n" + "".join(f"{i},1\n" for i in LABELS))
    shutil.rmtree(tiny / "masks")
    assert status() == 0
    assert "warn  labels        every picture of the training list shows red" in (
        capsys.readouterr().out
    )
    bands(tiny)
    flags = ["--bands", "1", "2", "3", "--value_range", "0", "1"]
    assert (status(), status(*flags)) == (1, 0)
