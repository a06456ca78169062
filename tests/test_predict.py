"""predict.py: single pictures, by what a checkpoint knows."""

import csv
import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import infer_seg
import make_cam
import predict
import train_resnet50_SIPE
import train_seg
from data import picture_loop
from data.predictor import Prediction, Predictor, rgb_of
from net.method import Method
from net.resnet50_SIPE import Net, get_prototype, reactivate
from tests import tiny
from tool.crf import crf_inference_label
from tool.errors import InputError
from tool.maps import fuse, read_maps
from tool.pictures import label_colours, label_overlay, overlay, read_mask

SEGMENTATION = "ckpt/seg_deeplabv2_resnet101.pth"


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A session with both trained networks; the pictures lie beside it."""
    folder = tmp_path_factory.mktemp("networks")
    root, weights = tiny.make_folder(folder / "ds"), tiny.make_weights(folder / "narrow.pth")
    flags = tiny.command_lines(root, folder / "run", weights)
    train_resnet50_SIPE.main(flags["train_resnet50_SIPE"])
    make_cam.main([*flags["make_cam"], "--save_cam"])
    train_seg.main([*flags["train_seg"], "--label_dir", str(root / "masks")])
    infer_seg.main(flags["infer_seg"])
    return folder / "run"


@pytest.fixture
def images(session):
    return session.parent / "ds/images"


@pytest.fixture
def sipe(session):
    return partial(Predictor, session / "ckpt/final.pth", "cpu")


@pytest.fixture
def seg(session):
    return partial(Predictor, session / SEGMENTATION, "cpu", refine="none")


@pytest.fixture
def content(session):
    """What the checkpoint of SIPE holds."""
    return torch.load(session / "ckpt/final.pth", weights_only=True)


def test_maps_are_those_of_make_cam(session, images, sipe):
    predictor = sipe()
    for image_id, labels in (("a", ["red"]), ("d", ["blue", "red"])):
        prediction = predictor(images / f"{image_id}.png", labels)
        stored = read_maps(session / "npy", image_id)
        assert prediction.keys.tolist() == stored["keys"].tolist()
        assert np.allclose(prediction.maps, stored["IS_CAM"], atol=1e-5)
        assert not prediction.guessed


def test_a_mask_holds_class_ids(images, sipe, monkeypatch):
    """And not the place among the maps, which is 1 for the third class alone."""
    maps = torch.arange(2.0).view(2, 1, 1)
    monkeypatch.setattr("data.predictor.fuse", lambda _, size: maps.expand(2, *size))
    mask = sipe()(images / "c.png", ["blue"]).mask
    assert (mask == 3).all()


def test_masks_are_those_of_infer_seg(session, images, seg):
    predictor = seg(refine="crf")
    mask = predictor(images / "b.png").mask
    assert np.array_equal(mask, read_mask(session / "seg_deeplabv2_resnet101/b.png"))


def test_checkpoints_tell_what_their_pictures_are(content):
    about = content["input"]
    assert about["long_side"] == [40, 80]
    assert about["bands"] is about["value_range"] is None


def test_pictures_are_read_as_in_training_and_scaled_as_asked(images, sipe, monkeypatch):
    predictor = sipe(scales=[0.5, 1])
    predictor.longest, predictor.bands, predictor.value_range = 24, [3, 2, 1], [0.0, 510.0]
    sizes, localize = [], Net.localize

    def record(net, pairs, labels):
        sizes.append(tuple(pairs.shape[2:]))
        return localize(net, pairs, labels)

    monkeypatch.setattr(Net, "localize", record)
    prediction = predictor(images / "a.png", ["red"])
    assert sizes == [(10, 12), (20, 24)]  # of 40 x 48
    rgb = np.array(Image.open(images / "a.png"))
    np.testing.assert_allclose(prediction.picture, rgb[..., ::-1] / 2, atol=1)


def test_classes_are_guessed_from_scores_above_the_threshold(images, sipe):
    picture = images / "a.png"
    scores = sipe()(picture).scores
    assert list(scores) == ["red", "green", "blue"]
    middle = sorted(scores.values())[1]
    for threshold in (middle - 1e-5, middle + 1e-5, 0.999999):
        prediction = sipe(threshold=threshold)(picture)
        assert prediction.guessed
        names = [name for name, score in scores.items() if score > threshold]
        assert prediction.names == ["background", *names]
    assert prediction.names == ["background"]  # of a picture that shows nothing
    assert (prediction.mask == 0).all()


def test_scores_are_the_means_of_the_classifier(images, sipe):
    predictor = sipe()
    picture = torch.from_numpy(predictor(images / "a.png").picture)
    img = predictor.net.prepare(picture.permute(2, 0, 1)[None])
    with torch.inference_mode():
        expected = predictor.net.forward_features(img)[0].mean((0, 2, 3)).sigmoid()
    assert not predictor.net.training
    scores = predictor(images / "a.png").scores
    assert list(scores.values()) == pytest.approx(expected.tolist(), abs=1e-4)


def test_scores_of_a_segmentation_are_the_largest_of_all_pixels(images, seg):
    prediction = seg()(images / "b.png")
    largest = prediction.maps[1:].max((1, 2)).tolist()
    scores = [prediction.scores[name] for name in prediction.names[1:]]
    assert scores == pytest.approx(largest, abs=1e-5)
    assert largest[0] > prediction.maps[1].mean() + 1e-3


def test_classes_that_are_not_named_are_absent(images, seg):
    """The network's own answer is green everywhere."""
    predictor = seg()
    guessed = predictor(images / "b.png")
    named = predictor(images / "b.png", ["red", "blue"])
    assert named.scores == guessed.scores
    assert named.keys.tolist() == [0, 1, 3]
    np.testing.assert_allclose(named.maps.sum(0), 1, atol=1e-5)
    assert np.array_equal(named.mask, named.keys[named.maps.argmax(0)])
    assert 2 in guessed.mask


