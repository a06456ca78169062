"""The demo: the same pixels everywhere, consistent files, weights that load, their making."""

import csv
import hashlib
import json
import logging
import random
import shutil

import numpy as np
import pytest
import torch

from data.demo import Demo, dataset, drawing, pretrain, report
from data.folder import Folder
from net.resnet50 import FixedBatchNorm, ResNet50, build_backbone, read_pretrained
from tests.tiny import make_folder
from tool import distributed
from tool.errors import InputError
from tool.files import write_json
from tool.maps import write_maps
from tool.pictures import read_mask, read_rgb, save_label

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
    root = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "NUM_TRAIN", 12)
        patch.setattr(dataset, "NUM_VAL", 4)
        dataset.generate(root)
    return root


@pytest.mark.parametrize("seed", PIXELS)
def test_pixels_are_the_same_on_every_machine(seed):
    image, mask = drawing.make_picture(seed)
    assert image.shape == (*mask.shape, 3)
    assert mask.shape in drawing.SIZES
    assert image.dtype == mask.dtype == np.uint8
    made = tuple(hashlib.sha256(a.tobytes()).hexdigest()[:16] for a in (image, mask))
    assert made == PIXELS[seed]


def test_hash_noise_by_hand():
    v = 5  # position (0, 0) of seed 5
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 0x9E3779B1)):
        v = ((v ^ (v >> shift)) * factor) % 2**32
    noise = drawing.hash_noise(5, 40, 30)
    assert noise[0, 0] == (v >> 8) / 2**24
    assert noise.dtype == np.float32
    assert 0 <= noise.min() < noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.03


def test_files_agree_with_each_other(root):
    demo = Folder(root)
    assert demo.class_names == drawing.CLASS_NAMES
    train, val = demo.ids("train"), demo.ids("val")
    assert (len(train), len(val)) == (12, 4)
    assert not set(train) & set(val)
    assert len(list((root / "images").iterdir())) == len(list((root / "masks").iterdir())) == 16
    with open(root / "labels.csv", newline="") as file:
        rows = {row["image"]: row["labels"].split() for row in csv.DictReader(file)}
    for image_id in train + val:
        mask = read_mask(demo.mask_path(image_id))
        image = read_rgb(demo.image_path(image_id))
        assert (image.height, image.width) == mask.shape
        present = [drawing.CLASS_NAMES[k - 1] for k in np.unique(mask) if k]
        assert rows[f"{image_id}.png"] == present


def test_pictures_hold_one_to_three_objects_of_every_class(monkeypatch):
    painted, paint = [], drawing.Creature.paint
    monkeypatch.setattr(
        drawing.Creature, "paint", lambda self, canvas: painted.append(self) or paint(self, canvas)
    )
    seen, numbers, shares = set(), set(), []
    for seed in range(24):
        painted.clear()
        _, mask = drawing.make_picture(seed)
        numbers.add(len(painted))
        seen |= set(np.unique(mask))
        assert {creature.head for creature in painted} == {
            drawing.CLASS_NAMES[k - 1] for k in np.unique(mask) if k
        }
        shares.append((mask > 0).mean())
    assert numbers == {1, 2, 3}
    assert seen == set(range(len(drawing.CLASS_NAMES) + 1))
    assert 0.2 < np.mean(shares) < 0.4


def test_coat_says_nothing_about_the_class(monkeypatch):
    pairs, draw = set(), drawing.Creature.draw
    monkeypatch.setattr(
        drawing.Creature, "draw", lambda *args: pairs.add((args[4], args[5])) or draw(*args)
    )
    monkeypatch.setattr(drawing, "draw_ground", lambda rng, kind, h, w: np.zeros((h, w, 3), "f4"))
    for seed in range(60):
        drawing.make_picture(seed)
    for name in drawing.CLASS_NAMES:
        assert len({coat for head, coat in pairs if head == name}) > len(drawing.COATS) / 2


def test_a_half_made_folder_is_noticed_and_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "NUM_TRAIN", 2)
    monkeypatch.setattr(dataset, "NUM_VAL", 1)
    monkeypatch.setattr(dataset, "make_picture", lambda seed: (None, np.ones((8, 8), int)))
    monkeypatch.setattr(dataset, "save_rgb", lambda path, image: None)
    monkeypatch.setattr(dataset, "save_label", lambda path, mask: None)
    assert not dataset.is_complete(tmp_path / "nothing")
    dataset.generate(tmp_path)
    assert dataset.is_complete(tmp_path)

    def killed(path, mask):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "save_label", killed)
    with pytest.raises(KeyboardInterrupt):
        dataset.generate(tmp_path)
    assert not dataset.is_complete(tmp_path)
    (tmp_path / "made.json").write_text('{"version": 0}')  # of an older version
    assert not dataset.is_complete(tmp_path)


