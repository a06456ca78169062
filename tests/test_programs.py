"""Step 1 as a user runs it: programs on a tiny folder, continued runs, bad input, every flag."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import eval_cam
import make_cam
import train_resnet50_SIPE as train
from data.picture_loop import batches_of
from net.resnet50_SIPE import CAM, Net
from tool import checkpoint
from tool.errors import InputError
from tool.maps import read_maps
from tool.metrics import ConfusionMatrix
from tool.pictures import read_mask

REPOSITORY = Path(__file__).parent.parent
LOG_LINE = re.compile(
    r"^step: *\d+/ *\d+ lossCLS:\d+\.\d{4} lossGSC:\d+\.\d{4} imps:\d+\.\d lr: \d+\.\d{4} etc:.+$"
)


def session_of(flags: list[str]) -> Path:
    return Path(flags[len(flags) - flags[::-1].index("--session_name")])


def with_flag(flags: list[str], name: str, value: str) -> list[str]:
    """The last value of a flag counts."""
    return [*flags, name, value]


@pytest.fixture
def trained(flags):
    """The flags, after a training."""
    train.main(flags["train"])
    return flags


# ------------------------------------------------------------------------- the whole of step 1


def test_step_1_from_labels_to_miou(flags, tiny):
    with_validation = [*flags["train"], "--val_freq", "2", "--tf_freq", "2", "--val_list", "train"]
    train.main(with_validation)
    make_cam.main([*flags["make_cam"], "--save_cam", "--visualize", "--scales", "1.0", "0.5"])
    eval_cam.main(flags["eval_cam"])

    session = session_of(flags["train"])
    result = json.loads((session / "eval_cam.json").read_text())
    assert result["images"] == 6
    assert set(result["iou"]) == {"background", "red", "green", "blue"}
    assert result["settings"]["scales"] == [1.0, 0.5]
    matrix = ConfusionMatrix(4)
    for image_id in "abcdef":
        maps = read_maps(session / "npy", image_id)
        with Image.open(tiny / "images" / f"{image_id}.png") as picture:
            assert maps["IS_CAM"].shape[1:] == (picture.height, picture.width)
        assert maps["IS_CAM"].dtype == np.float32
        assert maps["CAM"].shape[0] == len(maps["keys"]) - 1
        prediction = maps["keys"][maps["IS_CAM"].argmax(0)]
        matrix.update(read_mask(tiny / "masks" / f"{image_id}.png"), prediction)
    assert result["miou"] == pytest.approx(matrix.miou())
    assert len(list((session / "visual").glob("*.png"))) == 6 * 2 + 1  # background and classes
    assert (session / "visual/d_blue.png").exists()
    saved = json.loads((session / "args.json").read_text())
    assert set(saved) == {"train_resnet50_SIPE", "make_cam", "eval_cam"}
    assert saved["train_resnet50_SIPE"]["lr"] == 0.01

    lines = (session / f"{session.name}.log").read_text().splitlines()
    steps = [line for line in lines if line.startswith("step:")]
    assert len(steps) == 6
    assert all(LOG_LINE.match(line) for line in steps)
    assert len([x for x in lines if re.match(r"^validation step: +[24] miou: 0\.\d{4}$", x)]) == 2
    assert sum(line.startswith("  iou red: ") for line in lines) == 2  # after steps 2 and 4

    board = EventAccumulator(str(session / "runs"))
    board.Reload()
    assert {"loss/cls", "loss/gsc", "train/learning_rate", "validation/miou"} <= set(
        board.Tags()["scalars"]
    )
    assert {name.split("/")[0] for name in board.Tags()["images"]} == {"CAM", "IS-CAM"}
    assert len(board.Scalars("loss/cls")) == 6


def test_plain_cam_sweep_equals_one_threshold_after_another(trained):
    make_cam.main([*trained["make_cam"], "--save_cam"])
    eval_cam.main(trained["eval_cam"])
    session = session_of(trained["train"])
    found = json.loads((session / "eval_cam.json").read_text())["cam"]
    curve, best = found["miou_by_threshold"], round(100 * found["threshold"])
    root = Path(trained["train"][trained["train"].index("--dataset_root") + 1])
    for index in (0, 13, 50, 100, best):
        matrix = ConfusionMatrix(4)
        for image_id in "abcdef":
            maps = read_maps(session / "npy", image_id)
            cam = maps["CAM"]
            label = np.where(cam.max(0) > index / 100, maps["keys"][1:][cam.argmax(0)], 0)
            matrix.update(read_mask(root / "masks" / f"{image_id}.png"), label)
        assert curve[index] == pytest.approx(matrix.miou())
    assert max(curve) == curve[best] == found["miou"]
    assert list(found["iou"].values()) == pytest.approx(matrix.iou().tolist())


def test_large_pictures_are_reduced_first(trained, tiny, monkeypatch):
    """The maps have the picture's size when read, and the network never sees it."""
    Image.open(tiny / "images/d.png").resize((480, 430)).save(tiny / "images/d.png")
    real, seen = CAM.forward_features, []

    def forward_features(self, img):
        seen.append(img.shape[2] * img.shape[3])
        return real(self, img)

    monkeypatch.setattr(CAM, "forward_features", forward_features)
    flags = [*trained["make_cam"], "--scales", "1.0", "0.5"]
    make_cam.main([*flags, "--max_pixels", "2500", "--visualize"])
    assert max(seen) <= 2600
    session = session_of(trained["train"])
    assert read_maps(session / "npy", "d")["IS_CAM"].shape == (3, 430, 480)
    assert read_maps(session / "npy", "a")["IS_CAM"].shape == (2, 40, 48)
    assert Image.open(session / "visual/d_blue.png").size == (53, 47)
    assert "1 pictures of more than 2500 pixels were reduced" in (session / "run.log").read_text()
    with pytest.raises(InputError, match=r"max_pixels 2500, not 1000000.*--restart"):
        make_cam.main(flags)


