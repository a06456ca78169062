"""python -m data.voc --download and data.coco --download, against a server on this machine."""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from data import download, voc
from data.download import Archive, fetch
from tool.errors import InputError
from tool.pictures import read_mask, save_label

REPOSITORY = Path(__file__).parent.parent


class Server:
    """Serves files from memory, and notes what is asked for.

    Answers end after ``cut`` bytes, and begin after ``wait`` seconds.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut: int | None = None
        self.wait = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                outer.asked.append(name)
                time.sleep(outer.wait)
                content = outer.files.get(name)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: outer.cut])

            def log_message(self, *_) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def archive(self, name: str, members: dict[str, bytes], content: dict[str, str]) -> Archive:
        """Serve an archive of some members."""
        buffer = io.BytesIO()
        if name.endswith(".zip"):
            with zipfile.ZipFile(buffer, "w") as file:
                for path, data in members.items():
                    file.writestr(path, data)
        else:
            with tarfile.open(fileobj=buffer, mode="w:gz" if name.endswith("gz") else "w") as file:
                for path, data in members.items():
                    about = tarfile.TarInfo(path)
                    about.size = len(data)
                    file.addfile(about, io.BytesIO(data))
        self.files[name] = buffer.getvalue()
        url = f"http://127.0.0.1:{self.http.server_port}/{name}"
        return Archive(url, hashlib.md5(self.files[name]).hexdigest(), 1e-6, content)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def two(server):
    """Two archives."""
    return [
        server.archive("one.zip", {"a/x.txt": b"x", "a/y.txt": b"y"}, {"a": "pictures/a"}),
        server.archive("two.tgz", {"b/z.txt": b"z", "b/w.txt": b"w"}, {"b/z.txt": "lists/z.txt"}),
    ]


def files_of(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


WHOLE = ["lists/z.txt", "pictures/a/x.txt", "pictures/a/y.txt"]


def test_what_is_there_is_not_fetched(two, server, tmp_path):
    (tmp_path / "pictures/a").mkdir(parents=True)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/two.tgz").write_bytes(server.files["two.tgz"])  # by hand
    fetch(two, tmp_path)
    assert server.asked == []
    assert files_of(tmp_path) == ["lists/z.txt"]


def test_what_stands_in_the_folder_is_never_replaced(two, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a").write_text("mine")
    content = {"a": "pictures/a", "a/y.txt": "pictures/y.txt"}
    fetch([dataclasses.replace(two[0], content=content)], tmp_path)
    assert (tmp_path / "pictures/a").read_text() == "mine"


def killed(*_):
    raise KeyboardInterrupt


# What goes wrong with the second archive, and whether it is fetched then, and in the next run.
@pytest.mark.parametrize(
    ("break_it", "fetched"),
    [
        (lambda server, patch: server.files.update({"two.tgz": b"?"}), (True, True)),
        (lambda server, patch: server.files.clear(), (True, True)),
        (lambda server, patch: setattr(server, "cut", 20), (True, True)),
        (lambda server, patch: setattr(server, "wait", 1), (True, True)),
        (lambda server, patch: patch.setattr(download.os, "replace", killed), (True, False)),
        (lambda server, patch: patch.setattr(download.shutil, "disk_usage", full), (False, True)),
    ],
)
def test_what_was_interrupted_goes_on(two, server, tmp_path, monkeypatch, break_it, fetched):
    fetch(two[:1], tmp_path)
    server.asked.clear()
    files = dict(server.files)
    with monkeypatch.context() as patch:
        patch.setattr(download, "PATIENCE", 0.2)
        break_it(server, patch)
        with pytest.raises((InputError, KeyboardInterrupt)):
            fetch(two, tmp_path)
    assert files_of(tmp_path / "pictures") == ["a/x.txt", "a/y.txt"]
    assert not (tmp_path / "lists/z.txt").exists()
    first = bool(server.asked)
    server.files, server.cut, server.wait = files, None, 0
    server.asked.clear()
    fetch(two, tmp_path)
    assert files_of(tmp_path) == WHOLE  # no archive is left
    assert (first, bool(server.asked)) == fetched
    assert "one.zip" not in server.asked


def full(_):
    return SimpleNamespace(free=100)


def test_one_process_at_a_time_fetches(two, tmp_path):
    code = "import sys; from tool.writer import claim; lock = claim(sys.argv[1], 'x'); "
    waiting = f"{code} print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": REPOSITORY}
    lock = str(tmp_path / "downloads/.lock")
    with subprocess.Popen([sys.executable, "-c", waiting, lock], **pipes) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match="fetching"):
            fetch(two, tmp_path)
        other.kill()
    fetch(two, tmp_path)
    assert files_of(tmp_path) == WHOLE


@pytest.fixture
def devkit(server, monkeypatch):
    """The devkit and SBD in miniature, served in the place of the official archives."""

    def picture(form: str, mode: str, colour) -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, (31, 20), colour).save(buffer, form)
        return buffer.getvalue()

    annotation = b"<annotation><object><name>cat</name></object></annotation>"
    members = {}
    for image_id in ("t", "v", "s"):
        members[f"VOCdevkit/VOC2012/JPEGImages/{image_id}.jpg"] = picture("JPEG", "RGB", "red")
        members[f"VOCdevkit/VOC2012/Annotations/{image_id}.xml"] = annotation
    for image_id in ("t", "v"):
        members[f"VOCdevkit/VOC2012/SegmentationClass/{image_id}.png"] = picture("PNG", "L", 8)
    lists = "VOCdevkit/VOC2012/ImageSets/Segmentation"
    members |= {f"{lists}/train.txt": b"t\n", f"{lists}/val.txt": b"v\n"}
    sbd = {
        f"benchmark_RELEASE/dataset/{n}.txt": c for n, c in (("train", b"s\nv\n"), ("val", b"t\n"))
    }

    def archives(root_name: str) -> list[Archive]:
        content = [archive.content for archive in download.voc_archives(root_name)]
        return [
            server.archive("VOCtrainval.tar", members, content[0]),
            server.archive("benchmark.tgz", sbd, content[1]),
        ]

    monkeypatch.setattr(voc, "voc_archives", archives)


def test_official_archives_are_those_of_torchvision():
    devkit, sbd = download.voc_archives("VOC2012")
    assert devkit.name == "VOCtrainval_11-May-2012.tar"
    assert sbd.name == "benchmark.tgz"
    for archive in (devkit, sbd, *download.COCO_ARCHIVES):
        assert len(archive.md5) == 32
        assert archive.url.startswith("http")


def test_voc_is_fetched_and_halved_once_and_both_are_devkits(devkit, server, tmp_path):
    root, half = tmp_path / "VOCdevkit/VOC2012", tmp_path / "half"
    flags = ["--dataset_root", str(root), "--download", "--halve", str(half), "--num_workers", "1"]
    voc.main(flags)
    small = voc.VOC(half)
    assert small.ids("trainaug") == ["s", "t"]
    assert small.ids("val") == ["v"]
    assert small.read("s").size == (16, 10)
    mask = read_mask(small.mask_path("v"))
    assert mask.shape == (10, 16)
    assert (mask == 8).all()
    assert not small.mask_path("s").exists()
    assert small.labels(["s"])[0, 7] == 1
    server.asked.clear()
    made = {path: path.stat().st_mtime_ns for path in half.rglob("*.jpg")}
    voc.main(flags)
    assert made == {path: path.stat().st_mtime_ns for path in half.rglob("*.jpg")}
    assert server.asked == []
    for image_id in ("v", "s"):  # a mask that is replaced, and one that is new
        save_label(root / f"SegmentationClass/{image_id}.png", np.full((20, 31), 3))
    voc.main(flags)
    again = {p.stem for p, time in made.items() if p.stat().st_mtime_ns != time}
    assert again == {"v", "s"}
    assert all((read_mask(small.mask_path(i)) == 3).all() for i in again)
    voc.main(["--dataset_root", str(half)])  # it is whole


def test_coco_is_fetched_into_its_layout(server, tmp_path, monkeypatch):
    from data.coco import __main__ as coco

    members = {
        f"annotations/instances_{split}2014.json": json.dumps({}).encode()
        for split in ("train", "val")
    }
    kinds = {
        "annotations_trainval2014.zip": members,
        "val2014.zip": {"val2014/COCO_val2014_000000000001.jpg": b"x"},
        "train2014.zip": {"train2014/COCO_train2014_000000000001.jpg": b"x"},
    }
    archives = [
        server.archive(official.name, kinds[official.name], official.content)
        for official in download.COCO_ARCHIVES
    ]
    monkeypatch.setattr(coco, "COCO_ARCHIVES", archives)
    with pytest.raises(InputError):  # the annotations are empty
        coco.main(["--dataset_root", str(tmp_path / "coco"), "--download"])
    assert files_of(tmp_path / "coco")[:2] == sorted(members)
    assert (tmp_path / "coco/images/train2014").is_dir()
    assert (tmp_path / "coco/images/val2014").is_dir()


def test_half_size_runs_from_a_full_size_devkit_to_its_labels(devkit, tmp_path):
    root = tmp_path / "VOCdevkit/VOC2012"
    voc.main(["--dataset_root", str(root), "--download"])
    wanted = {"PRESET": "half", "VOC_ROOT": str(root), "SESSION": str(tmp_path / "exp")}
    wanted |= {"AMP": "off", "REFINE": "crf", "SEG_MODEL": "none", "DEVICE": "cpu"}
    wanted["TRAIN_FLAGS"] = "--pretrained data/demo_resnet50.pth --batch_size 2 --max_epoches 1"
    environment = {**os.environ, "PYTHON": sys.executable, "NUM_WORKERS": "0", **wanted}
    about = {"cwd": REPOSITORY, "capture_output": True, "text": True}
    end = subprocess.run(["bash", "run_voc.sh"], env=environment, **about)
    assert end.returncode == 0, end.stdout + end.stderr
    for image_id in ("s", "t"):  # trainaug
        assert read_mask(tmp_path / f"exp/pseudo_label/{image_id}.png").shape == (10, 16)
    settings = json.loads((tmp_path / "exp/args.json").read_text())
    assert settings["train_resnet50_SIPE"]["dataset_root"] == f"{root}_half"
    assert "IS-CAM" in end.stdout