def test_large_pictures_are_reduced_and_labels_enlarged(session, images, tmp_path):
    large, out = tmp_path / "large.png", tmp_path / "out"
    Image.open(images / "a.png").resize((480, 400)).save(large)
    flags = ["--session_name", str(session), "--labels", "red", "--max_pixels", "4800"]
    predict.main([str(large), *flags, "--out_dir", str(out), "--device", "cpu"])
    assert read_mask(out / "large_mask.png").shape == (400, 480)
    assert Image.open(out / "large_heat_red.png").size == (76, 63)


def test_flags_and_the_network_decide_what_is_there(images, content, tmp_path, monkeypatch):
    made, ckpt, out = [], tmp_path / "mine.pth", tmp_path / "out/a.json"

    class Noted(Predictor):
        def __init__(self, *args, **how):
            super().__init__(*args, **how)
            made.append((self.threshold, self.scales, self.max_pixels, self.by_crf))

    monkeypatch.setattr(predict, "Predictor", Noted)
    flags = ["--threshold", "0.25", "--scales", "0.5", "--max_pixels", "900", "--refine", "crf"]
    flags += ["--ckpt", str(ckpt), "--out_dir", str(tmp_path / "out"), "--device", "cpu"]
    ages = []
    for factor in (1, 1, 2):
        content["net"]["classifier.weight"] *= factor
        torch.save(content, ckpt)
        predict.main([str(images / "a.png"), *flags])
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
    assert (cat["box"], cat["area"], cat["area_share"]) == (None, 0, 0)
    assert (dog["name"], dog["id"], dog["score"]) == ("dog", 2, 0.75)
    assert (dog["box"], dog["area"], dog["area_share"]) == ((6, 2, 15, 6), 36, 0.25)
    assert prediction.about()["labels"] == "guessed"


def test_a_folder_is_taken_and_guesses_are_said_aloud(session, images, tmp_path, caplog):
    caplog.set_level("INFO")
    flags = ["--session_name", str(session), "--out_dir", str(tmp_path / "out"), "--device", "cpu"]
    predict.main([str(images), *flags])
    assert {path.stem for path in (tmp_path / "out").glob("?.json")} == set("abcdef")
    assert "GUESSED" in caplog.text
    predict.main([str(images / "a.png"), *flags, "--labels", "none"])
    assert json.loads((tmp_path / "out/a.json").read_text())["classes"] == []
    before = (tmp_path / "out/sources.json").read_text()
    (images / "x.png").write_text("no picture")
    with pytest.raises(InputError, match=r"x\.png"):
        predict.main([str(images), *flags])
    assert (tmp_path / "out/sources.json").read_text() == before