def test_published_format_has_the_size_of_the_picture(trained, capsys):
    flags = [*trained["make_cam"], "--save_format", "npy"]
    with pytest.raises(SystemExit):
        make_cam.main([*flags, "--visualize"])
    assert "--visualize" in capsys.readouterr().err
    make_cam.main(flags)
    path = session_of(trained["train"]) / "npy/d.npy"
    maps = np.load(path, allow_pickle=True).item()
    assert sorted(maps) == ["IS_CAM", "keys"]
    assert maps["IS_CAM"].shape == (3, 43, 48)


def test_flags_of_the_maps_reach_network_and_pictures(trained, monkeypatch):
    """And without them, those of the released code."""
    load, networks, scales = make_cam.load_classifier, [], []

    def loaded(*args, **options):
        net = load(*args, **options)
        networks.append((net.seed_feature, net.competitors))
        return net

    class Pictures(make_cam.ScaledPictures):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            scales.append(self.scales)

    monkeypatch.setattr(make_cam, "load_classifier", loaded)
    monkeypatch.setattr(make_cam, "ScaledPictures", Pictures)
    make_cam.main(trained["make_cam"])
    more = ["--seed_feature", "semantic", "--competitors", "present", "--scales", "1", "0.75"]
    make_cam.main([*trained["make_cam"], *more, "--restart"])
    assert networks == [("hierarchical", "all"), ("semantic", "present")]
    assert scales == [(1.0, 0.5, 1.5, 2.0), (1.0, 0.75)]


def test_pictures_in_batches_have_the_maps_of_single_ones(trained, tiny):
    """Of one size alone: the tiny pictures differ by a row each, but for two."""
    shutil.copy(tiny / "images/d.png", tiny / "images/f.png")
    found = []
    for size in ("1", "4"):
        make_cam.main([*trained["make_cam"], "--batch_size", size, "--save_cam", "--restart"])
        folder = session_of(trained["train"]) / "npy"
        found.append({image_id: read_maps(folder, image_id) for image_id in "abcdef"})
    for image_id, one in found[0].items():
        for name in ("keys", "IS_CAM", "CAM"):
            np.testing.assert_allclose(found[1][image_id][name], one[name], atol=1e-5)
    sizes = [{"size": size} for size in (1, 1, 1, 2, 1, 1)]
    assert [len(batch) for batch in batches_of(sizes, 2)] == [2, 1, 1, 2]


