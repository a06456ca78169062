"""Steps 2.1 to 2.3 as a user runs them: values of labels, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cam2ir
import eval_seg_labels
import make_seg_labels
import train_irn
from data.base import Dataset
from data.folder import Folder
from data.loaders import AffinityPictures
from net.resnet50_irn import AffinityDisplacementLoss, EdgeDisplacement
from tests.tiny import KEYS, store_maps
from tool import checkpoint
from tool.crf import crf_inference_label
from tool.errors import InputError
from tool.lattice import TooWideError
from tool.maps import read_maps
from tool.metrics import ConfusionMatrix
from tool.pictures import read_mask, save_label, voc_palette
from tool.walk import refine_by_walk

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CRF = ["--refine", "crf"]


@pytest.fixture
def session(run) -> Path:
    flags = run["cam2ir"]
    return Path(flags[flags.index("--session_name") + 1])


@pytest.fixture
def trained(run):
    cam2ir.main(run["cam2ir"])
    train_irn.main(run["train_irn"])
    return run


def normal(path: Path) -> torch.Tensor:
    """Return a picture as the networks of steps 1 and 2 take it, (3, H, W)."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    pixels = np.array(Image.open(path).convert("RGB"))
    return (torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - mean) / std


def irn_of(session: Path) -> EdgeDisplacement:
    net = EdgeDisplacement(80, width=4).eval()
    checkpoint.load_weights(net, checkpoint.load(session / "ckpt/irn.pth")["net"])
    return net


# ------------------------------------------------------------------------------ values


def test_from_maps_to_pseudo_labels(trained, session, tiny):
    make_seg_labels.main([*trained["make_seg_labels"], "--visualize"])
    eval_seg_labels.main(trained["eval_seg_labels"])
    crf = session / "crf_label"
    make_seg_labels.main([*trained["make_seg_labels"], *CRF, "--sem_seg_out_dir", str(crf)])
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


def test_published_defaults():
    args = make_seg_labels.parse_arguments([])
    assert (args.beta, args.exp_times, args.crf_iterations, args.gt_prob) == (10, 8, 10, 0.7)
    assert args.irn_crop_size == 512


@pytest.mark.parametrize("fold", ["--fold_bn", "--no-fold_bn"])
def test_walk_label_is_that_of_the_library(trained, session, tiny, monkeypatch, fold):
    """make_seg_labels adds nothing to edge, walk and argmax; 2 is the place of class 3."""
    real, training = EdgeDisplacement.edge, []

    def edge(net, *more):
        training.append(net.training)
        return real(net, *more)

    monkeypatch.setattr(EdgeDisplacement, "edge", edge)
    rng = np.random.default_rng(0)
    for image_id, keys in KEYS.items():
        size = read_mask(tiny / f"masks/{image_id}.png").shape
        is_cam = rng.random((len(keys), *size), np.float32)
        store_maps(session / f"npy/{image_id}.npz", np.array(keys), is_cam)
    make_seg_labels.main([*trained["make_seg_labels"], fold, "--beta", "6", "--exp_times", "3"])
    assert not any(training)
    img = normal(tiny / "images/d.png")
    with torch.no_grad():
        edges, _ = irn_of(session)(torch.stack([img, img.flip(2)]))
    is_cam = torch.from_numpy(read_maps(session / "npy", "d")["IS_CAM"])
    label = read_mask(session / "pseudo_label/d.png")
    expected, usual = (
        np.array(KEYS["d"])[refine_by_walk(is_cam, edges, img.shape[1:], **how)[0].numpy()]
        for how in ({"beta": 6, "exp_times": 3}, {})
    )
    assert np.array_equal(label, expected)
    assert set(np.unique(label)) == set(KEYS["d"])
    assert not np.array_equal(expected, usual)


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("how", [{}, {"t": 2, "gt_prob": 0.9}])
def test_labels_by_the_crf_are_those_of_the_library(run, session, tiny, how, workers):
    """With the flags' own values, and with others, which give other labels."""
    rng = np.random.default_rng(0)
    img = rng.integers(0, 256, (43, 48, 3), np.uint8)
    Image.fromarray(img).save(tiny / "images/d.png")
    store_maps(session / "npy/d.npz", np.array(KEYS["d"]), rng.random((3, 43, 48), np.float32))
    is_cam = read_maps(session / "npy", "d")["IS_CAM"]
    names = {"t": "--crf_iterations", "gt_prob": "--gt_prob"}
    flags = [str(word) for name, value in how.items() for word in (names[name], value)]
    flags += ["--num_workers", workers]
    cam2ir.main([*run["cam2ir"], *flags])
    make_seg_labels.main([*run["make_seg_labels"], *CRF, *flags])
    halved = is_cam.copy()
    halved[0] /= 2
    keys = np.array(KEYS["d"])

    def refined(maps, **settings):
        return crf_inference_label(img, maps.argmax(0), num_classes=3, **settings)

    objects, ground = refined(is_cam, **how), refined(halved, **how)
    assert np.array_equal(read_mask(session / "pseudo_label/d.png"), keys[objects])
    sure = np.where((objects == 0) & (ground > 0), 255, keys[objects])
    assert np.array_equal(read_mask(session / "ir_label/d.png"), sure)
    assert {0, 1, 3, 255} == set(np.unique(sure))
    assert (refined(is_cam, t=10, gt_prob=0.7) == objects).all() == (not how)
    if how:
        for name in how:  # each of them counts
            assert (
                refined(is_cam, **{**how, name: {"t": 10, "gt_prob": 0.7}[name]}) != objects
            ).any()


