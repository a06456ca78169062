"""Steps 3.1 and 3.2 as a user runs them: trained, continued, shared, packed, with bad input."""

import csv
import io
import json
import re
import shlex
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from processes import together

import eval_seg_labels
import infer_seg
import train_seg
from data import inference
from data.archive import write_archive
from data.folder import Folder
from data.loaders import SegmentationPictures
from data.transforms import VIEWS
from data.voc import VOC
from net import deeplabv1_resnet38
from net.recipes import MODELS
from net.segmentation import build
from net.weights import restore
from tool import checkpoint
from tool.crf import crf_inference
from tool.errors import InputError
from tool.onnx_file import write_onnx
from tool.pictures import read_mask, save_label
from tool.training import seed_step
from tool.writer import read_note

V2, V1 = "deeplabv2_resnet101", "deeplabv1_resnet38"
IDS = "abcdef"
NARROW = {V2: ["--width", "4"], V1: ["--width", "1"]}
PROGRAMS = {"train": train_seg, "infer": infer_seg}


@pytest.fixture
def run(tiny, tmp_path) -> dict[str, list[str]]:
    """Command lines of both programs for DeepLab v2; the masks are the labels."""
    common = ["--dataset", "folder", "--dataset_root", str(tiny), "--device", "cpu"]
    common += ["--session_name", str(tmp_path / "run"), "--num_workers", "0"]
    train = [*common, "--label_dir", str(tiny / "masks"), "--initial", "none", "--print_freq", "1"]
    train += ["--iterations", "3", "--batch_size", "2", "--accumulate", "1", "--crop_size", "33"]
    train += ["--blocks", "1", "1", "1", "1", "--lr", "1e-7", *NARROW[V2]]
    return {"train": train, "infer": [*common, "--no-crf"], "eval": common}


@pytest.fixture
def trained(run):
    train_seg.main(run["train"])
    return run


def of_model(flags: list[str], model: str) -> list[str]:
    """The last value of a flag counts."""
    return [*flags, "--model", model, *(NARROW[model] if "--lr" in flags else [])]


def session_of(flags: list[str]) -> Path:
    return Path(flags[len(flags) - flags[::-1].index("--session_name")])


def final_of(flags: list[str], model: str = V2) -> Path:
    return session_of(flags) / f"ckpt/seg_{model}.pth"


