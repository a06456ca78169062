"""Step 1 as a user runs it: programs on a tiny folder, continued runs, bad input, every flag."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import eval_cam
import make_cam
import predict
import train_resnet50_SIPE as train
from data.picture_loop import batches_of
from data.predictor import Predictor
from net.method import CHOICES
from net.resnet50_SIPE import Net
from tool import checkpoint
from tool.errors import InputError
from tool.maps import read_maps
from tool.metrics import confusion, iou_of, miou_of
from tool.pictures import read_mask

LOG_LINE = re.compile(
    r"^step: *\d+/ *\d+ lossCLS:\d+\.\d{4} lossGSC:\d+\.\d{4} imps:\d+\.\d lr: \d+\.\d{4} etc:.+$"
)


@pytest.fixture
def session(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def trained(flags):
    """The flags, after a training."""
    train.main(flags["train"])
    return flags


# ------------------------------------------------------------------------- the whole of step 1


def test_step_1_from_labels_to_miou(flags, session):
    with_validation = [*flags["train"], "--val_freq", "2", "--val_list", "train"]
    train.main(with_validation)
    make_cam.main([*flags["make_cam"], "--save_cam", "--visualize", "--scales", "1.0", "0.5"])
    eval_cam.main(flags["eval_cam"])

    result = json.loads((session / "eval_cam.json").read_text())
    assert set(result["iou"]) == {"background", "red", "green", "blue"}
    assert result["settings"]["scales"] == [1.0, 0.5]
    assert len(list((session / "visual").glob("*.png"))) == 6 * 2 + 1  # background and classes

    lines = (session / "run.log").read_text().splitlines()
    assert len([line for line in lines if LOG_LINE.match(line)]) == 6
    assert len([x for x in lines if re.match(r"^validation step: +[24] miou: 0\.\d{4}$", x)]) == 2

    board = EventAccumulator(str(session / "runs"))
    board.Reload()
    for name, count in (("loss_cls", 6), ("loss_gsc", 6), ("miou", 2)):
        assert len(board.Scalars(name)) == count


def test_plain_cam_sweep_equals_one_threshold_after_another(trained, tiny, session):
    make_cam.main([*trained["make_cam"], "--save_cam"])
    eval_cam.main(trained["eval_cam"])
    found = json.loads((session / "eval_cam.json").read_text())["cam"]
    curve, best = found["miou_by_threshold"], round(100 * found["threshold"])
    for index in (0, 13, 50, 100, best):
        counts = 0
        for image_id in "abcdef":
            maps = read_maps(session / "npy", image_id)
            cam = maps["CAM"]
            label = np.where(cam.max(0) > index / 100, maps["keys"][1:][cam.argmax(0)], 0)
            counts = counts + confusion(4, read_mask(tiny / f"masks/{image_id}.png"), label)
        assert curve[index] == pytest.approx(miou_of(counts))
    assert max(curve) == curve[best] == found["miou"]
    assert list(found["iou"].values()) == pytest.approx(iou_of(counts).tolist())


def test_pictures_of_any_size_have_maps(trained, tiny, session):
    """Of a large one, which is reduced first, the maps have the picture's size when read."""
    Image.open(tiny / "images/d.png").resize((480, 430)).save(tiny / "images/d.png")
    Image.new("CMYK", (1, 1)).save(tiny / "images/e.jpg")
    (tiny / "images/e.png").unlink()
    flags = [*trained["make_cam"], "--scales", "1.0", "0.5", "--max_pixels", "2500"]
    make_cam.main([*flags, "--visualize"])
    assert np.isfinite(read_maps(session / "npy", "e")["IS_CAM"]).all()
    assert read_maps(session / "npy", "d")["IS_CAM"].shape == (3, 430, 480)
    assert Image.open(session / "visual/d_blue.png").size == (53, 47)
    assert "1 pictures of more than 2500 pixels were reduced" in (session / "run.log").read_text()


def test_flags_of_the_maps_reach_network_and_pictures(trained, session, monkeypatch):
    """And without them, those of the released code."""
    infer, picture_of, used = make_cam.infer, make_cam.scaled_picture, []

    def inferred(net, *given):
        used.append(tuple(getattr(net, name) for name in CHOICES))
        return infer(net, *given)

    def opened(dataset, scales, *rest):
        used.append(tuple(scales))
        return picture_of(dataset, scales, *rest)

    monkeypatch.setattr(make_cam, "infer", inferred)
    monkeypatch.setattr(make_cam, "scaled_picture", opened)
    more = ["--seed_feature", "semantic", "--competitors", "present", "--scales", "1", "0.75"]
    more += ["--background_weight", "0.9"]
    for flags, expected in (
        ([], {("hierarchical", "all", 0.5), (1.0, 0.5, 1.5, 2.0)}),
        (more, {("semantic", "present", 0.9), (1.0, 0.75)}),
    ):
        used.clear()
        make_cam.main([*trained["make_cam"], *flags, "--restart"])
        assert set(used) == expected
        noted = json.loads((session / "npy/settings.json").read_text())
        assert tuple(noted[name] for name in CHOICES) in expected


