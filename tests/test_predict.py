"""predict.py: single pictures, by what a checkpoint knows."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import infer_seg
import make_cam
import predict
import train_resnet50_SIPE
import train_seg
from data.predictor import Prediction, Predictor
from net.inputs import IMAGENET_MEAN, IMAGENET_STD
from net.resnet50_SIPE import CAM
from tests import tiny
from tool.errors import InputError
from tool.maps import read_maps
from tool.pictures import read_mask

SEGMENTATION = "ckpt/seg_deeplabv2_resnet101.pth"


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Dataset, session with both trained networks, and the flags of step 1.2 and 3.2."""
    folder = tmp_path_factory.mktemp("networks")
    root, weights = tiny.make_folder(folder / "ds"), tiny.make_weights(folder / "narrow.pth")
    flags = tiny.command_lines(root, folder / "run", weights)
    train_resnet50_SIPE.main(flags["train_resnet50_SIPE"])
    make_cam.main([*flags["make_cam"], "--save_cam"])
    labels = ["--label_dir", str(root / "masks")]
    train_seg.main([*flags["train_seg"], *labels])
    infer_seg.main(flags["infer_seg"])
    return root, folder / "run", flags


def test_maps_are_those_of_make_cam(networks):
    root, session, _ = networks
    predictor = Predictor(session / "ckpt/final.pth", "cpu")
    for image_id, labels in (("a", ["red"]), ("d", ["blue", "red"])):
        prediction = predictor(root / f"images/{image_id}.png", labels)
        stored = read_maps(session / "npy", image_id)
        assert prediction.keys.tolist() == stored["keys"].tolist()
        assert np.allclose(prediction.maps, stored["IS_CAM"], atol=1e-5)
        assert not prediction.guessed
        expected = prediction.keys[prediction.maps.argmax(0)]
        assert np.array_equal(prediction.mask, expected)


def test_a_mask_holds_class_ids(networks, monkeypatch):
    """And not the place among the maps, which is 1 for the third class alone."""
    root, session, _ = networks
    maps = torch.arange(2.0).view(2, 1, 1)
    monkeypatch.setattr("data.predictor.fuse", lambda _, size: maps.expand(2, *size))
    mask = Predictor(session / "ckpt/final.pth", "cpu")(root / "images/c.png", ["blue"]).mask
    assert (mask == 3).all()


def test_masks_are_those_of_infer_seg(networks):
    root, session, _ = networks
    predictor = Predictor(session / SEGMENTATION, "cpu")
    mask = predictor(root / "images/b.png").mask
    assert np.array_equal(mask, read_mask(session / "seg_deeplabv2_resnet101/b.png"))
    only = predictor(root / "images/b.png", ["green"])
    assert set(np.unique(only.mask)) <= {0, 2}
    assert only.keys.tolist() == [0, 2]