def test_what_is_no_picture_and_what_was_predicted_is_left_out_and_counted(
    session, images, tmp_path, caplog
):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "ab":
        shutil.copy(images / f"{name}.png", photos)
    for name in ("x.mp4", "y.MP4", "notes", "._a.png"):
        (photos / name).write_text("anything")
    flags = ["--session_name", str(session), "--out_dir", str(photos / "out"), "--device", "cpu"]
    for given in ([str(photos)], [str(photos), str(photos / "out")], [str(photos / "a.png")]):
        caplog.clear()
        predict.main([*given, *flags, "--labels", "red"])
        made = {path.stem for path in (photos / "out").glob("*_mask.png")}
        assert made == {"a_mask", "b_mask"}
        if len(given) == 1 and given[0] == str(photos):
            assert "left out: 1 files without an ending, 2 .mp4" in caplog.text
    own = sorted(map(str, (photos / "out").glob("*.png")))
    predict.main([str(photos / "a.png"), *own, *flags, "--labels", "red"])
    assert f"{len(own)} files that programs of this project made" in caplog.text
    with pytest.raises(InputError, match="but those that this project made"):
        predict.main([str(photos / "out"), *flags])
    with open(photos / "out/areas.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for image_id in "ab":
        mask = read_mask(photos / f"out/{image_id}_mask.png")
        found = [(r["class"], int(r["pixels"])) for r in rows if r["picture"] == image_id]
        assert found == [("background", (mask == 0).sum()), ("red", (mask == 1).sum())]


def test_a_picture_may_be_a_path_an_image_an_array_or_a_tensor(images, sipe):
    predictor, path = sipe(), images / "a.png"
    image = Image.open(path)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    kinds = [str(path), image, np.array(image), pixels, pixels / 255, (pixels / 255).half()]
    expected = predictor(path, "red")
    for one in predictor(kinds, ["red"] * len(kinds)):
        assert np.array_equal(one.picture, expected.picture)
        assert np.array_equal(one.maps, expected.maps)
        assert (one.size, one.names, one.guessed) == ((40, 48), ["background", "red"], False)


def test_images_are_turned_and_laid_on_white():
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, 0] = 255
    image = Image.fromarray(pixels)
    assert np.array(rgb_of(image)).min() == 255  # all else is transparent
    image.getexif()[0x0112] = 6
    assert rgb_of(image).size == (2, 3)


NO_PICTURES = {
    "this None": None,
    "a.png": b"a.png",
    "mode=I;16": Image.new("I;16", (4, 4)),
    "mode=F": Image.new("F", (4, 4)),
    r"not uint8 \(4, 4\)": np.zeros((4, 4), np.uint8),
    r"uint8 \(3, 4, 5\)": np.zeros((3, 4, 5), np.uint8),
    r"float64 \(4, 5, 3\)": np.zeros((4, 5, 3)),
    r"not torch.uint8 .*\[4, 5, 3\]": torch.zeros(4, 5, 3, dtype=torch.uint8),
    r"uint8 .*\[1, 3, 4, 5\]": torch.zeros(1, 3, 4, 5, dtype=torch.uint8),
    r"int64 .*\[3, 4, 5\]": torch.zeros(3, 4, 5, dtype=torch.int64),
    r"lie in \[0, 1\]; not torch.float32": torch.full((3, 4, 5), 1.01),
    r"lie in \[0, 1\]; not torch.float64": torch.full((3, 4, 5), np.nan).double(),
    r"uint8 \(0, 5, 3\)": np.zeros((0, 5, 3), np.uint8),
}


@pytest.mark.parametrize("what", NO_PICTURES)
def test_what_is_no_picture_is_said(what):
    with pytest.raises(InputError, match=what):
        rgb_of(NO_PICTURES[what])