def losses_of(session: Path, model: str = V2) -> list[float]:
    with open(session / f"curves_seg_{model}.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    net = checkpoint.load(path)["net"]
    return {name: value for name, value in net.items() if not name.endswith("tracked")}


# ------------------------------------------------------------------------------ the whole chain


@pytest.mark.parametrize("model", MODELS)
def test_from_labels_to_miou(run, model, tiny):
    train_seg.main(of_model(run["train"], model))
    session = session_of(run["train"])
    infer_seg.main([*of_model(run["infer"], model), "--crf", "--visualize"])
    folder = session / f"seg_{model}"
    eval_seg_labels.main([*run["eval"], "--label_dir", str(folder)])

    for image_id in IDS:
        with (
            Image.open(folder / f"{image_id}.png") as label,
            Image.open(tiny / f"images/{image_id}.png") as picture,
        ):
            assert (label.mode, label.size) == ("P", picture.size)
            assert set(np.unique(np.asarray(label))) <= {0, 1, 2, 3}
    assert len(list((session / f"visual_seg_{model}").glob("*.png"))) == 6
    result = json.loads((session / f"eval_seg_{model}.json").read_text())
    assert result["images"] == 6
    assert result["settings"]["crf_iterations"] == {V2: 10, V1: 1}[model]

    log = (session / f"{session.name}.log").read_text()
    assert log.count("step: ") == 3
    assert "starting from none, fresh: all" in log
    assert f"eval_seg_labels.py --dataset folder --dataset_root {tiny}" in log
    saved = json.loads((session / "args.json").read_text())
    assert saved["train_seg"]["momentum"] == 0.9
    assert saved["train_seg"]["pretrained"] == "none"
    assert saved["train_seg"]["config"]["blocks"] == [1, 1, 1, 1]
    assert saved["infer_seg"]["scales"] == MODELS[model].test.scales
    content = checkpoint.load(final_of(run["train"], model))
    assert content["model"] == model
    assert content["class_names"] == ["background", "red", "green", "blue"]
    assert content["settings"]["weight_decay"] == 5e-4
    assert content["step"] == 3
    assert any((session / f"runs_seg_{model}").iterdir())


def test_it_learns(run, weights):
    """From a torchvision backbone, on plain colours."""
    more = ["--initial", str(weights), "--iterations", "20", "--batch_size", "6", "--blocks"]
    more += ["3", "4", "6", "3", "--optimizer", "adamw", "--lr", "3e-4", "--lr_every", "1"]
    more += ["--crop_size", "49", "--scales", "1"]
    train_seg.main([*run["train"], *more])
    losses = losses_of(session_of(run["train"]))
    assert losses[-1] < 0.7 * min(losses[0], 4 * np.log(4))  # four outputs that know nothing
    assert "'stride_on': 'conv3x3'" in (session_of(run["train"]) / "run.log").read_text()


@pytest.mark.parametrize(("model", "optimizer"), [(V2, "sgd"), (V1, "sgd"), (V2, "adamw")])
def test_a_continued_training_gives_the_same_weights(run, model, optimizer, monkeypatch):
    flags = [*of_model(run["train"], model), "--accumulate", "2", "--optimizer", optimizer]
    train_seg.main(flags)
    whole = weights_of(final_of(flags, model))
    real, calls = train_seg.mean_loss, []

    def dies(sums, counts):
        calls.append(0)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(sums, counts)

    monkeypatch.setattr(train_seg, "mean_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        train_seg.main([*flags, "--save_freq", "1", "--restart"])
    assert not final_of(flags, model).exists()
    monkeypatch.undo()
    train_seg.main(flags)
    assert "continuing" in (session_of(flags) / "run.log").read_text()
    again = weights_of(final_of(flags, model))
    assert whole.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    with pytest.raises(InputError, match=r"--lr 1e-07, not 0\.5"):
        train_seg.main([*flags, "--lr", "0.5"])


@pytest.mark.parametrize("model", MODELS)
def test_weights_do_not_depend_on_the_number_of_processes(run, model, tmp_path):
    """Labels of one picture are unsure throughout, so that shares of a batch weigh differently."""
    labels = Path(run["train"][run["train"].index("--label_dir") + 1])
    save_label(labels / "a.png", np.full_like(read_mask(labels / "a.png"), 255))
    flags = [*of_model(run["train"], model), "--accumulate", "2", "--batch_size", "3"]
    flags += ["--freeze_bn", "--iterations", "2"]
    results = []
    for number in (1, 2):
        session = tmp_path / f"n{number}"
        command = [*flags, "--session_name", str(session)]
        if number == 1:
            train_seg.main(command)
        else:
            together("train_seg", command, number, tmp_path / "printed.txt")
        results.append(weights_of(session / f"ckpt/seg_{model}.pth"))
        results[-1]["losses"] = torch.tensor(losses_of(session, model))
    one, two = results
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=2e-5, atol=2e-6, msg=name)


def test_batch_statistics_of_several_processes_need_gpus(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    args = train_seg.parse_arguments(of_model(run["train"], V1))
    net, _ = train_seg.build(args, 4, None)
    with pytest.raises(InputError, match="--freeze_bn"):
        train_seg.synchronised(args, net, torch.device("cpu"))
    args.freeze_bn = True
    net = train_seg.synchronised(args, net, torch.device("cpu"))
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert net.training


# ------------------------------------------------------------------------------ one step


@pytest.mark.parametrize("model", MODELS)
def test_an_update_is_the_plain_formula(run, model, tiny):
    """Accumulated parts are means over their own known pixels; SGD as written down, in float64."""
    more = ["--accumulate", "2", "--iterations", "1", "--lr", "0.01", "--head_lr", "3"]
    more += ["--freeze_bn"]
    flags = [*of_model(run["train"], model), *more]
    train_seg.main(flags)
    updated = weights_of(final_of(flags, model))

    args = train_seg.parse_arguments(flags)
    torch.manual_seed(15)
    net, _ = train_seg.build(args, 4, None)
    train_seg.synchronised(args, net, torch.device("cpu"))
    order = np.random.default_rng([15, 0]).permutation(6)[:4]
    recipe = (model, 33, args.scales, args.scale_draw, args.resample, args.hsv_shift, 15)
    pictures = SegmentationPictures(Folder(tiny), list(IDS), tiny / "masks", *recipe)
    items = [pictures[0, int(index)] for index in order]
    window, label = (
        torch.from_numpy(np.stack([item[name] for item in items])) for name in ("window", "label")
    )
    seed_step(15, 0)
    terms = []
    for part in (slice(0, 2), slice(2, 4)):
        outputs = net(window[part])
        for logits in outputs if isinstance(outputs, list) else [outputs]:
            h, w = logits.shape[2:]
            small = np.stack(
                [
                    np.asarray(Image.fromarray(x).resize((w, h), Image.Resampling.NEAREST))
                    for x in label[part].numpy()
                ]
            )
            logp = logits.double().log_softmax(1)
            known = np.argwhere(small != 255)
            terms.append(-sum(logp[b, small[b, y, x], y, x] for b, y, x in known) / len(known) / 2)
    sum(terms).backward()
    assert len(terms) == {V2: 8, V1: 2}[model]
    groups = net.trainable_groups(args.lr, args.weight_decay, 3)
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.03, 0.06])
    for group in groups:
        for p in group["params"]:
            name = next(n for n, q in net.named_parameters() if q is p)
            gradient = p.grad + group["weight_decay"] * p.detach()
            expected = p.detach() - group["lr"] * gradient
            torch.testing.assert_close(updated[name], expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("channels", [True, False])
def test_dropout_of_a_share_is_that_of_the_whole(channels):
    dropout = deeplabv1_resnet38.BatchDropout(0.4, channels).train()
    x = torch.ones(5, 40, 6, 7)
    torch.manual_seed(1)
    whole = dropout(x)
    assert whole.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert 0.3 < (whole == 0).float().mean() < 0.5
    assert (whole.flatten(2).std(2) == 0).all() == channels
    for rows in (slice(0, 2), slice(2, 5)):
        dropout.batch_size, dropout.rows = 5, rows
        torch.manual_seed(1)
        assert torch.equal(dropout(x[rows]), whole[rows])
    assert torch.equal(dropout.eval()(x), x)
    assert not dropout.state_dict()


def test_iterations_go_through_permutations_and_parts_are_shared(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(train_seg.rows_of_parts(3, 2).tolist())
    assert shares == [[0, 3], [1, 2, 4, 5]]


# ------------------------------------------------------------------------------ flags


def test_presets_are_the_published_recipes():
    published = {
        V2: {
            **{"iterations": 20000, "batch_size": 5, "accumulate": 2, "lr": 2.5e-4},
            **{"momentum": 0.9, "weight_decay": 5e-4, "crop_size": 321, "lr_every": 10},
            **{"head_lr": 10, "lr_past": 0, "resample": "bilinear", "bn_momentum": None},
            **{"scales": [0.5, 0.75, 1, 1.25, 1.5], "scale_draw": "choice", "hsv_shift": 0},
        },
        V1: {
            **{"iterations": 20000, "batch_size": 10, "accumulate": 1, "lr": 1e-3},
            **{"momentum": 0.9, "weight_decay": 5e-4, "crop_size": 448, "lr_every": 1},
            **{"head_lr": 10, "lr_past": 1, "resample": "bicubic", "bn_momentum": 3e-4},
            **{"scales": [0.5, 1.5], "scale_draw": "uniform", "hsv_shift": 10},
        },
    }
    for model, settings in published.items():
        args = train_seg.parse_arguments(["--model", model])
        assert {name: getattr(args, name) for name in settings} == settings
        assert args.seed == 15
    args = train_seg.parse_arguments(["--model", V1, "--hsv_shift", "0", "--lr", "1"])
    assert (args.hsv_shift, args.lr, args.crop_size) == (0, 1, 448)
    args = infer_seg.parse_arguments(["--model", V1])
    assert (args.mirror, args.crf, len(args.scales), args.bilateral_srgb) == (True, True, 6, 13)
    args = infer_seg.parse_arguments(["--no-mirror", "--scales", "2", "--bilateral_sxy", "5"])
    assert (args.mirror, args.scales, args.bilateral_sxy, args.crf_iterations) == (
        False,
        [2],
        5,
        10,
    )


@pytest.mark.parametrize("program", PROGRAMS.values())
def test_help_tells_story_and_presets(program, capsys):
    with pytest.raises(SystemExit) as end:
        program.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("Reads", "Writes", "Try", "Expect", "(v1)"))


# ------------------------------------------------------------------------------ inference


@pytest.mark.parametrize("model", MODELS)
def test_label_is_that_of_the_library(run, model, tiny):
    """infer_seg adds nothing to scales, mirror, mean, softmax, CRF and argmax."""
    train_seg.main(of_model(run["train"], model))
    scales, crf = ["1.0", "1.5"], {"t": 2, "gaussian_sxy": 2.0, "gaussian_weight": 1.0}
    crf |= {"bilateral_sxy": 9.0, "bilateral_srgb": 7.0, "bilateral_weight": 2.0}
    flags = ["--mirror", "--crf", "--crf_iterations", "2", "--gaussian_sxy", "2"]
    flags += ["--gaussian_weight", "1", "--bilateral_sxy", "9", "--bilateral_srgb", "7"]
    flags += ["--bilateral_weight", "2", "--scales", *scales]
    infer_seg.main([*of_model(run["infer"], model), *flags])
    net = restore(MODELS[model].network, checkpoint.load(final_of(run["train"], model)))
    with Image.open(tiny / "images/d.png") as image:
        picture = image.convert("RGB")
    logits = []
    for scale in (1.0, 1.5):
        x = torch.from_numpy(VIEWS[model](np.array(picture), scale))[None]
        with torch.no_grad():
            for turned in (False, True):
                out = net(x.flip(3) if turned else x)
                size = picture.height, picture.width
                out = F.interpolate(out, size, mode="bilinear", align_corners=model == V1)
                logits.append(out.flip(3) if turned else out)
    probabilities = torch.stack(logits).mean(0)[0].softmax(0)
    expected = crf_inference(np.array(picture), probabilities, **crf).argmax(0).numpy()
    label = read_mask(session_of(run["infer"]) / f"seg_{model}/d.png")
    assert (label == expected).mean() > 0.999
    assert len(np.unique(expected)) > 1
    infer_seg.main([*of_model(run["infer"], model), *flags, "--no-crf", "--restart"])
    label = read_mask(session_of(run["infer"]) / f"seg_{model}/d.png")
    assert (label == probabilities.argmax(0).numpy()).mean() > 0.999
    assert (label != expected).any()


@pytest.mark.parametrize("kind", ["original", "mean_subtracted"])
def test_picture_of_the_crf(kind):
    picture = np.array([[[122, 0, 255], [123, 117, 105], [124, 200, 103]]], np.uint8)
    expected = {
        "original": picture.tolist(),
        # -0.675 and 0.325 become 0; -116.669 becomes -116, which is 140; -1.008 becomes -1.
        "mean_subtracted": [[[0, 140, 150], [0, 0, 0], [1, 83, 255]]],
    }
    assert inference.crf_picture(picture, kind).tolist() == expected[kind]
    assert inference.crf_picture(picture, kind).dtype == np.uint8


def test_picture_of_the_crf_is_a_flag(trained, tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(
        inference, "crf_inference", lambda img, probs, *more: seen.append(img) or probs
    )
    pixels = np.asarray(Image.open(tiny / "images/d.png").convert("RGB"))
    for kind in ("original", "mean_subtracted"):
        flags = [*trained["infer"], "--crf", "--restart", "--crf_picture", kind]
        infer_seg.main(flags)
        assert any(np.array_equal(img, inference.crf_picture(pixels, kind)) for img in seen)
        seen.clear()
    with pytest.raises(InputError, match=r"crf_picture mean_subtracted, not original"):
        infer_seg.main([*trained["infer"], "--crf", "--crf_picture", "original"])


def test_classes_that_are_nowhere_likely_do_not_change_the_crf(monkeypatch):
    """The labels are those of all classes, in both recipes."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    picture = np.array(smooth.resize((48, 40), Image.Resampling.BICUBIC))
    few = F.interpolate(torch.from_numpy(rng.normal(0, 3, (1, 3, 5, 6))).float(), (40, 48))[0]
    logits = torch.from_numpy(rng.normal(-12, 0.5, (21, 40, 48))).float()
    logits[[0, 7, 15]] = few
    logits[3] = few.amax(0) - 5  # which has 0.7 % at the most
    probabilities = logits.softmax(0)
    real, given = inference.crf_inference, []

    def seen(img, probs, *more):
        given.append(len(probs))
        return real(img, probs, *more)

    monkeypatch.setattr(inference, "crf_inference", seen)
    for model in MODELS:
        args = infer_seg.parse_arguments(["--model", model])
        refined = inference.refine(picture, probabilities, args)
        assert refined.shape == probabilities.shape
        monkeypatch.setattr(inference, "ABSENT", -1)
        whole = inference.refine(picture, probabilities, args)
        monkeypatch.undo()
        monkeypatch.setattr(inference, "crf_inference", seen)
        assert torch.equal(refined.argmax(0), whole.argmax(0))
        assert (refined - whole).abs().max() < 1e-3
        assert not torch.equal(refined.argmax(0), probabilities.argmax(0))
    assert given == [4, 21] * 2


def test_files_that_exist_are_kept_and_settings_agree(trained):
    folder = session_of(trained["infer"]) / f"seg_{V2}"
    infer_seg.main(trained["infer"])
    (folder / "b.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    infer_seg.main(trained["infer"])
    assert (folder / "b.png").exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(InputError, match=r"mirror False, not True.*--restart"):
        infer_seg.main([*trained["infer"], "--mirror"])
    infer_seg.main([*trained["infer"], "--mirror", "--restart"])
    assert read_note(folder)["mirror"]


def test_large_pictures_are_reduced_and_their_labels_enlarged(trained, tiny, monkeypatch):
    """A picture of many pixels takes the memory of one of --max_pixels."""
    Image.open(tiny / "images/d.png").resize((480, 430)).save(tiny / "images/d.png")
    sizes = []
    net = MODELS[V2].network
    real = net.predict

    def seen(self, x, size):
        sizes.append((*x.shape[2:], *size))
        return real(self, x, size)

    monkeypatch.setattr(net, "predict", seen)
    infer_seg.main([*trained["infer"], "--max_pixels", "2500", "--crf", "--visualize"])
    assert max(h * w for h, w, *_ in sizes) < 2600
    assert all(a == c and b == d for a, b, c, d in sizes)
    session = session_of(trained["infer"])
    assert read_mask(session / f"seg_{V2}/d.png").shape == (430, 480)
    drawing = Image.open(session / f"visual_seg_{V2}/d.png")
    assert drawing.width == 480
    assert drawing.height >= 430  # a legend stands below where there is a class
    assert "1 pictures of more than 2500 pixels were reduced" in (session / "run.log").read_text()


@pytest.mark.parametrize("model", MODELS)
def test_onnx_gives_the_logits_of_pytorch(model, tiny, tmp_path, caplog):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    small = {"width": 4, "blocks": [1, 1, 1, 1]} if model == "deeplabv2_resnet101" else {"width": 4}
    torch.manual_seed(0)
    net, record = build(MODELS[model].network, 4, "none", **small)
    names = ["background", "red", "green", "blue"]
    content = {"net": net.state_dict(), "model": model, "config": net.config, "record": record}
    checkpoint.save(tmp_path / "net.pth", {**content, "class_names": names})
    flags = ["--dataset", "folder", "--dataset_root", str(tiny), "--device", "cpu"]
    flags += ["--model", model]
    flags += ["--session_name", str(tmp_path / "run"), "--ckpt", str(tmp_path / "net.pth")]
    with caplog.at_level("INFO"):
        infer_seg.main([*flags, "--export", str(tmp_path / "x.onnx"), "--export_size", "65", "81"])
    assert "differ from PyTorch's by" in caplog.text
    assert not list((tmp_path / "run").glob("seg_*"))
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == names
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (1, 3, 65, 81)).astype(np.float32)
    (found,) = session.run(["logits"], {"picture": picture})
    with torch.no_grad():
        x = net.eval().prepare(torch.from_numpy(picture))
        expected = net.predict(x).numpy()
    assert found.shape == (1, 4, 65, 81)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_without_onnx_a_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="pip install onnx"):
        write_onnx(tmp_path / "x.onnx", None, (9, 9), [])


def test_enlarged_argmax_is_the_argmax_of_the_enlarged():
    scores = torch.randn(5, 7, 9)
    scores[3] = scores[1]  # ties
    for size in ((31, 20), (7, 9), (1, 1)):
        expected = F.interpolate(scores[None], size, mode="bilinear")[0].argmax(0)
        assert torch.equal(inference.enlarged_argmax(scores, size), expected)


def test_pictures_of_one_pixel(trained, tiny):
    Image.open(tiny / "images/d.png").resize((1, 1)).save(tiny / "images/d.png")
    infer_seg.main([*trained["infer"], "--crf"])
    assert read_mask(session_of(trained["infer"]) / f"seg_{V2}/d.png").shape == (1, 1)


def test_published_names_without_anything_else(trained, tmp_path):
    torch.save(
        {f"module.{n}": v for n, v in weights_of(final_of(trained["train"])).items()},
        tmp_path / "published.pth",
    )
    labels = []
    for ckpt in (tmp_path / "published.pth", final_of(trained["train"])):
        out = tmp_path / ckpt.stem
        infer_seg.main([*trained["infer"], "--ckpt", str(ckpt), "--out_dir", str(out)])
        labels.append(read_mask(out / "d.png"))
    assert np.array_equal(*labels)


def test_safetensors_serve_as_checkpoint(run):
    train_seg.main([*run["train"], "--safetensors"])
    labels = []
    for ending in ("pth", "safetensors"):
        out = session_of(run["infer"]) / ending
        infer_seg.main([*run["infer"], "--ckpt", f"seg_{V2}.{ending}", "--out_dir", str(out)])
        labels.append(read_mask(out / "d.png"))
    assert np.array_equal(*labels)


def test_weights_of_other_projects_may_be_called_model(trained):
    final = final_of(trained["train"])
    weights = weights_of(final)
    checkpoint.save(final, {"model": weights})
    infer_seg.main(trained["infer"])
    checkpoint.save(final, {"model": weights, "class_names": 3})
    with pytest.raises(InputError, match=rf"seg_{V2}\.pth .*class_names"):
        infer_seg.main([*trained["infer"], "--restart"])


def test_checkpoint_of_other_classes_or_model(trained, tiny):
    with pytest.raises(InputError, match=rf"no checkpoint seg_{V1}"):
        infer_seg.main(of_model(trained["infer"], V1))
    with pytest.raises(InputError, match=rf"is a {V2}\. Give --model {V2}"):
        infer_seg.main([*of_model(trained["infer"], V1), "--ckpt", str(final_of(trained["train"]))])
    (tiny / "classes.txt").write_text("red\ngreen\npink\n")
    with pytest.raises(InputError, match=r"\.pth.*pink.*--dataset"):
        infer_seg.main(trained["infer"])
    content = dict(checkpoint.load(final_of(trained["train"])))
    del content["class_names"]
    checkpoint.save(final_of(trained["train"]), content)
    (tiny / "classes.txt").write_text("red\ngreen\nblue\npink\n")
    with pytest.raises(InputError, match=r"4 classes.*5.*--dataset"):
        infer_seg.main(trained["infer"])
    checkpoint.save(final_of(trained["train"]), {"net": {"w": torch.zeros(1)}})
    with pytest.raises(InputError, match=rf"seg_{V2}\.pth"):
        infer_seg.main(trained["infer"])


def test_printed_command_survives_a_shell(trained, tiny, tmp_path):
    """Paths with spaces, quotes and & are quoted."""
    odd = tiny.rename(tmp_path / "it's 14&15")
    session = session_of(trained["infer"]).rename(tmp_path / "my run")
    out = tmp_path / "a b;c"
    places = ["--dataset_root", str(odd), "--session_name", str(session), "--out_dir", str(out)]
    infer_seg.main([*trained["infer"], *places])
    log = (session / "my run.log").read_text()
    words = shlex.split(re.search(r"^mIoU: (.*)$", log, re.M)[1])
    assert words[:2] == ["python", "eval_seg_labels.py"]
    args = eval_seg_labels.parse_arguments(words[2:])
    assert (args.dataset, args.dataset_root) == ("folder", str(odd))
    assert (args.session_name, args.label_dir) == (str(session), out)
    eval_seg_labels.main(words[2:])
    assert json.loads((session / f"eval_{tmp_path.name}_a b;c.json").read_text())["images"] == 6


# ------------------------------------------------------------------------------ archive


def test_archive_has_the_servers_layout(trained, tiny, tmp_path):
    (tiny / "splits").mkdir()
    (tiny / "splits/test.txt").write_text("e\nb\n")
    (tiny / "labels.csv").unlink()  # a test list has neither labels nor masks
    for mask in (tiny / "masks").iterdir():
        mask.unlink()
    flags = [*trained["infer"], "--infer_list", "test"]
    infer_seg.main([*flags, "--archive", str(tmp_path / "voc.tar.gz")])
    infer_seg.main([*flags, "--archive", str(tmp_path / "voc.zip"), "--archive_comp", "comp5"])
    with tarfile.open(tmp_path / "voc.tar.gz") as tar:
        packed = {member.name: tar.extractfile(member).read() for member in tar}
        about = {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in tar}
    assert about == {(0, 0, "", "", 0)}  # no name of an owner, no time
    folder = "results/VOC2012/Segmentation/comp6_test_cls"
    assert list(packed) == [f"{folder}/e.png", f"{folder}/b.png"]
    for name, content in packed.items():
        image = Image.open(io.BytesIO(content))
        picture = Image.open(tiny / "images" / Path(name).name)
        assert (image.format, image.mode, image.size) == ("PNG", "P", picture.size)
        assert content[24] == 8
        assert np.asarray(image).max() <= 3
    with zipfile.ZipFile(tmp_path / "voc.zip") as archive:
        names = archive.namelist()
    assert names == [f"results/VOC2012/Segmentation/comp5_test_cls/{i}.png" for i in "eb"]
    log = (session_of(trained["infer"]) / "run.log").read_text()
    assert "mIoU: python" not in log
    with pytest.raises(SystemExit):
        infer_seg.main([*flags, "--archive", "voc.rar"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"1 of 6 label pictures are missing.*c\.png"),
        (lambda path: save_label(path, np.zeros((3, 4), np.uint8)), r"c\.png is 4x3, its picture"),
        (lambda path: save_label(path, np.full((42, 48), 9, np.uint8)), r"c\.png has class 9"),
        (
            lambda path: Image.fromarray(np.zeros((42, 48), np.uint8)).save(path),
            r"c\.png is no 8-bit palette PNG",
        ),
        (
            lambda path: Image.fromarray(np.zeros((42, 48), np.uint8), "P").save(path, bits=1),
            r"c\.png is no 8-bit palette PNG",
        ),
    ],
)
def test_archive_of_labels_that_are_not_in_order_is_refused(tiny, tmp_path, spoil, message):
    folder = Folder(tiny)
    spoil(tiny / "masks/c.png")
    with pytest.raises(InputError, match=message):
        write_archive(tmp_path / "voc.tgz", "comp6", folder, list(IDS), tiny / "masks")
    assert not (tmp_path / "voc.tgz").exists()


def test_vocs_test_list_needs_no_labels(tmp_path):
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/test.txt").write_text("2008_000001\n2008_000004\n")
    assert VOC(tmp_path).ids("test") == ["2008_000001", "2008_000004"]


# ------------------------------------------------------------------------------ bad input


def test_labels_that_do_not_fit_are_named(run, tiny):
    masks = tiny / "masks"
    original = (masks / "e.png").read_bytes()
    save_label(masks / "e.png", np.full((44, 48), 4, np.uint8))
    with pytest.raises(InputError, match=r"e\.png has class 4; this dataset has 0 to 3"):
        train_seg.main(run["train"])
    save_label(masks / "e.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(InputError, match=r"e\.png is 6x5, its picture 48x44"):
        train_seg.main(run["train"])
    (masks / "e.png").unlink()
    with pytest.raises(InputError, match=r"1 of 6 labels are missing.*e\.png.*make_seg_labels"):
        train_seg.main(run["train"])
    (masks / "e.png").write_bytes(original)
    with pytest.raises(InputError, match=r"--batch_size 2 times --accumulate 4 exceeds the 6"):
        train_seg.main([*run["train"], "--accumulate", "4"])
    with pytest.raises(InputError, match=r"--stride_on is of DeepLab v2"):
        train_seg.main([*of_model(run["train"], V1), "--stride_on", "reduce"])
    with pytest.raises(InputError, match=r"--bn_momentum is of DeepLab v1"):
        train_seg.main([*run["train"], "--bn_momentum", "0.1"])
    with pytest.raises(InputError, match=r"ilsvrc-cls_rna"):
        train_seg.main([*of_model(run["train"], V1), "--initial", "imagenet"])


def test_how_fast_batch_statistics_are_stored_is_a_flag(run):
    command = [*of_model(run["train"], V1), "--iterations", "1", "--restart"]
    stored = []
    for flags in ([], ["--bn_momentum", "0.6"]):
        train_seg.main([*command, *flags])
        stored.append(checkpoint.load(final_of(command, V1))["net"]["bn_fov.running_mean"])
    assert stored[0].any()
    torch.testing.assert_close(stored[1], stored[0] * (0.6 / 3e-4))


def test_nan_loss_stops(run, monkeypatch):
    real, calls = train_seg.mean_loss, []

    def poisoned(sums, counts):
        calls.append(0)
        return real(sums, counts) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(train_seg, "mean_loss", poisoned)
    with pytest.raises(InputError, match=r"at step 1\b.*lower --lr"):
        train_seg.main([*run["train"], "--save_freq", "1"])
    last = checkpoint.load(session_of(run["train"]) / f"ckpt/seg_{V2}_last.pth")
    assert last["step"] == 1


@pytest.mark.parametrize("model", MODELS)
def test_logits_are_resized_in_float32_under_autocast(run, model):
    args = train_seg.parse_arguments(of_model(run["train"], model))
    net = train_seg.build(args, 4, None)[0].eval()
    x = torch.randn(1, 3, 41, 33)
    coarse = []
    (net.cls_conv if model == V1 else net.base).register_forward_hook(
        lambda module, given, out: coarse.append(out)
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = net.predict(x)
    assert coarse[0].dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    assert len(logits.unique()) > 4 * coarse[0].numel()  # rounded ones would repeat
    if model == V1:
        expected = F.interpolate(
            coarse[0].float(), x.shape[2:], mode="bilinear", align_corners=True
        )
        assert torch.equal(logits, expected)
    assert net.resize(coarse[0].double(), (5, 5)).dtype == torch.float64