def test_the_demo_overwrites_nobodys_pictures(tmp_path):
    make_folder(tmp_path / "mine")
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*.*")}
    with pytest.raises(InputError, match=r"The demo would overwrite what is in .*mine"):
        Demo(tmp_path / "mine")
    assert before == {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*.*")}


def test_of_several_processes_one_draws(root, tmp_path, monkeypatch):
    folder = tmp_path / "demo"
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr(distributed, "barrier", lambda: shutil.copytree(root, folder))
    assert len(Demo(folder).ids("train")) == 12


def test_heads_are_all_different_and_unknown_ones_an_error():
    at = np.linspace(-1, 1, 41, dtype=np.float32)
    q, p = at[:, None], at[None]
    patterns = [drawing.head_pattern(kind, p + 0 * q, q + 0 * p) for kind in drawing.HEADS]
    for i, one in enumerate(patterns):
        assert set(np.unique(one)) == {0, 1}
        for other in patterns[:i]:
            assert (one != other).mean() > 0.1
    with pytest.raises(ValueError, match="no head 'square'"):
        drawing.head_pattern("square", p, q)


def test_every_head_has_its_own_colour():
    assert set(drawing.MARKS) == set(drawing.HEADS)
    colours = np.array(list(drawing.MARKS.values()))
    apart = np.abs(colours[:, None] - colours).max(2) + 256 * np.eye(len(colours), dtype=int)
    assert apart.min() > 2 * 24  # further than chance moves both of them
    for seed, head in enumerate(drawing.HEADS):
        creature = drawing.Creature.draw(random.Random(seed), 160, 160, 1, head, "red")
        assert np.abs(np.subtract(creature.mark, drawing.MARKS[head])).max() <= 12


def test_heads_are_smaller_than_bodies():
    shares = []
    for seed in range(20):
        creature = drawing.Creature.draw(random.Random(seed), 240, 240, 1, "rings", "red")
        parts = creature.parts(240, 240)
        shares.append((parts.head >= 0.5).sum() / (parts.whole() >= 0.5).sum())
    assert max(shares) < 0.5
    assert 0.3 < np.mean(shares) < 0.42


def test_weights_file_is_small_and_loads():
    assert Demo.pretrained.endswith("demo_resnet50.pth")
    state = read_pretrained(Demo.pretrained)
    assert all(value.dtype == torch.float16 for value in state.values())
    assert all(value.isfinite().all() for value in state.values())
    with open(Demo.pretrained, "rb") as file:
        assert len(file.read()) < 4e6
    backbone = build_backbone(Demo.pretrained, None, frozen_stages=2)
    assert backbone.width == pretrain.WIDTH == 16
    assert (backbone.bn1.running_var != 1).all()


def test_scenes_show_creatures_heads_alone_and_bodies_alone(monkeypatch):
    painted, paint = [], drawing.Creature.paint
    monkeypatch.setattr(
        drawing.Creature, "paint", lambda self, canvas: painted.append(self) or paint(self, canvas)
    )
    scenes = pretrain.Scenes(40, seed=1)
    kinds, numbers = set(), set()
    for index in range(40):
        painted.clear()
        picture, label = scenes[index]
        assert picture.shape == (3, pretrain.SIDE, pretrain.SIDE)
        assert picture.dtype == np.uint8
        present = {name for name, y in zip(pretrain.ATTRIBUTES, label, strict=True) if y}
        assert len(present & set(drawing.GROUNDS)) == 1
        assert present & set(drawing.HEADS) == {creature.head for creature in painted} - {None}
        # A coat counts wherever it shows: on a head as on a body.
        assert len(present & set(drawing.COATS)) == len(painted)
        kinds |= {(creature.head is not None, creature.body) for creature in painted}
        numbers.add(len(painted))
    assert kinds == {(True, True), (True, False), (False, True)}
    assert numbers == {0, 1, 2}
    assert np.array_equal(scenes[39][0], picture)
    assert np.array_equal(scenes[39][1], label)


def test_statistics_are_averages_over_the_batches():
    net = pretrain.with_batch_statistics(ResNet50(4, frozen_stages=-1))
    assert not any(isinstance(module, FixedBatchNorm) for module in net.modules())
    torch.manual_seed(0)
    batches = [torch.randn(2, 3, 32, 32) + shift for shift in (0, 3)]
    pretrain.store_statistics(net, batches)
    outputs = [torch.nn.functional.conv2d(b, net.conv1.weight, None, 2, 3) for b in batches]
    torch.testing.assert_close(
        net.bn1.running_mean, torch.stack([x.mean((0, 2, 3)) for x in outputs]).mean(0)
    )
    torch.testing.assert_close(
        net.bn1.running_var, torch.stack([x.var((0, 2, 3)) for x in outputs]).mean(0)
    )


def test_pretraining_learns_and_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "WIDTH", 4)
    monkeypatch.setattr(pretrain, "SIDE", 48)
    monkeypatch.setattr(pretrain, "SIDES", (48,))
    monkeypatch.setattr(pretrain, "STATISTICS", 2)
    torch.manual_seed(0)
    before = ResNet50(4).state_dict()
    path = tmp_path / "weights.pth"
    small = ["--pictures", "8", "--batch_size", "4", "--steps", "2", "--num_workers", "0"]
    pretrain.main([*small, "--out", str(path), "--device", "cpu"])
    after = read_pretrained(path)
    assert build_backbone(path, None, frozen_stages=2).width == 4
    assert after.keys() == {n for n in before if not n.endswith("num_batches_tracked")}
    assert all(not torch.equal(v.float(), before[n]) for n, v in after.items() if "conv" in n)