# -------------------------------------------------------------------------- stopping, continuing


def test_a_finished_training_is_left_alone_unless_restarted(trained):
    final = session_of(trained["train"]) / "ckpt/final.pth"
    before = final.stat().st_mtime_ns
    train.main(trained["train"])
    assert final.stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"--lr 0\.01, not 0\.5"):
        train.main([*trained["train"], "--lr", "0.5"])
    train.main([*trained["train"], "--lr", "0.02", "--restart"])
    assert final.stat().st_mtime_ns > before


def test_safetensors_hold_the_checkpoint_and_make_the_same_maps(trained):
    folder = session_of(trained["train"]) / "ckpt"
    train.main([*trained["train"], "--safetensors"])  # finished, and still asked for
    content, expected = (checkpoint.load(folder / f"final.{end}") for end in ("safetensors", "pth"))
    for name, value in expected.pop("net").items():
        assert torch.equal(content["net"][name], value)
    assert {name: content[name] for name in expected} == expected
    maps = []
    for name in ("final.pth", "final.safetensors"):
        make_cam.main([*trained["make_cam"], "--ckpt", name, "--restart"])
        maps.append(read_maps(folder.parent / "npy", "d")["IS_CAM"])
    assert np.array_equal(*maps)
    train.main([*trained["train"], "--lr", "0.02", "--restart"])
    assert not (folder / "final.safetensors").exists()  # it would pass for the new weights


def test_weights_that_misfit_name_their_file(trained):
    final = session_of(trained["train"]) / "ckpt/final.pth"
    content = checkpoint.load(final)
    del content["net"]["side2.weight"]
    checkpoint.save(final, content)
    with pytest.raises(InputError, match=r"final\.pth.* do not fit CAM; missing: side2"):
        make_cam.main(trained["make_cam"])
    content["net"]["side2.weight"] = torch.tensor([torch.inf])
    checkpoint.save(final, content)
    with pytest.raises(InputError, match=r"final\.pth: The tensor side2\.weight holds"):
        make_cam.main(trained["make_cam"])


def test_gsc_weight_0_does_not_teach_the_side_layers(flags):
    train.main([*flags["train"], "--gsc_weight", "0", "--wt_dec", "0"])
    net = checkpoint.load(session_of(flags["train"]) / "ckpt/final.pth")["net"]
    torch.manual_seed(15)
    fresh = Net(4, pretrained=flags["train"][flags["train"].index("--pretrained") + 1])
    assert torch.equal(net["side1.weight"], fresh.side1.weight)
    assert not torch.equal(net["classifier.weight"], fresh.classifier.weight)


# ---------------------------------------------------------------------------- published layout


def test_a_released_checkpoint_gives_the_maps_of_our_own(flags, tmp_path):
    """The released files name every tensor up to three times and use other prefixes."""
    torch.manual_seed(1)
    ours = Net(4, pretrained=None, width=4).state_dict()
    heads = ("classifier.weight", "side1.weight", "side2.weight", "side3.weight", "side4.weight")
    released = dict(ours)
    for name, value in ours.items():
        if name in heads:
            released[f"newly_added.{heads.index(name)}.weight"] = value
            continue
        module, rest = name.removeprefix("resnet50.").split(".", 1)
        if module in ("conv1", "bn1"):
            alias = f"stage0.{('conv1', 'bn1').index(module)}.{rest}"
        elif module == "layer1":  # in the released stage1 it follows the max pool
            alias = f"stage1.0.{rest}"
        else:
            alias = f"stage{module[-1]}.{rest}"
        released[alias] = value
        released[alias.replace("stage", "backbone.")] = value
    assert len(released) > 2.5 * len(ours)
    torch.save(released, tmp_path / "released.pth")
    checkpoint.save(tmp_path / "ours.pth", {"net": ours})
    maps = []
    for name in ("released", "ours"):
        run = with_flag(flags["make_cam"], "--session_name", str(tmp_path / name))
        make_cam.main([*run, "--ckpt", str(tmp_path / f"{name}.pth")])
        maps.append(read_maps(tmp_path / name / "npy", "d")["IS_CAM"])
    assert maps[0].max() > 0.9
    assert np.array_equal(*maps)


