"""python -m data.voc --download and data.coco --download, against a server on this machine."""

import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from data import download, voc
from data.coco import __main__ as preparation
from data.download import Archive, fetch
from tool.errors import InputError
from tool.pictures import read_mask, save_label


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
        with tempfile.TemporaryDirectory() as folder:
            for path, data in members.items():
                Path(folder, "in", path).parent.mkdir(parents=True, exist_ok=True)
                Path(folder, "in", path).write_bytes(data)
            forms = {"zip": "zip", "tar": "tar", "tgz": "gztar"}
            made = shutil.make_archive(f"{folder}/out", forms[name[-3:]], f"{folder}/in")
            self.files[name] = Path(made).read_bytes()
        url = f"http://127.0.0.1:{self.http.server_port}/{name}"
        return Archive(url, hashlib.md5(self.files[name]).hexdigest(), content)


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
    fetch([two[0]._replace(content=content)], tmp_path)
    assert (tmp_path / "pictures/a").read_text() == "mine"


def killed(*_):
    raise KeyboardInterrupt


# What goes wrong with the second archive, and whether the next run fetches it.
@pytest.mark.parametrize(
    ("break_it", "fetched"),
    [
        (lambda server, patch: server.files.update({"two.tgz": b"?"}), True),
        (lambda server, patch: setattr(server, "cut", 20), True),
        (lambda server, patch: setattr(server, "wait", 1), True),
        (lambda server, patch: patch.setattr(download.os, "replace", killed), False),
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
    assert not (tmp_path / "lists/z.txt").exists()
    server.files, server.cut, server.wait = files, None, 0
    server.asked.clear()
    fetch(two, tmp_path)
    assert files_of(tmp_path) == WHOLE  # no archive is left
    assert bool(server.asked) == fetched
    assert "one.zip" not in server.asked


def test_one_process_at_a_time_fetches(two, tmp_path):
    code = "import sys; from tool.writer import claim; lock = claim(sys.argv[1], 'x'); "
    command = [sys.executable, "-c", f"{code} print(flush=True); input()"]
    command.append(str(tmp_path / "downloads/.lock"))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match="fetching"):
            fetch(two, tmp_path)
        other.kill()


@pytest.fixture
def devkit(server, monkeypatch):
    """The devkit and SBD in miniature, served in the place of the official archives."""

    def picture(form: str, mode: str, colour) -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, (31, 20), colour).save(buffer, form)
        return buffer.getvalue()

    root, lists = "VOCdevkit/VOC2012", "VOCdevkit/VOC2012/ImageSets/Segmentation"
    members = {f"{lists}/train.txt": b"t\n", f"{lists}/val.txt": b"v\n"}
    for image_id in ("t", "v", "s"):
        members[f"{root}/JPEGImages/{image_id}.jpg"] = picture("JPEG", "RGB", "red")
        members[f"{root}/Annotations/{image_id}.xml"] = (
            b"<annotation><object><name>cat</name></object></annotation>"
        )
    for image_id in ("t", "v"):
        members[f"{root}/SegmentationClass/{image_id}.png"] = picture("PNG", "L", 8)
    sbd = "benchmark_RELEASE/dataset"
    served = {
        "VOCtrainval.tar": members,
        "benchmark.tgz": {f"{sbd}/train.txt": b"s\nv\n", f"{sbd}/val.txt": b"t\n"},
    }

    def archives(root_name: str) -> list[Archive]:
        official = download.voc_archives(root_name)
        return [
            server.archive(name, members, archive.content)
            for (name, members), archive in zip(served.items(), official, strict=True)
        ]

    monkeypatch.setattr(voc, "voc_archives", archives)


def test_voc_is_fetched_and_halved_once_and_both_are_devkits(devkit, server, tmp_path):
    root, half = tmp_path / "VOCdevkit/VOC2012", tmp_path / "half"
    flags = ["--dataset_root", str(root), "--download", "--halve", str(half), "--num_workers", "0"]
    voc.main(flags)
    small = voc.VOC(half)
    assert small.ids("trainaug") == ["s", "t"]
    assert small.ids("val") == ["v"]
    assert small.read("s").size == (16, 10)
    mask = read_mask(small.mask_path("v"))
    assert mask.shape == (10, 16)
    assert (mask == 8).all()
    assert small.labels(["s"])[0, 7] == 1
    server.asked.clear()
    made = {path: path.stat().st_mtime_ns for path in half.rglob("*.jpg")}
    for image_id in ("v", "s"):  # a mask that is replaced, and one that is new
        save_label(root / f"SegmentationClass/{image_id}.png", np.full((20, 31), 3))
    voc.main(flags)
    assert server.asked == []
    again = {p.stem for p, time in made.items() if p.stat().st_mtime_ns != time}
    assert again == {"v", "s"}
    assert all((read_mask(small.mask_path(i)) == 3).all() for i in again)
    voc.main(["--dataset_root", str(half)])  # it is whole


def test_coco_is_fetched_into_its_layout(tmp_path, monkeypatch):
    fetched = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(preparation, "fetch", fetched)
    with pytest.raises(KeyboardInterrupt):
        preparation.main(["--dataset_root", str(tmp_path), "--download"])
    fetched.assert_called_once_with(download.COCO_ARCHIVES, tmp_path)
    places = [place for archive in download.COCO_ARCHIVES for place in archive.content.values()]
    assert places == [*download.COCO_ANNOTATIONS, "images/val2014", "images/train2014"]
