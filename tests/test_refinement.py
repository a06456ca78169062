"""Steps 2.1 to 2.4 as a user runs them: on a tiny folder, killed, continued, with bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_programs import Recording

import cam2ir
import eval_seg_labels
import make_seg_labels
import train_irn
from data.base import Dataset
from data.folder import Folder
from data.loaders import AffinityPictures
from net.resnet50_irn import AffinityDisplacementLoss, EdgeDisplacement
from tests.tiny import KEYS
from tool import checkpoint
from tool.crf import crf_inference_label
from tool.errors import InputError
from tool.indexing import PathIndex
from tool.lattice import TooWideError
from tool.maps import write_maps
from tool.metrics import ConfusionMatrix
from tool.pictures import read_mask, save_label, voc_palette
from tool.walk import refine_by_walk

REPOSITORY = Path(__file__).parent.parent
PROGRAMS = {
    "cam2ir": cam2ir,
    "train_irn": train_irn,
    "make_seg_labels": make_seg_labels,
    "eval_seg_labels": eval_seg_labels,
}


@pytest.fixture
def trained(run):
    cam2ir.main(run["cam2ir"])
    train_irn.main(run["train_irn"])
    return run


def session_of(run) -> Path:
    flags = run["cam2ir"]
    return Path(flags[flags.index("--session_name") + 1])


# ------------------------------------------------------------------------------ the whole chain


def test_from_maps_to_pseudo_labels(trained, tiny):
    session = session_of(trained)
    make_seg_labels.main([*trained["make_seg_labels"], "--visualize"])
    eval_seg_labels.main(trained["eval_seg_labels"])
    crf = session / "crf_label"
    refine = ["--refine", "crf", "--sem_seg_out_dir", str(crf)]
    make_seg_labels.main([*trained["make_seg_labels"], *refine])
    eval_seg_labels.main([*trained["eval_seg_labels"], "--label_dir", str(crf)])

    for folder in ("pseudo_label", "crf_label"):
        result = json.loads((session / f"eval_{folder}.json").read_text())
        matrix = ConfusionMatrix(4)
        for image_id in KEYS:
            path = session / folder / f"{image_id}.png"
            label = read_mask(path)
            with Image.open(path) as image, Image.open(tiny / f"images/{image_id}.png") as picture:
                assert image.mode == "P"
                assert image.size == picture.size
                assert image.getpalette()[:9] == voc_palette()[:3].ravel().tolist()
            assert set(np.unique(label)) <= set(KEYS[image_id])
            matrix.update(read_mask(tiny / f"masks/{image_id}.png"), label)
        assert result["miou"] == pytest.approx(matrix.miou())
        assert result["images"] == 6
    # The maps are the masks, and the colours are plain: the CRF keeps nearly every pixel.
    assert json.loads((session / "eval_crf_label.json").read_text())["miou"] > 0.9
    assert len(list((session / "visual_pseudo_label").glob("*.png"))) == 6
    log = (session / f"{session.name}.log").read_text()
    assert log.count("step: ") == 6


def test_walk_label_is_that_of_the_library(trained, tiny):
    """make_seg_labels adds nothing to edge, walk and argmax."""
    session = session_of(trained)
    make_seg_labels.main([*trained["make_seg_labels"], "--beta", "6", "--exp_times", "3"])
    net = EdgeDisplacement(80, width=4).eval()
    checkpoint.load_weights(net, checkpoint.load(session / "ckpt/irn.pth")["net"])
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    pixels = np.asarray(Image.open(tiny / "images/d.png").convert("RGB"))
    img = (torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255 - mean) / std
    with torch.no_grad():
        edge, _ = net(torch.stack([img, img.flip(2)]))
    is_cam = torch.from_numpy(np.load(session / "npy/d.npz")["IS_CAM"])
    index, _ = refine_by_walk(is_cam, edge, img.shape[1:], beta=6, exp_times=3)
    expected = np.array(KEYS["d"])[index.numpy()]
    assert np.array_equal(read_mask(session / "pseudo_label/d.png"), expected)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ------------------------------------------------------------------------------ confident areas


def test_confident_areas_are_the_two_views():
    rng = np.random.default_rng(0)
    img = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
    is_cam = rng.random((3, 20, 24)).astype(np.float32)
    keys, before = np.array([0, 4, 9]), is_cam.copy()
    label = cam2ir.confident_areas(img, cam2ir.views_of(is_cam), keys, 2, 0.7, "cpu")
    assert np.array_equal(is_cam, before)
    halved = is_cam.copy()
    halved[0] /= 2
    objects = crf_inference_label(img, is_cam.argmax(0), 2, 3)
    ground = crf_inference_label(img, halved.argmax(0), 2, 3)
    for y, x in np.ndindex(20, 24):
        expected = keys[objects[y, x]]
        if objects[y, x] == 0 and ground[y, x] > 0:
            expected = 255
        assert label[y, x] == expected
    assert {0, 255} <= set(np.unique(label))


def test_picture_with_background_alone_and_single_pixel():
    for size in ((6, 5), (1, 1)):
        img = np.zeros((*size, 3), np.uint8)
        views = cam2ir.views_of(np.ones((1, *size)))
        label = cam2ir.confident_areas(img, views, np.array([0]), 10, 0.7, "cpu")
        assert label.shape == size
        assert not label.any()


def test_maps_of_zeros_become_background(trained):
    session = session_of(trained)
    shape = np.load(session / "npy/a.npz")["IS_CAM"].shape
    zeros = {"keys": np.array([0, 1]), "IS_CAM": np.zeros(shape, np.float32)}
    write_maps(session / "npy/a.npz", zeros)
    make_seg_labels.main(trained["make_seg_labels"])
    assert not read_mask(session / "pseudo_label/a.png").any()


# ------------------------------------------------------------------------------ training


class OnePicture(Dataset):
    """A picture whose red channel is ten times its label."""

    name, class_names = "one", tuple("abcdefghijk")

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.label = np.repeat(np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4), 32, 0), 32, 1)
        pixels = np.stack([self.label * 10] * 3, -1)
        Image.fromarray(pixels).save(root / "p.png")
        save_label(root / "labels/p.png", self.label)

    def image_path(self, image_id: str) -> Path:
        return self.root / f"{image_id}.png"


def test_label_and_picture_move_together(tmp_path):
    pictures = AffinityPictures(OnePicture(tmp_path), ["p"], tmp_path / "labels", 96, seed=3)
    agree, outside = [], 0
    for epoch in range(20):
        item = pictures[epoch, 0]
        label, (top, left, bottom, right) = item["label"], item["box"]
        assert item["window"].shape == (3, 96, 96)
        assert label.shape == (24, 24)
        assert label.dtype == np.uint8
        centres = np.arange(24) * 4 + 2
        inside = ((centres >= top) & (centres < bottom))[:, None]
        inside = inside & ((centres >= left) & (centres < right))
        assert (label[~inside] == 255).all()
        outside += (~inside).sum()
        seen = item["window"][0][centres[:, None], centres].astype(float) / 10
        agree.append((abs(seen - label)[inside] < 0.5).mean())
    assert outside > 0
    assert np.mean(agree) > 0.85  # the bicubic picture is blurred along its borders


def test_mean_displacement_is_that_of_every_picture(trained, tiny):
    """The released code drops the last partial batch."""
    session = session_of(trained)
    state = checkpoint.load(session / "ckpt/irn.pth")["net"]
    net = EdgeDisplacement(80, width=4).eval()
    checkpoint.load_weights(net, state)
    net.mean_shift.running_mean.zero_()
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    means = []
    for image_id in KEYS:
        pixels = np.asarray(Image.open(tiny / f"images/{image_id}.png").convert("RGB"))
        img = torch.zeros(3, 80, 80)
        normal = (torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255 - mean) / std
        img[:, : pixels.shape[0], : pixels.shape[1]] = normal
        with torch.no_grad():
            means.append(net(img[None].repeat(2, 1, 1, 1))[1].mean((1, 2)))
    stored = state["mean_shift.running_mean"]
    assert torch.allclose(torch.stack(means).mean(0), stored, atol=1e-5)
    assert stored.abs().max() > 1e-3


def test_mean_displacement_in_batches(trained, tiny):
    """As a GPU takes them; the last batch is a part of one."""
    state = checkpoint.load(session_of(trained) / "ckpt/irn.pth")["net"]
    net = AffinityDisplacementLoss(PathIndex(10, (20, 20)), None, width=4)
    checkpoint.load_weights(net, state)
    args = train_irn.parse_arguments(["--num_workers", "0"])
    windows = train_irn.TopLeftWindows(Folder(tiny), list(KEYS), 80)
    for at_once in (4, 6):
        net.mean_shift.running_mean.zero_()
        train_irn.store_mean_displacement(net, windows, args, torch.device("cpu"), at_once)
        stored = state["mean_shift.running_mean"]
        assert torch.allclose(net.mean_shift.running_mean, stored, atol=1e-6)


def test_a_continued_training_gives_the_same_weights(run, monkeypatch):
    cam2ir.main(run["cam2ir"])
    train_irn.main(run["train_irn"])
    final = session_of(run) / "ckpt/irn.pth"
    whole = checkpoint.load(final)["net"]

    real, calls = train_irn.total_loss, []

    def dies(terms):
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(terms)

    monkeypatch.setattr(train_irn, "total_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        train_irn.main([*run["train_irn"], "--save_freq", "2", "--restart"])
    assert not final.exists()
    monkeypatch.undo()
    train_irn.main(run["train_irn"])
    again = checkpoint.load(final)["net"]
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert not torch.equal(whole["fc_edge6.weight"], fresh_edges(run))


def test_edge_only_leaves_the_edges_as_they_are(run):
    """The branches share nothing that learns: bit for bit the same edges and labels."""
    cam2ir.main(run["cam2ir"])
    final, session = session_of(run) / "ckpt/irn.pth", session_of(run)
    results = []
    for flags in ([], ["--edge_only"]):
        train_irn.main([*run["train_irn"], *flags, "--restart"])
        make_seg_labels.main([*run["make_seg_labels"], "--restart"])
        labels = {path.name: path.read_bytes() for path in (session / "pseudo_label").glob("*.png")}
        results.append((checkpoint.load(final)["net"], labels))
    (both, labels), (alone, labels_alone) = results
    for name, value in both.items():
        if not name.startswith(("fc_dp", "mean_shift")):
            assert torch.equal(value, alone[name]), name
    assert not torch.equal(both["fc_dp6.0.weight"], alone["fc_dp6.0.weight"])
    assert not torch.equal(both["fc_edge6.weight"], fresh_edges(run))
    assert labels == labels_alone
    assert len(labels) == 6


def fresh_edges(run) -> torch.Tensor:
    torch.manual_seed(15)
    flags = run["train_irn"]
    index = train_irn.PathIndex(10, (20, 20))
    pretrained = flags[flags.index("--pretrained") + 1]
    return train_irn.AffinityDisplacementLoss(index, pretrained).fc_edge6.weight


# -------------------------------------------------------------------- killed and continued


@pytest.mark.parametrize("program", ["cam2ir", "make_seg_labels"])
def test_a_killed_program_finishes_the_rest(program, run, tiny):
    """60 pictures; it is killed after the first few files, then run again."""
    session = session_of(run)
    rows = (tiny / "labels.csv").read_text()
    for number in range(60):
        name = f"n{number}"
        (tiny / f"images/{name}.png").write_bytes((tiny / "images/d.png").read_bytes())
        (session / f"npy/{name}.npz").write_bytes((session / "npy/d.npz").read_bytes())
        rows += f"{name}.png,red blue\n"
    (tiny / "labels.csv").write_text(rows)
    folder = session / ("ir_label" if program == "cam2ir" else "pseudo_label")
    flags = [*run["cam2ir"], *(["--refine", "crf"] if program != "cam2ir" else [])]
    command = [sys.executable, str(REPOSITORY / f"{program}.py"), *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while len(list(folder.glob("*.png"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.png") if p.name[0] != "."}
    assert 3 <= len(before) < 66
    for name in before:  # whole files only
        assert read_mask(folder / name).shape[1] == 48

    PROGRAMS[program].main(flags)
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.png") if p.name[0] != "."}
    assert len(after) == 66
    assert {name: after[name] for name in before} == before


# ------------------------------------------------------------------------------ flags, bad input


def test_every_flag_is_read(run, monkeypatch):
    unread = {}
    for name, program in PROGRAMS.items():
        read, settings = set(), set()
        parse = program.parse_arguments

        def record(arguments=None, parse=parse, read=read, settings=settings):
            args = Recording(parse(arguments))
            settings |= set(vars(args))
            object.__setattr__(args, "_read", read)
            return args

        monkeypatch.setattr(program, "parse_arguments", record)
        program.main(run[name])
        if name == "make_seg_labels":
            program.main([*run[name], "--refine", "crf", "--restart"])
        unread[name] = settings - read
    assert unread == {name: set() for name in PROGRAMS}


def test_labels_of_other_settings_are_not_mixed(run):
    cam2ir.main(run["cam2ir"])
    with pytest.raises(InputError, match=r"gt_prob 0\.7, not 0\.8.*--restart"):
        cam2ir.main([*run["cam2ir"], "--gt_prob", "0.8"])
    cam2ir.main([*run["cam2ir"], "--gt_prob", "0.8", "--restart"])


def test_missing_confident_area_is_found_before_training(run):
    cam2ir.main(run["cam2ir"])
    (session_of(run) / "ir_label/e.png").unlink()
    with pytest.raises(InputError, match=r"1 of 6 confident areas are missing.*e\.png.*cam2ir"):
        train_irn.main(run["train_irn"])


def test_maps_of_classes_that_do_not_exist(trained):
    path = session_of(trained) / "npy/a.npz"
    with np.load(path) as file:
        maps = dict(file)
    maps["keys"][-1] = 4  # of 4 classes
    write_maps(path, maps)
    for run in (lambda: cam2ir.main([*trained["cam2ir"], "--restart"]), None):
        program = run or (lambda: make_seg_labels.main(trained["make_seg_labels"]))
        with pytest.raises(InputError, match=r"a\.npz has maps of the classes .*below 4"):
            program()


def test_safetensors_serve_as_checkpoint(run):
    cam2ir.main(run["cam2ir"])
    train_irn.main([*run["train_irn"], "--safetensors"])
    labels = []
    for name in ("irn.pth", "irn.safetensors"):
        make_seg_labels.main([*run["make_seg_labels"], "--irn_ckpt", name, "--restart"])
        labels.append(read_mask(session_of(run) / "pseudo_label/d.png"))
    assert np.array_equal(*labels)


def test_maps_of_another_size(run):
    maps = {"keys": np.array([0, 1]), "IS_CAM": np.ones((2, 3, 3), np.float32)}
    write_maps(session_of(run) / "npy/a.npz", maps)
    with pytest.raises(InputError, match=r"maps of a are \(3, 3\)"):
        cam2ir.main(run["cam2ir"])


@pytest.mark.parametrize("program", ["cam2ir", "crf", "irn"])
def test_large_pictures_are_reduced_and_their_labels_enlarged(program, run, tiny):
    """A picture eight times as wide has the label of the picture itself, enlarged."""
    session, module = session_of(run), cam2ir if program == "cam2ir" else make_seg_labels
    folder = session / ("ir_label" if program == "cam2ir" else "pseudo_label")
    flags = run["cam2ir"]
    if program == "irn":
        cam2ir.main(flags)
        train_irn.main(run["train_irn"])
        flags = run["make_seg_labels"]
    flags = [*flags, *(["--refine", "crf"] if program == "crf" else []), "--visualize"]
    img = Image.open(tiny / "images/d.png")
    large = [8 * side for side in img.size]
    img.resize(large, Image.Resampling.NEAREST).save(tiny / "images/a.png")
    with np.load(session / "npy/d.npz") as file:
        maps = {name: file[name] for name in file}
    write_maps(session / "npy/a.npz", {**maps, "size": np.array(large[::-1])})
    most = img.width * img.height
    module.main([*flags, "--max_pixels", str(most)])
    label = read_mask(folder / "a.png")
    assert label.shape == tuple(large[::-1])
    small = label[::8, ::8]
    assert np.array_equal(label, small.repeat(8, 0).repeat(8, 1))
    assert (small == read_mask(folder / "d.png")).mean() > 0.95  # the filter blurs a picture's rim
    assert set(np.unique(label)) > {0}
    drawing = Image.open(session / f"visual_{folder.name}" / "a.png")
    assert drawing.width == large[0]
    assert drawing.height > large[1]  # with a legend below
    log = (session / f"{session.name}.log").read_text()
    assert f"3 pictures of more than {most} pixels were reduced" in log
    with pytest.raises(InputError, match=rf"max_pixels {most}, not 1000000.*--restart"):
        module.main(flags)


def test_label_of_another_size_in_training(run):
    cam2ir.main(run["cam2ir"])
    save_label(session_of(run) / "ir_label/a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"a\.png is 4x4, its picture 48x40"):
        train_irn.main(run["train_irn"])


def test_maps_of_another_checkpoint(run):
    session = session_of(run)
    (session / "npy/settings.json").write_text(json.dumps({"ckpt_sha256": "0" * 64}))
    checkpoint.save(session / "ckpt/final.pth", {"net": {"w": torch.zeros(2)}})
    with pytest.raises(InputError, match=r"made with another file than .*final\.pth"):
        cam2ir.main(run["cam2ir"])


def test_no_irn_and_no_labels(run):
    with pytest.raises(InputError, match=r"no checkpoint .*irn\.pth"):
        make_seg_labels.main(run["make_seg_labels"])
    with pytest.raises(InputError, match="6 of 6 labels are missing"):
        eval_seg_labels.main(run["eval_seg_labels"])


def test_unsure_pixels_are_counted_as_wrong(run, tiny):
    cam2ir.main(run["cam2ir"])
    folder = session_of(run) / "ir_label"
    for image_id in KEYS:
        truth = read_mask(tiny / f"masks/{image_id}.png")
        save_label(folder / f"{image_id}.png", np.full_like(truth, 255))
    eval_seg_labels.main([*run["eval_seg_labels"], "--label_dir", str(folder)])
    result = json.loads((session_of(run) / "eval_ir_label.json").read_text())
    assert result["miou"] == 0
    assert result["unsure_pixels"] > 1000


def test_a_picture_too_wide_for_the_lattice_is_named(run, tiny):
    """pydensecrf's lattice counts in 16 bits, and so does ours."""
    wide = np.zeros((2, 60_000, 3), np.uint8)
    with pytest.raises(TooWideError, match="reduce the picture"):
        crf_inference_label(wide, np.zeros((2, 60_000), np.int64), num_classes=2)
    Image.fromarray(wide).save(tiny / "images/a.png")
    maps = {"keys": np.array([0, 1]), "IS_CAM": np.full((2, 2, 60_000), 0.5, np.float32)}
    write_maps(session_of(run) / "npy/a.npz", maps)
    for program in (cam2ir, make_seg_labels):
        with pytest.raises(InputError, match=r"a\.png: The picture spans too many cells"):
            program.main([*run["cam2ir"], *(["--refine", "crf"] * (program is make_seg_labels))])