@pytest.mark.parametrize("network", ["sipe", "seg"])
def test_pictures_of_one_size_are_computed_together(images, request, monkeypatch, network):
    predictor = request.getfixturevalue(network)(batch_size=2, refine="crf")
    a, b = (np.array(Image.open(images / f"{name}.png")) for name in "ab")
    pictures, labels = [a, b, a[:, ::-1], a[::-1]], ["red", ["green"], None, ["red", "blue"]]
    alone = [predictor(*pair) for pair in zip(pictures, labels, strict=True)]
    sizes, batches_of = [], picture_loop.batches_of

    def record(*arguments):
        for batch in batches_of(*arguments):
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr("data.predictor.batches_of", record)
    together = predictor(pictures, labels)
    assert sizes == [2, 1, 1]  # of 40 rows, and the one of 41
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.picture, other.picture)
        assert (one.names, one.guessed) == (other.names, other.guessed)
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        np.testing.assert_allclose(one.maps, other.maps, atol=1e-4)
    for wrong in (["red"], []):
        with pytest.raises(ValueError, match="argument"):
            predictor(pictures, wrong)


def test_an_explanation_holds_every_step_of_the_method(images, sipe):
    predictor, picture, labels = sipe(scales=[1.0]), images / "d.png", ["blue", "red"]
    made, found = predictor.explain(picture, labels), predictor(picture, labels)
    assert np.array_equal(made.maps, found.maps)
    assert made.scores == found.scores
    refined = crf_inference_label(made.picture, made.maps.argmax(0), 10, 3)
    assert np.array_equal(made.mask, made.keys[refined])
    assert not predictor.by_crf

    stages = ("feature", "cam", "seeds", "prototypes", "IS_cam")
    feature, cam, seeds, prototypes, is_cam = (
        torch.from_numpy(getattr(made, name))[None] for name in stages
    )
    pixels = torch.from_numpy(made.picture).permute(2, 0, 1)[None]
    img = predictor.net.prepare(torch.cat([pixels, pixels.flip(3)]))
    label = torch.tensor([1, 1, 0, 1.0]).view(1, 4, 1, 1)
    with torch.inference_mode():
        expected = [maps[0, [0, 1, 3]] for maps in predictor.net.localize(img, label)]
    assert torch.equal(cam[0], expected[0])
    assert torch.equal(is_cam[0], expected[1])
    torch.testing.assert_close(prototypes, get_prototype(seeds, feature))
    torch.testing.assert_close(is_cam, reactivate(prototypes, feature))
    np.testing.assert_allclose(fuse([is_cam[0]], made.mask.shape), made.maps, atol=1e-5)


def test_similarities_are_those_of_the_pixels_position(images, sipe):
    made = sipe(scales=[1.0]).explain(images / "a.png", "red")
    assert made.feature.shape[1:] == (3, 3)  # of 40 x 48 pixels
    feature = made.feature / np.linalg.norm(made.feature, axis=0)
    for (x, y), (row, column) in {(47, 14): (1, 2), (15, 39): (2, 0)}.items():
        expected = np.einsum("dhw,d->hw", feature, feature[:, row, column]).clip(0)
        np.testing.assert_allclose(made.similarity(x, y), expected, atol=1e-6)