def test_learning_rate_rises_then_falls():
    rates = [pretrain.learning_rate(1.0, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert (np.diff(rates[10:]) < 0).all()
    assert 0 < rates[-1] < 0.01


@pytest.fixture
def session(root, tmp_path):
    """What run_demo.sh leaves for the report: maps and labels that are the truth."""
    demo, session = Demo(root), tmp_path / "run"
    for image_id in demo.ids("train"):
        mask = read_mask(demo.mask_path(image_id))
        keys = np.unique([0, *mask.ravel()])
        maps = (mask == keys[:, None, None]).astype(np.float32)
        write_maps(session / f"npy/{image_id}.npz", {"keys": keys, "IS_CAM": maps})
        plain = {"keys": keys, "IS_CAM": maps, "CAM": maps[1:]}
        write_maps(session / f"cam_only/npy/{image_id}.npz", plain)
        save_label(session / f"pseudo_label/{image_id}.png", mask)
    results = {"cam": 0.5, "crf_label": 0.7, "pseudo_label": 0.8, report.SEGMENTATION: 0.9}
    for name, miou in results.items():
        write_json(session / f"eval_{name}.json", {"miou": miou, "images": 12})
    cam = {"miou": 0.5, "cam": {"miou": 0.4, "threshold": 0.22}}
    write_json(session / "cam_only/eval_cam.json", cam)
    (session / "seconds.txt").write_text("train_sipe 60\nmake_cam 5\n")
    return session


def test_report_writes_table_and_picture(root, session, caplog):
    flags = ["--dataset_root", str(root), "--session_name", str(session)]
    flags += ["--plain", str(session / "cam_only")]
    with caplog.at_level(logging.INFO):
        report.main(flags)
    result = json.loads((session / "results.json").read_text())
    assert result["miou"] == {"cam": 0.4, "is_cam": 0.5, "crf": 0.7, "irn": 0.8, "seg": 0.9}
    assert result["seconds"] == {"train_sipe": 60, "make_cam": 5}
    assert "all steps together: 65 s" in caplog.text
    assert "at its best background threshold 0.22" in caplog.text
    width, height = read_rgb(session / "demo.png").size
    assert width == 880  # as wide as a README shows it
    assert height > report.PICTURES * 128
    write_json(session / "cam_only/eval_cam.json", {"miou": 0.5})
    with pytest.raises(InputError, match="--save_cam"):
        report.main(flags)
    (session / "eval_pseudo_label.json").unlink()
    with pytest.raises(InputError):
        report.main(flags)


def test_grid_has_every_picture_in_its_place():
    colours = np.arange(10, 10 + 2 * len(report.COLUMNS)).reshape(2, -1)
    rows = [[np.full((80, 160, 3), colour, np.uint8) for colour in row] for row in colours]
    grid = report.draw(rows, [["rings"], ["checks", "dots"]])
    assert grid.shape == (report.HEAD + 80 + report.GAP + 80, 880, 3)
    for r, c in np.ndindex(colours.shape):
        top, left = report.HEAD + r * (80 + report.GAP), report.MARGIN + c * (160 + report.GAP)
        assert (grid[top : top + 80, left : left + 160] == colours[r, c]).all()
    names = grid[report.HEAD :, : report.MARGIN].min(axis=(1, 2)) < 128
    assert names[:80].any()
    assert names[84:].any()
    assert (grid[:, report.MARGIN - report.GAP : report.MARGIN] == 255).all()
    twice = report.draw([[np.zeros((72, 80, 3), np.uint8)] * 5], [["cross"]])  # made larger
    assert twice.shape == (report.HEAD + 144, 880, 3)
