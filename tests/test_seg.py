"""Steps 3.1 and 3.2 as a user runs them: trained, continued, shared, packed, with bad input."""

import json
import tarfile
import zipfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

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
from data.folder import Folder
from data.loaders import Schedule, SegmentationPictures
from data.transforms import VIEWS
from net.recipes import MODELS
from net.resnet50_SIPE import Net
from net.segmentation import build
from net.weights import restore
from tests.pretend_gpu import pretend_gpus
from tests.tiny import KEYS, command_lines
from tool import checkpoint, distributed
from tool.crf import Kernels, crf_inference
from tool.errors import InputError
from tool.pictures import read_mask, save_label
from tool.reader import read_table

V2, V1 = MODELS
CPU = torch.device("cpu")


@pytest.fixture
def session(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def run(tiny, session) -> dict[str, list[str]]:
    """Command lines of both programs for DeepLab v2; the masks are the labels."""
    lines = command_lines(tiny, session, Path())
    train = [*lines["train_seg"], "--label_dir", str(tiny / "masks"), "--iterations", "3"]
    infer = [*lines["infer_seg"], "--no-crf"]
    return {"train": train, "infer": infer, "eval": lines["eval_seg_labels"]}


@pytest.fixture
def trained(run):
    train_seg.main(run["train"])
    return run


def final_of(session: Path, model: str = V2) -> Path:
    return session / f"ckpt/seg_{model}.pth"


def weights_of(session: Path, model: str = V2) -> dict[str, torch.Tensor]:
    return checkpoint.load(final_of(session, model))["net"]


def losses_of(session: Path, model: str = V2) -> list[float]:
    rows = read_table(session / f"curves_seg_{model}.csv", "", ["loss_ce"])
    return [float(row["loss_ce"]) for row in rows]


# ------------------------------------------------------------------------------ the whole chain


@pytest.mark.parametrize("model", MODELS)
def test_from_labels_to_miou(run, session, model, tiny):
    train_seg.main([*run["train"], "--model", model])
    infer_seg.main([*run["infer"], "--model", model, "--crf", "--visualize"])
    folder = session / f"seg_{model}"
    eval_seg_labels.main([*run["eval"], "--label_dir", str(folder)])
    for image_id in KEYS:
        label = Image.open(folder / f"{image_id}.png")
        picture = Image.open(tiny / f"images/{image_id}.png")
        assert (label.mode, label.size) == ("P", picture.size)
    assert len(list((session / f"visual_seg_{model}").glob("*.png"))) == 6
    result = json.loads((session / f"eval_seg_{model}.json").read_text())
    assert result["images"] == 6
    assert result["settings"]["crf_iterations"] == MODELS[model].test.crf_iterations
    content = checkpoint.load(final_of(session, model))
    assert content["config"]["blocks"] == [1, 1, 1, 1]
    assert content["class_names"] == ["background", "red", "green", "blue"]
    assert (content["model"], content["step"]) == (model, 3)


@pytest.mark.parametrize(("model", "optimizer"), [(V1, "sgd"), (V2, "adamw")])
def test_a_continued_training_gives_the_same_weights(run, session, model, optimizer, monkeypatch):
    flags = [*run["train"], "--model", model, "--accumulate", "2", "--optimizer", optimizer]
    train_seg.main(flags)
    whole = weights_of(session, model)
    real, calls = train_seg.mean_loss, []

    def dies(sums, counts):
        calls.append(0)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(sums, counts)

    monkeypatch.setattr(train_seg, "mean_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        train_seg.main([*flags, "--save_freq", "1", "--restart"])
    monkeypatch.undo()
    assert not final_of(session, model).exists()
    train_seg.main(flags)
    assert "continuing" in (session / "run.log").read_text()
    torch.testing.assert_close(weights_of(session, model), whole, rtol=0, atol=0)


@pytest.mark.parametrize("model", MODELS)
def test_weights_do_not_depend_on_the_number_of_processes(run, model, tiny, tmp_path):
    """Labels of one picture are unsure throughout, so that shares of a batch weigh differently."""
    save_label(tiny / "masks/a.png", np.full((40, 48), 255, np.uint8))
    flags = [*run["train"], "--model", model, "--accumulate", "2", "--batch_size", "3"]
    flags += ["--freeze_bn", "--iterations", "2", "--session_name"]
    one, two = tmp_path / "1", tmp_path / "2"
    train_seg.main([*flags, str(one)])
    together("train_seg", [*flags, str(two)], 2, tmp_path / "printed.txt")
    close = {"rtol": 2e-5, "atol": 2e-6}
    torch.testing.assert_close(weights_of(two, model), weights_of(one, model), **close)
    torch.testing.assert_close(losses_of(two, model), losses_of(one, model), **close)


GIB = 1 << 30
# By name model, width, free memory of this GPU, of how many of two processes it suffices; passes.
PASSES = {
    "published": (V2, 64, 24 * GIB, 2, 1),
    "a small GPU": (V2, 64, 6 * GIB, 2, 2),
    "a small GPU and a narrow network": (V2, 16, 6 * GIB, 2, 1),
    "another GPU is small": (V2, 64, 24 * GIB, 1, 2),
    "statistics of each part": (V1, 64, 24 * GIB, 2, 2),
}


@pytest.mark.parametrize("case", PASSES)
def test_parts_are_computed_together_where_all_gpus_have_the_memory(case, monkeypatch):
    model, width, free, others, passes = PASSES[case]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 80 * GIB))
    monkeypatch.setattr(distributed, "total", lambda fits: fits * others)
    flags = ["--model", model, "--batch_size", "5", "--accumulate", "2"]
    args, net = train_seg.parse_arguments(flags), SimpleNamespace(config={"width": width})
    assert train_seg.passes_of(args, net, CPU) == 2
    assert train_seg.passes_of(args, net, torch.device("cuda", 0)) == passes


