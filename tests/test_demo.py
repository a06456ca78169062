"""The demo: the same pixels everywhere, consistent files, weights that load, their making."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import torch

from data.demo import Demo, dataset, drawing, pretrain, report
from data.folder import Folder
from net.resnet50 import build_backbone, read_pretrained
from tests.tiny import make_folder, store_maps
from tool import distributed
from tool.errors import InputError
from tool.pictures import read_mask, read_rgb, save_label
from tool.writer import write_json

# SHA-256 of picture and mask, by seed: a change here changes every figure of the demo.
PIXELS = {
    0: ("0b5634c3f33e3f01", "97e1f904f7edf030"),
    1: ("d5136152a9d1cff0", "7fe5cd77ca330614"),
    5: ("90b97ba88df14b95", "30c607b0468279a3"),
    301: ("c23ebf4ab5f2335a", "775c4294cc81be58"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The demo with 12 pictures and 4 for validation, for speed."""
    root = tmp_path_factory.mktemp("demo") / "demo_data"
    dataset.generate(root, 12, 4)
    return root


@pytest.fixture
def painted(monkeypatch):
    """Arguments of the creatures that are drawn: size, head, coat and perhaps body."""
    calls = []

    class Noted(drawing.Creature):
        def __init__(self, rng, h, w, *args):
            super().__init__(rng, h, w, *args)
            self.args = args

        def paint(self, canvas):
            calls.append(self.args)
            super().paint(canvas)

    monkeypatch.setattr(drawing, "Creature", Noted)
    return calls


@pytest.mark.parametrize("seed", PIXELS)
def test_pixels_are_the_same_on_every_machine(seed):
    image, mask = drawing.make_picture(seed)
    made = tuple(hashlib.sha256(a.tobytes()).hexdigest()[:16] for a in (image, mask))
    assert made == PIXELS[seed]


def test_hash_noise_by_hand():
    v = 5  # position (0, 0) of seed 5
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 0x9E3779B1)):
        v = ((v ^ (v >> shift)) * factor) % 2**32
    noise = drawing.hash_noise(5, 40, 30)
    assert noise[0, 0] == (v >> 8) / 2**24
    assert abs(noise.mean() - 0.5) < 0.03


def test_files_agree_with_each_other(root):
    demo = Folder(root)
    assert demo.class_names == drawing.CLASS_NAMES
    assert len(demo.ids("train")) == 12
    ids = demo.ids("train") + demo.ids("val")
    assert len(set(ids)) == 16
    for image_id, label in zip(ids, demo.labels(ids), strict=True):
        mask = read_mask(demo.mask_path(image_id))
        assert read_rgb(demo.image_path(image_id)).size == mask.shape[::-1]
        assert [*np.flatnonzero(label) + 1] == [*np.unique(mask[mask > 0])]


def test_pictures_hold_one_to_three_objects_of_every_class_in_any_coat(painted):
    shares, numbers, pairs = [], set(), set()
    for seed in range(36):
        painted.clear()
        _, mask = drawing.make_picture(seed)
        present = {drawing.CLASS_NAMES[k - 1] for k in np.unique(mask) if k}
        assert {head for _, head, _ in painted} == present
        numbers.add(len(painted))
        shares.append((mask > 0).mean())
        pairs |= {(head, coat) for _, head, coat in painted}
    assert numbers == {1, 2, 3}
    assert 0.2 < np.mean(shares) < 0.4
    for name in drawing.CLASS_NAMES:
        assert len({coat for head, coat in pairs if head == name}) >= len(drawing.COATS) / 2


def test_a_half_made_folder_is_noticed_and_made_whole(root, tmp_path, monkeypatch):
    folder = shutil.copytree(root, tmp_path / "demo")
    write_json(folder / dataset.NOTE, {"program": dataset.PROGRAM})
    monkeypatch.setattr(dataset.generate, "__defaults__", (1, 1))
    assert len(Demo(folder).ids("train")) == 1
    monkeypatch.setattr(dataset, "generate", None)
    assert len(Demo(folder).ids("train")) == 1  # it is not drawn again


@pytest.mark.parametrize("note", [None, "make_cam"])
def test_the_demo_overwrites_nobodys_pictures(note, tmp_path):
    mine = make_folder(tmp_path / "mine")
    if note:
        write_json(mine / dataset.NOTE, {"program": note})
    before = {path: path.read_bytes() for path in mine.rglob("*.*")}
    with pytest.raises(InputError, match="mine"):
        Demo(mine)
    assert before == {path: path.read_bytes() for path in mine.rglob("*.*")}