def test_the_figure_has_the_steps_of_every_class(images, sipe):
    made = sipe(scales=[1.0]).explain(images / "d.png", ["blue", "red"])
    panels = np.reshape(made.draw().axes, (3, 4))
    titles = [[axes.get_title() for axes in row] for row in panels]
    assert titles[1] == ["similarity to the cross", *(f"seeds: {name}" for name in made.names)]
    assert [row[2] for row in titles] == ["CAM: red", "seeds: red", "IS-CAM: red"]
    shown = [[axes.images[0].get_array() for axes in row] for row in panels]
    assert np.array_equal(shown[0][0], made.picture)
    assert np.array_equal(shown[2][0], label_overlay(made.picture, made.mask))
    assert np.array_equal(shown[2][3], overlay(made.picture, made.maps[2]))
    lit = shown[1][3].sum(2) > 0.5 * made.picture.sum(2)
    assert lit.mean() == pytest.approx(made.seeds[2].mean(), abs=0.1)
    for axes in panels[:, 3]:
        assert np.allclose(axes.spines["left"].get_edgecolor()[:3], label_colours()[3] / 255)
    for axes, *others in panels[:2]:
        x, y = (line[0] for line in axes.lines[0].get_data())
        assert made.cam[1][y * 3 // made.mask.shape[0], x // 16] == made.cam[1].max()
        assert not others[0].lines
    assert made.draw((5, 7)).axes[0].lines[0].get_data() == ([5], [7])
    at = sipe(scales=[1.0], max_pixels=480).explain(images / "d.png", ["red"], at=(47, 20))
    assert at.mask.shape[1] == 23  # of 48
    assert at.draw().axes[0].lines[0].get_data() == ([22], [9])
    with pytest.raises(InputError, match="--explain_at 48 20"):
        sipe().explain(images / "d.png", ["red"], at=(48, 20))
    assert len(sipe().explain(images / "a.png", []).draw().axes) == 6


def test_networks_without_seeds_are_not_explained(images, sipe, seg):
    foreign = sipe()
    foreign.net = Method(4)
    for predictor, name in ((seg(), "DeepLabV2_ResNet101_MSC"), (foreign, "Method")):
        with pytest.raises(InputError, match=f"{name} has no seeds"):
            predictor.explain(images / "a.png", "red")


def test_the_program_explains_where_asked(session, images, tmp_path):
    flags = ["--session_name", str(session), "--out_dir", str(tmp_path), "--device", "cpu"]
    figure = tmp_path / "a_explain.png"
    predict.main([str(images / "a.png"), *flags, "--labels", "red"])
    assert not figure.exists()
    for flag in (["--explain"], ["--explain_at", "3", "4"]):
        predict.main([str(images / "a.png"), *flags, "--labels", "red", *flag])
        assert Image.open(figure).width > 600
        figure.unlink()
    assert json.loads((tmp_path / "a.json").read_text())["classes"][0]["name"] == "red"


def test_what_is_odd_is_named(session, images, tmp_path):
    here = ["--session_name", str(session), "--out_dir", str(tmp_path / "out"), "--device", "cpu"]
    (tmp_path / "empty").mkdir()
    picture = str(images / "a.png")
    for words, flags in (
        ("empty", [str(tmp_path / "empty")]),
        ("no seeds", [picture, "--ckpt", SEGMENTATION.removeprefix("ckpt/"), "--explain"]),
        ("purple", [picture, "--labels", "red,purple"]),
    ):
        with pytest.raises(InputError, match=words):
            predict.main([*flags, *here])
    assert not (tmp_path / "out").exists()


def test_no_module_is_imported_that_a_file_names(images, sipe, content, tmp_path, monkeypatch):
    (tmp_path / "strange.py").write_text("raise SystemExit('code was executed')")
    monkeypatch.syspath_prepend(tmp_path)
    content["settings"]["network"] = "strange"
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(InputError, match=r"odd\.pth .*--network strange"):
        Predictor(tmp_path / "odd.pth", "cpu")
    (tmp_path / "strange.py").write_text("from net.resnet50_SIPE import Net")
    predictor = Predictor(tmp_path / "odd.pth", "cpu", network="strange")
    assert predictor(images / "a.png").scores == sipe()(images / "a.png").scores


def test_names_are_those_of_the_checkpoint(session):
    for ckpt in ("ckpt/final.pth", SEGMENTATION):
        Predictor(session / ckpt, "cpu", class_names=["red", "green", "blue"])
        with pytest.raises(InputError, match=r"red, green, blue.*--class_names"):
            Predictor(session / ckpt, "cpu", class_names=["cat", "dog", "cow"])


def test_files_without_names_take_published_or_given_ones(images, tmp_path):
    picture = images / "a.png"
    for num_classes in (21, 4):
        torch.manual_seed(0)
        torch.save(Net(num_classes, None, width=4).state_dict(), tmp_path / f"{num_classes}.pth")
    assert Predictor(tmp_path / "21.pth", "cpu").all_names[8] == "cat"
    with pytest.raises(InputError, match="--class_names"):
        Predictor(tmp_path / "4.pth", "cpu")
    named = Predictor(tmp_path / "4.pth", "cpu", class_names=["x", "y", "z"])
    assert named(picture, ["y"]).names == ["background", "y"]