@pytest.mark.parametrize(("processes", "parts"), [(1, (5, 2)), (5, (5, 2)), (6, (10, 1))])
def test_parts_have_a_picture_for_every_process(monkeypatch, processes, parts):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    args = train_seg.parse_arguments([])
    assert (args.batch_size, args.accumulate) == parts
    for given in (["--batch_size", "5"], ["--accumulate", "2"]):  # what is given stays
        args = train_seg.parse_arguments(given)
        assert (args.batch_size, args.accumulate) == (5, 2)


def built(args):
    """The network of ``train_seg.py`` with these settings, of four classes."""
    size = {"width": args.width, "blocks": args.blocks}
    return build(MODELS[args.model].network, 4, args.pretrained, **size)[0]


def test_batch_statistics_of_several_processes_need_gpus(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    args = train_seg.parse_arguments([*run["train"], "--model", V1])
    net = built(args)
    with pytest.raises(InputError, match="--freeze_bn"):
        train_seg.synchronised(args, net, CPU)


# ------------------------------------------------------------------------------ one step


@pytest.mark.parametrize(
    ("model", "device", "passes"), [(V2, "cpu", 2), (V1, "cpu", 2), (V2, "cuda", 1)]
)
def test_an_update_is_the_plain_formula(run, session, model, device, passes, tiny, monkeypatch):
    """Accumulated parts are means over their own known pixels; SGD as written down, in float64.

    A GPU computes the parts of DeepLab v2 together.
    """
    flags = [*run["train"], "--model", model, "--accumulate", "2", "--iterations", "1"]
    flags += ["--lr", "0.01", "--head_lr", "3", "--freeze_bn"]
    real, calls = train_seg.mean_loss, []
    monkeypatch.setattr(train_seg, "mean_loss", lambda *sums: calls.append(sums) or real(*sums))
    with pretend_gpus() if device == "cuda" else nullcontext():
        train_seg.main([*flags, "--device", device])
    assert len(calls) == passes
    updated = weights_of(session, model)

    args = train_seg.parse_arguments(flags)
    torch.manual_seed(args.seed)
    net = built(args)
    train_seg.synchronised(args, net, CPU)
    fields = ("scales", "scale_draw", "resample", "hsv_shift")
    how = replace(MODELS[model].training, **{name: getattr(args, name) for name in fields})
    pictures = SegmentationPictures(Folder(tiny), list(KEYS), 33, 15, tiny / "masks", model, how)
    order = np.random.default_rng([15, 0]).permutation(6)[:4]
    items = [pictures[0, int(index)] for index in order]
    torch.manual_seed(15 << 32)
    terms = []
    for part in (items[:2], items[2:]):
        outputs = net(torch.from_numpy(np.stack([item["window"] for item in part])))
        for logits in outputs if isinstance(outputs, list) else [outputs]:
            h, w = logits.shape[2:]
            logp = logits.double().log_softmax(1)
            known = []
            for number, item in enumerate(part):
                label = Image.fromarray(item["label"]).resize((w, h), Image.Resampling.NEAREST)
                label = np.array(label)
                known += [logp[number, label[y, x], y, x] for y, x in np.argwhere(label != 255)]
            terms.append(-sum(known) / len(known) / 2)
    sum(terms).backward()
    assert len(terms) == {V2: 8, V1: 2}[model]
    names = {p: name for name, p in net.named_parameters()}
    groups = net.trainable_groups(args.lr, args.weight_decay, 3)
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.03, 0.06])
    for group in groups:
        for p in group["params"]:
            gradient = p.grad + group["weight_decay"] * p.detach()
            expected = p.detach() - group["lr"] * gradient
            torch.testing.assert_close(updated[names[p]], expected, rtol=1e-4, atol=1e-6)