def test_maps_of_one_scale_are_those_that_the_objects_choose(trained, session):
    flags = [*trained["make_cam"], "--scales", "1", "2", "4"]
    shapes = {}
    for more in ([], ["--fit_scale"]):
        make_cam.main([*flags, *more, "--restart"])
        for path in (session / "npy").glob("*.npz"):
            with np.load(path) as file:
                shapes.setdefault(path.name, []).append(file["shapes"].tolist())
    assert len(shapes) == 6
    for every, (one,) in shapes.values():
        assert one in every


def test_the_weight_of_background_goes_from_training_to_maps_and_to_single_pictures(
    flags, tiny, session
):
    """And a flag of the maps goes before that of the training."""
    single, masks = ["--session_name", str(session), "--out_dir", str(session / "single")], []
    train.main([*flags["train"], "--background_weight", "0.8", "--max_epochs", "1"])
    for given, expected in (([], 0.8), (["--background_weight", "2"], 2.0), ([], 0.8)):
        make_cam.main([*flags["make_cam"], *given, "--scales", "1", "--restart"])
        noted = json.loads((session / "npy/settings.json").read_text())
        predictor = Predictor(session / "ckpt/final.pth", "cpu", scales=[1])
        assert noted["background_weight"] == predictor.net.background_weight == expected
        maps = predictor(tiny / "images/d.png", ["red", "blue"]).maps
        np.testing.assert_allclose(maps, read_maps(session / "npy", "d")["IS_CAM"], atol=1e-5)
        predict.main([str(tiny / "images/d.png"), *single])
        masks.append((session / "single/d_mask.png").stat().st_mtime_ns)
        predict.main([str(tiny / "images/d.png"), *single])
        assert masks[-1] == (session / "single/d_mask.png").stat().st_mtime_ns
    assert len(set(masks)) == 3
    noted["background_weight"] = "much"
    (session / "npy/settings.json").write_text(json.dumps(noted))
    with pytest.raises(InputError, match=r"npy.*background_weight.*make_cam.py"):
        Predictor(session / "ckpt/final.pth", "cpu")


def test_the_weight_of_background_decides_the_seeds_of_training(flags, weights, session):
    found = []
    for weight in ("0", "0.5", "100"):
        train.main([*flags["train"], "--background_weight", weight, "--restart"])
        found.append(checkpoint.load(session / "ckpt/final.pth")["net"]["side1.weight"])
    assert len(torch.stack(found).unique(dim=0)) == 3


def test_pictures_in_batches_have_the_maps_of_single_ones(trained, tiny, session):
    """Of one size alone: the tiny pictures differ by a row each, but for two."""
    shutil.copy(tiny / "images/d.png", tiny / "images/f.png")
    found = []
    for size in ("1", "4"):
        make_cam.main([*trained["make_cam"], "--batch_size", size, "--save_cam", "--restart"])
        found.append({image_id: read_maps(session / "npy", image_id) for image_id in "abcdef"})
    for image_id, one in found[0].items():
        for name in ("keys", "IS_CAM", "CAM"):
            np.testing.assert_allclose(found[1][image_id][name], one[name], atol=1e-5)
    sizes = [{"size": size} for size in (1, 1, 1, 2, 1, 1)]
    assert [len(batch) for batch in batches_of(sizes, 2)] == [2, 1, 1, 2]


def test_safetensors_hold_the_checkpoint_and_make_the_same_maps(trained, session):
    folder = session / "ckpt"
    train.main([*trained["train"], "--safetensors"])  # finished, and still asked for
    maps = []
    for name in ("final.pth", "final.safetensors"):
        make_cam.main([*trained["make_cam"], "--ckpt", name, "--restart"])
        maps.append(read_maps(session / "npy", "d")["IS_CAM"])
    assert np.array_equal(*maps)
    train.main([*trained["train"], "--lr", "0.02", "--restart"])
    assert not (folder / "final.safetensors").exists()  # it would pass for the new weights


def test_gsc_weight_0_does_not_teach_the_side_layers(flags, weights, session):
    train.main([*flags["train"], "--gsc_weight", "0", "--wt_dec", "0"])
    net = checkpoint.load(session / "ckpt/final.pth")["net"]
    torch.manual_seed(15)
    fresh = Net(4, pretrained=weights)
    assert torch.equal(net["side1.weight"], fresh.side1.weight)
    assert not torch.equal(net["classifier.weight"], fresh.classifier.weight)


# ------------------------------------------------------------------------------ flags


def test_published_defaults_of_training():
    args = train.parse_arguments([])
    published = {
        **{"batch_size": 16, "max_epoches": 5, "network": "net.resnet50_SIPE", "lr": 0.1},
        **{"wt_dec": 1e-4, "crop_size": 512, "print_freq": 10, "tf_freq": 500},
        **{"val_freq": 500, "seed": 15, "dataset": "voc", "session_name": "exp", "momentum": 1e-4},
    }
    assert {name: getattr(args, name) for name in published} == published
    assert train.parse_arguments(["--max_epochs", "7"]).max_epoches == 7


def test_gt_path_that_lacks_masks(trained, tmp_path):
    make_cam.main(trained["make_cam"])
    with pytest.raises(InputError, match=r"6 of 6 masks are missing.*--gt_path"):
        eval_cam.main([*trained["eval_cam"], "--gt_path", str(tmp_path)])


def test_workers_are_as_many_as_cores(monkeypatch):
    for cores, processes, expected in ((6, 1, 6), (64, 1, 32), (64, 8, 8), (4, 8, 1)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: set(range(n)))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert make_cam.parse_arguments([]).num_workers == expected