def test_picture_with_background_alone_and_single_pixel():
    for size in ((6, 5), (1, 1)):
        img = np.zeros((*size, 3), np.uint8)
        views = cam2ir.views_of(np.ones((1, *size)))
        label = cam2ir.confident_areas(img, views, np.array([0]), 10, 0.7, "cpu")
        assert label.shape == size
        assert not label.any()


def test_maps_of_zeros_become_background(trained, session):
    store_maps(session / "npy/a.npz", np.array([0, 1]), np.zeros((2, 40, 48), np.float32))
    make_seg_labels.main(trained["make_seg_labels"])
    assert not read_mask(session / "pseudo_label/a.png").any()


@pytest.mark.parametrize("program", ["cam2ir", "crf", "irn"])
def test_large_pictures_are_reduced_and_their_labels_enlarged(
    program, run, session, tiny, monkeypatch
):
    """A picture eight times as wide has the label of the picture itself, enlarged."""
    module = cam2ir if program == "cam2ir" else make_seg_labels
    folder = session / ("ir_label" if program == "cam2ir" else "pseudo_label")
    flags = run["cam2ir"]
    if program == "irn":
        cam2ir.main(flags)
        train_irn.main(run["train_irn"])
        flags = run["make_seg_labels"]
    flags = [*flags, *(CRF if program == "crf" else []), "--visualize"]
    img = Image.open(tiny / "images/d.png")
    large = [8 * side for side in img.size]
    img.resize(large, Image.Resampling.NEAREST).save(tiny / "images/a.png")
    with np.load(session / "npy/d.npz") as file:
        np.savez(session / "npy/a.npz", **{**file, "size": np.array(large[::-1])})
    most, sizes = img.width * img.height, []

    class Pictures(module.MappedPictures):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            sizes.append(item["picture"].shape)
            return item

    monkeypatch.setattr(module, "MappedPictures", Pictures)
    module.main([*flags, "--max_pixels", str(most)])
    assert sizes[0] == (img.height, img.width, 3)
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


# ------------------------------------------------------------------------------ training of IRN


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


def test_mean_displacement_is_that_of_every_picture(trained, session, tiny):
    """The released code drops the last partial batch; so do no batches of a GPU here."""
    stored = checkpoint.load(session / "ckpt/irn.pth")["net"]["mean_shift.running_mean"]
    net, means = irn_of(session), []
    net.mean_shift.running_mean.zero_()
    for image_id in KEYS:
        img, small = torch.zeros(3, 80, 80), normal(tiny / f"images/{image_id}.png")
        img[:, : small.shape[1], : small.shape[2]] = small
        with torch.no_grad():
            means.append(net(img[None].repeat(2, 1, 1, 1))[1].mean((1, 2)))
    assert torch.allclose(torch.stack(means).mean(0), stored, atol=1e-5)
    assert stored.abs().max() > 1e-3
    learner = AffinityDisplacementLoss(None, width=4)
    checkpoint.load_weights(learner, checkpoint.load(session / "ckpt/irn.pth")["net"])
    windows = train_irn.TopLeftWindows(Folder(tiny), list(KEYS), 80)
    for at_once in (4, 6):
        learner.mean_shift.running_mean.zero_()
        how = (at_once, 0, torch.device("cpu"), "off", torch.channels_last)
        train_irn.store_mean_displacement(learner, windows, *how)
        assert torch.allclose(learner.mean_shift.running_mean, stored, atol=1e-6)
    (session / "one.txt").write_text("a\n")
    one = ["--infer_list", str(session / "one.txt"), "--restart"]
    train_irn.main([*trained["train_irn"], *one])
    stored = checkpoint.load(session / "ckpt/irn.pth")["net"]["mean_shift.running_mean"]
    assert torch.allclose(means[0], stored, atol=1e-5)