# ------------------------------------------------------------------------------ flags


def test_published_defaults_of_training():
    args = train.parse_arguments([])
    published = {
        **{"batch_size": 16, "max_epoches": 5, "network": "net.resnet50_SIPE", "lr": 0.1},
        **{"wt_dec": 1e-4, "crop_size": 512, "print_freq": 10, "tf_freq": 500, "val_freq": 500},
        **{"seed": 15, "dataset": "voc", "session_name": "exp", "momentum": 1e-4},
    }
    assert {name: getattr(args, name) for name in published} == published
    assert train.parse_arguments(["--max_epochs", "7"]).max_epoches == 7


# ------------------------------------------------------------------------------ bad input


def test_a_mistake_ends_as_one_sentence_and_status_2(flags, tmp_path):
    command = [sys.executable, str(REPOSITORY / "make_cam.py"), *flags["make_cam"]]
    end = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert end.returncode == 2
    assert "Traceback" not in end.stdout + end.stderr
    assert "There is no checkpoint final.pth" in end.stdout + end.stderr


def test_gt_path_that_lacks_masks(trained, tmp_path):
    make_cam.main(trained["make_cam"])
    with pytest.raises(InputError, match=r"6 of 6 masks are missing.*--gt_path"):
        eval_cam.main([*trained["eval_cam"], "--gt_path", str(tmp_path)])


def test_checkpoint_of_another_class_count(trained, tiny):
    (tiny / "classes.txt").write_text("red\ngreen\nblue\nwhite\n")
    with pytest.raises(InputError, match=r"final\.pth was trained for the classes"):
        make_cam.main(trained["make_cam"])
    final = session_of(trained["train"]) / "ckpt/final.pth"
    checkpoint.save(final, checkpoint.load(final)["net"])  # as other projects do, without names
    with pytest.raises(InputError, match=r"final\.pth: .*classifier"):
        make_cam.main(trained["make_cam"])


def test_pictures_of_any_kind_go_through(flags, tiny):
    """Grey, alpha, CMYK and single-pixel pictures are trained on and mapped."""
    images = tiny / "images"
    Image.open(images / "a.png").convert("L").save(images / "a.png")
    Image.open(images / "b.png").convert("RGBA").save(images / "b.png")
    Image.open(images / "c.png").convert("CMYK").save(images / "c.jpg")
    (images / "c.png").unlink()
    Image.open(images / "d.png").resize((1, 1)).save(images / "d.png")
    train.main(flags["train"])
    make_cam.main(flags["make_cam"])
    maps = read_maps(session_of(flags["train"]) / "npy", "d")
    assert maps["IS_CAM"].shape == (3, 1, 1)
    assert np.isfinite(maps["IS_CAM"]).all()


def test_validation_is_not_tuned_for_pictures_of_every_size(flags, monkeypatch):
    """cudnn.benchmark would measure its algorithms anew for every one; training goes on with it."""
    seen = []
    real = train.progress
    monkeypatch.setattr(
        train,
        "progress",
        lambda items, *more: (
            seen.append(torch.backends.cudnn.benchmark) or item for item in real(items, *more)
        ),
    )
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    train.main(with_flag(flags["train"], "--val_freq", "2"))
    assert seen
    assert not any(seen)
    assert torch.backends.cudnn.benchmark


def test_workers_are_as_many_as_cores(monkeypatch):
    for cores, processes, expected in ((1, 1, 1), (6, 1, 6), (64, 1, 32), (64, 8, 8), (4, 8, 1)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: set(range(n)))
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert make_cam.parse_arguments([]).num_workers == expected
