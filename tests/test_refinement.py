"""Steps 2.1 to 2.3 as a user runs them: values of labels, bad input."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cam2ir
import make_seg_labels
import train_irn
from data.folder import Folder
from data.loaders import AffinityPictures
from net.inputs import normalise
from net.resnet50_irn import EdgeDisplacement
from tests.tiny import KEYS, store_maps
from tool import checkpoint
from tool.crf import crf_inference_label
from tool.errors import InputError
from tool.maps import read_maps
from tool.pictures import read_mask, save_label
from tool.walk import refine_by_walk

CRF = ["--refine", "crf"]


@pytest.fixture
def session(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def trained(run):
    cam2ir.main(run["cam2ir"])
    train_irn.main(run["train_irn"])
    return run


def normal(path: Path) -> torch.Tensor:
    """Return a picture as the networks of steps 1 and 2 take it, (3, H, W)."""
    return normalise(torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1))


def irn_of(session: Path) -> EdgeDisplacement:
    net = EdgeDisplacement(80, width=4).eval()
    checkpoint.load_weights(net, checkpoint.load(session / "ckpt/irn.pth")["net"])
    return net


# ------------------------------------------------------------------------------ values


def test_published_defaults():
    args = make_seg_labels.parse_arguments([])
    assert (args.beta, args.exp_times, args.crf_iterations, args.gt_prob) == (10, 8, 10, 0.7)
    assert args.irn_crop_size == 512


@pytest.mark.parametrize("fold", ["--fold_bn", "--no-fold_bn"])
def test_walk_label_is_that_of_the_library(trained, session, tiny, fold):
    """make_seg_labels adds nothing to edge, walk and argmax; 2 is the place of class 3."""
    rng = np.random.default_rng(0)
    for image_id, keys in KEYS.items():
        size = read_mask(tiny / f"masks/{image_id}.png").shape
        is_cam = rng.random((len(keys), *size), np.float32)
        store_maps(session / f"npy/{image_id}.npz", np.array(keys), is_cam)
    make_seg_labels.main([*trained["make_seg_labels"], fold, "--beta", "6", "--exp_times", "3"])
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
@pytest.mark.parametrize(("t", "gt_prob"), [(10, 0.7), (2, 0.7), (10, 0.9)])
def test_labels_by_the_crf_are_those_of_the_library(run, session, tiny, t, gt_prob, workers):
    """With the published values, and with others, which give other labels."""
    rng, keys = np.random.default_rng(0), np.array(KEYS["d"])
    img = rng.integers(0, 256, (43, 48, 3), np.uint8)
    Image.fromarray(img).save(tiny / "images/d.png")
    store_maps(session / "npy/d.npz", keys, rng.random((3, 43, 48), np.float32))
    is_cam = read_maps(session / "npy", "d")["IS_CAM"]
    flags = ["--crf_iterations", str(t), "--gt_prob", str(gt_prob), "--num_workers", workers]
    cam2ir.main([*run["cam2ir"], *flags])
    make_seg_labels.main([*run["make_seg_labels"], *CRF, *flags])

    def refined(maps, t, gt_prob):
        return crf_inference_label(img, maps.argmax(0), t, 3, gt_prob)

    objects = refined(is_cam, t, gt_prob)
    assert np.array_equal(read_mask(session / "pseudo_label/d.png"), keys[objects])
    is_cam[0] /= 2
    ground = refined(is_cam, t, gt_prob)
    sure = np.where((objects == 0) & (ground > 0), 255, keys[objects])
    assert np.array_equal(read_mask(session / "ir_label/d.png"), sure)
    is_cam[0] *= 2
    assert np.array_equal(refined(is_cam, 10, 0.7), objects) == ((t, gt_prob) == (10, 0.7))


@pytest.mark.parametrize(
    ("module", "name", "refine"),
    [
        (cam2ir, "ir_label", []),
        (make_seg_labels, "pseudo_label", CRF),
        (make_seg_labels, "pseudo_label", []),
    ],
)
def test_large_pictures_are_reduced_and_their_labels_enlarged(
    module, name, refine, trained, session, tiny
):
    """A picture eight times as wide has the label of the picture itself, enlarged."""
    img = Image.open(tiny / "images/d.png")
    large = [8 * side for side in img.size]
    img.resize(large, Image.Resampling.NEAREST).save(tiny / "images/a.png")
    with np.load(session / "npy/d.npz") as file:
        np.savez(session / "npy/a.npz", **{**file, "size": np.array(large[::-1])})
    flags = ["--visualize", "--restart", "--max_pixels", str(img.width * img.height)]
    module.main([*trained[module.__name__], *refine, *flags])
    label = read_mask(session / name / "a.png")
    small = label[::8, ::8]
    assert np.array_equal(label, small.repeat(8, 0).repeat(8, 1))
    # The filter blurs a picture's rim.
    assert (small == read_mask(session / name / "d.png")).mean() > 0.95
    assert Image.open(session / f"visual_{name}/a.png").width == large[0]


# ------------------------------------------------------------------------------ training of IRN


def test_label_and_picture_move_together(tiny):
    """The red channel of the picture is ten times its label."""
    label = np.arange(12, dtype=np.uint8).reshape(3, 4).repeat(32, 0).repeat(32, 1)
    Image.fromarray(np.stack([label * 10] * 3, -1)).save(tiny / "images/a.png")
    save_label(tiny / "labels/a.png", label)
    folder = Folder(tiny)
    folder.class_names = tuple("abcdefghijk")
    pictures = AffinityPictures(folder, ["a"], 96, 3, tiny / "labels")
    agree, outside = [], 0
    for epoch in range(20):
        item = pictures[epoch, 0]
        label, (top, left, bottom, right) = item["label"], item["box"]
        assert item["window"].shape == (3, 96, 96)
        centres = np.arange(24) * 4 + 2
        inside = ((centres >= top) & (centres < bottom))[:, None]
        inside = inside & ((centres >= left) & (centres < right))
        assert (label[~inside] == 255).all()
        outside += (~inside).sum()
        seen = item["window"][0][centres[:, None], centres].astype(float) / 10
        agree.append((abs(seen - label)[inside] < 0.5).mean())
    assert outside > 0
    assert np.mean(agree) > 0.85  # the bicubic picture is blurred along its borders


def test_large_pictures_are_learnt_from_as_they_are_looked_at(tiny):
    """The red channel of the picture is ten times its label; both have a fourth of the pixels."""
    label = np.arange(12, dtype=np.uint8).reshape(3, 4).repeat(32, 0).repeat(32, 1)
    Image.fromarray(np.stack([label * 10] * 3, -1)).save(tiny / "images/a.png")
    save_label(tiny / "labels/a.png", label)
    folder = Folder(tiny)
    folder.class_names = tuple("abcdefghijk")
    pictures = AffinityPictures(folder, ["a"], 96, 3, tiny / "labels", max_pixels=48 * 64)
    image, smaller = pictures.read_pair(0)
    assert (image.size, smaller.shape) == ((64, 48), (48, 64))
    assert np.array_equal(smaller, label[::2, ::2])
    assert (abs(np.asarray(image)[..., 0] / 10 - smaller) < 0.5).mean() > 0.85


def test_mean_displacement_is_that_of_every_picture(trained, session, tiny):
    """The released code drops the last partial batch; so do no batches of a GPU here."""
    (session / "some.txt").write_text("a\nb\n")
    compare_mean_displacement(session, tiny, KEYS)
    train_irn.main([*trained["train_irn"], "--infer_list", str(session / "some.txt"), "--restart"])
    compare_mean_displacement(session, tiny, "ab")


def compare_mean_displacement(session: Path, tiny: Path, ids: Iterable[str]) -> None:
    stored = checkpoint.load(session / "ckpt/irn.pth")["net"]["mean_shift.running_mean"]
    net, means = irn_of(session), []
    net.mean_shift.running_mean.zero_()
    for image_id in ids:
        img, small = torch.zeros(3, 80, 80), normal(tiny / f"images/{image_id}.png")
        img[:, : small.shape[1], : small.shape[2]] = small
        with torch.no_grad():
            means.append(net(img[None].repeat(2, 1, 1, 1))[1].mean((1, 2)))
    assert torch.allclose(torch.stack(means).mean(0), stored, atol=1e-5)
    assert stored.abs().max() > 1e-3


def test_edge_only_leaves_the_edges_as_they_are(trained, session):
    """The branches share nothing that learns: bit for bit the same edges."""
    both = checkpoint.load(session / "ckpt/irn.pth")["net"]
    train_irn.main([*trained["train_irn"], "--edge_only", "--restart"])
    alone = checkpoint.load(session / "ckpt/irn.pth")["net"]
    for name, value in both.items():
        if not name.startswith(("fc_dp", "mean_shift")):
            assert torch.equal(value, alone[name]), name
    assert not torch.equal(both["fc_dp6.0.weight"], alone["fc_dp6.0.weight"])


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("keys", "size", "words"), [([0, 4], (40, 48), r"a\.npz.*below 4"), ([0, 1], (3, 3), "3, 3")]
)
def test_maps_that_do_not_fit_are_named(run, session, keys, size, words):
    store_maps(session / "npy/a.npz", np.array(keys), np.ones((2, *size), np.float32))
    with pytest.raises(InputError, match=words):
        cam2ir.main(run["cam2ir"])


def test_a_picture_too_wide_for_the_lattice_is_named(run, session, tiny):
    """pydensecrf's lattice counts in 16 bits, and so does ours."""
    Image.new("RGB", (60_000, 2)).save(tiny / "images/a.png")
    small = {"IS_CAM": np.full((2, 600), 0.5, np.float32), "shapes": np.array([[1, 600]])}
    np.savez(session / "npy/a.npz", keys=[0, 1], size=[2, 60_000], **small)
    with pytest.raises(InputError, match=r"a\.png: The picture spans too many cells"):
        cam2ir.main(run["cam2ir"])