def test_iterations_go_through_permutations_and_parts_are_shared(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(Schedule(6, 3, None, 15, parts=2, total=1).rows.tolist())
    assert shares == [[0, 3], [1, 2, 4, 5]]


def test_how_fast_batch_statistics_are_stored_is_a_flag(run, session):
    command = [*run["train"], "--model", V1, "--iterations", "1", "--restart"]
    stored = []
    for flags in ([], ["--bn_momentum", "0.6"]):
        train_seg.main([*command, *flags])
        stored.append(weights_of(session, V1)["bn_fov.running_mean"])
    assert stored[0].any()
    torch.testing.assert_close(stored[1], stored[0] * (0.6 / 3e-4))


@pytest.mark.parametrize("model", MODELS)
def test_logits_are_resized_in_float32_under_autocast(run, model):
    args = train_seg.parse_arguments([*run["train"], "--model", model])
    net = built(args).eval()
    coarse = []
    last = net.cls_conv if model == V1 else net.base
    last.register_forward_hook(lambda module, given, out: coarse.append(out))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = net.predict(torch.randn(1, 3, 41, 33))
    assert (coarse[0].dtype, logits.dtype) == (torch.bfloat16, torch.float32)
    assert len(logits.unique()) > 4 * coarse[0].numel()  # rounded ones would repeat
    assert net.resize(coarse[0].double(), (5, 5)).dtype == torch.float64


# ------------------------------------------------------------------------------ flags


PUBLISHED = {
    V2: {
        "iterations": 20000,
        "batch_size": 5,
        "accumulate": 2,
        "crop_size": 321,
        "lr": 2.5e-4,
        "head_lr": 10,
        "lr_every": 10,
        "lr_past": 0,
        "momentum": 0.9,
        "bn_momentum": None,
        "weight_decay": 5e-4,
        "scales": [0.5, 0.75, 1, 1.25, 1.5],
        "scale_draw": "choice",
        "resample": "bilinear",
        "hsv_shift": 0,
    },
    V1: {
        "iterations": 20000,
        "batch_size": 10,
        "accumulate": 1,
        "crop_size": 448,
        "lr": 1e-3,
        "head_lr": 10,
        "lr_every": 1,
        "lr_past": 1,
        "momentum": 0.9,
        "bn_momentum": 3e-4,
        "weight_decay": 5e-4,
        "scales": [0.5, 1.5],
        "scale_draw": "uniform",
        "resample": "bicubic",
        "hsv_shift": 10,
    },
}
PUBLISHED_TEST = {
    V2: {"scales": [1], "mirror": False, "crf": True, "crf_iterations": 10, "bilateral_sxy": 67},
    V1: {"mirror": True, "crf": True, "crf_iterations": 1, "bilateral_srgb": 13},
}


@pytest.mark.parametrize("model", MODELS)
def test_presets_are_the_published_recipes(model):
    """A flag that is given goes before its recipe."""
    args = vars(train_seg.parse_arguments(["--model", model, "--seed", "3"]))
    assert args | PUBLISHED[model] | {"seed": 3} == args
    args = vars(infer_seg.parse_arguments(["--model", model, "--gaussian_sxy", "5"]))
    assert args | PUBLISHED_TEST[model] | {"gaussian_sxy": 5} == args


# ------------------------------------------------------------------------------ inference


@pytest.mark.parametrize(
    ("model", "width", "colours"), [(V2, "4", "mean_subtracted"), (V1, "1", "original")]
)
def test_label_is_that_of_the_library(run, session, model, width, colours, tiny):
    """infer_seg adds nothing to scales, mirror, mean, softmax, CRF and argmax."""
    train_seg.main([*run["train"], "--model", model, "--width", width])
    kernels = Kernels(2.0, 1.0, 9.0, 7.0, 2.0)
    flags = [*run["infer"], "--model", model, "--mirror", "--scales", "1", "1.5"]
    settings = [f"--{name}={value:g}" for name, value in kernels._asdict().items()]
    infer_seg.main([*flags, "--crf_iterations=2", "--crf", "--crf_picture", colours, *settings])
    label = read_mask(session / f"seg_{model}/d.png")
    net = restore(MODELS[model].network, checkpoint.load(final_of(session, model)))
    picture = np.array(Image.open(tiny / "images/d.png").convert("RGB"))
    logits = []
    for scale in (1.0, 1.5):
        x = torch.from_numpy(VIEWS[model](picture, scale))[None]
        with torch.no_grad():
            for turned in (False, True):
                out = net(x.flip(3) if turned else x)
                size = picture.shape[:2]
                out = F.interpolate(out, size, mode="bilinear", align_corners=model == V1)
                logits.append(out.flip(3) if turned else out)
    probabilities = torch.stack(logits).mean(0)[0].softmax(0)
    compared = inference.crf_picture(picture, colours)
    expected = crf_inference(compared, probabilities, 2, kernels).argmax(0).numpy()
    assert (label == expected).mean() > 0.999
    assert len(np.unique(expected)) > 1
    infer_seg.main([*flags, "--restart"])
    label = read_mask(session / f"seg_{model}/d.png")
    assert (label == probabilities.argmax(0).numpy()).mean() > 0.999
    assert (label != expected).any()


def test_classes_that_a_classifier_does_not_see_are_left_out(trained, session, tiny, weights):
    classifier = Net(4, weights).eval()
    path = session / "ckpt/final.pth"
    checkpoint.save(path, {"net": classifier.state_dict()})
    infer_seg.main(trained["infer"])
    folder = session / f"seg_{V2}"
    everything = {i: read_mask(folder / f"{i}.png") for i in KEYS}
    net = inference.load_network(MODELS[V2].network, checkpoint.load(final_of(session)), True)
    classifier.double()
    mean, std = (np.array(x) for x in (classifier.mean, classifier.std))
    pictures = {i: np.array(Image.open(tiny / f"images/{i}.png").convert("RGB")) for i in KEYS}
    shares, unturned = {}, {}
    for image_id, picture in pictures.items():
        img = torch.from_numpy(((picture / 255 - mean) / std).transpose(2, 0, 1))[None]
        with torch.no_grad():
            scores = [classifier.scores(x)[0] for x in (img, img.flip(3))]
        unturned[image_id] = scores[0].sigmoid().numpy()
        shares[image_id] = (sum(scores) / 2).sigmoid().numpy()
    # The mirror image decides about a class.
    image_id = max(KEYS, key=lambda i: (unturned[i] - shares[i]).max())
    k = (unturned[image_id] - shares[image_id]).argmax()
    threshold = (unturned[image_id][k] + shares[image_id][k]) / 2
    flags = [*trained["infer"], "--classifier", "final.pth", "--threshold", str(threshold)]
    infer_seg.main([*flags, "--restart"])
    how = replace(MODELS[V2].test, scales=[1.0])
    for image_id, picture in pictures.items():
        with torch.no_grad():
            logits = inference.mean_logits(net, [picture], VIEWS[V2], how)[0].numpy()
        logits[1:][shares[image_id] < threshold] = -np.inf
        label = read_mask(folder / f"{image_id}.png")
        assert (label == logits.argmax(0)).mean() > 0.999
    assert any((read_mask(folder / f"{i}.png") != everything[i]).any() for i in KEYS)
    checkpoint.save(path, {"net": classifier.float().state_dict(), "class_names": list("abcd")})
    with pytest.raises(InputError, match=r"final\.pth.*--dataset"):
        infer_seg.main(flags)


def test_picture_of_the_crf():
    picture = np.array([[[122, 0, 255], [123, 117, 105], [124, 200, 103]]], np.uint8)
    # -0.675 and 0.325 become 0; -116.669 becomes -116, which is 140; -1.008 becomes -1.
    expected = [[[0, 140, 150], [0, 0, 0], [1, 83, 255]]]
    assert inference.crf_picture(picture, "mean_subtracted").tolist() == expected
    assert inference.crf_picture(picture, "original") is picture


@pytest.mark.parametrize("model", MODELS)
def test_classes_that_are_nowhere_likely_do_not_change_the_crf(model, monkeypatch):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    picture = np.array(smooth.resize((48, 40), Image.Resampling.BICUBIC))
    few = F.interpolate(torch.from_numpy(rng.normal(0, 3, (1, 3, 5, 6))).float(), (40, 48))[0]
    logits = torch.from_numpy(rng.normal(-12, 0.5, (21, 40, 48))).float()
    logits[[0, 7, 15]] = few
    logits[3] = few.amax(0) - 5  # which has 0.7 % at the most
    probabilities = logits.softmax(0)
    args = infer_seg.parse_arguments(["--model", model])
    refined = inference.refine(picture, probabilities, args)
    assert refined.flatten(1).any(1).sum() == 4
    monkeypatch.setattr(inference, "ABSENT", -1)
    whole = inference.refine(picture, probabilities, args)
    assert torch.equal(refined.argmax(0), whole.argmax(0))
    assert (refined - whole).abs().max() < 1e-3
    assert not torch.equal(refined.argmax(0), probabilities.argmax(0))


def test_large_pictures_are_reduced_and_their_labels_enlarged(trained, session, tiny, monkeypatch):
    """A picture of many pixels takes the memory of one of --max_pixels; one of one pixel passes."""
    Image.new("RGB", (1, 1)).save(tiny / "images/a.png")
    Image.open(tiny / "images/d.png").resize((480, 430)).save(tiny / "images/d.png")
    sizes, net = [], MODELS[V2].network
    real = net.predict

    def seen(self, x, size):
        sizes.append(size)
        return real(self, x, size)

    monkeypatch.setattr(net, "predict", seen)
    infer_seg.main([*trained["infer"], "--max_pixels", "2500", "--crf", "--visualize"])
    assert max(h * w for h, w in sizes) < 2600
    assert read_mask(session / f"seg_{V2}/a.png").shape == (1, 1)
    assert read_mask(session / f"seg_{V2}/d.png").shape == (430, 480)
    assert Image.open(session / f"visual_seg_{V2}/d.png").width == 480
    assert "1 pictures of more than 2500 pixels were reduced" in (session / "run.log").read_text()


def test_enlarged_argmax_is_the_argmax_of_the_enlarged():
    scores = torch.randn(5, 7, 9)
    scores[3] = scores[1]  # ties
    for size in ((31, 20), (7, 9), (1, 1)):
        expected = F.interpolate(scores[None], size, mode="bilinear")[0].argmax(0)
        assert torch.equal(inference.enlarged_argmax(scores, size), expected)


def test_checkpoint_of_other_classes_or_model(trained, session, tiny):
    """Weights of other projects may be called model, and have no names of classes."""
    final = final_of(session)
    with pytest.raises(InputError, match=f"--model {V2}"):
        infer_seg.main([*trained["infer"], "--model", V1, "--ckpt", str(final)])
    (tiny / "classes.txt").write_text("red\ngreen\npink\n")
    with pytest.raises(InputError, match=r"\.pth.*pink.*--dataset"):
        infer_seg.main(trained["infer"])
    checkpoint.save(final, {"model": weights_of(session)})
    infer_seg.main(trained["infer"])
    (tiny / "classes.txt").write_text("red\ngreen\nblue\npink\n")
    with pytest.raises(InputError, match=r"\.pth.* \(5,\)"):
        infer_seg.main(trained["infer"])


# ------------------------------------------------------------------------------ archive


def test_archive_has_the_servers_layout(trained, session, tiny, tmp_path):
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
    assert packed[f"{folder}/b.png"] == (session / f"seg_{V2}/b.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "voc.zip") as archive:
        assert archive.namelist() == [name.replace("comp6", "comp5") for name in packed]
    with pytest.raises(SystemExit):
        infer_seg.main([*flags, "--archive", "voc.rar"])


# ------------------------------------------------------------------------------ bad input


def test_labels_that_do_not_fit_are_named(run, tiny):
    label = tiny / "masks/e.png"
    save_label(label, np.full((44, 48), 4, np.uint8))
    with pytest.raises(InputError, match=r"e\.png does not fit"):
        train_seg.main(run["train"])
    label.unlink()
    with pytest.raises(InputError, match=r"e\.png.*make_seg_labels"):
        train_seg.main(run["train"])


@pytest.mark.parametrize(
    ("model", "flags", "named"),
    [
        (V2, ["--accumulate", "4"], "--accumulate"),
        (V1, ["--stride_on", "reduce"], "--stride_on"),
        (V1, ["--recipe", "short"], "--recipe"),
        (V2, ["--bn_momentum", "0.1"], "--bn_momentum"),
    ],
)
def test_flags_that_do_not_fit_are_named(run, model, flags, named):
    with pytest.raises(InputError, match=named):
        train_seg.main([*run["train"], "--model", model, *flags])


def test_nan_loss_stops(run, session, monkeypatch):
    real, calls = train_seg.mean_loss, []

    def poisoned(sums, counts):
        calls.append(0)
        return real(sums, counts) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(train_seg, "mean_loss", poisoned)
    with pytest.raises(InputError, match=r"^CE .* at step 1\b.*--lr"):
        train_seg.main([*run["train"], "--save_freq", "1"])
    assert checkpoint.load(session / f"ckpt/seg_{V2}_last.pth")["step"] == 1


def test_the_short_recipe_starts_from_the_classifier_of_the_session(run, session, tiny, weights):
    """Every number of it is a flag."""
    classifier = Net(4, weights)
    checkpoint.save(session / "ckpt/final.pth", {"net": classifier.state_dict()})
    small = ["--crop_size", "33", "--batch_size", "2", "--iterations", "2", "--print_freq", "1"]
    flags = [*run["eval"], "--label_dir", str(tiny / "masks"), "--recipe", "short"]
    train_seg.main([*flags, *small])
    trained = checkpoint.load(final_of(session))
    assert (trained["config"]["width"], trained["config"]["stride"]) == (4, 16)
    assert trained["record"] == {"fresh": "nothing"}
    recipe = vars(MODELS[V2].short)
    assert {n: getattr(train_seg.parse_arguments(flags), n) for n in recipe} == recipe
    given = train_seg.parse_arguments([*flags, "--pretrained", "none", "--lr", "1"])
    assert (given.pretrained, given.lr, given.optimizer) == ("none", 1, "adamw")
