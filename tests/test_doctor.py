"""python -m tool.doctor finds what would stop a run, and says so in a line with a mend."""

import collections
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.doctor import dataset as looks
from data.doctor import machine
from tool.pictures import save_label

REPOSITORY = Path(__file__).parent.parent
doctor = importlib.import_module("data.doctor.__main__")


@pytest.fixture
def examine(tiny, weights, tmp_path):
    """Returns what the doctor finds of the tiny folder, with some flags more: status -> lines."""

    def look(*flags: str) -> dict[str, list[str]]:
        usual = ["--dataset", "folder", "--dataset_root", str(tiny), "--device", "cpu"]
        usual += ["--session_name", str(tmp_path / "run"), "--pretrained", str(weights)]
        found = collections.defaultdict(list)
        for finding in doctor.examine(doctor.parse_arguments([*usual, *flags])):
            found[finding.status].append(f"{finding.what}: {finding.text}")
        return found

    return look


def test_nothing_is_wrong_with_a_whole_folder(examine, tmp_path):
    found = examine()
    assert not found["FAIL"]
    looked = " ".join(line.split(":")[0] for line in found["ok"])
    for what in (
        "requirements",
        "dataset",
        "list",
        "labels",
        "pictures",
        "masks",
        "weights",
        "disk",
    ):
        assert what in looked
    assert not (tmp_path / "run").exists()


def only(found: dict[str, list[str]], status: str = "FAIL") -> str:
    (line,) = found[status]
    return line


@pytest.mark.parametrize("kept", [0.5, 0.98, 0])
def test_one_corrupt_picture_of_many(examine, tiny, kept, monkeypatch):
    """Also where it is not in the sample that is decoded."""
    monkeypatch.setattr(looks, "SAMPLE", 2)
    path = tiny / "images/e.png"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    line = only(examine())
    assert line.startswith("pictures:")
    assert "e.png" in line


def test_a_picture_that_is_damaged_inside_is_found_with_all(examine, tiny, monkeypatch):
    monkeypatch.setattr(looks, "SAMPLE", 1)
    path = tiny / "images/e.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert not examine()["FAIL"]
    assert "e.png" in only(examine("--all"))


def test_a_mask_with_an_impossible_id(examine, tiny):
    save_label(tiny / "masks/b.png", np.full((41, 48), 9, np.uint8))
    line = only(examine())
    assert line.startswith("masks:")
    assert "b.png has class 9" in line


def test_labels_that_do_not_match(examine, tiny):
    labels = (tiny / "labels.csv").read_text()
    (tiny / "labels.csv").write_text(labels.replace("a.png,red", "a.png,green"))
    assert any("1 of 6 masks" in line and "a" in line for line in examine()["warn"])
    (tiny / "classes.txt").write_text("green\nblue\nred\n")  # another order than the masks'
    assert "order of the classes" in only(examine())
    (tiny / "labels.csv").write_text(labels.replace("b.png,green\n", ""))
    found = examine()["FAIL"]
    assert any(line.startswith("labels:") and "'b'" in line for line in found)


def test_classes_that_every_picture_or_none_shows(examine, tiny):
    (tiny / "labels.csv").write_text("image,labels\n" + "".join(f"{i}.png,red\n" for i in "abcdef"))
    warned = " ".join(examine()["warn"])
    assert "every picture shows red" in warned
    assert "no picture shows green, blue" in warned


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
    (line,) = [line for line in out.splitlines() if line.startswith("FAIL  list")][:1]
    assert "trainaug" in line
    assert "For a bug report" in out


def test_too_little_disk(examine, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(looks.shutil, "disk_usage", lambda path: usage(2e9, 1e9, 1e9))
    line = only(examine())
    assert line.startswith("disk: 0.9 GiB free")


def test_a_session_that_cannot_be_written(examine, tmp_path, monkeypatch):
    monkeypatch.setattr(looks.os, "access", lambda path, mode: False)
    assert "cannot be written" in only(examine())


def test_disk_is_estimated_from_sizes_and_classes(tmp_path, tiny):
    from data.folder import Folder

    dataset = Folder(tiny)
    maps, labels = looks.bytes_to_write(dataset, dataset.ids("train"))
    sizes = [Image.open(path).size for path in sorted((tiny / "images").iterdir())]
    present = np.array([2, 2, 2, 3, 2, 2])
    expected = sum(7.5 * w * h / 256 * 4 for w, h in sizes) * present.mean()
    assert maps == pytest.approx(expected, rel=0.02)
    assert labels == pytest.approx(4 * sum(w * h for w, h in sizes) / 15)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"<html>"])
def test_weights_that_cannot_be_read(examine, tmp_path, content):
    (tmp_path / "odd.pth").write_bytes(content)
    line = only(examine("--pretrained", str(tmp_path / "odd.pth")))
    assert line.startswith("weights:")
    assert "odd.pth" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA")
def test_no_cuda_where_it_is_asked_for(examine):
    line = only(examine("--device", "cuda"))
    assert line.startswith("device: --device cuda")


def test_a_small_dev_shm(examine, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    real = shutil.disk_usage
    small = usage(1 << 20, 0, 1 << 20)
    monkeypatch.setattr(
        machine.shutil, "disk_usage", lambda path: small if path == "/dev/shm" else real(path)
    )
    monkeypatch.setattr(machine.os.path, "isdir", lambda path: True)
    assert any("/dev/shm: 1 MiB" in line for line in examine("--num_workers", "2")["warn"])
    assert not any("/dev/shm" in line for line in examine("--num_workers", "0")["warn"])


def test_memory_and_requirements(examine, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 1e9)
    assert any("memory" in line and "--batch_size" in line for line in examine()["warn"])
    real = machine.importlib.metadata.version
    monkeypatch.setattr(
        machine.importlib.metadata, "version", lambda name: "1.0" if name == "numpy" else real(name)
    )
    assert "numpy is 1.0" in only(examine())


def test_it_is_a_program(tiny, tmp_path):
    """And reads a range of values without writing into the session."""
    flags = ["--dataset", "folder", "--dataset_root", str(tiny), "--value_range", "auto"]
    flags += ["--session_name", str(tmp_path / "run"), "--device", "cpu", "--pretrained", "none"]
    command = [sys.executable, "-m", "tool.doctor", *flags]
    end = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (end.returncode, end.stderr) == (0, "")
    assert "pictures      6 there, 6 decoded" in end.stdout
    assert not (tmp_path / "run").exists()