def test_checkpoints_tell_what_their_pictures_are(networks):
    _, session, _ = networks
    about = torch.load(session / "ckpt/final.pth", weights_only=True)["input"]
    assert about["long_side"] == [40, 80]
    assert (about["mean"], about["std"]) == (list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert about["bands"] is about["value_range"] is None


def test_pictures_are_read_as_in_training_and_scaled_as_asked(networks, monkeypatch):
    root, session, _ = networks
    predictor = Predictor(session / "ckpt/final.pth", "cpu", scales=[0.5, 1])
    predictor.longest, predictor.bands, predictor.value_range = 24, [3, 2, 1], [0.0, 510.0]
    sizes, forward = [], CAM.forward

    def record(net, pair, label):
        sizes.append(tuple(pair.shape[2:]))
        return forward(net, pair, label)

    monkeypatch.setattr(CAM, "forward", record)
    prediction = predictor(root / "images/a.png", ["red"])
    assert sizes == [(10, 12), (20, 24)]  # of 40 x 48
    rgb = np.array(Image.open(root / "images/a.png"))
    np.testing.assert_allclose(prediction.picture, rgb[..., ::-1] / 2, atol=1)


def test_classes_are_guessed_from_scores_above_the_threshold(networks):
    root, session, _ = networks
    picture = root / "images/a.png"
    scores = Predictor(session / "ckpt/final.pth", "cpu")(picture).scores
    assert list(scores) == ["red", "green", "blue"]
    middle = sorted(scores.values())[1]
    for threshold in (middle - 1e-5, middle + 1e-5, 0.999999):
        prediction = Predictor(session / "ckpt/final.pth", "cpu", threshold=threshold)(picture)
        assert prediction.guessed
        names = [name for name, score in scores.items() if score > threshold]
        assert prediction.names == ["background", *names]
    assert prediction.names == ["background"]  # of a picture that shows nothing
    assert (prediction.mask == 0).all()


def test_scores_are_the_means_of_the_classifier(networks):
    root, session, _ = networks
    predictor = Predictor(session / "ckpt/final.pth", "cpu")
    picture = torch.from_numpy(predictor(root / "images/a.png").picture)
    img = predictor.net.prepare(picture.permute(2, 0, 1)[None])
    with torch.inference_mode():
        expected = predictor.net.forward_features(img)[0].mean((0, 2, 3)).sigmoid()
    assert not predictor.net.training
    scores = predictor(root / "images/a.png").scores
    assert list(scores.values()) == pytest.approx(expected.tolist(), abs=1e-4)


def test_scores_of_a_segmentation_are_the_largest_of_all_pixels(networks):
    root, session, _ = networks
    prediction = Predictor(session / SEGMENTATION, "cpu", refine="none")(root / "images/b.png")
    largest = prediction.maps[1:].max((1, 2)).tolist()
    scores = [prediction.scores[name] for name in prediction.names[1:]]
    assert scores == pytest.approx(largest, abs=1e-5)
    assert largest[0] > prediction.maps[1].mean() + 1e-3


def test_classes_that_are_not_named_are_absent(networks):
    """The network's own answer is green everywhere."""
    root, session, _ = networks
    predictor = Predictor(session / SEGMENTATION, "cpu", refine="none")
    guessed = predictor(root / "images/b.png")
    named = predictor(root / "images/b.png", ["red", "blue"])
    assert named.scores == guessed.scores
    assert named.keys.tolist() == [0, 1, 3]
    np.testing.assert_allclose(named.maps.sum(0), 1, atol=1e-5)
    assert np.array_equal(named.mask, named.keys[named.maps.argmax(0)])
    assert 2 in guessed.mask


def test_large_pictures_are_reduced_and_labels_enlarged(networks, tmp_path):
    root, session, _ = networks
    Image.open(root / "images/a.png").resize((480, 400)).save(tmp_path / "large.png")
    flags = ["--ckpt", str(session / "ckpt/final.pth"), "--labels", "red"]
    flags += ["--out_dir", str(tmp_path / "out"), "--device", "cpu", "--max_pixels", "4800"]
    predict.main([str(tmp_path / "large.png"), *flags])
    mask = read_mask(tmp_path / "out/large_mask.png")
    assert mask.shape == (400, 480)
    with Image.open(tmp_path / "out/large_heat_red.png") as heat:
        assert heat.size == (76, 63)
    about = json.loads((tmp_path / "out/large.json").read_text())
    assert (about["height"], about["width"], about["labels"]) == (400, 480, "given")
    (red,) = about["classes"]
    assert red["area_share"] == pytest.approx((mask == 1).mean(), abs=1e-3)
    names = {path.name for path in (tmp_path / "out").glob("large*")}
    endings = ("_mask.png", "_overlay.png", "_heat_red.png", ".json")
    assert names == {f"large{ending}" for ending in endings}


def test_flags_and_the_network_decide_what_is_there(networks, tmp_path, monkeypatch):
    root, session, _ = networks
    made, ckpt, out = [], tmp_path / "mine.pth", tmp_path / "out/a.json"

    class Noted(Predictor):
        def __init__(self, *args):
            super().__init__(*args)
            made.append((self.threshold, self.scales, self.max_pixels, self.by_crf))

    monkeypatch.setattr(predict, "Predictor", Noted)
    content = torch.load(session / "ckpt/final.pth", weights_only=True)
    flags = ["--threshold", "0.25", "--scales", "0.5", "--max_pixels", "900", "--refine", "crf"]
    flags += ["--ckpt", str(ckpt), "--out_dir", str(tmp_path / "out"), "--device", "cpu"]
    ages = []
    for factor in (1, 1, 2):
        content["net"]["classifier.weight"] *= factor
        torch.save(content, ckpt)
        predict.main([str(root / "images/a.png"), *flags])
        ages.append(out.stat().st_mtime_ns)
    assert made == [(0.25, (0.5,), 900, True)] * 3
    assert ages[0] == ages[1] < ages[2]


def test_boxes_and_shares_are_those_of_the_mask():
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 2
    prediction = Prediction(
        picture=np.zeros((4, 6, 3), np.uint8),
        size=(8, 18),
        names=["background", "cat", "dog"],
        keys=np.array([0, 1, 2]),
        maps=np.zeros((3, 4, 6), np.float32),
        mask=mask,
        scores={"cat": 0.25, "dog": 0.75},
        guessed=True,
    )
    cat, dog = prediction.about()["classes"]
    assert (cat["box"], cat["area_share"]) == (None, 0)
    assert dog == {"name": "dog", "id": 2, "score": 0.75, "box": [6, 2, 15, 6], "area_share": 0.25}
    assert prediction.about()["labels"] == "guessed"


def test_a_folder_is_taken_and_guesses_are_said_aloud(networks, tmp_path, caplog):
    root, session, _ = networks
    flags = ["--session_name", str(session), "--out_dir", str(tmp_path / "out")]
    with caplog.at_level("INFO"):
        predict.main([str(root / "images"), *flags, "--device", "cpu"])
    assert {path.stem for path in (tmp_path / "out").glob("?.json")} == set("abcdef")
    assert "GUESSED" in caplog.text
    caplog.clear()
    with caplog.at_level("INFO"):
        predict.main([str(root / "images/a.png"), *flags, "--device", "cpu", "--labels", "none"])
    assert "guessed" not in caplog.text.lower()
    assert json.loads((tmp_path / "out/a.json").read_text())["classes"] == []


def test_what_is_odd_is_named(networks, tmp_path):
    root, session, _ = networks
    here = ["--session_name", str(session), "--out_dir", str(tmp_path / "out"), "--device", "cpu"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes((root / "images/a.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    picture = str(root / "images/a.png")
    for words, flags in (
        (["empty", "no pictures"], [str(tmp_path / "empty")]),
        (["a.png", "same files"], [picture, str(tmp_path / "a.png")]),
        (["nothing.png"], [str(tmp_path / "nothing.png")]),
        (["broken.png"], [str(tmp_path / "broken.png")]),
        (["purple", "red, green, blue"], [picture, "--labels", "red,purple"]),
        (["nowhere.pth"], [picture, "--ckpt", "nowhere.pth"]),
    ):
        with pytest.raises(InputError) as caught:
            predict.main([*flags, *here])
        assert all(word in str(caught.value) for word in words)
    assert not list((tmp_path / "out").glob("*.png"))
    with pytest.raises(TypeError, match="path"):
        Predictor(session / "ckpt/final.pth", "cpu")(Image.open(picture))


@pytest.mark.parametrize("labels", ["", " , "])
def test_no_name_is_no_answer(labels, capsys):
    with pytest.raises(SystemExit):
        predict.parse_arguments(["a.png", "--labels", labels])
    assert "--labels" in capsys.readouterr().err
    assert predict.parse_arguments(["a.png", "--labels", "none"]).labels == []


def test_files_of_the_user_stay(networks, tmp_path):
    """Photographs, and what lies in a folder that is not ours; another run continues its own."""
    root, session, _ = networks
    photos, mine = tmp_path / "photos", tmp_path / "mine"
    shutil.copytree(root / "images", photos)
    mine.mkdir()
    (mine / "a.json").write_text("mine")
    flags = ["--session_name", str(session), "--device", "cpu", "--out_dir"]
    for folder in (photos, mine):
        with pytest.raises(InputError, match=folder.name):
            predict.main([str(photos), *flags, str(folder)])
    prediction = Predictor(session / "ckpt/final.pth", "cpu")(photos / "a.png")
    for folder in (photos, mine):
        with pytest.raises(InputError, match=folder.name):
            prediction.save(folder, "a")
    for name in "ab":
        prediction.save(str(tmp_path / "new"), name)
    assert (tmp_path / "new/b.json").exists()
    assert (mine / "a.json").read_text() == "mine"
    assert {path.name for path in photos.iterdir()} == {f"{i}.png" for i in "abcdef"}
    out, ages = tmp_path / "out", []
    for more in ([], [], ["--labels", "red"]):
        predict.main([str(photos), *flags, str(out), *more])
        ages.append({path.name: path.stat().st_mtime_ns for path in out.glob("?.json")})
    assert ages[0] == ages[1]
    assert all(ages[2][name] > age for name, age in ages[1].items())


def test_no_module_is_imported_that_a_file_names(networks, tmp_path, monkeypatch):
    root, session, _ = networks
    (tmp_path / "strange.py").write_text("raise SystemExit('code was executed')")
    monkeypatch.syspath_prepend(tmp_path)
    content = torch.load(session / "ckpt/final.pth", weights_only=True)
    content["settings"]["network"] = "strange"
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"odd\.pth .*--network strange"):
        Predictor(tmp_path / "odd.pth", "cpu")
    (tmp_path / "strange.py").write_text("from net.resnet50_SIPE import CAM, Net")
    predictor = Predictor(tmp_path / "odd.pth", "cpu", network="strange")
    own = Predictor(session / "ckpt/final.pth", "cpu")
    picture = root / "images/a.png"
    assert predictor(picture).scores == own(picture).scores


def test_names_are_those_of_the_checkpoint(networks):
    _, session, _ = networks
    for ckpt in ("ckpt/final.pth", SEGMENTATION):
        Predictor(session / ckpt, "cpu", class_names=["red", "green", "blue"])
        with pytest.raises(InputError, match=r"red, green, blue.*--class_names"):
            Predictor(session / ckpt, "cpu", class_names=["cat", "dog", "cow"])


def test_files_without_names_take_published_or_given_ones(networks, tmp_path):
    root, _, _ = networks
    picture = root / "images/a.png"
    for num_classes in (21, 4):
        torch.manual_seed(0)
        torch.save(CAM(num_classes, None, width=4).state_dict(), tmp_path / f"{num_classes}.pth")
    assert Predictor(tmp_path / "21.pth", "cpu").all_names[8] == "cat"
    with pytest.raises(InputError, match="--class_names"):
        Predictor(tmp_path / "4.pth", "cpu")
    named = Predictor(tmp_path / "4.pth", "cpu", class_names=["x", "y", "z"])
    assert named(picture, ["y"]).names == ["background", "y"]


@pytest.mark.parametrize(
    "about",
    [
        3,
        {"long_side": [1]},
        {"long_side": "ab"},
        {"bands": [1, 2]},
        {"bands": [0, 1, 2]},
        {"value_range": [3, 1]},
    ],
)
def test_a_strange_note_of_the_input_is_named(networks, tmp_path, about):
    _, session, _ = networks
    content = torch.load(session / "ckpt/final.pth", weights_only=True)
    torch.save({**content, "input": about}, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"odd\.pth"):
        Predictor(tmp_path / "odd.pth", "cpu")