def test_of_several_processes_one_draws(root, tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr(distributed, "barrier", lambda: shutil.copytree(root, folder))
    assert len(Demo(folder).ids("train")) == 12


def test_heads_differ_in_pattern_and_colour():
    q, p = np.mgrid[-1:1:41j, -1:1:41j]
    for i, head in enumerate(drawing.HEADS):
        for other in drawing.HEADS[:i]:
            patterns = (drawing.PATTERNS[name](p, q) for name in (head, other))
            assert np.not_equal(*patterns).mean() > 0.1
            marks = (drawing._near(drawing.MARKS[name]) for name in (head, other))
            assert abs(np.subtract(*marks)).max() > 2 * 24  # more than chance moves both of them
    assert set(drawing.PATTERNS) == set(drawing.HEADS)


def test_weights_file_is_small_and_loads():
    state = read_pretrained(Demo.pretrained)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert os.path.getsize(Demo.pretrained) < 4e6
    backbone = build_backbone(Demo.pretrained, None, frozen_stages=2)
    assert backbone.width == pretrain.WIDTH == 16
    assert (backbone.bn1.running_var != 1).all()


def test_scenes_show_creatures_heads_alone_and_bodies_alone(painted):
    kinds, numbers = set(), set()
    for index in range(40):
        painted.clear()
        pictures, labels = pretrain.draw_scenes([f"scene 1 {index}"])
        assert pictures.shape == (1, 3, pretrain.SIDE, pretrain.SIDE)
        present = {name for name, y in zip(pretrain.ATTRIBUTES, labels[0], strict=True) if y}
        assert len(present & set(drawing.GROUNDS)) == 1
        assert present & set(drawing.HEADS) == {head for _, head, _, _ in painted} - {None}
        # A coat counts wherever it shows: on a head as on a body.
        assert present & set(drawing.COATS) == {coat for _, _, coat, _ in painted}
        kinds |= {(head is not None, body) for _, head, _, body in painted}
        numbers.add(len(painted))
    assert kinds == {(True, True), (True, False), (False, True)}
    assert numbers == {0, 1, 2}


def test_pretraining_learns_and_writes(tmp_path, monkeypatch):
    small = {"WIDTH": 4, "PICTURES": 8, "SIDE": 48, "SIDES": (48,), "STEPS": 2, "BATCH": 4}
    for name, value in small.items():
        monkeypatch.setattr(pretrain, name, value)
    pretrain.main(["--out", str(tmp_path / "weights.pth")])
    norm = build_backbone(tmp_path / "weights.pth", None, frozen_stages=2).layer4[2].bn3
    assert (norm.running_var != 1).any()  # the statistics
    assert (norm.weight != 1).any()  # and what learns


@pytest.fixture
def session(root, tmp_path, monkeypatch):
    """What run_demo.sh leaves for the report: maps and labels that are the truth."""
    monkeypatch.chdir(root.parent)
    demo, session = Demo(), tmp_path / "run"
    for image_id in demo.ids("train"):
        mask = read_mask(demo.mask_path(image_id))
        keys = np.unique([0, *mask.ravel()])
        maps = (mask == keys[:, None, None]).astype(np.float32)
        store_maps(session / f"npy/{image_id}.npz", keys, maps)
        store_maps(session / f"cam_only/npy/{image_id}.npz", keys, maps, maps[1:])
        save_label(session / f"pseudo_label/{image_id}.png", mask)
    for miou, (file, _) in enumerate(report.TABLE.values(), 5):
        write_json(session / f"eval_{file}.json", {"miou": miou / 10})
    cam = {"cam": {"miou": 0.4, "threshold": 0.22}}
    write_json(session / "cam_only/eval_cam.json", cam)
    (session / "seconds.txt").write_text("train_sipe 60\nmake_cam 5\n")
    return session


def test_report_writes_table_and_picture(session):
    report.main([str(session)])
    result = json.loads((session / "results.json").read_text())
    assert result["miou"] == {"cam": 0.4, "is_cam": 0.5, "crf": 0.6, "irn": 0.7, "seg": 0.8}
    assert result["seconds"] == {"train_sipe": 60, "make_cam": 5}
    assert read_rgb(session / "demo.png").width == 880  # as wide as a README shows it


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("eval_pseudo_label.json", None),
        ("cam_only/eval_cam.json", b'{"miou": 0.5}'),
        ("seconds.txt", b"a few words here\n"),
        ("npy/train_0000.npz", b"no maps"),
    ],
)
def test_a_missing_or_damaged_file_is_named(name, content, session):
    (session / name).unlink()
    if content is not None:
        (session / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        report.main([str(session)])


def test_a_label_or_map_of_another_picture_is_no_traceback(session):
    save_label(session / "pseudo_label/train_0000.png", np.zeros((9, 9)))
    with pytest.raises(InputError, match="train_0000"):
        report.main([str(session)])


def test_grid_has_every_picture_in_its_place():
    rows = np.arange(10, 20, dtype=np.uint8).reshape(2, 5)
    pictures = [[np.full((40, 80, 3), colour, np.uint8) for colour in row] for row in rows]
    grid = report.draw(pictures, ["rings", "checks"])
    assert grid.shape == (26 + 80 + 4 + 80, 880, 3)
    assert (grid[66::84, 144::164] == rows[..., None]).all()