def test_edge_only_leaves_the_edges_as_they_are(trained, session):
    """The branches share nothing that learns: bit for bit the same edges and labels."""
    results = []
    for flags in ([], ["--edge_only"]):
        train_irn.main([*trained["train_irn"], *flags, "--restart"])
        make_seg_labels.main([*trained["make_seg_labels"], "--restart"])
        labels = {path.name: path.read_bytes() for path in (session / "pseudo_label").glob("*.png")}
        results.append((checkpoint.load(session / "ckpt/irn.pth")["net"], labels))
    (both, labels), (alone, labels_alone) = results
    for name, value in both.items():
        if not name.startswith(("fc_dp", "mean_shift")):
            assert torch.equal(value, alone[name]), name
    assert not torch.equal(both["fc_dp6.0.weight"], alone["fc_dp6.0.weight"])
    assert len(labels) == 6
    assert labels == labels_alone


# ------------------------------------------------------------------------------ bad input


def test_what_is_missing_is_named_before_hours_are_spent(run, session):
    with pytest.raises(InputError, match=r"irn\.pth"):
        make_seg_labels.main(run["make_seg_labels"])
    with pytest.raises(InputError, match="6 of 6 labels are missing"):
        eval_seg_labels.main(run["eval_seg_labels"])
    cam2ir.main(run["cam2ir"])
    (session / "ir_label/e.png").unlink()
    with pytest.raises(InputError, match=r"1 of 6 labels are missing.*e\.png.*cam2ir"):
        train_irn.main(run["train_irn"])


@pytest.mark.parametrize(
    ("keys", "size", "words"), [([0, 4], (40, 48), r"a\.npz.*below 4"), ([0, 1], (3, 3), "3, 3")]
)
def test_maps_that_do_not_fit_are_named(run, session, keys, size, words):
    store_maps(session / "npy/a.npz", np.array(keys), np.ones((2, *size), np.float32))
    for program in (cam2ir, make_seg_labels):
        with pytest.raises(InputError, match=words):
            program.main([*run["cam2ir"], *(CRF if program is make_seg_labels else [])])


def test_label_of_another_size_in_training(run, session):
    cam2ir.main(run["cam2ir"])
    save_label(session / "ir_label/a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"a\.png is 4x4, its picture 48x40"):
        train_irn.main(run["train_irn"])


def test_unsure_pixels_are_counted_as_wrong(run, session, tiny):
    cam2ir.main(run["cam2ir"])
    folder = session / "ir_label"
    for image_id in KEYS:
        truth = read_mask(tiny / f"masks/{image_id}.png")
        save_label(folder / f"{image_id}.png", np.full_like(truth, 255))
    eval_seg_labels.main([*run["eval_seg_labels"], "--label_dir", str(folder)])
    result = json.loads((session / "eval_ir_label.json").read_text())
    assert result["miou"] == 0
    assert result["unsure_pixels"] > 1000


def test_a_picture_too_wide_for_the_lattice_is_named(run, session, tiny):
    """pydensecrf's lattice counts in 16 bits, and so does ours."""
    wide = np.zeros((2, 60_000, 3), np.uint8)
    with pytest.raises(TooWideError, match="reduce the picture"):
        crf_inference_label(wide, np.zeros((2, 60_000), np.int64), num_classes=2)
    Image.fromarray(wide).save(tiny / "images/a.png")
    small = {"IS_CAM": np.full((2, 600), 0.5, np.float32), "shapes": np.array([[1, 600]])}
    np.savez(session / "npy/a.npz", keys=[0, 1], size=[2, 60_000], **small)
    for program in (cam2ir, make_seg_labels):
        with pytest.raises(InputError, match=r"a\.png: The picture spans too many cells"):
            program.main([*run["cam2ir"], *(CRF if program is make_seg_labels else [])])
